//! Standard input and output of the far command as one byte stream, both ways bounded.
//!
//! What is written gathers until it is flushed or makes a large message: every message costs the API server, the kubelet
//! and the container runtime a copy each.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::end::{Complaints, End};
use super::frames::{self, Inbound};

/// Bytes of the largest message that is sent, with its channel.
const SEND_BYTES: usize = 256 * 1024;

/// Bytes of the largest message that is taken: servers send 32 KiB at a time.
const RECEIVE_BYTES: usize = 1024 * 1024;

/// Bytes that the socket gathers before it writes.
const SOCKET_BYTES: usize = 128 * 1024;

/// The byte stream over one WebSocket.
pub(super) struct ExecStream<S> {
    socket: WebSocketStream<S>,
    /// Whether the server takes the end of input alone.
    half_close: bool,
    unread: Bytes,
    /// One message in the making; its first byte is the channel.
    unsent: BytesMut,
    complaints: Complaints,
    input: Input,
    end: Option<End>,
}

#[derive(PartialEq, Eq)]
enum Input {
    Open,
    Closing,
    Closed,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ExecStream<S> {
    /// Over a socket whose handshake is done.
    pub(super) async fn new(socket: S, half_close: bool) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(SOCKET_BYTES)
            .write_buffer_size(SOCKET_BYTES)
            .max_write_buffer_size(SOCKET_BYTES + 2 * SEND_BYTES)
            .max_message_size(Some(RECEIVE_BYTES))
            .max_frame_size(Some(RECEIVE_BYTES));
        Self {
            socket: WebSocketStream::from_raw_socket(socket, Role::Client, Some(config)).await,
            half_close,
            unread: Bytes::new(),
            unsent: BytesMut::new(),
            complaints: Complaints::default(),
            input: Input::Open,
            end: None,
        }
    }

    /// Waits for the first byte of output; an end before it is an error, also a good one.
    pub(super) async fn heard(&mut self) -> Result<(), End> {
        poll_fn(|cx| self.poll_output(cx)).await;
        match &self.end {
            Some(end) if self.unread.is_empty() => Err(end.clone()),
            _ => Ok(()),
        }
    }

    /// Ready when there is output to read, or an end.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.unread.is_empty() && self.end.is_none() {
            let message = ready!(Pin::new(&mut self.socket).poll_next(cx));
            self.take(message);
        }
        Poll::Ready(())
    }

    fn take(&mut self, message: Option<Result<Message, tungstenite::Error>>) {
        let end = match message {
            Some(Ok(Message::Binary(bytes))) => match frames::parse(bytes) {
                Ok(Inbound::Output(bytes)) => {
                    self.unread = bytes;
                    return;
                }
                Ok(Inbound::Complaint(bytes)) => {
                    self.complaints.add(&bytes);
                    return;
                }
                Ok(Inbound::Closed) => return,
                Ok(Inbound::Status(bytes)) => End::of_status(&bytes),
                Err(malformed) => malformed.into(),
            },
            Some(Ok(Message::Text(_))) => End::Malformed("a text message".to_owned()),
            // The socket answers pings itself, and says `None` after a close.
            Some(Ok(_)) => return,
            Some(Err(error)) => End::from(&error),
            None => End::NoStatus,
        };
        self.end = Some(end.with(&self.complaints));
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.unsent.is_empty() {
            ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(broken)?;
            let message = Message::Binary(self.unsent.split().freeze());
            Pin::new(&mut self.socket)
                .start_send(message)
                .map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        error => io::Error::new(io::ErrorKind::BrokenPipe, error),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ExecStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_output(cx));
        if !self.unread.is_empty() {
            let length = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(match &self.end {
            None | Some(End::Success) => Ok(()),
            Some(end) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, end.clone())),
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ExecStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.end.is_some() || self.input != Input::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.unsent.len() == SEND_BYTES {
            ready!(self.poll_send(cx))?;
        }
        if self.unsent.is_empty() {
            self.unsent.put_u8(frames::STDIN);
        }
        let length = bytes.len().min(SEND_BYTES - self.unsent.len());
        self.unsent
            .put_slice(bytes.get(..length).unwrap_or_default());
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx).map_err(broken)
    }

    /// Ends the input. Where the server cannot take that alone, the whole stream is closed.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        if !self.half_close {
            self.input = Input::Closed;
            return Pin::new(&mut self.socket).poll_close(cx).map_err(broken);
        }
        if self.input == Input::Open {
            self.unsent.put_slice(&frames::CLOSE_STDIN);
            self.input = Input::Closing;
        }
        ready!(self.as_mut().poll_flush(cx))?;
        self.input = Input::Closed;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
