//! What is told of packets, and what is written of them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use etherparse::Ipv4Header;
use serde_json::json;

use crate::{
    command::{CONFIG, Lab},
    files::{self, Packet},
    frames::{self, CLIENT_MAC, EDGE_MAC, Spec, tcp},
};

/// The Ethernet header towards every endpoint: destination, source.
const HOP: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);

fn address(endpoint: &str) -> std::net::IpAddr {
    let address = match endpoint {
        "web/a" => "198.18.1.11",
        "web/b" => "198.18.2.11",
        "web6/a" => "2001:db8:11::11",
        "web6/b" => "2001:db8:12::11",
        "nat/a" => "198.18.1.21",
        "nat/b" => "198.18.2.21",
        "nat6/a" => "2001:db8:11::21",
        "nat6/b" => "2001:db8:12::21",
        other => panic!("no endpoint {other}"),
    };
    address.parse().unwrap()
}

/// SYNs from `count` ports to a service.
fn syns(source: &str, destination: &str, count: u16) -> Vec<Spec> {
    let syn = |port| {
        let mut spec = tcp(source, destination).syn();
        spec.source.set_port(port);
        spec
    };
    (40_000..40_000 + count).map(syn).collect()
}

fn built(specs: &[Spec]) -> Vec<Vec<u8>> {
    specs.iter().map(Spec::frame).collect()
}

#[test]
fn tunnelled_packets_leave_within_an_outer_header() {
    let Some(lab) = Lab::new() else { return };
    for (client, vip, source) in [
        ("192.0.2.1:1", "203.0.113.10:80", "198.51.100.1"),
        ("[2001:db8::1]:1", "[2001:db8:53::10]:80", "2001:db8:1::1"),
    ] {
        let specs = syns(client, vip, 64);
        let told = lab.frames(&built(&specs), &[]);
        assert_eq!(told.lines.len(), 64);
        assert_eq!(told.out.len(), 64);
        let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
        for ((spec, line), packet) in specs.iter().zip(&told.lines).zip(&told.out) {
            let endpoint = line["endpoint"].as_str().unwrap();
            *shares.entry(endpoint).or_default() += 1;
            let (outer_source, outer_destination, inner) = frames::open(&packet.data);
            assert_eq!(outer_source, source.parse::<std::net::IpAddr>().unwrap());
            assert_eq!(outer_destination, address(endpoint));
            assert_eq!(frames::read(&inner).macs, HOP);
            assert_eq!(inner[14..], spec.frame()[14..]);
            assert_eq!(packet.length as usize, packet.data.len());
        }
        assert_eq!(shares.len(), 2, "both sites have a share: {shares:?}");
        assert!(told.verdicts().iter().all(|v| v == &redirected()));
    }
}

fn redirected() -> (String, Option<String>) {
    ("redirect".to_owned(), None)
}

fn not_steered(verdict: &str, cause: &str) -> (String, Option<String>) {
    (verdict.to_owned(), Some(cause.to_owned()))
}

#[test]
fn a_line_has_these_keys() {
    let Some(lab) = Lab::new() else { return };
    let frames = [
        tcp("192.0.2.1:1", "203.0.113.10:80").frame(),
        tcp("192.0.2.1:1", "203.0.113.99:80").frame(),
    ];
    let told = lab.frames(&frames, &["--down", "dc02"]);
    let length = frames[0].len();
    assert_eq!(
        told.lines,
        [
            json!({
                "packet": 1, "verdict": "redirect", "cause": null, "endpoint": "web/a",
                "service": "web", "site": "dc01",
                "length_in": length, "length_out": length + 20,
            }),
            json!({
                "packet": 2, "verdict": "pass", "cause": "not_ours", "endpoint": null,
                "service": null, "site": null,
                "length_in": length, "length_out": null,
            }),
        ]
    );
}

#[test]
fn people_get_an_aligned_line_for_every_packet() {
    let Some(lab) = Lab::new() else { return };
    let steered = tcp("192.0.2.1:1", "203.0.113.10:80").frame();
    let frames = [steered.clone(), vec![0; 1514], steered];
    let packets: Vec<Packet> = frames.iter().map(|f| Packet::at(0, f)).collect();
    let input = lab.write("in.pcap", &files::pcap(&packets));
    let ended = lab.start(&input, &lab.path("out.pcap"), &["--down", "dc02"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    let expected = "     1  redirect     73 -> 93 bytes    web/a   dc01\n     \
                        2  pass       1514 bytes          not_ours\n     \
                        3  redirect     73 -> 93 bytes    web/a   dc01\n";
    assert_eq!(ended.stdout, expected);
}

/// Sends a packet to a service in `nat` mode; says what its endpoint gets.
fn forward(lab: &Lab, spec: &Spec, source: &str) -> frames::Seen {
    let told = lab.frames(&[spec.frame()], &[]);
    let endpoint = told.lines[0]["endpoint"].as_str().unwrap();
    assert_eq!(told.verdicts(), [redirected()]);
    let seen = frames::read(&told.out[0].data);
    assert_eq!(seen.macs, HOP);
    assert_eq!(seen.destination, (address(endpoint), 8080).into());
    assert_eq!(
        seen.source.ip(),
        source.parse::<std::net::IpAddr>().unwrap()
    );
    seen
}

#[test]
fn nat_replaces_both_addresses() {
    let Some(lab) = Lab::new() else { return };
    let v4 = tcp("192.0.2.1:40000", "203.0.113.20:80");
    forward(&lab, &v4, "198.51.100.2");
    let v6 = tcp("[2001:db8::1]:40000", "[2001:db8:53::20]:80");
    forward(&lab, &v6, "2001:db8:1::2");
}

/// Which port stands for a client may differ from run to run, so the server
/// answers to all of them: one answer reaches the client.
#[test]
fn replies_of_nat_reach_the_client() {
    let Some(lab) = Lab::new() else { return };
    let spec = tcp("192.0.2.1:40000", "203.0.113.20:80");
    let got = forward(&lab, &spec, "198.51.100.2");
    let reply = |port| {
        let reply = Spec {
            source: got.destination,
            destination: (got.source.ip(), port).into(),
            payload: Vec::new(),
            ..spec.clone()
        };
        reply.frame()
    };
    let mut frames = vec![spec.frame()];
    frames.extend((1024..=u16::MAX).map(reply));
    let told = lab.frames(&frames, &[]);
    let mut verdicts: BTreeMap<_, u32> = BTreeMap::new();
    for verdict in told.verdicts() {
        *verdicts.entry(verdict).or_default() += 1;
    }
    let expected = BTreeMap::from([
        (redirected(), 1),
        (("tx".to_owned(), None), 1),
        (not_steered("drop", "nat_no_flow"), 64_511),
    ]);
    assert_eq!(verdicts, expected);
    assert_eq!(told.out.len(), 2);
    let seen = frames::read(&told.out[1].data);
    assert_eq!(
        (seen.source, seen.destination),
        (spec.destination, spec.source)
    );
    assert_eq!(seen.macs, (CLIENT_MAC, EDGE_MAC));
}

#[test]
fn what_is_not_steered_is_told_with_its_cause() {
    let Some(lab) = Lab::new() else { return };
    let whole = tcp("192.0.2.1:40000", "203.0.113.10:80").frame();
    let mut fragment = whole.clone();
    fragment[20] = 0x20;
    let mut arp = whole.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut last_hop = tcp("192.0.2.1:40000", "203.0.113.20:80");
    last_hop.hop_limit = 1;
    let mut large = tcp("192.0.2.1:40000", "203.0.113.10:80");
    large.payload = vec![0; 1441];
    let mut malformed = whole.clone();
    malformed[14] = 0x55;
    let told = lab.frames(
        &[
            tcp("192.0.2.1:40000", "203.0.113.10:81").frame(),
            fragment,
            arp,
            last_hop.frame(),
            large.frame(),
            malformed,
            vec![0; 60],
            vec![0; 60_000],
        ],
        &[],
    );
    assert_eq!(
        told.verdicts(),
        [
            not_steered("pass", "not_ours"),
            not_steered("drop", "fragment"),
            not_steered("pass", "not_ours"),
            not_steered("drop", "hop_limit"),
            not_steered("tx", "too_big_told"),
            not_steered("pass", "malformed"),
            not_steered("pass", "not_ours"),
            not_steered("pass", "frame_too_long"),
        ]
    );
    // The answer to the one that is too big.
    assert_eq!(told.out.len(), 1);
}

#[test]
fn packets_captured_short_are_run_as_captured() {
    let Some(lab) = Lab::new() else { return };
    let frame = tcp("192.0.2.1:40000", "203.0.113.10:80").frame();
    let short = |length: usize| Packet {
        data: frame[..length].to_vec(),
        ..Packet::at(0, &frame)
    };
    let packets: Vec<Packet> = (0..=frame.len()).map(short).collect();
    let told = lab.run(&files::pcap(&packets), &[]);
    let mut expected = vec![not_steered("pass", "truncated"); frame.len()];
    expected.push(redirected());
    assert_eq!(told.verdicts(), expected);
    assert_eq!(told.out.len(), 1);

    // Where the IP packet is whole, and only the frame's padding was cut off.
    let padded = Packet {
        length: 1000,
        ..Packet::at(5, &frame)
    };
    let told = lab.run(&files::pcap(&[padded]), &[]);
    assert_eq!(told.verdicts(), [redirected()]);
    let missing = 1000 - frame.len();
    assert_eq!(
        told.out[0].length as usize,
        told.out[0].data.len() + missing
    );
}

#[test]
fn the_mtu_decides_what_fits() {
    let Some(lab) = Lab::new() else { return };
    let mut spec = tcp("192.0.2.1:40000", "203.0.113.10:80");
    for (payload, mtu, fits) in [
        (1440, 1500, true),
        (1441, 1500, false),
        (1441, 1501, true),
        (3300, 9000, true),
        (40, 99, false),
    ] {
        spec.payload = vec![0; payload];
        let told = lab.frames(&[spec.frame()], &["--mtu", &mtu.to_string()]);
        let expected = if fits {
            redirected()
        } else {
            not_steered("tx", "too_big_told")
        };
        assert_eq!(told.verdicts(), [expected], "{payload} bytes, MTU {mtu}");
        if fits {
            let length = Ipv4Header::from_slice(&told.out[0].data[14..])
                .unwrap()
                .0
                .total_len;
            assert_eq!(usize::from(length), payload + 60);
        }
    }
}

#[test]
fn who_is_down_or_drained_gets_no_new_flows() {
    let Some(lab) = Lab::new() else { return };
    let frames = built(&syns("192.0.2.1:1", "203.0.113.10:80", 64));
    let count = |more: &[&str], endpoint: &str| {
        let told = lab.frames(&frames, more);
        told.endpoints()
            .iter()
            .filter(|e| **e == Some(endpoint))
            .count()
    };
    let both = count(&[], "web/a");
    assert!((1..64).contains(&both), "{both}");
    for name in ["dc02", "web/b"] {
        for option in ["--down", "--drain"] {
            assert_eq!(count(&[option, name], "web/a"), 64, "{option} {name}");
        }
    }
    assert_eq!(count(&["--down", "web6/b"], "web/a"), both);
    assert_eq!(count(&["--down", "web/b", "--drain", "nat/a"], "web/a"), 64);

    // The last endpoint is not taken out, and that is said.
    let input = lab.path("in.pcap");
    let out = lab.path("out.pcap");
    let all_down = ["--json", "--down", "dc01", "--down", "dc02"];
    let ended = lab.start(&input, &out, &all_down);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("note: service web would have no endpoint left")
    );
    assert!(
        ended
            .lines()
            .iter()
            .all(|line| line["verdict"] == "redirect")
    );
}

#[test]
fn ten_thousand_packets_take_seconds() {
    let Some(lab) = Lab::new() else { return };
    let (head, _) = CONFIG.split_once("[[service]]").unwrap();
    let mut config = head.replace("251", "16381").replace("= 32", "= 128");
    config += "[[service]]\nname = \"web\"\nvip = \"203.0.113.10\"\nport = 80\n\
               protocol = \"tcp\"\nmode = \"tunnel\"\n";
    for endpoint in 1..=100 {
        let site = 1 + endpoint % 2;
        config += &format!(
            "[[service.endpoint]]\nname = \"e{endpoint}\"\nsite = \"dc0{site}\"\n\
             address = \"198.18.{site}.{endpoint}\"\n"
        );
    }
    lab.write("director.toml", config.as_bytes());
    let frames = built(&syns("192.0.2.1:1", "203.0.113.10:80", 10_000));
    let start = Instant::now();
    let told = lab.frames(&frames, &[]);
    let took = start.elapsed();
    assert_eq!(told.out.len(), 10_000);
    let mut shares: BTreeMap<_, u32> = BTreeMap::new();
    for endpoint in told.endpoints() {
        *shares.entry(endpoint.unwrap()).or_default() += 1;
    }
    assert_eq!(shares.len(), 100);
    assert!(took < Duration::from_secs(30), "{took:?}");
}
