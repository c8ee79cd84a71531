//! `cargo xtask bench l4`: what an edge forwards, beside the kernel's own
//! forwarding of the same packets.
//!
//! Packets of 64 k flows go from one network namespace through the edge's to a
//! third, over veth, as fast as one CPU makes them: `BPF_PROG_TEST_RUN` sends
//! them as XDP frames, as a driver would hand them over. They are counted where
//! they arrive.
//!
//! The edge has a CPU of its own. All of its work is done by one thread, the
//! kernel's threaded NAPI of the interface where packets come in: receiving, the
//! program or the kernel's forwarding, and putting the packet into the
//! receiver's ring. So nanoseconds a packet are that thread's CPU time by
//! packets that arrived. Sending, receiving and freeing packets are on the other
//! CPU and count for nobody; nor does waking the receiver, which looks by the
//! clock.
//!
//! The rate is what the edge's CPU can do only where it was busy all the time.
//! Where it was not, the CPU that sends and receives set the rate, and the edge
//! could do more: the third row of each case says how busy it was. A CPU that
//! waits now and then also has smaller batches, which cost more a packet.
//!
//! The kernel's forwarding is off while a program is measured, so that only what
//! the program itself sends on arrives.
//!
//! The kernel forwards with GRO on, as hosts do. A program that passes all, with
//! GRO off, was seen to make 3 % of difference.

mod net;
mod raw;
mod sender;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{ProgramFd, Xdp, XdpMode, xdp::XdpLinkId};
use director::datapath::{Datapath, Hop};
use director_ebpf::bench::Plan;
use nix::{net::if_::if_nametoindex, time::ClockId, unistd::gettid};

use self::{
    net::{Net, Received},
    sender::Sender,
};
use crate::{
    cpu,
    edge::{self, Table},
    frames::{ACK, TCP, VIP4, VIP6, frame4, frame6, plan},
    report::{Row, median},
    wrapper::Wrapper,
};

const FLOWS: u32 = 1 << 16;

const FLOOR: &str = "xdp-redirect4";
/// For packets to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// What forwards.
enum Forwarder {
    /// The kernel, by its routing table.
    Kernel,
    /// A program that sends all out unread.
    Redirect(Box<Xdp>),
    Director(Box<Datapath>),
}

/// One way to forward, and packets for it.
struct Case {
    name: &'static str,
    forwarder: Forwarder,
    plan: Plan,
    /// The kernel's forwarding of the same packets.
    peer: Option<&'static str>,
}

/// What a case did in a round.
#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    nanoseconds: f64,
    /// Part of the time that the edge's CPU worked.
    busy: f64,
    /// Part of what the edge took that did not arrive.
    lost: f64,
}

/// Runs all cases in each round, and returns three rows a case.
///
/// # Errors
/// Without privilege, two CPUs, or the kernel for it.
pub fn run(rounds: u32, window: Duration, only: &[String]) -> Result<Vec<Row>> {
    let cpus = cpu::allowed()?;
    let [ours, .., edges] = cpus[..] else {
        bail!("this needs one CPU for the edge and one for all else; there is one only");
    };
    cpu::pin(None, ours)?;
    let mut bench = Bench::new(ours, edges, window)?;
    let mut cases = bench.cases()?;
    cases.retain(|case| {
        let is_ours = matches!(case.forwarder, Forwarder::Director(_));
        !is_ours || only.is_empty() || only.iter().any(|text| case.name.contains(text))
    });
    let mut figures = vec![Vec::new(); cases.len()];
    for round in 0..=rounds {
        for (case, figures) in cases.iter_mut().zip(&mut figures) {
            let name = case.name;
            let measured = bench
                .measure(case)
                .with_context(|| format!("running {name}"))?;
            // The first round warms caches and tables.
            if round > 0 {
                figures.push(measured);
            }
        }
    }
    note(&cases, &figures);
    Ok(rows(&cases, &figures))
}

/// The network with what is measured in it.
struct Bench {
    net: Net,
    wrapper: Wrapper,
    send: ProgramFd,
    /// Attached for as long as this lives.
    _drop: Xdp,
    edge_in: u32,
    hop: Hop,
    /// CPU time of the thread that does the edge's work.
    clock: ClockId,
    taken: Received,
    arrived: Received,
    /// The CPU of all that is not the edge's.
    ours: usize,
    window: Duration,
}

impl Bench {
    fn new(ours: usize, edges: usize, window: Duration) -> Result<Self> {
        let net = Net::new()?;
        let mut drop = raw::drop_all()?;
        net.sink.within(|| {
            drop.attach(&net.sink_in, XdpMode::Driver)?;
            Ok(())
        })?;
        net.up()?;
        let edge_thread = net::receiver(&net.edge_in)?;
        cpu::pin(Some(edge_thread), edges)?;
        cpu::raise(edge_thread)?;
        // It has a ring of 256 packets to empty in time, beside the sender.
        let sink_thread = net::receiver(&net.sink_in)?;
        cpu::pin(Some(sink_thread), ours)?;
        cpu::real_time(sink_thread, 1)?;
        // Clocks and counters must be read at one time.
        cpu::real_time(gettid(), 2)?;
        let index = |name: &str| Ok(if_nametoindex(name)?);
        let out = net.source.within(|| index(net::TO_EDGE))?;
        let hop = Hop {
            interface: net.edge.within(|| index(net::TO_SINK))?,
            destination: net::SINK,
            source: net::EDGE_OUT,
            mtu: net::MTU,
            vlan: 0,
        };
        Ok(Self {
            wrapper: Wrapper::new()?,
            send: raw::send(out)?.fd()?.try_clone()?,
            _drop: drop,
            edge_in: net.edge.within(|| index(&net.edge_in))?,
            hop,
            clock: ClockId::pid_cpu_clock_id(edge_thread).context("the edge's clock")?,
            taken: Received::new(&net.edge, &net.edge_in)?,
            arrived: Received::new(&net.sink, &net.sink_in)?,
            ours,
            window,
            net,
        })
    }

    fn cases(&self) -> Result<Vec<Case>> {
        let v4 = plan(&frame4(VIP4, TCP, ACK), FLOWS);
        let v6 = plan(&frame6(VIP6, ACK), FLOWS);
        let director = |table| {
            let datapath = edge::loaded(table, self.hop)?;
            anyhow::Ok(Forwarder::Director(Box::new(datapath)))
        };
        let redirect = || {
            anyhow::Ok(Forwarder::Redirect(Box::new(raw::redirect(
                self.hop.interface,
            )?)))
        };
        let case = |name, forwarder, plan, peer| Case {
            name,
            forwarder,
            plan,
            peer,
        };
        let (kernel4, kernel6) = ("kernel-forward4", "kernel-forward6");
        let (peer4, peer6) = (Some(kernel4), Some(kernel6));
        Ok(vec![
            case(kernel4, Forwarder::Kernel, v4, None),
            case(kernel6, Forwarder::Kernel, v6, None),
            case(FLOOR, redirect()?, v4, peer4),
            case("forward4-tunnel", director(Table::Auto)?, v4, peer4),
            case("forward4-l2", director(Table::L2)?, v4, peer4),
            case("forward4-nat", director(Table::Nat)?, v4, peer4),
            case("forward6-tunnel", director(Table::Auto)?, v6, peer6),
        ])
    }

    /// Sends through a forwarder, and measures once packets arrive.
    fn measure(&mut self, case: &mut Case) -> Result<Figures> {
        let link = self.attach(&mut case.forwarder)?;
        self.wrapper.set(case.plan, &self.send)?;
        let wrap: &Xdp = self.wrapper.program(Wrapper::WRAP)?;
        let (net, ours, window) = (&self.net, self.ours, self.window);
        let sample = || Sample::take(self.clock, &self.taken, &self.arrived);
        let figures = Sender::during(wrap, net, ours, |sender| {
            let begin = sample()?;
            // Every flow has been met several times, and the rate is steady.
            let warm = begin.arrived + 8 * u64::from(FLOWS);
            while self.arrived.packets()? < warm {
                ensure!(sender.is_sending(), "the sender ended");
                ensure!(begin.at.elapsed() < PATIENCE, "packets do not arrive");
                sleep(Duration::from_millis(1));
            }
            let start = sample()?;
            sleep(window);
            let end = sample()?;
            ensure!(sender.is_sending(), "the sender ended");
            Ok(start.until(&end))
        });
        detach(&mut case.forwarder, link)?;
        figures
    }

    fn attach(&self, forwarder: &mut Forwarder) -> Result<Option<XdpLinkId>> {
        // What a program passes must not arrive all the same.
        self.net.forward(matches!(forwarder, Forwarder::Kernel))?;
        let program = match forwarder {
            Forwarder::Kernel => return Ok(None),
            Forwarder::Redirect(program) => program,
            Forwarder::Director(datapath) => datapath.program()?,
        };
        let interface = self.edge_in;
        let attached = self
            .net
            .edge
            .within(|| Ok(program.attach_to_if_index(interface, XdpMode::Driver)?));
        Ok(Some(attached?))
    }
}

fn detach(forwarder: &mut Forwarder, link: Option<XdpLinkId>) -> Result<()> {
    let Some(link) = link else { return Ok(()) };
    match forwarder {
        Forwarder::Kernel => {}
        Forwarder::Redirect(program) => program.detach(link)?,
        Forwarder::Director(datapath) => datapath.program()?.detach(link)?,
    }
    Ok(())
}

/// Clocks and counters at one time.
struct Sample {
    at: Instant,
    worked: Duration,
    taken: u64,
    arrived: u64,
}

impl Sample {
    fn take(clock: ClockId, taken: &Received, arrived: &Received) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            worked: clock.now()?.into(),
            taken: taken.packets()?,
            arrived: arrived.packets()?,
        })
    }

    fn until(&self, end: &Self) -> Figures {
        let time = (end.at - self.at).as_secs_f64();
        let worked = end.worked.saturating_sub(self.worked).as_secs_f64();
        let taken = (end.taken - self.taken) as f64;
        let arrived = (end.arrived - self.arrived) as f64;
        Figures {
            rate: arrived / time,
            nanoseconds: worked * 1e9 / arrived,
            busy: worked / time,
            lost: 1.0 - arrived / taken,
        }
    }
}

/// Says on stderr where a figure is not what one would take it for.
fn note(cases: &[Case], figures: &[Vec<Figures>]) {
    let (mut idle, mut lossy) = (Vec::new(), Vec::new());
    for (case, figures) in cases.iter().zip(figures) {
        let middle = |of: fn(&Figures) -> f64| median(&figures.iter().map(of).collect::<Vec<_>>());
        if middle(|figures| figures.busy) < 0.95 {
            idle.push(case.name);
        }
        let lost = middle(|figures| figures.lost);
        if lost > 0.01 {
            lossy.push(format!("{} ({:.1} %)", case.name, lost * 100.0));
        }
    }
    if !idle.is_empty() {
        let names = idle.join(", ");
        eprintln!(
            "note: the edge's CPU had time left, so its rate is not the most it can do: {names}"
        );
    }
    if !lossy.is_empty() {
        let names = lossy.join(", ");
        eprintln!("note: the receiver lost packets, which count as work for nothing: {names}");
    }
}

fn rows(cases: &[Case], figures: &[Vec<Figures>]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (unit, of) in UNITS {
        let values = |name: &str| -> Option<Vec<f64>> {
            let index = cases.iter().position(|case| case.name == name)?;
            Some(figures.get(index)?.iter().map(of).collect())
        };
        for case in cases {
            let own = values(case.name).unwrap_or_default();
            let mut row = Row::new("l4", case.name, unit, &own);
            let is_ours = matches!(case.forwarder, Forwarder::Director(_));
            if let (true, Some(floor)) = (is_ours, values(FLOOR)) {
                row.against_floor(FLOOR, &own, &floor);
            }
            if let Some(peer) = case.peer
                && let Some(values) = values(peer)
            {
                row.against_peer(peer, &own, &values);
            }
            rows.push(row);
        }
    }
    rows
}

type Unit = (&'static str, fn(&Figures) -> f64);
const UNITS: [Unit; 3] = [
    ("packets/s", |figures| figures.rate),
    ("ns/packet", |figures| figures.nanoseconds),
    ("% of the edge's CPU", |figures| figures.busy * 100.0),
];
