//! What a service remembers, moved into the past while it does not run.

use rusqlite::Connection;

use super::Program;

/// Lets every job of a kind that has ended have ended a year earlier.
pub fn all_ended_long_ago(program: &Program, kind: &str) {
    let file = program.folder().path().join("environment-manager.db");
    Connection::open(file)
        .expect("opens")
        .execute(
            "UPDATE jobs SET finished_at = finished_at - 365 * 86400 * 1000000
             WHERE kind = ?1 AND finished_at IS NOT NULL",
            [kind],
        )
        .expect("changed");
}
