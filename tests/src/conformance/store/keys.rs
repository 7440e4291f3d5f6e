//! The keys that open the service.

use shared::ids::TenantId;
use shared::key::{Key, KeyHash};

use super::given::Given;

fn key(given: &Given, tenant: &str, name: &str, text: &str) -> Key {
    Key {
        tenant: TenantId::new(tenant).expect("a tenant"),
        name: name.to_owned(),
        hash: KeyHash::of(text),
        created_at: given.now(),
    }
}

async fn put(given: &Given, key: &Key) {
    given.store.put_key(key.clone()).await.expect("put");
}

async fn keys(given: &Given) -> Vec<Key> {
    let mut keys = given.store.keys().await.expect("works");
    keys.sort_by_key(|key| (key.tenant.clone(), key.name.clone()));
    keys
}

pub(super) async fn a_key_is_there_until_it_is_replaced_or_revoked(given: &Given) {
    assert_eq!(keys(given).await, []);
    let (first, second) = (
        key(given, "default", "/data/api-key#1", "first"),
        key(given, "default", "/data/api-key#2", "second"),
    );
    put(given, &first).await;
    put(given, &first).await;
    put(given, &second).await;
    assert_eq!(keys(given).await, [first.clone(), second.clone()]);
    let replaced = key(given, "default", "/data/api-key#1", "another");
    put(given, &replaced).await;
    assert_eq!(keys(given).await, [replaced.clone(), second.clone()]);
    let revoke = async |name: &str| {
        let revoked = given.store.remove_key(&first.tenant, name).await;
        revoked.expect("works")
    };
    assert!(revoke(&second.name).await);
    assert!(!revoke(&second.name).await, "it was there no more");
    assert!(!revoke("none").await);
    assert_eq!(keys(given).await, [replaced]);
}

pub(super) async fn keys_of_one_name_are_each_tenants_own(given: &Given) {
    let (ours, theirs) = (
        key(given, "default", "name", "ours"),
        key(given, "other", "name", "theirs"),
    );
    put(given, &ours).await;
    put(given, &theirs).await;
    let revoked = given.store.remove_key(&ours.tenant, "name").await;
    assert!(revoked.expect("works"));
    assert_eq!(keys(given).await, [theirs]);
}
