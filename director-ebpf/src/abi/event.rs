//! What is told through `EVENTS`, the ring buffer of sampled flow events.

use super::Plain;

/// A flow event. Addresses and ports as in the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEvent {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`, coarse).
    pub time: u64,
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// One of [`kind`].
    pub kind: u8,
    /// TCP flags of the packet.
    pub tcp_flags: u8,
    /// Index of the endpoint; 0: none.
    pub endpoint: u32,
    /// Index of the service.
    pub service: u32,
}

/// Values of [`FlowEvent::kind`].
pub mod kind {
    /// A new flow was placed by the table.
    pub const PLACED: u8 = 1;
    /// A flow left a dead endpoint for another.
    pub const MOVED: u8 = 2;
    /// A flow of a dead endpoint was answered with RST.
    pub const RESET: u8 = 3;
}

// SAFETY: `repr(C)`, integers only, no padding, as the assert shows.
unsafe impl Plain for FlowEvent {}
const _: () = assert!(size_of::<FlowEvent>() == 56);
