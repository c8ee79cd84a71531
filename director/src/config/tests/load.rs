//! Files, what they say when they say little, and how problems are shown.

use std::{fs, path::Path, time::Duration};

use director_core::model::{
    Affinity, Encapsulation, HealthPolicy, Mode, OnDeath, ProbeSpec, Protocol, Steering, Track,
};

use super::{
    super::{Attach, IcmpPolicy, Limits, Prefix, TunnelSources, load},
    BASE, FULL, HTTP, loaded, parse, refused,
};

#[test]
fn the_base_loads_without_warnings() {
    assert_eq!(loaded(BASE).warnings, []);
    assert_eq!(loaded(FULL).warnings, []);
    assert_eq!(loaded(HTTP).warnings, []);
}

#[test]
fn the_example_loads_without_warnings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/director.toml");
    let loaded = load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.warnings, []);

    let model = loaded.config.model;
    let sites = model.sites.iter().map(|site| (&*site.name, site.weight));
    let expected = [("dc01", 50), ("dc02", 30), ("dc03", 20)];
    assert_eq!(sites.collect::<Vec<_>>(), expected);
    let services = model.services.iter();
    let services = services.map(|it| (&*it.name, it.mode, it.protocol, it.endpoints.len()));
    let expected = [
        ("web", Mode::Tunnel, Protocol::Tcp, 5),
        ("web6", Mode::Tunnel, Protocol::Tcp, 3),
        ("dns", Mode::Nat, Protocol::Udp, 2),
        ("web3", Mode::L2, Protocol::Udp, 2),
        ("login", Mode::Proxy, Protocol::Tcp, 0),
        ("shop", Mode::Proxy, Protocol::Tcp, 2),
        ("api", Mode::Pool, Protocol::Tcp, 2),
    ];
    assert_eq!(services.collect::<Vec<_>>(), expected);
}

#[test]
fn the_example_shows_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/director.toml");
    let text = fs::read_to_string(path).unwrap();
    // What is behind a comment sign and looks like a key, but for the port,
    // whose default differs from service to service, and threads, whose
    // default is none that can be written.
    let is_default = |line: &&str| {
        line.strip_prefix("# ")
            .and_then(|line| line.split_once(" = "))
            .is_some_and(|(key, _)| !key.contains(' ') && !["port", "threads"].contains(&key))
    };
    let commented = text.lines().filter(is_default).count();
    assert_eq!(commented, 67, "keys whose default the example shows");
    let lines = text.lines().map(|line| match is_default(&line) {
        true => line.trim_start_matches("# "),
        false => line,
    });
    let shown = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(loaded(&shown), loaded(&text));
}

#[test]
fn defaults_are_those_of_the_manual() {
    let text = r#"
        edge = { name = "e", interfaces = ["lo"], tunnel.source6 = "2001:db8::1" }
        site = [{ name = "a" }]
        [[service]]
        name = "s"
        vip = "2001:db8::2"
        port = 443
        protocol = "tcp"
        mode = "tunnel"
        endpoint = [{ name = "x", site = "a", address = "2001:db8::3" }]
    "#;
    let config = loaded(text).config;
    assert_eq!(config.probe_concurrency, 256);
    let edge = config.edge;
    assert_eq!(edge.attach, Attach::Auto);
    assert_eq!(edge.pin_dir, Path::new("/sys/fs/bpf/director"));
    assert_eq!(edge.socket, Path::new("/run/director/director.sock"));
    assert_eq!(edge.metrics, "127.0.0.1:9600".parse().unwrap());
    let limits = Limits {
        flows: 1_048_576,
        nat_flows: 262_144,
        services: 64,
        endpoints: 1024,
        table_size: 16_381,
    };
    assert_eq!(edge.limits, limits);
    assert_eq!(edge.hold, Duration::from_hours(1));
    assert_eq!(edge.deny, []);
    let tunnel = TunnelSources {
        v4: None,
        v6: Some("2001:db8::1".parse().unwrap()),
        prefix4: 32,
        prefix6: 128,
        gue_port: 6080,
    };
    assert_eq!(edge.tunnel, tunnel);
    let icmp = IcmpPolicy {
        echo: true,
        rate: 1000,
    };
    assert_eq!(edge.icmp, icmp);
    assert_eq!(config.model.sites[0].weight, 1);
    let service = &config.model.services[0];
    let policy = HealthPolicy {
        probe: ProbeSpec::Tcp { port: None },
        interval: Duration::from_secs(5),
        fast_interval: Duration::from_millis(500),
        timeout: Duration::from_millis(500),
        rise: 2,
        fall: 3,
        jitter_percent: 10,
    };
    assert_eq!(service.health, policy);
    let steering = Steering {
        encapsulation: Encapsulation::Ip,
        track: Track::Auto,
        affinity: Affinity::Flow,
        on_death: OnDeath::Resteer,
        mss: None,
        connection_rate: None,
        syn_cookies: false,
        idle_timeout: Duration::from_secs(60),
    };
    assert_eq!(service.steering, steering);
    assert_eq!(service.endpoints[0].server_id, None);
    assert_eq!(service.endpoints[0].port, 443);
    assert_eq!(service.endpoints[0].weight, 1);
}

#[test]
fn what_the_packet_path_is_told_arrives() {
    let config = loaded(FULL).config;
    let edge = config.edge;
    assert_eq!(edge.hold, Duration::from_mins(30));
    let denied = edge.deny.iter().map(Prefix::to_string);
    let expected = ["192.0.2.0/24", "2001:db8:bad::/48", "203.0.113.200/32"];
    assert_eq!(denied.collect::<Vec<_>>(), expected);
    let tunnel = TunnelSources {
        v4: Some([198, 51, 100, 64].into()),
        v6: Some("2001:db8:1::".parse().unwrap()),
        prefix4: 26,
        prefix6: 64,
        gue_port: 6081,
    };
    assert_eq!(edge.tunnel, tunnel);
    assert_eq!((edge.icmp.echo, edge.icmp.rate), (false, 100));
    assert_eq!(edge.limits.nat_flows, 65_536);

    let [web, quic, shop] = &config.model.services[..] else {
        panic!("{:?}", config.model);
    };
    let steering = Steering {
        encapsulation: Encapsulation::Gue,
        track: Track::Always,
        affinity: Affinity::Source,
        on_death: OnDeath::Reset,
        mss: Some(1400),
        connection_rate: Some(100),
        ..Steering::default()
    };
    assert_eq!((web.port, &web.steering), (0, &steering));
    assert_eq!(web.endpoints[0].port, 0);
    assert_eq!(quic.mode, Mode::L2);
    assert_eq!(quic.steering.affinity, Affinity::Quic);
    assert_eq!(quic.steering.idle_timeout, Duration::from_mins(5));
    let ids = quic.endpoints.iter().map(|endpoint| endpoint.server_id);
    assert_eq!(ids.collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert_eq!((shop.mode, shop.steering.syn_cookies), (Mode::Proxy, true));
    assert_eq!(shop.endpoints, []);
}

#[test]
fn a_service_inherits_what_its_health_does_not_say() {
    let text = BASE
        .replace(
            r#"interval = "5s""#,
            "interval = '2s'\nrise = 4\nfall = 5\njitter = 0",
        )
        .replace(
            r#"type = "http""#,
            "type = 'http'\nfall = 6\ntimeout = '100ms'",
        );
    let config = loaded(&text).config;
    let health = |index: usize| config.model.services[index].health.clone();
    let probe = ProbeSpec::Http {
        port: None,
        host: String::new(),
        path: "/".to_owned(),
        status: 200..=399,
        body: None,
    };
    let web = HealthPolicy {
        probe,
        interval: Duration::from_secs(2),
        fast_interval: Duration::from_millis(500),
        timeout: Duration::from_millis(100),
        rise: 4,
        fall: 6,
        jitter_percent: 0,
    };
    assert_eq!(health(0), web);
    let dns = HealthPolicy {
        probe: ProbeSpec::Tcp { port: Some(5353) },
        timeout: Duration::from_millis(500),
        fall: 5,
        ..web
    };
    assert_eq!(health(1), dns);
}

#[test]
fn a_file_without_services_is_allowed_and_warned_of() {
    let loaded = loaded("[edge]\nname = 'e'\ninterfaces = ['lo']\n");
    let keys = loaded.warnings.iter().map(|it| (it.line, &*it.message));
    let expected = [(1, "there is no service: nothing is steered")];
    assert_eq!(keys.collect::<Vec<_>>(), expected);
}

#[test]
fn every_problem_is_shown_at_once_in_the_order_of_the_file() {
    let text = BASE
        .replace("198.18.1.11", "198.51.100.300")
        .replace("weight = 50", "wieght = 50")
        .replace("\"eth1\"", "3");
    let errors = parse(&text, "director.toml").unwrap_err();
    let expected = r#"director.toml:3:23: edge.interfaces[1]: must be a string, not the number 3
  help: for example: interfaces = ["eth0"]
director.toml:16:1: site "dc01": wieght: is an unknown key
  help: did you mean weight?
director.toml:34:11: service "web": endpoint "dc01-a": address: 198.51.100.300 is not an IP address
  help: write an address such as "203.0.113.10"
3 problems in director.toml"#;
    assert_eq!(errors.to_string(), expected);

    let errors = parse("edge = 1", "x.toml").unwrap_err();
    let expected = "x.toml:1:8: edge: must be a table, not the number 1\n  \
                    help: write its keys under a header of their own, [edge]\n\
                    1 problem in x.toml";
    assert_eq!(errors.to_string(), expected);
}

#[test]
fn broken_toml_is_shown_with_the_parsers_words() {
    for (text, expected) in [
        (
            "[edge]\nname = \n",
            &[(2, 8, "string values must be quoted")][..],
        ),
        (
            "[edge]\nname = \"a\"\nname = \"b\"\n",
            &[(3, 1, "duplicate key")],
        ),
        (
            "[edge\nname = 'a'\n[[site]\n",
            &[(1, 6, "unclosed table"), (3, 8, "unclosed array table")],
        ),
        (
            "é = 1 2\n",
            &[(1, 1, "invalid unquoted key"), (1, 5, "must be quoted")],
        ),
        (
            "a = 99999999999999999999999999999999999999999\n",
            &[(1, 5, "overflow")],
        ),
        ("a = [1,", &[(1, 8, "unclosed array")]),
    ] {
        let problems = refused(text);
        let found: Vec<_> = problems
            .iter()
            .map(|problem| (problem.line, problem.column, &*problem.message))
            .collect();
        assert_eq!(found.len(), expected.len(), "{text}\n{found:?}");
        for ((line, column, message), &(at, column_at, words)) in found.iter().zip(expected) {
            assert_eq!((*line, *column), (at, column_at), "{text}\n{found:?}");
            assert!(message.contains(words), "{text}\n{found:?}");
        }
    }
}

#[test]
fn a_missing_file_and_a_directory_are_no_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none.toml");
    let shown = load(&path).unwrap_err().to_string();
    let expected = format!(
        "{}: cannot be read: No such file or directory (os error 2)\n  \
         help: name the file with --config",
        path.display()
    );
    assert_eq!(shown, expected);

    let shown = load(directory.path()).unwrap_err().to_string();
    assert!(shown.contains("Is a directory"), "{shown}");
}

#[test]
fn a_file_that_is_too_large_is_not_parsed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.toml");
    let limit = 4 * 1024 * 1024;
    let padded = |size: usize| format!("{BASE}{}\n", "#".repeat(size - BASE.len() - 1));
    fs::write(&path, padded(limit)).unwrap();
    assert_eq!(load(&path).unwrap(), loaded(BASE));

    fs::write(&path, padded(limit + 1)).unwrap();
    let shown = load(&path).unwrap_err().to_string();
    assert!(shown.contains("it is larger than 4 MiB"), "{shown}");
}

#[test]
fn bytes_that_are_not_utf8_are_pointed_at() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("latin1.toml");
    fs::write(&path, b"[edge]\nname = \"M\xfcnchen\"\n").unwrap();
    let errors = load(&path).unwrap_err();
    let [problem] = errors.problems() else {
        panic!("{errors}");
    };
    assert_eq!((problem.line, problem.column), (2, 10));
    assert!(problem.message.contains("not UTF-8"), "{errors}");
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_read_over() {
    let text = format!("\u{feff}{}", BASE.replace('\n', "\r\n"));
    assert_eq!(loaded(&text), loaded(BASE));
    let problems = refused(&text.replace("weight = 50", "weight = 1001"));
    assert_eq!((problems[0].line, problems[0].column), (16, 10));
}
