//! Frames through the program without an interface, by `BPF_PROG_TEST_RUN`, and
//! what the counters say became of each.
//!
//! Reading a counter is a system call, so as few as can have changed are read:
//! the services', of the endpoints those of the service that was steered to, the
//! one that was steered to last before the others, and the causes' where nothing
//! was steered.

use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::{
    maps::{MapData, PerCpuArray},
    programs::{TestRun as _, TestRunOptions},
};
use director_ebpf::{abi::Counter, cause::Cause};

use super::{
    Datapath, Vip,
    plain::{P, address},
};

/// The shortest frame that the kernel runs a program on, in bytes: an Ethernet
/// header.
pub const SHORTEST_FRAME: usize = 14;
/// The longest frame that every kernel runs a program on, in bytes: what the
/// smallest page holds between XDP's headroom (256) and `struct
/// skb_shared_info`, which takes up to 384 with its alignment.
pub const LONGEST_FRAME: usize = 4096 - 256 - 384;
/// Bytes by which a frame may grow: all of XDP's headroom.
const GROWTH: usize = 256;

/// What the program said of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Dropped.
    Drop,
    /// To the host's own stack.
    Pass,
    /// Out by the interface that it came in by.
    Tx,
    /// Out by another interface.
    Redirect,
}

impl Verdict {
    /// Name of the verdict in reports.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Pass => "pass",
            Self::Tx => "tx",
            Self::Redirect => "redirect",
        }
    }

    /// Whether the frame leaves by an interface.
    #[must_use]
    pub const fn leaves(self) -> bool {
        matches!(self, Self::Tx | Self::Redirect)
    }
}

impl From<u32> for Verdict {
    /// From an `enum xdp_action`. The kernel drops what a program aborts or
    /// answers with an unknown number.
    fn from(action: u32) -> Self {
        match action {
            2 => Self::Pass,
            3 => Self::Tx,
            4 => Self::Redirect,
            _ => Self::Drop,
        }
    }
}

/// An endpoint by the service it was counted for, its address and its port.
pub type Counted = (Vip, IpAddr, u16);

/// What became of one frame.
#[derive(Debug)]
pub struct Outcome<'a> {
    pub verdict: Verdict,
    /// The frame as the program left it.
    pub frame: &'a [u8],
    /// Why it was not steered, where that was counted.
    pub cause: Option<Cause>,
    /// The endpoint that it was counted for.
    pub endpoint: Option<Counted>,
}

/// A datapath that frames are run through, one at a time.
pub struct Simulation {
    datapath: Datapath,
    services: Vec<WatchedService>,
    /// Counters of the causes at the last frame that was not steered. That a
    /// flow was not recorded is none of them: its packets are steered.
    causes: Vec<(Cause, u64)>,
    out: Vec<u8>,
}

/// A service's counter as it was at the last frame.
struct WatchedService {
    index: u32,
    vip: Vip,
    packets: u64,
    /// Those steered to last come first.
    endpoints: Vec<WatchedEndpoint>,
}

/// An endpoint's counter as it was at the last frame.
struct WatchedEndpoint {
    index: u32,
    address: IpAddr,
    port: u16,
    packets: u64,
}

impl Simulation {
    /// Takes over a datapath, whose services and endpoints then stay as they are.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn new(datapath: Datapath) -> Result<Self> {
        let mut services = Vec::new();
        for (index, service) in datapath.desired.services.iter().enumerate() {
            let Some(service) = service else { continue };
            let mut endpoints = Vec::new();
            for (endpoint, entry) in datapath.desired.endpoints_of(index) {
                endpoints.push(WatchedEndpoint {
                    index: endpoint as u32,
                    address: address(entry.address, entry.family),
                    port: u16::from_be(entry.port),
                    packets: packets(&datapath.maps.endpoint_counters, endpoint as u32)?,
                });
            }
            services.push(WatchedService {
                index: index as u32,
                vip: service.vip,
                packets: packets(&datapath.maps.service_counters, index as u32)?,
                endpoints,
            });
        }
        let causes = Cause::ALL
            .iter()
            .filter(|cause| **cause != Cause::FlowNotRecorded)
            .map(|cause| Ok((*cause, unsteered(&datapath, *cause)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            datapath,
            services,
            causes,
            out: vec![0; LONGEST_FRAME + GROWTH],
        })
    }

    /// Runs one frame of [`SHORTEST_FRAME`] to [`LONGEST_FRAME`] bytes, as if
    /// it came in by the loopback interface (index 1).
    ///
    /// # Errors
    /// When the kernel does not run it, or a map cannot be read.
    pub fn run(&mut self, frame: &[u8]) -> Result<Outcome<'_>> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut self.out);
        let ran = self
            .datapath
            .program()?
            .test_run(options)
            .with_context(|| format!("running the program on {} bytes", frame.len()))?;
        let verdict = Verdict::from(ran.return_value);
        let endpoint = self.counted_endpoint()?;
        // What goes back may be an answer, which has its cause.
        let cause = if verdict == Verdict::Redirect {
            None
        } else {
            self.counted_cause()?
        };
        Ok(Outcome {
            verdict,
            frame: self
                .out
                .get(..ran.data_size_out as usize)
                .context("the kernel returned a frame longer than it may be")?,
            cause,
            endpoint,
        })
    }

    /// The cause whose counter has risen.
    fn counted_cause(&mut self) -> Result<Option<Cause>> {
        for (cause, before) in &mut self.causes {
            let now = unsteered(&self.datapath, *cause)?;
            if now != std::mem::replace(before, now) {
                return Ok(Some(*cause));
            }
        }
        Ok(None)
    }

    /// The endpoint whose counter has risen.
    fn counted_endpoint(&mut self) -> Result<Option<Counted>> {
        for service in &mut self.services {
            let now = packets(&self.datapath.maps.service_counters, service.index)?;
            if now == std::mem::replace(&mut service.packets, now) {
                continue;
            }
            let endpoints = &mut service.endpoints;
            for position in 0..endpoints.len() {
                let endpoint = &mut endpoints[position];
                let now = packets(&self.datapath.maps.endpoint_counters, endpoint.index)?;
                if now == std::mem::replace(&mut endpoint.packets, now) {
                    continue;
                }
                let counted = (service.vip, endpoint.address, endpoint.port);
                endpoints[..=position].rotate_right(1);
                return Ok(Some(counted));
            }
        }
        Ok(None)
    }
}

/// Packets over all CPUs.
fn packets(map: &PerCpuArray<MapData, P<Counter>>, index: u32) -> Result<u64> {
    let values = map.get(&index, 0).context("reading counters")?;
    Ok(values.iter().map(|P(counter)| counter.packets).sum())
}

/// Packets over all CPUs that were not steered for `cause`.
fn unsteered(datapath: &Datapath, cause: Cause) -> Result<u64> {
    let values = datapath
        .maps
        .causes
        .get(&(cause as u32), 0)
        .context("reading CAUSES")?;
    Ok(values.iter().sum())
}
