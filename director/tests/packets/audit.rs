//! Differences are found, told, and repaired.

use director_core::{EndpointState, Mode, Protocol};

use crate::{
    edge::{Edge, PASS, REDIRECT, service},
    frames::tcp,
};

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    for mode in [Mode::Tunnel, Mode::Nat] {
        let web = service("203.0.113.10", Protocol::Tcp, mode, &["198.18.1.11", "198.18.2.11"]);
        let Some(mut edge) = Edge::with(&web) else { return };
        assert_eq!(edge.datapath.audit().unwrap(), []);
        edge.apply(&web, &[EndpointState::Dead, EndpointState::Active]);
        assert_eq!(edge.datapath.audit().unwrap(), []);
        edge.datapath.remove("web").unwrap();
        assert_eq!(edge.datapath.audit().unwrap(), []);
    }
}

#[test]
fn a_removed_service_passes() {
    let web = service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &["198.18.1.11"]);
    let Some(mut edge) = Edge::with(&web) else { return };
    let frame = tcp("192.0.2.1:1000", "203.0.113.10:80").frame();
    assert_eq!(edge.run(&frame).action, REDIRECT);
    edge.datapath.remove("web").unwrap();
    assert_eq!(edge.run(&frame).action, PASS);
}
