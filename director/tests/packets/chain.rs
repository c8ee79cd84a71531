//! Another XDP program behind director's, in `NEXT`.

use aya::{
    Ebpf,
    maps::{Map, MapData, ProgramArray},
    programs::Xdp,
};
use director_core::{EndpointState, Mode, Protocol};

use crate::{
    adopt::Place,
    edge::{DROP, EGRESS, REDIRECT, TX, service},
    frames::tcp,
};

/// Holds `bench_empty`, which sends back whatever comes.
const OBJECT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../director-ebpf/obj/director-xdp-bench.o"
);

#[test]
fn what_is_not_steered_goes_to_the_next_program() {
    let Some(place) = Place::new() else { return };
    let (mut edge, _) = place.open();
    let web = service(
        "203.0.113.10",
        Protocol::Tcp,
        Mode::Tunnel,
        &["198.18.1.11"],
    );
    edge.hop(web.endpoints[0].address, EGRESS);
    edge.apply(&web, &[EndpointState::Active]);
    let ours = tcp("192.0.2.1:1000", "203.0.113.10:80").frame();
    let mut refused = ours.clone();
    refused[20..22].copy_from_slice(&[0x20, 0]);
    let others = [
        tcp("192.0.2.1:1000", "203.0.113.11:80").frame(),
        tcp("192.0.2.1:1000", "203.0.113.10:81").frame(),
        tcp("[2001:db8::1]:1000", "[2001:db8:53::10]:80").frame(),
        // ARP.
        [&[0xff; 6][..], &[2; 6], &[8, 6], &[0; 46]].concat(),
        // A tagged frame.
        [&[2; 12][..], &[0x81, 0, 0, 5, 8, 0], &[0x45; 40]].concat(),
    ];
    for frame in &others {
        edge.passes(frame);
    }

    let mut other = Ebpf::load_file(OBJECT).unwrap();
    let other: &mut Xdp = other
        .program_mut("bench_empty")
        .unwrap()
        .try_into()
        .unwrap();
    other.load().unwrap();
    let pinned = MapData::from_pin(place.root().join("NEXT")).unwrap();
    let mut next = ProgramArray::try_from(Map::ProgramArray(pinned)).unwrap();
    next.set(0, other.fd().unwrap(), 0).unwrap();
    for frame in &others {
        let out = edge.run(frame);
        assert_eq!((out.action, out.frame.as_slice()), (TX, frame.as_slice()));
    }
    assert_eq!(edge.run(&ours).action, REDIRECT);
    assert_eq!(edge.run(&refused).action, DROP);

    // It stays there while no daemon runs, and for the next one.
    drop(edge);
    let (mut edge, _) = place.open();
    assert_eq!(edge.run(&others[0]).action, TX);
    assert_eq!(edge.run(&ours).action, REDIRECT);

    next.clear_index(&0).unwrap();
    for frame in &others {
        edge.passes(frame);
    }
    assert_eq!(edge.run(&ours).action, REDIRECT);
}
