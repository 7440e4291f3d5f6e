//! What was acknowledged is there: after a drop, after `kill -9`, whatever failed beside it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use shared::data_dir::{DataDirError, data_lock};
use shared::ids::{JobId, JobRef, TenantId};
use shared::job::{JobInput, JobState, Outcome};
use shared::output::{Offsets, Stream};
use shared::ports::{LeaseAttempt, StoreError};
use tests::conformance::store::given::{
    Given, all_at_once, chunk, completion, content, environment, exec_input, key, result_of, worker,
};

use super::{fresh, open};

/// Rounds of commits, each ended by a kill.
const KILLS: u64 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opened_again_holds_everything() {
    let (folder, given) = fresh();
    let path = folder.path().join("store.db");
    let at = given.running("e").await;
    let done = given.done(&at, exec_input("true")).await;
    let leased = given.exec(&at).await;
    let leased = given.lease(&leased).await.job;
    let output = vec![chunk(Stream::Stderr, 3, content(3, 100))];
    given
        .store
        .append_output(&leased.at(), leased.fence, output)
        .await
        .expect("appended");
    let keyed = given
        .submit_keyed(&at, exec_input("true"), key("k", "s", 1))
        .await
        .expect("accepted")
        .job;
    given.store.beat(&worker("w")).await.expect("beats");
    given
        .store
        .take_role("sweeper", &worker("w"), None)
        .await
        .expect("taken");
    let instance = given.store.instance().await.expect("an id");
    let (environment, jobs) = (
        given.environment(&at).await,
        given.store.open_jobs(&at).await.expect("works"),
    );
    drop(given);

    let given = Given::at_present(open(&path));
    assert_eq!(given.store.instance().await.expect("an id"), instance);
    assert_eq!(given.environment(&at).await, environment);
    assert_eq!(given.store.open_jobs(&at).await.expect("works"), jobs);
    assert_eq!(given.job(&done).await, done);
    let replay = given
        .submit_keyed(&at, exec_input("true"), key("k", "s", 1))
        .await;
    assert_eq!(replay.expect("a replay").job, keyed);
    assert_eq!(given.store.beats().await.expect("works").len(), 1);
    let holder = given.store.role("sweeper").await.expect("works");
    assert_eq!(holder.map(|holder| holder.owner), Some(worker("w")));
    let window = given
        .store
        .output(&leased.at(), Offsets::default(), 1000)
        .await;
    assert_eq!(
        window.expect("a window"),
        [chunk(Stream::Stderr, 3, content(3, 100))]
    );
    given
        .finish(&leased, completion(Outcome::success(result_of(""))))
        .await;
}

/// A process that commits, ended with the test however that ends.
struct Writer {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Writer {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_store_writer"))
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut out = BufReader::new(child.stdout.take().expect("its output"));
        let (tell, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // A line that a kill cut off was not told.
            while out.read_line(&mut line).is_ok_and(|size| size > 0) && line.ends_with('\n') {
                if tell.send(line.trim_end().to_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Self { child, lines }
    }

    fn next_line(&self) -> String {
        self.lines
            .recv_timeout(Duration::from_secs(60))
            .expect("it tells something")
    }

    /// Kills it and returns all that it told.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("killed");
        self.child.wait().expect("it ends");
        std::iter::from_fn(|| self.lines.recv_timeout(Duration::from_secs(60)).ok()).collect()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_kill_9() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut told = Vec::new();
    for round in 0..KILLS {
        let writer = Writer::start(folder.path());
        assert_eq!(writer.next_line(), "locked");
        if round > 0 {
            // Not before it works, then at any moment.
            told.push(writer.next_line());
        }
        let pause = Duration::from_millis(rand::random_range(0..120));
        tokio::time::sleep(pause).await;
        told.extend(writer.kill());
        verify(folder.path(), &told).await;
    }
    let finished = told
        .iter()
        .filter(|line| line.starts_with("finished"))
        .count();
    assert!(finished > 0, "it committed something: {} lines", told.len());
    let db = rusqlite::Connection::open(folder.path().join("store.db")).expect("opens");
    let sound: String = db
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("checked");
    assert_eq!(sound, "ok");
}

async fn verify(folder: &Path, told: &[String]) {
    let store = open(&folder.join("store.db"));
    for line in told {
        let mut words = line.split(' ');
        let (what, id) = (words.next().expect("a word"), words.next().expect("an id"));
        let at = JobRef {
            tenant: TenantId::default_tenant(),
            job: id.parse::<JobId>().expect("a job id"),
        };
        let job = store
            .job(&at)
            .await
            .expect("works")
            .unwrap_or_else(|| panic!("{line}: not there"));
        let end = store.output_end(&at).await.expect("works").stdout;
        match what {
            "submitted" => {}
            "output" => assert!(end >= 1000, "{line}: {end}"),
            "finished" => assert_eq!((job.state, end), (JobState::Succeeded, 1500), "{line}"),
            other => panic!("{other}"),
        }
        // Whole commits only: the end of a job and its last bytes came together.
        assert_eq!(job.state == JobState::Succeeded, end == 1500, "{line}");
    }
}

#[tokio::test]
async fn a_data_folder_has_one_owner_until_it_dies() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("data");
    let writer = Writer::start(&folder);
    assert_eq!(writer.next_line(), "locked");
    let refused = data_lock(&folder).expect_err("it is held");
    let owner = writer.child.id().to_string();
    assert!(
        refused.to_string().contains(&format!("process {owner}:")),
        "{refused}"
    );
    assert!(matches!(refused, DataDirError::Held { .. }));
    writer.kill();
    let lock = data_lock(&folder).expect("free again");
    let refused = data_lock(&folder).expect_err("it is held").to_string();
    assert!(
        refused.contains(&std::process::id().to_string()),
        "{refused}"
    );
    drop(lock);
    data_lock(&folder).expect("free again");
    let no_folder = data_lock(Path::new("/proc/none")).expect_err("it cannot be made");
    assert!(matches!(no_folder, DataDirError::Io { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_in_a_batch_undoes_only_itself() {
    let (_folder, given) = fresh();
    let at = given.running("e").await;
    let answers = all_at_once(64, |number| {
        let (given, at) = (given.clone(), at.clone());
        async move {
            let job = given.exec(&at).await;
            let job = given.lease(&job).await.job;
            let beyond = if number % 2 == 0 { u64::MAX } else { 4 };
            let chunks = vec![
                chunk(Stream::Stdout, 0, "here"),
                chunk(Stream::Stdout, beyond, "there"),
            ];
            let answer = given
                .store
                .append_output(&job.at(), job.fence, chunks)
                .await;
            (job, answer)
        }
    })
    .await;
    for (number, (job, answer)) in answers.into_iter().enumerate() {
        let end = given
            .store
            .output_end(&job.at())
            .await
            .expect("works")
            .stdout;
        if number % 2 == 0 {
            assert!(matches!(answer, Err(StoreError::Corrupt(_))), "{answer:?}");
            assert_eq!(end, 0, "the first chunk went with the second");
        } else {
            answer.expect("appended");
            assert_eq!(end, 9);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_caller_harms_nobody() {
    let (_folder, given) = fresh();
    let at = given.running("e").await;
    for _ in 0..50 {
        let submission = given.submission(&at, exec_input("true"));
        let submit = given.store.submit(submission, given.now());
        // Given up at any point of its way.
        let _ =
            tokio::time::timeout(Duration::from_micros(rand::random_range(0..500)), submit).await;
    }
    let create = given.submit(&environment("f"), JobInput::Create {}).await;
    assert!(create.publish);
    for job in given.store.open_jobs(&at).await.expect("works") {
        let attempt = given.try_lease(&job.at(), "w").await;
        assert!(matches!(attempt, LeaseAttempt::Leased(_)), "{attempt:?}");
    }
}
