//! Settings that may change while packets flow.

use anyhow::{Context, Result};
use director_ebpf::abi::{Settings, settings_flags};

use super::{Datapath, plain::P};
use crate::config::IcmpPolicy;

impl Datapath {
    /// Brings the settings that concern no other map to these.
    ///
    /// # Errors
    /// When the map cannot be written; the settings then stay as they were.
    pub fn set_settings(&mut self, icmp: IcmpPolicy, gue_port: u16) -> Result<()> {
        self.write_settings(Settings {
            flags: flags(icmp),
            icmp_rate: icmp.rate,
            gue_port: gue_port.to_be(),
            ..self.settings
        })
    }

    /// Has one in `one_in` new, moved and reset flows told of to the reader of
    /// [`super::Events`]; 0: none.
    ///
    /// # Errors
    /// As [`Datapath::set_settings`].
    pub fn set_trace(&mut self, one_in: u32) -> Result<()> {
        self.write_settings(Settings {
            trace_every: one_in,
            ..self.settings
        })
    }

    /// One in how many flows is told of; 0: none.
    #[must_use]
    pub fn trace(&self) -> u32 {
        self.settings.trace_every
    }

    fn write_settings(&mut self, settings: Settings) -> Result<()> {
        if settings != self.settings {
            self.maps
                .settings
                .set(0, P(settings), 0)
                .context("writing SETTINGS")?;
            self.settings = settings;
        }
        Ok(())
    }
}

/// Bits of [`Settings::flags`].
pub fn flags(icmp: IcmpPolicy) -> u32 {
    if icmp.echo { settings_flags::ECHO } else { 0 }
}
