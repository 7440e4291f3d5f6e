//! Where the truth is kept.

use std::path::Path;
use std::sync::Arc;

use shared::clock::Clock;
use shared::config::{StoreKind, StoreSettings};
use shared::ports::Store;
use shared::sqlite::SqliteStore;

use crate::failure::Failure;

/// Opens the store that `store.kind` names.
pub(crate) fn open(
    settings: &StoreSettings,
    data_dir: &Path,
    clock: &dyn Clock,
) -> Result<Arc<dyn Store>, Failure> {
    match settings.kind {
        StoreKind::Sqlite => {
            let path = data_dir.join("environment-manager.db");
            let store = SqliteStore::open(&path, clock).map_err(|error| {
                Failure::new(format!("the store {} cannot be opened", path.display()), error)
                    .advise("see that the disk has room and the file is this user's, or choose another --data-dir")
            })?;
            Ok(Arc::new(store))
        }
    }
}
