//! The SQLite store: the suite of all stores, and what only a file can do wrong.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use shared::clock::SystemClock;
use shared::ports::Store;
use shared::sqlite::SqliteStore;
use tests::conformance::store;
use tests::conformance::store::given::Given;

#[path = "store_sqlite/durability.rs"]
mod durability;
#[path = "store_sqlite/file.rs"]
mod file;
#[path = "store_sqlite/full_disk.rs"]
mod full_disk;
#[path = "store_sqlite/large.rs"]
mod large;

fn open(path: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(path, &SystemClock).expect("the store opens"))
}

/// A store in a folder that lives as long as the test needs it.
fn fresh() -> (tempfile::TempDir, Given) {
    let folder = tempfile::tempdir().expect("a folder");
    let given = Given::new(open(&folder.path().join("store.db")));
    (folder, given)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_a_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let number = Cell::new(0);
    store::suite(async || {
        number.set(number.get() + 1);
        open(&folder.path().join(format!("{}.db", number.get())))
    })
    .await;
}
