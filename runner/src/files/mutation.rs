//! Mutations of files happen at most once per job id: the reply to the first is kept and given again.
//!
//! Each id has a lock that is held from the last check of the permit until the change is done and its reply kept. So a
//! seal, which raises the floor and then takes the lock once, knows that nothing below the floor happens after it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};

use tokio::sync::Mutex;

use super::Files;
use super::fault::{Fault, Refused};
use crate::ids::{JobId, Permit};
use crate::jobs::Refusal;
use crate::proto::{
    self, MakeFolderReply, MoveFileReply, RemoveFileReply, UnpackReply, WriteFileReply,
};

/// Replies that are kept. The oldest go first, those of sealed ids before the others.
const MAX_REPLIES: usize = 4096;

/// The reply to a mutation that was done.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Written(WriteFileReply),
    Removed(RemoveFileReply),
    Moved(MoveFileReply),
    Made(MakeFolderReply),
    Unpacked(UnpackReply),
}

/// What the caller of a mutation is told, and told again.
pub(super) trait Kept: Clone + Send + 'static {
    /// As it is kept.
    fn keep(self) -> Reply;
    /// As it was kept; nothing where the id was used for another kind of mutation.
    fn of(reply: Reply) -> Option<Self>;
}

macro_rules! kept {
    ($($variant:ident($reply:ty)),+) => {
        $(impl Kept for $reply {
            fn keep(self) -> Reply {
                Reply::$variant(self)
            }

            fn of(reply: Reply) -> Option<Self> {
                match reply {
                    Reply::$variant(reply) => Some(reply),
                    _ => None,
                }
            }
        })+
    };
}

kept!(
    Written(WriteFileReply),
    Removed(RemoveFileReply),
    Moved(MoveFileReply),
    Made(MakeFolderReply),
    Unpacked(UnpackReply)
);

/// The reply to a mutation that was done before, given again.
pub(super) fn kept<R: Kept>(reply: Reply) -> Result<R, Refused> {
    R::of(reply).ok_or_else(|| Refusal::AlreadyStarted.into())
}

/// Asked before each step of a change, so that a seal stops a long one.
pub(super) type Check<'a> = &'a dyn Fn() -> Result<(), Refused>;

impl Files {
    /// Makes a change, at most once per job id. It goes on if the caller goes away, so that its reply is kept.
    pub(super) async fn once<R: Kept>(
        &self,
        permit: Option<proto::Permit>,
        act: impl FnOnce(&Path, Check<'_>) -> Result<R, Refused> + Send + 'static,
    ) -> Result<R, Refused> {
        let permit =
            Permit::try_from(permit).map_err(|error| Refusal::Invalid(error.to_string()))?;
        self.jobs.permit_mutation(&permit)?;
        let slot = self.mutations.slot(&permit.job);
        let (jobs, pool, volume) = (
            Arc::clone(&self.jobs),
            self.pool.clone(),
            Arc::clone(&self.volume),
        );
        let changing = tokio::spawn(async move {
            let mut done = slot.lock().await;
            if let Some(reply) = done.clone() {
                return kept(reply);
            }
            jobs.begin_mutation(&permit)?;
            let check = move || Ok(jobs.check_mutation(&permit)?);
            let reply: R = pool.run(move || act(&volume, &check)).await??;
            *done = Some(reply.clone().keep());
            Ok(reply)
        });
        changing
            .await
            .unwrap_or_else(|error| Err(Fault::from(io::Error::other(error)).into()))
    }
}

/// The lock of an id, with its reply once it is done.
pub(crate) type Slot = Arc<Mutex<Option<Reply>>>;

/// The replies by id.
#[derive(Default)]
pub(crate) struct Mutations(StdMutex<Slots>);

#[derive(Default)]
struct Slots {
    by_id: HashMap<JobId, Known>,
    /// By age, the oldest first.
    order: VecDeque<JobId>,
}

struct Known {
    slot: Slot,
    sealed: bool,
}

impl Mutations {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Nothing that holds the lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of an id.
    pub(crate) fn slot(&self, job: &JobId) -> Slot {
        let mut slots = self.slots();
        if let Some(known) = slots.by_id.get(job) {
            return Arc::clone(&known.slot);
        }
        if slots.order.len() >= MAX_REPLIES {
            slots.evict();
        }
        let slot = Slot::default();
        let known = Known {
            slot: Arc::clone(&slot),
            sealed: false,
        };
        slots.by_id.insert(job.clone(), known);
        slots.order.push_back(job.clone());
        slot
    }

    /// Waits until whatever is being done under an id is done; call it after its floor was raised.
    pub(crate) async fn settle(&self, job: &JobId) {
        let slot = self.slots().by_id.get_mut(job).map(|known| {
            known.sealed = true;
            Arc::clone(&known.slot)
        });
        if let Some(slot) = slot {
            drop(slot.lock().await);
        }
    }

    /// Drops the reply of an id; whether there was one.
    pub(crate) fn forget(&self, job: &JobId) -> bool {
        let mut slots = self.slots();
        slots.order.retain(|known| known != job);
        slots.by_id.remove(job).is_some()
    }
}

impl Slots {
    fn evict(&mut self) {
        let is_sealed = |job: &JobId| self.by_id.get(job).is_some_and(|known| known.sealed);
        let oldest = self.order.iter().position(is_sealed).unwrap_or(0);
        if let Some(job) = self.order.remove(oldest) {
            self.by_id.remove(&job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sealed_replies_go_before_older_ones() {
        let mutations = Mutations::default();
        let id = |number: usize| JobId::new(&format!("job-{number}")).unwrap();
        for number in 0..MAX_REPLIES {
            mutations.slot(&id(number));
        }
        mutations.settle(&id(7)).await;
        mutations.slot(&id(MAX_REPLIES));
        mutations.slot(&id(MAX_REPLIES + 1));
        let gone: Vec<usize> = (0..MAX_REPLIES + 2)
            .filter(|number| !mutations.forget(&id(*number)))
            .collect();
        assert_eq!(gone, [0, 7]);
    }
}
