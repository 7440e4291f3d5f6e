//! Standard input, tried with random writes and takes.

use proptest::prelude::*;
use shared::admission::{Admitted, admit};
use shared::job::{Job, JobInput};
use shared::stdin::{BACKLOG_BYTES, Intake, StdinRefusal, StdinWrite};

use crate::given::{exec, request, time};

/// A command whose input is open and empty so far.
fn job() -> Job {
    let Ok(Admitted::New { environment, .. }) =
        admit(None, request(1, JobInput::Create {}), time(0))
    else {
        panic!("a create is accepted");
    };
    let JobInput::Exec(mut input) = exec() else {
        panic!("it is a command");
    };
    input.stdin_open = true;
    let request = request(2, JobInput::Exec(input));
    match admit(environment.as_deref(), request, time(1)) {
        Ok(Admitted::New { job, .. }) => *job,
        other => panic!("not accepted: {other:?}"),
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Bytes from somewhere around the end of what was accepted.
    Write {
        back: u64,
        ahead: u64,
        length: usize,
        eof: bool,
    },
    Append {
        length: usize,
    },
    Take {
        upto: u64,
        broken: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        16 => (0..20_u64, 0..2_u64, 0..40_usize, prop::bool::weighted(0.05)).prop_map(
            |(back, ahead, length, eof)| Step::Write { back, ahead, length, eof }
        ),
        8 => (0..40_usize).prop_map(|length| Step::Append { length }),
        12 => (0..400_u64, prop::bool::weighted(0.05)).prop_map(
            |(upto, broken)| Step::Take { upto, broken }
        ),
        1 => Just(Step::Append { length: usize::try_from(BACKLOG_BYTES).unwrap() }),
    ]
}

/// The byte at an offset of what the caller means to write.
fn byte(offset: u64) -> u8 {
    offset.wrapping_mul(31).to_le_bytes()[0]
}

fn bytes(from: u64, length: usize) -> Vec<u8> {
    (from..from + length as u64).map(byte).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_byte_is_accepted_once_and_in_order(steps in prop::collection::vec(step(), 0..60)) {
        let job = job();
        let mut intake = Intake::at_first(&job);
        let mut log: Vec<u8> = Vec::new();
        for step in steps {
            let before = intake;
            let (offset, length, eof) = match step {
                Step::Take { upto, broken } => {
                    intake = intake.took(upto, broken);
                    prop_assert!(intake.taken >= before.taken && intake.taken <= intake.accepted);
                    prop_assert_eq!(intake.accepted, before.accepted);
                    continue;
                }
                Step::Append { length } => (None, length, false),
                Step::Write { back, ahead, length, eof } => {
                    (Some(before.accepted.saturating_sub(back) + ahead), length, eof)
                }
            };
            let data = bytes(offset.unwrap_or(before.accepted), length).into();
            match intake.offer(&job, StdinWrite { offset, data, eof }) {
                Ok(accepted) => {
                    log.extend_from_slice(&accepted.news);
                    intake = accepted.intake;
                    prop_assert_eq!(intake.accepted, log.len() as u64);
                    prop_assert!(intake.accepted - intake.taken <= BACKLOG_BYTES);
                    prop_assert!(accepted.news.is_empty() || !(before.closed || before.broken));
                }
                Err(StdinRefusal::Gap(next)) => {
                    prop_assert_eq!(next, before.accepted);
                    prop_assert!(offset.is_some_and(|offset| offset > next));
                }
                Err(StdinRefusal::Closed) => prop_assert!(before.closed || before.broken),
                Err(StdinRefusal::Full) => {
                    prop_assert!(before.accepted + length as u64 > before.taken + BACKLOG_BYTES);
                }
                Err(refusal) => prop_assert!(false, "{:?}", refusal),
            }
        }
        prop_assert!(log == bytes(0, log.len()));
    }
}
