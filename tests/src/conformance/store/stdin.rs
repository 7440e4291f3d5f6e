//! Standard input on its way to a command.

use shared::ids::Fence;
use shared::job::{Job, JobInput, Outcome};
use shared::octets::Octets;
use shared::ports::{Cutoffs, StdinError, StoreError};
use shared::stdin::{BACKLOG_BYTES, PIECE_BYTES, StdinRefusal, StdinWrite, Waiting};

use super::given::{
    Given, all_at_once, at_last, completion, content, environment, exec_input, result_of,
};

/// A command whose input is open and begins with `first`.
fn open_exec(first: &str) -> JobInput {
    let JobInput::Exec(mut exec) = exec_input("cat") else {
        unreachable!("it is a command");
    };
    exec.stdin = Some(Octets::from(first.to_owned()));
    exec.stdin_open = true;
    JobInput::Exec(exec)
}

async fn running(given: &Given, first: &str) -> Job {
    let at = given.running("e").await;
    let job = given.submit(&at, open_exec(first)).await.job;
    given.lease(&job).await.job
}

async fn write(
    given: &Given,
    job: &Job,
    offset: Option<u64>,
    data: &[u8],
    eof: bool,
) -> Result<u64, StdinError> {
    let data = data.to_vec().into();
    let write = StdinWrite { offset, data, eof };
    given.store.write_stdin(&job.at(), write).await
}

async fn waiting(given: &Given, job: &Job, from: u64, limit: u64) -> Waiting {
    given
        .store
        .stdin(&job.at(), from, limit)
        .await
        .expect("works")
}

fn refusal(result: Result<u64, StdinError>) -> StdinRefusal {
    match result {
        Err(StdinError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

pub(super) async fn input_is_a_log_that_goes_as_it_is_taken(given: &Given) {
    let job = running(given, "0123").await;
    assert_eq!(
        waiting(given, &job, 0, 100).await,
        Waiting {
            start: 4,
            ..Waiting::default()
        }
    );
    assert_eq!(
        write(given, &job, None, b"abc", false)
            .await
            .expect("accepted"),
        7
    );
    assert_eq!(
        write(given, &job, Some(4), b"abc", false)
            .await
            .expect("known"),
        7
    );
    assert_eq!(
        write(given, &job, Some(6), b"cdef", false)
            .await
            .expect("accepted"),
        10
    );
    assert_eq!(
        refusal(write(given, &job, Some(11), b"x", false).await),
        StdinRefusal::Gap(10)
    );
    let seen = waiting(given, &job, 0, 100).await;
    assert_eq!(
        (seen.start, seen.data.as_ref(), seen.closed),
        (4, &b"abcdef"[..], false)
    );
    let seen = waiting(given, &job, 5, 3).await;
    assert_eq!((seen.start, seen.data.as_ref()), (5, &b"bcd"[..]));

    let taken = given
        .store
        .stdin_taken(&job.at(), job.fence, 8, false)
        .await;
    taken.expect("noted");
    let seen = waiting(given, &job, 0, 100).await;
    assert_eq!((seen.start, seen.data.as_ref()), (8, &b"ef"[..]));
    assert_eq!(
        write(given, &job, Some(10), b"", true)
            .await
            .expect("accepted"),
        10
    );
    assert!(waiting(given, &job, 0, 100).await.closed);
    assert!(!waiting(given, &job, 0, 1).await.closed, "bytes follow");
    assert_eq!(
        refusal(write(given, &job, None, b"g", false).await),
        StdinRefusal::Closed
    );
    assert_eq!(
        write(given, &job, Some(9), b"f", true)
            .await
            .expect("known"),
        10
    );
}

pub(super) async fn a_command_that_does_not_read_takes_only_so_much(given: &Given) {
    let job = running(given, "").await;
    let all = content(0, usize::try_from(BACKLOG_BYTES).unwrap() + PIECE_BYTES);
    let mut accepted = 0;
    let full = loop {
        let at = usize::try_from(accepted).unwrap();
        let piece = &all[at..at + PIECE_BYTES];
        match write(given, &job, Some(accepted), piece, false).await {
            Ok(next) => accepted = next,
            other => break refusal(other),
        }
    };
    assert_eq!((full, accepted), (StdinRefusal::Full, BACKLOG_BYTES));
    let (mut at, mut read) = (0, Vec::new());
    while at < accepted {
        let seen = waiting(given, &job, at, 100_000).await;
        assert!(!seen.data.is_empty() && seen.data.len() <= 100_000);
        read.extend_from_slice(&seen.data);
        at = seen.start + seen.data.len() as u64;
        let taken = given
            .store
            .stdin_taken(&job.at(), job.fence, at, false)
            .await;
        taken.expect("noted");
    }
    assert!(
        read == all[..read.len()],
        "what was read is what was written"
    );
    let next = write(given, &job, Some(accepted), b"more", false).await;
    assert_eq!(next.expect("there is room again"), accepted + 4);
}

pub(super) async fn input_is_taken_under_a_lease_alone(given: &Given) {
    let job = running(given, "").await;
    write(given, &job, None, b"abc", false)
        .await
        .expect("accepted");
    for fence in [Fence(0), job.fence.next()] {
        let taken = given.store.stdin_taken(&job.at(), fence, 3, false).await;
        assert!(matches!(taken, Err(StoreError::Fenced)), "{taken:?}");
    }
    assert_eq!(waiting(given, &job, 0, 9).await.data.as_ref(), b"abc");
    // Nobody reads any more: what waits goes, and nothing is accepted.
    let broken = given.store.stdin_taken(&job.at(), job.fence, 0, true).await;
    broken.expect("noted");
    assert_eq!(waiting(given, &job, 0, 9).await.data.as_ref(), b"");
    assert_eq!(
        refusal(write(given, &job, None, b"d", false).await),
        StdinRefusal::Closed
    );
    assert_eq!(
        write(given, &job, Some(0), b"abc", false)
            .await
            .expect("known"),
        3
    );
}

pub(super) async fn what_takes_no_input_says_why(given: &Given) {
    let at = given.running("e").await;
    let closed = given.exec(&at).await;
    assert_eq!(
        refusal(write(given, &closed, None, b"x", false).await),
        StdinRefusal::NotOpen
    );
    // It may be written before it is begun.
    let job = given.submit(&at, open_exec("")).await.job;
    write(given, &job, None, b"secret", false)
        .await
        .expect("accepted");
    let leased = given.lease(&job).await.job;
    given
        .finish(&leased, completion(Outcome::success(result_of(""))))
        .await;
    assert_eq!(
        refusal(write(given, &job, None, b"x", false).await),
        StdinRefusal::Ended
    );
    assert_eq!(
        waiting(given, &job, 0, 9).await.data.as_ref(),
        b"",
        "it goes with the end"
    );
    let mut none = job.clone();
    none.id = given.job_id();
    let missing = write(given, &none, None, b"x", false).await;
    assert!(matches!(missing, Err(StdinError::NoSuchJob)), "{missing:?}");
    assert_eq!(waiting(given, &none, 0, 9).await, Waiting::default());
}

pub(super) async fn a_write_that_is_repeated_after_the_end_is_known(given: &Given) {
    let job = running(given, "01").await;
    for (offset, data) in [(2, b"abc"), (5, b"def")] {
        let written = write(given, &job, Some(offset), data, false).await;
        assert_eq!(written.expect("accepted"), offset + 3);
    }
    given
        .finish(&job, completion(Outcome::success(result_of(""))))
        .await;
    for (offset, data) in [(2, &b"abc"[..]), (5, b"def"), (0, b"01abcdef"), (8, b"")] {
        let again = write(given, &job, Some(offset), data, false).await;
        assert_eq!(again.expect("known"), 8, "{offset}");
    }
    for (offset, data, eof) in [
        (Some(5), &b"defg"[..], false),
        (Some(9), b"", false),
        (None, b"", false),
        (Some(8), b"", true),
    ] {
        let refused = refusal(write(given, &job, offset, data, eof).await);
        assert_eq!(refused, StdinRefusal::Ended, "{offset:?}");
    }
    let closed = given.submit(&environment("e"), open_exec("")).await.job;
    let closed = given.lease(&closed).await.job;
    let written = write(given, &closed, Some(0), b"all", true).await;
    assert_eq!(written.expect("accepted"), 3);
    given
        .finish(&closed, completion(Outcome::success(result_of(""))))
        .await;
    let again = write(given, &closed, Some(0), b"all", true).await;
    assert_eq!(again.expect("known"), 3);
    let now = given.now();
    let cutoffs = Cutoffs {
        jobs_before: now,
        reads_before: now,
        keys_before: now,
    };
    given.store.prune(cutoffs, 100).await.expect("pruned");
    let gone = write(given, &closed, Some(0), b"all", true).await;
    assert!(matches!(gone, Err(StdinError::NoSuchJob)), "{gone:?}");
}

pub(super) async fn racing_writes_at_one_offset_are_one_write(given: &Given) {
    let job = running(given, "").await;
    let answers = all_at_once(8, |_| {
        let (given, job) = (given.clone(), job.clone());
        async move { write(&given, &job, Some(0), b"the same", false).await }
    })
    .await;
    for next in answers {
        assert_eq!(next.expect("accepted"), 8);
    }
    assert_eq!(
        waiting(given, &job, 0, 100).await.data.as_ref(),
        b"the same"
    );
}

pub(super) async fn input_wakes(given: &Given) {
    let job = running(given, "").await;
    let mut watch = given.store.watch(&job.at());
    write(given, &job, None, b"x", false)
        .await
        .expect("accepted");
    at_last("input wakes who feeds it", watch.changed()).await;
    let mut watch = given.store.watch(&job.at());
    let taken = given
        .store
        .stdin_taken(&job.at(), job.fence, 1, false)
        .await;
    taken.expect("noted");
    at_last("room wakes who writes", watch.changed()).await;
}
