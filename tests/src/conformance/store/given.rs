//! A store in a known state, and the few words in which the cases are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use shared::admission::JobRequest;
use shared::clock::{Clock, SystemClock, new_job_id};
use shared::environment::{Egress, Environment, EnvironmentEvent, EnvironmentSpec, Reason};
use shared::ids::{
    EnvironmentId, EnvironmentRef, Fence, Incarnation, JobId, JobRef, TenantId, WorkerId,
};
use shared::job::{
    CancelRequest, Command, ExecInput, ExecResult, Job, JobInput, JobResult, Outcome, Preview,
};
use shared::octets::Octets;
use shared::output::{Chunk, Stream};
use shared::ports::{
    Completion, Effects, Idempotency, LeaseAttempt, Leased, PageRequest, Store, Submission,
    SubmitError, Submitted,
};
use shared::resources::{ByteSize, Cpu, Resources};
use shared::secret::EnvVars;

/// A clock whose time moves by a millisecond with each look, so that ids sort by the order in which they were made.
#[derive(Debug)]
struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.fetch_add(1, Ordering::SeqCst)).expect("a time")
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }

    fn random(&self) -> [u8; 16] {
        rand::random()
    }
}

/// A store under test with a clock of its own. Everything is the default tenant's where nothing else is said.
#[derive(Clone)]
pub struct Given {
    /// The store.
    pub store: Arc<dyn Store>,
    clock: Arc<Ticking>,
}

impl Given {
    /// A store under test.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self::from_time(store, 1_800_000_000_000)
    }

    /// A store under test that others used before: the time begins at that of the machine.
    pub fn at_present(store: Arc<dyn Store>) -> Self {
        Self::from_time(store, SystemClock.now().as_millisecond())
    }

    fn from_time(store: Arc<dyn Store>, millis: i64) -> Self {
        Self {
            store,
            clock: Arc::new(Ticking(AtomicI64::new(millis))),
        }
    }

    /// A time after all that were told before.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// An id after all that were made before.
    pub fn job_id(&self) -> JobId {
        new_job_id(&*self.clock)
    }

    /// A submission on an environment; of a create with the spec of [`spec`].
    pub fn submission(&self, at: &EnvironmentRef, input: JobInput) -> Submission {
        let is_create = matches!(input, JobInput::Create {});
        Submission {
            request: JobRequest {
                id: self.job_id(),
                at: at.clone(),
                input,
                labels: [("team".to_owned(), "blue".to_owned())].into(),
                spec: is_create.then(spec),
            },
            idempotency: None,
            condition: None,
        }
    }

    /// Submits, and may be refused.
    pub async fn try_submit(
        &self,
        at: &EnvironmentRef,
        input: JobInput,
    ) -> Result<Submitted, SubmitError> {
        self.store
            .submit(self.submission(at, input), self.now())
            .await
    }

    /// Submits what is accepted.
    pub async fn submit(&self, at: &EnvironmentRef, input: JobInput) -> Submitted {
        self.try_submit(at, input).await.expect("accepted")
    }

    /// Submits with an idempotency key.
    pub async fn submit_keyed(
        &self,
        at: &EnvironmentRef,
        input: JobInput,
        key: Idempotency,
    ) -> Result<Submitted, SubmitError> {
        let mut submission = self.submission(at, input);
        submission.idempotency = Some(key);
        self.store.submit(submission, self.now()).await
    }

    /// Submits a command that is accepted.
    pub async fn exec(&self, at: &EnvironmentRef) -> Job {
        self.submit(at, exec_input("true")).await.job
    }

    /// Attempts a first lease.
    pub async fn try_lease(&self, at: &JobRef, owner: &str) -> LeaseAttempt {
        self.store
            .lease(at, &worker(owner), None, self.now())
            .await
            .expect("the store works")
    }

    /// Leases what is free.
    pub async fn lease(&self, job: &Job) -> Leased {
        match self.try_lease(&job.at(), "worker-1").await {
            LeaseAttempt::Leased(leased) => *leased,
            other => panic!("not leased: {other:?}"),
        }
    }

    /// Ends a job under its lease.
    pub async fn finish(&self, job: &Job, completion: Completion) -> Effects {
        self.store
            .finish(&job.at(), job.fence, completion, self.now())
            .await
            .expect("finished")
    }

    /// Leases a lifecycle job and ends it with an event.
    pub async fn carry_out(&self, job: &Job, event: EnvironmentEvent) -> Effects {
        let leased = self.lease(job).await;
        let mut completion = completion(Outcome::success(JobResult::Lifecycle {}));
        completion.event = Some(event);
        self.finish(&leased.job, completion).await
    }

    /// A running environment of the default tenant.
    pub async fn running(&self, name: &str) -> EnvironmentRef {
        let at = environment(name);
        self.run(&at).await;
        at
    }

    /// Creates an environment and brings it to running; its incarnation.
    pub async fn run(&self, at: &EnvironmentRef) -> Incarnation {
        let create = self.submit(at, JobInput::Create {}).await.job;
        let incarnation = new_incarnation();
        self.carry_out(&create, started(&incarnation)).await;
        incarnation
    }

    /// A command that was leased, in a running environment.
    pub async fn leased_exec(&self, name: &str) -> Job {
        let at = self.running(name).await;
        let job = self.exec(&at).await;
        self.lease(&job).await.job
    }

    /// A command that has succeeded.
    pub async fn done(&self, at: &EnvironmentRef, input: JobInput) -> Job {
        let job = self.submit(at, input).await.job;
        let leased = self.lease(&job).await.job;
        self.finish(&leased, completion(Outcome::success(result_of("done"))))
            .await;
        self.job(&job).await
    }

    /// A job as it stands.
    pub async fn job(&self, job: &Job) -> Job {
        self.store
            .job(&job.at())
            .await
            .expect("the store works")
            .expect("the job is there")
    }

    /// An environment as it stands.
    pub async fn environment(&self, at: &EnvironmentRef) -> Environment {
        self.store
            .environment(at)
            .await
            .expect("the store works")
            .expect("the environment is there")
    }
}

/// An environment of the default tenant.
pub fn environment(name: &str) -> EnvironmentRef {
    environment_of(&TenantId::default_tenant(), name)
}

/// An environment of a tenant.
pub fn environment_of(tenant: &TenantId, name: &str) -> EnvironmentRef {
    EnvironmentRef {
        tenant: tenant.clone(),
        environment: EnvironmentId::new(name).expect("an id"),
    }
}

/// A worker.
pub fn worker(name: &str) -> WorkerId {
    WorkerId::new(name).expect("an id")
}

/// Some environment's spec.
pub fn spec() -> EnvironmentSpec {
    EnvironmentSpec {
        image: "host".to_owned(),
        env: EnvVars::default(),
        labels: [("stage".to_owned(), "test".to_owned())].into(),
        resources: Resources {
            cpu: Cpu { millis: 500 },
            memory: ByteSize(1 << 28),
            storage: ByteSize(1 << 30),
            pids: 64,
        },
        egress: Egress::None,
        workdir: None,
        ttl_seconds: None,
        idle_timeout_seconds: Some(60),
    }
}

/// A command.
pub fn exec_input(script: &str) -> JobInput {
    JobInput::Exec(ExecInput {
        command: Command::Shell(script.to_owned()),
        env: EnvVars::default(),
        workdir: None,
        user: None,
        stdin: None,
        stdin_open: false,
        timeout_seconds: 60,
        output_limit: 1 << 20,
    })
}

/// A read: hidden from lists.
pub fn list_input() -> JobInput {
    JobInput::List {
        path: Octets::from("."),
        depth: 1,
        after: Octets::default(),
        limit: 100,
    }
}

/// A removal of a file.
pub fn remove_input() -> JobInput {
    JobInput::Remove {
        path: Octets::from("x"),
        recursive: false,
    }
}

/// A start of PID 1 that never was before.
pub fn new_incarnation() -> Incarnation {
    let hex: String = rand::random::<[u8; 16]>()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Incarnation::new(hex).expect("an incarnation")
}

/// The event of a start of PID 1.
pub fn started(incarnation: &Incarnation) -> EnvironmentEvent {
    EnvironmentEvent::Running {
        incarnation: incarnation.clone(),
        container: "em-container".to_owned(),
        restarts: 0,
        place: None,
        limits_not_enforced: vec!["storage".to_owned()],
    }
}

/// The event of a failure.
pub fn failed(code: &str) -> EnvironmentEvent {
    EnvironmentEvent::Failed(Reason::new(code, "it went wrong"))
}

/// An end without anything else.
pub fn completion(outcome: Outcome) -> Completion {
    Completion {
        outcome,
        chunks: Vec::new(),
        event: None,
        artifact: None,
    }
}

/// A command's result with this standard output.
pub fn result_of(text: &str) -> JobResult {
    JobResult::Exec(ExecResult {
        exit_code: Some(0),
        signal: None,
        stdout: Preview::new(text.as_bytes(), &[], text.len() as u64),
        stderr: Preview::default(),
        duration_ms: 1,
        confirmed: None,
    })
}

/// A wish to end a job.
pub fn cancel_request(code: &str) -> CancelRequest {
    CancelRequest {
        signal: 15,
        grace_seconds: 1,
        code: code.to_owned(),
        message: format!("it was {code}"),
    }
}

/// An idempotency key.
pub fn key(key: &str, scope: &str, content: u8) -> Idempotency {
    Idempotency {
        key: key.to_owned(),
        scope: scope.to_owned(),
        fingerprint: [content; 32],
    }
}

/// A page of this size, after this token.
pub fn page(size: u32, token: Option<String>) -> PageRequest {
    PageRequest { size, token }
}

/// A chunk.
pub fn chunk(stream: Stream, start: u64, data: impl Into<Bytes>) -> Chunk {
    Chunk {
        stream,
        start,
        data: data.into(),
    }
}

/// Bytes of which each tells its place.
pub fn content(from: u64, len: usize) -> Bytes {
    let byte = |offset: u64| offset.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0];
    (from..from + len as u64)
        .map(byte)
        .collect::<Vec<u8>>()
        .into()
}

/// The fence of a lease that never was.
pub const NO_FENCE: Fence = Fence(0);

/// Long enough for anything that happens at all.
pub const AT_LAST: Duration = Duration::from_secs(60);

/// Waits for what must happen.
pub async fn at_last<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(AT_LAST, future).await {
        Ok(value) => value,
        Err(_) => panic!("it never happened: {what}"),
    }
}

/// Runs so many tasks at the same time; their answers in order.
pub async fn all_at_once<F, T>(count: usize, task: impl Fn(usize) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let barrier = Arc::new(tokio::sync::Barrier::new(count));
    let tasks: Vec<_> = (0..count)
        .map(|number| {
            let (barrier, future) = (Arc::clone(&barrier), task(number));
            tokio::spawn(async move {
                barrier.wait().await;
                future.await
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.expect("the task ends"));
    }
    answers
}
