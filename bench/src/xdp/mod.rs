//! `cargo xtask bench xdp`: nanoseconds a packet of the XDP program.
//!
//! Each figure is net: that of the wrapper around the program less that of the
//! wrapper around an empty one. Only the row of the empty program itself has
//! what a bare run of it costs.

mod cases;

pub use cases::new_flows;

use std::collections::{HashMap, hash_map::Entry};

use anyhow::{Context, Result};
use aya::programs::ProgramFd;
use director::datapath::Datapath;

use self::cases::{Case, Under};
use crate::{cpu, edge, report::Row, wrapper::Wrapper};

/// Runs all cases and returns their rows.
///
/// # Errors
/// Without the privilege to load programs.
pub fn run(rounds: u32, packets: u32, only: &[String]) -> Result<Vec<Row>> {
    cpu::pin_to_last()?;
    let mut cases = cases::all();
    let is_asked = |name: &str| only.is_empty() || only.iter().any(|text| name.contains(text));
    cases.retain(|case| matches!(case.under, Under::Empty | Under::Lru) || is_asked(case.name));
    let mut bench = Bench::new(&cases)?;
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
        let mut row = Row::new("xdp", case.name, "ns/packet", values);
        if let (Some(name), Some(floor)) = (case.floor, floor) {
            row.against_floor(name, values, floor);
        }
        row
    };
    cases.iter().zip(figures).map(row).collect()
}

struct Bench {
    wrapper: Wrapper,
    /// Programs that steer, for each table and interface.
    edges: HashMap<Under, Datapath>,
    lru: ProgramFd,
    empty: ProgramFd,
}

/// `BPF_PROG_TEST_RUN` runs as if a packet came in by the loopback interface.
const INGRESS: u32 = 1;
/// Some other interface.
const OTHER: u32 = 2;

impl Bench {
    fn new(cases: &[Case]) -> Result<Self> {
        let mut wrapper = Wrapper::new()?;
        let lru = wrapper.program("bench_lru")?.fd()?.try_clone()?;
        let empty = wrapper.program("bench_empty")?.fd()?.try_clone()?;
        let mut edges = HashMap::new();
        for case in cases {
            let (table, interface) = match case.under {
                Under::Empty | Under::Lru => continue,
                Under::Steer(table) => (table, INGRESS),
                Under::Redirect(table) => (table, OTHER),
            };
            if let Entry::Vacant(vacant) = edges.entry(case.under) {
                vacant.insert(edge::loaded(table, edge::hop(interface))?);
            }
        }
        Ok(Self {
            wrapper,
            edges,
            lru,
            empty,
        })
    }

    /// The empty program, without a wrapper.
    fn bare_empty(&mut self, packets: u32) -> Result<f64> {
        self.wrapper.measure("bench_empty", packets)
    }

    /// A case within the wrapper.
    fn wrapped(&mut self, case: &Case, packets: u32) -> Result<f64> {
        let program_fd = match case.under {
            Under::Empty => self.empty.try_clone()?,
            Under::Lru => self.lru.try_clone()?,
            under => {
                let edge = self.edges.get_mut(&under).context("no such edge")?;
                edge.program()?.fd()?.try_clone()?
            }
        };
        self.wrapper.set(case.plan, &program_fd)?;
        // Every flow is met before any is measured.
        let flows = case.plan.mask.saturating_add(1).clamp(1000, case.warm);
        self.wrapper.measure(Wrapper::WRAP, flows)?;
        self.wrapper.measure(Wrapper::WRAP, packets)
    }
}
