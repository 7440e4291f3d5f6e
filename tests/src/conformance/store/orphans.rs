//! What the sweep sees without a record, for others to read.

use shared::ids::EnvironmentUid;
use shared::orphan::{Orphan, OrphanKind};

use super::given::Given;

fn orphan(given: &Given, uid: &str, kind: OrphanKind) -> Orphan {
    Orphan {
        uid: EnvironmentUid::new(uid).expect("a uid"),
        kind,
        since: given.now(),
        goes_at: given.now(),
    }
}

pub(super) async fn the_list_is_what_was_noted_last(given: &Given) {
    let listed = async || given.store.orphans().await.expect("works");
    let note = async |orphans: &[Orphan]| {
        let noted = given.store.note_orphans(orphans.to_vec()).await;
        noted.expect("noted");
    };
    assert_eq!(listed().await, []);
    let all = [
        orphan(given, "aaaaaaaaaa", OrphanKind::Container),
        orphan(given, "aaaaaaaaaa", OrphanKind::Volume),
        orphan(given, "bbbbbbbbbb", OrphanKind::Volume),
    ];
    note(&all).await;
    assert_eq!(listed().await, all);
    note(&all).await;
    assert_eq!(listed().await, all, "noted twice it is listed once");
    note(&all[1..2]).await;
    assert_eq!(listed().await, all[1..2]);
    note(&[]).await;
    assert_eq!(listed().await, []);
}
