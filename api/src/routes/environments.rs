//! Environments: made, looked at, stopped, started, deleted.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use data_encoding::BASE32_NOPAD;
use serde::Deserialize;
use shared::environment::{Egress, EnvironmentPatch, EnvironmentSpec, Phase};
use shared::ids::EnvironmentId;
use shared::job::JobInput;
use shared::ports::EnvironmentFilter;
use shared::resources::{ByteSize, Resources};
use shared::secret::EnvVars;
use utoipa::ToSchema;

use crate::answer;
use crate::extract::{Call, EnvironmentPath, JsonBody, NoParams, OptionalBody, Params};
use crate::problem::{Problem, ProblemBody};
use crate::routes::requests::{Amount, Env, Nothing};
use crate::service::{App, Service};
use crate::validate::Faults;
use crate::views::{EnvironmentPage, EnvironmentView, JobView};

/// Memory and volume below which nothing can run.
const MIN_MEMORY: ByteSize = ByteSize(16 << 20);
const MIN_STORAGE: ByteSize = ByteSize(1 << 20);

/// What an environment shall be; everything has a default.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateEnvironment {
    /// The caller's name for it: 1 to 63 of `A-Z`, `a-z`, `0-9`, `.`, `_`, `-`. One is made where it is not given.
    id: Option<String>,
    /// `host`, or a reference that the runtime knows.
    image: Option<String>,
    /// Variables of every command in it.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    env: Option<Env>,
    /// The caller's own marks.
    labels: Option<BTreeMap<String, String>>,
    resources: Option<ResourcesRequest>,
    network: Option<NetworkRequest>,
    /// Seconds after its creation when it is deleted with its volume.
    ttl_seconds: Option<u64>,
    /// Seconds without a job after which it is stopped.
    idle_timeout_seconds: Option<u64>,
    /// Folder in which commands start, absolute; `/app`, the volume, where it is not given.
    workdir: Option<String>,
}

/// Limits of an environment.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResourcesRequest {
    /// Processors: `500m`, `0.5` or `2`.
    cpu: Option<Amount>,
    /// Bytes: `512Mi`, `10G` or a number.
    memory: Option<Amount>,
    /// Bytes of the volume: `512Mi`, `10G` or a number.
    storage: Option<Amount>,
}

/// Network of an environment.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkRequest {
    /// `none`, `internet` or `cluster`; what cannot be had is refused.
    #[schema(value_type = Option<String>)]
    egress: Option<Egress>,
}

/// Makes an environment.
///
/// One that lives with the same spec is answered with the job that made it; with another spec it is a conflict.
#[utoipa::path(
    post, path = "/v1/environments", tag = "environments",
    request_body = CreateEnvironment,
    params(
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds, 300 at most"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeats of the same request answer the first one's job"),
    ),
    responses(
        (status = 200, description = "The job has ended", body = JobView),
        (status = 202, description = "The job is accepted", body = JobView),
        (status = 400, description = "Not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It exists with another spec", body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, description = "It is being deleted", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Some fields cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    call: Call,
    _: NoParams,
    body: JsonBody<CreateEnvironment>,
) -> Result<Response, Problem> {
    let (id, spec) = app.checked_spec(body.value)?;
    let id = match id {
        Some(id) => id,
        None => app.new_environment_id()?,
    };
    let mut order = app.order(id, JobInput::Create {});
    order.labels.clone_from(&spec.labels);
    order.spec = Some(spec);
    order.idempotency = call.idempotency(&body.raw);
    let job = app.run(&call, order, call.prefer.wait_or(0)).await?;
    Ok(answer::job(call.prefer, &job))
}

/// Lists environments by id: all that are not deleted, or those of one phase or label.
#[utoipa::path(
    get, path = "/v1/environments", tag = "environments",
    params(
        ("phase" = Option<String>, Query, description = "Only those in this phase"),
        ("label" = Option<String>, Query, description = "Only those with this label, as `name=value`; not together with `phase`"),
        ("page_size" = Option<u32>, Query, description = "1 to 1000; 100 where it is not given"),
        ("page_token" = Option<String>, Query, description = "From the page before"),
    ),
    responses(
        (status = 200, description = "One page", body = EnvironmentPage),
        (status = 422, description = "A parameter cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    call: Call,
    params: Params,
) -> Result<Json<EnvironmentPage>, Problem> {
    params.only(&["phase", "label", "page_size", "page_token"])?;
    params.at_most_one(&["phase", "label"])?;
    let rule = "pending, creating, running, stopping, stopped, failed, deleting or deleted";
    let filter = EnvironmentFilter {
        phase: params.with("phase", rule, phase_named)?,
        label: params.label()?,
    };
    let page = params.page()?;
    let store = &app.deps.store;
    let page = store.environments(&call.tenant, &filter, page).await?;
    Ok(Json(EnvironmentPage {
        environments: page.items.iter().map(EnvironmentView::of).collect(),
        next_page_token: page.next.unwrap_or_default(),
    }))
}

/// Looks at an environment. One that was deleted is still there, in the phase `deleted`.
#[utoipa::path(
    get, path = "/v1/environments/{env}", tag = "environments",
    params(("env" = String, Path, description = "The environment")),
    responses(
        (status = 200, description = "The environment", body = EnvironmentView),
        (status = 404, description = "There is none", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    _: NoParams,
) -> Result<Json<EnvironmentView>, Problem> {
    let found = app
        .deps
        .store
        .environment(&call.environment(id.clone()))
        .await?;
    found
        .map(|environment| Json(EnvironmentView::of(&environment)))
        .ok_or_else(|| Problem::not_found(format!("there is no environment {id}")))
}

/// Changes of an environment. What is not named stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PatchEnvironment {
    /// Marks that are set, or, with `null`, go.
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    labels: Option<BTreeMap<String, Option<String>>>,
    /// Seconds after its creation when it is deleted with its volume; `null`: never.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    ttl_seconds: Option<Option<u64>>,
    /// Seconds without a job after which it is stopped; `null`: never.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    idle_timeout_seconds: Option<Option<u64>>,
}

/// A field that is there, be it `null`.
fn given<'de, D, T>(source: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(source).map(Some)
}

/// Changes an environment's labels, lifetime or idle time, at once.
#[utoipa::path(
    patch, path = "/v1/environments/{env}", tag = "environments",
    request_body = PatchEnvironment,
    params(("env" = String, Path, description = "The environment")),
    responses(
        (status = 200, description = "The environment as it is then", body = EnvironmentView),
        (status = 400, description = "Not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is none", body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, description = "It is being deleted, or was", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Some fields cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn patch(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    _: NoParams,
    body: JsonBody<PatchEnvironment>,
) -> Result<Json<EnvironmentView>, Problem> {
    let patch = checked_patch(body.value)?;
    let at = call.environment(id);
    let changed = app.deps.store.patch_environment(&at, patch).await?;
    Ok(Json(EnvironmentView::of(&changed)))
}

fn checked_patch(asked: PatchEnvironment) -> Result<EnvironmentPatch, Problem> {
    let mut faults = Faults::default();
    let labels = asked.labels.unwrap_or_default();
    let shown = labels
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().unwrap_or_default()));
    faults.marks("labels", &shown.collect());
    // One that has such a name from before can still be removed.
    let set = labels.iter().filter(|(_, value)| value.is_some());
    faults.label_names("labels", set.map(|(name, _)| name));
    faults.lifetime("ttl_seconds", asked.ttl_seconds.flatten());
    faults.lifetime("idle_timeout_seconds", asked.idle_timeout_seconds.flatten());
    faults.finish()?;
    Ok(EnvironmentPatch {
        labels,
        ttl_seconds: asked.ttl_seconds,
        idle_timeout_seconds: asked.idle_timeout_seconds,
    })
}

/// Deletes an environment with its volume; what runs in it is cancelled.
#[utoipa::path(
    delete, path = "/v1/environments/{env}", tag = "environments",
    params(
        ("env" = String, Path, description = "The environment"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds, 300 at most"),
    ),
    responses(
        (status = 200, description = "The job has ended", body = JobView),
        (status = 202, description = "The job is accepted", body = JobView),
        (status = 404, description = "There is none", body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, description = "It is being deleted, or was", body = ProblemBody, content_type = "application/problem+json"),
        (status = 400, description = "There is a body, and it is not JSON or did not come whole", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is larger than a request may be", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "There is a body, and it is said to be something else than JSON", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    _: NoParams,
    body: OptionalBody<Nothing>,
) -> Result<Response, Problem> {
    app.lifecycle(&call, id, JobInput::Delete {}, &body).await
}

/// Stops an environment: all its processes end, its volume stays.
#[utoipa::path(
    post, path = "/v1/environments/{env}/stop", tag = "environments",
    params(
        ("env" = String, Path, description = "The environment"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds, 300 at most"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeats of the same request answer the first one's job"),
    ),
    responses(
        (status = 200, description = "The job has ended", body = JobView),
        (status = 202, description = "The job is accepted", body = JobView),
        (status = 404, description = "There is none", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It does not run", body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, description = "It is being deleted, or was", body = ProblemBody, content_type = "application/problem+json"),
        (status = 400, description = "There is a body, and it is not JSON or did not come whole", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is larger than a request may be", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "There is a body, and it is said to be something else than JSON", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn stop(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    _: NoParams,
    body: OptionalBody<Nothing>,
) -> Result<Response, Problem> {
    app.lifecycle(&call, id, JobInput::Stop {}, &body).await
}

/// Starts a stopped or failed environment on its volume.
#[utoipa::path(
    post, path = "/v1/environments/{env}/start", tag = "environments",
    params(
        ("env" = String, Path, description = "The environment"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds, 300 at most"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeats of the same request answer the first one's job"),
    ),
    responses(
        (status = 200, description = "The job has ended", body = JobView),
        (status = 202, description = "The job is accepted", body = JobView),
        (status = 404, description = "There is none", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It is neither stopped nor failed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, description = "It is being deleted, or was", body = ProblemBody, content_type = "application/problem+json"),
        (status = 400, description = "There is a body, and it is not JSON or did not come whole", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is larger than a request may be", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "There is a body, and it is said to be something else than JSON", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn start(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    _: NoParams,
    body: OptionalBody<Nothing>,
) -> Result<Response, Problem> {
    app.lifecycle(&call, id, JobInput::Start {}, &body).await
}

impl Service {
    async fn lifecycle(
        &self,
        call: &Call,
        id: EnvironmentId,
        input: JobInput,
        body: &OptionalBody<Nothing>,
    ) -> Result<Response, Problem> {
        let OptionalBody {
            value: Nothing {},
            raw,
        } = body;
        let mut order = self.order(id, input);
        order.idempotency = call.idempotency(raw);
        let job = self.run(call, order, call.prefer.wait_or(0)).await?;
        Ok(answer::job(call.prefer, &job))
    }

    /// `env-` and ten random base32 characters.
    fn new_environment_id(&self) -> Result<EnvironmentId, Problem> {
        let random = BASE32_NOPAD
            .encode(&self.deps.clock.random())
            .to_ascii_lowercase();
        EnvironmentId::new(format!("env-{}", &random[..10])).map_err(|_| Problem::internal())
    }

    /// The spec of an environment of that image and no other wish.
    pub(crate) fn default_spec(&self, image: Option<String>) -> EnvironmentSpec {
        let (limits, runtime) = (&self.deps.settings.limits, &self.deps.settings.runtime);
        EnvironmentSpec {
            image: image.unwrap_or_else(|| runtime.default_image.clone()),
            env: EnvVars::default(),
            labels: BTreeMap::new(),
            resources: Resources {
                cpu: limits.cpu,
                memory: limits.memory,
                storage: limits.storage,
                pids: limits.pids,
            },
            egress: self.deps.offer.default_egress,
            workdir: None,
            ttl_seconds: None,
            idle_timeout_seconds: None,
        }
    }

    fn checked_spec(
        &self,
        asked: CreateEnvironment,
    ) -> Result<(Option<EnvironmentId>, EnvironmentSpec), Problem> {
        let mut faults = Faults::default();
        let mut spec = self.default_spec(asked.image);
        faults.image("image", &spec.image);
        let id = asked.id.and_then(|id| faults.environment_id("id", &id));
        if let Some(env) = asked.env {
            spec.env = env.into();
            faults.env(&spec.env);
        }
        if let Some(labels) = asked.labels {
            faults.labels("labels", &labels);
            spec.labels = labels;
        }
        if let Some(resources) = asked.resources {
            self.checked_resources(&resources, &mut spec.resources, &mut faults);
        }
        if let Some(egress) = asked.network.and_then(|network| network.egress) {
            faults.egress(egress, &self.deps.offer);
            spec.egress = egress;
        }
        faults.lifetime("ttl_seconds", asked.ttl_seconds);
        faults.lifetime("idle_timeout_seconds", asked.idle_timeout_seconds);
        spec.ttl_seconds = asked.ttl_seconds;
        spec.idle_timeout_seconds = asked.idle_timeout_seconds;
        if let Some(workdir) = asked.workdir {
            faults.workdir(&workdir);
            spec.workdir = Some(workdir);
        }
        faults.finish()?;
        Ok((id, spec))
    }

    fn checked_resources(
        &self,
        asked: &ResourcesRequest,
        resources: &mut Resources,
        faults: &mut Faults,
    ) {
        let limits = &self.deps.settings.limits;
        if let Some(cpu) = &asked.cpu
            && let Some(cpu) = faults.take("resources.cpu", cpu.cpu())
        {
            let fits = cpu <= limits.cpu_max;
            let message = format!("must be at most {}", limits.cpu_max);
            faults.unless(fits, "resources.cpu", &message);
            resources.cpu = cpu;
        }
        let sizes = [
            (
                "resources.memory",
                &asked.memory,
                MIN_MEMORY,
                limits.memory_max,
            ),
            (
                "resources.storage",
                &asked.storage,
                MIN_STORAGE,
                limits.storage_max,
            ),
        ];
        for (field, asked, least, most) in sizes {
            let Some(size) = asked
                .as_ref()
                .and_then(|size| faults.take(field, size.bytes()))
            else {
                continue;
            };
            let message = format!("must be from {least} to {most}");
            faults.unless((least..=most).contains(&size), field, &message);
            if field == "resources.memory" {
                resources.memory = size;
            } else {
                resources.storage = size;
            }
        }
    }
}

fn phase_named(text: &str) -> Option<Phase> {
    [
        Phase::Pending,
        Phase::Creating,
        Phase::Running,
        Phase::Stopping,
        Phase::Stopped,
        Phase::Failed,
        Phase::Deleting,
        Phase::Deleted,
    ]
    .into_iter()
    .find(|phase| phase.as_str() == text)
}
