//! From a checked request to an accepted job: one commit, then a hint to the queue.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::admission::JobRequest;
use shared::clock::new_job_id;
use shared::environment::EnvironmentSpec;
use shared::ids::{EnvironmentId, JobId, JobRef};
use shared::job::{Job, JobInput};
use shared::ports::{Idempotency, StoreError, Submission, SubmitError};

use crate::extract::Call;
use crate::problem::Problem;
use crate::service::Service;

/// A job that a route wants done.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// The job's id, made beforehand, so that staged bytes can be named after it.
    pub(crate) id: JobId,
    /// On which environment.
    pub(crate) environment: EnvironmentId,
    /// What to do.
    pub(crate) input: JobInput,
    /// The caller's own marks.
    pub(crate) labels: BTreeMap<String, String>,
    /// Of a create: what the environment shall be.
    pub(crate) spec: Option<EnvironmentSpec>,
    /// How a repetition is known.
    pub(crate) idempotency: Option<Idempotency>,
}

impl Service {
    /// An order without labels, spec and idempotency key, under a new job id.
    pub(crate) fn order(&self, environment: EnvironmentId, input: JobInput) -> Order {
        self.order_as(self.new_job(), environment, input)
    }

    /// A new job id.
    pub(crate) fn new_job(&self) -> JobId {
        new_job_id(self.deps.clock.as_ref())
    }

    /// An order under a job id that was made beforehand, so that bytes could be staged under it.
    pub(crate) fn order_as(&self, id: JobId, environment: EnvironmentId, input: JobInput) -> Order {
        Order {
            id,
            environment,
            input,
            labels: BTreeMap::new(),
            spec: None,
            idempotency: None,
        }
    }

    /// Commits the job and tells the queue of it. The job is another than the order's where the order is a repetition.
    /// What was staged for a job that is certain not to be goes.
    pub(crate) async fn submit(&self, call: &Call, order: Order) -> Result<Job, SubmitError> {
        let staged = order.input.is_staged();
        let at = call.job(order.id);
        let accepted = self.commit(call, order).await;
        let unused = match &accepted {
            Ok(job) => job.id != at.job,
            Err(SubmitError::Store(StoreError::Unknown(_))) => false,
            Err(_) => true,
        };
        if staged && unused {
            self.unstage(&at).await;
        }
        accepted
    }

    async fn commit(&self, call: &Call, order: Order) -> Result<Job, SubmitError> {
        let submission = Submission {
            request: JobRequest {
                id: order.id,
                at: call.environment(order.environment),
                input: order.input,
                labels: order.labels,
                spec: order.spec,
            },
            idempotency: order.idempotency,
            condition: None,
        };
        let now = self.deps.clock.now();
        let submitted = self.deps.store.submit(submission, now).await?;
        let job = submitted.job;
        if submitted.publish {
            let lane = job.input.kind().lane();
            // The job is durable: the sweeper tells of it again.
            if let Err(error) = self.deps.queue.publish(&job.at(), lane).await {
                tracing::warn!(%error, job = %job.id, "the queue was not told of a job");
            }
        }
        Ok(job)
    }

    /// Removes what was staged for a job. What cannot be removed now goes by its age.
    async fn unstage(&self, at: &JobRef) {
        let removed = match shared::staging::part(at, 0) {
            Ok(name) => self.deps.blobs.delete(&name).await,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, job = %at.job, "staged content could not be removed");
        }
    }

    /// Submits and waits until the job has ended, the time is over, or the service stops; the job as it is then.
    pub(crate) async fn run(
        &self,
        call: &Call,
        order: Order,
        wait: Duration,
    ) -> Result<Job, Problem> {
        let id = order.id;
        if wait.is_zero() {
            return Ok(self.submit(call, order).await?);
        }
        // The watch is made before the commit, so that no change of the job is missed.
        let watch = self.deps.store.watch(&call.job(id));
        let job = self.submit(call, order).await?;
        if job.id == id {
            Ok(self.until_ended(job, watch, wait).await?)
        } else {
            Ok(self.follow(job, wait).await?)
        }
    }
}
