//! What the edge proxy serves, as files that say everything.

use std::{fmt::Write as _, time::Duration};

use director_core::{breaker::BreakerPolicy, l7::*};

use super::text;

/// A line with a key, unless the value is what its absence means.
fn key<T>(out: &mut String, name: &str, value: Option<T>, shown: impl Fn(T) -> String) {
    if let Some(value) = value {
        writeln!(out, "{name} = {}", shown(value)).unwrap();
    }
}

fn number(number: impl ToString) -> String {
    number.to_string()
}

fn time(duration: Duration) -> String {
    text(&humantime::format_duration(duration).to_string())
}

fn texts<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items = items.into_iter().map(|item| text(item.as_ref()));
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn path(path: &std::path::Path) -> String {
    text(path.to_str().unwrap())
}

fn boxed(value: &str) -> String {
    text(value)
}

/// All but the key that seals, which is in a file of its own.
pub(super) fn edge(l7: &L7) -> String {
    let mut out = String::from("[edge.http]\n");
    key(&mut out, "threads", l7.threads, number);
    key(&mut out, "drain_limit", Some(l7.drain_limit), time);
    key(&mut out, "cache", Some(l7.cache_bytes), number);
    let passive = match l7.passive {
        Passive::Ignore => "ignore",
        Passive::Probe => "probe",
        Passive::Decide => "decide",
    };
    key(&mut out, "passive", Some(passive), text);
    if let Some(log) = &l7.access_log {
        writeln!(out, "[edge.http.access_log]").unwrap();
        key(&mut out, "path", Some(&*log.path), path);
        key(&mut out, "one_in", Some(log.one_in), number);
    }
    out
}

pub(super) fn upstream(table: &str, upstream: &Upstream) -> String {
    let mut out = format!("[{table}.upstream]\n");
    let protocol = match upstream.protocol {
        UpstreamProtocol::Http1 => "http1",
        UpstreamProtocol::Http2 => "http2",
    };
    key(&mut out, "protocol", Some(protocol), text);
    key(
        &mut out,
        "connect_timeout",
        Some(upstream.connect_timeout),
        time,
    );
    key(&mut out, "idle_timeout", Some(upstream.idle_timeout), time);
    key(&mut out, "connections", upstream.connections, number);
    let header = upstream.proxy_protocol.map(|version| match version {
        ProxyProtocol::V1 => "v1",
        ProxyProtocol::V2 => "v2",
    });
    key(&mut out, "proxy_protocol", header, text);
    if let Some(tls) = &upstream.tls {
        writeln!(out, "[{table}.upstream.tls]").unwrap();
        key(&mut out, "server_name", tls.server_name.as_deref(), boxed);
        key(&mut out, "ca", tls.ca.as_deref(), path);
        let client = tls.client.as_ref();
        key(
            &mut out,
            "certificate",
            client.map(|it| &*it.certificate),
            path,
        );
        key(&mut out, "key", client.map(|it| &*it.key), path);
    }
    out
}

pub(super) fn listener(listener: &Listener) -> String {
    let networks = |networks: &Vec<Network>| {
        texts(
            networks
                .iter()
                .map(|it| format!("{}/{}", it.address, it.bits)),
        )
    };
    let mut out = String::from("[service.http]\n");
    key(&mut out, "http2", Some(listener.http2), number);
    let from = &listener.proxy_protocol_from;
    key(&mut out, "proxy_protocol_from", Some(from), networks);
    key(&mut out, "trusted", Some(&listener.trusted), networks);
    let forwarded = match listener.forwarded {
        Forwarded::None => "none",
        Forwarded::XForwarded => "x-forwarded",
        Forwarded::Forwarded => "forwarded",
        Forwarded::Both => "both",
    };
    key(&mut out, "forwarded", Some(forwarded), text);
    let request_id = listener.request_id.as_deref().unwrap_or_default();
    key(&mut out, "request_id", Some(request_id), text);
    key(&mut out, "traceparent", Some(listener.traceparent), number);
    if let Some(tls) = &listener.tls {
        writeln!(out, "[service.http.tls]").unwrap();
        key(&mut out, "tls12", Some(tls.tls12), number);
        if let Some(auth) = &tls.client_auth {
            let word = if auth.required {
                "required"
            } else {
                "optional"
            };
            key(&mut out, "client_ca", Some(&*auth.ca), path);
            key(&mut out, "client_auth", Some(word), text);
        }
        for files in &tls.certificates {
            writeln!(out, "[[service.http.tls.certificates]]").unwrap();
            key(&mut out, "certificate", Some(&*files.certificate), path);
            key(&mut out, "key", Some(&*files.key), path);
        }
    }
    out += &limits(&listener.limits);
    for route in &listener.routes {
        out += &written_route(route);
    }
    out
}

fn limits(limits: &HttpLimits) -> String {
    let mut out = String::from("[service.http.limits]\n");
    key(&mut out, "connections", Some(limits.connections), number);
    key(
        &mut out,
        "connections_per_client",
        limits.connections_per_client,
        number,
    );
    key(&mut out, "header_bytes", Some(limits.header_bytes), number);
    key(&mut out, "headers", Some(limits.headers), number);
    key(&mut out, "body_bytes", limits.body_bytes, number);
    key(
        &mut out,
        "header_timeout",
        Some(limits.header_timeout),
        time,
    );
    key(&mut out, "body_timeout", Some(limits.body_timeout), time);
    key(&mut out, "idle_timeout", Some(limits.idle_timeout), time);
    key(&mut out, "streams", Some(limits.streams), number);
    key(&mut out, "resets", Some(limits.resets), number);
    out + &rate(limits.rate)
}

fn rate(rate: Option<Rate>) -> String {
    let mut out = String::new();
    key(&mut out, "rate", rate.map(|rate| rate.per_second), number);
    key(&mut out, "burst", rate.map(|rate| rate.burst), number);
    out
}

fn written_route(route: &Route) -> String {
    let mut out = String::from("[[service.route]]\n");
    key(&mut out, "name", Some(&*route.name), text);
    key(&mut out, "tier", Some(route.tier), number);
    out += &rate(route.rate);
    let Matches {
        hosts,
        path,
        methods,
        headers,
    } = &route.matches;
    key(
        &mut out,
        "hosts",
        Some(hosts).filter(|it| !it.is_empty()),
        texts,
    );
    key(
        &mut out,
        "methods",
        Some(methods).filter(|it| !it.is_empty()),
        texts,
    );
    let (name, path) = match path {
        None => ("path", None),
        Some(PathMatch::Prefix(path)) => ("path", Some(path)),
        Some(PathMatch::Exact(path)) => ("path_exact", Some(path)),
        Some(PathMatch::Regex(path)) => ("path_regex", Some(path)),
    };
    key(&mut out, name, path, |path| text(path));
    out += &action(&route.action);
    for header in headers {
        let value = match &header.value {
            ValueMatch::Present => "present = true".to_owned(),
            ValueMatch::Absent => "present = false".to_owned(),
            ValueMatch::Exact(value) => format!("value = {}", text(value)),
            ValueMatch::Regex(regex) => format!("regex = {}", text(regex)),
        };
        let name = text(&header.name);
        write!(out, "[[service.route.headers]]\nname = {name}\n{value}\n").unwrap();
    }
    out += &edits("request_headers", &route.request_headers);
    out + &edits("response_headers", &route.response_headers)
}

fn edits(name: &str, edits: &HeaderEdits) -> String {
    let table = |entries: &Vec<(Box<str>, Box<str>)>| {
        let entries = entries.iter();
        let entries = entries.map(|(name, value)| format!("{} = {}", text(name), text(value)));
        format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
    };
    let mut out = format!("[service.route.{name}]\n");
    key(&mut out, "set", Some(&edits.set), table);
    key(&mut out, "add", Some(&edits.add), table);
    key(&mut out, "remove", Some(&edits.remove), texts);
    out
}

fn answer(answer: &Answer) -> String {
    format!(
        "{{ status = {}, content_type = {}, body = {} }}",
        answer.status,
        text(&answer.content_type),
        text(std::str::from_utf8(&answer.body).unwrap())
    )
}

fn action(action: &Action) -> String {
    let mut out = String::new();
    match action {
        Action::Forward(forward) => out = written_forward(forward),
        Action::Answer(own) => key(&mut out, "answer", Some(own), answer),
        Action::Redirect(redirect) => {
            write!(out, "redirect = {{ status = {}", redirect.status).unwrap();
            let (path, prefix) = match &redirect.path {
                Some(Rewrite::Path(path)) => (Some(path), None),
                Some(Rewrite::Prefix(prefix)) => (None, Some(prefix)),
                _ => (None, None),
            };
            for (name, value) in [
                ("scheme", redirect.scheme.as_ref()),
                ("host", redirect.host.as_ref()),
                ("path", path),
                ("prefix", prefix),
            ] {
                if let Some(value) = value {
                    write!(out, ", {name} = {}", text(value)).unwrap();
                }
            }
            if let Some(port) = redirect.port {
                write!(out, ", port = {port}").unwrap();
            }
            out += " }\n";
        }
    }
    out
}

fn written_forward(forward: &Forward) -> String {
    let mut out = String::new();
    key(&mut out, "pool", Some(&*forward.pool), text);
    key(&mut out, "host", forward.host.as_deref(), boxed);
    key(&mut out, "timeout", forward.timeout, time);
    key(&mut out, "stream_idle", Some(forward.stream_idle), time);
    key(&mut out, "retry_after", Some(forward.retry_after), time);
    key(&mut out, "fallback", forward.fallback.as_ref(), answer);
    match &forward.rewrite {
        None => {}
        Some(Rewrite::Path(path)) => key(&mut out, "rewrite_path", Some(&**path), text),
        Some(Rewrite::Prefix(path)) => key(&mut out, "rewrite_prefix", Some(&**path), text),
        Some(Rewrite::Regex { pattern, to }) => {
            let (pattern, to) = (text(pattern), text(to));
            writeln!(out, "rewrite_regex = {{ pattern = {pattern}, to = {to} }}").unwrap();
        }
    }
    let affinity = match &forward.affinity {
        Affinity::None => None,
        Affinity::Cookie { name, max_age } => {
            let age = max_age.map(|age| format!(", max_age = {}", time(age)));
            let (name, age) = (text(name), age.unwrap_or_default());
            Some(format!("{{ type = \"cookie\", name = {name}{age} }}"))
        }
        Affinity::Header { name } => {
            Some(format!("{{ type = \"header\", name = {} }}", text(name)))
        }
        Affinity::Source => Some("{ type = \"source\" }".to_owned()),
        Affinity::Mcp => Some("{ type = \"mcp\" }".to_owned()),
    };
    key(&mut out, "affinity", affinity, number);
    out += &retry(&forward.retry);
    let breaker = &forward.breaker;
    writeln!(out, "[service.route.breaker]").unwrap();
    key(
        &mut out,
        "max_ejection",
        Some(breaker.max_ejection_percent),
        number,
    );
    key(&mut out, "pending", Some(breaker.pending), number);
    out += &policy(&breaker.endpoint);
    writeln!(out, "[service.route.breaker.site]").unwrap();
    out += &policy(&breaker.site);
    if let Some(adaptive) = &forward.adaptive {
        let AdaptiveConcurrency { minimum, maximum } = adaptive;
        let keys = format!("minimum = {minimum}\nmaximum = {maximum}\n");
        write!(out, "[service.route.adaptive]\n{keys}").unwrap();
    }
    if let Some(cache) = &forward.cache {
        writeln!(out, "[service.route.cache]").unwrap();
        key(&mut out, "stale_if_error", Some(cache.stale_if_error), time);
        key(&mut out, "body_bytes", Some(cache.body_bytes), number);
    }
    out
}

fn retry(retry: &Retry) -> String {
    let mut out = String::from("[service.route.retry]\n");
    key(&mut out, "retries", Some(retry.retries), number);
    writeln!(out, "statuses = {:?}", retry.statuses).unwrap();
    key(&mut out, "methods", Some(&retry.methods), texts);
    key(&mut out, "per_try", retry.per_try, time);
    key(
        &mut out,
        "budget_percent",
        Some(retry.budget_percent),
        number,
    );
    key(&mut out, "budget_floor", Some(retry.budget_floor), number);
    out
}

fn policy(policy: &BreakerPolicy) -> String {
    let mut out = String::new();
    let percent = match policy.failure_percent {
        percent @ 0..=100 => percent,
        _ => 0,
    };
    key(
        &mut out,
        "consecutive_failures",
        Some(policy.consecutive_failures),
        number,
    );
    key(&mut out, "failure_percent", Some(percent), number);
    key(
        &mut out,
        "minimum_volume",
        Some(policy.minimum_volume),
        number,
    );
    key(&mut out, "window", Some(policy.window), time);
    key(&mut out, "slow", policy.slow, time);
    key(&mut out, "open_for", Some(policy.open_for), time);
    key(&mut out, "longest_open", Some(policy.longest_open), time);
    key(&mut out, "forget_after", Some(policy.forget_after), time);
    key(&mut out, "probes", Some(policy.probes), number);
    key(
        &mut out,
        "probes_to_close",
        Some(policy.probes_to_close),
        number,
    );
    key(&mut out, "concurrency", policy.concurrency, number);
    out
}
