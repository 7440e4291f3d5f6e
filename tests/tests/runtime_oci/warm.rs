//! Environments that are held ready: taken once, whole, by whoever asks first, also by workers that are killed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::environment::Egress;
use shared::ports::{Runtime, Sight, Warm};
use shared::secret::Secret;
use tests::conformance::runtime::given::{Bed, Given, Lodging, until};
use tests::images::Tiny;
use tests::site::SetForward;

use crate::bench::{Bench, is_rootless, oci_runtime};
use crate::crashes::Holder;

/// Seconds for which nothing is made anew that did not stay, at first.
const PAUSE: u64 = 10;

/// The names that were born ready and are nobody's yet.
fn ready(bench: &Bench) -> BTreeSet<String> {
    let entries = fs::read_dir(bench.folder()).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names
        .filter(|name| name.starts_with(".ready-"))
        .map(|name| name.rsplit('-').next().expect("a name").to_owned())
        .collect()
}

fn wanted(lodging: &Lodging, count: usize) -> Vec<Warm> {
    let spec = lodging.placement.spec.clone();
    vec![Warm { spec, count }]
}

/// Lets its time be set forward.
fn set_forward(bench: &mut Bench) -> Arc<SetForward> {
    let clock = Arc::new(SetForward::default());
    bench.clock = Arc::clone(&clock) as _;
    clock
}

/// Has so many ready of what a life asks for.
async fn keep(lodging: &Lodging, count: usize) {
    let wanted = wanted(lodging, count);
    lodging.runtime.keep_warm(&wanted).await.expect("kept");
}

/// Lets none be ready. A round leaves alone what is worked on: what the OCI runtime of a killed worker is busy with, or what
/// a program that is just starting still has the lock of.
async fn none_is_held(lodging: &Lodging, bench: &Bench) {
    until(async || {
        let held = lodging.runtime.keep_warm(&[]).await;
        held.expect("none are held");
        ready(bench).is_empty()
    })
    .await;
}

/// The container that a create has given.
async fn created(lodging: &Lodging) -> String {
    let made = lodging.try_create().await.expect("created");
    made.container.trim_start_matches("em-").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_never_take_the_same() {
    let bench = Bench::new();
    let (given, twin) = (bench.given(), bench.given());
    let lives: Vec<_> = (0..12)
        .map(|number| [&given, &twin][number % 2].life())
        .collect();
    keep(&lives[0], 8).await;
    until_all_answer(&bench).await;
    let born = ready(&bench);
    assert_eq!(born.len(), 8);
    let names = join_all(lives.iter().map(created)).await;
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 12, "{names:?}");
    let taken = names.iter().filter(|name| born.contains(*name)).count();
    assert_eq!(taken, 8, "{names:?}");
    assert!(ready(&bench).is_empty());
    for (life, name) in lives.iter().zip(&names) {
        assert_eq!(life.run("ls -A; echo mine > mine").await.text(), "");
        // A repeated create finds what it has taken.
        assert_eq!(&created(life).await, name);
    }
    // What was taken is an environment as any other.
    let life = lives
        .iter()
        .zip(&names)
        .find(|(_, name)| born.contains(*name));
    let (life, name) = life.expect("one was taken");
    life.stop().await;
    life.start().await;
    assert_eq!(life.run("cat mine").await.text(), "mine");
    assert_eq!(&created(life).await, name);
    life.runtime.kill(life.uid(), None).await.expect("killed");
    life.create().await;
    assert_eq!(life.run("cat mine; id -u").await.text(), "mine\n1000");
    assert_eq!(life.runtime.list().await.expect("a list").len(), 12);
    join_all(lives.iter().map(Lodging::delete)).await;
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_alike_is_taken() {
    let bench = Bench::new();
    let given = bench.given();
    keep(&given.life(), 1).await;
    until_all_answer(&bench).await;
    let born = ready(&bench);
    let mut smaller = given.life();
    smaller.placement.spec.resources.pids -= 1;
    let mut elsewhere = given.life();
    elsewhere.placement.spec.resources.storage.0 += 1;
    let mut others = vec![smaller, elsewhere];
    let offered = given.bed.runtime.offer().egress;
    if offered.contains(&Egress::Internet) {
        let mut connected = given.life();
        connected.placement.spec.egress = Egress::Internet;
        others.push(connected);
    }
    for other in &others {
        assert_eq!(created(other).await, other.uid().as_str());
        other.delete().await;
    }
    // Of another runtime program, or another instance: never.
    let other = if oci_runtime() == "crun" {
        "runc"
    } else {
        "crun"
    };
    let other: Arc<dyn Runtime> = Arc::new(bench.open_on(other, &bench.instance));
    for runtime in [other, Arc::clone(&given.bed.foreign)] {
        let other = Lodging {
            runtime,
            ..given.life()
        };
        assert_eq!(created(&other).await, other.uid().as_str());
        other.delete().await;
    }
    assert_eq!(ready(&bench), born);
    // Its variables, its labels and its times do not count: they are not the container's.
    let mut alike = given.life();
    alike
        .placement
        .spec
        .env
        .0
        .insert("A".to_owned(), Secret::new("1"));
    alike.placement.spec.ttl_seconds = Some(60);
    assert_eq!(BTreeSet::from([created(&alike).await]), born);
    assert_eq!(alike.run("echo $A").await.text(), "");
    alike.delete().await;
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_wanted_any_more_goes_and_what_is_missing_comes() {
    let mut bench = Bench::new();
    let clock = set_forward(&mut bench);
    let given = bench.given();
    let lodging = given.life();
    keep(&lodging, 3).await;
    until_all_answer(&bench).await;
    let three = ready(&bench);
    keep(&lodging, 1).await;
    let one = ready(&bench);
    assert!(
        one.len() == 1 && one.is_subset(&three),
        "{one:?} of {three:?}"
    );
    assert_eq!(given.bed.runtime.list().await.expect("a list"), []);
    // One whose PID 1 has ended is none.
    let name = one.first().expect("one");
    kill(ready_pid(&bench, name), Signal::SIGKILL).expect("killed");
    let cold = given.life();
    until(async || {
        // The kernel may take a moment to end it.
        let taken = created(&cold).await;
        cold.delete().await;
        taken == cold.uid().as_str()
    })
    .await;
    keep(&lodging, 2).await;
    assert!(ready(&bench).is_empty(), "there is a pause first");
    clock.by(PAUSE);
    keep(&lodging, 2).await;
    let two = ready(&bench);
    assert!(two.len() == 2 && !two.contains(name), "{two:?}");
    // Another image or other limits: the setting has changed.
    let mut other = given.life();
    other.placement.spec.resources.memory.0 /= 2;
    keep(&other, 1).await;
    until_all_answer(&bench).await;
    assert!(ready(&bench).is_disjoint(&two));
    assert!(ready(&bench).contains(&created(&other).await));
    none_is_held(&other, &bench).await;
    assert_eq!(other.run("echo well").await.text(), "well");
    other.delete().await;
    bench.assert_nothing_left();
}

/// The folder of one that is ready, unless it went meanwhile.
fn ready_home(bench: &Bench, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(bench.folder()).expect("a folder");
    let mut paths = entries.map(|entry| entry.expect("an entry").path());
    paths.find(|path| path.to_string_lossy().ends_with(name))
}

fn ready_pid(bench: &Bench, name: &str) -> Pid {
    let home = ready_home(bench, name).expect("a folder");
    let text = fs::read_to_string(home.join("bundle/pid"));
    Pid::from_raw(text.expect("a pid file").trim().parse().expect("a pid"))
}

/// Waits until PID 1 of each that is ready says something: one that has not begun to is not taken.
async fn until_all_answer(bench: &Bench) {
    for name in ready(bench) {
        until(async || answers(bench, &name)).await;
    }
}

fn answers(bench: &Bench, name: &str) -> bool {
    // One that went meanwhile is not waited for.
    let Some(home) = ready_home(bench, name) else {
        return true;
    };
    // By way of the open folder, since a socket's address ends at 107 bytes.
    let Ok(folder) = fs::File::open(bench.socket_folder(&home)) else {
        return true;
    };
    let socket = format!("/proc/self/fd/{}/runner.sock", folder.as_raw_fd());
    let Ok(mut stream) = UnixStream::connect(socket) else {
        return false;
    };
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("set");
    let greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(greeting).is_ok() && stream.read_exact(&mut [0]).is_ok()
}

/// What a worker that was killed on the way has taken is that life's, and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_took_half_is_taken_whole() {
    let bench = Bench::new();
    let given = bench.given();
    for place in ["warm_taken:kill", "warm_settling:kill"] {
        for goes_on in [true, false] {
            // The holder's own limits are another shape than those of a case.
            let life = given.life_with(crate::crashes::HELD);
            keep(&life, 1).await;
            until_all_answer(&bench).await;
            let born = ready(&bench);
            let pid = ready_pid(&bench, born.first().expect("one"));
            let holder = Holder::spawn_with(&bench, &life, "create", &[("EM_FAILPOINT", place)]);
            holder.killed().await;
            assert!(ready(&bench).is_empty(), "{place}");
            let seen = life.runtime.inspect(life.uid()).await.expect("seen");
            assert_eq!(seen, Sight::Alive);
            let held = life.runtime.list().await.expect("a list");
            assert_eq!(
                held.iter().map(|held| &held.uid).collect::<Vec<_>>(),
                [life.uid()]
            );
            let other = given.life_with(crate::crashes::HELD);
            assert_eq!(created(&other).await, other.uid().as_str());
            if goes_on {
                assert_eq!(BTreeSet::from([created(&life).await]), born);
                assert_eq!(bench.pid(life.uid()), pid.as_raw());
                assert_eq!(life.run("id -u").await.text(), "1000");
            }
            life.delete().await;
            other.delete().await;
            bench.assert_nothing_left();
        }
    }
}

/// The slots of host ids, and in whose name each is taken.
fn ranges(bench: &Bench) -> Vec<(String, String)> {
    let entries = fs::read_dir(bench.folder().join(".ranges")).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.into_string().expect("UTF-8"));
    names
        .map(|name| {
            let mut parts = name.split('.').map(str::to_owned);
            let slot = parts.next().expect("a slot");
            (slot, parts.next().expect("an owner"))
        })
        .collect()
}

/// One is taken after a round has listed it and before the round comes to it: the round leaves its ids alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_while_a_round_goes_keeps_its_ids() {
    let bench = Bench::new();
    let given = bench.given();
    let life = given.life_with(crate::crashes::HELD);
    keep(&life, 1).await;
    let before = ranges(&bench);
    assert_eq!(before.len(), 1, "{before:?}");
    let at = |place| [("EM_FAILPOINT", place)];
    let mut round = Holder::spawn_with(&bench, &life, "drop", &at("warm_listed:stop"));
    round.stopped();
    let mut taker = Holder::spawn_with(&bench, &life, "create", &at("warm_taken:stop"));
    taker.stopped();
    assert!(ready(&bench).is_empty());
    round.go_on();
    assert_eq!(round.says(), "kept");
    taker.go_on();
    assert_eq!(taker.says(), "created");
    let own = (before[0].0.clone(), life.uid().to_string());
    assert_eq!(ranges(&bench), std::slice::from_ref(&own));
    // Nobody else is given the same.
    let other = given.environment().await;
    let both = ranges(&bench);
    assert!(both.len() == 2 && both.contains(&own), "{both:?}");
    assert!(is_rootless() || both[0].0 != both[1].0, "{both:?}");
    for holder in [round, taker] {
        holder.kill();
    }
    assert_eq!(life.run("id -u").await.text(), "1000");
    life.delete().await;
    other.delete().await;
    bench.assert_nothing_left();
}

/// What cannot be had is said once, and left alone for a while; the others are there all the same.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_had_keeps_no_other_from_being_ready() {
    let bench = Bench::new();
    let life = bench.given().life();
    let mut both = wanted(&life, 1);
    both.insert(0, both[0].clone());
    both[0].spec.image = "containers-storage:a".to_owned();
    let told = life.runtime.keep_warm(&both).await;
    let told = told.expect_err("one cannot be had").to_string();
    assert!(told.contains("containers-storage:a"), "{told}");
    assert_eq!(ready(&bench).len(), 1);
    both[1].count = 2;
    life.runtime
        .keep_warm(&both)
        .await
        .expect("it is left alone");
    assert_eq!(ready(&bench).len(), 2);
    none_is_held(&life, &bench).await;
    bench.assert_nothing_left();
}

/// Its PID 1 is alive, but hangs: whoever asks gets another one, made as if there were none.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_answer_is_not_handed_out() {
    let bench = Bench::new();
    let given = bench.given();
    let life = given.life();
    keep(&life, 1).await;
    let born = ready(&bench);
    let pid = ready_pid(&bench, born.first().expect("one"));
    kill(pid, Signal::SIGSTOP).expect("stopped");
    assert_eq!(created(&life).await, life.uid().as_str());
    assert!(ready(&bench).is_empty());
    assert_eq!(life.run("id -u").await.text(), "1000");
    life.delete().await;
    bench.assert_nothing_left();
}

/// Its PID 1 is started and ends, again and again: each time nothing is made for twice as long.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_stay_is_made_anew_after_ever_longer_pauses() {
    let mut bench = Bench::new();
    let clock = set_forward(&mut bench);
    let life = bench.given().life();
    keep(&life, 1).await;
    for pause in [PAUSE, 2 * PAUSE] {
        until_all_answer(&bench).await;
        let name = ready(&bench).pop_first().expect("one");
        kill(ready_pid(&bench, &name), Signal::SIGKILL).expect("killed");
        until(async || {
            // The kernel may take a moment to end it.
            keep(&life, 1).await;
            !ready(&bench).contains(&name)
        })
        .await;
        clock.by(pause / 2);
        keep(&life, 1).await;
        assert_eq!(ready(&bench), BTreeSet::new());
        clock.by(pause / 2);
        keep(&life, 1).await;
        assert_eq!(ready(&bench).len(), 1);
    }
    none_is_held(&life, &bench).await;
    bench.assert_nothing_left();
}

/// Nothing of it can be read: whoever asks gets another one, and what runs of it is ended.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_broken_fails_no_create_and_is_thrown_away() {
    let bench = Bench::new();
    let given = bench.given();
    let life = given.life();
    keep(&life, 1).await;
    break_one(&bench);
    assert_eq!(created(&life).await, life.uid().as_str());
    assert!(ready(&bench).is_empty());
    assert_eq!(life.run("id -u").await.text(), "1000");
    life.delete().await;
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_broken_and_that_nobody_asks_for_goes_with_a_round() {
    for wanted in [0, 1] {
        let bench = Bench::new();
        let given = bench.given();
        let life = given.life();
        keep(&life, 1).await;
        let name = break_one(&bench);
        until(async || {
            keep(&life, wanted).await;
            !ready(&bench).contains(&name)
        })
        .await;
        none_is_held(&life, &bench).await;
        bench.assert_nothing_left();
    }
}

/// Makes unreadable whose the one that is ready is; its name.
fn break_one(bench: &Bench) -> String {
    let name = ready(bench).pop_first().expect("one");
    let home = ready_home(bench, &name).expect("a folder");
    let record = home.join("environment.json");
    fs::remove_file(&record).expect("removed");
    fs::create_dir(&record).expect("made");
    name
}

/// All but one hang: that one is taken, and those that hang go as soon as somebody needs them.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_hang_the_one_that_answers_is_taken() {
    let bench = Bench::new();
    let given = bench.given();
    let life = given.life();
    keep(&life, 6).await;
    until_all_answer(&bench).await;
    let names: Vec<_> = ready(&bench).into_iter().collect();
    let hung = &names[..names.len() - 1];
    for name in hung {
        kill(ready_pid(&bench, name), Signal::SIGSTOP).expect("stopped");
    }
    assert_eq!(created(&life).await, names[names.len() - 1]);
    let other = given.life();
    assert_eq!(created(&other).await, other.uid().as_str());
    assert!(ready(&bench).is_empty());
    for life in [life, other] {
        assert_eq!(life.run("id -u").await.text(), "1000");
        life.delete().await;
    }
    bench.assert_nothing_left();
}

/// Killed while they made one ready or removed it: the next round leaves nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_made_half_is_no_environment() {
    let bench = Bench::new();
    let life = bench.given().life_with(crate::crashes::HELD);
    for (first, what, place) in [
        (0, "keep", "warm_filled:kill"),
        (2, "drop", "warm_removing:kill"),
    ] {
        keep(&life, first).await;
        let holder = Holder::spawn_with(&bench, &life, what, &[("EM_FAILPOINT", place)]);
        holder.killed().await;
        assert_ne!(ready(&bench).len(), 0, "{place}");
        keep(&life, 1).await;
        until_all_answer(&bench).await;
        assert_eq!(ready(&bench).len(), 1, "{place}");
        let name = created(&life).await;
        assert!(name != life.uid().as_str() && ready(&bench).is_empty());
        assert_eq!(life.run("id -u").await.text(), "1000");
        life.delete().await;
        bench.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_be_killed_at_any_moment_of_it() {
    let bench = Bench::new();
    for moment in 0..16_u64 {
        let life = bench.given().life_with(crate::crashes::HELD);
        let mut holder = Holder::spawn(&bench, &life, "warm-cycle");
        assert_eq!(holder.says(), "ready");
        std::thread::sleep(Duration::from_millis(moment * 13));
        holder.kill();
        if moment % 2 == 0 {
            life.create().await;
            assert_eq!(life.run("ls -A; id -u").await.text(), "1000");
        }
        life.delete().await;
        none_is_held(&life, &bench).await;
        life.runtime.tidy().await.expect("tidied");
        bench.assert_nothing_left();
    }
}

/// An image is fetched for what shall be ready before anybody asks for it, and stays while something stands ready on it.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_fetched_ahead() {
    let image = Tiny::new().layer("entry('data/x', content=b'x')").made();
    let mut bench = Bench::with_images(image.folder());
    bench.images.unused_days = 0;
    let given = Given::new(Bed {
        image: image.reference(),
        ..bench.bed()
    });
    let life = given.life();
    until(async || {
        keep(&life, 1).await;
        ready(&bench).len() == 1
    })
    .await;
    until_all_answer(&bench).await;
    let born = ready(&bench);
    life.runtime.tidy().await.expect("tidied");
    assert_eq!(BTreeSet::from([created(&life).await]), born);
    assert_eq!(
        life.run("cat /data/x; touch /tmp/y; ls /tmp").await.text(),
        "xy"
    );
    life.stop().await;
    life.start().await;
    assert_eq!(life.run("ls /tmp").await.text(), "");
    life.delete().await;
    bench.assert_nothing_left();
}
