//! Pins: what one process leaves, the next continues with, and unload removes.
//!
//! Each test has a mount and a network namespace of its own, with a BPF file
//! system that goes with it.

use std::path::{Path, PathBuf};

use director::{
    config::Attach,
    datapath::{Attached, Datapath, Held, Pins, Vip},
};
use director_core::{EndpointState, Mode, Protocol};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::{
    edge::{EGRESS, Edge, REDIRECT, options, service},
    frames::{self, tcp},
};

/// A place to pin, in namespaces of this thread's own.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Option<Self> {
        options(None)?;
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let folder = tempfile::tempdir().unwrap();
        mount(
            Some("bpf"),
            folder.path(),
            Some("bpf"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        Some(Self { folder })
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("director")
    }

    pub fn open(&self) -> (Edge, Vec<Held>) {
        let options = options(Some(Pins::new(&self.root()))).unwrap();
        let (datapath, held) = Datapath::open(&options).unwrap();
        (Edge { datapath }, held)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.folder.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

const ENDPOINTS: [&str; 3] = ["198.18.1.11", "198.18.2.11", "198.18.3.11"];

#[test]
fn a_restart_moves_no_flow_and_changes_no_map() {
    use EndpointState::{Active, Dead, Draining};
    let Some(place) = Place::new() else { return };
    let web = service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &ENDPOINTS);
    let states = [Active, Draining, Active];
    let spec = |port: u16| tcp(&format!("192.0.2.1:{port}"), "203.0.113.10:80");
    let owner = |edge: &mut Edge, port| {
        let out = edge.run(&spec(port).frame());
        assert_eq!(out.action, REDIRECT);
        frames::open(&out.frame).1
    };

    let (mut edge, held) = place.open();
    assert_eq!(held, []);
    for endpoint in &web.endpoints {
        edge.hop(endpoint.address, EGRESS);
    }
    edge.apply(&web, &[Active, Active, Active]);
    let before: Vec<_> = (1000..1100).map(|port| owner(&mut edge, port)).collect();
    edge.apply(&web, &states);
    drop(edge);

    let (mut edge, held) = place.open();
    let endpoints = web
        .endpoints
        .iter()
        .zip(states)
        .map(|(e, state)| (e.address, e.port, state))
        .collect();
    assert_eq!(
        held,
        [Held {
            vip: Vip::from(&web),
            mode: Mode::Tunnel,
            endpoints
        }]
    );
    let after: Vec<_> = (1000..1100).map(|port| owner(&mut edge, port)).collect();
    assert_eq!(before, after);
    // The plan that held is applied again, as a daemon does.
    edge.apply(&web, &states);
    assert_eq!(edge.datapath.audit().unwrap(), []);
    let again: Vec<_> = (1000..1100).map(|port| owner(&mut edge, port)).collect();
    assert_eq!(before, again);
    // Control: where a death is applied, flows do move.
    edge.apply(&web, &[Dead, Active, Active]);
    let moved: Vec<_> = (1000..1100).map(|port| owner(&mut edge, port)).collect();
    assert_ne!(before, moved);
}

#[test]
fn the_program_stays_attached_without_a_process_and_is_replaced_in_place() {
    let Some(place) = Place::new() else { return };
    let (mut edge, _) = place.open();
    let first = edge.datapath.attach("lo", Attach::Auto).unwrap();
    assert!(matches!(first, Attached::New(_)));
    assert_eq!(
        edge.datapath.attach("lo", Attach::Auto).unwrap(),
        Attached::Kept
    );
    drop(edge);
    assert!(place.root().join("link-lo").exists());

    let (mut edge, _) = place.open();
    assert_eq!(
        edge.datapath.attach("lo", Attach::Auto).unwrap(),
        Attached::Kept
    );
    // An interface that is no longer configured is let go.
    assert_eq!(edge.datapath.detach_others(&[]).unwrap(), ["link-lo"]);
    assert!(matches!(
        attach_once_free(&mut edge, Attach::Generic),
        Attached::New(_)
    ));
}

/// Attaches as soon as the kernel has let go of the link before: it frees a
/// link whose pin is gone when it gets to it.
fn attach_once_free(edge: &mut Edge, how: Attach) -> Attached {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match edge.datapath.attach("lo", how) {
            Ok(attached) => return attached,
            Err(error) => assert!(std::time::Instant::now() < end, "{error:#}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn unload_leaves_nothing() {
    let Some(place) = Place::new() else { return };
    let (mut edge, _) = place.open();
    edge.datapath.attach("lo", Attach::Auto).unwrap();
    let web = service("203.0.113.10", Protocol::Tcp, Mode::Nat, &ENDPOINTS);
    edge.apply(&web, &[EndpointState::Active; 3]);
    drop(edge);
    let pins = Pins::new(&place.root());
    // Its maps and the link.
    assert_eq!(pins.remove().unwrap().len(), 27);
    assert!(!place.root().exists());
    assert_eq!(pins.remove().unwrap(), Vec::<PathBuf>::new());
    // Another program can have the interface again.
    let (mut edge, held) = place.open();
    assert_eq!(held, []);
    assert!(matches!(
        attach_once_free(&mut edge, Attach::Auto),
        Attached::New(_)
    ));
}

#[test]
fn an_interface_that_another_program_holds_is_told_of() {
    let Some(place) = Place::new() else { return };
    let (mut edge, _) = place.open();
    edge.datapath.attach("lo", Attach::Auto).unwrap();
    // The same interface, for an edge that pins elsewhere.
    let other = Pins::new(&place.folder.path().join("other"));
    let (mut second, _) = Datapath::open(&options(Some(other)).unwrap()).unwrap();
    let error = second.attach("lo", Attach::Auto).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("another XDP program holds interface lo"),
        "{error:#}"
    );
    let error = second.attach("nope0", Attach::Auto).unwrap_err();
    assert!(
        error.to_string().contains("there is no interface nope0"),
        "{error:#}"
    );
}

#[test]
fn other_sizes_than_pinned_are_refused_and_change_nothing() {
    let Some(place) = Place::new() else { return };
    let (mut edge, _) = place.open();
    let web = service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &ENDPOINTS);
    edge.apply(&web, &[EndpointState::Active; 3]);
    drop(edge);
    let mut larger = options(Some(Pins::new(&place.root()))).unwrap();
    larger.limits.flows = 8192;
    let error = Datapath::open(&larger).err().unwrap();
    assert!(
        format!("{error:#}").contains("FLOWS4 holds 1024 entries"),
        "{error:#}"
    );
    let (_, held) = place.open();
    assert_eq!(held.len(), 1);
}

#[test]
fn a_map_that_nothing_uses_may_change_its_size() {
    let Some(place) = Place::new() else { return };
    let (mut edge, _) = place.open();
    let web = service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &ENDPOINTS);
    edge.apply(&web, &[EndpointState::Active; 3]);
    drop(edge);
    let mut changed = options(Some(Pins::new(&place.root()))).unwrap();
    changed.uses.ipv6 = false;
    changed.uses.nat4 = false;
    changed.uses.nat6 = false;
    let (_, held) = Datapath::open(&changed).unwrap();
    assert_eq!(held.len(), 1);
}

#[test]
fn a_folder_without_a_bpf_file_system_is_told_of() {
    if options(None).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pins = Pins::new(&folder.path().join("director"));
    let error = Datapath::open(&options(Some(pins)).unwrap()).err().unwrap();
    assert!(
        format!("{error:#}").contains("help: mount -t bpf bpf"),
        "{error:#}"
    );
    assert!(!Path::new(&folder.path().join("director")).exists());
}
