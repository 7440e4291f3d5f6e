//! Gives up a job that several workers began and none could end.
//!
//! ```text
//!   seal ──▶ never started, or ended ──────────────────────────────────┐
//!     │                                                                ▼
//!     ├────▶ runs ──▶ killed, confirmed ───────────────────▶ attempts_exhausted
//!     │                   │ not in time                                ▲
//!     └────▶ no contact ──┴──▶ a command: its container is killed ─────┘
//! ```
//!
//! A command's job ends only once it is proven that nothing of it runs. Until then the lease is left to be taken again.

use std::time::Duration;

use runner::proto::seal_reply::Fate;
use runner::proto::{JobPhase, SealRequest, SignalRequest};
use shared::environment::{EnvironmentEvent, Reason};
use shared::ids::Incarnation;
use shared::job::{JobInput, Outcome};
use shared::output::{OutputCounts, StreamCounts};
use shared::ports::{Completion, Lane};

use super::last_resort::{self, Kill};
use crate::execute::{End, Task};
use crate::links::Link;
use crate::reach::{Unreached, reach};

/// How long the environment gets to confirm that nothing of the job is left.
const ENDING_TIME: Duration = Duration::from_secs(30);

/// Between TERM and KILL.
const GRACE: Duration = Duration::from_secs(1);

/// Pause before a lease is left whose job is not proven to have ended.
const PAUSE: Duration = Duration::from_secs(5);

pub(crate) async fn run(task: &Task) -> End {
    let most = task.job.input.kind().attempts_most();
    let message = format!("{most} workers began the job and none could end it");
    let mut outcome = Outcome::failure("attempts_exhausted", message.clone());
    if let Some(incarnation) = &task.job.incarnation {
        if let Err(why) = nothing_runs(task, incarnation).await {
            tracing::warn!(job = %task.at.job, why, "a job that is given up is not proven to have ended yet");
            tokio::time::sleep(PAUSE).await;
            return End::Dropped;
        }
        if task.environment.is_being_killed() {
            last_resort::called_off(task).await;
        }
        let Ok(end) = task.context.store.output_end(&task.at).await else {
            return End::Dropped;
        };
        let counts = |total| StreamCounts { total, dropped: 0 };
        outcome.output = OutputCounts {
            stdout: counts(end.stdout),
            stderr: counts(end.stderr),
            incomplete: true,
        };
    }
    // Of a lifecycle job: the environment must not stay on its way for ever.
    let event = task
        .job
        .input
        .kind()
        .lifecycle()
        .map(|_| EnvironmentEvent::Failed(Reason::new("attempts_exhausted", message)));
    End::Finish(Box::new(Completion {
        outcome,
        chunks: Vec::new(),
        event,
        artifact: None,
    }))
}

/// Returns once nothing of the job runs, or says why that is not proven.
async fn nothing_runs(task: &Task, incarnation: &Incarnation) -> Result<(), String> {
    let until = task.context.clock.monotonic() + ENDING_TIME;
    let asked = match reach(task, incarnation, Lane::Control, until).await {
        Err(Unreached::Gone(_) | Unreached::Replaced(_)) => return Ok(()),
        Err(Unreached::TooLong(why)) => Err(why),
        Ok(link) => end(task, link).await,
    };
    match asked {
        // What another kind began is bounded: an operation on files ends by itself.
        Err(why) if !matches!(task.job.input, JobInput::Exec(_)) => {
            tracing::warn!(job = %task.at.job, why, "could not end a job that is given up");
            Ok(())
        }
        Err(why) => {
            tracing::warn!(job = %task.at.job, why, "killing the environment of a job that is given up");
            match last_resort::kill(task).await {
                Kill::Confirmed => last_resort::environment_failed(task, incarnation).await,
                Kill::NotItsOwn => Ok(()),
                Kill::NotYet(why) => Err(why),
            }
        }
        Ok(()) => Ok(()),
    }
}

/// Seals the job and kills what runs of it.
async fn end(task: &Task, link: Link) -> Result<(), String> {
    let mut client = link.client;
    let (job_id, fence) = (task.job.id.to_string(), task.above_fence().0);
    let mut seal = tonic::Request::new(SealRequest {
        job_id: job_id.clone(),
        fence,
        incarnation: link.incarnation.to_string(),
    });
    seal.set_timeout(ENDING_TIME);
    let sealed = client.seal(seal).await;
    let sealed = sealed.map_err(|status| status.message().to_owned())?;
    let Some(Fate::Record(record)) = sealed.into_inner().fate else {
        return Ok(());
    };
    if record.phase() == JobPhase::Ended {
        return Ok(());
    }
    let mut signal = tonic::Request::new(SignalRequest {
        job_id,
        fence,
        signal: 0,
        kill: true,
        grace_ms: u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX),
    });
    signal.set_timeout(ENDING_TIME);
    let record = client.signal(signal).await;
    let record = record.map_err(|status| status.message().to_owned())?;
    if record.into_inner().phase() == JobPhase::Ended {
        Ok(())
    } else {
        Err("the environment does not confirm that the command has ended".to_owned())
    }
}
