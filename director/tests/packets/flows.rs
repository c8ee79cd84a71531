//! Recorded flows as they are listed, and flow events as they are told.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use director::datapath::{
    Conn, ConnFilter, ConnState, Cursor, Datapath, Events, Happened, Told, Vip,
};
use director_core::{EndpointState, Mode, Protocol, Track, model::Service};

use crate::{
    edge::{Edge, NAT4, NAT6, service},
    frames::{tcp, udp},
};

const VIP4: &str = "203.0.113.10";
const VIP6: &str = "2001:db8:a::10";
const SERVERS4: [&str; 2] = ["198.18.1.11", "198.18.2.11"];
const SERVERS6: [&str; 2] = ["2001:db8:b::11", "2001:db8:c::11"];

fn always(vip: &str, mode: Mode, endpoints: &[&str]) -> Service {
    let mut service = service(vip, Protocol::Tcp, mode, endpoints);
    service.steering.track = Track::Always;
    service
}

fn list(datapath: &Datapath, filter: &ConnFilter) -> Vec<Conn> {
    let mut cursor = Cursor::default();
    let mut all = Vec::new();
    while !cursor.is_at_end() {
        let until = Instant::now() + Duration::from_millis(1);
        all.extend(datapath.conns(filter, &mut cursor, 16, until));
    }
    all.sort_by_key(|conn| (conn.source, conn.destination));
    all
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Opens connections from ports 40000, 40001, …
fn open(edge: &mut Edge, client: &str, vip: &str, count: u16) {
    for port in 40_000..40_000 + count {
        edge.run(
            &tcp(&format!("{client}:{port}"), &format!("{vip}:80"))
                .syn()
                .frame(),
        );
    }
}

#[test]
fn every_recorded_flow_is_listed_once() {
    for (vip, client, servers) in [
        (VIP4, "192.0.2.1", SERVERS4),
        ("[2001:db8:a::10]", "[2001:db8::1]", SERVERS6),
    ] {
        let service = always(vip.trim_matches(['[', ']']), Mode::Tunnel, &servers);
        let Some(mut edge) = Edge::with(&service) else {
            return;
        };
        open(&mut edge, client, vip, 100);
        let all = list(&edge.datapath, &ConnFilter::default());
        let sources: Vec<_> = all.iter().map(|conn| conn.source).collect();
        let wanted = (40_000..40_100).map(|port| address(&format!("{client}:{port}")));
        assert_eq!(sources, wanted.collect::<Vec<_>>());
        let to: HashSet<IpAddr> = all.iter().map(|conn| conn.endpoint.0).collect();
        assert_eq!(to, servers.map(|it| it.parse().unwrap()).into());
        for conn in &all {
            assert_eq!(conn.vip, Vip::from(&service));
            assert_eq!(conn.destination, address(&format!("{vip}:80")));
            assert_eq!(conn.state, ConnState::Opening);
            assert!(conn.idle <= 2 && conn.nat.is_none(), "{conn:?}");
        }
    }
}

#[test]
fn a_flow_is_listed_by_how_far_it_has_come() {
    let service = always(VIP4, Mode::Tunnel, &SERVERS4);
    let Some(mut edge) = Edge::with(&service) else {
        return;
    };
    let state = |edge: &Edge| list(&edge.datapath, &ConnFilter::default())[0].state;
    let packet = tcp("192.0.2.1:40000", "203.0.113.10:80");
    edge.run(&packet.clone().syn().frame());
    assert_eq!(state(&edge), ConnState::Opening);
    edge.run(&packet.frame());
    assert_eq!(state(&edge), ConnState::Established);
    let mut last = packet;
    last.fin = true;
    edge.run(&last.frame());
    assert_eq!(state(&edge), ConnState::Closing);
}

#[test]
fn nat_flows_are_listed_with_their_ports() {
    for (vip, client, nat, servers) in [
        (VIP4, "192.0.2.1", NAT4, SERVERS4),
        ("[2001:db8:a::10]", "[2001:db8::1]", NAT6, SERVERS6),
    ] {
        let service = service(
            vip.trim_matches(['[', ']']),
            Protocol::Tcp,
            Mode::Nat,
            &servers,
        );
        let Some(mut edge) = Edge::with(&service) else {
            return;
        };
        let mut seen = Vec::new();
        for port in 40_000..40_020 {
            let source = format!("{client}:{port}");
            let out = edge.run(&tcp(&source, &format!("{vip}:80")).syn().frame());
            let sent = crate::frames::read(&out.frame);
            assert_eq!(sent.source.ip(), nat.parse::<IpAddr>().unwrap());
            seen.push((
                address(&source),
                Some(sent.source),
                sent.destination.into_parts(),
            ));
        }
        let all = list(&edge.datapath, &ConnFilter::default());
        let told: Vec<_> = all
            .iter()
            .map(|it| (it.source, it.nat, it.endpoint))
            .collect();
        assert_eq!(told, seen);
        assert!(all.iter().all(|it| it.state == ConnState::Opening));
    }
}

trait IntoParts {
    fn into_parts(self) -> (IpAddr, u16);
}

impl IntoParts for SocketAddr {
    fn into_parts(self) -> (IpAddr, u16) {
        (self.ip(), self.port())
    }
}

#[test]
fn only_what_is_asked_for_is_listed() {
    let web = always(VIP4, Mode::Tunnel, &SERVERS4);
    let mut other = always("203.0.113.11", Mode::Tunnel, &SERVERS4);
    other.name = "other".into();
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    edge.apply(&other, &[EndpointState::Active; 2]);
    open(&mut edge, "192.0.2.1", VIP4, 20);
    open(&mut edge, "192.0.2.200", "203.0.113.11", 20);
    let all = list(&edge.datapath, &ConnFilter::default());
    assert_eq!(all.len(), 40);
    let endpoint = (Vip::from(&web), all[0].endpoint.0, all[0].endpoint.1);
    let by_vip = ConnFilter {
        vip: Some(Vip::from(&other)),
        ..ConnFilter::default()
    };
    let by_source = ConnFilter {
        source: Some("192.0.2.128/25".parse().unwrap()),
        ..ConnFilter::default()
    };
    let by_endpoint = ConnFilter {
        endpoints: Some(HashSet::from([endpoint])),
        ..ConnFilter::default()
    };
    let none = ConnFilter {
        vip: Some(Vip::from(&web)),
        ..by_source.clone()
    };
    let is_there = |conn: &Conn| (conn.vip, conn.endpoint.0, conn.endpoint.1) == endpoint;
    for (filter, wanted) in [
        (by_vip, all[20..].to_vec()),
        (by_source, all[20..].to_vec()),
        (
            by_endpoint,
            all.iter().filter(|it| is_there(it)).cloned().collect(),
        ),
        (none, Vec::new()),
    ] {
        assert_eq!(list(&edge.datapath, &filter), wanted, "{filter:?}");
    }
}

#[test]
fn a_listing_in_pieces_is_bounded_by_what_is_asked() {
    let service = always(VIP4, Mode::Tunnel, &SERVERS4);
    let Some(mut edge) = Edge::with(&service) else {
        return;
    };
    open(&mut edge, "192.0.2.1", VIP4, 100);
    let mut cursor = Cursor::default();
    let until = Instant::now() + Duration::from_secs(9);
    let some = edge
        .datapath
        .conns(&ConnFilter::default(), &mut cursor, 10, until);
    // To the end of its bucket.
    assert!((10..18).contains(&some.len()), "{}", some.len());
    let past = Instant::now();
    let mut before = cursor;
    while !cursor.is_at_end() {
        let _ = edge
            .datapath
            .conns(&ConnFilter::default(), &mut cursor, 10, past);
        assert_ne!(cursor, before, "it goes on though time is up");
        before = cursor;
    }
}

/// What was told of since the last call.
fn told(edge: &Edge, events: &mut Events) -> Vec<Told> {
    let runtime = tokio::runtime::Handle::current();
    let read = async { tokio::time::timeout(Duration::from_millis(200), events.read(1000)).await };
    let events = runtime
        .block_on(read)
        .map_or_else(|_| Vec::new(), Result::unwrap);
    events
        .iter()
        .map(|event| edge.datapath.tell(event))
        .collect()
}

#[test]
fn an_event_is_told_for_every_flow_that_begins_or_moves() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let service = always(VIP6, Mode::Tunnel, &SERVERS6);
    let Some(mut edge) = Edge::with(&service) else {
        return;
    };
    let mut events = edge.datapath.events().unwrap();
    let (client, vip) = ("[2001:db8::1]", "[2001:db8:a::10]");
    open(&mut edge, client, vip, 5);
    assert_eq!(told(&edge, &mut events), [], "nobody traces");

    edge.datapath.set_trace(1).unwrap();
    assert!(edge.datapath.audit().unwrap().is_empty());
    open(&mut edge, "[2001:db8::2]", vip, 50);
    let begun = told(&edge, &mut events);
    assert_eq!(begun.len(), 50);
    for (event, port) in begun.iter().zip(40_000..) {
        assert_eq!(event.happened, Happened::Placed);
        assert_eq!(event.source, address(&format!("[2001:db8::2]:{port}")));
        assert_eq!(event.destination, address(&format!("{vip}:80")));
        assert_eq!(event.vip, Some(Vip::from(&service)));
        assert_eq!((event.protocol, event.tcp_flags), (Protocol::Tcp, 2));
        assert!(event.age < Duration::from_secs(5));
    }
    // Packets in between are none.
    edge.run(&tcp("[2001:db8::2]:40000", &format!("{vip}:80")).frame());
    assert_eq!(told(&edge, &mut events), []);

    edge.apply(&service, &[EndpointState::Dead, EndpointState::Active]);
    let gone: IpAddr = SERVERS6[0].parse().unwrap();
    let lost = begun
        .iter()
        .find(|it| it.endpoint.unwrap().0 == gone)
        .unwrap();
    edge.run(&tcp(&lost.source.to_string(), &format!("{vip}:80")).frame());
    let moved = told(&edge, &mut events);
    assert_eq!(moved.len(), 1);
    assert_eq!(moved[0].happened, Happened::Moved);
    assert_eq!(
        moved[0].endpoint.unwrap().0,
        SERVERS6[1].parse::<IpAddr>().unwrap()
    );

    edge.datapath.set_trace(0).unwrap();
    open(&mut edge, "[2001:db8::3]", vip, 5);
    assert_eq!(told(&edge, &mut events), []);
}

#[test]
fn a_round_of_sweeping_counts_flows_and_ports() {
    let web = always(VIP4, Mode::Tunnel, &SERVERS4);
    let mut nat = service(VIP6, Protocol::Udp, Mode::Nat, &SERVERS6);
    nat.name = "dns".into();
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    for endpoint in &nat.endpoints {
        edge.hop(endpoint.address, crate::edge::EGRESS);
    }
    edge.apply(&nat, &[EndpointState::Active; 2]);
    open(&mut edge, "192.0.2.1", VIP4, 30);
    for port in 1..=7 {
        edge.run(&udp(&format!("[2001:db8::1]:{port}"), "[2001:db8:a::10]:80").frame());
    }
    // NAT tables of one address have 8192 buckets: a few calls' worth.
    for _ in 0..8 {
        edge.datapath.sweep(Duration::from_secs(3600));
    }
    let [v4, v6] = edge.datapath.table_use();
    assert_eq!((v4.family, v4.flows, v4.nat_ports), (4, 30, 0));
    assert_eq!((v6.family, v6.flows, v6.nat_ports), (6, 7, 7));
    assert!(v4.flow_capacity >= 2 * 4096);
    assert_eq!(v6.nat_capacity, 65_536 - 1024);
}
