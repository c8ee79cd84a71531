//! `director simulate`: the packets of a capture through the program that the
//! kernel runs, without an interface.
//!
//! The maps are this process's own and nothing is attached or pinned. Tables
//! are what the daemon's would be, with every endpoint healthy but for those
//! that the command line names.

pub mod capture;
mod edge;
mod line;
mod output;
mod pcapng;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{BufWriter, Read, Write},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use director_ebpf::cause::Cause;

use self::{
    capture::{Capture, Fault, Record},
    edge::Names,
    line::{Line, Lines},
    output::Output,
};
use crate::{
    config::Config,
    datapath::simulate::{LONGEST_FRAME, Outcome, SHORTEST_FRAME, Simulation, Verdict},
};

/// Told as the cause of a packet that cannot be run for its length.
const FRAME_TOO_LONG: &str = "frame_too_long";

/// The command line of `director simulate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file. Its interfaces are not looked at.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Capture to read, pcap or pcapng, of Ethernet frames.
    #[arg(long, value_name = "IN")]
    pcap: PathBuf,
    /// Where to write the packets that would leave, as pcap with the times of
    /// the packets that came in. A file that is there is replaced at the end.
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    /// A JSON object a line.
    #[arg(long)]
    json: bool,
    /// Count a site, or service/endpoint, as down; may be given several times.
    #[arg(long, value_name = "NAME")]
    down: Vec<String>,
    /// Count a site, or service/endpoint, as draining; may be given several
    /// times.
    #[arg(long, value_name = "NAME")]
    drain: Vec<String>,
    /// Largest IP packet towards an endpoint, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 1500,
          value_parser = clap::value_parser!(u16).range(68..))]
    mtu: u16,
}

/// A command line that asks for what cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(String);

/// Runs every packet of the capture, tells of each, and writes those that would
/// leave.
///
/// A capture that ends within a packet, or contradicts itself, is run up to
/// there: the packets before are told of and written, and then it is an error.
/// Where there are none, what was at `--out` stays, as after any other error.
///
/// # Errors
/// [`Usage`], before anything is done; otherwise that the capture or the output
/// failed, or that the kernel does not run the program.
pub fn run(args: &Args, config: &Config) -> Result<()> {
    let plans = edge::plans(config, &args.down, &args.drain)?;
    let input = File::open(&args.pcap)
        .with_context(|| format!("{} cannot be opened", args.pcap.display()))?;
    check_output(&input, &args.out)?;
    for note in &plans.notes {
        eprintln!("note: {note}");
    }
    let name = || args.pcap.display().to_string();
    let mut capture = Capture::open(input).with_context(name)?;
    let simulation = edge::open(config, &plans, args.mtu)?;
    let names = Names::new(&config.model);
    let lines = Lines::new(
        BufWriter::new(std::io::stdout().lock()),
        args.json,
        names.width(),
    );
    let output = Output::create(&args.out, capture.precision())?;
    let mut runner = Runner {
        simulation,
        names,
        lines,
        output,
        packets: 0,
    };
    let fault = runner.all(&mut capture)?;
    let is_untouched = fault.is_some() && runner.packets == 0;
    runner.lines.flush()?;
    if !is_untouched {
        runner.output.finish()?;
    }
    match fault {
        Some(fault) => Err(fault).with_context(name),
        None => Ok(()),
    }
}

/// Refuses to write over what is no file, and over the capture itself: where
/// that cannot be read to its end, the rest of it would be lost.
fn check_output(input: &File, out: &Path) -> Result<()> {
    let there = match std::fs::metadata(out) {
        Ok(there) => there,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("{} cannot be looked at", out.display()));
        }
    };
    if !there.is_file() {
        let message = format!(
            "--out {} is no regular file\n  help: name a file, or one that does not exist yet",
            out.display()
        );
        return Err(Usage(message).into());
    }
    let read = input.metadata().context("looking at the capture")?;
    if (read.dev(), read.ino()) == (there.dev(), there.ino()) {
        let message = format!(
            "--out {} is the capture itself\n  help: name another file",
            out.display()
        );
        return Err(Usage(message).into());
    }
    Ok(())
}

/// What a packet goes through.
struct Runner<W: Write> {
    simulation: Simulation,
    names: Names,
    lines: Lines<W>,
    output: Output,
    /// Packets run so far.
    packets: u64,
}

impl<W: Write> Runner<W> {
    /// Runs all packets, or those before the fault that it returns.
    fn all<R: Read>(&mut self, capture: &mut Capture<R>) -> Result<Option<Fault>> {
        loop {
            match capture.next_packet() {
                Ok(Some(record)) => self.one(&record)?,
                Ok(None) => return Ok(None),
                Err(fault) => return Ok(Some(fault)),
            }
        }
    }

    fn one(&mut self, record: &Record<'_>) -> Result<()> {
        self.packets += 1;
        let mut line = Line::passed(self.packets, record.data.len());
        if record.data.len() < SHORTEST_FRAME {
            line.cause = Some(Cause::Truncated.label());
        } else if record.data.len() > LONGEST_FRAME {
            line.cause = Some(FRAME_TOO_LONG);
        } else {
            let outcome = self.simulation.run(record.data)?;
            line.tell(&outcome, &self.names);
            if outcome.verdict.leaves() {
                self.output.write(record, outcome.frame)?;
            }
        }
        self.lines.write(&line)
    }
}

impl<'a> Line<'a> {
    /// A packet that passes as it is.
    fn passed(packet: u64, length: usize) -> Self {
        Self {
            packet,
            verdict: Verdict::Pass.label(),
            cause: None,
            endpoint: None,
            service: None,
            site: None,
            length_in: length,
            length_out: None,
        }
    }

    fn tell(&mut self, outcome: &Outcome<'_>, names: &'a Names) {
        self.verdict = outcome.verdict.label();
        self.cause = match outcome.cause {
            Some(cause) => Some(cause.label()),
            // Passing what is not for a service is nearly free: not counted.
            None => (outcome.verdict == Verdict::Pass).then_some(Cause::NotOurs.label()),
        };
        if let Some(name) = outcome.endpoint.and_then(|counted| names.get(&counted)) {
            self.endpoint = Some(&name.endpoint);
            self.service = Some(&name.service);
            self.site = Some(&name.site);
        }
        self.length_out = outcome.verdict.leaves().then_some(outcome.frame.len());
    }
}
