//! File operations, with the rights of the environment's user.
//!
//! The mount namespace is the jail: a path may lead anywhere in the environment that the user may go, by `..`, absolute
//! paths or symlinks alike. What is guarded here is the runner itself: nothing of PID 1's own rights is lent out
//! ([`identity`]), no FIFO or device can hold it up, and its own descriptors are not reachable through `/proc`.

mod draft;
mod drafts;
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

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::drafts::Drafts;
pub(crate) use self::drafts::Left;
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
    drafts: Arc<Drafts>,
}

impl Files {
    /// Operations that start from the volume; `jobs` knows which mutations are still permitted, the state folder what an
    /// earlier PID 1 has left half done. That is to be removed by [`Self::clear`].
    pub(crate) fn open(
        pool: IdentityPool,
        volume: PathBuf,
        jobs: Arc<Jobs>,
        state: &Path,
    ) -> (Self, Vec<Left>) {
        let drafts = Drafts::open(state);
        let left = drafts.left();
        let files = Self {
            pool,
            volume: Arc::new(volume),
            jobs,
            mutations: Mutations::default(),
            drafts: Arc::new(drafts),
        };
        (files, left)
    }

    /// Removes what an earlier PID 1 has left half done, beside everything else.
    pub(crate) fn clear(&self, left: Vec<Left>) {
        let pool = self.pool.clone();
        tokio::spawn(async move {
            for draft in left {
                draft.remove(&pool).await;
            }
        });
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
