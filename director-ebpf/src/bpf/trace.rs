//! Sampled flow events, for `director trace`.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use director_ebpf::{
    abi::{
        Service,
        event::{FlowEvent, kind},
    },
    cause::Cause,
    parse::Packet,
    steer::{Pick, picked},
};

use crate::maps::{self, EVENTS, Maps};

/// Tells of a flow that begins, moves or is reset, if tracing is on and chance
/// picks it.
#[inline(always)]
pub fn flow<A: Maps>(packet: &Packet<A>, service: &Service, pick: &Pick, is_reset: bool) {
    let Some(settings) = maps::settings() else {
        return;
    };
    if settings.trace_every == 0 {
        return;
    }
    // SAFETY: takes nothing.
    let drawn = unsafe { bpf_get_prandom_u32() };
    if director_ebpf::steer::slot(drawn, settings.trace_every) != 0 {
        return;
    }
    let event = FlowEvent {
        time: maps::nanoseconds(),
        source: packet.source.widen(),
        destination: packet.destination.widen(),
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        protocol: packet.protocol,
        family: A::FAMILY,
        kind: if is_reset {
            kind::RESET
        } else if pick.is(picked::WAS_DEAD) {
            kind::MOVED
        } else {
            kind::PLACED
        },
        tcp_flags: packet.tcp_flags,
        endpoint: pick.endpoint,
        service: service.index,
    };
    if EVENTS.output::<FlowEvent>(&event, 0).is_err() {
        maps::count(Cause::EventLost);
    }
}
