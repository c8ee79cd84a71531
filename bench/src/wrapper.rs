//! The benchmark's own programs: one that makes packets, and floors.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp, XdpMode},
};
use director_ebpf::bench::{FRAME, Plan};
use nix::sched::{CloneFlags, unshare};

use crate::cpu::thread_time;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../director-ebpf/obj/director-xdp-bench.o"
));

/// Index of the loopback interface of any namespace.
const LOOPBACK: u32 = 1;

/// The loaded object.
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
    /// The program that makes the plan's next packet and gives it to another.
    pub const WRAP: &str = "bench_wrap";

    /// Loads all of it.
    ///
    /// # Errors
    /// Without the privilege to load programs.
    pub fn new() -> Result<Self> {
        let mut bpf = EbpfLoader::new()
            .load(OBJECT)
            .context("loading the benchmark programs")?;
        for name in [Self::WRAP, "bench_empty", "bench_lru"] {
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

    /// Makes runs of it cheap to begin: the kernel has an XDP program that is run
    /// more than once in its dispatcher, and waits for a grace period whenever
    /// one comes or goes. So it is attached where no packet comes by, to the
    /// loopback interface of a network namespace of this thread's own.
    ///
    /// # Errors
    /// When there can be no such namespace.
    pub fn hold(&mut self) -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of its own")?;
        program(&mut self.bpf, Self::WRAP)?
            .attach_to_if_index(LOOPBACK, XdpMode::Skb)
            .context("attaching the wrapper")?;
        Ok(())
    }

    /// From now on makes packets of `plan`, and gives them to `under`.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn set(&mut self, plan: Plan, under: &ProgramFd) -> Result<()> {
        self.plan.set(0, PlanValue(plan), 0)?;
        Ok(self.under.set(0, under, 0)?)
    }

    /// Nanoseconds a run of one of the programs, over `packets` runs. What other
    /// processes take of the CPU does not count.
    ///
    /// # Errors
    /// When there is none of that name, or the kernel does not run it.
    pub fn measure(&mut self, name: &str, packets: u32) -> Result<f64> {
        let frame = [0_u8; FRAME];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.repeat = packets;
        let start = thread_time()?;
        let program = self.program(name)?;
        program.test_run(options).context("running a program")?;
        let took = thread_time()?.saturating_sub(start);
        Ok(took.as_secs_f64() * 1e9 / f64::from(packets))
    }

    /// One of the programs.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        program(&mut self.bpf, name)
    }
}

fn program<'a>(bpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = bpf
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}
