//! Configurations as files that say everything.

#[path = "written_http.rs"]
mod http;

use std::{fmt::Write as _, net::IpAddr};

use director_core::{
    l7::L7,
    model::{Mode, ProbeSpec, Protocol, Service, Site},
};

use crate::config::{Config, Edge, Prefix, TunnelSources};

/// A value in TOML.
fn text(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn list(items: impl IntoIterator<Item: ToString>) -> String {
    let items = items.into_iter().map(|item| text(&item.to_string()));
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// The variant of an enum, as its key has it.
fn word(variant: impl std::fmt::Debug) -> String {
    text(&format!("{variant:?}").to_lowercase())
}

/// A prefix, or the address alone where there is one.
fn prefix(address: impl Into<IpAddr>, length: u8) -> String {
    let prefix = Prefix::around(address.into(), length);
    match prefix.is_single() {
        true => text(&prefix.address.to_string()),
        false => text(&prefix.to_string()),
    }
}

/// Writes a configuration as a file that says everything.
pub(super) fn written(config: &Config) -> String {
    let mut out = edge(&config.edge);
    writeln!(out, "[health]\nconcurrency = {}", config.probe_concurrency).unwrap();
    for Site { name, weight } in &config.model.sites {
        writeln!(out, "[[site]]\nname = {}\nweight = {weight}", text(name)).unwrap();
    }
    out += &http::edge(&config.l7);
    for service in &config.model.services {
        let table = match service.mode {
            Mode::Pool => "pool",
            _ => "service",
        };
        out += &written_service(service, &config.l7);
        let upstreams = config.l7.upstreams.iter();
        for upstream in upstreams.filter(|it| it.service == service.name) {
            out += &http::upstream(table, upstream);
        }
        out += &endpoints(service, table);
    }
    out
}

fn edge(edge: &Edge) -> String {
    let Edge {
        name,
        interfaces,
        attach,
        pin_dir,
        socket,
        metrics,
        hold,
        deny,
        tunnel,
        nat,
        icmp,
        limits,
    } = edge;
    format!(
        "[edge]\nname = {}\ninterfaces = {}\nattach = {}\npin_dir = {}\nsocket = {}\n\
         metrics = \"{metrics}\"\nhold = \"{}\"\ndeny = {}\n\
         [edge.tunnel]\n{}gue_port = {}\n\
         [edge.nat]\nsource4 = {}\nsource6 = {}\n\
         [edge.icmp]\necho = {}\nrate = {}\n\
         [edge.limits]\nflows = {}\nnat_flows = {}\nservices = {}\nendpoints = {}\n\
         table_size = {}\n",
        text(name),
        list(interfaces),
        word(attach),
        text(pin_dir.to_str().unwrap()),
        text(socket.to_str().unwrap()),
        humantime::format_duration(*hold),
        list(deny),
        sources(tunnel),
        tunnel.gue_port,
        list(&nat.v4),
        list(&nat.v6),
        icmp.echo,
        icmp.rate,
        limits.flows,
        limits.nat_flows,
        limits.services,
        limits.endpoints,
        limits.table_size,
    )
}

/// Those that there are.
fn sources(tunnel: &TunnelSources) -> String {
    let v4 = tunnel.v4.map(|v4| prefix(v4, tunnel.prefix4));
    let v6 = tunnel.v6.map(|v6| prefix(v6, tunnel.prefix6));
    let v4 = v4.map(|text| format!("source4 = {text}\n"));
    let v6 = v6.map(|text| format!("source6 = {text}\n"));
    v4.unwrap_or_default() + &v6.unwrap_or_default()
}

fn written_service(service: &Service, l7: &L7) -> String {
    if service.mode == Mode::Pool {
        let head = format!("[[pool]]\nname = \"{}\"\n", service.name);
        return head + &health(service, "pool");
    }
    let mut out = format!(
        "[[service]]\nname = \"{}\"\nvip = \"{}\"\nport = {}\nprotocol = {}\nmode = {}\n",
        service.name,
        service.vip,
        service.port,
        word(service.protocol),
        word(service.mode),
    );
    out += &steering(service);
    if !service.endpoints.is_empty() {
        out += &health(service, "service");
    }
    let listeners = l7.listeners.iter();
    for listener in listeners.filter(|it| it.service == service.name) {
        out += &http::listener(listener);
    }
    out
}

fn endpoints(service: &Service, table: &str) -> String {
    let mut out = String::new();
    for endpoint in &service.endpoints {
        write!(
            out,
            "[[{table}.endpoint]]\nname = \"{}\"\nsite = {}\naddress = \"{}\"\nweight = {}\n",
            endpoint.name,
            text(&endpoint.site),
            endpoint.address,
            endpoint.weight
        )
        .unwrap();
        if endpoint.port != 0 {
            writeln!(out, "port = {}", endpoint.port).unwrap();
        }
        if let Some(id) = endpoint.server_id {
            writeln!(out, "server_id = {id}").unwrap();
        }
    }
    out
}

/// Every key that the mode and the protocol allow.
fn steering(service: &Service) -> String {
    let steering = &service.steering;
    let mut out = format!(
        "affinity = {}\non_death = {}\nsyn_cookies = {}\n",
        word(steering.affinity),
        word(steering.on_death),
        steering.syn_cookies
    );
    if service.mode == Mode::Tunnel {
        writeln!(out, "encapsulation = {}", word(steering.encapsulation)).unwrap();
    }
    if matches!(service.mode, Mode::Tunnel | Mode::L2) {
        writeln!(out, "track = {}", word(steering.track)).unwrap();
    }
    if let Some(mss) = steering.mss {
        writeln!(out, "mss = {mss}").unwrap();
    }
    if let Some(rate) = steering.connection_rate {
        writeln!(out, "connection_rate = {rate}").unwrap();
    }
    if service.protocol == Protocol::Udp {
        let timeout = humantime::format_duration(steering.idle_timeout);
        writeln!(out, "idle_timeout = \"{timeout}\"").unwrap();
    }
    out
}

fn health(service: &Service, table: &str) -> String {
    let health = &service.health;
    let mut out = format!(
        "[{table}.health]\ninterval = \"{}\"\nfast_interval = \"{}\"\ntimeout = \"{}\"\n\
         rise = {}\nfall = {}\njitter = {}\n",
        humantime::format_duration(health.interval),
        humantime::format_duration(health.fast_interval),
        humantime::format_duration(health.timeout),
        health.rise,
        health.fall,
        health.jitter_percent,
    );
    let port = match &health.probe {
        ProbeSpec::Tcp { port } => {
            out += "type = \"tcp\"\n";
            port
        }
        ProbeSpec::Http {
            port,
            host,
            path,
            status,
            body,
        } => {
            let (low, high) = (status.start(), status.end());
            out += &format!(
                "type = \"http\"\npath = {}\nstatus = \"{low}-{high}\"\n",
                text(path)
            );
            if !host.is_empty() {
                writeln!(out, "host = {}", text(host)).unwrap();
            }
            if let Some(body) = body {
                writeln!(out, "body = {}", text(body)).unwrap();
            }
            port
        }
    };
    if let Some(port) = port {
        writeln!(out, "port = {port}").unwrap();
    }
    out
}
