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
    /// Figures of a case, one of each round, beside those of its floor.
    pub fn new(
        bench: &'static str,
        case: &str,
        unit: &'static str,
        values: &[f64],
        floor: Option<(&'static str, &[f64])>,
    ) -> Self {
        let ratios: Option<Vec<f64>> = floor.map(|(_, floor)| {
            let pairs = values.iter().zip(floor);
            pairs.map(|(value, floor)| value / floor).collect()
        });
        Self {
            bench,
            case: case.to_owned(),
            unit,
            median: median(values),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            runs: values.len(),
            floor: floor.map(|(name, _)| name),
            floor_median: floor.map(|(_, values)| median(values)),
            ratio_to_floor: ratios.map(|ratios| median(&ratios)),
            peer: None,
            peer_median: None,
            ratio_to_peer: None,
        }
    }
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
    table.set_header(["CASE", "MEDIAN", "MIN", "MAX", "UNIT", "FLOOR", "RATIO"]);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    for row in rows {
        let floor = match (row.floor, row.floor_median) {
            (Some(name), Some(median)) => format!("{name} {median:.1}"),
            _ => "-".to_owned(),
        };
        table.add_row([
            Cell::new(&row.case),
            right(format!("{:.1}", row.median)),
            right(format!("{:.1}", row.min)),
            right(format!("{:.1}", row.max)),
            Cell::new(row.unit),
            Cell::new(floor),
            right(
                row.ratio_to_floor
                    .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            ),
        ]);
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
