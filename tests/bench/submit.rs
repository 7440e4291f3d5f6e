//! Durable submits by 64 clients at a time, against the store alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use shared::admission::JobRequest;
use shared::clock::{Clock, SystemClock, new_job_id};
use shared::environment::{Egress, EnvironmentSpec};
use shared::ids::{EnvironmentId, EnvironmentRef, TenantId};
use shared::job::{Command, ExecInput, JobInput};
use shared::ports::{Store, Submission};
use shared::resources::{ByteSize, Cpu, Resources};
use shared::sqlite::SqliteStore;

use crate::Failure;
use crate::ground::Ground;
use crate::report::{Report, Samples, Target};
use crate::service::Service;

const CLIENTS: usize = 64;
const JOBS: usize = 6_000;
const TURNS: usize = 3;

pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut ours_each, mut theirs_each) = (Samples::default(), Samples::default());
    let jobs = ground.amount(JOBS);
    for _ in 0..TURNS {
        theirs.push(store_alone(jobs, &mut theirs_each).await?);
        ours.push(over_http(&ground.program, jobs, &mut ours_each).await?);
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    let detail = format!(
        "{ours:.0} jobs/s over HTTP, {theirs:.0} jobs/s at the store; a submit: p50 {:.2} ms, p99 {:.2} ms",
        ours_each.quantile(0.5).as_secs_f64() * 1e3,
        ours_each.quantile(0.99).as_secs_f64() * 1e3
    );
    report.figure(
        "durable submit (`202`), 64 clients, `worker.concurrency` 0, against the store alone",
        ours / theirs,
        " ×",
        Target::AtLeast(0.5),
        &detail,
    );
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs so many of something with `CLIENTS` at a time; jobs a second.
async fn flood<F, Fut>(jobs: usize, each: &mut Samples, job: F) -> Result<f64, Failure>
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send,
{
    let left = Arc::new(AtomicUsize::new(jobs));
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (left, job) = (Arc::clone(&left), job.clone());
            tokio::spawn(async move {
                let mut took: Vec<Duration> = Vec::new();
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                        left.checked_sub(1)
                    })
                    .is_ok()
                {
                    let began = Instant::now();
                    job().await?;
                    took.push(began.elapsed());
                }
                Ok::<_, Failure>(took)
            })
        })
        .collect();
    for client in clients {
        client
            .await??
            .into_iter()
            .for_each(|sample| each.push(sample));
    }
    Ok(jobs as f64 / began.elapsed().as_secs_f64())
}

async fn over_http(program: &Path, jobs: usize, each: &mut Samples) -> Result<f64, Failure> {
    let service = Arc::new(Service::start(program, &[("EM_WORKER__CONCURRENCY", "0")]).await?);
    service
        .post("/v1/environments", &json!({"id": "bench"}), false)
        .await?;
    let shared = Arc::clone(&service);
    let rate = flood(jobs, each, move || {
        let service = Arc::clone(&shared);
        async move {
            service
                .post(
                    "/v1/environments/bench/exec",
                    &json!({"command": ["true"]}),
                    false,
                )
                .await
                .map(drop)
        }
    })
    .await?;
    Arc::into_inner(service)
        .ok_or("the service is still in use")?
        .stop()
        .await?;
    Ok(rate)
}

async fn store_alone(jobs: usize, each: &mut Samples) -> Result<f64, Failure> {
    let folder = tempfile::tempdir()?;
    let store = Arc::new(SqliteStore::open(
        &folder.path().join("store.db"),
        &SystemClock,
    )?);
    store
        .submit(
            submission(JobInput::Create {}, Some(spec()))?,
            SystemClock.now(),
        )
        .await?;
    let shared = Arc::clone(&store);
    flood(jobs, each, move || {
        let store = Arc::clone(&shared);
        async move {
            let input = ExecInput {
                command: Command::Argv(vec!["true".to_owned()]),
                env: Default::default(),
                workdir: None,
                user: None,
                stdin: None,
                stdin_open: false,
                timeout_seconds: 3600,
                output_limit: 1 << 30,
            };
            store
                .submit(submission(JobInput::Exec(input), None)?, SystemClock.now())
                .await?;
            Ok(())
        }
    })
    .await
}

fn submission(input: JobInput, spec: Option<EnvironmentSpec>) -> Result<Submission, Failure> {
    let at = EnvironmentRef {
        tenant: TenantId::default_tenant(),
        environment: EnvironmentId::new("bench")?,
    };
    let request = JobRequest {
        id: new_job_id(&SystemClock),
        at,
        input,
        labels: Default::default(),
        spec,
    };
    Ok(Submission {
        request,
        idempotency: None,
        condition: None,
    })
}

fn spec() -> EnvironmentSpec {
    EnvironmentSpec {
        image: "host".to_owned(),
        env: Default::default(),
        labels: Default::default(),
        resources: Resources {
            cpu: Cpu { millis: 1000 },
            memory: ByteSize(1 << 30),
            storage: ByteSize(1 << 30),
            pids: 64,
        },
        egress: Egress::None,
        workdir: None,
        ttl_seconds: None,
        idle_timeout_seconds: None,
    }
}
