//! The kernel's half of the benchmarks: a wrapper that makes packets and hands
//! each to the program under test.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
};
use director_ebpf::bench::{FRAME, Plan};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::ClockId,
    unistd::Pid,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../director-ebpf/obj/director-xdp-bench.o"
));

/// The benchmark's programs.
pub struct Wrapper {
    bpf: Ebpf,
    under: ProgramArray<MapData>,
    plan: Array<MapData, PlanValue>,
}

/// `Plan` as a map value.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PlanValue(Plan);

// SAFETY: `Plan` promises `Plain`: no padding, any bits are valid.
unsafe impl aya::Pod for PlanValue {}

impl Wrapper {
    /// Loads them.
    ///
    /// # Errors
    /// Without the privilege for it.
    pub fn new() -> Result<Self> {
        let mut bpf = EbpfLoader::new()
            .load(OBJECT)
            .context("loading the benchmark programs")?;
        for name in ["bench_wrap", "bench_empty", "bench_lru"] {
            program(&mut bpf, name)?
                .load()
                .with_context(|| format!("loading {name}"))?;
        }
        let under = bpf
            .take_map("UNDER_TEST")
            .context("no map UNDER_TEST")?
            .try_into()?;
        let plan = bpf.take_map("PLAN").context("no map PLAN")?.try_into()?;
        Ok(Self { bpf, under, plan })
    }

    /// One of the programs, to be put under test.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn floor(&mut self, name: &str) -> Result<ProgramFd> {
        Ok(program(&mut self.bpf, name)?.fd()?.try_clone()?)
    }

    /// Puts a program under test, on packets of this plan.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn set(&mut self, under: &ProgramFd, plan: Plan) -> Result<()> {
        self.plan.set(0, PlanValue(plan), 0)?;
        Ok(self.under.set(0, under, 0)?)
    }

    /// Nanoseconds a packet of the program under test and the wrapper, over
    /// `packets` of them.
    ///
    /// # Errors
    /// When the kernel does not run it.
    pub fn measure(&mut self, packets: u32) -> Result<f64> {
        measure(program(&mut self.bpf, "bench_wrap")?, packets)
    }

    /// Nanoseconds a run of the empty program, without the wrapper.
    ///
    /// # Errors
    /// As [`Wrapper::measure`].
    pub fn bare_empty(&mut self, packets: u32) -> Result<f64> {
        measure(program(&mut self.bpf, "bench_empty")?, packets)
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
    let start = thread_time()?;
    program.test_run(options).context("running a program")?;
    let took = thread_time()?.saturating_sub(start);
    Ok(took.as_secs_f64() * 1e9 / f64::from(packets))
}

/// This thread's CPU time, in which the kernel runs the program: what other
/// processes take of the CPU does not count, and unlike the kernel's own figure
/// it is not in whole nanoseconds.
///
/// # Errors
/// When there is no such clock.
pub fn thread_time() -> Result<Duration> {
    Ok(Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now()?))
}

/// The CPUs that this thread may run on.
///
/// # Errors
/// When the kernel does not say.
pub fn cpus() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let all = 0..CpuSet::count();
    Ok(all
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .collect())
}

/// Keeps this thread on one CPU: kernels charge a program to the one it runs on,
/// and maps have per-CPU lists.
///
/// # Errors
/// When the kernel refuses.
pub fn pin(cpu: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &one).context("choosing a CPU")
}

/// Keeps this thread on the last of its CPUs.
///
/// # Errors
/// As [`pin`].
pub fn pin_to_last() -> Result<()> {
    pin(*cpus()?.last().context("no CPU to run on")?)
}
