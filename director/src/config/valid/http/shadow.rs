//! Whether a route can ever match, where earlier ones are tried first.

use director_core::l7::{HeaderMatch, Matches, PathMatch, ValueMatch};

/// Whether every request that `later` matches is one that `earlier` matches. May
/// say no where it is so: of patterns, only the same text is known to match the
/// same.
pub(super) fn covers(earlier: &Matches, later: &Matches) -> bool {
    hosts(&earlier.hosts, &later.hosts)
        && path(earlier.path.as_ref(), later.path.as_ref())
        && methods(&earlier.methods, &later.methods)
        && earlier
            .headers
            .iter()
            .all(|header| implied(header, &later.headers))
}

fn hosts(earlier: &[Box<str>], later: &[Box<str>]) -> bool {
    let is_covered = |host: &str| earlier.iter().any(|pattern| host_covers(pattern, host));
    earlier.is_empty() || (!later.is_empty() && later.iter().all(|host| is_covered(host)))
}

/// Whether a host, or a pattern of hosts, is among those of a pattern.
fn host_covers(pattern: &str, host: &str) -> bool {
    if pattern == host {
        return true;
    }
    // `*.a.example.org` is below `*.example.org`, and so is `a.example.org`.
    let (Some(parent), host) = (
        pattern.strip_prefix('*'),
        host.strip_prefix('*').unwrap_or(host),
    ) else {
        return false;
    };
    host.len() > parent.len() && host.ends_with(parent)
}

fn path(earlier: Option<&PathMatch>, later: Option<&PathMatch>) -> bool {
    let Some(earlier) = earlier else { return true };
    match (earlier, later) {
        (PathMatch::Prefix(prefix), _) if &**prefix == "/" => true,
        (PathMatch::Prefix(prefix), Some(PathMatch::Prefix(path) | PathMatch::Exact(path))) => {
            let rest = path.strip_prefix(&**prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        (_, later) => Some(earlier) == later,
    }
}

fn methods(earlier: &[Box<str>], later: &[Box<str>]) -> bool {
    earlier.is_empty() || (!later.is_empty() && later.iter().all(|it| earlier.contains(it)))
}

/// Whether what one header must be follows from what others must be.
fn implied(header: &HeaderMatch, by: &[HeaderMatch]) -> bool {
    let mut same = by.iter().filter(|other| other.name == header.name);
    same.any(|other| {
        let needs_presence = header.value == ValueMatch::Present;
        other.value == header.value || (needs_presence && other.value != ValueMatch::Absent)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(hosts: &[&str], path: Option<PathMatch>) -> Matches {
        Matches {
            hosts: hosts.iter().map(|host| (*host).into()).collect(),
            path,
            ..Matches::default()
        }
    }

    #[test]
    fn wildcards_have_what_is_below() {
        for (wide, narrow, covered) in [
            ("*.example.org", "a.example.org", true),
            ("*.example.org", "b.a.example.org", true),
            ("*.example.org", "*.a.example.org", true),
            ("*.example.org", "*.example.org", true),
            ("*.example.org", "example.org", false),
            ("*.example.org", "badexample.org", false),
            ("*.example.org", "*.org", false),
            ("*.example.org", "*.badexample.org", false),
            ("a.example.org", "*.a.example.org", false),
            ("a.example.org", "a.example.org", true),
        ] {
            let (earlier, later) = (pattern(&[wide], None), pattern(&[narrow], None));
            assert_eq!(covers(&earlier, &later), covered, "{wide} {narrow}");
            assert!(covers(&Matches::default(), &later));
            assert!(!covers(&earlier, &Matches::default()));
        }
    }

    #[test]
    fn paths_are_compared_at_their_slashes() {
        let prefix = |text: &str| Some(PathMatch::Prefix(text.into()));
        let exact = |text: &str| Some(PathMatch::Exact(text.into()));
        let regex = |text: &str| Some(PathMatch::Regex(text.into()));
        for (wide, narrow, covered) in [
            (prefix("/"), None, true),
            (prefix("/"), regex(".*"), true),
            (prefix("/api"), prefix("/api"), true),
            (prefix("/api"), prefix("/api/v1"), true),
            (prefix("/api"), exact("/api"), true),
            (prefix("/api"), exact("/apix"), false),
            (prefix("/api"), prefix("/"), false),
            (prefix("/api"), regex("/api/.*"), false),
            (prefix("/api"), None, false),
            (exact("/api"), prefix("/api"), false),
            (exact("/api"), exact("/api"), true),
            (regex("/a.*"), regex("/a.*"), true),
            (regex("/a.*"), regex("/ab.*"), false),
        ] {
            let (earlier, later) = (pattern(&[], wide), pattern(&[], narrow));
            assert_eq!(covers(&earlier, &later), covered, "{earlier:?} {later:?}");
        }
    }

    #[test]
    fn methods_and_headers_narrow() {
        let header = |name: &str, value| HeaderMatch {
            name: name.into(),
            value,
        };
        let narrow = Matches {
            methods: vec!["GET".into()],
            headers: vec![
                header("x-a", ValueMatch::Exact("1".into())),
                header("x-b", ValueMatch::Absent),
            ],
            ..Matches::default()
        };
        let with = |methods: &[&str], headers: Vec<HeaderMatch>| Matches {
            methods: methods.iter().map(|it| (*it).into()).collect(),
            headers,
            ..Matches::default()
        };
        for (wide, covered) in [
            (with(&["GET", "HEAD"], vec![]), true),
            (with(&["HEAD"], vec![]), false),
            (with(&[], vec![header("x-a", ValueMatch::Present)]), true),
            (with(&[], vec![header("x-b", ValueMatch::Present)]), false),
            (with(&[], vec![header("x-b", ValueMatch::Absent)]), true),
            (with(&[], vec![header("x-c", ValueMatch::Absent)]), false),
            (
                with(&[], vec![header("x-a", ValueMatch::Exact("2".into()))]),
                false,
            ),
        ] {
            assert_eq!(covers(&wide, &narrow), covered, "{wide:?}");
        }
    }
}
