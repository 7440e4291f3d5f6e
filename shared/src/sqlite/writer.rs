//! The one thread that writes, with group commit.
//!
//! ```text
//!   callers ──▶ bounded channel ──▶ take all that wait ──▶ BEGIN
//!                                                          SAVEPOINT · operation · RELEASE (or ROLLBACK TO)   each
//!                                                          COMMIT: one sync of the disk for all of them
//!                                   answers ◀── watches ◀──┘
//! ```
//!
//! Invariants: an operation is answered only after the commit that holds it, or with that commit's failure; one that
//! fails undoes only itself, and one that panics its batch, but never the thread; no transaction is open while the thread waits for work. After a failed commit nothing of
//! the batch is there, and the next batch begins anew, so that the thread heals by itself when there is room again. What is
//! not to use up the [`Reserve`] is not run while that is not whole.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::error::Failure;
use super::reserve::Reserve;
use super::watches::Watches;
use crate::ids::JobRef;
use crate::ports::StoreError;

/// Operations that may wait; more callers wait to hand theirs in.
const QUEUED: usize = 1024;

/// Operations in one transaction at most.
const BATCH: usize = 256;

/// Time after which a transaction takes no further operation, so that large ones hold up few others.
const BATCH_TIME: Duration = Duration::from_millis(10);

/// What an operation works with: the database inside of its savepoint, and the jobs whose watchers hear of it.
pub(super) struct Commit<'db> {
    /// The database.
    pub(super) db: &'db Connection,
    touched: Vec<JobRef>,
    has_room: bool,
}

impl Commit<'_> {
    /// Refuses what is not to use up the reserve, while that is not whole.
    pub(super) fn needs_room(&self) -> Result<(), StoreError> {
        if self.has_room {
            return Ok(());
        }
        Err(StoreError::Unavailable(
            "the disk of the database is full: what room is kept is for ending environments"
                .to_owned(),
        ))
    }

    /// Notes that a job's record or output changes with this commit.
    pub(super) fn touch(&mut self, job: JobRef) {
        self.touched.push(job);
    }
}

/// An operation on its way: run once inside of a batch, answered once after it.
trait Task: Send {
    /// Runs it; whether its changes shall stay.
    fn run(&mut self, commit: &mut Commit<'_>) -> bool;

    /// Tells the caller: what the operation said, or the failure of the batch.
    fn answer(self: Box<Self>, failure: Option<&Failure>);
}

struct Operation<T, E, F> {
    run: Option<F>,
    result: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Task for Operation<T, E, F>
where
    T: Send,
    E: From<StoreError> + Send,
    F: FnOnce(&mut Commit<'_>) -> Result<T, E> + Send,
{
    fn run(&mut self, commit: &mut Commit<'_>) -> bool {
        self.result = self.run.take().map(|run| run(commit));
        matches!(self.result, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, failure: Option<&Failure>) {
        let answer = match (failure, self.result) {
            // Whatever it said, it may have said because of what others did in the batch.
            (Some(failure), _) => Err(failure.told().into()),
            (None, Some(answer)) => answer,
            (None, None) => Err(StoreError::Unavailable("it was not run".to_owned()).into()),
        };
        // A caller that went away does not need its answer.
        let _ = self.reply.send(answer);
    }
}

/// The way to the thread. Dropping it waits until the thread has done what it was given.
pub(super) struct Writer {
    tasks: Option<mpsc::Sender<Box<dyn Task>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread on its connection, with the reserve of the database.
    pub(super) fn start(
        db: Connection,
        reserve: Option<Reserve>,
        watches: Arc<Watches>,
    ) -> io::Result<Self> {
        let (tasks, waiting) = mpsc::channel(QUEUED);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let mut reserve = reserve;
                write_all(&db, waiting, &watches, reserve.as_mut());
                // In this order: see [`Reserve`].
                drop(db);
                drop(reserve);
            })?;
        Ok(Self {
            tasks: Some(tasks),
            thread: Some(thread),
        })
    }

    /// Runs an operation and returns when it is durable, or when it or its commit failed.
    ///
    /// Dropping the future does not call an operation back that was handed in. On a full disk it is not run.
    pub(super) async fn commit<T, E, F>(&self, run: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Commit<'_>) -> Result<T, E> + Send + 'static,
    {
        self.commit_always(move |commit| {
            commit.needs_room()?;
            run(commit)
        })
        .await
    }

    /// The same for an operation that may use up the reserve, or that itself says when it needs room
    /// ([`Commit::needs_room`]).
    pub(super) async fn commit_always<T, E, F>(&self, run: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Commit<'_>) -> Result<T, E> + Send + 'static,
    {
        let stopped = || StoreError::Unavailable("the writer has stopped".to_owned());
        let (reply, answer) = oneshot::channel();
        let task = Box::new(Operation {
            run: Some(run),
            result: None,
            reply,
        });
        let tasks = self.tasks.as_ref().ok_or_else(stopped)?;
        tasks.send(task).await.map_err(|_| stopped())?;
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::Unknown("the writer stopped".to_owned()).into()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // A thread that ended by a panic has nothing left to wait for.
            let _ = thread.join();
        }
    }
}

fn write_all(
    db: &Connection,
    mut waiting: mpsc::Receiver<Box<dyn Task>>,
    watches: &Watches,
    mut reserve: Option<&mut Reserve>,
) {
    let mut tasks = Vec::with_capacity(BATCH);
    while !tasks.is_empty() || waiting.blocking_recv_many(&mut tasks, BATCH) > 0 {
        let mut touched = Vec::new();
        let mut run = 0;
        // Where the disk cannot be looked at, the commit itself tells what is wrong.
        let has_room =
            (reserve.as_deref_mut()).is_none_or(|reserve| reserve.is_whole().unwrap_or(true));
        let outcome = write_batch(db, &mut tasks, &mut run, &mut touched, has_room);
        if outcome.is_err() && !db.is_autocommit() {
            // Where this fails too the connection is beyond use; the next BEGIN says so to its callers.
            let _ = db.execute_batch("ROLLBACK");
        }
        let failure = outcome.err();
        match &failure {
            None => watches.raise(&touched),
            Some(failure) => tracing::warn!(?failure, operations = run, "a commit failed"),
        }
        for task in tasks.drain(..run) {
            task.answer(failure.as_ref());
        }
    }
}

/// Commits some of the tasks, from the first on. `run` counts those that share the outcome; at least one.
fn write_batch(
    db: &Connection,
    tasks: &mut [Box<dyn Task>],
    run: &mut usize,
    touched: &mut Vec<JobRef>,
    has_room: bool,
) -> Result<(), Failure> {
    let step = |sql| db.prepare_cached(sql)?.execute([]);
    let begun = Instant::now();
    *run = 1;
    step("BEGIN IMMEDIATE")?;
    for (number, task) in tasks.iter_mut().enumerate() {
        *run = number + 1;
        step("SAVEPOINT operation")?;
        let mut commit = Commit {
            db,
            touched: Vec::new(),
            has_room,
        };
        // Nothing outlives a panic but the database, which is rolled back, and what the task was to answer with.
        let stays = catch_unwind(AssertUnwindSafe(|| task.run(&mut commit)))
            .map_err(|_| Failure::Failed("an operation of the batch panicked".to_owned()))?;
        if stays {
            touched.append(&mut commit.touched);
        } else if db.is_autocommit() {
            // Some failures, such as a full disk, end the whole transaction.
            return Err(Failure::Failed(
                "the transaction was rolled back".to_owned(),
            ));
        } else {
            step("ROLLBACK TO operation")?;
        }
        step("RELEASE operation")?;
        if begun.elapsed() > BATCH_TIME {
            break;
        }
    }
    step("COMMIT").map_err(|error| Failure::of_commit(&error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(folder: &tempfile::TempDir) -> Writer {
        let db = Connection::open(folder.path().join("a.db")).expect("a database");
        db.execute_batch("CREATE TABLE numbers (number INTEGER)")
            .expect("a table");
        Writer::start(db, None, Arc::default()).expect("a thread")
    }

    fn insert(commit: &Commit<'_>, number: i64) -> Result<(), StoreError> {
        commit
            .db
            .prepare_cached("INSERT INTO numbers VALUES (?1)")?
            .execute([number])?;
        Ok(())
    }

    fn sum(commit: &Commit<'_>) -> Result<i64, StoreError> {
        Ok(commit
            .db
            .query_row("SELECT sum(number) FROM numbers", [], |row| row.get(0))?)
    }

    #[tokio::test]
    async fn a_panic_ends_its_batch_and_not_the_thread() {
        let folder = tempfile::tempdir().expect("a folder");
        let writer = writer(&folder);
        let good = |number| writer.commit(move |commit| insert(commit, number));
        good(1).await.expect("committed");
        for _ in 0..3 {
            let panicked: Result<(), StoreError> = writer
                .commit(|commit| {
                    insert(commit, 100)?;
                    panic!("an operation goes wrong")
                })
                .await;
            assert!(
                matches!(panicked, Err(StoreError::Unavailable(_))),
                "{panicked:?}"
            );
            good(2).await.expect("committed");
        }
        let sum = writer.commit(|commit| sum(commit)).await.expect("read");
        assert_eq!(sum, 7, "nothing of those that panicked is there");
    }
}
