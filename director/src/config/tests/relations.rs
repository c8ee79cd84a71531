//! Relations that take more lines than a case has.

use std::fmt::Write as _;

use super::{BASE, loaded, refused};

/// The base with further endpoints in its last service, which has one.
fn with_endpoints(table_size: u32, endpoints: usize) -> String {
    let limits =
        format!("[edge.limits]\ntable_size = {table_size}\nendpoints = 10000\n\n[edge.nat]");
    let mut text = BASE.replace("[edge.nat]", &limits);
    for index in 1..endpoints {
        let (high, low) = (index / 250, index % 250 + 1);
        write!(
            text,
            "\n[[service.endpoint]]\nname = \"e{index}\"\nsite = \"dc01\"\naddress = \"198.19.{high}.{low}\"\n"
        )
        .unwrap();
    }
    text
}

#[test]
fn a_table_has_a_slot_for_each_endpoint() {
    let problems = refused(&with_endpoints(251, 252));
    let [problem] = &problems[..] else {
        panic!("{problems:?}");
    };
    assert_eq!((problem.line, &*problem.key), (46, "service[1]"));
    assert_eq!(
        problem.message,
        "has 252 endpoints for a table of 251 slots: some would get none"
    );
    assert_eq!(loaded(&with_endpoints(251, 251)).warnings.len(), 1);
}

#[test]
fn shares_that_are_coarse_are_warned_of() {
    assert_eq!(loaded(&with_endpoints(503, 5)).warnings, []);
    let warnings = loaded(&with_endpoints(503, 6)).warnings;
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    assert_eq!((warning.line, &*warning.key), (46, "service[1]"));
    assert!(warning.message.contains("more than 1 % off"), "{warning:?}");
}

#[test]
fn a_suggestion_is_not_looked_for_at_any_cost() {
    // The distance of two texts takes time and memory by their product.
    let long = "x".repeat(1024 * 1024);
    let text = BASE
        .replace("name = \"dc02\"", &format!("name = \"{long}y\""))
        .replace("site = \"dc02\"", &format!("site = \"{long}z\""));
    let problems = refused(&text);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.message.len() < 500));
}

#[test]
fn keys_in_any_order_and_notation_mean_the_same() {
    let inline = r#"
        service = [
            { endpoint = [
                { address = "198.18.1.11", site = "dc01", name = "dc01-a" },
                { weight = 0x2, address = '198.18.2.11', site = "dc02", name = "dc02-a" },
              ], health = { type = "http" }, mode = "tunnel", protocol = "tcp",
              port = 80, vip = "203.0.113.10", name = "web" },
            { endpoint = [{ name = "ns", site = "dc02", address = "198.18.2.53", port = 5_353 }],
              health.type = "tcp", health.port = 5353, name = "dns", vip = "203.0.113.53",
              port = 53, protocol = "udp", mode = "nat" },
        ]
        site = [{ weight = 50, name = "dc01" }, { name = "dc02" }]
        health.interval = "5000ms"
        edge.nat.source4 = ["198.51.100.2"]
        edge.tunnel.source4 = "198.51.100.1"
        edge.interfaces = ["eth0", "eth1"]
        edge.name = "edge1"
    "#;
    assert_eq!(loaded(inline), loaded(BASE));
}
