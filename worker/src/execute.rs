//! Runs one leased job to its end: every kind of job on one screen.
//!
//! ```text
//!   leased ──▶ dispatch by kind ──▶ Finish(outcome) ──▶ commit: last output, outcome, environment, artifact
//!                  │                 HandBack        ──▶ any worker may take it at once
//!                  └─ must stop ──▶  Dropped         ──▶ nothing is written: the lease is taken over
//! ```

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt as _;
use shared::environment::{Environment, Phase};
use shared::ids::{Fence, JobRef};
use shared::job::{Begun, Job, JobInput, Outcome};
use shared::ports::{Completion, Leased, StoreError};
use tokio::sync::OwnedSemaphorePermit;

use crate::context::{Active, Context};
use crate::{distrust, finish, jobs};

/// A leased job and what is needed to work on it.
pub(crate) struct Task {
    pub(crate) context: Arc<Context>,
    pub(crate) job: Job,
    pub(crate) environment: Environment,
    pub(crate) at: JobRef,
    /// A takeover may go on without one.
    slot: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Task {
    /// The fence of the lease: every write carries it.
    pub(crate) fn fence(&self) -> Fence {
        self.job.fence
    }

    /// What a job is sealed with that is ended next: no call under this lease passes it any more, those of a later one do.
    pub(crate) fn above_fence(&self) -> Fence {
        Fence(self.job.fence.0.saturating_add(1))
    }

    /// Waits for others without a slot, so that what waits keeps nothing from being done; then takes one again. Where
    /// there is nothing to wait for the slot is kept.
    pub(crate) async fn waiting<F: Future>(&self, others: F) -> F::Output {
        let mut others = std::pin::pin!(others);
        if let Poll::Ready(done) = futures::poll!(&mut others) {
            return done;
        }
        let freed = self.slot().take().is_some();
        let done = others.await;
        if freed {
            let slots = self.context.slots(self.job.input.kind().lane());
            let slot = slots.acquire_owned().await.ok();
            *self.slot() = slot;
        }
        done
    }

    fn slot(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody held the job in its incarnation before: what it should do may have begun.
    pub(crate) fn is_resumed(&self) -> bool {
        self.job.lease.as_ref().is_some_and(|lease| lease.resumed)
    }

    /// Whether the environment is in the start of PID 1 in which the job may run: a kill for its sake hits no later one.
    pub(crate) async fn is_in_its_environment(&self) -> Result<bool, StoreError> {
        let found = self
            .context
            .store
            .environment(&self.environment.at())
            .await?;
        Ok(found.is_some_and(|found| {
            let same_start =
                found.incarnation.is_some() && found.incarnation == self.job.incarnation;
            // Failed already, and nobody was asked to start it since.
            let left_over =
                found.phase == Phase::Failed && found.generation == self.environment.generation;
            found.uid == self.job.uid && (same_start || left_over)
        }))
    }
}

/// What becomes of a lease.
pub(crate) enum End {
    /// The job has ended.
    Finish(Box<Completion>),
    /// Another worker may go on, or begin what never began.
    HandBack(Begun),
    /// This worker must not write any more.
    Dropped,
}

impl End {
    /// The job has ended, and there is nothing beside its outcome.
    pub(crate) fn outcome(outcome: Outcome) -> Self {
        Self::Finish(Box::new(Completion {
            outcome,
            chunks: Vec::new(),
            event: None,
            artifact: None,
        }))
    }
}

/// Works on a job until it has ended, was handed back, or must be left alone.
pub(crate) async fn execute(
    context: &Arc<Context>,
    active: Active,
    leased: Leased,
    slot: Option<OwnedSemaphorePermit>,
) {
    let at = leased.job.at();
    let task = Task {
        context: Arc::clone(context),
        job: leased.job,
        environment: leased.environment,
        at,
        slot: Mutex::new(slot),
    };
    let work = AssertUnwindSafe(dispatch(&task)).catch_unwind();
    let end = tokio::select! {
        end = work => end,
        () = must_stop(context) => Ok(End::Dropped),
    };
    match end {
        Ok(End::Finish(completion)) => {
            distrust::after(&task, &completion.outcome).await;
            finish::finish(&task, *completion).await;
        }
        Ok(End::HandBack(begun)) => finish::hand_back(&task, active, begun).await,
        Ok(End::Dropped) => {
            tracing::info!(job = %task.at.job, "left a job to whoever takes it over")
        }
        // The lease stays, so that it counts as an attempt; the takeover finds that nobody works on it.
        Err(_) => tracing::error!(job = %task.at.job, "a job's executor panicked"),
    }
}

async fn dispatch(task: &Task) -> End {
    if task.job.attempts > task.job.input.kind().attempts_most() {
        return jobs::exhausted::run(task).await;
    }
    match &task.job.input {
        JobInput::Create {} => jobs::create::run(task).await,
        JobInput::Start {} => jobs::start::run(task).await,
        JobInput::Stop {} => jobs::stop::run(task).await,
        JobInput::Delete {} => jobs::delete::run(task).await,
        JobInput::Exec(input) => jobs::exec::run(task, input).await,
        JobInput::Upload {
            path,
            mode,
            content,
        } => jobs::upload::run(task, path, *mode, content).await,
        JobInput::Download { path, wanted } => jobs::download::run(task, path, wanted).await,
        JobInput::List {
            path,
            depth,
            after,
            limit,
        } => jobs::list::run(task, path, *depth, after, *limit).await,
        JobInput::Remove { path, recursive } => jobs::remove::run(task, path, *recursive).await,
        JobInput::Move { from, to } => jobs::moving::run(task, from, to).await,
        JobInput::Mkdir { path, parents } => jobs::mkdir::run(task, path, *parents).await,
        JobInput::Pack { path } => jobs::pack::run(task, path).await,
        JobInput::Unpack { path, content } => jobs::unpack::run(task, path, content).await,
        JobInput::Publish(input) => jobs::publish::run(task, input).await,
    }
}

/// Returns when this worker may not act any more.
async fn must_stop(context: &Context) {
    let stale = async {
        while context.may_act() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = context.hard.cancelled() => {}
        () = stale => tracing::warn!("the heartbeat is too old to act: leaving all jobs"),
    }
}
