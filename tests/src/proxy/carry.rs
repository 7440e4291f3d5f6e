//! One connection through the proxy.

use std::io;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::{Fault, Plan, State};

/// Bytes moved at once: few, so that a fault comes near the byte that it was planned for.
const PIECE: usize = 16 * 1024;

/// One direction of a connection.
struct Pipe {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    piece: Box<[u8; PIECE]>,
    /// The part of the piece that was read and not written yet.
    held: std::ops::Range<usize>,
    open: bool,
}

impl Pipe {
    fn new(from: OwnedReadHalf, to: OwnedWriteHalf) -> Self {
        Self {
            from,
            to,
            piece: Box::new([0; PIECE]),
            held: 0..0,
            open: true,
        }
    }

    /// Reads once or writes once, and answers the bytes written; passes the end on. Cancelling it loses nothing: what
    /// was read is held until it is written.
    async fn step(&mut self) -> io::Result<usize> {
        if !self.held.is_empty() {
            let written = self.to.write(&self.piece[self.held.clone()]).await?;
            self.held.start += written;
            return Ok(written);
        }
        self.held = 0..self.from.read(&mut self.piece[..]).await?;
        if self.held.is_empty() {
            self.open = false;
            self.to.shutdown().await?;
        }
        Ok(0)
    }

    /// Moves everything up to the end.
    async fn drain(mut self) {
        while self.open && self.step().await.is_ok() {}
    }
}

/// Carries both directions until they end, or until something happens.
pub(super) async fn carry(client: TcpStream, server: TcpStream, plan: Option<Plan>, state: &State) {
    let mut strikes = state.strikes.subscribe();
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut up = Pipe::new(from_client, to_server);
    let mut down = Pipe::new(from_server, to_client);
    if let Some(fault) = until_fault(&mut up, &mut down, plan, state, &mut strikes).await {
        state.struck.fetch_add(1, Ordering::Relaxed);
        apply(fault, up, down).await;
    }
}

/// Moves bytes until a fault is due; none when the connection ended before.
async fn until_fault(
    up: &mut Pipe,
    down: &mut Pipe,
    plan: Option<Plan>,
    state: &State,
    strikes: &mut watch::Receiver<Option<Fault>>,
) -> Option<Fault> {
    let mut carried = 0;
    while up.open || down.open {
        let moved = tokio::select! {
            Ok(()) = strikes.changed() => return *strikes.borrow_and_update(),
            moved = up.step(), if up.open => moved,
            moved = down.step(), if down.open => moved,
        };
        let moved = moved.ok()? as u64;
        carried += moved;
        state.carried.fetch_add(moved, Ordering::Relaxed);
        if let Some(plan) = plan.filter(|plan| carried >= plan.after) {
            return Some(state.comes(plan.fault));
        }
    }
    None
}

async fn apply(fault: Fault, mut up: Pipe, mut down: Pipe) {
    match fault {
        Fault::Kill => {
            // A writing half that is only dropped says goodbye first.
            for half in [down.to, up.to] {
                let _ = half.as_ref().set_zero_linger();
                half.forget();
            }
        }
        // Both sockets stay open until the proxy goes.
        Fault::Stall => std::future::pending().await,
        Fault::EndDown => {
            let _ = down.to.shutdown().await;
            up.drain().await;
        }
        Fault::EndUp => {
            let _ = up.to.shutdown().await;
            down.drain().await;
        }
    }
}
