//! Whatever callers and workers do, every accepted job ends once, and nothing waits for ever.
//!
//! The model is a store in memory that asks the domain as the adapters do: a job that changes its environment settles all
//! of that environment's jobs, another only itself.

use std::collections::HashMap;

use proptest::prelude::*;
use shared::admission::{Admitted, admit, conclude, settle};
use shared::environment::{Environment, EnvironmentEvent, Phase, Reason};
use shared::ids::{Fence, JobId};
use shared::job::{Begun, CancelRequest, Job, JobInput, JobKind, JobResult, JobState, Outcome};

use crate::given;

/// How a worker ends a job.
#[derive(Debug, Clone, Copy)]
enum End {
    /// It did what it should.
    Done,
    /// It failed and says so to the environment.
    Failed,
    /// It ended without a word to the environment.
    Silent,
    /// It was cancelled and says what it did before.
    CancelledAfterAll,
}

#[derive(Debug, Clone)]
enum Step {
    Submit(JobKind),
    /// A worker takes one of the jobs.
    Lease(prop::sample::Index),
    /// Another worker takes one of the held jobs over.
    TakeOver(prop::sample::Index),
    HandBack(prop::sample::Index),
    Finish(prop::sample::Index, End),
    /// A write under the fence before the current one.
    Late(prop::sample::Index),
    Cancel(prop::sample::Index),
    Fault,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let kinds = vec![
        JobKind::Create,
        JobKind::Create,
        JobKind::Start,
        JobKind::Stop,
        JobKind::Delete,
        JobKind::Exec,
        JobKind::Exec,
        JobKind::Exec,
    ];
    let end = prop_oneof![
        5 => Just(End::Done),
        1 => Just(End::Failed),
        1 => Just(End::Silent),
        1 => Just(End::CancelledAfterAll),
    ];
    prop_oneof![
        6 => prop::sample::select(kinds).prop_map(Step::Submit),
        6 => index().prop_map(Step::Lease),
        1 => index().prop_map(Step::TakeOver),
        1 => index().prop_map(Step::HandBack),
        5 => (index(), end).prop_map(|(job, end)| Step::Finish(job, end)),
        1 => index().prop_map(Step::Late),
        1 => index().prop_map(Step::Cancel),
        1 => Just(Step::Fault),
    ]
}

#[derive(Default)]
struct Model {
    environment: Option<Environment>,
    jobs: Vec<Job>,
    /// How often each job reached a terminal state.
    ends: HashMap<JobId, u32>,
    steps: usize,
}

impl Model {
    fn now(&self) -> jiff::Timestamp {
        given::time(self.steps)
    }

    fn open(&self) -> Vec<Job> {
        self.jobs
            .iter()
            .filter(|job| !job.state.is_terminal())
            .cloned()
            .collect()
    }

    fn pick(&self, index: prop::sample::Index, wanted: impl Fn(&Job) -> bool) -> Option<Job> {
        let found: Vec<_> = self.jobs.iter().filter(|job| wanted(job)).collect();
        (!found.is_empty()).then(|| (*index.get(&found)).clone())
    }

    fn save(&mut self, job: Job) {
        let before = self.jobs.iter_mut().find(|before| before.id == job.id);
        let was_open = before
            .as_ref()
            .is_none_or(|before| !before.state.is_terminal());
        assert!(was_open, "a terminal state is never left");
        if job.state.is_terminal() {
            *self.ends.entry(job.id).or_default() += 1;
        }
        match before {
            Some(before) => {
                assert!(job.fence >= before.fence);
                *before = job;
            }
            None => self.jobs.push(job),
        }
    }

    fn settle_all(&mut self) {
        let Some(environment) = self.environment.clone() else {
            return;
        };
        for job in settle(&environment, &self.open(), self.now()) {
            self.save(job);
        }
    }

    fn submit(&mut self, kind: JobKind) {
        let input = match kind {
            JobKind::Create => JobInput::Create {},
            JobKind::Start => JobInput::Start {},
            JobKind::Stop => JobInput::Stop {},
            JobKind::Delete => JobInput::Delete {},
            _ => given::exec(),
        };
        let request = given::request(self.steps as u64, input);
        let Ok(admitted) = admit(self.environment.as_ref(), request, self.now()) else {
            return;
        };
        match admitted {
            Admitted::Existing(creator) => {
                assert!(self.jobs.iter().any(|job| job.id == creator));
            }
            Admitted::New {
                environment: Some(changed),
                job,
            } => {
                self.environment = Some(*changed);
                self.save(*job);
                self.settle_all();
            }
            Admitted::New {
                environment: None,
                job,
            } => {
                let environment = self.environment.clone().expect("it was admitted to one");
                let settled = settle(&environment, std::slice::from_ref(&job), self.now());
                self.save(settled.into_iter().next().unwrap_or(*job));
            }
        }
    }

    fn lease(&mut self, job: &Job, replaces: Option<Fence>) {
        let environment = self.environment.clone().expect("jobs have one");
        let owner = given::worker(u8::try_from(self.steps % 200).expect("small"));
        let is_work = job.input.kind().lifecycle().is_none();
        let incarnation = environment.incarnation.clone().filter(|_| is_work);
        let Ok(leased) = job.lease(owner, incarnation, replaces, self.now()) else {
            return;
        };
        if is_work && job.state == JobState::Queued {
            assert_eq!(
                environment.phase,
                Phase::Running,
                "work begins in a running environment only"
            );
            assert_eq!(environment.uid, job.uid);
        }
        self.save(leased);
        if job.input.kind() == JobKind::Create
            && let Ok(creating) =
                environment.apply(job.generation, &EnvironmentEvent::Creating, self.now())
        {
            self.environment = Some(creating);
        }
    }

    fn finish(&mut self, job: &Job, end: End) {
        let reason = Reason::new("failed", "it failed");
        let reached = match job.input.kind() {
            JobKind::Create | JobKind::Start => Some(EnvironmentEvent::Running {
                incarnation: given::incarnation(self.steps as u64),
                container: "c".to_owned(),
                restarts: 0,
                place: None,
                limits_not_enforced: Vec::new(),
            }),
            JobKind::Stop => Some(EnvironmentEvent::Stopped),
            JobKind::Delete => Some(EnvironmentEvent::Deleted),
            _ => None,
        };
        let is_lifecycle = reached.is_some();
        let failed = EnvironmentEvent::Failed(reason);
        let (outcome, event) = match end {
            End::Done => (Outcome::success(JobResult::Lifecycle {}), reached),
            End::Failed => (
                Outcome::failure("x", "y"),
                Some(failed).filter(|_| is_lifecycle),
            ),
            End::Silent => (Outcome::failure("x", "y"), None),
            End::CancelledAfterAll => (
                Outcome {
                    state: JobState::Cancelled,
                    ..Outcome::failure("cancelled", "y")
                },
                reached,
            ),
        };
        let ended = job
            .finish(job.fence, outcome, self.now())
            .expect("it is held");
        self.save(ended.clone());
        self.ended(&ended, event.as_ref());
    }

    fn ended(&mut self, job: &Job, event: Option<&EnvironmentEvent>) {
        if job.input.kind().lifecycle().is_none() && event.is_none() {
            return;
        }
        let environment = self.environment.clone().expect("jobs have one");
        self.environment = conclude(&environment, job, event, self.now()).or(Some(environment));
        self.settle_all();
    }

    fn hand_back(&mut self, job: &Job) {
        let free = job
            .hand_back(job.fence, Begun::Perhaps)
            .expect("it is held");
        let environment = self.environment.clone().expect("jobs have one");
        let settled = settle(&environment, std::slice::from_ref(&free), self.now());
        self.save(settled.into_iter().next().unwrap_or(free));
    }

    fn cancel(&mut self, job: &Job) {
        let request = CancelRequest {
            signal: 0,
            grace_seconds: 0,
            code: "cancelled".to_owned(),
            message: "on request".to_owned(),
        };
        let changed = job
            .request_cancel(request, self.now())
            .expect("it has not ended");
        self.save(changed.clone());
        if changed.state.is_terminal() {
            self.ended(&changed, None);
        }
    }

    fn fault(&mut self) {
        let Some(environment) = &self.environment else {
            return;
        };
        let Some(incarnation) = environment.incarnation.clone() else {
            return;
        };
        let event = EnvironmentEvent::Fault {
            incarnation,
            reason: Reason::new("pid1_gone", "it went away"),
        };
        if let Ok(changed) = environment.apply(environment.generation, &event, self.now()) {
            self.environment = Some(changed);
            self.settle_all();
        }
    }

    fn run(&mut self, step: &Step) {
        self.steps += 1;
        let open = |job: &Job| !job.state.is_terminal();
        let held = |job: &Job| job.lease.is_some();
        match step {
            Step::Submit(kind) => self.submit(*kind),
            Step::Lease(index) => {
                if let Some(job) = self.pick(*index, |job| open(job) && !held(job)) {
                    self.lease(&job, None);
                }
            }
            Step::TakeOver(index) => {
                if let Some(job) = self.pick(*index, held) {
                    self.lease(&job, Some(job.fence));
                }
            }
            Step::HandBack(index) => {
                if let Some(job) = self.pick(*index, held) {
                    self.hand_back(&job);
                }
            }
            Step::Finish(index, end) => {
                if let Some(job) = self.pick(*index, held) {
                    self.finish(&job, *end);
                }
            }
            Step::Late(index) => {
                if let Some(job) = self.pick(*index, |job| job.fence > Fence(0)) {
                    let late = Fence(job.fence.0 - 1);
                    let outcome = Outcome::failure("late", "late");
                    assert!(job.finish(late, outcome, self.now()).is_err());
                    assert!(job.hand_back(late, Begun::Never).is_err());
                }
            }
            Step::Cancel(index) => {
                if let Some(job) = self.pick(*index, open) {
                    self.cancel(&job);
                }
            }
            Step::Fault => self.fault(),
        }
    }

    /// What must hold after every step.
    fn is_sound(&self) {
        let open = self.open();
        let lifecycle = |job: &&Job| job.input.kind().lifecycle().is_some();
        let leased = open
            .iter()
            .filter(lifecycle)
            .filter(|job| job.lease.is_some())
            .count();
        assert!(leased <= 1, "lifecycle jobs run one at a time");
        let mut takeable = open.iter().filter(lifecycle).filter(|job| job.runnable);
        let first = open
            .iter()
            .filter(lifecycle)
            .map(|job| job.generation)
            .min();
        assert!(
            takeable.all(|job| Some(job.generation) == first),
            "in order of generation"
        );
        let Some(environment) = &self.environment else {
            return;
        };
        let again = settle(environment, &open, self.now());
        assert_eq!(
            again,
            [],
            "settling is done after each step, and doing it again changes nothing"
        );
        let led = open
            .iter()
            .filter(lifecycle)
            .any(|job| job.generation == environment.generation);
        let on_its_way = matches!(
            environment.phase,
            Phase::Pending | Phase::Creating | Phase::Stopping | Phase::Deleting
        );
        assert_eq!(led, on_its_way, "{:?} with {open:#?}", environment.phase);
        for job in open
            .iter()
            .filter(|job| job.input.kind().lifecycle().is_none())
        {
            let waits = job.state == JobState::Queued;
            let ready = environment.phase == Phase::Running;
            assert!(
                !waits || job.runnable == ready,
                "it waits exactly while its environment is not ready"
            );
            assert!(!waits || job.uid == environment.uid);
            let alone = settle(environment, std::slice::from_ref(job), self.now());
            assert_eq!(alone, [], "what is decided of it depends on itself alone");
        }
    }

    /// Workers take and end what they can until nothing is left to be done.
    fn quiesce(&mut self) {
        loop {
            self.steps += 1;
            let next = self
                .open()
                .into_iter()
                .find(|job| job.lease.is_some() || job.runnable);
            let Some(job) = next else { return };
            if job.lease.is_some() {
                self.finish(&job, End::Done);
            } else {
                self.lease(&job, None);
            }
            self.is_sound();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_job_ends_once_and_nothing_waits_for_ever(steps in prop::collection::vec(step(), 1..80)) {
        let mut model = Model::default();
        for step in &steps {
            model.run(step);
            model.is_sound();
        }
        model.quiesce();
        let open = model.open();
        prop_assert!(open.is_empty(), "stuck: {open:#?} in {:#?}", model.environment);
        prop_assert!(model.jobs.iter().all(|job| model.ends.get(&job.id) == Some(&1)));
        if let Some(environment) = &model.environment {
            let phase = environment.phase;
            let rests = matches!(phase, Phase::Running | Phase::Stopped | Phase::Failed | Phase::Deleted);
            prop_assert!(rests, "{phase:?}");
        }
    }
}
