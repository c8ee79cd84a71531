//! What is told of a packet.

use std::io::Write;

use anyhow::{Context, Result};
use serde::Serialize;

/// One packet.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// Position in the capture, from 1.
    pub packet: u64,
    /// `tx`, `redirect`, `pass` or `drop`.
    pub verdict: &'static str,
    /// Why it was not steered.
    pub cause: Option<&'static str>,
    /// `service/endpoint`.
    pub endpoint: Option<&'a str>,
    pub service: Option<&'a str>,
    pub site: Option<&'a str>,
    /// Bytes of the frame in the capture.
    pub length_in: usize,
    /// Bytes of the frame that leaves, if one does.
    pub length_out: Option<usize>,
}

/// Writes lines, as JSON or for people.
pub struct Lines<W: Write> {
    out: W,
    json: bool,
    /// Characters that the column of endpoints takes.
    width: usize,
}

impl<W: Write> Lines<W> {
    /// Lines to `out`. Endpoints take up to `width` characters.
    pub fn new(out: W, json: bool, width: usize) -> Self {
        Self { out, json, width }
    }

    /// Writes one line.
    ///
    /// # Errors
    /// When `out` takes no more.
    pub fn write(&mut self, line: &Line<'_>) -> Result<()> {
        let text = if self.json {
            serde_json::to_string(line)?
        } else {
            self.text(line)
        };
        writeln!(self.out, "{text}").context("writing to the standard output")
    }

    /// Writes what is still held back.
    ///
    /// # Errors
    /// When `out` takes no more.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().context("writing to the standard output")
    }

    fn text(&self, line: &Line<'_>) -> String {
        let sizes = match line.length_out {
            Some(out) => format!("{:>5} -> {out} bytes", line.length_in),
            None => format!("{:>5} bytes", line.length_in),
        };
        let (endpoint, site) = match (line.endpoint, line.length_out) {
            (Some(endpoint), _) => (endpoint, line.site.unwrap_or_default()),
            // Steered, and counted for no endpoint: it comes from one.
            (None, Some(_)) => ("to the client", ""),
            (None, None) => (line.cause.unwrap_or_default(), ""),
        };
        let text = format!(
            "{:>6}  {:<8}  {sizes:<19}  {endpoint:<width$}  {site}",
            line.packet,
            line.verdict,
            width = self.width
        );
        text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEERED: Line<'_> = Line {
        packet: 1,
        verdict: "redirect",
        cause: None,
        endpoint: Some("web/dc01-a"),
        service: Some("web"),
        site: Some("dc01"),
        length_in: 74,
        length_out: Some(94),
    };
    const DROPPED: Line<'_> = Line {
        packet: 12_345,
        verdict: "drop",
        cause: Some("fragment"),
        endpoint: None,
        service: None,
        site: None,
        length_in: 1514,
        length_out: None,
    };

    fn written(json: bool, line: &Line<'_>) -> String {
        let mut out = Vec::new();
        Lines::new(&mut out, json, 14).write(line).expect("a Vec");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn columns_stand_below_one_another() {
        assert_eq!(
            written(false, &STEERED),
            "     1  redirect     74 -> 94 bytes    web/dc01-a      dc01\n"
        );
        assert_eq!(
            written(false, &DROPPED),
            " 12345  drop       1514 bytes          fragment\n"
        );
    }

    #[test]
    fn a_reply_is_told_as_such() {
        let reply = Line {
            verdict: "tx",
            endpoint: None,
            ..STEERED
        };
        assert!(written(false, &reply).contains("to the client"));
    }

    #[test]
    fn json_has_every_key() {
        assert_eq!(
            written(true, &DROPPED),
            r#"{"packet":12345,"verdict":"drop","cause":"fragment","endpoint":null,"#.to_owned()
                + r#""service":null,"site":null,"length_in":1514,"length_out":null}"#
                + "\n"
        );
    }
}
