//! What a new incarnation takes over from the last one: the jobs that have a record, or a log at least, and the marks of
//! changes of files that have begun.
//!
//! Floors and tombstones of other ids are dropped. They were there to refuse permits, and a permit of an earlier
//! incarnation is refused for that alone; kept, they would add up for as long as the environment lives.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, PoisonError};

use super::job::{Disk, Job};
use super::journal::Fact;
use super::table::Table;
use crate::ids::JobId;
use crate::proto::JobPhase;

/// The table that the state folder tells of. What ran in an earlier incarnation has ended with it. Blocks on the disk.
pub(super) fn recover(disk: &Disk, known: HashMap<JobId, Fact>) -> io::Result<Table> {
    let mut table = Table::new();
    let with_logs = disk.folder.jobs_with_logs()?;
    for id in with_logs {
        match known.get(&id) {
            Some(fact) if fact.forgotten => Job::recovered(id, None, disk).delete(),
            Some(fact) if fact.stored.is_some() => {}
            // Its record was lost, but it was started: that is what matters most.
            fact => {
                if let Some(fact) = fact {
                    table.recall(id.clone(), fact);
                }
                let job = Arc::new(Job::recovered(id, None, disk));
                note_end(&job);
                table.insert(job);
            }
        }
    }
    let facts = known.len();
    for (id, mut fact) in known {
        if fact.forgotten {
            continue;
        }
        let Some(stored) = fact.stored.take() else {
            if !fact.begun.is_empty() {
                table.recall(id, &fact);
            }
            continue;
        };
        table.recall(id.clone(), &fact);
        let had_ended = stored
            .record
            .as_ref()
            .is_some_and(|record| record.phase() == JobPhase::Ended);
        let job = Arc::new(Job::recovered(id, Some(stored), disk));
        if !had_ended {
            note_end(&job);
        }
        table.insert(job);
    }
    if table.facts().len() < facts {
        drop_facts(disk, &table);
    }
    Ok(table)
}

/// Writes the journal anew with what the table holds.
fn drop_facts(disk: &Disk, table: &Table) {
    let mut journal = disk.journal.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = journal.rewrite(&table.facts()) {
        // The next incarnation finds the same again.
        crate::complain!("em-runner: the journal cannot be written anew: {error}");
    }
}

fn note_end(job: &Job) {
    if let Err(error) = job.write_record() {
        // The next incarnation finds the same again.
        crate::complain!(
            "em-runner: the end of job {} cannot be recorded: {error}",
            job.id
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::journal::{Folder, Journal, StoredJob};
    use super::*;
    use crate::ids::Fence;
    use crate::proto::JobRecord;

    fn job(id: &str) -> JobId {
        JobId::new(id).unwrap()
    }

    #[test]
    fn only_ids_with_a_record_or_a_log_are_taken_over() {
        let state = tempfile::tempdir().unwrap();
        let folder = Folder::open(state.path()).unwrap();
        let (mut journal, _) = Journal::open(state.path()).unwrap();
        let fence = Fence::new(7).unwrap();
        let record = JobRecord {
            job_id: "recorded".to_owned(),
            ..JobRecord::default()
        };
        let stored = StoredJob {
            record: Some(record),
            ..StoredJob::default()
        };
        let facts = [
            Fact::record(&job("recorded"), stored.clone()),
            Fact::floor(&job("recorded"), fence),
            Fact::floor(&job("logged"), fence),
            Fact::floor(&job("sealed"), fence),
            Fact::record(&job("forgotten"), stored),
            Fact::tombstone(&job("forgotten"), fence),
            Fact::tombstone(&job("mutation"), fence),
            Fact::begun(&job("begun"), "then"),
            Fact::begun(&job("mutation"), "then"),
        ];
        for fact in &facts {
            journal.append(fact).unwrap();
        }
        for id in ["logged", "forgotten"] {
            std::fs::write(folder.log(&job(id), "out"), "left").unwrap();
        }
        drop(journal);

        let (journal, known) = Journal::open(state.path()).unwrap();
        assert_eq!(known.len(), 6);
        let journal = Arc::new(Mutex::new(journal));
        let disk = Disk { folder, journal };
        let table = recover(&disk, known).unwrap();
        let (_, kept) = Journal::open(state.path()).unwrap();
        let mut ids: Vec<_> = kept.keys().map(ToString::to_string).collect();
        ids.sort();
        assert_eq!(ids, ["begun", "logged", "recorded"]);
        assert_eq!(table.facts().len(), 3);
        assert!(table.has_begun(&job("begun")) && table.job(&job("begun")).is_none());
        for id in ["logged", "recorded"] {
            assert_eq!(kept[&job(id)].floor, 7, "{id}");
            assert!(table.job(&job(id)).is_some(), "{id}");
            assert!(table.check_floor(&job(id), Fence::LOWEST).is_err(), "{id}");
        }
        assert!(!disk.folder.log(&job("forgotten"), "out").exists());
    }
}
