//! No sequence of events lowers an environment's generation, revives a life that ended, or lets a late worker undo what
//! was asked for since.

use proptest::prelude::*;
use shared::environment::{Environment, EnvironmentEvent, Lifecycle, Phase, Reason};
use shared::ids::Generation;

use crate::given;

#[derive(Debug, Clone)]
enum Step {
    Create,
    Accept(Lifecycle),
    /// An event of a generation so far back, or ahead where it is negative.
    Apply {
        behind: i64,
        event: EnvironmentEvent,
    },
}

fn event() -> impl Strategy<Value = EnvironmentEvent> {
    let reason = || Just(Reason::new("x", "y"));
    let noted = prop_oneof![Just("x"), Just("z"), Just(Reason::BEING_KILLED)];
    prop_oneof![
        Just(EnvironmentEvent::Creating),
        (0u64..3).prop_map(|number| EnvironmentEvent::Running {
            incarnation: given::incarnation(number),
            container: "c".to_owned(),
            restarts: 0,
            place: None,
            limits_not_enforced: Vec::new(),
        }),
        Just(EnvironmentEvent::Stopped),
        Just(EnvironmentEvent::Deleted),
        reason().prop_map(EnvironmentEvent::Failed),
        (0u64..3, reason()).prop_map(|(number, reason)| EnvironmentEvent::Fault {
            incarnation: given::incarnation(number),
            reason,
        }),
        (0u64..3, 0u64..3, reason()).prop_map(|(number, next, reason)| {
            EnvironmentEvent::Restarted {
                incarnation: given::incarnation(number),
                next: given::incarnation(next),
                restarts: 1,
                reason,
            }
        }),
        noted
            .clone()
            .prop_map(|code| EnvironmentEvent::Note(Reason::new(code, "y"))),
        noted.prop_map(|code| EnvironmentEvent::Passed {
            code: code.to_owned(),
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Create),
        2 => prop::sample::select(vec![Lifecycle::Create, Lifecycle::Start, Lifecycle::Stop, Lifecycle::Delete])
            .prop_map(Step::Accept),
        5 => (prop_oneof![4 => Just(0i64), 1 => -2i64..4], event())
            .prop_map(|(behind, event)| Step::Apply { behind, event }),
    ]
}

fn is_sound(environment: &Environment) {
    let reachable = environment.incarnation.is_some();
    assert_eq!(reachable, environment.container.is_some());
    match environment.phase {
        Phase::Running => assert!(reachable),
        Phase::Stopping | Phase::Deleting => {}
        _ => assert!(!reachable, "{:?}", environment.phase),
    }
    assert!(environment.generation > Generation(0));
    let secrets = &environment.spec.env.0;
    assert_eq!(
        secrets.is_empty(),
        environment.phase == Phase::Deleted,
        "secrets live as long as their environment"
    );
}

/// The events are made up: a start may be followed by itself.
fn is_same_start_again(event: &EnvironmentEvent) -> bool {
    matches!(event, EnvironmentEvent::Restarted { incarnation, next, .. } if incarnation == next)
}

fn follows(before: &Environment, step: &Step, after: &Environment) {
    match step {
        Step::Create => {
            assert_eq!(
                before.phase,
                Phase::Deleted,
                "only a life that ended makes room for the next"
            );
            assert_ne!(before.uid, after.uid);
            assert_eq!(after.generation, before.generation.next());
        }
        Step::Accept(lifecycle) => {
            assert!(!matches!(before.phase, Phase::Deleted | Phase::Deleting));
            assert_ne!(*lifecycle, Lifecycle::Create);
            assert_eq!(after.generation, before.generation.next());
            assert_eq!((&before.uid, &before.spec), (&after.uid, &after.spec));
        }
        Step::Apply { behind, event } => {
            assert_eq!(
                (before.generation, &before.uid),
                (after.generation, &after.uid)
            );
            assert_ne!(
                before.phase,
                Phase::Deleted,
                "nothing happens to what is gone"
            );
            if let EnvironmentEvent::Fault { incarnation, .. }
            | EnvironmentEvent::Restarted { incarnation, .. } = event
            {
                assert_eq!(before.incarnation.as_ref(), Some(incarnation));
            } else {
                assert_eq!(*behind, 0, "what a later request overtook changes nothing");
            }
            if before.is_being_killed() && !after.is_being_killed() {
                let called_off = matches!(event, EnvironmentEvent::Passed { .. });
                let went = after.incarnation != before.incarnation;
                assert!(
                    called_off || went || is_same_start_again(event),
                    "{event:?}"
                );
            }
            if before.phase == Phase::Deleting {
                let phase = after.phase;
                assert!(
                    matches!(phase, Phase::Deleting | Phase::Deleted | Phase::Failed),
                    "{phase:?}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_life_goes_forward(steps in prop::collection::vec(step(), 1..60)) {
        let create = |former: Option<&Environment>, number: usize| {
            let id = given::job_id(number as u64);
            Environment::create(given::environment(), former, given::spec(), id, given::time(number))
        };
        let mut environment = create(None, 0).expect("accepted");
        is_sound(&environment);
        for (number, step) in steps.iter().enumerate() {
            let now = given::time(number + 1);
            let after = match step {
                Step::Create => create(Some(&environment), number + 1).ok(),
                Step::Accept(lifecycle) => environment.accept(*lifecycle, now).ok(),
                Step::Apply { behind, event } => {
                    let generation = environment.generation.0.checked_add_signed(-behind);
                    generation.and_then(|generation| {
                        environment.apply(Generation(generation), event, now).ok()
                    })
                }
            };
            let Some(after) = after else { continue };
            follows(&environment, step, &after);
            is_sound(&after);
            environment = after;
        }
    }

    #[test]
    fn whatever_happened_it_can_be_deleted(steps in prop::collection::vec(step(), 0..40)) {
        let mut environment =
            Environment::create(given::environment(), None, given::spec(), given::job_id(0), given::time(0))
                .expect("accepted");
        for (number, step) in steps.iter().enumerate() {
            let now = given::time(number);
            let after = match step {
                Step::Create => continue,
                Step::Accept(lifecycle) => environment.accept(*lifecycle, now).ok(),
                Step::Apply { event, .. } => environment.apply(environment.generation, event, now).ok(),
            };
            environment = after.unwrap_or(environment);
        }
        let now = given::time(100);
        if let Ok(deleting) = environment.accept(Lifecycle::Delete, now) {
            environment = deleting;
        }
        if environment.phase == Phase::Deleting {
            environment = environment
                .apply(environment.generation, &EnvironmentEvent::Deleted, now)
                .expect("a delete is never stale");
        }
        prop_assert_eq!(environment.phase, Phase::Deleted);
        is_sound(&environment);
    }
}
