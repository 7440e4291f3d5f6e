//! The sweep's rules on a real worker, store and runtime, with a clock that is set forward: what has no record is listed and
//! then goes, each by itself; what an accepted job still needs stays.

use std::fs::{File, FileTimes};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use shared::clock::{Clock, SystemClock, new_job_id};
use shared::config::Settings;
use shared::directory_blobs::DirectoryBlobs;
use shared::embedded_queue::EmbeddedQueue;
use shared::environment::Phase;
use shared::ids::{EnvironmentRef, EnvironmentUid, JobRef};
use shared::job::{Job, JobInput, JobState};
use shared::orphan::OrphanKind;
use shared::ports::{
    Blobs, Holding, Lane, Placement, RunnerIo, Runtime, RuntimeError, RuntimeOffer, Sight, Started,
    Store,
};
use shared::sqlite::SqliteStore;
use shared::staging::{self, STAGING_BUCKET};
use tests::conformance::runtime::Bed;
use tests::conformance::runtime::given::{self as runtime_given, Does};
use tests::conformance::store::given::{Given, environment, exec_input};
use tests::program::{DataFolder, files_below, wait_until};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use worker::WorkerDeps;
use worker::runtime::oci::{OciRuntime, OciSettings};

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

/// The machine's clock, set forward by some seconds.
#[derive(Default)]
struct SetForward(AtomicU64);

impl SetForward {
    fn by(&self, seconds: u64) {
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

/// A runtime that cannot end or remove one life, as if its disk or its kernel refused.
struct Stubborn {
    inner: Arc<OciRuntime>,
    life: EnvironmentUid,
}

impl Stubborn {
    fn refuse(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        if *uid == self.life {
            return Err(RuntimeError::Unavailable("it does not go".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl Runtime for Stubborn {
    fn offer(&self) -> RuntimeOffer {
        self.inner.offer()
    }

    async fn create(&self, placement: &Placement) -> Result<Started, RuntimeError> {
        self.inner.create(placement).await
    }

    async fn start(&self, placement: &Placement) -> Result<Started, RuntimeError> {
        self.inner.start(placement).await
    }

    async fn stop(&self, uid: &EnvironmentUid, grace: Duration) -> Result<(), RuntimeError> {
        self.refuse(uid)?;
        self.inner.stop(uid, grace).await
    }

    async fn delete(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        self.refuse(uid)?;
        self.inner.delete(uid).await
    }

    async fn kill(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        self.inner.kill(uid).await
    }

    async fn inspect(&self, uid: &EnvironmentUid) -> Result<Sight, RuntimeError> {
        self.inner.inspect(uid).await
    }

    async fn list(&self) -> Result<Vec<Holding>, RuntimeError> {
        self.inner.list().await
    }

    async fn dial(
        &self,
        uid: &EnvironmentUid,
        lane: Lane,
    ) -> Result<Box<dyn RunnerIo>, RuntimeError> {
        self.inner.dial(uid, lane).await
    }

    async fn check(&self) -> Result<(), RuntimeError> {
        self.inner.check().await
    }
}

/// A worker in this process, on a folder of its own.
struct Site {
    folder: DataFolder,
    clock: Arc<SetForward>,
    given: Given,
    blobs: Arc<dyn Blobs>,
    runtime: Arc<OciRuntime>,
    soft: CancellationToken,
    working: Option<JoinHandle<()>>,
}

impl Site {
    async fn new() -> Self {
        let folder = DataFolder::new();
        std::fs::create_dir_all(folder.path()).expect("made");
        let clock = Arc::new(SetForward::default());
        let store = SqliteStore::open(&folder.path().join("db"), &SystemClock).expect("opens");
        let store: Arc<dyn Store> = Arc::new(store);
        let instance = store.instance().await.expect("an id");
        let settings = OciSettings::new(folder.environments());
        let runtime =
            OciRuntime::open(&settings, instance, Arc::clone(&clock) as _).expect("opens");
        let blobs = DirectoryBlobs::open(&folder.path().join("blobs")).expect("opens");
        Self {
            folder,
            clock,
            given: Given::at_present(store),
            blobs: Arc::new(blobs),
            runtime: Arc::new(runtime),
            soft: CancellationToken::new(),
            working: None,
        }
    }

    fn store(&self) -> &dyn Store {
        self.given.store.as_ref()
    }

    /// Lets a worker begin, which uses this runtime.
    fn work(&mut self, runtime: Arc<dyn Runtime>) {
        let deps = WorkerDeps {
            store: Arc::clone(&self.given.store),
            queue: Arc::new(EmbeddedQueue::new(Arc::clone(&self.given.store), 64)),
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

    /// A life that only the runtime knows.
    async fn orphan(&self) -> EnvironmentUid {
        let bed = Bed {
            runtime: Arc::clone(&self.runtime) as _,
            foreign: Arc::clone(&self.runtime) as _,
            image: "host".to_owned(),
            does: Does {
                keep_records: true,
                count_ooms_by_job: true,
            },
        };
        let life = runtime_given::Given::new(bed).environment().await;
        life.uid().clone()
    }

    /// An environment as it should be.
    async fn running(&self, name: &str) -> EnvironmentRef {
        let at = environment(name);
        let mut create = self.given.submission(&at, JobInput::Create {});
        if let Some(spec) = &mut create.request.spec {
            // No time that is set forward ends it.
            spec.idle_timeout_seconds = None;
        }
        let submitted = self.store().submit(create, self.given.now()).await;
        submitted.expect("accepted");
        wait_until("the environment runs", async || {
            let found = self.store().environment(&at).await.expect("works");
            found.is_some_and(|found| found.phase == Phase::Running)
        })
        .await;
        at
    }

    async fn sight(&self, uid: &EnvironmentUid) -> Sight {
        self.runtime.inspect(uid).await.expect("seen")
    }

    /// What is listed: uid and part, with the seconds until it goes, counted from when it was first seen.
    async fn listed(&self) -> Vec<(EnvironmentUid, OrphanKind, i64)> {
        let orphans = self.store().orphans().await.expect("works");
        let listed = orphans.into_iter().map(|orphan| {
            let time: SignedDuration = orphan.goes_at.duration_since(orphan.since);
            (orphan.uid, orphan.kind, time.as_secs())
        });
        listed.collect()
    }

    async fn end(mut self) {
        self.soft.cancel();
        if let Some(working) = self.working.take() {
            working.await.expect("it ended well");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_record_is_listed_and_then_goes_each_by_itself() {
    let mut site = Site::new().await;
    let mut lives = [
        site.orphan().await,
        site.orphan().await,
        site.orphan().await,
    ];
    lives.sort();
    // The first one in the list is the one that does not go.
    let [stuck, other, third] = &lives;
    site.work(Arc::new(Stubborn {
        inner: Arc::clone(&site.runtime),
        life: stuck.clone(),
    }));
    wait_until("they are listed", async || !site.listed().await.is_empty()).await;
    let at = site.running("owned").await;
    let owned = site.store().environment(&at).await.expect("works");
    let owned = owned.expect("it is there").uid;
    let week = 7 * DAY.cast_signed();
    let [container, volume] = [(OrphanKind::Container, 600), (OrphanKind::Volume, week)];
    let expected: Vec<_> = lives
        .iter()
        .flat_map(|uid| [container, volume].map(|(kind, time)| (uid.clone(), kind, time)))
        .collect();
    assert_eq!(site.listed().await, expected);
    // The look that sees a later one has seen these before their time.
    site.clock.by(9 * MINUTE);
    let later = site.orphan().await;
    wait_until("the later one is listed", async || {
        site.listed().await.iter().any(|(uid, _, _)| *uid == later)
    })
    .await;
    for uid in &lives {
        assert_eq!(site.sight(uid).await, Sight::Alive);
    }
    site.clock.by(2 * MINUTE);
    wait_until("the containers are ended", async || {
        site.sight(other).await != Sight::Alive && site.sight(third).await != Sight::Alive
    })
    .await;
    assert_eq!(site.sight(stuck).await, Sight::Alive);
    assert_eq!(site.sight(&later).await, Sight::Alive);
    site.clock.by(MINUTE);
    let parts_of = async |uid: &EnvironmentUid| -> Vec<OrphanKind> {
        let listed = site.listed().await;
        let of_life = listed.iter().filter(|(listed, _, _)| listed == uid);
        of_life.map(|(_, kind, _)| *kind).collect()
    };
    wait_until("only their volumes are listed", async || {
        parts_of(other).await == [volume.0] && parts_of(third).await == [volume.0]
    })
    .await;
    for uid in [stuck, &later] {
        assert_eq!(parts_of(uid).await, [container.0, volume.0]);
    }
    site.clock.by(7 * DAY);
    wait_until("the volumes are gone", async || {
        let mut gone = true;
        for uid in [other, third, &later] {
            gone &= site.sight(uid).await == Sight::Absent;
        }
        gone
    })
    .await;
    site.clock.by(MINUTE);
    wait_until("only what did not go is listed", async || {
        let listed = site.listed().await;
        listed.len() == 2 && listed.iter().all(|(uid, _, _)| uid == stuck)
    })
    .await;
    assert_eq!(site.sight(&owned).await, Sight::Alive);
    site.end().await;
}

/// Makes every staged object two days old.
fn grow_old(folder: &Path) {
    let now = u64::try_from(SystemClock.now().as_second()).expect("after 1970");
    let then = UNIX_EPOCH + Duration::from_secs(now - 2 * DAY);
    for file in files_below(folder) {
        let file = File::options().write(true).open(file).expect("opened");
        let times = FileTimes::new().set_modified(then);
        file.set_times(times).expect("set");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staged_content_goes_by_age_but_not_what_an_accepted_job_needs() {
    let mut site = Site::new().await;
    site.work(Arc::clone(&site.runtime) as _);
    let at = site.running("env").await;
    let submit = async |command: &str| -> Job {
        let submitted = site.given.submit(&at, exec_input(command)).await;
        submitted.job
    };
    let state = async |job: &JobRef| {
        let job = site.store().job(job).await.expect("works");
        job.expect("it is there").state
    };
    let open = submit("sleep 1000").await.at();
    let ended = submit("true").await.at();
    wait_until("one runs and one has ended", async || {
        state(&open).await == JobState::Running && state(&ended).await.is_terminal()
    })
    .await;
    let unknown = JobRef {
        tenant: at.tenant.clone(),
        job: new_job_id(&SystemClock),
    };
    let put = async |job: &JobRef, number: u32| {
        let name = staging::part(job, number).expect("a name");
        let content = stream::iter([Ok(Bytes::from_static(b"staged"))]).boxed();
        site.blobs.put(&name, content).await.expect("put");
        name
    };
    let kept = put(&open, 0).await;
    for job in [&ended, &unknown] {
        put(job, 0).await;
    }
    grow_old(&site.folder.path().join("blobs"));
    let young = put(&unknown, 1).await;
    site.clock.by(2 * MINUTE);
    let mut left = [kept, young].map(|name| name.to_string());
    left.sort();
    wait_until("only what is needed or young is left", async || {
        let staged = site.blobs.list(STAGING_BUCKET, "").await.expect("a list");
        let mut names: Vec<_> = staged.iter().map(|entry| entry.name.to_string()).collect();
        names.sort();
        names == left
    })
    .await;
    assert_eq!(state(&open).await, JobState::Running);
    site.end().await;
}
