//! Why a head is refused.

use thiserror::Error;

/// Why a head is refused, in words for logs; the client is told the status alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Refusal {
    #[error("the head has no end")]
    Unfinished,
    #[error("bare line feed")]
    BareLineFeed,
    #[error("bare carriage return")]
    BareCarriageReturn,
    #[error("NUL")]
    Nul,
    #[error("control character")]
    Control,
    #[error("invalid request line")]
    RequestLine,
    #[error("invalid method")]
    Method,
    #[error("invalid target")]
    Target,
    #[error("not HTTP/1.0 or 1.1")]
    Version,
    #[error("request line too long")]
    LongLine,
    #[error("head too large")]
    LongHead,
    #[error("too many fields")]
    ManyFields,
    #[error("folded field")]
    Folded,
    #[error("white space in or after a field name")]
    SpaceInName,
    #[error("invalid field name")]
    FieldName,
    #[error("field without colon")]
    NoColon,
    #[error("no Host")]
    NoHost,
    #[error("several Host")]
    SeveralHosts,
    #[error("invalid Host")]
    InvalidHost,
    #[error("Host differs from the target")]
    HostDiffers,
    #[error("several Content-Length")]
    SeveralLengths,
    #[error("invalid Content-Length")]
    InvalidLength,
    #[error("Content-Length above 2^63")]
    HugeLength,
    #[error("body too large")]
    LargeBody,
    #[error("several Transfer-Encoding")]
    SeveralCodings,
    #[error("invalid Transfer-Encoding")]
    InvalidCoding,
    #[error("Transfer-Encoding other than chunked")]
    OtherCoding,
    #[error("Transfer-Encoding in HTTP/1.0")]
    CodingInOldVersion,
    #[error("Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    #[error("Content_Length or Transfer_Encoding")]
    Underscores,
    #[error("Connection names a field that must stay")]
    Nominated,
    #[error("several Upgrade")]
    SeveralUpgrades,
    #[error("body with CONNECT, TRACE or an upgrade to WebSocket")]
    BodyOfTunnel,
    #[error("unknown expectation")]
    Expectation,
    #[error("invalid chunk")]
    Chunk,
}

impl Refusal {
    /// The status to answer with (RFC 9110, section 15).
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::HugeLength | Self::LargeBody => 413,
            Self::LongLine => 414,
            Self::Expectation => 417,
            Self::LongHead | Self::ManyFields => 431,
            Self::OtherCoding => 501,
            Self::Version => 505,
            _ => 400,
        }
    }
}
