//! `/create_environment`: whatever is there of that name, afterwards it runs.
//!
//! ```text
//!   running ──▶ reused                      stopped ──▶ start ──┐
//!   none, deleted ──▶ create ──┐            failed ──▶ delete ──┤ wait, look again
//!                              └──▶ wait    on its way ─────────┘
//! ```

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use shared::environment::{Environment, Phase};
use shared::ids::{EnvironmentId, EnvironmentRef, JobId};
use shared::job::{Job, JobInput, JobState};
use shared::ports::{Idempotency, StoreError, SubmitError};
use utoipa::ToSchema;

use crate::answer;
use crate::extract::{Call, JsonBody};
use crate::legacy::{Detail, environment_id, not_done};
use crate::problem::Problem;
use crate::service::{App, Service};
use crate::submit::Order;
use crate::validate::Faults;
use crate::wait::Patience;

/// Looks at the environment at most; each finds it changed by somebody else since the one before.
const MAX_ROUNDS: usize = 32;

/// Which environment, and of which image.
#[derive(Deserialize, ToSchema)]
pub(crate) struct CreateEnvironmentRequest {
    #[schema(required, nullable = false)]
    environment_id: Option<String>,
    /// The service's own default where it is not given.
    base_image: Option<String>,
}

/// It runs.
#[derive(Serialize, ToSchema)]
pub(crate) struct Created {
    #[schema(value_type = String)]
    environment_id: EnvironmentId,
}

/// Makes an environment, or finds it running.
#[utoipa::path(
    post, path = "/create_environment", tag = "original",
    request_body = CreateEnvironmentRequest,
    responses(
        (status = 200, description = "It runs", body = Created),
        (status = 422, description = "A field cannot be taken, or the image cannot be had", body = Detail),
        (status = 503, description = "It cannot be made", body = Detail),
        (status = 504, description = "It takes longer than this endpoint waits; the job goes on", body = Detail),
    )
)]
pub(crate) async fn create_environment(
    State(app): State<App>,
    call: Call,
    body: JsonBody<CreateEnvironmentRequest>,
) -> Result<Response, Problem> {
    let asked = body.value;
    let id = environment_id(asked.environment_id)?;
    let spec = app.default_spec(asked.base_image);
    let mut faults = Faults::default();
    faults.image("base_image", &spec.image);
    faults.finish()?;
    let mut create = app.order(id.clone(), JobInput::Create {});
    create.spec = Some(spec);
    let bringing = Bringing {
        app: &app,
        call: &call,
        create,
        idempotency: call.idempotency(&body.raw),
        patience: Patience::of(std::time::Duration::from_secs(
            app.deps.settings.server.create_wait_seconds,
        )),
    };
    let job = bringing.run().await?;
    let created = Json(Created { environment_id: id });
    Ok(answer::of_job(job, created.into_response()))
}

struct Bringing<'a> {
    app: &'a App,
    call: &'a Call,
    /// What is submitted where nothing lives; a new job id each time.
    create: Order,
    idempotency: Option<Idempotency>,
    patience: Patience,
}

/// What one look at the environment came to.
enum Step {
    /// It runs, by this job.
    Runs(JobId),
    /// This job makes it run when it ends well.
    Last(Box<Job>),
    /// Look again when this job has ended.
    Then(Box<Job>),
    /// It changed meanwhile: look again.
    Again,
}

impl Bringing<'_> {
    /// The job by which the environment runs.
    async fn run(&self) -> Result<JobId, Problem> {
        for _ in 0..MAX_ROUNDS {
            let (job, last) = match self.step().await? {
                Step::Runs(job) => return Ok(job),
                Step::Again => continue,
                Step::Last(job) => (job, true),
                Step::Then(job) => (job, false),
            };
            let job = self.app.follow(*job, self.patience.left()).await?;
            if last && job.state == JobState::Succeeded {
                return Ok(job.id);
            }
            if last || !job.state.is_terminal() {
                return Err(not_done(&job));
            }
        }
        Err(Problem::unavailable(
            "others change the environment all the time: try again",
        ))
    }

    async fn step(&self) -> Result<Step, Problem> {
        let at = self.call.environment(self.create.environment.clone());
        let Some(environment) = self.app.deps.store.environment(&at).await? else {
            return self.create().await;
        };
        match environment.phase {
            Phase::Running => Ok(Step::Runs(environment.created_by)),
            Phase::Deleted => self.create().await,
            Phase::Stopped => {
                let started = self.submit(JobInput::Start {}).await?;
                Ok(started.map_or(Step::Again, Step::Last))
            }
            Phase::Failed => {
                let deleted = self.submit(JobInput::Delete {}).await?;
                Ok(deleted.map_or(Step::Again, Step::Then))
            }
            Phase::Pending | Phase::Creating => {
                let leading = self.app.leading(&at, &environment).await?;
                Ok(leading.map_or(Step::Again, Step::Last))
            }
            Phase::Stopping | Phase::Deleting => {
                let leading = self.app.leading(&at, &environment).await?;
                Ok(leading.map_or(Step::Again, Step::Then))
            }
        }
    }

    async fn create(&self) -> Result<Step, Problem> {
        let order = Order {
            id: self.app.new_job(),
            idempotency: self.idempotency.clone(),
            ..self.create.clone()
        };
        let created = unless_refused(self.app.submit(self.call, order).await)?;
        Ok(created.map_or(Step::Again, Step::Last))
    }

    async fn submit(&self, input: JobInput) -> Result<Option<Box<Job>>, Problem> {
        let order = self.app.order(self.create.environment.clone(), input);
        unless_refused(self.app.submit(self.call, order).await)
    }
}

/// The job; nothing where the environment changed between the look and the commit.
pub(super) fn unless_refused(
    submitted: Result<Job, SubmitError>,
) -> Result<Option<Box<Job>>, Problem> {
    match submitted {
        Ok(job) => Ok(Some(Box::new(job))),
        Err(SubmitError::Refused(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Service {
    /// The lifecycle job that leads an environment to where it is going, if it has not ended meanwhile.
    pub(super) async fn leading(
        &self,
        at: &EnvironmentRef,
        environment: &Environment,
    ) -> Result<Option<Box<Job>>, StoreError> {
        let open = self.deps.store.open_jobs(at).await?;
        Ok(open
            .into_iter()
            .find(|job| {
                job.input.kind().lifecycle().is_some() && job.generation == environment.generation
            })
            .map(Box::new))
    }
}
