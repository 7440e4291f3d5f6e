//! Staged content that nobody needs any more.
//!
//! Whoever ends a job removes what was staged for it, unless he dies in between. Invariants: what an open job needs stays;
//! what a read has fetched stays as long as its job; what belongs to no job that is known may be on its way to one, and
//! goes by its age alone.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use shared::job::{Job, JobState};
use shared::ports::BlobEntry;
use shared::staging::{self, STAGING_BUCKET};

use super::SweepError;
use crate::context::Context;

/// The age at which all goes that no open job needs.
const AGE_SECONDS: u64 = 24 * 3600;

/// The age below which nothing is looked at: most of it is removed by whoever ends its job.
const YOUNG_SECONDS: u64 = 60;

/// Jobs whose content one round looks at.
const JOBS_AT_ONCE: usize = 500;

/// How far the rounds have come.
#[derive(Default)]
pub(super) struct Staged {
    after: String,
}

impl Staged {
    /// Removes what nobody needs any more of some jobs, the next ones at the next round.
    pub(super) async fn clean(&mut self, context: &Context) -> Result<(), SweepError> {
        let mut found: BTreeMap<String, Vec<BlobEntry>> = BTreeMap::new();
        for entry in context.blobs.list(STAGING_BUCKET, "").await? {
            if entry.age_seconds >= YOUNG_SECONDS {
                let at = staging::job_of(&entry.name);
                let owner = at.map_or_else(|| entry.name.to_string(), |at| staging::prefix(&at));
                found.entry(owner).or_default().push(entry);
            }
        }
        let after = std::mem::take(&mut self.after);
        let rest = found.range::<str, _>((Excluded(after.as_str()), Unbounded));
        let again = found.range::<str, _>((Unbounded, Included(after.as_str())));
        for (owner, entries) in rest.chain(again).take(JOBS_AT_ONCE) {
            self.after.clone_from(owner);
            let at = entries
                .first()
                .and_then(|entry| staging::job_of(&entry.name));
            let job = match at {
                Some(at) => context.store.job(&at).await?,
                None => None,
            };
            for entry in entries {
                if !is_needed(job.as_ref(), entry.age_seconds) {
                    context.blobs.delete(&entry.name).await?;
                }
            }
        }
        Ok(())
    }
}

/// Whether anybody may still need content of such an age that was staged for a job.
fn is_needed(job: Option<&Job>, age_seconds: u64) -> bool {
    let Some(job) = job else {
        return age_seconds < AGE_SECONDS;
    };
    let is_fetched = job.input.kind().only_reads() && job.state == JobState::Succeeded;
    !job.state.is_terminal() || is_fetched && age_seconds < AGE_SECONDS
}
