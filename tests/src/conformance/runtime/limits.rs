//! The limits of the spec, and the end of a job's processes.

use runner::proto;
use shared::ports::Sight;
use shared::resources::{ByteSize, Cpu, Resources};

use super::Given;
use super::given::until;

fn small() -> Resources {
    Resources {
        cpu: Cpu { millis: 500 },
        memory: ByteSize(96 << 20),
        storage: ByteSize(1 << 30),
        pids: 64,
    }
}

pub(super) async fn memory_is_limited_and_the_runner_survives(given: &Given) {
    if !given.bed.does.outlive_ooms {
        return an_environment_ends_with_its_memory(given).await;
    }
    let lodging = given.life_with(small());
    let started = lodging.try_create().await.unwrap();
    let enforced = !started.limits_not_enforced.contains(&"memory".to_owned());
    let mut session = lodging.session().await;
    let neighbour = session
        .begin("while ! test -e done; do sleep 0.05; done; echo through")
        .await;
    // tail keeps a line that does not end in memory.
    let greedy = session
        .run("head -c 400000000 /dev/zero | tail -n 1 > /dev/null")
        .await;
    // What is said not to be enforced is not, and all else is.
    assert_eq!(greedy.code() != Some(0), enforced, "{greedy:?}");
    if given.bed.does.count_ooms_by_job {
        assert_eq!(greedy.record.oom_kills > 0, enforced, "{greedy:?}");
    }
    assert_eq!(session.run("touch done").await.record.oom_kills, 0);
    let neighbour = session.outcome(&neighbour).await;
    assert_eq!(
        (neighbour.text(), neighbour.record.oom_kills),
        ("through", 0)
    );
    assert_eq!(lodging.session().await.incarnation, session.incarnation);
}

/// The other way: it says why it ended, and can be started again.
async fn an_environment_ends_with_its_memory(given: &Given) {
    let lodging = given.life_with(small());
    let started = lodging.try_create().await.unwrap();
    assert!(!started.limits_not_enforced.contains(&"memory".to_owned()));
    let mut session = lodging.session().await;
    session.run("echo kept > file").await.text();
    session
        .begin("head -c 400000000 /dev/zero | tail -n 1 > /dev/null")
        .await;
    let inspect = async || {
        given
            .bed
            .runtime
            .inspect(lodging.uid())
            .await
            .expect("seen")
    };
    until(async || inspect().await != Sight::Alive).await;
    let Sight::Stopped {
        reason: Some(reason),
    } = inspect().await
    else {
        panic!("it says why");
    };
    assert_eq!(reason.code, "oom_killed");
    lodging.start().await;
    assert_eq!(lodging.run("cat file").await.text(), "kept");
}

pub(super) async fn processes_are_limited_and_the_runner_survives(given: &Given) {
    let lodging = given.life_with(small());
    let started = lodging.try_create().await.unwrap();
    let enforced = !started.limits_not_enforced.contains(&"pids".to_owned());
    let mut session = lodging.session().await;
    let flood = session
        .run("i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); echo $i; done")
        .await;
    assert_eq!(flood.code() != Some(0), enforced, "{flood:?}");
    let begun = flood.stdout.lines().count();
    let expected = if enforced { 8..64 } else { 200..201 };
    assert!(expected.contains(&begun), "{begun} were started");
    // What the flood has left lives on, until the environment is stopped.
    lodging.stop().await;
    lodging.start().await;
    assert_eq!(lodging.run("echo well").await.text(), "well");
}

pub(super) async fn a_job_is_killed_with_its_whole_tree(given: &Given) {
    let lodging = given.environment().await;
    let mut session = lodging.session().await;
    let job = session
        .begin("trap '' TERM; for i in 1 2 3; do setsid sh -c 'trap \"\" TERM; (sleep 4711 &) ; sleep 4711' & done; \
                echo begun; wait; sleep 4711")
        .await;
    let mut watcher = lodging.session().await;
    let count = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -cx '471[1]'; true";
    until(async || watcher.run(count).await.text() == "6").await;
    let signal = proto::SignalRequest {
        job_id: job.clone(),
        fence: 1,
        kill: true,
        grace_ms: 50,
        ..Default::default()
    };
    let record = session.client.signal(signal).await.unwrap().into_inner();
    assert!(record.tree_confirmed_gone, "{record:?}");
    assert_eq!(record.cause, proto::Cause::Cancelled as i32);
    assert_eq!(watcher.run(count).await.text(), "0");
}
