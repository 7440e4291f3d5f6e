//! Environments whose time is over: those with a lifetime are deleted at its end, idle ones are stopped.
//!
//! ```text
//!   created ──────────── ttl_seconds ───────────▶ delete
//!   last job ended ── idle_timeout_seconds ──▶ stop          a job that is open: not idle
//! ```
//!
//! What a sweep saw is looked at again in the commit that ends the environment ([`Condition`]), so that a command that
//! came in between is not cancelled. Reads are forgotten after minutes ([`READS_KEPT`]): a process that has just become
//! the sweeper cannot know of older ones, so it takes the environment to have been in use until then.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use shared::admission::{Condition, JobRequest, Over, Refusal};
use shared::clock::{Clock, new_job_id};
use shared::environment::Environment;
use shared::ids::{EnvironmentUid, JobRef};
use shared::job::{JobInput, QueueLane};
use shared::ports::{Effects, Store, StoreError, Submission, SubmitError};

use crate::sweep::READS_KEPT;

/// Environments that one round deletes because of their lifetime.
const PAGE: u32 = 500;

/// When each environment with an idle time was last in use, as far as this process knows.
#[derive(Debug, Default)]
pub(crate) struct Lifetimes {
    used: HashMap<EnvironmentUid, Timestamp>,
    /// Those seen in the round that goes on.
    seen: HashMap<EnvironmentUid, Timestamp>,
}

impl Lifetimes {
    /// Deletes what has lived its time; what the queue has to hear of.
    pub(crate) async fn expire(
        store: &dyn Store,
        clock: &dyn Clock,
    ) -> Result<Effects, StoreError> {
        let mut effects = Effects::default();
        for environment in store.expired(clock.now(), PAGE).await? {
            tracing::info!(environment = %environment.id, "its lifetime is over: deleting it");
            let job = end(store, clock, &environment, Over::Lifetime).await?;
            effects
                .runnable
                .extend(job.map(|at| (at, QueueLane::Lifecycle)));
        }
        Ok(effects)
    }

    /// Looks at one running environment, and stops it if it is idle; what the queue has to hear of.
    pub(crate) async fn look(
        &mut self,
        store: &dyn Store,
        clock: &dyn Clock,
        environment: &Environment,
    ) -> Result<Effects, StoreError> {
        let mut effects = Effects::default();
        let Some(seconds) = environment.spec.idle_timeout_seconds else {
            return Ok(effects);
        };
        let activity = store.activity(&environment.at()).await?;
        let now = clock.now();
        let known = self.used.get(&environment.uid).copied();
        let used = if activity.busy {
            now
        } else {
            let before = known.unwrap_or_else(|| now.saturating_sub(READS_KEPT).unwrap_or(now));
            let ended = activity.last_end.unwrap_or(Timestamp::MIN);
            // Its own start counts too; a first sight never makes it older than that.
            let floor = before.max(ended);
            floor.max(environment.since).min(now)
        };
        self.seen.insert(environment.uid.clone(), used);
        let idle = i64::try_from(seconds).unwrap_or(i64::MAX);
        if now.duration_since(used) >= SignedDuration::from_secs(idle) {
            tracing::info!(environment = %environment.id, seconds, "it is idle: stopping it");
            let job = end(store, clock, environment, Over::IdleTime).await?;
            effects
                .runnable
                .extend(job.map(|at| (at, QueueLane::Lifecycle)));
        }
        Ok(effects)
    }

    /// Ends a round in which every running environment was looked at: what was not seen is forgotten.
    pub(crate) fn turn(&mut self) {
        self.used = std::mem::take(&mut self.seen);
    }
}

/// Submits the job that ends an environment; its place in the queue, if it is runnable.
async fn end(
    store: &dyn Store,
    clock: &dyn Clock,
    environment: &Environment,
    over: Over,
) -> Result<Option<JobRef>, StoreError> {
    let submission = Submission {
        request: JobRequest {
            id: new_job_id(clock),
            at: environment.at(),
            input: match over {
                Over::Lifetime => JobInput::Delete {},
                Over::IdleTime => JobInput::Stop {},
            },
            labels: environment.spec.labels.clone(),
            spec: None,
        },
        idempotency: None,
        condition: Some(Condition {
            uid: environment.uid.clone(),
            over,
        }),
    };
    match store.submit(submission, clock.now()).await {
        Ok(submitted) => Ok(submitted.publish.then(|| submitted.job.at())),
        Err(SubmitError::Store(error)) => Err(error),
        Err(SubmitError::Refused(Refusal::Overtaken)) => Ok(None),
        Err(error) => {
            tracing::debug!(environment = %environment.id, %error, "it cannot be ended now");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use shared::environment::{Egress, EnvironmentEvent, EnvironmentPatch, EnvironmentSpec, Phase};
    use shared::ids::{EnvironmentId, EnvironmentRef, Incarnation, TenantId, WorkerId};
    use shared::job::{Job, JobResult, Outcome};
    use shared::octets::Octets;
    use shared::ports::{Completion, LeaseAttempt};
    use shared::resources::{ByteSize, Cpu, Resources};
    use shared::secret::EnvVars;
    use shared::sqlite::SqliteStore;

    use super::*;

    /// A clock that stands still until it is moved.
    struct Hand(Mutex<Timestamp>);

    impl Hand {
        fn move_by(&self, seconds: i64) {
            let mut now = self.0.lock().expect("not poisoned");
            *now = now
                .checked_add(SignedDuration::from_secs(seconds))
                .expect("a time");
        }
    }

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            *self.0.lock().expect("not poisoned")
        }

        fn monotonic(&self) -> Instant {
            Instant::now()
        }

        fn random(&self) -> [u8; 16] {
            rand::random()
        }
    }

    struct World {
        store: SqliteStore,
        clock: Hand,
        lifetimes: Lifetimes,
        _folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let clock = Hand(Mutex::new(
                Timestamp::from_second(1_800_000_000).expect("a time"),
            ));
            let store = SqliteStore::open(&folder.path().join("db"), &clock).expect("a store");
            Self {
                store,
                clock,
                lifetimes: Lifetimes::default(),
                _folder: folder,
            }
        }

        async fn submit(
            &self,
            at: &EnvironmentRef,
            input: JobInput,
            spec: Option<EnvironmentSpec>,
        ) -> Job {
            let submission = Submission {
                request: JobRequest {
                    id: new_job_id(&self.clock),
                    at: at.clone(),
                    input,
                    labels: [].into(),
                    spec,
                },
                idempotency: None,
                condition: None,
            };
            let submitted = self.store.submit(submission, self.clock.now()).await;
            submitted.expect("accepted").job
        }

        async fn finish(&self, job: &Job, event: Option<EnvironmentEvent>) {
            let me = WorkerId::new("me").expect("an id");
            let leased = self
                .store
                .lease(&job.at(), &me, None, self.clock.now())
                .await;
            let LeaseAttempt::Leased(leased) = leased.expect("works") else {
                panic!("not leased");
            };
            let completion = Completion {
                outcome: Outcome::success(JobResult::Lifecycle {}),
                chunks: Vec::new(),
                event,
                artifact: None,
            };
            let done = self
                .store
                .finish(&job.at(), leased.job.fence, completion, self.clock.now())
                .await;
            done.expect("finished");
        }

        async fn running(&self, ttl: Option<u64>, idle: Option<u64>) -> EnvironmentRef {
            let at = EnvironmentRef {
                tenant: TenantId::default_tenant(),
                environment: EnvironmentId::new("e").expect("an id"),
            };
            let spec = EnvironmentSpec {
                image: "host".to_owned(),
                env: EnvVars::default(),
                labels: [].into(),
                resources: Resources {
                    cpu: Cpu { millis: 500 },
                    memory: ByteSize(1 << 28),
                    storage: ByteSize(1 << 30),
                    pids: 64,
                },
                egress: Egress::None,
                workdir: None,
                ttl_seconds: ttl,
                idle_timeout_seconds: idle,
            };
            let create = self.submit(&at, JobInput::Create {}, Some(spec)).await;
            let running = EnvironmentEvent::Running {
                incarnation: Incarnation::new("0".repeat(32)).expect("an incarnation"),
                container: "c".to_owned(),
                restarts: 0,
                place: None,
                limits_not_enforced: Vec::new(),
            };
            self.finish(&create, Some(running)).await;
            at
        }

        fn a_read() -> JobInput {
            JobInput::List {
                path: Octets::from("."),
                depth: 1,
                after: Octets::default(),
                limit: 1,
            }
        }

        /// One round; the phase afterwards.
        async fn round(&mut self, at: &EnvironmentRef) -> Phase {
            Lifetimes::expire(&self.store, &self.clock)
                .await
                .expect("works");
            let environment = self.environment(at).await;
            if environment.phase == Phase::Running {
                let looked = self
                    .lifetimes
                    .look(&self.store, &self.clock, &environment)
                    .await;
                looked.expect("works");
            }
            self.lifetimes.turn();
            self.environment(at).await.phase
        }

        async fn environment(&self, at: &EnvironmentRef) -> Environment {
            self.store
                .environment(at)
                .await
                .expect("works")
                .expect("there")
        }
    }

    #[tokio::test]
    async fn what_has_lived_its_time_is_deleted() {
        let mut world = World::new();
        let at = world.running(Some(100), None).await;
        world.clock.move_by(99);
        assert_eq!(world.round(&at).await, Phase::Running);
        let longer = EnvironmentPatch {
            ttl_seconds: Some(Some(200)),
            ..EnvironmentPatch::default()
        };
        world
            .store
            .patch_environment(&at, longer)
            .await
            .expect("patched");
        world.clock.move_by(100);
        assert_eq!(
            world.round(&at).await,
            Phase::Running,
            "its lifetime was made longer"
        );
        world.clock.move_by(1);
        assert_eq!(world.round(&at).await, Phase::Deleting);
        let open = world.store.open_jobs(&at).await.expect("works");
        assert_eq!(open.len(), 1, "one delete, however often it is swept");
        assert_eq!(world.round(&at).await, Phase::Deleting);
        assert_eq!(world.store.open_jobs(&at).await.expect("works").len(), 1);
    }

    #[tokio::test]
    async fn what_is_idle_is_stopped_and_what_has_a_job_is_not() {
        let mut world = World::new();
        let at = world.running(None, Some(60)).await;
        world.clock.move_by(59);
        assert_eq!(world.round(&at).await, Phase::Running);
        let job = world.submit(&at, World::a_read(), None).await;
        world.clock.move_by(1000);
        assert_eq!(world.round(&at).await, Phase::Running, "a job is open");
        world.finish(&job, None).await;
        world.clock.move_by(59);
        assert_eq!(world.round(&at).await, Phase::Running);
        world.clock.move_by(1);
        assert_eq!(world.round(&at).await, Phase::Stopping);
    }

    #[tokio::test]
    async fn a_new_sweeper_supposes_reads_that_are_forgotten() {
        let mut world = World::new();
        let at = world.running(None, Some(60)).await;
        world.clock.move_by(3000);
        assert_eq!(
            world.round(&at).await,
            Phase::Stopping,
            "longer than reads are kept"
        );

        let mut world = World::new();
        let at = world.running(None, Some(3600)).await;
        world.clock.move_by(3599);
        let job = world.submit(&at, World::a_read(), None).await;
        world.finish(&job, None).await;
        assert_eq!(world.round(&at).await, Phase::Running);
        world.clock.move_by(3500);
        // What the sweeper has seen it remembers, also where the store has forgotten it.
        let cutoffs = shared::ports::Cutoffs {
            jobs_before: Timestamp::MIN,
            reads_before: world.clock.now(),
            keys_before: Timestamp::MIN,
        };
        assert_eq!(
            world.store.prune(cutoffs, 10).await.expect("works").len(),
            1
        );
        assert_eq!(world.round(&at).await, Phase::Running);
        // Another one supposes a read that is forgotten.
        world.lifetimes = Lifetimes::default();
        world.clock.move_by(100);
        assert_eq!(world.round(&at).await, Phase::Running);
        world.clock.move_by(3600);
        assert_eq!(world.round(&at).await, Phase::Stopping);
    }

    #[tokio::test]
    async fn a_command_that_came_in_between_is_not_stopped() {
        let world = World::new();
        let at = world.running(None, Some(60)).await;
        world.clock.move_by(100);
        let seen = world.environment(&at).await;
        world.submit(&at, World::a_read(), None).await;
        let ended = end(&world.store, &world.clock, &seen, Over::IdleTime).await;
        assert_eq!(ended.expect("works"), None);
        assert_eq!(world.environment(&at).await.phase, Phase::Running);
    }
}
