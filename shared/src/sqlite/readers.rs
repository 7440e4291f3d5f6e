//! The threads that read, each with a connection of its own.
//!
//! A read sees one state of the database, that of the last commit before it began, and never waits for the writer.
//! Reads that wait are bounded by their callers: each of them waits for its one answer.

use std::num::NonZero;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, available_parallelism};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::schema;
use crate::ports::StoreError;

/// Reads that run at the same time: one for each core, within these. More would only hold more memory.
const READERS: RangeInclusive<usize> = 2..=4;

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// The way to the threads. Dropping it waits until they have done what they were given.
pub(super) struct Readers {
    reads: Option<Sender<Read>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Starts the threads.
    pub(super) fn start(path: &Path) -> Result<Self, StoreError> {
        let (reads, waiting) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        let cores = available_parallelism().map_or(*READERS.start(), NonZero::get);
        let count = cores.clamp(*READERS.start(), *READERS.end());
        let mut threads = Vec::with_capacity(count);
        for _ in 0..count {
            let db = schema::open_reader(path)?;
            let waiting = Arc::clone(&waiting);
            let thread = std::thread::Builder::new()
                .name("store-reader".to_owned())
                .spawn(move || read_all(&db, &waiting))
                .map_err(|error| StoreError::Unavailable(error.to_string()))?;
            threads.push(thread);
        }
        Ok(Self {
            reads: Some(reads),
            threads,
        })
    }

    /// Runs a read on one of the threads. Dropping the future calls off a read that has not begun.
    pub(super) async fn read<T, E, F>(&self, run: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        let stopped = || StoreError::Unavailable("the readers have stopped".to_owned());
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move |db| {
            if !reply.is_closed() {
                let _ = reply.send(run(db));
            }
        });
        let reads = self.reads.as_ref().ok_or_else(stopped)?;
        reads.send(read).map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped().into()))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.reads = None;
        for thread in self.threads.drain(..) {
            // A thread that ended by a panic has nothing left to wait for.
            let _ = thread.join();
        }
    }
}

fn read_all(db: &Connection, waiting: &Mutex<Receiver<Read>>) {
    loop {
        // One thread waits in the channel, the others for the lock, which is free again before the read begins.
        let next = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        match next {
            Ok(read) => read(db),
            Err(_) => return,
        }
    }
}
