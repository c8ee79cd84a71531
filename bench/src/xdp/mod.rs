//! `cargo xtask bench xdp`: nanoseconds a packet of the XDP program.
//!
//! Each figure is net: that of the wrapper around the program less that of the
//! wrapper around an empty one. Only the row of the empty program itself has
//! what a bare run of it costs.

mod cases;
mod edge;

use std::time::Duration;

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
};
use director_ebpf::bench::{FRAME, Plan};
use nix::time::ClockId;

use self::{
    cases::{Case, Under},
    edge::Edge,
};
use crate::report::{Row, median};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../director-ebpf/obj/director-xdp-bench.o"
));

/// Runs all cases and returns their rows.
///
/// # Errors
/// Without the privilege to load programs.
pub fn run(rounds: u32, packets: u32, only: &[String]) -> Result<Vec<Row>> {
    pin_to_one_cpu()?;
    let mut bench = Bench::new()?;
    let mut cases = cases::all();
    let is_asked = |name: &str| only.is_empty() || only.iter().any(|text| name.contains(text));
    cases.retain(|case| matches!(case.under, Under::Empty | Under::Lru) || is_asked(case.name));
    let mut figures: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    let empty = cases
        .iter()
        .position(|case| case.under == Under::Empty)
        .context("no floor")?;
    for round in 0..=rounds {
        let bare = bench.bare_empty(packets)?;
        let mut wrapped = Vec::with_capacity(cases.len());
        for case in &cases {
            wrapped.push(bench.wrapped(case, packets)?);
        }
        // The first round warms caches, tables and clocks.
        if round > 0 {
            for (index, figure) in figures.iter_mut().enumerate() {
                figure.push(if index == empty {
                    bare
                } else {
                    wrapped[index] - wrapped[empty]
                });
            }
        }
    }
    Ok(rows(&cases, &figures))
}

fn rows(cases: &[Case], figures: &[Vec<f64>]) -> Vec<Row> {
    let of = |name: &str| {
        let index = cases.iter().position(|case| case.name == name)?;
        figures.get(index)
    };
    let row = |(case, values): (&Case, &Vec<f64>)| {
        let floor = case.floor.and_then(of);
        let ratios: Option<Vec<f64>> = floor.map(|floor| {
            values
                .iter()
                .zip(floor)
                .map(|(value, floor)| value / floor)
                .collect()
        });
        Row {
            bench: "xdp",
            case: case.name.to_owned(),
            unit: "ns/packet",
            median: median(values),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            runs: values.len(),
            floor: case.floor,
            floor_median: floor.map(|floor| median(floor)),
            ratio_to_floor: ratios.map(|ratios| median(&ratios)),
            peer: None,
            peer_median: None,
            ratio_to_peer: None,
        }
    };
    cases.iter().zip(figures).map(row).collect()
}

/// Kernels charge a program to the CPU it runs on, and maps have per-CPU lists.
fn pin_to_one_cpu() -> Result<()> {
    use nix::{
        sched::{CpuSet, sched_getaffinity, sched_setaffinity},
        unistd::Pid,
    };
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut one = CpuSet::new();
    let last = (0..CpuSet::count())
        .rev()
        .find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    one.set(last.context("no CPU to run on")?)?;
    sched_setaffinity(Pid::from_raw(0), &one).context("choosing a CPU")
}

struct Bench {
    bpf: Ebpf,
    under: ProgramArray<MapData>,
    plan: Array<MapData, PlanValue>,
    edge: Edge,
    lru: ProgramFd,
    empty: ProgramFd,
}

/// `Plan` as a map value.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PlanValue(Plan);

// SAFETY: `Plan` promises `Plain`: no padding, any bits are valid.
unsafe impl aya::Pod for PlanValue {}

impl Bench {
    fn new() -> Result<Self> {
        let mut bpf = EbpfLoader::new()
            .load(OBJECT)
            .context("loading the benchmark programs")?;
        for name in ["bench_wrap", "bench_empty", "bench_lru"] {
            program(&mut bpf, name)?
                .load()
                .with_context(|| format!("loading {name}"))?;
        }
        let lru = program(&mut bpf, "bench_lru")?.fd()?.try_clone()?;
        let empty = program(&mut bpf, "bench_empty")?.fd()?.try_clone()?;
        let under = bpf
            .take_map("UNDER_TEST")
            .context("no map UNDER_TEST")?
            .try_into()?;
        let plan = bpf.take_map("PLAN").context("no map PLAN")?.try_into()?;
        Ok(Self {
            bpf,
            under,
            plan,
            edge: Edge::new()?,
            lru,
            empty,
        })
    }

    /// The empty program, without a wrapper.
    fn bare_empty(&mut self, packets: u32) -> Result<f64> {
        measure(program(&mut self.bpf, "bench_empty")?, packets)
    }

    /// A case within the wrapper.
    fn wrapped(&mut self, case: &Case, packets: u32) -> Result<f64> {
        self.plan.set(0, PlanValue(case.plan), 0)?;
        let program_fd = match case.under {
            Under::Empty => self.empty.try_clone()?,
            Under::Lru => self.lru.try_clone()?,
            Under::Steer(mode) => self.edge.program(mode)?,
        };
        self.under.set(0, &program_fd, 0)?;
        let wrap = program(&mut self.bpf, "bench_wrap")?;
        // Every flow is met before any is measured.
        measure(
            wrap,
            case.plan.mask.saturating_add(1).clamp(1000, case.warm),
        )?;
        measure(wrap, packets)
    }
}

fn program<'a>(bpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = bpf
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// Nanoseconds a run, over `packets` runs.
fn measure(program: &Xdp, packets: u32) -> Result<f64> {
    let frame = [0_u8; FRAME];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    options.repeat = packets;
    // This thread's CPU time, in which the kernel runs the program: what other
    // processes take of the CPU does not count, and unlike the kernel's own
    // figure it is not in whole nanoseconds.
    let clock = ClockId::CLOCK_THREAD_CPUTIME_ID;
    let start = Duration::from(clock.now()?);
    program.test_run(options).context("running a program")?;
    let took = Duration::from(clock.now()?).saturating_sub(start);
    Ok(took.as_secs_f64() * 1e9 / f64::from(packets))
}
