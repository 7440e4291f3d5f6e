//! The sweep's rules on a real worker, store and runtime, with a clock that is set forward: what has no record is listed and
//! then goes, each by itself; what an accepted job still needs stays.

use std::fs::{File, FileTimes};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use jiff::SignedDuration;
use shared::clock::{Clock as _, SystemClock, new_job_id};
use shared::environment::Phase;
use shared::ids::{EnvironmentRef, EnvironmentUid, JobRef};
use shared::job::{JobInput, JobState};
use shared::octets::Octets;
use shared::orphan::OrphanKind;
use shared::ports::{Runtime as _, Sight};
use shared::staging::{self, STAGING_BUCKET};
use tests::conformance::runtime::Bed;
use tests::conformance::runtime::given::{self as runtime_given, Does};
use tests::conformance::store::given::{exec_input, list_input};
use tests::program::{files_below, wait_until};
use tests::site::{Asked, Refusing, Site};

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

/// A life that only the runtime knows.
async fn orphan(site: &Site) -> EnvironmentUid {
    let bed = Bed {
        runtime: Arc::clone(&site.runtime) as _,
        foreign: Arc::clone(&site.runtime) as _,
        image: "host".to_owned(),
        does: Does {
            keep_records: true,
            count_ooms_by_job: true,
            filter_calls: true,
            outlive_ooms: true,
        },
    };
    let life = runtime_given::Given::new(bed).environment().await;
    life.uid().clone()
}

async fn sight(site: &Site, uid: &EnvironmentUid) -> Sight {
    site.runtime.inspect(uid).await.expect("seen")
}

/// What is listed: uid and part, with the seconds until it goes, counted from when it was first seen.
async fn listed(site: &Site) -> Vec<(EnvironmentUid, OrphanKind, i64)> {
    let orphans = site.store().orphans().await.expect("works");
    let listed = orphans.into_iter().map(|orphan| {
        let time: SignedDuration = orphan.goes_at.duration_since(orphan.since);
        (orphan.uid, orphan.kind, time.as_secs())
    });
    listed.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_record_is_listed_and_then_goes_each_by_itself() {
    let mut site = Site::new().await;
    let mut lives = [
        orphan(&site).await,
        orphan(&site).await,
        orphan(&site).await,
    ];
    lives.sort();
    // The first one in the list is the one that does not go.
    let [stuck, other, third] = &lives;
    let stubborn = Refusing::new(Arc::clone(&site.runtime), {
        let stuck = stuck.clone();
        move |asked, uid| matches!(asked, Asked::Stop | Asked::Delete) && uid == Some(&stuck)
    });
    site.work(Arc::new(stubborn));
    wait_until("they are listed", async || !listed(&site).await.is_empty()).await;
    let at = site.running("owned").await;
    let owned = site.store().environment(&at).await.expect("works");
    let owned = owned.expect("it is there").uid;
    let week = 7 * DAY.cast_signed();
    let [container, volume] = [(OrphanKind::Container, 600), (OrphanKind::Volume, week)];
    let expected: Vec<_> = lives
        .iter()
        .flat_map(|uid| [container, volume].map(|(kind, time)| (uid.clone(), kind, time)))
        .collect();
    assert_eq!(listed(&site).await, expected);
    // The look that sees a later one has seen these before their time.
    site.clock.by(9 * MINUTE);
    let later = orphan(&site).await;
    wait_until("the later one is listed", async || {
        listed(&site).await.iter().any(|(uid, _, _)| *uid == later)
    })
    .await;
    for uid in &lives {
        assert_eq!(sight(&site, uid).await, Sight::Alive);
    }
    site.clock.by(2 * MINUTE);
    wait_until("the containers are ended", async || {
        sight(&site, other).await != Sight::Alive && sight(&site, third).await != Sight::Alive
    })
    .await;
    assert_eq!(sight(&site, stuck).await, Sight::Alive);
    assert_eq!(sight(&site, &later).await, Sight::Alive);
    site.clock.by(MINUTE);
    let parts_of = async |uid: &EnvironmentUid| -> Vec<OrphanKind> {
        let listed = listed(&site).await;
        let of_life = listed.iter().filter(|(listed, _, _)| listed == uid);
        of_life.map(|(_, kind, _)| *kind).collect()
    };
    wait_until("only their volumes are listed", async || {
        parts_of(other).await == [volume.0] && parts_of(third).await == [volume.0]
    })
    .await;
    for uid in [stuck, &later] {
        assert_eq!(parts_of(uid).await, [container.0, volume.0]);
    }
    site.clock.by(7 * DAY);
    wait_until("the volumes are gone", async || {
        let mut gone = true;
        for uid in [other, third, &later] {
            gone &= sight(&site, uid).await == Sight::Absent;
        }
        gone
    })
    .await;
    site.clock.by(MINUTE);
    wait_until("only what did not go is listed", async || {
        let listed = listed(&site).await;
        listed.len() == 2 && listed.iter().all(|(uid, _, _)| uid == stuck)
    })
    .await;
    assert_eq!(sight(&site, &owned).await, Sight::Alive);
    site.end().await;
}

/// Makes every staged object so many seconds old.
fn grow_old(folder: &Path, seconds: u64) {
    let now = u64::try_from(SystemClock.now().as_second()).expect("after 1970");
    let then = UNIX_EPOCH + Duration::from_secs(now - seconds);
    for file in files_below(folder) {
        let file = File::options().write(true).open(file).expect("opened");
        let times = FileTimes::new().set_modified(then);
        file.set_times(times).expect("set");
    }
}

/// Stages a part for a job, and gives its name.
async fn put(site: &Site, job: &JobRef, number: u32) -> String {
    let name = staging::part(job, number).expect("a name");
    let content = stream::iter([Ok(Bytes::from_static(b"staged"))]).boxed();
    site.blobs.put(&name, content).await.expect("put");
    name.to_string()
}

/// The names of all that is staged, in order.
async fn staged(site: &Site) -> Vec<String> {
    let staged = site.blobs.list(STAGING_BUCKET, "").await.expect("a list");
    let mut names: Vec<_> = staged.iter().map(|entry| entry.name.to_string()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn staged_content_goes_by_age_but_not_what_an_accepted_job_needs() {
    let mut site = Site::new().await;
    site.work(Arc::clone(&site.runtime) as _);
    let at = site.running("env").await;
    let state = async |job: &JobRef| site.job(job).await.state;
    let open = site.submit(&at, exec_input("sleep 1000")).await;
    let ended = site.submit(&at, exec_input("true")).await;
    wait_until("one runs and one has ended", async || {
        state(&open).await == JobState::Running && state(&ended).await.is_terminal()
    })
    .await;
    let unknown = JobRef {
        tenant: at.tenant.clone(),
        job: new_job_id(&SystemClock),
    };
    let kept = put(&site, &open, 0).await;
    for job in [&ended, &unknown] {
        put(&site, job, 0).await;
    }
    grow_old(&site.folder.path().join("blobs"), 2 * DAY);
    let young = put(&site, &unknown, 1).await;
    site.clock.by(2 * MINUTE);
    let mut left = [kept, young];
    left.sort();
    wait_until("only what is needed or young is left", async || {
        staged(&site).await == left
    })
    .await;
    assert_eq!(state(&open).await, JobState::Running);
    site.end().await;
}

/// As if whoever ended the job had died before he removed it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_staged_for_a_job_that_has_ended_goes_long_before_its_age() {
    let mut site = Site::new().await;
    site.work(Arc::clone(&site.runtime) as _);
    let at = site.running("env").await;
    let JobInput::Exec(mut command) = exec_input("sleep 1000") else {
        unreachable!("it is a command");
    };
    command.timeout_seconds = 3600;
    let open = site.submit(&at, JobInput::Exec(command)).await;
    let ended = site.submit(&at, exec_input("true")).await;
    let read = site.submit(&at, list_input()).await;
    let mut nowhere = list_input();
    if let JobInput::List { path, .. } = &mut nowhere {
        *path = Octets::from("nowhere");
    }
    let failed = site.submit(&at, nowhere).await;
    for (job, state) in [
        (&open, JobState::Running),
        (&ended, JobState::Succeeded),
        (&read, JobState::Succeeded),
        (&failed, JobState::Failed),
    ] {
        wait_until("it is so far", async || site.job(job).await.state == state).await;
    }
    let unknown = JobRef {
        tenant: at.tenant.clone(),
        job: new_job_id(&SystemClock),
    };
    let mut left = Vec::new();
    for job in [&open, &read, &unknown] {
        left.push(put(&site, job, 0).await);
    }
    for job in [&ended, &failed] {
        put(&site, job, 0).await;
    }
    grow_old(&site.folder.path().join("blobs"), 5 * MINUTE);
    left.push(put(&site, &ended, 1).await);
    left.sort();
    site.clock.by(2 * MINUTE);
    wait_until("only what may be needed is left", async || {
        staged(&site).await == left
    })
    .await;
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_hint_was_lost_is_told_to_the_queue_again() {
    let mut site = Site::new().await;
    site.work(Arc::clone(&site.runtime) as _);
    let at = site.running("env").await;
    // From here on the queue knows only what it is told.
    let told = site.submit(&at, exec_input("true")).await;
    assert_eq!(site.ended(&told).await.state, JobState::Succeeded);
    let untold = site.given.submit(&at, exec_input("true")).await;
    assert!(untold.publish, "it can be run at once");
    let untold = untold.job.at();
    wait_until("it was run all the same", async || {
        // The sweep waits for half a minute from when it sees it first.
        site.clock.by(1);
        site.job(&untold).await.state == JobState::Succeeded
    })
    .await;
    site.end().await;
}

/// What the runtime says of the one environment never comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_cannot_be_looked_at_keeps_no_other_part_of_a_sweep_waiting() {
    let mut site = Site::new().await;
    let stuck: Arc<OnceLock<EnvironmentUid>> = Arc::default();
    let looks = Arc::new(AtomicUsize::new(0));
    let hanging = Refusing::hanging(Arc::clone(&site.runtime), {
        let (stuck, looks) = (Arc::clone(&stuck), Arc::clone(&looks));
        move |asked, uid| {
            let hangs = asked == Asked::Inspect && uid.is_some() && uid == stuck.get();
            if hangs {
                looks.fetch_add(1, Ordering::SeqCst);
            }
            hangs
        }
    });
    site.work(Arc::new(hanging));
    let (one, other) = (site.running("one").await, site.running("other").await);
    let uid_of = async |at: &EnvironmentRef| {
        let found = site.store().environment(at).await.expect("works");
        found.expect("it is there").uid
    };
    let phase_of = async |at: &EnvironmentRef| {
        let found = site.store().environment(at).await.expect("works");
        found.expect("it is there").phase
    };
    let (one_uid, other_uid) = (uid_of(&one).await, uid_of(&other).await);
    stuck.set(one_uid.clone()).expect("set once");
    // Behind the back of the worker.
    site.runtime.kill(&one_uid, None).await.expect("killed");
    wait_until("it is looked at", async || looks.load(Ordering::SeqCst) > 0).await;
    for _ in 0..2 {
        site.runtime.kill(&other_uid, None).await.expect("killed");
        wait_until("the other one has failed", async || {
            phase_of(&other).await == Phase::Failed
        })
        .await;
        let start = site.submit(&other, JobInput::Start {}).await;
        assert_eq!(site.ended(&start).await.state, JobState::Succeeded);
    }
    assert_eq!(looks.load(Ordering::SeqCst), 1, "never twice at once");
    assert_eq!(phase_of(&one).await, Phase::Running);
    site.end().await;
}
