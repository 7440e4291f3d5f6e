//! The framing of `v4.channel.k8s.io` and `v5.channel.k8s.io`: the first byte of each binary message names its channel.

use bytes::{Buf, Bytes};

/// The channel of what is written.
pub(super) const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;

/// Says that nothing more is written. Only v5 knows it.
pub(super) const CLOSE_STDIN: [u8; 2] = [CLOSE, STDIN];

/// A message that was received.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inbound {
    /// Bytes of the runner.
    Output(Bytes),
    /// What `connect`, or whoever failed to start it, complains of.
    Complaint(Bytes),
    /// How it ended.
    Status(Bytes),
    /// One of the streams has no more.
    Closed,
}

/// A message that means nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a message without a channel")]
    Empty,
    #[error("a message on channel {0}, which nothing comes on")]
    Channel(u8),
}

/// Reads one message.
pub(super) fn parse(mut message: Bytes) -> Result<Inbound, Malformed> {
    let channel = message.try_get_u8().map_err(|_| Malformed::Empty)?;
    match channel {
        STDOUT => Ok(Inbound::Output(message)),
        STDERR => Ok(Inbound::Complaint(message)),
        STATUS => Ok(Inbound::Status(message)),
        CLOSE => Ok(Inbound::Closed),
        // The server greets with an empty message on the lowest channel.
        STDIN if message.is_empty() => Ok(Inbound::Closed),
        channel => Err(Malformed::Channel(channel)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_is_the_channel() {
        let parse = |bytes: &'static [u8]| parse(Bytes::from_static(bytes));
        assert_eq!(parse(b"\x01ab"), Ok(Inbound::Output("ab".into())));
        assert_eq!(parse(b"\x01"), Ok(Inbound::Output(Bytes::new())));
        assert_eq!(parse(b"\x02ab"), Ok(Inbound::Complaint("ab".into())));
        assert_eq!(parse(b"\x03{}"), Ok(Inbound::Status("{}".into())));
        assert_eq!(parse(b"\xff\x01"), Ok(Inbound::Closed));
        assert_eq!(parse(b"\x00"), Ok(Inbound::Closed));
        assert_eq!(parse(b""), Err(Malformed::Empty));
        assert_eq!(parse(b"\x00ab"), Err(Malformed::Channel(0)));
        assert_eq!(parse(b"\x04ab"), Err(Malformed::Channel(4)));
    }
}
