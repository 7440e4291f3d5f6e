//! File operations, with the rights of the environment's user.
//!
//! The mount namespace is the jail: a path may lead anywhere in the environment that the user may go, by `..`, absolute
//! paths or symlinks alike. What is guarded here is the runner itself: nothing of PID 1's own rights is lent out
//! ([`identity`]), no FIFO or device can hold it up, and its own descriptors are not reachable through `/proc`.

mod fault;
mod identity;
mod list;
mod mkdir;
mod moving;
mod mutation;
mod pack;
mod place;
mod read;
mod remove;
mod tar;
mod unpack;
mod write;

use std::path::PathBuf;
use std::sync::Arc;

use self::fault::Fault;
pub(crate) use self::identity::{Identity, IdentityPool};
use self::mutation::Mutations;
use crate::ids::JobId;
use crate::jobs::Jobs;
use crate::proto::{ListFilesReply, ListFilesRequest};

/// The file operations of this environment.
pub(crate) struct Files {
    pool: IdentityPool,
    volume: Arc<PathBuf>,
    jobs: Arc<Jobs>,
    mutations: Mutations,
}

impl Files {
    /// Operations that start from the volume; `jobs` knows which mutations are still permitted.
    pub(crate) fn new(pool: IdentityPool, volume: PathBuf, jobs: Arc<Jobs>) -> Self {
        Self {
            pool,
            volume: Arc::new(volume),
            jobs,
            mutations: Mutations::default(),
        }
    }

    /// One page of a folder's entries.
    pub(crate) async fn list(&self, request: ListFilesRequest) -> Result<ListFilesReply, Fault> {
        let volume = Arc::clone(&self.volume);
        self.pool.run(move || list::list(&volume, &request)).await?
    }

    /// Waits until no mutation of this id can take effect any more that its floor forbids.
    pub(crate) async fn settle(&self, job: &JobId) {
        self.mutations.settle(job).await;
    }

    /// Forgets the reply to a mutation; whether there was one.
    pub(crate) fn forget(&self, job: &JobId) -> bool {
        self.mutations.forget(job)
    }
}
