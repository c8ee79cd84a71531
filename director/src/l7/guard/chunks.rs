//! Where a body in chunks ends (RFC 9112, section 7.1), read as strictly as heads are.

use super::Refusal;

/// Digits of a chunk's size, zeros in front included.
const DIGITS: u8 = 15;
/// Bytes of extensions of one chunk, and of all trailers.
const EXTRA: u32 = 8 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    Extension,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    /// The start of a trailer, or of the last line's end.
    Line,
    Trailer,
    TrailerEnd,
    LastEnd,
    Done,
}

/// Follows a body that comes in parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    /// Bytes of the chunk that are still to come.
    left: u64,
    digits: u8,
    extra: u32,
}

impl Chunks {
    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Reads on. Returns how many of the bytes are the body's: the rest is the next
    /// request's.
    ///
    /// # Errors
    /// When there are bytes that others may read in another way.
    pub fn read(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut position = 0;
        while let Some(&byte) = bytes.get(position) {
            if self.at == At::Done {
                break;
            }
            if self.at == At::Data {
                let rest = (bytes.len() - position) as u64;
                let taken = rest.min(self.left);
                self.left -= taken;
                position += usize::try_from(taken).unwrap_or(usize::MAX);
                if self.left == 0 {
                    self.at = At::DataReturn;
                }
                continue;
            }
            self.at = self.step(byte)?;
            position += 1;
        }
        Ok(position)
    }

    /// What comes after a byte that is no data.
    fn step(&mut self, byte: u8) -> Result<At, Refusal> {
        match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.digits < DIGITS => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                self.left = self.left * 16 + u64::from(digit);
                self.digits += 1;
                Ok(At::Size)
            }
            (At::Size, b';') if self.digits > 0 => Ok(At::Extension),
            (At::Size, b'\r') if self.digits > 0 => Ok(At::SizeEnd),
            (At::Extension, b'\r') => Ok(At::SizeEnd),
            (At::SizeEnd, b'\n') => {
                let is_last = self.left == 0;
                (self.digits, self.extra) = (0, 0);
                Ok(if is_last { At::Line } else { At::Data })
            }
            (At::DataReturn, b'\r') => Ok(At::DataEnd),
            (At::DataEnd, b'\n') => Ok(At::Size),
            (At::Line, b'\r') => Ok(At::LastEnd),
            (At::LastEnd, b'\n') => Ok(At::Done),
            (At::Trailer, b'\r') => Ok(At::TrailerEnd),
            (At::TrailerEnd, b'\n') => Ok(At::Line),
            (At::Extension | At::Line | At::Trailer, b'\t' | b' '..=b'~' | 0x80..)
                if self.extra < EXTRA =>
            {
                self.extra += 1;
                Ok(if self.at == At::Extension {
                    At::Extension
                } else {
                    At::Trailer
                })
            }
            _ => Err(Refusal::Chunk),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a body ends, read in parts of every size.
    fn end(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        let mut outcomes = (1..=bytes.len()).map(|size| {
            let (mut chunks, mut position) = (Chunks::default(), 0);
            for part in bytes.chunks(size) {
                position += chunks.read(part)?;
            }
            Ok(chunks.is_done().then_some(position))
        });
        let first = outcomes.next().expect("there are bytes");
        for outcome in outcomes {
            assert_eq!(outcome, first, "parts make no difference");
        }
        first
    }

    #[test]
    fn bodies_end_where_they_say() {
        for body in [
            "0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "00a\r\n0123456789\r\nA;b=\"c\"\r\n0123456789\r\n0\r\n\r\n",
            "0;x\r\nA: b\r\nC: d\r\n\r\n",
        ] {
            assert_eq!(
                end(format!("{body}GET").as_bytes()),
                Ok(Some(body.len())),
                "{body:?}"
            );
            assert_eq!(
                end(&body.as_bytes()[..body.len() - 1]),
                Ok(None),
                "{body:?}"
            );
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for body in [
            "\r\n",
            ";a\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 \r\n",
            "1\n",
            "1\rab",
            "1\r\na\n",
            "1\r\nab",
            "1\r\na\r0",
            "1;a\nb\r\n",
            "1;\0\r\n",
            "0\r\n\n",
            "0\r\nA: b\nC",
            "0\r\nA: b\rC",
            "0000000000000000\r\n",
        ] {
            assert_eq!(end(body.as_bytes()), Err(Refusal::Chunk), "{body:?}");
        }
        let long = format!("1;{}", "a".repeat(10_000));
        assert_eq!(Chunks::default().read(long.as_bytes()), Err(Refusal::Chunk));
    }
}
