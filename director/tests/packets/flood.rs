//! Packets of many flows, made in the kernel by the benchmark's wrapper.

use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray, PerCpuValues, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp, XdpMode},
};
use director_ebpf::bench::{FRAME, HEADERS, Plan, flow_of};
use nix::{
    sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare},
    unistd::Pid,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../director-ebpf/obj/director-xdp-bench.o"
));

/// The wrapper, around a program.
pub struct Flood {
    bpf: Ebpf,
    plan: Array<MapData, PlanValue>,
    turn: PerCpuArray<MapData, u64>,
    /// Holds the program.
    _under: ProgramArray<MapData>,
}

/// `Plan` as a map value.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PlanValue(Plan);

// SAFETY: `Plan` promises `Plain`: no padding, any bits are valid.
unsafe impl aya::Pod for PlanValue {}

impl Flood {
    /// Keeps the calling thread on one CPU: the wrapper counts by CPU, and the
    /// kernel may move a long run to another. Gives the thread a network
    /// namespace of its own too, and attaches the wrapper there, where no packet
    /// comes by: to begin and to end runs of an XDP program that is attached
    /// nowhere, the kernel waits for grace periods.
    pub fn of(program: &ProgramFd) -> Self {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let mut cpus = (0..CpuSet::count()).rev();
        let last = cpus.find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
        let mut one = CpuSet::new();
        one.set(last).unwrap();
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        let mut bpf = aya::EbpfLoader::new().load(OBJECT).unwrap();
        wrapper(&mut bpf).load().unwrap();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let loopback = 1;
        wrapper(&mut bpf)
            .attach_to_if_index(loopback, XdpMode::Skb)
            .unwrap();
        let mut under: ProgramArray<_> = bpf.take_map("UNDER_TEST").unwrap().try_into().unwrap();
        under.set(0, program, 0).unwrap();
        Self {
            plan: bpf.take_map("PLAN").unwrap().try_into().unwrap(),
            turn: bpf.take_map("TURN").unwrap().try_into().unwrap(),
            _under: under,
            bpf,
        }
    }

    /// Runs the IPv4 frame, of [`FRAME`] bytes, of each client from the `first`
    /// on (see [`client`]).
    pub fn run(&mut self, frame: &[u8], first: u32, count: u32) {
        assert_eq!(frame.len(), FRAME);
        let mut headers = [0; HEADERS];
        for (word, eight) in headers.iter_mut().zip(frame.chunks_exact(8)) {
            *word = u64::from_ne_bytes(eight.try_into().unwrap());
        }
        let plan = Plan { headers, ..ORDER };
        self.plan.set(0, PlanValue(plan), 0).unwrap();
        let cpus = aya::util::nr_cpus().unwrap();
        let turns = PerCpuValues::try_from(vec![u64::from(first); cpus]).unwrap();
        self.turn.set(0, turns, 0).unwrap();
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = count;
        wrapper(&mut self.bpf).test_run(options).unwrap();
    }
}

/// Address and port of a client by its number, as they stand in its packets:
/// from 198.18.0.0 on, [`PORTS`] ports from 1024 on of each.
pub fn client(number: u32) -> (u32, u16) {
    flow_of(&ORDER, u64::from(number))
}

/// Source ports of an address.
pub const PORTS: u32 = 1 << 14;

/// Every packet of another client.
const ORDER: Plan = Plan {
    headers: [0; HEADERS],
    source_offset: 26,
    port_offset: 34,
    mask: u32::MAX,
    is_random: 0,
};

fn wrapper(bpf: &mut Ebpf) -> &mut Xdp {
    bpf.program_mut("bench_wrap").unwrap().try_into().unwrap()
}
