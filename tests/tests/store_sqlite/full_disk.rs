//! A disk without room: told as such, and nothing is to be done about the store once there is room again.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use shared::environment::{EnvironmentEvent, Phase};
use shared::job::{JobInput, Outcome};
use shared::output::{Offsets, Stream};
use shared::ports::{StoreError, SubmitError};
use tests::conformance::store::given::{
    Given, all_at_once, chunk, completion, content, exec_input, result_of, worker,
};

use super::open;

/// A file system of 8 MiB, gone with the test.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let none: Option<&str> = None;
        mount(
            none,
            folder.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=8m"),
        )
        .expect("mounting needs root");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The store may still have it open.
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

/// Takes all the room that is left.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).expect("made");
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_healed_from() {
    let disk = SmallDisk::new();
    let given = Given::new(open(&disk.path("store.db")));
    let at = given.running("e").await;
    let held = given.exec(&at).await;
    let held = given.lease(&held).await.job;
    let mut accepted = vec![held.id];
    for round in 0..3 {
        fill(&disk.path("ballast"));
        let answers = all_at_once(16, |_| {
            let (given, at) = (given.clone(), at.clone());
            // Larger than what may be left over in the files of the store.
            async move {
                given
                    .try_submit(&at, exec_input(&"x".repeat(1 << 20)))
                    .await
            }
        })
        .await;
        let mut refused = 0;
        for answer in answers {
            match answer {
                Ok(submitted) => accepted.push(submitted.job.id),
                Err(SubmitError::Store(StoreError::Unavailable(_))) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(refused > 0, "round {round}: 16 MiB do not fit");
        let end = given
            .store
            .output_end(&held.at())
            .await
            .expect("reading goes on")
            .stdout;
        let output = vec![chunk(Stream::Stdout, end, content(end, 4 << 20))];
        let full = given
            .store
            .append_output(&held.at(), held.fence, output)
            .await;
        assert!(matches!(full, Err(StoreError::Unavailable(_))), "{full:?}");
        assert_eq!(
            given
                .store
                .output_end(&held.at())
                .await
                .expect("works")
                .stdout,
            end
        );

        std::fs::remove_file(disk.path("ballast")).expect("removed");
        given.store.check().await.expect("it works again by itself");
        accepted.push(given.exec(&at).await.id);
        let output = vec![chunk(Stream::Stdout, end, content(end, 1000))];
        given
            .store
            .append_output(&held.at(), held.fence, output)
            .await
            .expect("what was refused is accepted now");
    }
    let mut open_jobs: Vec<_> = given
        .store
        .open_jobs(&at)
        .await
        .expect("works")
        .into_iter()
        .map(|job| job.id)
        .collect();
    open_jobs.sort_unstable();
    accepted.sort_unstable();
    assert_eq!(
        open_jobs, accepted,
        "what was accepted, and nothing that was not"
    );
    let window = given
        .store
        .output(&held.at(), Offsets::default(), 1 << 20)
        .await
        .expect("a window");
    assert_eq!(
        window.iter().map(|chunk| chunk.data.len()).sum::<usize>(),
        3000
    );
    given
        .finish(&held, completion(Outcome::success(result_of(""))))
        .await;
}

/// Whoever fills the disk takes what comes free before anybody else can.
#[tokio::test(flavor = "multi_thread")]
async fn environments_are_ended_on_a_full_disk() {
    let disk = SmallDisk::new();
    let given = Given::new(open(&disk.path("store.db")));
    let mut running = Vec::new();
    for number in 0..2 {
        running.push(given.running(&format!("e-{number}")).await);
    }
    let waiting = given.exec(&running[0]).await;
    fill(&disk.path("ballast"));
    let mut refused = None;
    for _ in 0..10_000 {
        refused = given
            .try_submit(&running[1], exec_input("true"))
            .await
            .err();
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("it was never full");
    assert!(
        matches!(refused, SubmitError::Store(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    // Other work that was accepted before waits for room as well.
    let lease = given
        .store
        .lease(&waiting.at(), &worker("worker-1"), None, given.now())
        .await;
    assert!(
        matches!(lease, Err(StoreError::Unavailable(_))),
        "{lease:?}"
    );
    for at in &running {
        fill(&disk.path("more"));
        given.store.beat(&worker("worker-1")).await.expect("alive");
        let stop = given.submit(at, JobInput::Stop {}).await.job;
        given.carry_out(&stop, EnvironmentEvent::Stopped).await;
        let delete = given.submit(at, JobInput::Delete {}).await.job;
        given.carry_out(&delete, EnvironmentEvent::Deleted).await;
        assert_eq!(given.environment(at).await.phase, Phase::Deleted);
    }
    for ballast in ["ballast", "more"] {
        std::fs::remove_file(disk.path(ballast)).expect("removed");
    }
    given.store.check().await.expect("it works again by itself");
    let job = given.job(&waiting).await;
    assert!(job.state.is_terminal(), "{job:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_seen_by_the_check() {
    let disk = SmallDisk::new();
    let given = Given::new(open(&disk.path("store.db")));
    given.running("e").await;
    fill(&disk.path("ballast"));
    // What room is left inside of the log is soon used up.
    let mut checked = given.store.check().await;
    for _ in 0..10_000 {
        if checked.is_err() {
            break;
        }
        checked = given.store.check().await;
    }
    assert!(
        matches!(checked, Err(StoreError::Unavailable(_))),
        "{checked:?}"
    );
    std::fs::remove_file(disk.path("ballast")).expect("removed");
    given.store.check().await.expect("it works again by itself");
}
