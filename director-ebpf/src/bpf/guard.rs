//! Who may not come in: denied sources, and sources that open connections too
//! fast.

use director_ebpf::{
    abi::{Service, service_flags},
    cause::Cause,
    parse::Packet,
};

use crate::maps::{self, Maps};

/// Refuses a packet for what its source is or does.
///
/// # Errors
/// [`Cause::Denied`] or [`Cause::ConnectionRate`].
#[inline(always)]
pub fn check<A: Maps>(packet: &Packet<A>, service: &Service) -> Result<(), Cause> {
    if service.flags & service_flags::DENY != 0 && maps::is_denied(packet.source) {
        return Err(Cause::Denied);
    }
    if service.connection_rate != 0 && packet.is_syn() && is_too_fast(packet, service) {
        return Err(Cause::ConnectionRate);
    }
    Ok(())
}

/// A source's connections are due one by one (the generic cell rate algorithm,
/// ITU-T I.371): the map holds the time, in nanoseconds, at which its next one
/// is due, and one may come up to a second early. So a second's worth may come
/// at once.
#[inline(always)]
fn is_too_fast<A: Maps>(packet: &Packet<A>, service: &Service) -> bool {
    const SECOND: u64 = 1_000_000_000;
    let now = maps::nanoseconds();
    let gap = SECOND / u64::from(service.connection_rate.max(1));
    let sources = A::sources();
    match sources.get_ptr_mut(&packet.source) {
        Some(due) => {
            // SAFETY: a live map value, one aligned word. Two CPUs that do this
            // at once let one connection more through.
            unsafe {
                let from = (*due).max(now);
                if from - now > SECOND {
                    return true;
                }
                *due = from + gap;
            }
        }
        None => {
            let _ = sources.insert(&packet.source, &(now + gap), 0);
        }
    }
    false
}
