//! What the edge proxy serves, from files with all that they name.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use director_core::{
    breaker::BreakerPolicy,
    l7::{
        AccessLog, Action, AdaptiveConcurrency, Affinity, Answer, CachePolicy, CertificateFiles,
        ClientAuth, Forward, Forwarded, HeaderEdits, HeaderMatch, HttpLimits, L7, Listener,
        Matches, Network, Passive, PathMatch, ProxyProtocol, Rate, Redirect, Retry, Rewrite, Route,
        RouteBreaker, SealKey, Tls, Upstream, UpstreamProtocol, UpstreamTls, ValueMatch,
    },
    model::Mode,
};

use super::{
    super::{ConfigErrors, Loaded, load},
    BASE, HTTP, loaded, refused,
    written::written,
};

const HTTP_FULL: &str = include_str!("cases/http_full.toml");

/// Loads a file from a directory that has what `HTTP_FULL` names.
fn load_beside(text: &str, key: &[u8], mode: u32) -> (Result<Loaded, ConfigErrors>, L7) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("director.toml"), text).unwrap();
    fs::write(path("seal.key"), key).unwrap();
    fs::set_permissions(path("seal.key"), fs::Permissions::from_mode(mode)).unwrap();
    for name in ["shop.pem", "shop.key", "closed.html"] {
        fs::write(path(name), name).unwrap();
    }
    (load(&path("director.toml")), full(directory.path()))
}

fn full(directory: &Path) -> L7 {
    let path = |name: &str| directory.join(name);
    let files = || CertificateFiles {
        certificate: path("shop.pem"),
        key: path("shop.key"),
    };
    L7 {
        listeners: vec![Listener {
            service: "shop".into(),
            address: [203, 0, 113, 20].into(),
            port: 443,
            tls: Some(Tls {
                certificates: vec![files()],
                tls12: false,
                client_auth: Some(ClientAuth {
                    ca: path("shop.pem"),
                    required: false,
                }),
            }),
            http2: false,
            proxy_protocol_from: vec![network("192.0.2.0", 24)],
            trusted: vec![network("198.51.100.1", 32), network("2001:db8::", 32)],
            forwarded: Forwarded::Both,
            request_id: Some("x-id".into()),
            traceparent: false,
            limits: HttpLimits {
                connections: 1000,
                connections_per_client: Some(10),
                header_bytes: 16 * 1024,
                headers: 50,
                body_bytes: Some(1024 * 1024),
                header_timeout: seconds(5),
                body_timeout: seconds(6),
                idle_timeout: seconds(7),
                streams: 8,
                resets: 9,
                rate: Some(Rate {
                    per_second: 10,
                    burst: 10,
                }),
            },
            routes: routes(),
        }],
        upstreams: vec![Upstream {
            service: "api".into(),
            protocol: UpstreamProtocol::Http2,
            tls: Some(UpstreamTls {
                server_name: Some("api.internal".into()),
                ca: Some(path("shop.pem")),
                client: Some(files()),
            }),
            connect_timeout: seconds(2),
            idle_timeout: seconds(30),
            connections: Some(100),
            proxy_protocol: Some(ProxyProtocol::V2),
        }],
        access_log: Some(AccessLog {
            path: path("access.json"),
            one_in: 100,
        }),
        cache_bytes: 64 * 1024 * 1024,
        threads: Some(2),
        drain_limit: seconds(10),
        seal_key: Some(SealKey([7; 32])),
        passive: Passive::Decide,
    }
}

fn network(address: &str, bits: u8) -> Network {
    let address = address.parse().unwrap();
    Network { address, bits }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn routes() -> Vec<Route> {
    let route = |name: &str, path, action| Route {
        name: name.into(),
        matches: Matches {
            path,
            ..Matches::default()
        },
        action,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        tier: 1,
        rate: None,
    };
    let redirect = Redirect {
        status: 307,
        scheme: Some("https".into()),
        host: Some("new.example.org".into()),
        port: Some(8443),
        path: Some(Rewrite::Path("/new".into())),
    };
    let by_version = Forward {
        rewrite: Some(Rewrite::Regex {
            pattern: "^/v[0-9]+/(.*)".into(),
            to: "/$1".into(),
        }),
        affinity: Affinity::Mcp,
        ..default_forward()
    };
    let closed = Answer {
        status: 200,
        content_type: "text/plain; charset=utf-8".into(),
        body: (*b"closed.html").into(),
    };
    vec![
        api(),
        route(
            "route-2",
            Some(PathMatch::Exact("/old".into())),
            Action::Redirect(redirect),
        ),
        route(
            "route-3",
            Some(PathMatch::Regex("/v[0-9]+/.*".into())),
            Action::Forward(Box::new(by_version)),
        ),
        route("route-4", None, Action::Answer(closed)),
    ]
}

/// To the pool `api`, and nothing else said.
fn default_forward() -> Forward {
    Forward {
        pool: "api".into(),
        rewrite: None,
        host: None,
        affinity: Affinity::None,
        retry: Retry::default(),
        timeout: None,
        stream_idle: seconds(600),
        hedge_after: None,
        breaker: RouteBreaker {
            site: BreakerPolicy {
                consecutive_failures: 0,
                minimum_volume: 50,
                ..BreakerPolicy::default()
            },
            endpoint: BreakerPolicy::default(),
            max_ejection_percent: 50,
            pending: 0,
        },
        adaptive: None,
        cache: None,
        fallback: None,
        retry_after: seconds(5),
    }
}

fn api() -> Route {
    let header = |name: &str, value| HeaderMatch {
        name: name.into(),
        value,
    };
    let forward = Forward {
        rewrite: Some(Rewrite::Prefix("/v2".into())),
        host: Some("internal.example.org:8443".into()),
        affinity: Affinity::Cookie {
            name: "stay".into(),
            max_age: Some(seconds(3600)),
        },
        retry: Retry {
            retries: 1,
            statuses: vec![503],
            methods: vec!["POST".into()],
            per_try: Some(seconds(2)),
            budget_percent: 10,
            budget_floor: 1,
        },
        timeout: Some(seconds(30)),
        stream_idle: seconds(60),
        hedge_after: Some(Duration::from_millis(200)),
        breaker: RouteBreaker {
            site: BreakerPolicy {
                consecutive_failures: 0,
                minimum_volume: 50,
                failure_percent: 60,
                ..BreakerPolicy::default()
            },
            endpoint: BreakerPolicy {
                consecutive_failures: 3,
                window: seconds(5),
                minimum_volume: 10,
                failure_percent: 101,
                slow: Some(seconds(1)),
                open_for: seconds(2),
                longest_open: seconds(20),
                forget_after: seconds(40),
                probes: 2,
                probes_to_close: 3,
                concurrency: Some(100),
            },
            max_ejection_percent: 30,
            pending: 5,
        },
        adaptive: Some(AdaptiveConcurrency {
            minimum: 5,
            maximum: 500,
        }),
        cache: Some(CachePolicy {
            stale_if_error: seconds(7200),
            body_bytes: 2 * 1024 * 1024,
        }),
        fallback: Some(Answer {
            status: 502,
            content_type: "text/html".into(),
            body: (*b"sorry").into(),
        }),
        retry_after: seconds(7),
        ..default_forward()
    };
    Route {
        name: "api".into(),
        matches: Matches {
            hosts: vec!["shop.example.org".into(), "*.shop.example.org".into()],
            path: Some(PathMatch::Prefix("/api".into())),
            methods: vec!["GET".into(), "POST".into()],
            headers: vec![
                header("x-canary", ValueMatch::Exact("1".into())),
                header("x-b", ValueMatch::Regex("a.*".into())),
                header("x-c", ValueMatch::Present),
                header("x-d", ValueMatch::Absent),
                header(
                    "mcp-method",
                    ValueMatch::Regex("tools/call|tools/list".into()),
                ),
            ],
        },
        action: Action::Forward(Box::new(forward)),
        request_headers: HeaderEdits {
            remove: vec!["x-c".into()],
            set: vec![("x-a".into(), "1".into())],
            add: vec![("x-b".into(), "2".into())],
        },
        response_headers: HeaderEdits {
            remove: vec!["server".into()],
            ..HeaderEdits::default()
        },
        tier: 2,
        rate: Some(Rate {
            per_second: 10,
            burst: 20,
        }),
    }
}

#[test]
fn every_key_is_taken_up() {
    let (loaded, expected) = load_beside(HTTP_FULL, &[7; 32], 0o600);
    let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.l7, expected);
    let services = loaded.config.model.services.iter();
    let services = services.map(|it| (&*it.name, it.mode, it.port, it.endpoints.len()));
    assert_eq!(
        services.collect::<Vec<_>>(),
        [("shop", Mode::Proxy, 443, 0), ("api", Mode::Pool, 0, 1)]
    );
}

#[test]
fn what_is_served_is_written_and_loaded_again() {
    let example = include_str!("../../../examples/director.toml");
    for text in [HTTP, example] {
        let config = loaded(text).config;
        assert_eq!(loaded(&written(&config)).config, config);
    }

    // What is sealed needs the file of the key; certificates are not read again.
    let text = HTTP_FULL
        .replace("shop.pem", "Cargo.toml")
        .replace("shop.key", "Cargo.toml")
        .replace("closed.html", "src/config/tests/cases/http_full.toml")
        .replace("seal_key_file = \"seal.key\"\n", "");
    let is_sealed = |line: &&str| !line.starts_with("affinity");
    let lines: Vec<_> = text.lines().filter(is_sealed).collect();
    let config = loaded(&lines.join("\n")).config;
    assert_eq!(loaded(&written(&config)).config, config);
}

#[test]
fn little_said_is_what_the_manual_says() {
    let text = BASE.to_owned()
        + r#"
        [[service]]
        name = "shop"
        vip = "203.0.113.20"
        port = 8080
        protocol = "tcp"
        mode = "proxy"
        [service.http]
        [[service.endpoint]]
        name = "a"
        site = "dc01"
        address = "2001:db8::11"
    "#;
    let l7 = loaded(&text).config.l7;
    let upstream = |service: &str| Upstream {
        service: service.into(),
        protocol: UpstreamProtocol::Http1,
        tls: None,
        connect_timeout: seconds(1),
        idle_timeout: seconds(60),
        connections: None,
        proxy_protocol: None,
    };
    let forward = Forward {
        pool: "shop".into(),
        ..default_forward()
    };
    let expected = L7 {
        listeners: vec![Listener {
            service: "shop".into(),
            address: [203, 0, 113, 20].into(),
            port: 8080,
            tls: None,
            http2: true,
            proxy_protocol_from: vec![],
            trusted: vec![],
            forwarded: Forwarded::XForwarded,
            request_id: Some("x-request-id".into()),
            traceparent: true,
            limits: HttpLimits::default(),
            routes: vec![Route {
                name: "default".into(),
                matches: Matches::default(),
                action: Action::Forward(Box::new(forward)),
                request_headers: HeaderEdits::default(),
                response_headers: HeaderEdits::default(),
                tier: 1,
                rate: None,
            }],
        }],
        upstreams: vec![upstream("web"), upstream("shop")],
        ..L7::default()
    };
    assert_eq!(l7, expected);
}

#[test]
fn what_would_take_long_is_refused() {
    let methods: Vec<_> = (0..1000).map(|it| format!("\"tools/{it}\"")).collect();
    let list = format!("mcp_methods = [{}]\npool = \"api\"", methods.join(", "));
    let routes = "[[service.route]]\n".repeat(1000) + "[[service.route]]\nname = \"old\"";
    let old = "[[service.route]]\nname = \"old\"";
    for (text, key, message) in [
        (
            HTTP.replace("pool = \"api\"", &list),
            "service[0].route[0].mcp_methods",
            "has too many methods to look for at once",
        ),
        (
            HTTP.replace(old, &routes),
            "service[0].route[1000]",
            "is one of 1004 routes of the service, and 1000 is the limit",
        ),
    ] {
        let problems = refused(&text);
        let [problem] = &problems[..] else {
            panic!("{problems:?}");
        };
        assert_eq!((&*problem.key, &*problem.message), (key, message));
    }
}

#[test]
fn a_key_may_be_written_in_digits() {
    let digits = "0aF1".repeat(16) + "\n";
    let (loaded, _) = load_beside(HTTP_FULL, digits.as_bytes(), 0o600);
    let mut key = [0x0a; 32];
    key.iter_mut().skip(1).step_by(2).for_each(|it| *it = 0xf1);
    assert_eq!(loaded.unwrap().config.l7.seal_key, Some(SealKey(key)));
}

#[test]
fn a_key_of_another_length_is_refused() {
    for key in [&[7; 31][..], &[7; 33], b"", &[b'a'; 63], &[b'g'; 64]] {
        let errors = load_beside(HTTP_FULL, key, 0o600).0.unwrap_err();
        let [problem] = errors.problems() else {
            panic!("{errors}");
        };
        assert_eq!(
            (problem.line, &*problem.key),
            (9, "edge.http.seal_key_file")
        );
        let wanted = format!("has {} bytes, and a key is 32 bytes", key.len());
        assert!(problem.message.contains(&wanted), "{problem:?}");
    }
}

#[test]
fn a_key_that_all_can_read_is_warned_of() {
    let loaded = load_beside(HTTP_FULL, &[7; 32], 0o644).0.unwrap();
    let [warning] = &loaded.warnings[..] else {
        panic!("{:?}", loaded.warnings);
    };
    assert_eq!(
        (warning.line, &*warning.key),
        (9, "edge.http.seal_key_file")
    );
    assert!(
        warning
            .message
            .ends_with("is open to every user of this host (mode 644)")
    );
    assert!(!format!("{loaded:?}").contains("7, 7"), "the key is shown");
}
