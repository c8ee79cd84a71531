//! Flows and what becomes of them, a line each.

use std::time::{Duration, UNIX_EPOCH};

use crate::api::{ConnReport, TraceEvent};

/// Heading over the lines of [`conn`].
pub fn conns_heading() -> String {
    columns([
        "PROTO",
        "SOURCE",
        "DESTINATION",
        "STATE",
        "IDLE",
        "ENDPOINT",
        "SITE",
        "NAT SOURCE",
    ])
}

/// A recorded flow.
pub fn conn(conn: &ConnReport) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let endpoint = match (&conn.service, &conn.endpoint) {
        (Some(service), Some(endpoint)) => format!("{service}/{endpoint}"),
        _ => conn.endpoint_address.ip().to_string(),
    };
    columns([
        &conn.protocol,
        &conn.source.to_string(),
        &conn.destination.to_string(),
        &conn.state,
        &format!("{}s", conn.idle_seconds),
        &endpoint,
        &or_dash(&conn.site),
        &or_dash(&conn.nat.map(|nat| nat.to_string())),
    ])
}

/// Columns of fixed widths, as lines are shown before the next is known. What
/// is longer moves the rest of its line.
fn columns(texts: [&str; 8]) -> String {
    let [
        protocol,
        source,
        destination,
        state,
        idle,
        endpoint,
        site,
        nat,
    ] = texts;
    format!(
        "{protocol:<5}  {source:<21}  {destination:<21}  {state:<11}  {idle:>5}  \
         {endpoint:<20}  {site:<10}  {nat}"
    )
}

/// What became of a flow, with its time (UTC).
pub fn trace_event(event: &TraceEvent) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(event.time_unix_ms);
    let time = humantime::format_rfc3339_millis(time);
    let service = event.service.as_deref().unwrap_or("-");
    let to = match (&event.endpoint, &event.site, event.endpoint_address) {
        (Some(endpoint), Some(site), _) => format!("{service}/{endpoint} ({site})"),
        (_, _, Some(address)) => format!("{service}, {}", address.ip()),
        _ => service.to_owned(),
    };
    let flags = event.tcp_flags.join(",");
    let line = format!(
        "{time}  {:<6}  {} {} -> {}  {to}  {flags}",
        event.event, event.protocol, event.source, event.destination
    );
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> ConnReport {
        ConnReport {
            service: Some("web".to_owned()),
            source: ([192, 0, 2, 1], 40_000).into(),
            destination: ([203, 0, 113, 10], 80).into(),
            protocol: "tcp".to_owned(),
            endpoint: Some("dc01-a".to_owned()),
            endpoint_address: ([198, 18, 1, 11], 8080).into(),
            site: Some("dc01".to_owned()),
            state: "established".to_owned(),
            idle_seconds: 12,
            nat: Some(([198, 51, 100, 2], 1_025).into()),
        }
    }

    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    #[test]
    fn a_flow_is_a_line_under_its_heading() {
        let line = conn(&flow());
        let heading = conns_heading();
        assert_eq!(
            words(&line),
            [
                "tcp",
                "192.0.2.1:40000",
                "203.0.113.10:80",
                "established",
                "12s",
                "web/dc01-a",
                "dc01",
                "198.51.100.2:1025"
            ]
        );
        assert_eq!(heading.find("NAT SOURCE"), line.find("198.51.100.2:1025"));
        assert_eq!(heading.find("ENDPOINT"), line.find("web/dc01-a"));
    }

    #[test]
    fn a_flow_of_an_unknown_endpoint_shows_its_address() {
        let line = conn(&ConnReport {
            endpoint: None,
            site: None,
            nat: None,
            ..flow()
        });
        assert_eq!(words(&line)[5..], ["198.18.1.11", "-", "-"]);
    }

    #[test]
    fn an_event_is_told_in_one_line() {
        let event = TraceEvent {
            time_unix_ms: 1_000,
            event: "moved".to_owned(),
            service: Some("web".to_owned()),
            source: ([192, 0, 2, 1], 40_000).into(),
            destination: ([203, 0, 113, 10], 80).into(),
            protocol: "tcp".to_owned(),
            tcp_flags: vec!["ack".to_owned()],
            endpoint: Some("dc01-a".to_owned()),
            endpoint_address: Some(([198, 18, 1, 11], 80).into()),
            site: Some("dc01".to_owned()),
        };
        assert_eq!(
            trace_event(&event),
            "1970-01-01T00:00:01.000Z  moved   tcp 192.0.2.1:40000 -> 203.0.113.10:80  \
             web/dc01-a (dc01)  ack"
        );
        let gone = TraceEvent {
            tcp_flags: Vec::new(),
            endpoint: None,
            site: None,
            ..event
        };
        assert!(trace_event(&gone).ends_with("203.0.113.10:80  web, 198.18.1.11"));
    }
}
