//! Differences are found, told, and repaired.

use director_core::{EndpointState, Mode, Protocol};

use crate::{
    edge::{Edge, PASS, REDIRECT, service},
    frames::tcp,
};

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    for mode in [Mode::Tunnel, Mode::Nat] {
        let web = service(
            "203.0.113.10",
            Protocol::Tcp,
            mode,
            &["198.18.1.11", "198.18.2.11"],
        );
        let Some(mut edge) = Edge::with(&web) else {
            return;
        };
        assert_eq!(edge.datapath.audit().unwrap(), []);
        edge.apply(&web, &[EndpointState::Dead, EndpointState::Active]);
        assert_eq!(edge.datapath.audit().unwrap(), []);
        edge.datapath.remove("web").unwrap();
        assert_eq!(edge.datapath.audit().unwrap(), []);
    }
}

#[test]
fn a_removed_service_passes() {
    let web = service(
        "203.0.113.10",
        Protocol::Tcp,
        Mode::Tunnel,
        &["198.18.1.11"],
    );
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    let frame = tcp("192.0.2.1:1000", "203.0.113.10:80").frame();
    assert_eq!(edge.run(&frame).action, REDIRECT);
    edge.datapath.remove("web").unwrap();
    assert_eq!(edge.run(&frame).action, PASS);
}

#[test]
fn a_foreign_hand_is_found_and_undone() {
    use aya::maps::{
        Array, HashMap, Map, MapData,
        lpm_trie::{Key, LpmTrie},
    };
    let web = service(
        "203.0.113.10",
        Protocol::Tcp,
        Mode::Tunnel,
        &["198.18.1.11", "198.18.2.11"],
    );
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    edge.datapath
        .set_deny(&["198.51.100.0/24".parse().unwrap()])
        .unwrap();
    let frame = tcp("192.0.2.1:1000", "203.0.113.10:80").frame();
    let right = edge.run(&frame).frame;

    let ids = edge
        .datapath
        .program()
        .unwrap()
        .info()
        .unwrap()
        .map_ids()
        .unwrap()
        .unwrap();
    let named = |name: &str| {
        let found = ids.iter().map(|id| MapData::from_id(*id).unwrap());
        let mut found = found.filter(|map| map.info().unwrap().name_as_str() == Some(name));
        found.next().expect(name)
    };
    let mut services: HashMap<_, [u8; 8], [u8; 28]> =
        Map::HashMap(named("SERVICES4")).try_into().unwrap();
    let mut endpoints: Array<_, [u8; 64]> = Map::Array(named("ENDPOINTS")).try_into().unwrap();
    let mut slots: Array<_, u64> = Map::Array(named("SLOTS")).try_into().unwrap();
    let mut banks: Array<_, u32> = Map::Array(named("BANKS")).try_into().unwrap();
    let mut hints: Array<_, u32> = Map::Array(named("HINTS")).try_into().unwrap();
    let mut filter: Array<_, u64> = Map::Array(named("FILTER")).try_into().unwrap();
    let mut entries: Array<_, [u8; 64]> = Map::Array(named("ENTRIES")).try_into().unwrap();
    let key = services.keys().next().unwrap().unwrap();
    services.remove(&key).unwrap();
    services.insert([1; 8], [1; 28], 0).unwrap();
    for hint in 0..hints.len() {
        hints.set(hint, 0, 0).unwrap();
    }
    filter.set(filter.len() - 1, 7, 0).unwrap();
    entries.set(0, [9; 64], 0).unwrap();
    endpoints.set(1, [7; 64], 0).unwrap();
    slots.set(3, 29, 0).unwrap();
    banks.set(0, 1, 0).unwrap();
    let mut denied: LpmTrie<_, [u8; 4], u32> = Map::LpmTrie(named("DENY4")).try_into().unwrap();
    denied.insert(&Key::new(8, [192, 0, 0, 0]), 1, 0).unwrap();
    denied.remove(&Key::new(24, [198, 51, 100, 0])).unwrap();
    assert_eq!(edge.run(&frame).action, PASS);

    let mut found: Vec<&str> = edge
        .datapath
        .audit()
        .unwrap()
        .iter()
        .map(|difference| difference.map)
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "BANKS",
            "DENY4",
            "ENDPOINTS",
            "ENTRIES",
            "FILTER",
            "HINTS",
            "SERVICES4",
            "SERVICES4",
            "SLOTS"
        ]
    );
    assert_eq!(edge.datapath.audit().unwrap(), []);
    assert_eq!(edge.run(&frame).frame, right);
}
