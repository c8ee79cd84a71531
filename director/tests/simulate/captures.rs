//! Captures of every kind, and files that are none.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use crate::{
    command::Lab,
    files::{self, Packet},
    frames::tcp,
};

/// One packet that is steered, one that is not, one more.
fn packets() -> Vec<Packet> {
    [
        tcp("192.0.2.1:1", "203.0.113.10:80").frame(),
        tcp("192.0.2.1:2", "203.0.113.99:80").frame(),
        tcp("[2001:db8::1]:3", "[2001:db8:53::10]:80").syn().frame(),
    ]
    .iter()
    .zip([7, 1_999_999, 5])
    .map(|(frame, time)| Packet::at(time, frame))
    .collect()
}

#[test]
fn every_kind_of_capture_gives_the_same_packets() {
    let Some(lab) = Lab::new() else { return };
    let packets = packets();
    let usual = lab.run(&files::pcap(&packets), &[]);
    assert_eq!(usual.out.len(), 2);
    for (packet, left) in [(&packets[0], &usual.out[0]), (&packets[2], &usual.out[1])] {
        assert_eq!(
            (packet.seconds, packet.fraction),
            (left.seconds, left.fraction)
        );
    }
    assert_eq!(lab.run(&files::swapped(&files::pcap(&packets)), &[]), usual);

    // In nanoseconds the fraction means less, and says the same.
    let nanoseconds = files::pcap_nanoseconds(&packets);
    assert_eq!(lab.run(&nanoseconds, &[]), usual);
    let magic = &fs::read(lab.path("out.pcap")).unwrap()[..4];
    assert_eq!(magic, 0xa1b2_3c4d_u32.to_le_bytes());
    assert_eq!(lab.run(&files::swapped(&nanoseconds), &[]), usual);

    let mut pcapng = lab.run(&files::pcapng(&packets), &[]);
    for packet in &mut pcapng.out {
        assert_eq!(packet.fraction % 1000, 0);
        packet.fraction /= 1000;
    }
    assert_eq!(pcapng, usual);
}

#[test]
fn two_runs_give_the_same_bytes() {
    let Some(lab) = Lab::new() else { return };
    let input = lab.write("in.pcap", &files::pcap(&packets()));
    let run = |name: &str| {
        let out = lab.path(name);
        let ended = lab.start(&input, &out, &["--json"]);
        (ended.code, ended.stdout, fs::read(out).unwrap())
    };
    let first = run("first.pcap");
    assert_eq!(first.0, 0);
    assert_eq!(first, run("second.pcap"));
    assert_eq!(first, run("first.pcap"));
}

#[test]
fn an_empty_capture_gives_an_empty_one() {
    let Some(lab) = Lab::new() else { return };
    for capture in [files::pcap(&[]), files::pcapng(&[])] {
        let told = lab.run(&capture, &[]);
        assert_eq!((told.lines.len(), told.out.len()), (0, 0));
    }
}

#[test]
fn what_is_no_capture_of_frames_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let out = lab.write("out.pcap", b"what was there");
    for (capture, what) in [
        (Vec::new(), "byte 0: the file is empty"),
        (
            vec![0xa5; 1000],
            "byte 0: this is neither a pcap nor a pcapng file",
        ),
        (
            b"[edge]\nname = \"no capture\"\n".to_vec(),
            "byte 0: this is neither",
        ),
        (
            files::pcap(&[])[..23].to_vec(),
            "byte 0: the file ends within the header",
        ),
        (
            files::of_link_type(113, &packets()),
            "of link type 113, and only Ethernet",
        ),
    ] {
        let input = lab.write("in.pcap", &capture);
        let ended = lab.start(&input, &out, &[]);
        ended.failed(1, &["in.pcap: ", what]);
        assert_eq!(ended.stdout, "");
        assert_eq!(fs::read(&out).unwrap(), b"what was there");
    }
    let missing = lab.start(&lab.path("missing.pcap"), &out, &[]);
    missing.failed(1, &["missing.pcap cannot be opened", "No such file"]);
    let folder = lab.start(&lab.path("."), &out, &[]);
    folder.failed(1, &["cannot be read: Is a directory"]);
    assert_eq!(lab.files(), ["director.toml", "in.pcap", "out.pcap"]);
}

#[test]
fn a_cut_or_lying_capture_is_run_up_to_the_fault() {
    let Some(lab) = Lab::new() else { return };
    let packets = packets();
    let whole = files::pcap(&packets);
    let starts: Vec<usize> = (0..=3).map(|n| files::pcap(&packets[..n]).len()).collect();
    let out = lab.path("out.pcap");
    let run = |capture: &[u8]| lab.start(&lab.write("in.pcap", capture), &out, &["--json"]);
    for cut in [starts[1] + 1, starts[1] + 16, starts[2] - 1] {
        let ended = run(&whole[..cut]);
        ended.failed(
            1,
            &[&format!("packet 2, byte {}: the file ends", starts[1])],
        );
        assert_eq!(ended.lines().len(), 1);
        assert_eq!(files::read(&fs::read(&out).unwrap()).len(), 1);
    }
    let mut lying = whole.clone();
    lying[starts[2] + 8..starts[2] + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    let ended = run(&lying);
    let place = format!(
        "packet 3, byte {}: it is said to have 4294967295 bytes",
        starts[2]
    );
    ended.failed(1, &[&place]);
    assert_eq!(ended.lines().len(), 2);

    // Where not even one packet could be run, what was there stays.
    fs::write(&out, "what was there").unwrap();
    run(&whole[..starts[0] + 5]).failed(1, &["packet 1, byte 24: "]);
    assert_eq!(fs::read(&out).unwrap(), b"what was there");
    assert_eq!(lab.files(), ["director.toml", "in.pcap", "out.pcap"]);
}

#[test]
fn wrong_usage_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let input = lab.write("in.pcap", &files::pcap(&packets()));
    let out = lab.write("out.pcap", b"what was there");
    for option in ["--down", "--drain"] {
        for name in ["nowhere", "web/z", "z/a", "web/", "/", ""] {
            let ended = lab.start(&input, &out, &[option, name]);
            let message = format!("there is no site or service/endpoint called {name}\n");
            ended.failed(2, &[&message, "help: the sites are dc01, dc02"]);
        }
    }
    for mtu in ["67", "65536", "much"] {
        lab.start(&input, &out, &["--mtu", mtu])
            .failed(2, &["--mtu"]);
    }
    lab.start(&input, &input, &[])
        .failed(2, &["is the capture itself"]);
    let link = lab.path("link.pcap");
    symlink(&input, &link).unwrap();
    lab.start(&input, &link, &[])
        .failed(2, &["is the capture itself"]);
    for out in ["/dev/null", "."] {
        let ended = lab.start(&input, &lab.path(".").join(out), &[]);
        ended.failed(2, &["is no regular file"]);
    }
    let nowhere = lab.path("nowhere/out.pcap");
    lab.start(&input, &nowhere, &[])
        .failed(1, &["nowhere", "No such file"]);
    lab.write("director.toml", b"[edge]\nname = 1\n");
    lab.start(&input, &out, &[]).failed(2, &["director.toml"]);
    assert_eq!(fs::read(&out).unwrap(), b"what was there");
    assert_eq!(fs::read(&input).unwrap(), files::pcap(&packets()));
}

#[test]
fn what_is_replaced_keeps_its_rights_and_links_stay() {
    let Some(lab) = Lab::new() else { return };
    let input = lab.write("in.pcap", &files::pcap(&packets()));
    let out = lab.write("out.pcap", b"what was there");
    fs::set_permissions(&out, fs::Permissions::from_mode(0o640)).unwrap();
    let link = lab.path("link.pcap");
    symlink("out.pcap", &link).unwrap();
    assert_eq!(lab.start(&input, &link, &[]).code, 0);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(files::read(&fs::read(&out).unwrap()).len(), 2);
    let mode = fs::metadata(&out).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    assert_eq!(
        lab.files(),
        ["director.toml", "in.pcap", "link.pcap", "out.pcap"]
    );
}
