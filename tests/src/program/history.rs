//! What a service remembers, moved into the past while it does not run.

use rusqlite::Connection;
use uuid::Uuid;

use super::Program;

const HOUR: i64 = 3600 * 1_000_000;

/// Lets a job that has ended have ended so many hours earlier.
pub fn ended_earlier(program: &Program, job: &str, hours: i64) {
    let job: Uuid = job.parse().expect("a job's id");
    let changed = store(program)
        .execute(
            "UPDATE jobs SET finished_at = finished_at - ?2
             WHERE id = ?1 AND finished_at IS NOT NULL",
            (job.as_bytes(), hours * HOUR),
        )
        .expect("changed");
    assert_eq!(changed, 1, "{job} has ended");
}

/// Lets every job of a kind that has ended have ended a year earlier.
pub fn all_ended_long_ago(program: &Program, kind: &str) {
    store(program)
        .execute(
            "UPDATE jobs SET finished_at = finished_at - ?2
             WHERE kind = ?1 AND finished_at IS NOT NULL",
            (kind, 365 * 24 * HOUR),
        )
        .expect("changed");
}

/// The pieces of output that the store holds of a job.
pub fn pieces_of_output(program: &Program, job: &str) -> i64 {
    let job: Uuid = job.parse().expect("a job's id");
    let count = "SELECT count(*) FROM output WHERE job = ?1";
    store(program)
        .query_row(count, [job.as_bytes()], |row| row.get(0))
        .expect("a number")
}

fn store(program: &Program) -> Connection {
    let file = program.folder().path().join("environment-manager.db");
    Connection::open(file).expect("opens")
}
