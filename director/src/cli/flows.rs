//! `director conns` and `director trace`.

use std::{
    io::{self, Write},
    ops::ControlFlow,
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::Socket;
use crate::{
    api::{ConnReport, TraceLine},
    client,
    config::Prefix,
    render,
};

#[derive(Debug, Args)]
pub(super) struct ConnsArgs {
    /// Only flows of this service.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only flows of clients in this prefix, or of this address.
    #[arg(long, value_name = "CIDR")]
    source: Option<Prefix>,
    /// Only flows of an endpoint: its address, or service/endpoint.
    #[arg(long, value_name = "ENDPOINT")]
    endpoint: Option<String>,
    /// Only flows of endpoints at this site.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Most flows to list; 0: all.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u64,
    /// As a line of JSON each.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct TraceArgs {
    /// Tell of one in this many flows, drawn at random.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    one_in: u32,
    /// Only flows of this service.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// End after this many seconds.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// As a line of JSON each.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

/// Lists recorded flows.
pub(super) async fn conns(args: ConnsArgs) -> Result<()> {
    let query = client::query(&[
        ("service", args.service),
        ("source", args.source.map(|prefix| prefix.to_string())),
        ("endpoint", args.endpoint),
        ("site", args.site),
        ("limit", Some(args.limit.to_string())),
    ]);
    let path = format!("/v1/conns{query}");
    let mut listed = 0;
    let each = |conn: ConnReport| {
        if listed == 0 && !args.json && print(&render::conns_heading())?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        listed += 1;
        if args.json {
            print_json(&conn)
        } else {
            print(&render::conn(&conn))
        }
    };
    client::lines(&args.socket.socket, &path, each).await?;
    if listed == args.limit && listed > 0 {
        eprintln!("note: the list ends at --limit {listed}; there may be more");
    }
    eprintln!(
        "note: with track = \"auto\", only flows that a change made necessary are recorded; \
         others do not appear here"
    );
    Ok(())
}

/// Prints flow events as they come.
pub(super) async fn trace(args: TraceArgs) -> Result<()> {
    let query = client::query(&[
        ("one_in", Some(args.one_in.to_string())),
        ("service", args.service),
    ]);
    let path = format!("/v1/trace{query}");
    let each = |line: TraceLine| {
        if args.json {
            return print_json(&line);
        }
        match line {
            TraceLine::Event(event) => print(&render::trace_event(&event)),
            TraceLine::Lost { lost } => {
                eprintln!("{lost} events lost");
                Ok(ControlFlow::Continue(()))
            }
        }
    };
    let lines = client::lines(&args.socket.socket, &path, each);
    match args.seconds {
        None => lines.await,
        // Where the time is up, that is its end.
        Some(seconds) => tokio::time::timeout(Duration::from_secs(seconds), lines)
            .await
            .unwrap_or(Ok(())),
    }
}

fn print_json(value: &impl Serialize) -> Result<ControlFlow<()>> {
    print(&serde_json::to_string(value)?)
}

/// Prints a line; breaks off where nobody reads them any more.
fn print(line: &str) -> Result<ControlFlow<()>> {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error.into()),
    }
}
