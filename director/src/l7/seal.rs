//! What the edge gives to clients to be routed by: sealed, so that any edge with
//! the same key can read it, and nobody else can read, change or make it.
//!
//! A sealed text is base64 (RFC 4648, URL-safe, without padding) of a version, a
//! random nonce of 96 bits and an AES-256-GCM-SIV message (RFC 8452), which stays
//! safe even if a nonce comes twice. Its key is derived from the edge's by HKDF
//! (RFC 5869) for each context, so what was given out as a cookie is no session.

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// The longest text that is sealed or opened, in bytes.
pub const MAX_TEXT: usize = 2048;

const VERSION: u8 = 1;
const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;
const SALT: &[u8] = b"director seal 1";

/// Seals and opens. Cheap to keep; derives a context's key for each text.
pub struct Seal {
    prk: Prk,
}

/// What a sealed text says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Name of the endpoint.
    pub endpoint: String,
    /// What the server itself gave out.
    pub inner: Vec<u8>,
}

/// Why a text was not sealed or not opened. To a client all of it is the same: it
/// must not learn from the answer which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("longer than {MAX_TEXT} bytes when sealed")]
    TooLong,
    #[error("not the form of a sealed text")]
    Malformed,
    #[error("not sealed by this key for this context, or changed since")]
    Forged,
    #[error("the system has no randomness or refuses the cipher")]
    Unavailable,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal(..)")
    }
}

impl Seal {
    /// With the key that all edges share.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self {
            prk: Salt::new(HKDF_SHA256, SALT).extract(&key),
        }
    }

    /// Seals an endpoint's name and what its server gave out. The result has only
    /// characters that cookies (RFC 6265) and `Mcp-Session-Id` may have.
    ///
    /// # Errors
    /// [`SealError::TooLong`] where [`Seal::open`] would refuse the result, and
    /// [`SealError::Unavailable`].
    pub fn seal(&self, context: &str, endpoint: &str, inner: &[u8]) -> Result<String, SealError> {
        let length = u16::try_from(endpoint.len()).map_err(|_| SealError::TooLong)?;
        let plain = 2 + endpoint.len() + inner.len();
        let sealed = 1 + NONCE_LEN + plain + TAG_LEN;
        if base64::encoded_len(sealed, false).is_none_or(|text| text > MAX_TEXT) {
            return Err(SealError::TooLong);
        }
        let mut message = Vec::with_capacity(plain + TAG_LEN);
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(endpoint.as_bytes());
        message.extend_from_slice(inner);
        let nonce = self
            .key(context)?
            .seal_in_place_append_tag(Aad::from([VERSION]), &mut message)
            .map_err(|_| SealError::Unavailable)?;
        let mut bytes = Vec::with_capacity(sealed);
        bytes.push(VERSION);
        bytes.extend_from_slice(nonce.as_ref());
        bytes.append(&mut message);
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Opens what was sealed for the same context.
    ///
    /// # Errors
    /// Any text that [`Seal::seal`] with the same key and context did not make.
    pub fn open(&self, context: &str, text: &str) -> Result<Opened, SealError> {
        if text.len() > MAX_TEXT {
            return Err(SealError::TooLong);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| SealError::Malformed)?;
        let (&version, rest) = bytes.split_first().ok_or(SealError::Malformed)?;
        if version != VERSION {
            return Err(SealError::Malformed);
        }
        let (nonce, message) = rest
            .split_at_checked(NONCE_LEN)
            .ok_or(SealError::Malformed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Malformed)?;
        let mut message = message.to_vec();
        let plain = self
            .key(context)?
            .open_in_place(nonce, Aad::from([VERSION]), &mut message)
            .map_err(|_| SealError::Forged)?;
        let (length, rest) = plain.split_first_chunk::<2>().ok_or(SealError::Malformed)?;
        let (endpoint, inner) = rest
            .split_at_checked(usize::from(u16::from_be_bytes(*length)))
            .ok_or(SealError::Malformed)?;
        Ok(Opened {
            endpoint: String::from_utf8(endpoint.to_vec()).map_err(|_| SealError::Malformed)?,
            inner: inner.to_vec(),
        })
    }

    fn key(&self, context: &str) -> Result<RandomizedNonceKey, SealError> {
        let mut key = [0; KEY_LEN];
        self.prk
            .expand(&[context.as_bytes()], Length)
            .and_then(|okm| okm.fill(&mut key))
            .map_err(|_| SealError::Unavailable)?;
        RandomizedNonceKey::new(&AES_256_GCM_SIV, &key).map_err(|_| SealError::Unavailable)
    }
}

/// How many bytes HKDF is asked for.
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_LEN
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seal() -> Seal {
        Seal::new([7; 32])
    }

    #[test]
    fn usual_ids_stay_short_and_plain() {
        let inner = b"123e4567-e89b-12d3-a456-426614174000";
        let text = seal().seal("mcp", "tools/dc01-server-a", inner).unwrap();
        assert!(text.len() < 200, "{} bytes", text.len());
        assert!(
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        );
    }

    #[test]
    fn the_same_is_sealed_differently_each_time() {
        let seal = seal();
        assert_ne!(
            seal.seal("mcp", "a", b"x").unwrap(),
            seal.seal("mcp", "a", b"x").unwrap()
        );
    }

    #[test]
    fn no_secret_is_shown() {
        assert_eq!(format!("{:?}", Seal::new([b'k'; 32])), "Seal(..)");
    }

    #[test]
    fn what_is_too_long_is_refused_both_ways() {
        let seal = seal();
        assert_eq!(
            seal.seal("mcp", "a", &[b'x'; MAX_TEXT]),
            Err(SealError::TooLong)
        );
        let most = MAX_TEXT / 4 * 3 - 1 - NONCE_LEN - TAG_LEN - 2 - 1;
        let text = seal.seal("mcp", "a", &vec![b'x'; most]).unwrap();
        assert_eq!(text.len(), MAX_TEXT);
        assert_eq!(seal.open("mcp", &text).unwrap().inner.len(), most);
        assert_eq!(
            seal.seal("mcp", "a", &vec![b'x'; most + 1]),
            Err(SealError::TooLong)
        );
        assert_eq!(
            seal.open("mcp", &"A".repeat(MAX_TEXT + 1)),
            Err(SealError::TooLong)
        );
        assert_eq!(
            seal.seal("mcp", &"e".repeat(70_000), b""),
            Err(SealError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_opened(
            key: [u8; 32],
            context in ".{0,40}",
            endpoint in ".{0,80}",
            inner in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let text = Seal::new(key).seal(&context, &endpoint, &inner).unwrap();
            // Another edge with the same key.
            let opened = Seal::new(key).open(&context, &text).unwrap();
            prop_assert_eq!(opened, Opened { endpoint, inner });
        }

        #[test]
        fn a_changed_text_is_refused(
            inner in proptest::collection::vec(any::<u8>(), 0..100),
            at: proptest::sample::Index,
            bit in 0..8u32,
        ) {
            let text = seal().seal("mcp", "dc01-a", &inner).unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(seal().open("mcp", &URL_SAFE_NO_PAD.encode(bytes)).is_err());
        }

        #[test]
        fn a_shortened_text_is_refused(
            inner in proptest::collection::vec(any::<u8>(), 0..100),
            at: proptest::sample::Index,
        ) {
            let text = seal().seal("mcp", "dc01-a", &inner).unwrap();
            prop_assert!(seal().open("mcp", &text[..at.index(text.len())]).is_err());
        }

        #[test]
        fn other_contexts_and_keys_are_refused(
            context in ".{0,20}",
            other in ".{0,20}",
            key: [u8; 32],
        ) {
            let text = seal().seal(&context, "dc01-a", b"x").unwrap();
            if context != other {
                prop_assert_eq!(seal().open(&other, &text), Err(SealError::Forged));
            }
            if key != [7; 32] {
                prop_assert_eq!(Seal::new(key).open(&context, &text), Err(SealError::Forged));
            }
        }

        #[test]
        fn any_text_is_survived(text in ".{0,2100}") {
            prop_assert!(seal().open("mcp", &text).is_err());
        }
    }
}
