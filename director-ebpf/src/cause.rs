//! Why a packet was not steered, and what becomes of it.

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $label:literal => $action:ident,)*) => {
        /// Why a packet was not steered. Each is a counter in `CAUSES`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Cause {
            $($(#[$doc])* $name,)*
        }

        impl Cause {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Cause] = &[$(Cause::$name,)*];

            /// Name of the cause in metrics and reports.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Cause::$name => $label,)*
                }
            }

            /// What becomes of a packet with this cause.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self {
                    $(Cause::$name => Action::$action,)*
                }
            }
        }
    };
}

/// What becomes of a packet that is not steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To the host's own stack, untouched.
    Pass,
    Drop,
    /// What was made of it goes back out of the interface it came in by.
    Transmit,
}

causes! {
    /// Neither IPv4 nor IPv6. Not counted: it is nearly free to pass.
    NotIp = "not_ip" => Pass,
    /// No service of ours. Not counted: it is nearly free to pass.
    NotOurs = "not_ours" => Pass,
    /// ICMP, before it is known of what kind. Not counted.
    Icmp = "icmp" => Pass,
    /// The frame ends within a header that it announces.
    Truncated = "truncated" => Pass,
    /// A header that contradicts itself (version, lengths).
    Malformed = "malformed" => Pass,
    /// From a source that no sound packet comes from.
    Martian = "martian" => Drop,
    /// A fragment to a VIP: ports are not in every fragment.
    Fragment = "fragment" => Drop,
    /// An IPv6 extension header to a VIP.
    ExtensionHeader = "extension_header" => Drop,
    /// The source is in the deny list.
    Denied = "denied" => Drop,
    /// The source opens connections faster than the service allows.
    ConnectionRate = "connection_rate" => Drop,
    /// The service has no table, or an empty slot.
    NoEndpoint = "no_endpoint" => Drop,
    /// The hop limit is used up.
    HopLimit = "hop_limit" => Drop,
    /// Would not fit the next hop's interface after encapsulation, and the
    /// sender cannot be told: it was told enough of late.
    TooBig = "too_big" => Drop,
    /// The same, and the sender was told (RFC 1191, RFC 8201).
    TooBigTold = "too_big_told" => Transmit,
    /// The driver has no room for an outer header.
    NoHeadroom = "no_headroom" => Drop,
    /// No next hop known, and the kernel has no route either.
    NoRoute = "no_route" => Drop,
    /// The kernel does not know the next hop's link address yet.
    NoNeighbour = "no_neighbour" => Drop,
    /// No free NAT port was found for a new flow.
    NatPortsExhausted = "nat_ports_exhausted" => Drop,
    /// A packet to a NAT address that belongs to no flow.
    NatNoFlow = "nat_no_flow" => Drop,
    /// The flow could not be recorded; it was steered by the table.
    FlowNotRecorded = "flow_not_recorded" => Pass,
    /// Of a dead endpoint's flow; answered with RST (RFC 9293, 3.5.2).
    Reset = "reset" => Transmit,
    /// An echo request to a VIP, answered.
    Echo = "echo" => Transmit,
    /// An echo request that was one too many.
    EchoRate = "echo_rate" => Drop,
    /// An ICMP error that is about no flow of a service.
    IcmpNoFlow = "icmp_no_flow" => Drop,
    /// ICMP to a VIP that is neither echo nor an error, or has IPv4 options.
    IcmpOther = "icmp_other" => Pass,
    /// A SYN that was answered with a cookie.
    SynCookie = "syn_cookie" => Transmit,
    /// An ACK whose cookie is wrong.
    SynCookieWrong = "syn_cookie_wrong" => Drop,
    /// To a service in `proxy` mode: the host's own stack takes it.
    Proxy = "proxy" => Pass,
    /// An echo request whose checksum is wrong, or an ICMP error whose packet
    /// within ends too early or contradicts itself.
    IcmpMalformed = "icmp_malformed" => Drop,
    /// Of a dead endpoint's flow, and not to be answered with RST: one itself,
    /// or not TCP.
    NotReset = "not_reset" => Drop,
    /// The packet was steered; what `director trace` was to tell of it found no
    /// room.
    EventLost = "event_lost" => Pass,
}

/// Entries of `CAUSES`: more than there are causes, so that a build with more
/// of them takes over the pinned map of an earlier one.
pub const ROOM: u32 = 64;
const _: () = assert!(Cause::ALL.len() <= ROOM as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_follow_the_declaration() {
        for (index, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, index);
        }
    }

    #[test]
    fn labels_differ() {
        let labels: std::collections::HashSet<_> = Cause::ALL.iter().map(|c| c.label()).collect();
        assert_eq!(labels.len(), Cause::ALL.len());
    }
}
