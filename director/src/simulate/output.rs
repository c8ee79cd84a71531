//! The capture that is written.

use std::{
    fs,
    io::{BufWriter, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use pcap_parser::{LegacyPcapBlock, Linktype, PcapHeader, ToVec as _};
use tempfile::NamedTempFile;

use super::capture::{Precision, Record};

/// Magic numbers of a pcap file, by the precision of its times.
const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Longest frame of the file, in bytes, as it says itself: what libpcap says.
const SNAPLEN: u32 = 262_144;

/// A pcap file that comes to be at once, when all of it is there.
pub struct Output {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl Output {
    /// Begins a file, beside the one at `path`, which it is to replace.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, precision: Precision) -> Result<Self> {
        // What a symbolic link leads to is replaced, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mode = fs::metadata(&path).map_or(0o666, |there| there.permissions().mode());
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let file = tempfile::Builder::new()
            .prefix(".director-simulate-")
            .permissions(fs::Permissions::from_mode(mode))
            .tempfile_in(folder)
            .with_context(|| format!("writing into {}", folder.display()))?;
        let mut output = Self {
            file: BufWriter::new(file),
            path,
        };
        let header = PcapHeader {
            magic_number: match precision {
                Precision::Micro => MICROSECONDS,
                Precision::Nano => NANOSECONDS,
            },
            snaplen: SNAPLEN,
            network: Linktype::ETHERNET,
            ..PcapHeader::new()
        };
        output.append(&header.to_vec_raw()?)?;
        Ok(output)
    }

    /// Appends what became of the packet of `record`, with its time. What was
    /// missing of it in the capture is missing here too.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, record: &Record<'_>, frame: &[u8]) -> Result<()> {
        let captured = frame.len() as u32;
        let missing = record.length.saturating_sub(record.data.len() as u32);
        let block = LegacyPcapBlock {
            ts_sec: record.time.seconds,
            ts_usec: record.time.fraction,
            caplen: captured,
            origlen: captured.saturating_add(missing),
            data: frame,
        };
        self.append(&block.to_vec_raw()?)
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// When it cannot be written. What stood at the path then still does.
    pub fn finish(self) -> Result<()> {
        let Self { file, path } = self;
        let context = || format!("writing {}", path.display());
        let file = file
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .with_context(context)?;
        file.as_file().sync_all().with_context(context)?;
        file.persist(&path).with_context(context)?;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .with_context(|| format!("writing {}", self.path.display()))
    }
}
