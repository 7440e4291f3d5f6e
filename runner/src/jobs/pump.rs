//! Moves what a job writes from its pipe into its log.
//!
//! The disk may make a writer wait, so appending happens on a blocking thread, many reads at a time; an idle pipe holds
//! no thread and no buffer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;

use super::job::Job;
use super::log::Log;

/// Bytes of one read: what a pipe holds.
const READ_BYTES: usize = 64 * 1024;

/// Reads on a blocking thread before it looks up again.
const READS_AT_ONCE: usize = 64;

/// Pause after each read of a pipe whose bytes are thrown away: a bound on what that may cost.
const DISCARD_PAUSE: Duration = Duration::from_millis(10);

/// What a read found.
enum Found {
    Data(Vec<u8>),
    Nothing,
    End,
}

/// Pumps until the end of the pipe, or until `stop` is true; then answers the pipe, which somebody holds open still.
pub(crate) async fn pump(
    pipe: Receiver,
    job: Arc<Job>,
    log: Arc<Log>,
    mut stop: watch::Receiver<bool>,
) -> Option<Receiver> {
    let pipe = Arc::new(pipe);
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Arc::into_inner(pipe),
            ready = pipe.readable() => ready.ok()?,
        }
        match read(&pipe) {
            Found::Data(data) => {
                let (pipe, job, log) = (Arc::clone(&pipe), Arc::clone(&job), Arc::clone(&log));
                let appending = spawn_blocking(move || append_available(&pipe, &job, &log, data));
                if let Ok(Found::End) | Err(_) = appending.await {
                    return None;
                }
            }
            Found::Nothing => {}
            Found::End => return None,
        }
    }
}

/// Appends what was read and what else is there, up to a bound.
fn append_available(pipe: &Receiver, job: &Job, log: &Log, mut data: Vec<u8>) -> Found {
    for _ in 0..READS_AT_ONCE {
        log.append(&data, &job.budget);
        job.announce_output();
        match read(pipe) {
            Found::Data(more) => data = more,
            end => return end,
        }
    }
    log.append(&data, &job.budget);
    job.announce_output();
    Found::Data(Vec::new())
}

fn read(pipe: &Receiver) -> Found {
    let mut data = Vec::with_capacity(READ_BYTES);
    loop {
        match pipe.try_read_buf(&mut data) {
            Ok(0) => return Found::End,
            Ok(_) => return Found::Data(data),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Found::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Found::End,
        }
    }
}

/// Keeps the pipes of ended jobs readable for the processes that they left behind, whose writes would else end them.
/// What they write is thrown away.
pub(crate) struct Discarder(Arc<Semaphore>);

impl Discarder {
    /// Takes care of up to `most` pipes; each costs a descriptor, so beyond that they are closed.
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }

    /// Reads the pipe until its last writer closes it.
    pub(crate) fn take(&self, pipe: Receiver) {
        if let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() {
            tokio::spawn(async move {
                discard(&pipe).await;
                drop(permit);
            });
        }
    }
}

async fn discard(pipe: &Receiver) {
    while pipe.readable().await.is_ok() {
        if let Found::End = read(pipe) {
            return;
        }
        tokio::time::sleep(DISCARD_PAUSE).await;
    }
}
