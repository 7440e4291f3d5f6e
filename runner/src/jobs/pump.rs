//! Moves what a job writes from its pipe into its log.
//!
//! The disk may make a writer wait, so appending happens on a blocking thread, many reads at a time; an idle pipe holds
//! no thread and no buffer. What is in the pipe when the pump is stopped is taken too: nothing that a command wrote
//! before it ended is lost or uncounted, however slow the disk.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::{Errno, ioctl_fionread};
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

/// Pumps until the end of the pipe, or until `stop` is true; then takes what is in the pipe at that moment, and answers
/// the pipe, which somebody holds open still.
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
            _ = stop.wait_for(|stop| *stop) => break,
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
    take_rest(pipe, job, log).await
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

/// Appends what the pipe holds now, and answers the pipe unless that was all there will be.
async fn take_rest(pipe: Arc<Receiver>, job: Arc<Job>, log: Arc<Log>) -> Option<Receiver> {
    let taking = spawn_blocking(move || match append_held(&pipe, &job, &log) {
        Found::End => None,
        Found::Data(_) | Found::Nothing => Arc::into_inner(pipe),
    });
    taking.await.ok().flatten()
}

/// Appends as many bytes as the pipe holds at this moment: who writes on meanwhile does not prolong it.
fn append_held(pipe: &Receiver, job: &Job, log: &Log) -> Found {
    // Cannot fail for a pipe; if it did, one full pipe would be the bound.
    let held = ioctl_fionread(pipe).unwrap_or(READ_BYTES as u64);
    let mut left = usize::try_from(held).unwrap_or(usize::MAX);
    while left > 0 {
        // Not by the runtime's readiness, which may be behind the pipe.
        let mut data = vec![0; left.min(READ_BYTES)];
        match rustix::io::read(pipe, &mut data) {
            Ok(0) => return Found::End,
            Ok(count) => {
                data.truncate(count);
                log.append(&data, &job.budget);
                job.announce_output();
                left = left.saturating_sub(count);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Found::Nothing,
            Err(_) => return Found::End,
        }
    }
    Found::Nothing
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::super::job::{Beginning, Disk};
    use super::super::journal::{Folder, Journal};
    use super::super::stdin::Stdin;
    use super::*;
    use crate::ids::{Fence, JobId};

    /// The write end of a pipe, its read end, and a job to pump into.
    fn job_with_pipe(state: &std::path::Path) -> (io::PipeWriter, Receiver, Arc<Job>) {
        let disk = Disk {
            folder: Folder::open(state).unwrap(),
            journal: Arc::new(Mutex::new(Journal::open(state).unwrap().0)),
        };
        let beginning = Beginning {
            id: JobId::new("job").unwrap(),
            fence: Fence::LOWEST,
            incarnation: "incarnation",
            output_limit: 1 << 30,
            stdin: Stdin::closed(),
        };
        let (read, write) = io::pipe().unwrap();
        let pipe = Receiver::from_owned_fd(read.into()).unwrap();
        (write, pipe, Arc::new(Job::new(beginning, &disk).0))
    }

    #[tokio::test]
    async fn what_a_stopped_pump_finds_in_the_pipe_is_kept() {
        let state = tempfile::tempdir().unwrap();
        let (mut write, pipe, job) = job_with_pipe(state.path());
        write.write_all(&[b'x'; 60_000]).unwrap();
        let (_stop, stopped) = watch::channel(true);
        let log = Arc::clone(&job.stdout);
        let pipe = pump(pipe, Arc::clone(&job), log, stopped).await;
        assert_eq!(job.stdout.counts().total, 60_000);
        // Somebody holds it open, so it is handed on; what is written from now on is not the job's.
        let pipe = pipe.unwrap();
        write.write_all(b"later").unwrap();
        assert_eq!(ioctl_fionread(&pipe).unwrap(), 5);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_writer_that_goes_on_does_not_keep_a_stopped_pump() {
        let state = tempfile::tempdir().unwrap();
        let (mut write, pipe, job) = job_with_pipe(state.path());
        // Writes until the last reader is gone, which is when this test has what it wants.
        let writer = std::thread::spawn(move || while write.write_all(&[b'x'; 4096]).is_ok() {});
        let (_stop, stopped) = watch::channel(true);
        let log = Arc::clone(&job.stdout);
        let pipe = pump(pipe, Arc::clone(&job), log, stopped).await;
        assert!(job.stdout.counts().total <= READ_BYTES as u64);
        drop(pipe.unwrap());
        writer.join().unwrap();
    }
}
