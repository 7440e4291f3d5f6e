//! What create and start share: a container, then the start of its PID 1, then an answer from it.

use std::time::Duration;

use shared::environment::{EnvironmentEvent, Reason};
use shared::job::{CancelRequest, JobError, JobResult, JobState, Outcome};
use shared::ports::{Completion, Lane, Placement, RuntimeError, Sight, Started};
use tokio::sync::watch;

use crate::execute::{End, Task};
use crate::jobs::vacate;
use crate::links::Link;
use crate::reach::Backoff;

/// How long a runtime that is down is tried.
const RUNTIME_TIME: Duration = Duration::from_secs(120);

/// Between two words on how far a fetch is: each is a write to the store.
const TELLING_TIME: Duration = Duration::from_secs(1);

/// How long PID 1 may take to answer once its container was started.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// How long what did not come up may take to end.
const CLEAR_TIME: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
pub(crate) enum How {
    Create,
    Start,
}

pub(crate) async fn run(task: &Task, how: How) -> End {
    if let Some(request) = task.requested_cancel().await {
        return cancelled(request);
    }
    let end = match start(task, how).await {
        Err(request) => cancelled(request),
        Ok(Err(error)) => failed(reason_of(&error)),
        Ok(Ok(started)) => tokio::select! {
            answer = started_and_answered(task, &started) => match answer {
                Ok(link) => {
                    let limits = task.context.runtime.not_enforced(&started).await;
                    return running(started, limits, link);
                }
                Err(reason) => failed(reason),
            },
            request = task.cancelled() => cancelled(request),
        },
    };
    clear(task).await;
    end
}

/// Nothing of an environment that did not come up goes on. What cannot be killed now ends with the next start, or with
/// the environment.
async fn clear(task: &Task) {
    let context = &task.context;
    let kill = context.runtime.kill(&task.job.uid, None);
    let killed = tokio::time::timeout(CLEAR_TIME, kill).await;
    let why = match killed {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("it takes too long".to_owned()),
    };
    if let Some(why) = why {
        tracing::warn!(environment = %task.job.environment, why, "could not kill what did not come up");
    }
    context.links.forget_all(&task.job.uid);
}

/// Starts the container, or answers the request that cancels it meanwhile.
async fn start(task: &Task, how: How) -> Result<Result<Started, RuntimeError>, CancelRequest> {
    let placement = placement(task);
    let runtime = &task.context.runtime;
    // Whatever answered before this start is not what will answer after it.
    task.context.links.forget_all(&task.job.uid);
    let until = task.context.clock.monotonic() + RUNTIME_TIME;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let fetched = tokio::select! {
            fetched = task.waiting(fetch(task, &placement)) => fetched,
            request = task.cancelled() => return Err(request),
        };
        // Not interrupted by a cancel: what follows it, a delete, must not meet a container that is still being made.
        let tried = match (fetched, how) {
            (Err(error), _) => Err(error),
            (Ok(()), How::Create) => runtime.create(&placement).await,
            (Ok(()), How::Start) => start_afresh(task, &placement).await,
        };
        match tried {
            Err(RuntimeError::Unavailable(why)) if task.context.clock.monotonic() < until => {
                tracing::warn!(job = %task.at.job, why, "the runtime is not available yet");
            }
            done => return Ok(done),
        }
        task.waiting(backoff.wait()).await;
    }
}

fn placement(task: &Task) -> Placement {
    Placement {
        tenant: task.job.tenant.clone(),
        environment: task.job.environment.clone(),
        uid: task.job.uid.clone(),
        generation: task.job.generation,
        spec: task.environment.spec.clone(),
    }
}

async fn started_and_answered(task: &Task, made: &Started) -> Result<Link, Reason> {
    let until = task.context.clock.monotonic() + RUNTIME_TIME;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match task.waiting(started(task, made)).await {
            Ok(()) => return answer(task).await,
            Err(RuntimeError::Unavailable(why)) if task.context.clock.monotonic() < until => {
                tracing::warn!(job = %task.at.job, why, "a start cannot be followed now");
            }
            Err(error) => return Err(reason_of(&error)),
        }
        task.waiting(backoff.wait()).await;
    }
}

/// Waits for the start of PID 1; the environment's status tells what holds it up.
async fn started(task: &Task, made: &Started) -> Result<(), RuntimeError> {
    let (heard, mut hearing) = watch::channel(None);
    let placement = placement(task);
    let starting = task.context.runtime.started(&placement, made, &heard);
    tokio::pin!(starting);
    loop {
        tokio::select! {
            done = &mut starting => return done,
            _ = hearing.changed() => {
                let said = hearing.borrow_and_update().clone();
                if let Some(reason) = said {
                    vacate::note(task, reason).await;
                }
            }
        }
    }
}

/// Gets the image; the environment's status tells how far it is.
async fn fetch(task: &Task, placement: &Placement) -> Result<(), RuntimeError> {
    let (heard, mut hearing) = watch::channel(None);
    let fetching = task.context.runtime.fetch(placement, &heard);
    let telling = async {
        while hearing.changed().await.is_ok() {
            let said = hearing.borrow_and_update().clone();
            if let Some(reason) = said {
                vacate::note(task, reason).await;
            }
            tokio::time::sleep(TELLING_TIME).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        fetched = fetching => fetched,
        () = telling => Ok(()),
    }
}

/// A failed environment may still hold a container whose PID 1 hangs: a start is always a new one.
async fn start_afresh(task: &Task, placement: &Placement) -> Result<Started, RuntimeError> {
    task.context.runtime.kill(&placement.uid, None).await?;
    task.context.runtime.start(placement).await
}

async fn answer(task: &Task) -> Result<Link, Reason> {
    let until = task.context.clock.monotonic() + ANSWER_TIME;
    let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(500));
    loop {
        let error = match task.context.links.any(&task.job.uid, Lane::Control).await {
            Ok(link) => return Ok(link),
            Err(error) => error,
        };
        match task.context.runtime.inspect(&task.job.uid).await {
            Ok(Sight::Stopped { reason }) => {
                return Err(reason
                    .unwrap_or_else(|| Reason::new("exited", "PID 1 ended before it answered")));
            }
            Ok(Sight::Absent) => {
                return Err(Reason::new(
                    "absent",
                    "the container went before PID 1 answered",
                ));
            }
            Ok(Sight::Alive | Sight::Starting { .. }) | Err(_) => {}
        }
        if task.context.clock.monotonic() >= until {
            return Err(Reason::new(
                "no_answer",
                format!(
                    "PID 1 did not answer within {} s: {error}",
                    ANSWER_TIME.as_secs()
                ),
            ));
        }
        task.waiting(backoff.wait()).await;
    }
}

fn running(started: Started, limits_not_enforced: Vec<String>, link: Link) -> End {
    End::Finish(Box::new(Completion {
        outcome: Outcome::success(JobResult::Lifecycle {}),
        chunks: Vec::new(),
        event: Some(EnvironmentEvent::Running {
            incarnation: link.incarnation,
            container: started.container,
            restarts: started.restarts,
            place: started.place,
            limits_not_enforced,
        }),
        artifact: None,
    }))
}

fn failed(reason: Reason) -> End {
    End::Finish(Box::new(Completion {
        outcome: Outcome::failure(reason.code.clone(), reason.message.clone()),
        chunks: Vec::new(),
        event: Some(EnvironmentEvent::Failed(reason)),
        artifact: None,
    }))
}

fn cancelled(request: CancelRequest) -> End {
    let reason = Reason::new(request.code.clone(), request.message.clone());
    End::Finish(Box::new(Completion {
        outcome: Outcome::ended(
            JobState::Cancelled,
            JobError::new(request.code, request.message),
        ),
        chunks: Vec::new(),
        event: Some(EnvironmentEvent::Failed(reason)),
        artifact: None,
    }))
}

/// What a runtime's error is called in jobs and environments.
fn reason_of(error: &RuntimeError) -> Reason {
    let code = match error {
        RuntimeError::ImageNotFound { .. } => "image_not_found",
        RuntimeError::VolumeMissing => "volume_missing",
        RuntimeError::NotRunning => "not_running",
        RuntimeError::Unsupported(_) => "unsupported",
        RuntimeError::Unavailable(_) => "runtime_unavailable",
        RuntimeError::Failed(reason) => return reason.clone(),
    };
    Reason::new(code, error.to_string())
}
