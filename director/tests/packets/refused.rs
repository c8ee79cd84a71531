//! What is not steered: passed untouched, or refused by name. Nothing a frame
//! holds may be misread.

use director_core::{Mode, Protocol};

use crate::{
    edge::{DROP, Edge, PASS, service},
    frames::{tcp, udp},
};

fn edge() -> Option<Edge> {
    let mut edge = Edge::with(&service(
        "203.0.113.10",
        Protocol::Tcp,
        Mode::Tunnel,
        &["198.18.1.11", "198.18.2.11"],
    ))?;
    let mut web6 = service(
        "2001:db8:53::10",
        Protocol::Tcp,
        Mode::Tunnel,
        &["2001:db8:11::11"],
    );
    web6.name = "web6".into();
    edge.apply(&web6, &[director_core::EndpointState::Active]);
    Some(edge)
}

#[test]
fn what_is_not_for_a_service_passes_untouched() {
    let Some(mut edge) = edge() else { return };
    for frame in [
        tcp("192.0.2.1:1000", "203.0.113.11:80").frame(),
        tcp("192.0.2.1:1000", "203.0.113.10:81").frame(),
        udp("192.0.2.1:1000", "203.0.113.10:80").frame(),
        tcp("[2001:db8::1]:1000", "[2001:db8:53::11]:80").frame(),
        tcp("[2001:db8::1]:1000", "[2001:db8:53::10]:81").frame(),
        // ARP.
        [&[0xff; 6][..], &[2; 6], &[8, 6], &[0; 46]].concat(),
        // VLAN-tagged IPv4.
        [&[2; 12][..], &[0x81, 0, 0, 5, 8, 0], &[0x45; 40]].concat(),
        vec![0; 60],
        vec![0xff; 60],
        vec![0; 14],
    ] {
        edge.passes(&frame);
    }
}

#[test]
fn icmp_that_is_neither_echo_nor_an_error_passes() {
    let Some(mut edge) = edge() else { return };
    // Its type is where the source port's upper half was: a time stamp, and a
    // neighbour advertisement.
    let mut frame = tcp("192.0.2.1:3329", "203.0.113.10:80").frame();
    frame[23] = 1;
    // Not a type that IANA has given to anything.
    frame[34] = 200;
    edge.passes(&frame);
    let mut frame = tcp("[2001:db8::1]:34816", "[2001:db8:53::10]:80").frame();
    frame[20] = 58;
    frame[54] = 200;
    edge.passes(&frame);
}

#[test]
fn every_truncation_passes_untouched() {
    let Some(mut edge) = edge() else { return };
    for whole in [
        tcp("192.0.2.1:1000", "203.0.113.10:80").frame(),
        tcp("[2001:db8::1]:1000", "[2001:db8:53::10]:80").frame(),
    ] {
        for length in 14..whole.len() {
            edge.passes(&whole[..length]);
        }
        assert_ne!(edge.run(&whole).action, PASS);
    }
}

#[test]
fn fragments_to_a_vip_are_dropped_and_others_pass() {
    let Some(mut edge) = edge() else { return };
    // More fragments; an offset; both.
    for flags in [[0x20, 0], [0, 1], [0x20, 185]] {
        let mut frame = tcp("192.0.2.1:1000", "203.0.113.10:80").frame();
        frame[20..22].copy_from_slice(&flags);
        edge.refuses(&frame, DROP, "fragment");
        let mut frame = tcp("192.0.2.1:1000", "203.0.113.99:80").frame();
        frame[20..22].copy_from_slice(&flags);
        edge.passes(&frame);
    }
    let mut frame = tcp("[2001:db8::1]:1000", "[2001:db8:53::10]:80").frame();
    frame[20] = 44;
    edge.refuses(&frame, DROP, "fragment");
}

#[test]
fn dont_fragment_is_no_fragment() {
    let Some(mut edge) = edge() else { return };
    let mut frame = tcp("192.0.2.1:1000", "203.0.113.10:80").frame();
    frame[20..22].copy_from_slice(&[0x40, 0]);
    assert_ne!(edge.run(&frame).action, PASS);
}

#[test]
fn extension_headers_to_a_vip_are_refused_by_name() {
    let Some(mut edge) = edge() else { return };
    for header in [0, 43, 50, 51, 60, 135, 139, 140, 253, 254] {
        let mut frame = tcp("[2001:db8::1]:1000", "[2001:db8:53::10]:80").frame();
        frame[20] = header;
        edge.refuses(&frame, DROP, "extension_header");
        let mut frame = tcp("[2001:db8::1]:1000", "[2001:db8:53::99]:80").frame();
        frame[20] = header;
        edge.passes(&frame);
    }
}

#[test]
fn headers_that_contradict_themselves_pass_counted() {
    let Some(mut edge) = edge() else { return };
    let whole = tcp("192.0.2.1:1000", "203.0.113.10:80").frame();
    // Version; header length below 5; total length below the header's, and
    // below a TCP header's.
    for (offset, bytes) in [
        (14, &[0x65][..]),
        (14, &[0x44]),
        (14, &[0x40]),
        (16, &[0, 19]),
        (16, &[0, 39]),
    ] {
        let mut frame = whole.clone();
        frame[offset..offset + bytes.len()].copy_from_slice(bytes);
        edge.refuses(&frame, PASS, "malformed");
    }
    // A header length that reaches past the packet's end leaves no room for
    // ports.
    let mut frame = whole.clone();
    frame[14] = 0x4f;
    edge.refuses(&frame, PASS, "malformed");
    // A total length past the frame's end.
    let mut frame = whole;
    frame[16..18].copy_from_slice(&[0xff, 0xff]);
    edge.refuses(&frame, PASS, "truncated");

    let whole = tcp("[2001:db8::1]:1000", "[2001:db8:53::10]:80").frame();
    for (offset, bytes) in [(14, &[0x40][..]), (18, &[0, 19]), (18, &[0xff, 0xff])] {
        let mut frame = whole.clone();
        frame[offset..offset + bytes.len()].copy_from_slice(bytes);
        edge.refuses(&frame, PASS, "malformed");
    }
}

#[test]
fn any_bytes_are_survived() {
    let Some(mut edge) = edge() else { return };
    let mut random = fastrand::Rng::with_seed(11);
    let wholes = [
        tcp("192.0.2.1:1000", "203.0.113.10:80").frame(),
        tcp("[2001:db8::1]:1000", "[2001:db8:53::10]:80").frame(),
    ];
    for _ in 0..5000 {
        let mut frame = wholes[random.usize(..2)].clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(12..frame.len());
            frame[at] = random.u8(..);
        }
        frame.truncate(random.usize(14..=frame.len()));
        let out = edge.run(&frame);
        match out.action {
            PASS | DROP => assert_eq!(out.frame, frame),
            // What was steered must be a well-formed outer packet.
            _ => drop(crate::frames::open(&out.frame)),
        }
    }
}
