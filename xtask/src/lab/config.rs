//! The director's configuration for a lab.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::addresses::{NAT_SOURCE, TUNNEL_SOURCE};
use super::spec::{LabSpec, Mode};
use super::topology::Topology;

/// Tries of a request beyond the first, in proxy mode.
pub const RETRIES: u32 = 2;
/// How long one try may take, in proxy mode.
pub const PER_TRY: Duration = Duration::from_millis(300);

/// Where the director keeps things.
pub struct Paths {
    /// Its pins.
    pub pin_dir: PathBuf,
    /// Its control socket.
    pub socket: PathBuf,
    /// In proxy mode: the requests that failed.
    pub access_log: PathBuf,
}

/// The text of `director.toml`.
pub fn text(spec: &LabSpec, topology: &Topology, paths: &Paths) -> String {
    let interfaces = topology
        .interfaces("edge")
        .iter()
        .map(|name| format!("\"{name}\""))
        .collect::<Vec<_>>()
        .join(", ");
    let mut text = format!(
        r#"# Written by cargo xtask for this lab; it goes with the lab.
[edge]
name = "edge"
interfaces = [{interfaces}]
pin_dir = "{pin_dir}"
socket = "{socket}"
metrics = "{metrics}"

[edge.tunnel]
source4 = "{tunnel4}"
source6 = "{tunnel6}"

[edge.nat]
source4 = ["{nat4}"]
source6 = ["{nat6}"]

[edge.limits]
flows = {flows}

[health]
interval = "{interval}"
fast_interval = "{fast_interval}"
timeout = "{timeout}"
rise = {rise}
fall = {fall}
"#,
        pin_dir = paths.pin_dir.display(),
        socket = paths.socket.display(),
        metrics = spec.metrics,
        tunnel4 = TUNNEL_SOURCE.0,
        tunnel6 = TUNNEL_SOURCE.1,
        nat4 = NAT_SOURCE.0,
        nat6 = NAT_SOURCE.1,
        flows = spec.flows,
        interval = humantime::format_duration(spec.interval),
        fast_interval = humantime::format_duration(spec.fast_interval),
        timeout = humantime::format_duration(spec.timeout),
        rise = spec.rise,
        fall = spec.fall,
    );
    if spec.mode == Mode::Proxy {
        // Of those that went well, next to none.
        let _ = write!(
            text,
            "\n[edge.http.access_log]\npath = \"{}\"\none_in = 1000000\n",
            paths.access_log.display()
        );
    }
    services(&mut text, spec, topology);
    text
}

/// How the proxy forwards to the service's own endpoints. A breaker that opened
/// is tried again soon, as a drill is short.
fn proxy(text: &mut String) {
    let per_try = humantime::format_duration(PER_TRY);
    let breaker = "consecutive_failures = 5\nopen_for = \"1s\"\nlongest_open = \"4s\"\n";
    let _ = write!(
        text,
        r#"
[service.http]

[service.upstream]
connect_timeout = "{per_try}"

[[service.route]]
name = "all"

[service.route.retry]
retries = {RETRIES}
statuses = [500, 502, 503, 504]
per_try = "{per_try}"

[service.route.breaker]
{breaker}
[service.route.breaker.site]
{breaker}"#
    );
}

fn services(text: &mut String, spec: &LabSpec, topology: &Topology) {
    let vip = spec.vip();
    // Writing to a String cannot fail.
    for site in &topology.sites {
        let _ = write!(
            text,
            "\n[[site]]\nname = \"{}\"\nweight = {}\n",
            site.name, site.weight
        );
    }
    let _ = write!(
        text,
        r#"
[[service]]
name = "web"
vip = "{}"
port = {}
protocol = "tcp"
mode = "{}"

[service.health]
type = "http"
path = "/health"
body = "ok"
"#,
        vip.ip(),
        vip.port(),
        spec.mode.as_str(),
    );
    if spec.mode == Mode::Proxy {
        proxy(text);
    }
    for site in &topology.sites {
        for endpoint in &site.endpoints {
            let _ = write!(
                text,
                "\n[[service.endpoint]]\nname = \"{}\"\nsite = \"{}\"\naddress = \"{}\"\nport = {}\n",
                endpoint.name,
                site.name,
                endpoint.address,
                vip.port(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::super::spec::Family;
    use super::*;

    fn table(spec: &LabSpec) -> toml::Table {
        written(spec).parse().unwrap()
    }

    fn written(spec: &LabSpec) -> String {
        let topology = Topology::new(spec.mode, spec.family);
        let paths = Paths {
            pin_dir: "/run/x/bpf/director".into(),
            socket: "/run/x/director.sock".into(),
            access_log: "/run/x/log/access.json".into(),
        };
        text(spec, &topology, &paths)
    }

    #[test]
    fn the_choices_arrive_in_the_file() {
        let table = table(&LabSpec {
            mode: Mode::Nat,
            family: Family::V6,
            interval: Duration::from_millis(1500),
            fall: 4,
            flows: 77,
            ..LabSpec::default()
        });
        let service = &table["service"][0];
        assert_eq!(service["mode"].as_str(), Some("nat"));
        assert_eq!(service["vip"].as_str(), Some("2001:db8:53::10"));
        assert_eq!(table["health"]["interval"].as_str(), Some("1s 500ms"));
        assert_eq!(table["health"]["fall"].as_integer(), Some(4));
        assert_eq!(table["edge"]["limits"]["flows"].as_integer(), Some(77));
    }

    #[test]
    fn the_proxy_forwards_to_the_services_own_endpoints() {
        let table = table(&LabSpec {
            mode: Mode::Proxy,
            ..LabSpec::default()
        });
        let service = &table["service"][0];
        assert_eq!(service["endpoint"].as_array().unwrap().len(), 6);
        let route = &service["route"][0];
        assert_eq!(route["retry"]["per_try"].as_str(), Some("300ms"));
        let site = &route["breaker"]["site"];
        assert_eq!(site["consecutive_failures"].as_integer(), Some(5));
        assert!(!written(&LabSpec::default()).contains("http]"));
    }

    #[test]
    fn every_site_and_endpoint_is_there_once() {
        let table = table(&LabSpec::default());
        assert_eq!(table["site"].as_array().unwrap().len(), 3);
        let endpoints = table["service"][0]["endpoint"].as_array().unwrap();
        let mut addresses: Vec<&str> = endpoints
            .iter()
            .map(|endpoint| endpoint["address"].as_str().unwrap())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 6);
    }
}
