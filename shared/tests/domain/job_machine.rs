//! No sequence of events leaves a job's terminal state, makes two of them, or lowers its fence.

use proptest::prelude::*;
use shared::admission::{Admitted, admit};
use shared::environment::Environment;
use shared::ids::Fence;
use shared::job::{Begun, CancelRequest, Job, JobInput, JobRefusal, JobState, Outcome};

use crate::given;

/// Which fence a write carries, measured against the job's own.
#[derive(Debug, Clone, Copy)]
enum Carried {
    Current,
    Older(u64),
    Newer(u64),
}

#[derive(Debug, Clone)]
enum Event {
    Lease {
        owner: u8,
        replaces: Option<Carried>,
    },
    HandBack(Carried, Begun),
    Finish(Carried, JobState),
    EndUnstarted(JobState),
    Cancel(String),
    Runnable(bool),
}

fn carried() -> impl Strategy<Value = Carried> {
    prop_oneof![
        3 => Just(Carried::Current),
        1 => (1u64..4).prop_map(Carried::Older),
        1 => (1u64..4).prop_map(Carried::Newer),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let state = || prop::sample::select(JobState::ALL.to_vec());
    prop_oneof![
        4 => (any::<u8>(), prop::option::of(carried()))
            .prop_map(|(owner, replaces)| Event::Lease { owner, replaces }),
        2 => (carried(), prop::sample::select(vec![Begun::Never, Begun::Perhaps]))
            .prop_map(|(fence, begun)| Event::HandBack(fence, begun)),
        1 => (carried(), state()).prop_map(|(fence, state)| Event::Finish(fence, state)),
        1 => state().prop_map(Event::EndUnstarted),
        1 => "[a-z]{1,3}".prop_map(Event::Cancel),
        3 => any::<bool>().prop_map(Event::Runnable),
    ]
}

impl Carried {
    fn fence(self, job: &Job) -> Fence {
        match self {
            Self::Current => job.fence,
            Self::Older(by) => Fence(job.fence.0.saturating_sub(by)),
            Self::Newer(by) => Fence(job.fence.0 + by),
        }
    }
}

fn outcome(state: JobState) -> Outcome {
    Outcome {
        state,
        ..Outcome::failure("x", "y")
    }
}

fn apply(job: &Job, event: &Event, step: usize) -> Result<Job, JobRefusal> {
    let now = given::time(step);
    match event {
        Event::Lease { owner, replaces } => job.lease(
            given::worker(*owner),
            Some(given::incarnation(step as u64)),
            replaces.map(|carried| carried.fence(job)),
            now,
        ),
        Event::HandBack(carried, begun) => job.hand_back(carried.fence(job), *begun),
        Event::Finish(carried, state) => job.finish(carried.fence(job), outcome(*state), now),
        Event::EndUnstarted(state) => job.end_unstarted(outcome(*state), now),
        Event::Cancel(code) => job.request_cancel(
            CancelRequest {
                signal: 0,
                grace_seconds: 0,
                code: code.clone(),
                message: String::new(),
            },
            now,
        ),
        // What settling does to a job that nobody holds.
        Event::Runnable(runnable) if job.lease.is_none() && !job.state.is_terminal() => Ok(Job {
            runnable: *runnable,
            ..job.clone()
        }),
        Event::Runnable(_) => Ok(job.clone()),
    }
}

/// What must hold of every job at any time.
fn is_sound(job: &Job) {
    let ended = job.state.is_terminal();
    assert_eq!(ended, job.finished_at.is_some());
    assert!(
        !ended || (job.lease.is_none() && !job.runnable),
        "what has ended is held by nobody"
    );
    assert_eq!(
        job.state == JobState::Queued,
        job.fence == Fence(0) && !ended,
        "queued until its first lease"
    );
    assert_eq!(job.started_at.is_some(), job.fence > Fence(0));
    assert!(u64::from(job.attempts) <= job.fence.0);
    assert!(job.state != JobState::Queued || job.lease.is_none());
    if let Some(lease) = &job.lease {
        assert_eq!(lease.incarnation, job.incarnation);
    }
}

/// What must hold between a job and what became of it.
fn follows(before: &Job, event: &Event, after: &Job) {
    assert!(after.fence >= before.fence, "a fence never falls");
    if before.state.is_terminal() {
        assert_eq!(before, after, "a terminal state is never left");
    }
    assert_ne!(
        (before.state, after.state),
        (JobState::Running, JobState::Queued)
    );
    if let Event::HandBack(_, Begun::Never) = event {
        assert_eq!(after.incarnation, None, "it is bound to no start of PID 1");
    } else if before.incarnation.is_some() {
        assert_eq!(
            before.incarnation, after.incarnation,
            "where it may have started stays"
        );
    }
    if before.cancel.is_some() {
        assert_eq!(before.cancel, after.cancel, "the first wish counts");
    }
    if before.started_at.is_some() {
        assert_eq!(before.started_at, after.started_at);
    }
    assert_eq!(
        (before.id, &before.input, before.created_at),
        (after.id, &after.input, after.created_at)
    );
    let held_before = before.lease.is_some();
    match event {
        Event::Lease { .. } => {
            assert_eq!(after.fence, before.fence.next());
            let resumed = after.lease.as_ref().map(|lease| lease.resumed);
            assert_eq!(resumed, Some(before.incarnation.is_some()));
        }
        Event::HandBack(Carried::Current, _) => assert!(held_before && after.runnable),
        Event::Finish(Carried::Current, _) => assert!(held_before && after.state.is_terminal()),
        Event::HandBack(..) | Event::Finish(..) => {
            panic!("a write that carries another fence is refused")
        }
        Event::EndUnstarted(_) => assert_eq!(before.state, JobState::Queued),
        Event::Cancel(_) | Event::Runnable(_) => assert_eq!(after.fence, before.fence),
    }
}

fn new_job() -> Job {
    let request = given::request(1, JobInput::Create {});
    let admitted = admit(None::<&Environment>, request, given::time(0)).expect("accepted");
    match admitted {
        Admitted::New { job, .. } => Job {
            input: given::exec(),
            ..*job
        },
        Admitted::Existing(_) => panic!("nothing exists yet"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_job_ends_once_and_its_fence_only_grows(events in prop::collection::vec(event(), 0..40)) {
        let mut job = new_job();
        let mut ends = 0;
        is_sound(&job);
        for (step, event) in events.iter().enumerate() {
            let Ok(after) = apply(&job, event, step) else { continue };
            let stale = matches!(
                event,
                Event::HandBack(Carried::Older(_), _) | Event::Finish(Carried::Older(_), _)
            );
            prop_assert!(!stale || job.fence == Fence(0), "a stale fence was let through");
            follows(&job, event, &after);
            is_sound(&after);
            ends += u32::from(after.state.is_terminal() && !job.state.is_terminal());
            job = after;
        }
        prop_assert!(ends <= 1);
    }

    #[test]
    fn only_the_fence_that_it_replaces_takes_a_held_job(by in 1u64..5, older: bool) {
        let mut job = new_job();
        job.runnable = true;
        let mut held = job;
        for owner in 0..6 {
            let replaces = held.lease.as_ref().map(|_| held.fence);
            held = held.lease(given::worker(owner), None, replaces, given::time(0)).expect("leased");
        }
        let wrong = if older { Fence(held.fence.0 - by) } else { Fence(held.fence.0 + by) };
        for replaces in [None, Some(wrong)] {
            let refused = held.lease(given::worker(9), None, replaces, given::time(1));
            prop_assert_eq!(refused, Err(JobRefusal::Held));
        }
    }
}
