#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::l7::model::{Answer, HeaderEdits, Redirect};

#[derive(Default)]
struct Request<'a> {
    host: &'a str,
    path: &'a str,
    method: &'a str,
    headers: &'a [(&'a str, &'a [u8])],
}

impl RequestView for Request<'_> {
    fn host(&self) -> &str {
        self.host
    }

    fn path(&self) -> &str {
        self.path
    }

    fn method(&self) -> &str {
        self.method
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(own, _)| *own == name);
        found.map(|(_, value)| *value)
    }
}

fn route(matches: Matches) -> Route {
    Route {
        name: "r".into(),
        matches,
        action: Action::Answer(Answer {
            status: 200,
            content_type: "text/plain".into(),
            body: Arc::from(*b""),
        }),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        tier: 1,
        rate: None,
    }
}

fn hosts(hosts: &[&str]) -> Route {
    route(Matches {
        hosts: hosts.iter().map(|&host| host.into()).collect(),
        ..Matches::default()
    })
}

fn path(path: PathMatch) -> Route {
    route(Matches {
        path: Some(path),
        ..Matches::default()
    })
}

fn found(router: &Router, host: &str, path: &str) -> Option<usize> {
    router.find(&Request {
        host,
        path,
        method: "GET",
        ..Request::default()
    })
}

#[test]
fn the_first_route_that_matches_serves() {
    let router = Router::new(&[
        hosts(&["a.example.org"]),
        hosts(&["*.example.org"]),
        hosts(&["b.example.org", "example.org"]),
        hosts(&[]),
        hosts(&["late.test"]),
    ])
    .unwrap();
    for (host, expected) in [
        ("a.example.org", 0),
        ("A.Example.ORG", 0),
        ("a.example.org.", 0),
        ("b.example.org", 1),
        ("x.a.example.org", 1),
        ("example.org", 2),
        ("badexample.org", 3),
        (".example.org", 3),
        ("late.test", 3),
        ("", 3),
        ("[2001:db8::1]", 3),
    ] {
        assert_eq!(found(&router, host, "/"), Some(expected), "{host}");
    }
}

#[test]
fn a_host_is_not_served_by_what_names_another() {
    let router = Router::new(&[hosts(&["*.a.test"]), hosts(&["*.b.a.test", "c.test"])]).unwrap();
    assert_eq!(found(&router, "x.b.a.test", "/"), Some(0));
    assert_eq!(found(&router, "c.test", "/"), Some(1));
    assert_eq!(found(&router, "a.test", "/"), None);
    assert_eq!(found(&router, "d.test", "/"), None);
}

#[test]
fn paths_match_whole_by_segment_or_by_pattern() {
    let cases: [(PathMatch, &[&str], &[&str]); 8] = [
        (PathMatch::Exact("/a".into()), &["/a"], &["/a/", "/A", "/"]),
        (
            PathMatch::Prefix("/api".into()),
            &["/api", "/api/", "/api/x"],
            &["/apix", "/ap", "/x/api"],
        ),
        (
            PathMatch::Prefix("/api/".into()),
            &["/api/", "/api/x"],
            &["/api", "/apix"],
        ),
        (PathMatch::Prefix("/".into()), &["/", "/x"], &["*"]),
        (
            PathMatch::Regex("/a|/ab".into()),
            &["/a", "/ab"],
            &["/abc", "x/a", "/a\n"],
        ),
        (
            PathMatch::Regex("(?x) /a [0-9]+ # number".into()),
            &["/a1"],
            &["/a", "/a1x"],
        ),
        (PathMatch::Regex("(?m)^/a$".into()), &["/a"], &["/a\n/b"]),
        (PathMatch::Regex("(?i)/a".into()), &["/A"], &["/A/"]),
    ];
    for (matches, hits, misses) in cases {
        let router = Router::new(&[path(matches.clone())]).unwrap();
        for hit in hits {
            assert_eq!(found(&router, "h", hit), Some(0), "{matches:?} has {hit:?}");
        }
        for miss in misses {
            assert_eq!(
                found(&router, "h", miss),
                None,
                "{matches:?} has not {miss:?}"
            );
        }
    }
}

#[test]
fn methods_are_case_sensitive_and_all_headers_must_match() {
    let header = |name: &str, value| HeaderMatch {
        name: name.into(),
        value,
    };
    let router = Router::new(&[route(Matches {
        methods: vec!["POST".into(), "PUT".into()],
        headers: vec![
            header("x-canary", ValueMatch::Regex("v[0-9]+".into())),
            header("x-tenant", ValueMatch::Exact("one".into())),
            header("x-any", ValueMatch::Present),
            header("x-none", ValueMatch::Absent),
        ],
        ..Matches::default()
    })])
    .unwrap();
    let all: [(&str, &[u8]); 3] = [("x-canary", b"v12"), ("x-tenant", b"one"), ("x-any", b"")];
    let find = |method, headers: &[(&str, &[u8])]| {
        router.find(&Request {
            path: "/",
            method,
            headers,
            ..Request::default()
        })
    };
    assert_eq!(find("PUT", &all), Some(0));
    assert_eq!(find("put", &all), None);
    assert_eq!(find("GET", &all), None);
    for lacks in 0..3 {
        let mut some = all.to_vec();
        some.remove(lacks);
        assert_eq!(find("PUT", &some), None);
    }
    for other in [("x-canary", &b"v12\xff"[..]), ("x-tenant", b"One")] {
        let mut some = all.to_vec();
        some.insert(0, other);
        assert_eq!(find("PUT", &some), None, "{other:?}");
    }
    let mut more = all.to_vec();
    more.push(("x-none", b"1"));
    assert_eq!(find("PUT", &more), None);
}

#[test]
fn what_is_not_valid_is_named() {
    let error = Router::new(&[hosts(&[]), path(PathMatch::Regex("/(".into()))]).unwrap_err();
    let said = error.to_string();
    assert!(
        said.starts_with("route r: the pattern \"/(\" of the path is not valid: "),
        "{said}"
    );
    // Valid only because of what it is put between.
    assert!(Router::new(&[path(PathMatch::Regex("/a)|(?:/b".into()))]).is_err());

    let with = |rewrite| Route {
        action: Action::Redirect(Redirect {
            status: 301,
            scheme: None,
            host: None,
            port: None,
            path: Some(rewrite),
        }),
        ..hosts(&[])
    };
    let error = Router::new(&[with(Rewrite::Prefix("/x".into()))]).unwrap_err();
    assert!(
        error.to_string().contains("match the path by a prefix"),
        "{error}"
    );
    let router = Router::new(&[with(Rewrite::Path("/x".into()))]).unwrap();
    assert_eq!(router.rewrite(0).unwrap().apply("/a?b"), "/x?b");
    assert!(Router::new(&[hosts(&[])]).unwrap().rewrite(0).is_none());
}

/// What a rewrite makes of a path, of a route with this prefix.
fn rewritten(rewrite: &Rewrite, prefix: Option<&str>, path: &str) -> String {
    CompiledRewrite::new(rewrite, prefix)
        .unwrap()
        .apply(path)
        .into_owned()
}

#[test]
fn a_rewritten_path_keeps_its_query_and_is_a_path() {
    let whole = Rewrite::Path("/new".into());
    assert_eq!(rewritten(&whole, None, "/old/x?q=/old"), "/new?q=/old");
    assert_eq!(rewritten(&whole, None, "*"), "*");
    for (prefix, to, path, expected) in [
        ("/api", "/v2", "/api/x?q=1", "/v2/x?q=1"),
        ("/api", "/v2", "/api", "/v2"),
        ("/api", "/v2", "/apix", "/apix"),
        ("/api", "/", "/api/x", "/x"),
        ("/api", "/", "/api", "/"),
        ("/api", "", "/api?q", "/?q"),
        ("/api", "", "/api/x", "/x"),
        ("/api/", "/v2", "/api/x", "/v2/x"),
        ("/api/", "/v2/", "/api/", "/v2/"),
        ("/", "/v2", "/x", "/v2/x"),
        ("/", "/v2", "/", "/v2"),
    ] {
        let made = rewritten(&Rewrite::Prefix(to.into()), Some(prefix), path);
        assert_eq!(made, expected, "{prefix} to {to} in {path}");
    }
}

#[test]
fn patterns_rewrite_every_match_of_the_path_alone() {
    let regex = |pattern: &str, to: &str| Rewrite::Regex {
        pattern: pattern.into(),
        to: to.into(),
    };
    let swap = regex("/(a+)/(?<rest>.*)", "/${rest}/$1");
    assert_eq!(rewritten(&swap, None, "/aa/x?/aa/x"), "/x/aa?/aa/x");
    assert_eq!(rewritten(&regex("-", ""), None, "/-a-b"), "/ab");
    assert_eq!(rewritten(&regex("^/", ""), None, "/a?b"), "/a?b");
    assert_eq!(rewritten(&regex("^.*$", ""), None, "/a?b"), "/?b");
    assert_eq!(rewritten(&regex("a", "$$1"), None, "/a"), "/$1");
    let compiled = CompiledRewrite::new(&swap, None).unwrap();
    assert!(matches!(compiled.apply("/b?c"), Cow::Borrowed("/b?c")));
    for (to, group) in [("/$1x", "1x"), ("/$3", "3"), ("${none}", "none")] {
        let error = CompiledRewrite::new(&regex("/(a)(b)", to), None).unwrap_err();
        assert!(error.to_string().contains(&format!("{group:?}")), "{error}");
    }
}

/// The index is only a shortcut: it finds what a search through all would.
#[test]
fn the_index_agrees_with_a_search_through_all_routes() {
    for seed in 0..2_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut name = || {
            let labels: Vec<_> = (0..random.usize(1..4))
                .map(|_| *random.choice(&["a", "b", "c"]).unwrap())
                .collect();
            labels.join(".")
        };
        let names: Vec<String> = (0..20).map(|_| name()).collect();
        let routes: Vec<Route> = (0..random.usize(1..12))
            .map(|_| {
                let own: Vec<String> = (0..random.usize(0..3))
                    .map(|_| {
                        let name = random.choice(&names).unwrap();
                        if random.bool() {
                            format!("*.{name}")
                        } else {
                            name.clone()
                        }
                    })
                    .collect();
                let mut route = hosts(&own.iter().map(String::as_str).collect::<Vec<_>>());
                let path = random.choice(&["/", "/a", "/b"]).unwrap();
                route.matches.path = Some(PathMatch::Prefix((*path).into()));
                route
            })
            .collect();
        let router = Router::new(&routes).unwrap();
        for host in &names {
            for path in ["/", "/a", "/b/c"] {
                let expected = routes.iter().position(|route| {
                    let Matches {
                        hosts,
                        path: prefix,
                        ..
                    } = &route.matches;
                    let Some(PathMatch::Prefix(prefix)) = prefix else {
                        unreachable!()
                    };
                    let is_host = hosts.is_empty()
                        || hosts.iter().any(|own| match own.strip_prefix('*') {
                            Some(end) => host.ends_with(end),
                            None => **own == **host,
                        });
                    is_host && (&**prefix == "/" || path.starts_with(&**prefix))
                });
                assert_eq!(
                    found(&router, host, path),
                    expected,
                    "seed {seed}: {host}{path}"
                );
            }
        }
    }
}
