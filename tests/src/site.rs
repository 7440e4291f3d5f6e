//! A worker in this process, on a folder, a store and a runtime of its own, under a clock that is set forward: for what a
//! worker does only after minutes or days, or only when a port of it fails.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use shared::clock::{Clock, SystemClock};
use shared::config::{RuntimeSettings, Settings};
use shared::directory_blobs::DirectoryBlobs;
use shared::embedded_queue::EmbeddedQueue;
use shared::environment::Phase;
use shared::ids::{EnvironmentRef, InstanceId, JobRef};
use shared::job::{Job, JobInput};
use shared::ports::{Blobs, Queue, Runtime, Store, Submitted};
use shared::sqlite::SqliteStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use worker::WorkerDeps;
use worker::runtime::kubernetes::access::{self, AccessSettings};
use worker::runtime::kubernetes::{KubernetesRuntime, KubernetesSettings};
use worker::runtime::oci::{OciRuntime, OciSettings};

use crate::cluster::{Namespace, SMALL_IMAGE};
use crate::conformance::store::given::{Given, environment};
use crate::program::{DataFolder, wait_until};

mod refusing;

pub use refusing::{Asked, Refusing};

/// The machine's clock, set forward by some seconds.
#[derive(Default)]
pub struct SetForward(AtomicU64);

impl SetForward {
    /// Sets it forward by so many seconds more.
    pub fn by(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    fn offset(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

impl Clock for SetForward {
    fn now(&self) -> Timestamp {
        SystemClock.now() + self.offset()
    }

    fn monotonic(&self) -> Instant {
        Instant::now() + self.offset()
    }

    fn random(&self) -> [u8; 16] {
        SystemClock.random()
    }
}

/// A worker in this process, on a folder and a runtime of its own.
pub struct Site<R = OciRuntime> {
    /// Its data.
    pub folder: DataFolder,
    /// Its time.
    pub clock: Arc<SetForward>,
    /// Its store.
    pub given: Given,
    /// Its large bytes.
    pub blobs: Arc<dyn Blobs>,
    /// Its environments.
    pub runtime: Arc<R>,
    /// What its environments are made of.
    image: String,
    /// Its hints.
    pub queue: Arc<dyn Queue>,
    soft: CancellationToken,
    working: Option<JoinHandle<()>>,
}

impl Site {
    /// A new one on this machine, on which nobody works yet.
    pub async fn new() -> Self {
        let opened = async |folder: &DataFolder, instance, clock| {
            let settings = OciSettings::new(folder.environments());
            OciRuntime::open(&settings, instance, clock).expect("opens")
        };
        Self::with("host", opened).await
    }
}

impl Site<KubernetesRuntime> {
    /// A new one with its environments in a namespace, on which nobody works yet.
    pub async fn in_namespace(namespace: &Namespace, kubeconfig: &Path) -> Self {
        let opened = async |_: &DataFolder, instance, clock| {
            let access = AccessSettings {
                kubeconfig: Some(kubeconfig.to_owned()),
                ..AccessSettings::default()
            };
            let access = access::connect(&access).await.expect("a client");
            let settings = KubernetesSettings {
                namespace: namespace.name().to_owned(),
                ..KubernetesSettings::new(&RuntimeSettings::default())
            };
            KubernetesRuntime::open(access, settings, instance, clock)
        };
        Self::with(SMALL_IMAGE, opened).await
    }
}

impl<R: Runtime> Site<R> {
    async fn with(
        image: &str,
        opened: impl AsyncFnOnce(&DataFolder, InstanceId, Arc<dyn Clock>) -> R,
    ) -> Self {
        let folder = DataFolder::new();
        std::fs::create_dir_all(folder.path()).expect("made");
        let clock = Arc::new(SetForward::default());
        let store = SqliteStore::open(&folder.path().join("db"), &SystemClock).expect("opens");
        let store: Arc<dyn Store> = Arc::new(store);
        let instance = store.instance().await.expect("an id");
        let runtime = opened(&folder, instance, Arc::clone(&clock) as _).await;
        let blobs = DirectoryBlobs::open(&folder.path().join("blobs")).expect("opens");
        Self {
            folder,
            clock,
            queue: Arc::new(EmbeddedQueue::new(Arc::clone(&store), 64)),
            given: Given::at_present(store),
            blobs: Arc::new(blobs),
            runtime: Arc::new(runtime),
            image: image.to_owned(),
            soft: CancellationToken::new(),
            working: None,
        }
    }

    /// The store.
    pub fn store(&self) -> &dyn Store {
        self.given.store.as_ref()
    }

    /// Lets a worker begin, which uses this runtime.
    pub fn work(&mut self, runtime: Arc<dyn Runtime>) {
        let deps = WorkerDeps {
            store: Arc::clone(&self.given.store),
            queue: Arc::clone(&self.queue),
            blobs: Arc::clone(&self.blobs),
            runtime,
            clock: Arc::clone(&self.clock) as _,
        };
        let soft = self.soft.clone();
        self.working = Some(tokio::spawn(async move {
            let (settings, hard) = (Settings::default(), CancellationToken::new());
            let ended = worker::run(deps, &settings, soft, hard).await;
            ended.expect("it works");
        }));
    }

    /// An environment as it should be.
    pub async fn running(&self, name: &str) -> EnvironmentRef {
        let at = environment(name);
        let mut create = self.given.submission(&at, JobInput::Create {});
        if let Some(spec) = &mut create.request.spec {
            // No time that is set forward ends it.
            spec.idle_timeout_seconds = None;
            spec.image.clone_from(&self.image);
        }
        let submitted = self.store().submit(create, self.given.now()).await;
        self.publish(&submitted.expect("accepted")).await;
        wait_until("the environment runs", async || {
            let found = self.store().environment(&at).await.expect("works");
            found.is_some_and(|found| found.phase == Phase::Running)
        })
        .await;
        at
    }

    /// Submits what is accepted, and tells the queue of it.
    pub async fn submit(&self, at: &EnvironmentRef, input: JobInput) -> JobRef {
        let submitted = self.given.submit(at, input).await;
        self.publish(&submitted).await;
        submitted.job.at()
    }

    async fn publish(&self, submitted: &Submitted) {
        let job = &submitted.job;
        assert!(submitted.publish, "it waits for something");
        let published = self.queue.publish(&job.at(), job.input.kind().lane()).await;
        published.expect("the queue works");
    }

    /// Waits until a job has ended, and gives it.
    pub async fn ended(&self, at: &JobRef) -> Job {
        wait_until("the job ends", async || {
            self.job(at).await.state.is_terminal()
        })
        .await;
        self.job(at).await
    }

    /// A job as it is.
    pub async fn job(&self, at: &JobRef) -> Job {
        let job = self.store().job(at).await.expect("works");
        job.expect("it is there")
    }

    /// Asks the worker to end, and waits for it.
    pub async fn end(mut self) {
        self.soft.cancel();
        if let Some(working) = self.working.take() {
            working.await.expect("it ended well");
        }
    }
}
