//! The file itself: its mode, its schema, its damages.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rusqlite::Connection;
use shared::clock::SystemClock;
use shared::job::{JobInput, Outcome};
use shared::ports::{EnvironmentFilter, JobFilter, Label, ListError, StoreError, SubmitError};
use shared::sqlite::SqliteStore;
use tests::conformance::store::given::{
    Given, completion, environment, exec_input, page, result_of,
};

use super::{fresh, open};

fn refusal(path: &Path) -> String {
    SqliteStore::open(path, &SystemClock)
        .expect_err("it does not open")
        .to_string()
}

fn change(path: &Path, sql: &str) {
    Connection::open(path)
        .and_then(|db| db.execute_batch(sql))
        .expect("changed");
}

#[tokio::test]
async fn its_files_are_for_its_owner_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (new, old) = (folder.path().join("new.db"), folder.path().join("old.db"));
    std::fs::write(&old, b"").expect("written");
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o666)).expect("opened to all");
    for path in [new, old] {
        let given = Given::new(open(&path));
        given.running("e").await;
        for suffix in ["", "-wal", "-shm"] {
            let file = format!("{}{suffix}", path.display());
            let mode = std::fs::metadata(&file)
                .expect("it is there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    drop(open(&path));
    let own: i64 = rusqlite::Connection::open(&path)
        .and_then(|db| db.query_row("PRAGMA user_version", [], |row| row.get(0)))
        .expect("a version");
    change(&path, "PRAGMA user_version = 99");
    let why = refusal(&path);
    assert!(why.contains("99") && why.contains("newer"), "{why}");
    change(&path, &format!("PRAGMA user_version = {own}"));
    open(&path).check().await.expect("it works as before");
}

#[tokio::test]
async fn what_is_no_database_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("text");
    std::fs::write(
        &text,
        "a letter of more than sixteen bytes, and no database\n".repeat(100),
    )
    .expect("written");
    assert!(
        refusal(&text).contains("not a database"),
        "{}",
        refusal(&text)
    );
    let before = std::fs::read(&text).expect("read");
    assert!(before.starts_with(b"a letter"));
    assert!(refusal(folder.path()).contains("unavailable"), "a folder");
    let nowhere = folder.path().join("none/store.db");
    assert!(
        refusal(&nowhere).contains("none/store.db"),
        "{}",
        refusal(&nowhere)
    );
}

#[tokio::test]
async fn a_migration_that_was_cut_off_begins_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    // What a crash in the first migration leaves: a file with nothing in it.
    change(
        &path,
        "PRAGMA journal_mode = WAL; BEGIN; CREATE TABLE jobs (x); ROLLBACK",
    );
    let given = Given::new(open(&path));
    given.running("e").await;
}

/// The first schema, as it was released.
const FIRST: &str = include_str!("../../../shared/src/sqlite/migrations/0001_first.sql");

/// Makes a database of the first schema that holds what this newer one does.
fn as_of_the_first_schema(newer: &Path, path: &Path) {
    let db = Connection::open(path).expect("made");
    db.execute_batch(FIRST).expect("the first schema");
    db.execute("ATTACH ?1 AS newer", [newer.to_str().expect("UTF-8")])
        .expect("attached");
    let tables = ["meta", "environments", "jobs", "output", "idempotency"];
    for table in tables {
        let columns: Vec<String> = db
            .prepare("SELECT name FROM pragma_table_info(?1)")
            .and_then(|mut found| found.query_map([table], |row| row.get(0))?.collect())
            .expect("columns");
        let columns = columns.join(", ");
        let copy = format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM newer.{table}");
        db.execute_batch(&copy).expect("copied");
    }
    db.execute_batch("PRAGMA user_version = 1").expect("marked");
}

#[tokio::test]
async fn what_a_database_of_the_first_schema_holds_is_found_after_its_migrations() {
    let folder = tempfile::tempdir().expect("a folder");
    let (newer, path) = (folder.path().join("newer.db"), folder.path().join("old.db"));
    let given = Given::new(open(&newer));
    let (mortal, at) = (environment("mortal"), given.running("lasting").await);
    let mut create = given.submission(&mortal, JobInput::Create {});
    let spec = create.request.spec.as_mut().expect("a spec");
    spec.ttl_seconds = Some(1000);
    let created = given.store.submit(create, given.now()).await;
    let created = created.expect("accepted").job.created_at;
    let (ended, open_job) = (given.exec(&at).await, given.exec(&at).await);
    let leased = given.lease(&ended).await.job;
    given
        .finish(&leased, completion(Outcome::success(result_of("done"))))
        .await;
    let instance = given.store.instance().await.expect("an id");
    let before = given.store.job(&ended.at()).await.expect("works");
    drop(given);
    as_of_the_first_schema(&newer, &path);

    let given = Given::new(open(&path));
    let store = &given.store;
    assert_eq!(store.instance().await.expect("an id"), instance);
    assert_eq!(store.job(&ended.at()).await.expect("works"), before);
    let blue = JobFilter {
        label: Some(Label {
            name: "team".to_owned(),
            value: "blue".to_owned(),
        }),
        ..JobFilter::default()
    };
    let jobs = store.jobs(&at.tenant, &blue, page(10, None)).await;
    let found: Vec<_> = jobs
        .expect("a list")
        .items
        .iter()
        .map(|job| job.id)
        .collect();
    for job in [&ended, &open_job] {
        assert!(found.contains(&job.id), "{found:?}");
    }
    let second = |seconds| created + jiff::SignedDuration::from_secs(seconds);
    let expired = async |at| -> Vec<String> {
        let expired = store.expired(at, 10).await.expect("a list");
        expired.iter().map(|found| found.id.to_string()).collect()
    };
    assert_eq!(expired(second(999)).await, [""; 0]);
    assert_eq!(expired(second(1001)).await, ["mortal"]);
    // It goes on as any other.
    let leased = given.lease(&open_job).await.job;
    given
        .finish(&leased, completion(Outcome::success(result_of("done"))))
        .await;
}

#[tokio::test]
async fn a_damaged_record_is_told_with_its_key_and_without_its_content() {
    let (folder, given) = fresh();
    let path = folder.path().join("store.db");
    let at = given.running("e").await;
    let (good, bad) = (given.exec(&at).await, given.exec(&at).await);
    let other = given.running("other").await;
    change(
        &path,
        &format!(
            "UPDATE jobs SET record = '{{\"id\": [\"hunter2\"' WHERE hex(id) = '{}';
             UPDATE environments SET record = '{{\"tenant\": \"hunter2\", \"id\": 7}}' WHERE id = 'other'",
            bad.id.as_uuid().simple().to_string().to_uppercase()
        ),
    );
    let store = &given.store;
    let mut told = vec![
        store.job(&bad.at()).await.expect_err("damaged"),
        store.open_jobs(&at).await.expect_err("damaged"),
        store
            .lease(
                &bad.at(),
                &tests::conformance::store::given::worker("w"),
                None,
                given.now(),
            )
            .await
            .expect_err("damaged"),
    ];
    match store
        .jobs(&at.tenant, &JobFilter::default(), page(10, None))
        .await
    {
        Err(ListError::Store(error)) => told.push(error),
        other => panic!("{other:?}"),
    }
    for error in told {
        let text = error.to_string();
        assert!(matches!(error, StoreError::Corrupt(_)), "{text}");
        assert!(
            text.contains("jobs") && text.contains(&bad.id.to_string()),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }
    let mut told = vec![store.environment(&other).await.expect_err("damaged")];
    match store
        .environments(&at.tenant, &EnvironmentFilter::default(), page(10, None))
        .await
    {
        Err(ListError::Store(error)) => told.push(error),
        other => panic!("{other:?}"),
    }
    match given.try_submit(&other, exec_input("true")).await {
        Err(SubmitError::Store(error)) => told.push(error),
        other => panic!("{other:?}"),
    }
    for error in told {
        let text = error.to_string();
        assert!(matches!(error, StoreError::Corrupt(_)), "{text}");
        assert!(
            text.contains("environments default/other") && !text.contains("hunter2"),
            "{text}"
        );
    }
    let leased = given.lease(&good).await.job;
    given
        .finish(&leased, completion(Outcome::success(result_of(""))))
        .await;
    given
        .submit(&environment("next"), JobInput::Create {})
        .await;
}

#[tokio::test]
async fn a_damaged_column_is_told_too() {
    let (folder, given) = fresh();
    let path = folder.path().join("store.db");
    let at = given.running("e").await;
    let job = given.leased_exec("f").await;
    given.exec(&at).await;
    change(
        &path,
        "UPDATE jobs SET id = X'FFFFFF' WHERE waiting = 1; UPDATE jobs SET owner = 'NOT AN ID' WHERE owner IS NOT NULL; \
         UPDATE environments SET phase = 'floating'",
    );
    let store = &given.store;
    let lane = job.input.kind().lane();
    let told = [
        store.runnable(lane, None, 10).await.expect_err("damaged"),
        store.held(None, 10).await.expect_err("damaged"),
        store.counts().await.expect_err("damaged"),
    ];
    for error in told {
        assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    }
}
