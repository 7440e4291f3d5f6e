//! What a case starts from: a runtime, environments on it, and a way to run commands in them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use runner::proto;
use runner::proto::attach_event::Event;
use runner::proto::runner_client::RunnerClient;
use runner::proto::start_request::Command;
use shared::environment::EnvironmentSpec;
use shared::ids::{EnvironmentId, EnvironmentUid, Generation, Incarnation, JobId, TenantId};
use shared::ports::{Heard, Lane, Placement, Runtime, RuntimeError, Started};
use shared::resources::{ByteSize, Cpu, Resources};
use shared::secret::EnvVars;
use tonic::transport::{Channel, Endpoint};

/// How long anything here may take before the case fails. Nothing is expected to need it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Where the cases of one suite run.
pub struct Bed {
    /// The adapter under test.
    pub runtime: Arc<dyn Runtime>,
    /// The same adapter for another instance on the same machine or cluster.
    pub foreign: Arc<dyn Runtime>,
    /// An image that has a shell and the usual small tools.
    pub image: String,
    /// What this runtime does beyond what every one does.
    pub does: Does,
}

/// What not every runtime does. Each is told to callers where it matters, by the offer or in the environment's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Does {
    /// The runner's records outlive a stop, not only a restart of its container.
    pub keep_records: bool,
    /// Memory that ran out is told of the very job whose process was killed for it.
    pub count_ooms_by_job: bool,
    /// Commands speak to the machine's kernel, through a filter of system calls.
    pub filter_calls: bool,
    /// The environment outlives a command that took all its memory.
    pub outlive_ooms: bool,
}

/// One case's environments.
pub struct Given {
    /// Where it runs.
    pub bed: Bed,
}

/// One environment of a case.
pub struct Lodging {
    /// Where it is.
    pub runtime: Arc<dyn Runtime>,
    /// What was asked for.
    pub placement: Placement,
}

/// How a command ended, and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    /// The runner's last word on it.
    pub record: proto::JobRecord,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A connection to one environment's runner.
pub struct Session {
    /// The runner's client.
    pub client: RunnerClient<Channel>,
    /// The start of PID 1 that answers.
    pub incarnation: Incarnation,
}

impl Given {
    /// A case on a bed.
    pub fn new(bed: Bed) -> Self {
        Self { bed }
    }

    /// A life that does not exist yet, with limits that no ordinary command reaches.
    pub fn life(&self) -> Lodging {
        self.life_with(Resources {
            cpu: Cpu { millis: 2000 },
            memory: ByteSize(512 << 20),
            storage: ByteSize(1 << 30),
            pids: 256,
        })
    }

    /// A life that does not exist yet, with these limits.
    pub fn life_with(&self, resources: Resources) -> Lodging {
        let job = JobId::from_uuid(uuid::Builder::from_random_bytes(rand::random()).into_uuid());
        let placement = Placement {
            tenant: TenantId::default_tenant(),
            environment: EnvironmentId::new(format!("A.b_c-{}", rand::random::<u32>())).unwrap(),
            uid: EnvironmentUid::of_create(&job),
            generation: Generation(1),
            spec: EnvironmentSpec {
                image: self.bed.image.clone(),
                env: EnvVars::default(),
                labels: BTreeMap::new(),
                resources,
                egress: self.bed.runtime.offer().default_egress,
                workdir: None,
                ttl_seconds: None,
                idle_timeout_seconds: None,
            },
        };
        Lodging {
            runtime: Arc::clone(&self.bed.runtime),
            placement,
        }
    }

    /// A life that was created.
    pub async fn environment(&self) -> Lodging {
        let lodging = self.life();
        lodging.create().await;
        lodging
    }

    /// Deletes every environment of both instances, and asserts that nothing is held then.
    pub async fn clear(&self) {
        for runtime in [&self.bed.runtime, &self.bed.foreign] {
            for holding in runtime.list().await.unwrap() {
                runtime.delete(&holding.uid).await.unwrap();
            }
            assert_eq!(runtime.list().await.unwrap(), []);
        }
    }
}

impl Lodging {
    /// Its life.
    pub fn uid(&self) -> &EnvironmentUid {
        &self.placement.uid
    }

    /// Creates it.
    pub async fn create(&self) {
        self.try_create().await.unwrap();
    }

    /// Creates it; returns when PID 1 was started, or why it was not.
    pub async fn try_create(&self) -> Result<Started, RuntimeError> {
        let made = self.runtime.create(&self.placement).await?;
        self.started(&made).await.map(|()| made)
    }

    /// Starts it.
    pub async fn start(&self) {
        let made = self.runtime.start(&self.placement).await.unwrap();
        self.started(&made).await.unwrap();
    }

    /// Waits until the PID 1 of what was made was started.
    pub async fn started(&self, made: &Started) -> Result<(), RuntimeError> {
        let heard = Heard::default();
        within(self.runtime.started(&self.placement, made, &heard)).await
    }

    /// Stops it.
    pub async fn stop(&self) {
        self.runtime.stop(self.uid(), PATIENCE).await.unwrap();
    }

    /// Deletes it.
    pub async fn delete(&self) {
        self.runtime.delete(self.uid()).await.unwrap();
    }

    /// A connection to its runner, tried until the runner answers.
    pub async fn session(&self) -> Session {
        let trying = async {
            loop {
                match self.try_session(Lane::Control).await {
                    Ok(session) => return session,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        within(trying).await
    }

    /// One attempt at a connection on a lane.
    pub async fn try_session(&self, lane: Lane) -> Result<Session, String> {
        let (runtime, uid) = (Arc::clone(&self.runtime), self.uid().clone());
        let connector = tower::service_fn(move |_| {
            let (runtime, uid) = (Arc::clone(&runtime), uid.clone());
            async move { Ok::<_, RuntimeError>(TokioIo::new(runtime.dial(&uid, lane).await?)) }
        });
        let channel = Endpoint::from_static("http://runner")
            .connect_with_connector(connector)
            .await
            .map_err(|error| format!("{error:?}"))?;
        let mut client = RunnerClient::new(channel);
        let hello = client
            .hello(proto::HelloRequest {})
            .await
            .map_err(|status| status.to_string())?
            .into_inner();
        Ok(Session {
            client,
            incarnation: Incarnation::new(hello.incarnation).unwrap(),
        })
    }

    /// Runs a shell script to its end, on a connection of its own.
    pub async fn run(&self, script: &str) -> Outcome {
        self.session().await.run(script).await
    }
}

impl Session {
    /// Starts a shell script as a job of its own; answers the job's id.
    pub async fn begin(&mut self, script: &str) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let job_id = format!("job-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let request = proto::StartRequest {
            permit: Some(proto::Permit {
                job_id: job_id.clone(),
                fence: 1,
                incarnation: self.incarnation.to_string(),
            }),
            command: Some(Command::Shell(proto::Shell {
                script: script.to_owned(),
                prefer_bash: false,
            })),
            output_limit: 1 << 20,
            ..Default::default()
        };
        self.client.start(request).await.unwrap();
        job_id
    }

    /// Waits for a job's end, and reads all its output.
    pub async fn outcome(&mut self, job_id: &str) -> Outcome {
        let request = proto::AttachRequest {
            job_id: job_id.to_owned(),
            ..Default::default()
        };
        let mut events = self.client.attach(request).await.unwrap().into_inner();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let reading = async {
            while let Some(event) = events.message().await.unwrap() {
                match event.event.unwrap() {
                    Event::Output(output) if output.stream == proto::Stream::Stdout as i32 => {
                        stdout.extend(output.data);
                    }
                    Event::Output(output) => stderr.extend(output.data),
                    Event::End(record) => return record,
                }
            }
            panic!("the stream closed before the job's end");
        };
        let record = within(reading).await;
        Outcome {
            record,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// Runs a shell script to its end.
    pub async fn run(&mut self, script: &str) -> Outcome {
        let job = self.begin(script).await;
        self.outcome(&job).await
    }
}

impl Outcome {
    /// The exit code, if it ended with one.
    pub fn code(&self) -> Option<u32> {
        match self.record.exit {
            Some(proto::job_record::Exit::Code(code)) => Some(code),
            _ => None,
        }
    }

    /// Its standard output, if all went well.
    pub fn text(&self) -> &str {
        assert_eq!(self.code(), Some(0), "{self:?}");
        self.stdout.trim_end()
    }
}

/// Waits for something that has to happen.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it happens while there is patience")
}

/// Looks again and again until it is so.
pub async fn until(mut so: impl AsyncFnMut() -> bool) {
    within(async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
