//! What is known of every job id, without I/O: the rules of admission.

use std::collections::HashMap;
use std::sync::Arc;

use super::job::Job;
use super::journal::Fact;
use super::{MAX_RECORDS, Refusal};
use crate::ids::{Fence, JobId, Permit};

#[derive(Default)]
struct Known {
    /// No start below this is accepted; none if nothing was asked of this id yet.
    floor: Option<Fence>,
    forgotten: bool,
    /// The incarnation in which a mutation of files has begun.
    begun: Option<String>,
    job: Option<Arc<Job>>,
}

/// All known ids.
pub(crate) struct Table {
    ids: HashMap<JobId, Known>,
    records: usize,
    /// Those that have begun in this incarnation and had not ended when one was last asked for; so that to count them
    /// takes no look at every id.
    running: Vec<Arc<Job>>,
    /// The runner shuts down: nothing starts any more.
    closed: bool,
}

impl Table {
    /// A table of no ids.
    pub(crate) fn new() -> Self {
        Self {
            ids: HashMap::new(),
            records: 0,
            running: Vec::new(),
            closed: false,
        }
    }

    /// Takes in what the journal says of an id which was not forgotten, but for its record.
    pub(crate) fn recall(&mut self, id: JobId, fact: &Fact) {
        let known = self.ids.entry(id).or_default();
        known.floor = Fence::new(fact.floor).ok();
        known.begun = (!fact.begun.is_empty()).then(|| fact.begun.clone());
    }

    /// All that a journal must hold.
    pub(crate) fn facts(&self) -> Vec<Fact> {
        let fact = |(id, known): (&JobId, &Known)| Fact {
            job_id: id.to_string(),
            floor: known.floor.map_or(0, Fence::get),
            forgotten: known.forgotten,
            begun: known.begun.clone().unwrap_or_default(),
            stored: known.job.as_ref().map(|job| job.stored()),
        };
        self.ids.iter().map(fact).collect()
    }

    /// Whether a permit would be accepted, apart from what was started already.
    fn check_permit(&self, incarnation: &str, permit: &Permit) -> Result<(), Refusal> {
        if self.closed {
            return Err(Refusal::ShuttingDown);
        }
        if permit.incarnation != incarnation {
            return Err(Refusal::OtherIncarnation(incarnation.to_owned()));
        }
        self.check_floor(&permit.job, permit.fence)?;
        if self.is_forgotten(&permit.job) {
            Err(Refusal::AlreadyStarted)
        } else {
            Ok(())
        }
    }

    /// Whether a start with this permit would be accepted.
    pub(crate) fn admit(&self, incarnation: &str, permit: &Permit) -> Result<(), Refusal> {
        self.check_permit(incarnation, permit)?;
        if self.job(&permit.job).is_some() {
            return Err(Refusal::AlreadyStarted);
        }
        if self.records >= MAX_RECORDS {
            return Err(Refusal::Exhausted(
                "too many records are kept here: forget some",
            ));
        }
        Ok(())
    }

    /// Whether a mutation of files with this permit would be accepted.
    pub(crate) fn check_mutation(&self, incarnation: &str, permit: &Permit) -> Result<(), Refusal> {
        self.check_permit(incarnation, permit)?;
        let before = self
            .begun(&permit.job)
            .is_some_and(|begun| begun != incarnation);
        if before || self.job(&permit.job).is_some() {
            return Err(Refusal::AlreadyStarted);
        }
        Ok(())
    }

    /// Notes that a mutation of files begins under an id; whether that is news.
    pub(crate) fn mark_begun(&mut self, id: &JobId, incarnation: &str) -> bool {
        let known = self.ids.entry(id.clone()).or_default();
        known.begun.replace(incarnation.to_owned()).is_none()
    }

    /// What was marked does not begin after all.
    pub(crate) fn unmark(&mut self, id: &JobId) {
        if let Some(known) = self.ids.get_mut(id) {
            known.begun = None;
        }
    }

    /// Whether a mutation of files has begun under an id, in whatever incarnation.
    pub(crate) fn has_begun(&self, id: &JobId) -> bool {
        self.begun(id).is_some()
    }

    fn begun(&self, id: &JobId) -> Option<&str> {
        self.ids.get(id)?.begun.as_deref()
    }

    /// Makes a job known and raises its floor to its fence, unless it is refused by now.
    pub(crate) fn begin(
        &mut self,
        incarnation: &str,
        job: &Arc<Job>,
        max_running: usize,
    ) -> Result<(), Refusal> {
        let permit = Permit {
            job: job.id.clone(),
            fence: job.fence,
            incarnation: incarnation.to_owned(),
        };
        self.admit(incarnation, &permit)?;
        self.running.retain(|job| job.fate().is_none());
        if self.running.len() >= max_running {
            return Err(Refusal::Exhausted(
                "too many commands are running in this environment",
            ));
        }
        self.running.push(Arc::clone(job));
        self.insert(Arc::clone(job));
        Ok(())
    }

    /// Makes a job known.
    pub(crate) fn insert(&mut self, job: Arc<Job>) {
        let known = self.ids.entry(job.id.clone()).or_default();
        known.floor = known.floor.max(Some(job.fence));
        if known.job.replace(job).is_none() {
            self.records += 1;
        }
    }

    /// Refuses what is below the floor of an id.
    pub(crate) fn check_floor(&self, id: &JobId, fence: Fence) -> Result<(), Refusal> {
        match self.ids.get(id).and_then(|known| known.floor) {
            Some(floor) if fence < floor => Err(Refusal::BelowFloor(floor.get())),
            _ => Ok(()),
        }
    }

    /// Raises the floor of an id to a fence; whether it was lower before.
    pub(crate) fn raise_floor(&mut self, id: &JobId, fence: Fence) -> Result<bool, Refusal> {
        self.check_floor(id, fence)?;
        let known = self.ids.entry(id.clone()).or_default();
        Ok(known.floor.replace(fence) != Some(fence))
    }

    /// The job of an id, if it has a record.
    pub(crate) fn job(&self, id: &JobId) -> Option<Arc<Job>> {
        self.ids.get(id)?.job.clone()
    }

    /// All jobs with a record.
    pub(crate) fn jobs(&self) -> Vec<Arc<Job>> {
        self.ids
            .values()
            .filter_map(|known| known.job.clone())
            .collect()
    }

    /// Whether an id was started and forgotten.
    pub(crate) fn is_forgotten(&self, id: &JobId) -> bool {
        self.ids.get(id).is_some_and(|known| known.forgotten)
    }

    /// Leaves only a tombstone of an id; answers its floor.
    pub(crate) fn forget(&mut self, id: &JobId, lowest: Fence) -> Fence {
        let known = self.ids.entry(id.clone()).or_default();
        known.forgotten = true;
        known.begun = None;
        if known.job.take().is_some() {
            self.records -= 1;
        }
        known.floor.unwrap_or(lowest)
    }

    /// Accepts no start any more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::job::{Beginning, Disk};
    use super::super::journal::{Folder, Journal};
    use super::super::stdin::Stdin;
    use super::*;
    use crate::proto::StartError;

    fn new_job(disk: &Disk, id: &str) -> Arc<Job> {
        let beginning = Beginning {
            id: JobId::new(id).unwrap(),
            fence: Fence::LOWEST,
            incarnation: "now",
            output_limit: 0,
            stdin: Stdin::closed(),
        };
        Arc::new(Job::new(beginning, disk).0)
    }

    #[test]
    fn only_running_jobs_take_a_place() {
        let state = tempfile::tempdir().unwrap();
        let disk = Disk {
            folder: Folder::open(state.path()).unwrap(),
            journal: Arc::new(Mutex::new(Journal::open(state.path()).unwrap().0)),
        };
        let mut table = Table::new();
        let jobs = ["a", "b", "c", "d"].map(|id| new_job(&disk, id));
        table.begin("now", &jobs[0], 2).unwrap();
        table.begin("now", &jobs[1], 2).unwrap();
        // A second start of an id takes no place, nor does one that is refused.
        assert_eq!(
            table.begin("now", &jobs[1], 9),
            Err(Refusal::AlreadyStarted)
        );
        let refused = table.begin("now", &jobs[2], 2);
        assert!(matches!(refused, Err(Refusal::Exhausted(_))));
        jobs[0].end(super::super::driver::start_failed(StartError::default()));
        table.forget(&jobs[0].id, Fence::LOWEST);
        table.begin("now", &jobs[2], 2).unwrap();
        let refused = table.begin("now", &jobs[3], 2);
        assert!(matches!(refused, Err(Refusal::Exhausted(_))));
        // Who has ended is not held on to beyond the next start.
        assert_eq!((Arc::strong_count(&jobs[0]), table.running.len()), (1, 2));
    }
}
