//! Commits to a SQLite store as fast as it can and tells each commit that was acknowledged, until it is killed.
//!
//! `store_writer DATA_DIR` takes the folder's lock, then writes lines: `locked`, then `submitted JOB`,
//! `output JOB END`, `finished JOB`.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a part of tests: what is wrong shall end it"
)]

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use shared::clock::SystemClock;
use shared::data_dir::data_lock;
use shared::ids::EnvironmentRef;
use shared::job::Outcome;
use shared::output::Stream;
use shared::sqlite::SqliteStore;
use tests::conformance::store::given::{Given, chunk, completion, content, exec_input, result_of};

/// Tasks that commit at the same time.
const TASKS: usize = 16;

fn tell(line: &str) {
    // One write for a whole line: the reader takes only whole lines as told.
    let line = format!("{line}\n");
    std::io::stdout()
        .write_all(line.as_bytes())
        .expect("the reader is there");
}

async fn work(given: Given, at: EnvironmentRef) {
    loop {
        let job = given.submit(&at, exec_input("true")).await.job;
        tell(&format!("submitted {}", job.id));
        let job = given.lease(&job).await.job;
        let output = vec![chunk(Stream::Stdout, 0, content(0, 1000))];
        given
            .store
            .append_output(&job.at(), job.fence, output)
            .await
            .expect("appended");
        tell(&format!("output {} 1000", job.id));
        let mut end = completion(Outcome::success(result_of("done")));
        end.chunks = vec![chunk(Stream::Stdout, 1000, content(1000, 500))];
        given.finish(&job, end).await;
        tell(&format!("finished {}", job.id));
    }
}

#[tokio::main]
async fn main() {
    let folder = PathBuf::from(std::env::args_os().nth(1).expect("a folder"));
    let _lock = data_lock(&folder).expect("the lock");
    tell("locked");
    let store = SqliteStore::open(&folder.join("store.db"), &SystemClock).expect("the store opens");
    let given = Given::at_present(Arc::new(store));
    // Of its own: the one of a process that was killed may not be running yet.
    let at = given.running(&format!("e-{}", std::process::id())).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| tokio::spawn(work(given.clone(), at.clone())))
        .collect();
    for task in tasks {
        task.await.expect("a task works until the end");
    }
}
