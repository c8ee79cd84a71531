//! `cargo xtask bench queue`: flow events from the program through the ring
//! buffer to their reader.
//!
//! Every packet is a SYN of a new flow, and tracing tells of each. What was sent
//! is counted beside what arrived.
//!
//! - `one-core`: sending and reading take turns on one CPU; all that an event
//!   costs, the packet's way through the program too.
//! - `read`: the reading of that alone; its floor `discard` takes events off the
//!   ring and looks at none.
//! - `told`: the reading, and saying each event in the terms of the services, as
//!   `director trace` does.
//! - `two-cores-1m`: a million flows a second on one CPU, read on another.
//! - `two-cores`: as many as one CPU sends, read on another.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use director::datapath::{Datapath, Events};
use tokio::runtime::{Builder, Runtime};

use crate::{
    cpu::{self, pin, thread_time},
    edge::{self, Table},
    report::Row,
    wrapper::Wrapper,
    xdp::new_flows,
};

/// Flows between two readings on one core: half of what the ring has room for.
const TURN: u32 = 8192;
/// Events that are taken at once, as the daemon does.
const AT_ONCE: usize = 1024;
/// Flows between two looks at the clock, where they are sent at a pace.
const BURST: u32 = 256;

/// Runs every case in each round and returns the rows.
///
/// # Errors
/// Without the privilege to load programs, or with one CPU only.
pub fn run(rounds: u32, flows: u32) -> Result<Vec<Row>> {
    let cpus = cpu::allowed()?;
    ensure!(
        cpus.len() > 1,
        "this needs two CPUs, of which {} may be used",
        cpus.len()
    );
    pin(None, cpus[0])?;
    let mut queue = Queue::new()?;
    let mut figures = Figures::default();
    for round in 0..=rounds {
        let (discarded, _) = queue.in_turns(flows, How::Discard)?;
        let (read, one_core) = queue.in_turns(flows, How::Read)?;
        let (told, _) = queue.in_turns(flows, How::Tell)?;
        let paced = queue.side_by_side(flows, Some(1_000_000), &cpus)?;
        let flat_out = queue.side_by_side(flows, None, &cpus)?;
        // The first round warms caches and clocks.
        if round > 0 {
            figures.discard.push(discarded.rate());
            figures.read.push(read.rate());
            figures.one_core.push(one_core.rate());
            figures.one_core_lost.push(one_core.lost());
            figures.told.push(told.rate());
            figures.paced.push(paced.rate());
            figures.paced_lost.push(paced.lost());
            figures.flat_out.push(flat_out.rate());
            figures.flat_out_lost.push(flat_out.lost());
        }
    }
    Ok(figures.rows())
}

/// One case in one round.
#[derive(Clone, Copy)]
struct Ran {
    sent: u64,
    arrived: u64,
    took: Duration,
}

impl Ran {
    /// Events a second that arrived.
    fn rate(&self) -> f64 {
        self.arrived as f64 / self.took.as_secs_f64()
    }

    /// Of a million events, how many did not arrive.
    fn lost(&self) -> f64 {
        (self.sent - self.arrived) as f64 * 1e6 / self.sent as f64
    }
}

/// Figures of all rounds.
#[derive(Default)]
struct Figures {
    discard: Vec<f64>,
    read: Vec<f64>,
    one_core: Vec<f64>,
    one_core_lost: Vec<f64>,
    told: Vec<f64>,
    paced: Vec<f64>,
    paced_lost: Vec<f64>,
    flat_out: Vec<f64>,
    flat_out_lost: Vec<f64>,
}

impl Figures {
    fn rows(&self) -> Vec<Row> {
        let row = |case, unit, values: &[f64]| Row::new("queue", case, unit, values);
        let rate = |case, values: &[f64]| {
            let mut row = row(case, "events/s", values);
            row.against_floor("discard", values, &self.discard);
            row
        };
        let lost = |case, values: &[f64]| row(case, "lost/million", values);
        vec![
            row("discard", "events/s", &self.discard),
            rate("read", &self.read),
            rate("told", &self.told),
            rate("one-core", &self.one_core),
            lost("one-core-lost", &self.one_core_lost),
            rate("two-cores-1m", &self.paced),
            lost("two-cores-1m-lost", &self.paced_lost),
            rate("two-cores", &self.flat_out),
            lost("two-cores-lost", &self.flat_out_lost),
        ]
    }
}

/// What is done with events.
#[derive(Clone, Copy)]
enum How {
    Discard,
    Read,
    Tell,
}

struct Queue {
    wrapper: Wrapper,
    datapath: Datapath,
    events: Events,
    runtime: Runtime,
}

impl Queue {
    fn new() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut datapath = edge::loaded(Table::Auto, edge::hop(1))?;
        let events = {
            let _inside = runtime.enter();
            datapath.events()?
        };
        let mut wrapper = Wrapper::new()?;
        wrapper.hold()?;
        let program = datapath.program()?.fd()?.try_clone()?;
        wrapper.set(new_flows(), &program)?;
        datapath.set_trace(1)?;
        Ok(Self {
            wrapper,
            datapath,
            events,
            runtime,
        })
    }

    /// Sends and reads by turns on this CPU: the reading alone, and both.
    fn in_turns(&mut self, flows: u32, how: How) -> Result<(Ran, Ran)> {
        let (mut sent, mut arrived) = (0, 0);
        let mut reading = Duration::ZERO;
        let start = thread_time()?;
        while sent < u64::from(flows) {
            self.wrapper.measure(Wrapper::WRAP, TURN)?;
            sent += u64::from(TURN);
            let begin = thread_time()?;
            arrived += match how {
                How::Discard => {
                    self.events.discard();
                    u64::from(TURN)
                }
                How::Read => self.drain(|_, event| u64::from(event.family == 4))?,
                How::Tell => self
                    .drain(|datapath, event| u64::from(datapath.tell(&event).endpoint.is_some()))?,
            };
            reading += thread_time()?.saturating_sub(begin);
        }
        let took = thread_time()?.saturating_sub(start);
        let ran = |took| Ran {
            sent,
            arrived,
            took,
        };
        Ok((ran(reading), ran(took)))
    }

    /// Reads a turn's events, as long as there are any.
    fn drain(
        &mut self,
        each: impl Fn(&Datapath, director_ebpf::abi::event::FlowEvent) -> u64,
    ) -> Result<u64> {
        let Self {
            events, datapath, ..
        } = self;
        self.runtime.block_on(async {
            let mut counted = 0;
            while counted < u64::from(TURN) {
                // Nothing else wakes it where events were lost.
                let read = tokio::time::timeout(Duration::from_millis(100), events.read(AT_ONCE));
                let Ok(some) = read.await else { break };
                counted += some?
                    .into_iter()
                    .map(|event| each(datapath, event))
                    .sum::<u64>();
            }
            Ok(counted)
        })
    }

    /// Sends on the second CPU while the first one reads.
    fn side_by_side(&mut self, flows: u32, pace: Option<u32>, cpus: &[usize]) -> Result<Ran> {
        let sent = AtomicU64::new(0);
        let is_over = AtomicU64::new(0);
        let Self {
            wrapper,
            events,
            runtime,
            ..
        } = self;
        let (sent, is_over) = (&sent, &is_over);
        std::thread::scope(|scope| {
            let sender = scope.spawn(move || {
                let result = send(wrapper, flows, pace, cpus[1], sent);
                is_over.store(1, Ordering::Release);
                result
            });
            let start = Instant::now();
            let mut took = Duration::ZERO;
            let mut arrived = 0;
            runtime.block_on(async {
                loop {
                    // Asked for first, so that nothing is sent after the last look.
                    let was_over = is_over.load(Ordering::Acquire) == 1;
                    let wait = Duration::from_millis(if was_over { 20 } else { 1 });
                    match tokio::time::timeout(wait, events.read(AT_ONCE)).await {
                        Ok(some) => {
                            arrived += some?.len() as u64;
                            took = start.elapsed();
                        }
                        Err(_) if was_over => return anyhow::Ok(()),
                        Err(_) => {}
                    }
                }
            })?;
            let sender = sender.join();
            sender.map_err(|_| anyhow::anyhow!("the sender panicked"))??;
            Ok(Ran {
                sent: sent.load(Ordering::Acquire),
                arrived,
                took,
            })
        })
    }
}

/// Sends flows, `pace` a second if there is one.
fn send(
    wrapper: &mut Wrapper,
    flows: u32,
    pace: Option<u32>,
    cpu: usize,
    sent: &AtomicU64,
) -> Result<()> {
    pin(None, cpu).context("sending")?;
    let start = Instant::now();
    for burst in 0..flows / BURST {
        if let Some(pace) = pace {
            let due = f64::from(burst * BURST) / f64::from(pace);
            while start.elapsed().as_secs_f64() < due {
                std::hint::spin_loop();
            }
        }
        wrapper.measure(Wrapper::WRAP, BURST)?;
        sent.fetch_add(u64::from(BURST), Ordering::Release);
    }
    Ok(())
}
