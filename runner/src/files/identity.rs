//! Threads that have the rights of the environment's user, for everything that touches files.
//!
//! PID 1 may become other users, but it has no right to pass over the permissions of files. The kernel keeps the ids
//! that file access is judged by per thread, so a few threads take the user's for good. They are made at start, before
//! PID 1 makes itself not dumpable, because the change resets that.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use tokio::sync::oneshot;

use super::fault::Fault;
use crate::proto::FileErrorCode;

const THREADS: usize = 4;

type Task = Box<dyn FnOnce() + Send>;

/// Whose rights the threads take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Identity {
    /// Those of this process.
    Own,
    User {
        uid: u32,
        gid: u32,
    },
}

/// The threads.
#[derive(Clone)]
pub(crate) struct IdentityPool(Sender<Task>);

impl IdentityPool {
    /// Starts the threads; answers when all of them have the identity.
    pub(crate) fn start(identity: Identity) -> io::Result<Self> {
        let (tasks, queue) = channel::<Task>();
        let queue = Arc::new(Mutex::new(queue));
        let (ready, all_ready) = channel();
        for _ in 0..THREADS {
            let (queue, ready) = (Arc::clone(&queue), ready.clone());
            let body = move || {
                let taken = take(identity);
                let serves = taken.is_ok();
                // The starter waits for it.
                let _ = ready.send(taken);
                if serves {
                    serve(&queue);
                }
            };
            std::thread::Builder::new()
                .name("files".to_owned())
                .spawn(body)?;
        }
        for _ in 0..THREADS {
            all_ready.recv().map_err(io::Error::other)??;
        }
        Ok(Self(tasks))
    }

    /// Runs something on one of the threads. It runs to its end, also if the caller goes away.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let (answer, answered) = oneshot::channel();
        self.detach(move || {
            // Nobody waits any more if the caller went away.
            let _ = answer.send(act());
        });
        let gone = |_| Fault::new(FileErrorCode::FileIo, "the file threads are gone");
        answered.await.map_err(gone)
    }

    /// Runs something on one of the threads, some time.
    pub(crate) fn detach(&self, act: impl FnOnce() + Send + 'static) {
        // The threads live as long as the pool.
        let _ = self.0.send(Box::new(act));
    }
}

fn serve(queue: &Mutex<Receiver<Task>>) {
    loop {
        let task = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match task {
            Ok(task) => task(),
            Err(_) => return,
        }
    }
}

fn take(identity: Identity) -> io::Result<()> {
    let Identity::User { uid, gid } = identity else {
        return Ok(());
    };
    // A user namespace may forbid it; then the groups are those of the runtime's choice.
    let _ = rustix::thread::set_thread_groups(&[]);
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // Each call answers what was before it, and tells no errors: a second one shows what the first one did.
    setfsgid(gid);
    setfsuid(uid);
    if setfsgid(gid) == gid && setfsuid(uid) == uid {
        return Ok(());
    }
    take_as_effective(uid, gid)
}

/// For kernels that judge file access by the effective ids and have no others for it, such as gVisor's: the calling
/// thread's effective ids. Its real and saved ones stay, so that no process of the user may signal or trace it.
fn take_as_effective(uid: Uid, gid: Gid) -> io::Result<()> {
    use rustix::process::{Gid as G, Uid as U, getegid, geteuid};
    let (kept_uid, kept_gid) = (U::from_raw(u32::MAX), G::from_raw(u32::MAX));
    let (uid, gid) = (U::from_raw(uid.as_raw()), G::from_raw(gid.as_raw()));
    // The group first: who is not root any more may not.
    rustix::thread::set_thread_res_gid(kept_gid, gid, kept_gid)?;
    rustix::thread::set_thread_res_uid(kept_uid, uid, kept_uid)?;
    if geteuid() == uid && getegid() == gid {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}
