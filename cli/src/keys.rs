//! Makes the keys of a key file the store's, so that every API accepts them.
//!
//! Each key of a file has a name in the store that comes from where the file is: the next start with a changed file replaces
//! what is different, and revokes what is no longer in it. A file that the settings name is the same one for everybody who
//! names it, as a mounted secret is; the one that a data folder made is that folder's own.

use std::fs;
use std::path::Path;

use shared::clock::Clock;
use shared::ids::TenantId;
use shared::key::{Key, KeyHash};
use shared::ports::{Store, StoreError};

use crate::failure::Failure;
use crate::key_file;

/// Where keys come from: the beginning of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source(String);

impl Source {
    /// The source of a key file.
    pub(crate) fn of(path: &Path, data_dir: &Path) -> Self {
        if path.starts_with(data_dir) {
            // Where it cannot be read the path alone is the name.
            let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            Self(format!("{}:{}", host.trim(), path.display()))
        } else {
            Self(path.display().to_string())
        }
    }

    fn name(&self, number: usize) -> String {
        format!("{}#{number}", self.0)
    }

    fn has(&self, name: &str) -> bool {
        let number = name.strip_prefix(self.0.as_str());
        let number = number.and_then(|rest| rest.strip_prefix('#'));
        number.is_some_and(|number| number.parse::<usize>().is_ok())
    }
}

/// Accepts the keys of a file, which is made if it is not there, and no others of its source.
pub(crate) async fn accept(
    path: &Path,
    source: &Source,
    store: &dyn Store,
    clock: &dyn Clock,
) -> Result<(), Failure> {
    let hashes = key_file::hashes(path, clock)?;
    let accepted = make(&hashes, source, store, clock).await;
    accepted.map_err(|error| Failure::new("the keys cannot be written into the store", error))
}

async fn make(
    hashes: &[KeyHash],
    source: &Source,
    store: &dyn Store,
    clock: &dyn Clock,
) -> Result<(), StoreError> {
    let tenant = TenantId::default_tenant();
    let mut known = store.keys().await?;
    known.retain(|key| key.tenant == tenant && source.has(&key.name));
    for (number, hash) in (1..).zip(hashes) {
        let name = source.name(number);
        let is_known = |key: &Key| key.name == name && key.hash == *hash;
        if !known.iter().any(is_known) {
            let key = Key {
                tenant: tenant.clone(),
                name,
                hash: *hash,
                created_at: clock.now(),
            };
            store.put_key(key).await?;
        }
    }
    let wanted: Vec<String> = (1..=hashes.len())
        .map(|number| source.name(number))
        .collect();
    for key in known.iter().filter(|key| !wanted.contains(&key.name)) {
        store.remove_key(&tenant, &key.name).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use shared::clock::SystemClock;
    use shared::sqlite::SqliteStore;

    use super::*;

    #[tokio::test]
    async fn the_store_has_what_is_in_the_file_and_of_others_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&folder.path().join("db"), &SystemClock).expect("a store");
        let [ours, theirs] = ["api-key", "api-key#1"].map(|name| Source(name.to_owned()));
        let accept = async |source: &Source, keys: &[&str]| {
            let hashes: Vec<_> = keys.iter().map(|key| KeyHash::of(key)).collect();
            let made = make(&hashes, source, &store, &SystemClock).await;
            made.expect("accepted");
            store.keys().await.expect("works")
        };
        let assert_has = |keys: &[Key], wanted: &[&str]| {
            let hashes: Vec<_> = keys.iter().map(|key| key.hash).collect();
            let wanted: Vec<_> = wanted.iter().map(|key| KeyHash::of(key)).collect();
            assert!(hashes == wanted, "{keys:?}");
        };
        accept(&theirs, &["theirs"]).await;
        let first = accept(&ours, &["one", "two"]).await;
        assert_has(&first, &["one", "theirs", "two"]);
        assert_eq!(
            accept(&ours, &["one", "two"]).await,
            first,
            "nothing is new"
        );
        assert_has(&accept(&ours, &["three"]).await, &["three", "theirs"]);
    }

    #[test]
    fn a_data_folder_has_keys_of_its_own_and_a_named_file_is_everybodys() {
        let source = |path: &str| Source::of(Path::new(path), Path::new("/data")).0;
        assert_eq!(source("/run/secrets/keys"), "/run/secrets/keys");
        let own = source("/data/api-key");
        assert!(own.ends_with(":/data/api-key"), "{own}");
    }
}
