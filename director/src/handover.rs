//! Another program in place of this one, without a connection refused: the new one
//! inherits the sockets that listen, so their queues live on, and the lock.
//!
//! The new program says that it is ready through a pipe. Where it does not, it is
//! ended, and the old one goes on as if nothing had been.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Where a program finds what it inherits: words of `what=descriptor`, and of
/// `address=descriptor` for sockets of the proxy.
const VARIABLE: &str = "DIRECTOR_HANDOVER";
/// How long a new program may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a program inherits from the one before it; nothing, usually.
#[derive(Default)]
pub struct Inherited {
    pub lock: Option<File>,
    pub metrics: Option<TcpListener>,
    /// Sockets of the proxy, some for each address.
    pub listeners: Vec<(SocketAddr, TcpListener)>,
    ready: Option<File>,
}

impl Inherited {
    /// What is there. Only the first call finds anything.
    pub fn take() -> Self {
        let mut inherited = Self::default();
        let Ok(words) = env::var(VARIABLE) else {
            return inherited;
        };
        // SAFETY: no other thread reads or writes the environment: this is called
        // before the proxy and the control socket start theirs, and those that the
        // runtime has started do nothing yet.
        unsafe { env::remove_var(VARIABLE) };
        for word in words.split_whitespace() {
            let Some((what, fd)) = word.rsplit_once('=') else {
                continue;
            };
            let Some(fd) = fd.parse().ok().and_then(adopt) else {
                tracing::warn!("{VARIABLE} names {word}, which is not open");
                continue;
            };
            match what {
                "lock" => inherited.lock = Some(fd.into()),
                "metrics" => inherited.metrics = Some(fd.into()),
                "ready" => inherited.ready = Some(fd.into()),
                address => match address.parse() {
                    Ok(address) => inherited.listeners.push((address, fd.into())),
                    Err(_) => tracing::warn!("{VARIABLE} has {word}, which means nothing"),
                },
            }
        }
        inherited
    }

    /// Tells the program before that this one serves.
    pub fn ready(&mut self) {
        if let Some(mut pipe) = self.ready.take()
            && let Err(error) = pipe.write_all(b"1")
        {
            tracing::warn!("the program before this one cannot be told: {error}");
        }
    }
}

/// Takes a descriptor that was inherited, and keeps it from further programs.
fn adopt(fd: RawFd) -> Option<OwnedFd> {
    if fd <= 2 {
        return None;
    }
    // SAFETY: the program before this one left this descriptor open for it and told
    // its number to nobody else; nothing else in here has taken it, since the
    // variable is read once. Whether it is open is seen next.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    match fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Some(fd),
        Err(_) => {
            // Not open, so not to be closed either.
            std::mem::forget(fd);
            None
        }
    }
}

/// How this program was started, to start the next one in the same way.
pub struct Start {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Start {
    /// Looked up at the start: later, the file may be another one.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn now() -> Result<Self> {
        Ok(Self {
            program: env::current_exe().context("finding this program's file")?,
            arguments: env::args_os().skip(1).collect(),
        })
    }

    /// Starts the program that is in the file now, hands these over, and waits until
    /// it serves. It blocks for that long.
    ///
    /// # Errors
    /// When it does not come to serve. It is ended then.
    pub fn next(&self, parts: Vec<(String, OwnedFd)>) -> Result<u32> {
        let (reader, writer) = nix::unistd::pipe().context("making a pipe")?;
        let mut words = String::new();
        let parts = parts.into_iter().chain([("ready".to_owned(), writer)]);
        let mut kept = Vec::new();
        for (what, fd) in parts {
            fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty())).context("handing over a descriptor")?;
            words.push_str(&format!("{what}={} ", fd.as_raw_fd()));
            kept.push(fd);
        }
        fcntl(&reader, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("keeping a descriptor")?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env(VARIABLE, words.trim_end())
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        // The pipe ends with the new program, if it does.
        drop(kept);
        wait(child, reader.into())
    }
}

fn wait(mut child: Child, mut pipe: File) -> Result<u32> {
    fcntl(&pipe, FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).context("reading a pipe")?;
    let start = Instant::now();
    let mut said = [0];
    loop {
        match pipe.read(&mut said) {
            Ok(1) => return Ok(child.id()),
            Ok(_) => {
                let _ = child.kill();
                let status = child.wait().context("waiting for the new program")?;
                bail!("the new program did not come to serve ({status}): its log says why");
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("reading a pipe"),
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            bail!(
                "the new program was not ready within {} s, and was ended",
                PATIENCE.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
