//! Rows of a benchmark, for people and programs.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub bench: &'static str,
    pub case: String,
    pub unit: &'static str,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// Rounds that the figures are over.
    pub runs: usize,
    /// The case that is the least one could hope for.
    pub floor: Option<&'static str>,
    pub floor_median: Option<f64>,
    /// Median over the rounds of the ratio within each round, so that what
    /// slows the whole machine does not count.
    pub ratio_to_floor: Option<f64>,
    pub peer: Option<&'static str>,
    pub peer_median: Option<f64>,
    pub ratio_to_peer: Option<f64>,
}

impl Row {
    /// A case by itself: `values` are those of its rounds.
    pub fn new(bench: &'static str, case: &str, unit: &'static str, values: &[f64]) -> Self {
        Self {
            bench,
            case: case.to_owned(),
            unit,
            median: median(values),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            runs: values.len(),
            floor: None,
            floor_median: None,
            ratio_to_floor: None,
            peer: None,
            peer_median: None,
            ratio_to_peer: None,
        }
    }

    /// Compares it with the floor's values in the same rounds.
    pub fn against_floor(&mut self, floor: &'static str, values: &[f64], floors: &[f64]) {
        self.floor = Some(floor);
        self.floor_median = Some(median(floors));
        self.ratio_to_floor = Some(ratio(values, floors));
    }

    /// Compares it with the peer's values in the same rounds.
    pub fn against_peer(&mut self, peer: &'static str, values: &[f64], peers: &[f64]) {
        self.peer = Some(peer);
        self.peer_median = Some(median(peers));
        self.ratio_to_peer = Some(ratio(values, peers));
    }
}

/// The median of the ratios within each round.
fn ratio(values: &[f64], others: &[f64]) -> f64 {
    let ratios: Vec<f64> = values
        .iter()
        .zip(others)
        .map(|(value, other)| value / other)
        .collect();
    median(&ratios)
}

/// The middle value; the mean of the two middle ones where there are two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The rows as a table.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let any_peer = rows.iter().any(|row| row.peer.is_some());
    let mut header = vec!["CASE", "MEDIAN", "MIN", "MAX", "UNIT", "FLOOR", "RATIO"];
    if any_peer {
        header.extend(["PEER", "RATIO"]);
    }
    table.set_header(header);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let dash = || "-".to_owned();
    for row in rows {
        let other = |name: Option<&str>, median: Option<f64>, ratio: Option<f64>| {
            let named = name
                .zip(median)
                .map(|(name, median)| format!("{name} {median:.1}"));
            let ratio = ratio.map(|ratio| format!("{ratio:.2}"));
            [
                Cell::new(named.unwrap_or_else(dash)),
                right(ratio.unwrap_or_else(dash)),
            ]
        };
        let mut cells = vec![
            Cell::new(&row.case),
            right(format!("{:.1}", row.median)),
            right(format!("{:.1}", row.min)),
            right(format!("{:.1}", row.max)),
            Cell::new(row.unit),
        ];
        cells.extend(other(row.floor, row.floor_median, row.ratio_to_floor));
        if any_peer {
            cells.extend(other(row.peer, row.peer_median, row.ratio_to_peer));
        }
        table.add_row(cells);
    }
    table
}

/// Writes the rows to `file`, if any is named.
pub fn write(rows: &[Row], file: Option<&Path>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(rows)?;
    std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
