//! What every queue does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt as _;
use shared::admission::JobRequest;
use shared::clock::{Clock as _, SystemClock, new_job_id, new_worker_id};
use shared::environment::{Egress, EnvironmentEvent, EnvironmentSpec};
use shared::ids::{EnvironmentId, EnvironmentRef, Incarnation, JobRef, TenantId};
use shared::job::{Command, ExecInput, JobInput, JobResult, Outcome, QueueLane};
use shared::ports::{Completion, Delivery, LeaseAttempt, Queue, Store, Submission};
use shared::resources::{ByteSize, Cpu, Resources};
use shared::secret::EnvVars;
use shared::sqlite::SqliteStore;
use tempfile::TempDir;

/// A wait that only a broken queue outlasts.
pub const LONG: Duration = Duration::from_secs(30);

/// A queue and the store whose jobs it tells of.
pub struct Fixture {
    /// Under test.
    pub queue: Arc<dyn Queue>,
    /// The truth.
    pub store: Arc<dyn Store>,
}

/// Runs the whole suite; `make` gives an empty queue over an empty store each time.
pub async fn suite<M: AsyncFn() -> Fixture>(make: M) {
    a_hint_arrives_and_wakes_who_waits(&make().await).await;
    lanes_do_not_mix(&make().await).await;
    what_is_dropped_comes_again(&make().await).await;
    dropping_a_receive_loses_nothing(&make().await).await;
    many_receivers_share_many_hints(&make().await).await;
    a_second_hint_outlives_the_settling_of_the_first(&make().await).await;
    make().await.queue.check().await.expect("it can work");
}

/// Makes fixtures whose stores are new, in a folder that goes with it.
pub struct Fixtures {
    folder: TempDir,
    made: AtomicU32,
}

impl Default for Fixtures {
    fn default() -> Self {
        Self {
            folder: TempDir::new().expect("a folder"),
            made: AtomicU32::new(0),
        }
    }
}

impl Fixtures {
    /// A fixture of a queue, which is made of a new store and a topic of its own: `topic-0`, `topic-1` and so on.
    pub fn make<Q: Queue + 'static>(
        &self,
        queue: impl FnOnce(Arc<dyn Store>, &str) -> Q,
    ) -> Fixture {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(format!("{number}.db"));
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&path, &SystemClock).expect("a store"));
        Fixture {
            queue: Arc::new(queue(Arc::clone(&store), &format!("topic-{number}"))),
            store,
        }
    }
}

impl Fixture {
    /// Commits a create job of a new environment: it waits in the lifecycle lane.
    pub async fn create(&self, environment: &str) -> JobRef {
        let spec = EnvironmentSpec {
            image: "host".to_owned(),
            env: EnvVars::default(),
            labels: BTreeMap::new(),
            resources: Resources {
                cpu: Cpu { millis: 1000 },
                memory: ByteSize(1 << 20),
                storage: ByteSize(1 << 20),
                pids: 10,
            },
            egress: Egress::None,
            workdir: None,
            ttl_seconds: None,
            idle_timeout_seconds: None,
        };
        self.submit(environment, JobInput::Create {}, Some(spec))
            .await
    }

    /// Commits a command: it waits in the work lane if its environment runs.
    pub async fn exec(&self, environment: &str) -> JobRef {
        let input = ExecInput {
            command: Command::Shell("true".to_owned()),
            env: EnvVars::default(),
            workdir: None,
            user: None,
            stdin: None,
            stdin_open: false,
            timeout_seconds: 60,
            output_limit: 1 << 20,
        };
        self.submit(environment, JobInput::Exec(input), None).await
    }

    /// Does the create job of an environment. What becomes runnable by that is published.
    pub async fn run_create(&self, create: &JobRef) {
        let LeaseAttempt::Leased(leased) = self.lease(create).await else {
            panic!("the create job can be leased")
        };
        let event = EnvironmentEvent::Running {
            incarnation: Incarnation::new("0123456789abcdef0123456789abcdef")
                .expect("an incarnation"),
            container: "container".to_owned(),
            restarts: 0,
            place: None,
            limits_not_enforced: Vec::new(),
        };
        let completion = Completion {
            outcome: Outcome::success(JobResult::Lifecycle {}),
            chunks: Vec::new(),
            event: Some(event),
            artifact: None,
        };
        let effects = self
            .store
            .finish(create, leased.job.fence, completion, SystemClock.now())
            .await
            .expect("finished");
        for (at, lane) in effects.runnable {
            self.queue.publish(&at, lane).await.expect("published");
        }
    }

    /// A new environment that runs.
    pub async fn running(&self, environment: &str) {
        let create = self.create(environment).await;
        self.run_create(&create).await;
    }

    /// Leases a job, as a worker does with every hint.
    pub async fn lease(&self, at: &JobRef) -> LeaseAttempt {
        let worker = new_worker_id(&SystemClock);
        let leased = self.store.lease(at, &worker, None, SystemClock.now()).await;
        leased.expect("the store answers")
    }

    /// Leases the job and settles its hint.
    pub async fn take(&self, delivery: Delivery) -> JobRef {
        let at = delivery.at.clone();
        self.lease(&at).await;
        delivery.ack().await.expect("settled");
        at
    }

    /// The next hint of a lane.
    pub async fn receive(&self, lane: QueueLane) -> Delivery {
        tokio::time::timeout(LONG, self.queue.receive(lane))
            .await
            .expect("a hint in time")
            .expect("the queue works")
    }

    async fn submit(
        &self,
        environment: &str,
        input: JobInput,
        spec: Option<EnvironmentSpec>,
    ) -> JobRef {
        let tenant = TenantId::default_tenant();
        let request = JobRequest {
            id: new_job_id(&SystemClock),
            at: EnvironmentRef {
                tenant,
                environment: EnvironmentId::new(environment).expect("an id"),
            },
            input,
            labels: BTreeMap::new(),
            spec,
        };
        let submission = Submission {
            request,
            idempotency: None,
            condition: None,
        };
        let submitted = self.store.submit(submission, SystemClock.now()).await;
        submitted.expect("accepted").job.at()
    }

    async fn publish(&self, at: &JobRef, lane: QueueLane) {
        self.queue.publish(at, lane).await.expect("published");
    }
}

async fn a_hint_arrives_and_wakes_who_waits(fixture: &Fixture) {
    for number in 0..20 {
        let mut waiting = std::pin::pin!(fixture.receive(QueueLane::Lifecycle));
        assert!(futures::poll!(&mut waiting).is_pending());
        // Half of the receivers are deep in their wait, the others have only begun.
        if number % 2 == 0 {
            tokio::select! {
                _ = &mut waiting => panic!("there is no hint"),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        let at = fixture.create(&format!("env-{number}")).await;
        fixture.publish(&at, QueueLane::Lifecycle).await;
        let delivery = waiting.await;
        assert_eq!(fixture.take(delivery).await, at);
    }
}

async fn lanes_do_not_mix(fixture: &Fixture) {
    fixture.running("env").await;
    let work = fixture.exec("env").await;
    let lifecycle = fixture.create("other").await;
    fixture.publish(&work, QueueLane::Work).await;
    fixture.publish(&lifecycle, QueueLane::Lifecycle).await;
    let delivery = fixture.receive(QueueLane::Lifecycle).await;
    assert_eq!(fixture.take(delivery).await, lifecycle);
    let delivery = fixture.receive(QueueLane::Work).await;
    assert_eq!(fixture.take(delivery).await, work);
}

async fn what_is_dropped_comes_again(fixture: &Fixture) {
    let at = fixture.create("env").await;
    fixture.publish(&at, QueueLane::Lifecycle).await;
    for _ in 0..3 {
        assert_eq!(fixture.receive(QueueLane::Lifecycle).await.at, at);
    }
    // Also to one that has been waiting while another held it.
    let held = fixture.receive(QueueLane::Lifecycle).await;
    let mut waiting = std::pin::pin!(fixture.receive(QueueLane::Lifecycle));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(held);
    let delivery = waiting.await;
    assert_eq!(fixture.take(delivery).await, at);
}

async fn dropping_a_receive_loses_nothing(fixture: &Fixture) {
    let mut expected = HashSet::new();
    let mut received = HashSet::new();
    for number in 0..30 {
        let mut waiting: Vec<_> = (0..4)
            .map(|_| fixture.receive(QueueLane::Lifecycle).boxed())
            .collect();
        let mut early = Vec::new();
        for receive in &mut waiting {
            if let Poll::Ready(delivery) = futures::poll!(receive) {
                early.push(delivery);
            }
        }
        for delivery in early {
            received.insert(fixture.take(delivery).await);
        }
        let at = fixture.create(&format!("env-{number}")).await;
        fixture.publish(&at, QueueLane::Lifecycle).await;
        expected.insert(at);
    }
    while received != expected {
        let delivery = fixture.receive(QueueLane::Lifecycle).await;
        received.insert(fixture.take(delivery).await);
    }
}

async fn many_receivers_share_many_hints(fixture: &Fixture) {
    const JOBS: usize = 120;
    let counts: Mutex<HashMap<JobRef, u32>> = Mutex::default();
    let all_there = tokio::sync::Notify::new();
    let receiver = || async {
        loop {
            let delivery = tokio::select! {
                delivery = fixture.receive(QueueLane::Lifecycle) => delivery,
                () = all_there.notified() => return,
            };
            let at = fixture.take(delivery).await;
            let mut counts = counts.lock().expect("no panic");
            *counts.entry(at).or_default() += 1;
            if counts.len() == JOBS {
                all_there.notify_waiters();
                return;
            }
        }
    };
    let publisher = async {
        for number in 0..JOBS {
            let at = fixture.create(&format!("env-{number}")).await;
            fixture.publish(&at, QueueLane::Lifecycle).await;
        }
    };
    let receivers = futures::future::join_all((0..8).map(|_| receiver()));
    let both = futures::future::join(receivers, publisher);
    tokio::time::timeout(LONG, both)
        .await
        .expect("every job in time");
    let deliveries: u32 = counts.into_inner().expect("no panic").values().sum();
    assert!(
        deliveries < 2 * u32::try_from(JOBS).unwrap(),
        "{deliveries} deliveries of {JOBS} jobs"
    );
}

async fn a_second_hint_outlives_the_settling_of_the_first(fixture: &Fixture) {
    fixture.running("env").await;
    let at = fixture.exec("env").await;
    fixture.publish(&at, QueueLane::Work).await;
    // A worker looks at the job while it may not run, then it may, then the worker settles what it looked at.
    let early = fixture.receive(QueueLane::Work).await;
    assert_eq!(early.at, at);
    fixture.publish(&at, QueueLane::Work).await;
    early.ack().await.expect("settled");
    let delivery = fixture.receive(QueueLane::Work).await;
    assert_eq!(fixture.take(delivery).await, at);
}
