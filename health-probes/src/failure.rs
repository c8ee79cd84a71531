//! What can go wrong with a probe, and whose fault it is.

use std::fmt::Display;
use std::io;

use nix::errno::Errno;
use thiserror::Error;

/// Longest text kept of a protocol error, in characters: it goes into logs and
/// status tables, and part of it may be the endpoint's to choose.
const TEXT_LIMIT: usize = 120;

/// Why a probe did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// The address answered that nothing listens there.
    #[error("connection refused")]
    Refused,
    /// No whole answer within the schedule's timeout.
    #[error("timed out")]
    Timeout,
    /// No way to the address, by our own routes or by a router's word.
    #[error("unreachable")]
    Unreachable,
    /// The connection was accepted and then broken off.
    #[error("connection reset")]
    Reset,
    /// An HTTP status outside the range asked for.
    #[error("unexpected status {0}")]
    Status(u16),
    /// The body does not hold the text asked for.
    #[error("body does not match")]
    BodyMismatch,
    /// The answer breaks the rules of its protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The probe could not be made for a reason on this host, such as no free
    /// file descriptors: it says nothing about the endpoint.
    #[error("local fault: {0}")]
    Local(String),
}

impl Failure {
    /// A [`Failure::Protocol`] with its text cut to a length fit for a log line.
    pub(crate) fn protocol(text: impl Display) -> Self {
        Self::Protocol(text.to_string().chars().take(TEXT_LIMIT).collect())
    }

    /// Sorts what the kernel says of a TCP socket.
    ///
    /// The errors that packets from outside can bring about are few: those of
    /// Linux's tables from ICMP codes to errors (`icmp_err_convert` in
    /// net/ipv4/icmp.c, `tab_unreach` and `icmpv6_err_convert` in net/ipv6/icmp.c) and
    /// TCP's own. Every other one is made on this host.
    pub(crate) fn from_io(error: &io::Error) -> Self {
        let Some(code) = error.raw_os_error() else {
            // Not from the kernel: the HTTP library's complaint about the answer.
            return Self::protocol(error);
        };
        match Errno::from_raw(code) {
            Errno::ECONNREFUSED => Self::Refused,
            Errno::ECONNRESET | Errno::ECONNABORTED | Errno::EPIPE => Self::Reset,
            Errno::ETIMEDOUT => Self::Timeout,
            Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::ENETDOWN
            | Errno::ENONET
            | Errno::ENOPROTOOPT
            | Errno::EPROTO
            // A firewall's "administratively prohibited" over IPv6. Our own
            // packet filter shows as EPERM instead.
            | Errno::EACCES => Self::Unreachable,
            errno => Self::Local(errno.desc().to_lowercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(errno: Errno) -> Failure {
        Failure::from_io(&io::Error::from_raw_os_error(errno as i32))
    }

    #[test]
    fn what_an_endpoint_or_its_network_says_is_told_apart() {
        for (errno, failure) in [
            (Errno::ECONNREFUSED, Failure::Refused),
            (Errno::ECONNRESET, Failure::Reset),
            (Errno::ECONNABORTED, Failure::Reset),
            (Errno::EPIPE, Failure::Reset),
            (Errno::ETIMEDOUT, Failure::Timeout),
            (Errno::EHOSTUNREACH, Failure::Unreachable),
            (Errno::ENETUNREACH, Failure::Unreachable),
            (Errno::EHOSTDOWN, Failure::Unreachable),
            (Errno::ENETDOWN, Failure::Unreachable),
            (Errno::EACCES, Failure::Unreachable),
        ] {
            assert_eq!(sorted(errno), failure, "{errno}");
        }
    }

    #[test]
    fn what_this_host_lacks_is_not_the_endpoints_fault() {
        for errno in [
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::EADDRNOTAVAIL,
            Errno::EADDRINUSE,
            Errno::ENOBUFS,
            Errno::ENOMEM,
            Errno::EAGAIN,
            Errno::EPERM,
            Errno::EAFNOSUPPORT,
            Errno::EINVAL,
        ] {
            assert!(matches!(sorted(errno), Failure::Local(_)), "{errno}");
        }
        assert_eq!(
            sorted(Errno::EMFILE).to_string(),
            "local fault: too many open files"
        );
    }

    #[test]
    fn a_protocol_error_is_cut_short_between_characters() {
        let Failure::Protocol(text) = Failure::protocol("ü".repeat(1000)) else {
            panic!("not a protocol failure");
        };
        assert_eq!(text, "ü".repeat(TEXT_LIMIT));
    }
}
