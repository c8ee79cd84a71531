//! `cargo xtask bench xdp`: nanoseconds a packet of the XDP program.
//!
//! Each figure is net: that of the wrapper around the program less that of the
//! wrapper around an empty one. Only the row of the empty program itself has
//! what a bare run of it costs.

mod cases;
pub mod edge;

pub use cases::new_flows;

use anyhow::{Context, Result};
use aya::programs::ProgramFd;

use self::{
    cases::{Case, Under},
    edge::Edge,
};
use crate::{
    report::Row,
    wrap::{Wrapper, pin_to_last},
};

/// Runs all cases and returns their rows.
///
/// # Errors
/// Without the privilege to load programs.
pub fn run(rounds: u32, packets: u32, only: &[String]) -> Result<Vec<Row>> {
    pin_to_last()?;
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
        let bare = bench.wrapper.bare_empty(packets)?;
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
        let floor = case
            .floor
            .and_then(|name| Some((name, of(name)?.as_slice())));
        Row::new("xdp", case.name, "ns/packet", values, floor)
    };
    cases.iter().zip(figures).map(row).collect()
}

struct Bench {
    wrapper: Wrapper,
    edge: Edge,
    lru: ProgramFd,
    empty: ProgramFd,
}

impl Bench {
    fn new() -> Result<Self> {
        let mut wrapper = Wrapper::new()?;
        let lru = wrapper.floor("bench_lru")?;
        let empty = wrapper.floor("bench_empty")?;
        Ok(Self {
            wrapper,
            edge: Edge::new()?,
            lru,
            empty,
        })
    }

    /// A case within the wrapper.
    fn wrapped(&mut self, case: &Case, packets: u32) -> Result<f64> {
        let under = match case.under {
            Under::Empty => self.empty.try_clone()?,
            Under::Lru => self.lru.try_clone()?,
            Under::Steer(mode) => self.edge.program(mode)?,
        };
        self.wrapper.set(&under, case.plan)?;
        // Every flow is met before any is measured.
        let flows = case.plan.mask.saturating_add(1).clamp(1000, case.warm);
        self.wrapper.measure(flows)?;
        self.wrapper.measure(packets)
    }
}
