//! What idle connections take of a proxy's memory.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    child::{self, Child},
    subject::{SMALL, Stage, Subject},
};

/// Connections that are open at once.
pub const CONNECTIONS: usize = 10_000;
/// For what the proxy does after a response.
const SETTLE: Duration = Duration::from_millis(500);

/// KiB that a proxy, started for this, takes with connections that each did one
/// request and are idle now.
///
/// # Errors
/// When one of them fails or is closed.
pub fn measure(stage: &Stage, subject: Subject) -> Result<f64> {
    let mut proxy = stage.start(subject)?;
    let (port, _) = subject.ports();
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for done in 0..CONNECTIONS {
        if done % 1000 == 0 {
            child::check()?;
        }
        let connection = connect(port);
        connections.push(connection.with_context(|| format!("with {done} connections open"))?);
    }
    sleep(SETTLE);
    let memory = memory(&proxy)?;
    for mut connection in connections {
        connection.set_nonblocking(true)?;
        match connection.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => bail!("{} closed an idle connection", subject.name()),
        }
    }
    proxy.check()?;
    Ok(memory)
}

fn connect(port: u16) -> Result<TcpStream> {
    let (path, length) = SMALL;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connecting")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")?;
    let mut answer = Vec::with_capacity(4096);
    loop {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).context("reading")?;
        ensure!(read > 0, "the connection was closed");
        answer.extend_from_slice(&part[..read]);
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
        if head.is_some_and(|head| answer.len() >= head + 4 + length) {
            break;
        }
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "not answered with 200");
    Ok(stream)
}

/// KiB of a proxy's processes. What they have of their own counts in parts where
/// it is shared among them; pages of files count once, whoever else has them
/// mapped: our program is that of the benchmark, and nginx serves behind too.
fn memory(proxy: &Child) -> Result<f64> {
    let (mut own, mut files) = (0, 0);
    for id in proxy.family()? {
        let path = format!("/proc/{id}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let field = |name| kib(&text, name).with_context(|| format!("no {name} in {path}"));
        let shared = field("Pss_Shmem")?;
        own += field("Pss_Anon")? + shared;
        files = files.max(field("Rss")?.saturating_sub(field("Anonymous")? + shared));
    }
    Ok((own + files) as f64)
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}
