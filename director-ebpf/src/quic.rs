//! Which server a QUIC connection ID names.
//!
//! Only what every version of QUIC keeps is looked at (RFC 8999, 5.2): a packet
//! whose first bit is 0 has a short header, and its destination connection ID
//! follows the first byte. The other bits of that byte say nothing here, nor
//! does the fixed bit, which endpoints may clear (RFC 9287).
//!
//! The connection ID is one of a server's own making, as plaintext of
//! draft-ietf-quic-load-balancers has it, with a server ID of three bytes:
//!
//! ```text
//! byte  0                    1   2   3    4 ... 7 ... 19
//!       rotation | length    server ID    nonce
//!       3 bits   | 5 bits
//! ```
//!
//! Any rotation codepoint is taken but [`UNROUTABLE`]: all configurations have
//! the same form. The low five bits are the server's, and so is the nonce.

/// The datagram names no server. No server has this ID.
pub const NO_SERVER: u32 = 0;
/// Bytes of UDP payload from which on a server is looked for: the first byte,
/// and the shortest connection ID (8 bytes, of which the nonce has 4).
pub const LEAST: usize = 9;

/// Header form: the packet has a long header.
const LONG: u8 = 0x80;
/// Rotation codepoint of connection IDs that name no server.
const UNROUTABLE: u32 = 0b111;

/// ID of the server that a datagram is for, by its first byte and the four that
/// follow (network byte order).
#[inline(always)]
#[must_use]
pub const fn server(first: u8, id: u32) -> u32 {
    let id = u32::from_be(id);
    if first & LONG != 0 || id >> 29 == UNROUTABLE {
        return NO_SERVER;
    }
    id & 0xff_ffff
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_short_header_names_the_server() {
        assert_eq!(server(0x40, 0x0712_3456_u32.to_be()), 0x12_3456);
        assert_eq!(server(0x40, 0x0700_0000_u32.to_be()), NO_SERVER);
    }

    #[test]
    fn the_last_codepoint_names_none() {
        for codepoint in 0..8u8 {
            let id = [codepoint << 5 | 7, 0, 0, 9];
            let named = if codepoint == 7 { NO_SERVER } else { 9 };
            assert_eq!(
                server(0x40, u32::from_ne_bytes(id)),
                named,
                "codepoint {codepoint}"
            );
        }
    }

    proptest! {
        #[test]
        fn only_form_codepoint_and_id_count(
            id in 1u32..1 << 24,
            first: u8,
            rotation: u8,
        ) {
            let [_, high, middle, low] = id.to_be_bytes();
            let bytes = u32::from_ne_bytes([rotation, high, middle, low]);
            let is_short = first & 0x80 == 0;
            let is_routable = rotation & 0xe0 != 0xe0;
            let named = if is_short && is_routable { id } else { NO_SERVER };
            prop_assert_eq!(server(first, bytes), named);
        }
    }
}
