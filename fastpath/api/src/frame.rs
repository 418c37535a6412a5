//! Framing: each message is preceded by its length in bytes, four bytes, big-endian.

use std::io::{self, Read, Write};

use prost::Message;

/// No message may be longer. A whole resynchronisation is many transactions, not one message.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

const LENGTH_BYTES: usize = 4;

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other end closed the connection between two messages.
    #[error("the other end closed the connection")]
    Closed,
    /// The socket failed, or closed in the middle of a message.
    #[error("plane socket: {0}")]
    Io(#[from] io::Error),
    /// A length above [`MAX_MESSAGE_BYTES`]: the other end does not speak this protocol.
    #[error(
        "a message of {0} bytes is over the limit of {MAX_MESSAGE_BYTES}: is this a Caracal plane socket?"
    )]
    TooLong(usize),
    /// The bytes are no message of the expected kind.
    #[error("a message could not be decoded: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// Appends `message` with its length to `out`.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn encode(message: &impl Message, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let length = message.encoded_len();
    if length > MAX_MESSAGE_BYTES {
        return Err(FrameError::TooLong(length));
    }
    out.reserve(LENGTH_BYTES + length);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    // Encoding fails only when the buffer is too small, and a Vec grows.
    let _ = message.encode(out);
    Ok(())
}

/// Writes one message and flushes it.
///
/// # Errors
/// [`FrameError::TooLong`] before anything is written, or [`FrameError::Io`].
pub fn write_message(out: &mut impl Write, message: &impl Message) -> Result<(), FrameError> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes)?;
    out.write_all(&bytes)?;
    out.flush()?;
    Ok(())
}

/// Reads one message; blocks until it is whole.
///
/// # Errors
/// Any [`FrameError`]; `Closed` only at a boundary between messages.
pub fn read_message<M: Message + Default>(input: &mut impl Read) -> Result<M, FrameError> {
    let mut decoder = Decoder::default();
    let mut chunk = [0; LENGTH_BYTES];
    loop {
        if let Some(message) = decoder.next_message()? {
            return Ok(message);
        }
        // Never read past this message: the caller may hand the socket to somebody else.
        let wanted = decoder.missing();
        if wanted <= LENGTH_BYTES {
            fill(input, &mut chunk[..wanted], decoder.is_empty())?;
            decoder.push(&chunk[..wanted]);
        } else {
            let mut rest = vec![0; wanted];
            fill(input, &mut rest, false)?;
            decoder.push(&rest);
        }
    }
}

fn fill(input: &mut impl Read, bytes: &mut [u8], at_boundary: bool) -> Result<(), FrameError> {
    let mut filled = 0;
    while filled < bytes.len() {
        match input.read(&mut bytes[filled..]) {
            Ok(0) if at_boundary && filled == 0 => return Err(FrameError::Closed),
            Ok(0) => return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(FrameError::Io(e)),
        }
    }
    Ok(())
}

/// Cuts a stream of bytes, in pieces of any size, into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    consumed: usize,
}

impl Decoder {
    /// Takes what has just been read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if it is here.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] or [`FrameError::Malformed`]; the stream cannot be used any further.
    pub fn next_message<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        let pending = &self.bytes[self.consumed..];
        let Some((length, rest)) = pending.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = M::decode(body)?;
        self.consumed += LENGTH_BYTES + length;
        Ok(Some(message))
    }

    /// Whether no part of a message is waiting for its rest.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == self.consumed
    }

    /// How many bytes are certainly missing for the next message.
    fn missing(&self) -> usize {
        let pending = &self.bytes[self.consumed..];
        match pending.split_first_chunk::<LENGTH_BYTES>() {
            None => LENGTH_BYTES - pending.len(),
            Some((length, rest)) => (u32::from_be_bytes(*length) as usize).saturating_sub(rest.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::{Ack, FromFastpath, from_fastpath};

    fn ack(seq: u64) -> FromFastpath {
        FromFastpath { message: Some(from_fastpath::Message::Ack(Ack { seq })) }
    }

    #[test]
    fn messages_survive_being_cut_anywhere() {
        let mut stream = Vec::new();
        for seq in 0..5 {
            encode(&ack(seq << 20), &mut stream).unwrap();
        }
        for piece in 1..stream.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for bytes in stream.chunks(piece) {
                decoder.push(bytes);
                while let Some(message) = decoder.next_message::<FromFastpath>().unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, (0..5).map(|s| ack(s << 20)).collect::<Vec<_>>());
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn reading_stops_at_the_end_of_a_message() {
        let mut stream = Vec::new();
        encode(&ack(1), &mut stream).unwrap();
        let first = stream.len();
        encode(&ack(2), &mut stream).unwrap();
        let mut input = io::Cursor::new(stream);
        assert_eq!(read_message::<FromFastpath>(&mut input).unwrap(), ack(1));
        assert_eq!(input.position(), first as u64);
    }

    #[test]
    fn an_empty_message_is_a_message() {
        let mut stream = Vec::new();
        encode(&FromFastpath::default(), &mut stream).unwrap();
        assert_eq!(
            read_message::<FromFastpath>(&mut io::Cursor::new(stream)).unwrap(),
            FromFastpath::default()
        );
    }

    #[test]
    fn a_close_is_clean_only_between_messages() {
        assert!(matches!(read_message::<Ack>(&mut io::empty()), Err(FrameError::Closed)));
        assert!(matches!(read_message::<Ack>(&mut &[0, 0, 0][..]), Err(FrameError::Io(_))));
        assert!(matches!(read_message::<Ack>(&mut &[0, 0, 0, 9, 1][..]), Err(FrameError::Io(_))));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_read() {
        let error = read_message::<Ack>(&mut &[0xff; 8][..]).unwrap_err();
        assert!(matches!(error, FrameError::TooLong(_)), "{error}");
    }
}
