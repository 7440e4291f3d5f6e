//! What is wrong with the machine or the folder, and what becomes of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shared::clock::SystemClock;
use shared::ids::EnvironmentUid;
use shared::ports::{Runtime, RuntimeError, Sight};
use tests::conformance::runtime::given::Lodging;
use worker::runtime::oci::{OciRuntime, OciSettings};

use crate::bench::{Bench, oci_runtime};

fn open_with(bench: &Bench, binary: PathBuf) -> OciRuntime {
    let settings = OciSettings {
        binary,
        ..OciSettings::new(bench.folder())
    };
    OciRuntime::open(&settings, bench.instance.clone(), Arc::new(SystemClock)).expect("opens")
}

#[tokio::test]
async fn this_machine_can_hold_environments() {
    let bench = Bench::new();
    bench.open().check().await.expect("it can");
}

#[tokio::test]
async fn a_missing_runtime_is_named_with_its_remedy() {
    let bench = Bench::new();
    let runtime = open_with(&bench, "/no/such/runc".into());
    let Err(RuntimeError::Unavailable(message)) = runtime.check().await else {
        panic!("it cannot work");
    };
    assert!(message.contains("apt-get install runc"), "{message}");
    let lodging = bench.given().life();
    let made = runtime.create(&lodging.placement).await;
    assert!(
        matches!(made, Err(RuntimeError::Unavailable(_))),
        "{made:?}"
    );
    assert!(bench.cgroups(lodging.uid()).is_empty());
    // With the runtime there it goes on from where it was.
    let lodging = tests::conformance::runtime::given::Lodging {
        runtime: Arc::new(bench.open()),
        placement: lodging.placement,
    };
    lodging.create().await;
    assert_eq!(lodging.run("echo well").await.text(), "well");
}

#[tokio::test]
async fn a_runtime_that_cannot_be_used_is_refused_before_it_is() {
    let bench = Bench::new();
    let binary = bench.folder().join("gvisor");
    fs::create_dir_all(bench.folder()).expect("made");
    fs::write(&binary, "#!/bin/sh\necho runsc version 0.0\n").expect("written");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("set");
    let Err(RuntimeError::Unavailable(message)) = open_with(&bench, binary).check().await else {
        panic!("it cannot work");
    };
    assert!(
        message.contains("runtime.binary to runc or crun"),
        "{message}"
    );
}

#[tokio::test]
async fn a_runtime_that_fails_is_quoted() {
    let bench = Bench::new();
    let binary = bench.folder().join("fails");
    fs::create_dir_all(bench.folder()).expect("made");
    fs::write(
        &binary,
        "#!/bin/sh\necho 'it is the wrong moon' >&2\nexit 1\n",
    )
    .expect("written");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("set");
    let runtime = open_with(&bench, binary);
    let lodging = bench.given().life();
    let made = runtime.create(&lodging.placement).await;
    let Err(RuntimeError::Failed(reason)) = made else {
        panic!("{made:?}");
    };
    assert_eq!(reason.code, "container_not_started");
    assert!(reason.message.contains("wrong moon"), "{}", reason.message);
    assert_eq!(
        runtime.inspect(lodging.uid()).await.expect("seen"),
        Sight::Stopped { reason: None }
    );
}

/// The setting names another OCI runtime than it did when the environment was made.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_oci_runtime_has_made_goes_on_and_leaves_nothing() {
    let bench = Bench::new();
    let other = if oci_runtime() == "crun" {
        "runc"
    } else {
        "crun"
    };
    let before = Lodging {
        runtime: Arc::new(bench.open_on(other, &bench.instance)),
        placement: bench.given().life().placement,
    };
    before.create().await;
    before.run("echo kept > file").await.text();
    let now = Lodging {
        runtime: Arc::new(bench.open()),
        placement: before.placement,
    };
    assert_eq!(now.run("cat file").await.text(), "kept");
    now.stop().await;
    now.start().await;
    assert_eq!(now.run("cat file").await.text(), "kept");
    now.delete().await;
    bench.assert_nothing_left();
}

#[tokio::test]
async fn folders_of_others_are_neither_listed_nor_touched() {
    let bench = Bench::new();
    let runtime = bench.open();
    let uid = EnvironmentUid::new("aaaaaaaaaa").expect("a uid");
    let strangers = [
        "aaaaaaaaaa",
        ".deleting-bbbbbbbbbb-aaaaaaaaaa",
        ".making-bbbbbbbbbb-aaaaaaaaaa",
        "notes",
    ];
    for stranger in strangers {
        let folder = bench.folder().join(stranger).join("volume");
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("file"), "theirs").expect("written");
    }
    assert_eq!(runtime.list().await.expect("a list"), []);
    assert_eq!(runtime.inspect(&uid).await.expect("seen"), Sight::Absent);
    runtime
        .stop(&uid, Duration::ZERO)
        .await
        .expect("nothing to stop");
    runtime.kill(&uid, None).await.expect("nothing to kill");
    runtime.delete(&uid).await.expect("nothing to delete");
    let mut lodging = bench.given().life();
    lodging.placement.uid = uid.clone();
    let made = runtime.create(&lodging.placement).await;
    assert!(matches!(made, Err(RuntimeError::Failed(_))), "{made:?}");
    for stranger in strangers {
        let file = bench.folder().join(stranger).join("volume/file");
        assert_eq!(
            fs::read_to_string(file).expect("there"),
            "theirs",
            "{stranger}"
        );
    }
}

#[tokio::test]
async fn what_was_left_half_made_or_half_deleted_is_listed_and_goes_with_a_delete() {
    let bench = Bench::new();
    let runtime = bench.open();
    let (making, deleting) = ("aaaaaaaaaa", "cccccccccc");
    for name in [
        format!(".making-{}-{making}", bench.instance),
        format!(".deleting-{}-{deleting}", bench.instance),
    ] {
        fs::create_dir_all(bench.folder().join(name).join("volume/a/b")).expect("made");
    }
    let held = runtime.list().await.expect("a list");
    let uids: Vec<&str> = held.iter().map(|holding| holding.uid.as_str()).collect();
    assert_eq!(uids, [making, deleting]);
    for holding in held {
        assert!(!holding.alive);
        assert_eq!(
            runtime.inspect(&holding.uid).await.expect("seen"),
            Sight::Absent
        );
        runtime.delete(&holding.uid).await.expect("deleted");
    }
    bench.assert_nothing_left();
}
