//! One flow, one endpoint: across edges, across changes, and while tables flip.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use director::datapath::ROUND_CALLS;
use director_core::{
    EndpointState, Mode, PlannedEndpoint, Protocol, ServicePlan, TableSize, model::Service, table,
};

use crate::{
    edge::{EGRESS, Edge, options, service},
    frames::{Spec, tcp},
};

const FLOWS: u32 = 10_000;
/// Slots: enough that shares are met to a tenth of a point.
const SLOTS: u32 = 4093;

fn web(endpoints: u8) -> Service {
    let addresses: Vec<String> = (1..=endpoints).map(|n| format!("198.18.{n}.11")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &addresses)
}

/// A plan with the real table, in which the named endpoints are in this state.
fn plan(web: &Service, state: EndpointState, of: &[usize]) -> ServicePlan {
    let endpoints: Vec<PlannedEndpoint> = web
        .endpoints
        .iter()
        .enumerate()
        .map(|(index, endpoint)| {
            let state = if of.contains(&index) {
                state
            } else {
                EndpointState::Active
            };
            PlannedEndpoint {
                name: endpoint.name.clone(),
                site: endpoint.site.clone(),
                address: endpoint.address,
                port: endpoint.port,
                state,
                weight: u64::from(state == EndpointState::Active),
            }
        })
        .collect();
    ServicePlan {
        service: web.name.clone(),
        version: 1,
        table: table::build(&endpoints, TableSize::new(SLOTS).unwrap()),
        endpoints,
    }
}

fn edge(web: &Service, state: EndpointState, of: &[usize]) -> Option<Edge> {
    let mut options = options(None)?;
    options.limits.table_size = SLOTS;
    // Well above the records made, so that none gives way to another.
    options.limits.flows = 1 << 16;
    let mut edge = Edge::bare(&options);
    for endpoint in &web.endpoints {
        edge.hop(endpoint.address, EGRESS);
    }
    edge.datapath.apply(web, &plan(web, state, of)).unwrap();
    Some(edge)
}

fn flow(n: u32) -> Spec {
    let source = Ipv4Addr::from(0xc612_0000 + n / 60_000);
    tcp(
        &format!("{source}:{}", n % 60_000 + 1024),
        "203.0.113.10:80",
    )
}

/// Third octet of the endpoint that a packet goes to.
fn owner(edge: &mut Edge, spec: &Spec) -> u8 {
    edge.run(&spec.frame()).frame[32]
}

fn owners(edge: &mut Edge, flows: std::ops::Range<u32>, is_syn: bool) -> Vec<u8> {
    flows
        .map(|n| {
            let spec = flow(n);
            owner(edge, &if is_syn { spec.syn() } else { spec })
        })
        .collect()
}

fn differing(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

#[test]
fn two_edges_agree_without_a_word() {
    let web = web(6);
    let none = EndpointState::Draining;
    let (Some(mut a), Some(mut b)) = (edge(&web, none, &[]), edge(&web, none, &[])) else {
        return;
    };
    let on_a = owners(&mut a, 0..FLOWS, true);
    assert_eq!(owners(&mut b, 0..FLOWS, false), on_a);
}

#[test]
fn one_of_n_moves_a_share_of_one_nth() {
    for n in [2_u8, 5, 10] {
        let web = web(n);
        let Some(mut all) = edge(&web, EndpointState::Dead, &[]) else {
            return;
        };
        let before = owners(&mut all, 0..FLOWS, true);
        let mut without = edge(&web, EndpointState::Dead, &[0]).unwrap();
        let after = owners(&mut without, 0..FLOWS, true);
        let moved = differing(&before, &after) as f64 / f64::from(FLOWS);
        let limit = 1.0 / f64::from(n) + 0.02;
        assert!(
            moved <= limit,
            "{n} endpoints: {moved} moved, at most {limit}"
        );
    }
}

/// Violations of per-connection consistency: packets of a flow that reach
/// another endpoint than its own, while that one is alive. Half of the flows
/// begin before the change, half after. Beside a plain table of all flows (an
/// LRU that forgets nothing) and a plain hash.
#[test]
fn violations_are_counted() {
    let web = web(6);
    let draining = EndpointState::Draining;
    let (Some(mut a), Some(mut b)) = (edge(&web, draining, &[]), edge(&web, draining, &[])) else {
        return;
    };
    let old = 0..FLOWS;
    let new = FLOWS..2 * FLOWS;
    let mut of_old = owners(&mut a, old.clone(), true);
    let edge_change = differing(&of_old, &owners(&mut b, old, false));
    // The endpoint that drains: planned, and alive.
    for edge in [&mut a, &mut b] {
        edge.datapath
            .apply(&web, &plan(&web, draining, &[2]))
            .unwrap();
    }
    let hashed = owners(
        &mut edge(&web, draining, &[2]).unwrap(),
        0..2 * FLOWS,
        false,
    );
    let of_new = owners(&mut a, new.clone(), true);
    let all = [of_old.as_slice(), &of_new].concat();
    let per_million = |violations: usize| violations as f64 * 1e6 / f64::from(2 * FLOWS);

    // The endpoint changed, the edge did not.
    let stayed = owners(&mut a, 0..2 * FLOWS, false);
    let endpoint_change = differing(&all, &stayed);
    // Both: the flows come to the other edge, which knows of none.
    let wandered = owners(&mut b, 0..2 * FLOWS, false);
    let both = differing(&all, &wandered);
    let both_hashed = differing(&all, &hashed);
    println!("violations per million flows: by need, all recorded, hashed");
    println!(
        "  endpoint change  {} {} {}",
        per_million(endpoint_change),
        0.0,
        per_million(both_hashed)
    );
    // Where nothing changed, all three go by the same table.
    println!("  edge change      {0} {0} {0}", per_million(edge_change));
    println!(
        "  both             {} {} {}",
        per_million(both),
        per_million(both_hashed),
        per_million(both_hashed)
    );
    assert_eq!((endpoint_change, edge_change), (0, 0));
    // Flows that began before keep their endpoint even on the other edge; of
    // those that began after, a slot's share is told apart by its edge only.
    of_old.truncate(FLOWS as usize);
    assert_eq!(differing(&of_old, &wandered[..FLOWS as usize]), 0);
    let moved_slots = differing(&of_new, &wandered[FLOWS as usize..]);
    assert_eq!(both, moved_slots);
}

#[test]
fn a_death_is_answered_without_state_and_a_recovery_keeps_what_moved() {
    let web = web(4);
    let dead = EndpointState::Dead;
    let Some(mut edge) = edge(&web, dead, &[]) else {
        return;
    };
    let before = owners(&mut edge, 0..2000, true);
    edge.datapath.apply(&web, &plan(&web, dead, &[1])).unwrap();
    let moved = owners(&mut edge, 0..2000, false);
    for (was, is) in before.iter().zip(&moved) {
        assert!(*is != 2 && (*was == 2 || is == was));
    }
    edge.datapath.apply(&web, &plan(&web, dead, &[])).unwrap();
    assert_eq!(owners(&mut edge, 0..2000, false), moved);
    // New flows use it again.
    assert!(owners(&mut edge, 2000..4000, true).contains(&2));
}

#[test]
fn slots_settle_and_are_looked_up_no_more_once_nothing_is_recorded() {
    let web = web(3);
    let draining = EndpointState::Draining;
    let Some(mut edge) = edge(&web, draining, &[]) else {
        return;
    };
    let old = owners(&mut edge, 0..500, true);
    edge.datapath
        .apply(&web, &plan(&web, draining, &[0]))
        .unwrap();
    let new = owners(&mut edge, 500..1000, true);
    // Within the hold nothing settles.
    round(&mut edge, Duration::from_secs(3600));
    assert!(edge.datapath.table_use()[0].flows > 0);
    assert_eq!(owners(&mut edge, 0..500, false), old);
    // After it, recorded flows keep theirs.
    round(&mut edge, Duration::ZERO);
    assert_eq!(owners(&mut edge, 0..500, false), old);
    assert_eq!(owners(&mut edge, 500..1000, false), new);
    assert_eq!(edge.datapath.audit().unwrap(), []);
}

/// A whole round through the tables.
fn round(edge: &mut Edge, hold: Duration) {
    for _ in 0..=ROUND_CALLS {
        edge.datapath.sweep(hold);
    }
}

#[test]
fn an_index_is_given_away_only_when_no_record_names_it() {
    let mut web = web(2);
    web.steering.track = director_core::Track::Always;
    let Some(mut options) = options(None) else {
        return;
    };
    options.limits.endpoints = 3;
    options.limits.table_size = SLOTS;
    let mut edge = Edge::bare(&options);
    for endpoint in &web.endpoints {
        edge.hop(endpoint.address, EGRESS);
    }
    edge.datapath
        .apply(&web, &plan(&web, EndpointState::Dead, &[]))
        .unwrap();
    for round in 0..40_u8 {
        owners(&mut edge, 0..200, true);
        let before = owners(&mut edge, 0..200, false);
        // The second endpoint makes place for another server.
        let address = format!("198.18.{}.11", 10 + round).parse().unwrap();
        web.endpoints[1].address = address;
        web.endpoints[1].name = Arc::from(format!("new{round}"));
        edge.hop(address, EGRESS);
        edge.datapath
            .apply(&web, &plan(&web, EndpointState::Dead, &[]))
            .unwrap();
        let after = owners(&mut edge, 0..200, false);
        for (was, is) in before.iter().zip(&after) {
            // Its flows are placed anew; the first one's stay.
            assert!(*was != 1 || *is == 1, "round {round}");
        }
    }
}

/// Ten thousand flips under packets: every packet meets one of the two tables.
#[test]
fn no_packet_meets_a_mixed_table() {
    const FLIPS: u32 = 10_000;
    let web = web(4);
    let dead = EndpointState::Dead;
    let Some(mut edge) = edge(&web, dead, &[2, 3]) else {
        return;
    };
    let first = owners(&mut edge, 0..64, true);
    edge.datapath
        .apply(&web, &plan(&web, dead, &[0, 1]))
        .unwrap();
    let second = owners(&mut edge, 0..64, true);
    assert_eq!(differing(&first, &second), 64);

    let program = edge
        .datapath
        .program()
        .unwrap()
        .fd()
        .unwrap()
        .try_clone()
        .unwrap();
    let fd = program.as_fd().as_raw_fd();
    let is_over = AtomicBool::new(false);
    let (met_first, met_second) = std::thread::scope(|scope| {
        let packets = scope.spawn(|| {
            let frames: Vec<Vec<u8>> = (0..64).map(|n| flow(n).syn().frame()).collect();
            let (mut met_first, mut met_second) = (0_u64, 0_u64);
            while !is_over.load(Ordering::Relaxed) {
                for (n, frame) in frames.iter().enumerate() {
                    match run(fd, frame)[32] {
                        owner if owner == first[n] => met_first += 1,
                        owner if owner == second[n] => met_second += 1,
                        owner => panic!("flow {n} met endpoint {owner}"),
                    }
                }
            }
            (met_first, met_second)
        });
        let plans = [plan(&web, dead, &[2, 3]), plan(&web, dead, &[0, 1])];
        for flip in 0..FLIPS {
            edge.datapath
                .apply(&web, &plans[flip as usize % 2])
                .unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        packets.join().unwrap()
    });
    println!("{met_first} packets met one table, {met_second} the other");
    assert!(met_first > 0 && met_second > 0);
}

/// `BPF_PROG_TEST_RUN` from another thread than the one that owns the program.
fn run(program: RawFd, frame: &[u8]) -> Vec<u8> {
    const BPF_PROG_TEST_RUN: libc::c_long = 10;
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        program: u32,
        answer: u32,
        size_in: u32,
        size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        rest: [u64; 6],
    }
    let mut out = vec![0; frame.len() + 256];
    let mut attributes = Attributes {
        program: program as u32,
        size_in: frame.len() as u32,
        size_out: out.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        ..Attributes::default()
    };
    // SAFETY: the buffers are live and as long as said, the program is one.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
    out.truncate(attributes.size_out as usize);
    out
}
