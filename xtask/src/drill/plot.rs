//! The picture of a drill: new connections a second by site, stacked, with
//! what failed on top, and the marks of fault and recovery.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use resvg::{tiny_skia, usvg};

use super::figures::Run;
use super::measure::{BUCKET_US, Bucket};
use super::plan::Plan;
use super::topology::Topology;

const SIZE: (u32, u32) = (1280, 640);
/// Width of the PNG over that of the SVG: text stays sharp on dense screens.
const PNG_SCALE: f32 = 2.0;
/// Sites' colours, apart for the colour-blind as well (Okabe and Ito, 2008).
const SITES: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(230, 159, 0),
    RGBColor(204, 121, 167),
];
const FAILED: RGBColor = RGBColor(213, 36, 0);
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// Room above the tallest stack for the marks' labels, as a factor.
const HEADROOM: f64 = 1.32;
/// Connections a step of the picture stands for at least, while steps can be widened.
const CALM: f64 = 40.0;
/// Where, in a drill of the proxy, the picture of latencies begins.
const SPLIT: i32 = 460;
/// Width of an entry of the legend.
const LEGEND_ENTRY: i32 = 84;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws `run` as SVG.
///
/// # Errors
/// When there is nothing to draw, or plotters fails.
pub fn svg(plan: &Plan, topology: &Topology, run: &Run) -> anyhow::Result<String> {
    if run.timeline.len() < buckets_per_step(plan.rate) {
        bail!("the drill's timeline is too short to draw");
    }
    let mut svg = String::new();
    draw(&mut svg, plan, topology, run).map_err(|error| anyhow!("cannot draw: {error}"))?;
    Ok(svg)
}

/// Renders the SVG text to a PNG file.
///
/// # Errors
/// When this machine has no font (a picture without text would be useless), or
/// the file cannot be written.
pub fn png(svg: &str, path: &Path) -> anyhow::Result<()> {
    let mut options = usvg::Options::default();
    load_fonts(options.fontdb_mut())?;
    let tree = usvg::Tree::from_str(svg, &options).context("cannot read the picture back")?;
    let size = tree.size().to_int_size();
    let size = size
        .scale_by(PNG_SCALE)
        .context("the picture has no size")?;
    let mut pixmap =
        tiny_skia::Pixmap::new(size.width(), size.height()).context("the picture has no size")?;
    let scale = tiny_skia::Transform::from_scale(PNG_SCALE, PNG_SCALE);
    resvg::render(&tree, scale, &mut pixmap.as_mut());
    pixmap
        .save_png(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn load_fonts(fonts: &mut usvg::fontdb::Database) -> anyhow::Result<()> {
    fonts.load_system_fonts();
    let families: Vec<String> = fonts
        .faces()
        .filter_map(|face| face.families.first().map(|(name, _)| name.clone()))
        .collect();
    let preferred = ["DejaVu Sans", "Liberation Sans", "Noto Sans", "Arial"];
    let chosen = preferred
        .into_iter()
        .find(|wanted| families.iter().any(|family| family == wanted))
        .or(families.first().map(String::as_str));
    let Some(family) = chosen else {
        bail!(
            "no font is installed, and a picture without text would say nothing; \
             install one: apt-get install -y fonts-dejavu-core"
        );
    };
    fonts.set_sans_serif_family(family);
    Ok(())
}

fn draw(
    svg: &mut String,
    plan: &Plan,
    topology: &Topology,
    run: &Run,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    heading(&root, plan, topology, run)?;
    let merged = buckets_per_step(plan.rate);
    let step = merged as f64 * BUCKET_US as f64 / 1e6;
    let stacks = stacks(run, merged);
    let fault = seconds(run.marks.fault);
    let start = seconds(run.marks.windows.before.from) - fault;
    let end = start + stacks.len() as f64 * step;
    let tallest = stacks.iter().flatten().copied().fold(1.0, f64::max);
    let (unit, upper) = match &run.proxy {
        Some(figures) => {
            let (upper, lower) = root.split_vertically(SPLIT);
            latency(&lower, &figures.timeline_p99_ms, (start, end))?;
            ("requests", upper)
        }
        None => ("new connections", root.clone()),
    };
    let mut chart = ChartBuilder::on(&upper)
        .margin(12)
        .margin_top(84)
        .margin_right(24)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(start..end, 0.0..tallest * HEADROOM)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .x_desc("seconds from the fault")
        .y_desc(format!("{unit} per second"))
        .x_labels(12)
        .y_labels(8)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .label_style(("sans-serif", 15).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 16).into_font().color(&INK))
        .draw()?;
    // From the whole stack down, so that each layer covers all but its own band.
    let layers = topology.sites().len() + 1;
    for layer in (0..layers).rev() {
        let color = layer_color(layer, layers);
        let outline = stacks.iter().enumerate().flat_map(|(index, stack)| {
            let from = start + index as f64 * step;
            [(from, stack[layer]), (from + step, stack[layer])]
        });
        chart.draw_series(AreaSeries::new(outline, 0.0, color.filled()))?;
    }
    marks(&mut chart, run, tallest, (start, end))?;
    root.present()?;
    Ok(())
}

/// The 99th percentile of latency, from second `start` to `end`.
fn latency(
    area: &Area<'_>,
    p99_ms: &[f64],
    (start, end): (f64, f64),
) -> Result<(), Box<dyn std::error::Error>> {
    let tallest = p99_ms.iter().copied().fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(24)
        .x_label_area_size(24)
        .y_label_area_size(72)
        .build_cartesian_2d(start..end, 0.0..tallest * 1.1)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .y_desc("p99, ms")
        .x_labels(12)
        .y_labels(4)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .label_style(("sans-serif", 15).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 16).into_font().color(&INK))
        .draw()?;
    let step = BUCKET_US as f64 / 1e6;
    let steps = p99_ms.iter().enumerate();
    let line = steps.flat_map(|(index, ms)| {
        let from = start + index as f64 * step;
        [(from, *ms), ((from + step).min(end), *ms)]
    });
    let line = line.filter(|(x, _)| *x <= end);
    chart.draw_series([PathElement::new(
        line.collect::<Vec<_>>(),
        INK.stroke_width(2),
    )])?;
    Ok(())
}

/// Buckets drawn as one, so that at a low rate chance does not hide the picture.
fn buckets_per_step(rate: u32) -> usize {
    let in_a_bucket = f64::from(rate) * BUCKET_US as f64 / 1e6;
    (CALM / in_a_bucket).ceil().clamp(1.0, 5.0) as usize
}

/// Connections a second per step, cumulated: first site, first two, ..., all
/// sites, all sites and the failed.
fn stacks(run: &Run, merged: usize) -> Vec<Vec<f64>> {
    let per_second = 1e6 / (merged as f64 * BUCKET_US as f64);
    let stack = |buckets: &[Bucket]| {
        let sites = buckets[0].answered.len();
        let site = |index: usize| buckets.iter().map(|one| one.answered[index]).sum::<u32>();
        let failed = buckets.iter().map(|one| one.failed).sum();
        let layers = (0..sites).map(site).chain([failed]);
        let sums = layers.scan(0.0, |sum, count| {
            *sum += f64::from(count) * per_second;
            Some(*sum)
        });
        sums.collect()
    };
    run.timeline.chunks_exact(merged).map(stack).collect()
}

fn layer_color(layer: usize, layers: usize) -> RGBColor {
    if layer + 1 == layers {
        FAILED
    } else {
        SITES[layer % SITES.len()]
    }
}

fn heading(
    root: &Area<'_>,
    plan: &Plan,
    topology: &Topology,
    run: &Run,
) -> Result<(), Box<dyn std::error::Error>> {
    let site = &topology.sites()[topology.hit()].name;
    let title = format!(
        "Failover drill: {} of {site} (IPv{}, mode {})",
        plan.fault.as_str(),
        plan.ip_version(),
        plan.mode.as_str()
    );
    let title_style = ("sans-serif", 22).into_font().color(&INK);
    root.draw(&Text::new(title, (24, 14), title_style))?;
    let mut facts = match &run.proxy {
        Some(figures) => format!(
            "{} of {} requests failed, {} retries, {} changes of breakers",
            run.failed.after_fault,
            figures.requests,
            figures.retries,
            figures.transitions_total()
        ),
        None => format!(
            "{} new connections failed, {} live connections broken on surviving sites",
            run.failed.after_fault, run.broken_surviving
        ),
    };
    if !plan.planned() {
        facts = format!("RTO {:.2} s, {facts}", run.rto_ms() / 1000.0);
    }
    let style = ("sans-serif", 15).into_font().color(&INK);
    root.draw(&Text::new(facts, (24, 46), style.clone()))?;
    let names = topology.sites().iter().map(|site| site.name.as_str());
    let names: Vec<&str> = names.chain(["failed"]).collect();
    let mut x = SIZE.0 as i32 - 24 - LEGEND_ENTRY * names.len() as i32;
    for (layer, name) in names.iter().enumerate() {
        let color = layer_color(layer, names.len()).filled();
        root.draw(&Rectangle::new([(x, 46), (x + 14, 60)], color))?;
        root.draw(&Text::new((*name).to_owned(), (x + 21, 46), style.clone()))?;
        x += LEGEND_ENTRY;
    }
    Ok(())
}

/// A line for each mark, labelled in rows of their own so that marks close
/// together do not write over each other.
fn marks(
    chart: &mut Chart<'_, '_>,
    run: &Run,
    tallest: f64,
    (start, end): (f64, f64),
) -> Result<(), Box<dyn std::error::Error>> {
    let at = |us: u64| seconds(us) - seconds(run.marks.fault);
    let recovery = at(run.marks.recovery);
    let mut marks = vec![(0.0, "fault".to_owned())];
    if let Some(detected) = run.marks.detected.map(at) {
        marks.push((detected, format!("detected, {detected:.2} s later")));
    }
    marks.push((recovery, "recovery".to_owned()));
    if let Some(recovered) = run.marks.recovered.map(at) {
        let took = recovered - recovery;
        marks.push((recovered, format!("weight back, {took:.2} s later")));
    }
    let style = ("sans-serif", 15).into_font().color(&INK);
    for (row, (x, label)) in marks.into_iter().enumerate() {
        let y = tallest * (1.29 - 0.07 * row as f64);
        chart.draw_series([PathElement::new(
            vec![(x, 0.0), (x, y)],
            INK.stroke_width(2),
        )])?;
        // Near the right edge the label goes to the left of its line.
        let left = x > start + (end - start) * 0.8;
        let (hpos, offset) = if left {
            (HPos::Right, -7)
        } else {
            (HPos::Left, 7)
        };
        let style = style.clone().pos(Pos::new(hpos, VPos::Top));
        let text = EmptyElement::at((x, y)) + Text::new(label, (offset, 0), style);
        chart.draw_series([text])?;
    }
    Ok(())
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
#[path = "plot_tests.rs"]
mod tests;
