//! A new start of PID 1 on the state of an earlier one, full disks and floods: against the real program.

#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::process::{Command, Stdio};

use common::{Runner, attach, code, processes_with, program, wait_for};
use runner::proto::job_record::Exit;
use runner::proto::seal_reply::Fate;
use runner::proto::{
    AttachRequest, Cause, HelloRequest, JobPhase, MakeFolderRequest, Permit, ReleaseRequest,
    SealRequest, StartRequest, StreamCounts,
};
use tonic::{Code, Status};

#[tokio::test]
async fn a_new_incarnation_knows_the_jobs_of_the_last() {
    let mut runner = Runner::start().await;
    let old = runner.incarnation.clone();
    let ended = runner
        .run_shell("ended", "echo out; echo err >&2; exit 3")
        .await;
    let limited = StartRequest {
        output_limit: 4,
        ..runner.shell("limited", "seq 100000")
    };
    let limited = runner.run(limited).await;
    runner
        .client
        .start(runner.shell("running", "echo begun; sleep 300.51"))
        .await
        .unwrap();
    runner.run_shell("forgotten", "true").await;
    let release = |job_id: &str, stdout_offset, forget| ReleaseRequest {
        job_id: job_id.to_owned(),
        stdout_offset,
        forget,
        ..ReleaseRequest::default()
    };
    runner
        .client
        .release(release("forgotten", 0, true))
        .await
        .unwrap();
    runner
        .client
        .release(release("ended", 2, false))
        .await
        .unwrap();
    runner.seal("sealed", 7).await.unwrap();
    let log = runner.state().join("jobs/running.out");
    wait_for("output", || std::fs::metadata(&log).ok()).await;
    let state = runner.state();
    std::fs::write(state.join("jobs/garbage.out"), "left").unwrap();
    std::fs::write(state.join("jobs/forgotten.err"), "left").unwrap();
    let mut journal = std::fs::OpenOptions::new()
        .append(true)
        .open(state.join("journal"))
        .unwrap();
    std::io::Write::write_all(&mut journal, b"garbage\n\0\xff torn").unwrap();
    std::fs::write(state.join("jobs/foreign file"), "foreign").unwrap();

    let mut runner = Runner::start_in(runner.crash()).await;
    assert_ne!(runner.incarnation, old);
    let again = runner.finish_from("ended", [2, 0]).await;
    assert_eq!(again.record, ended.record);
    assert_eq!(
        (again.text().as_str(), again.stderr().as_slice()),
        ("t\n", &b"err\n"[..])
    );
    assert_eq!(
        code(attach(runner.client.clone(), "ended", [1, 0]).await),
        Code::OutOfRange
    );
    let again = runner.finish("limited").await;
    assert_eq!(again.stdout(), limited.stdout());
    assert_eq!(again.record, limited.record);

    let was_running = runner.finish("running").await;
    assert_eq!(was_running.text(), "begun\n");
    let record = was_running.record;
    assert_eq!(
        (record.phase(), record.cause()),
        (JobPhase::Ended, Cause::RunnerRestarted)
    );
    assert_eq!((record.exit, &record.incarnation), (None, &old));
    assert_eq!(
        record.stdout,
        Some(StreamCounts {
            total: 6,
            head: 6,
            tail_start: 6
        })
    );
    let garbage = runner.finish("garbage").await;
    assert_eq!(
        (garbage.record.cause(), garbage.text().as_str()),
        (Cause::RunnerRestarted, "left")
    );
    // Its supervisor saw the end of PID 1.
    wait_for("the old tree's end", || {
        processes_with("300.51").is_empty().then_some(())
    })
    .await;

    // Tombstones and floors without a record go with the incarnation, whose permits are void now.
    for id in ["forgotten", "sealed"] {
        let fate = runner.seal(id, 2).await.unwrap().fate;
        assert!(matches!(fate, Some(Fate::NeverStarted(_))), "{id}");
    }
    let stale = Permit {
        incarnation: old,
        ..runner.permit("sealed", 9)
    };
    let stale = StartRequest {
        permit: Some(stale),
        ..runner.shell("sealed", "true")
    };
    assert_eq!(
        code(runner.client.start(stale).await),
        Code::FailedPrecondition
    );
    let with_fence = |runner: &Runner, id: &str, fence| StartRequest {
        permit: Some(runner.permit(id, fence)),
        ..runner.shell(id, "true")
    };
    for id in ["ended", "running", "garbage"] {
        assert_eq!(
            code(runner.client.start(with_fence(&runner, id, 9)).await),
            Code::AlreadyExists,
            "{id}"
        );
    }
    assert!(runner.state().join("jobs/foreign file").exists());
    assert!(!runner.state().join("jobs/forgotten.err").exists());
}

/// Whether a seal proves that a job never began in an incarnation; none if it did.
async fn proven(runner: &mut Runner, id: &str, incarnation: &str) -> Option<bool> {
    let request = SealRequest {
        job_id: id.to_owned(),
        fence: 5,
        incarnation: incarnation.to_owned(),
    };
    let reply = runner.client.seal(request).await.unwrap().into_inner();
    match reply.fate.unwrap() {
        Fate::NeverStarted(never) => Some(never.proven),
        Fate::Record(_) | Fate::Tombstone(_) => None,
    }
}

async fn make_folder(runner: &mut Runner, id: &str, fence: u64) -> Result<(), Status> {
    let request = MakeFolderRequest {
        permit: Some(runner.permit(id, fence)),
        path: id.to_owned().into(),
        parents: false,
    };
    runner.client.make_folder(request).await.map(drop)
}

#[tokio::test]
async fn a_new_incarnation_proves_what_never_began_in_one_of_the_same_boot() {
    let mut runner = Runner::start().await;
    let first = runner.incarnation.clone();
    runner.run_shell("ran", "true").await;
    make_folder(&mut runner, "made", 1).await.unwrap();
    make_folder(&mut runner, "forgotten", 1).await.unwrap();
    let forget = |job_id: &str| ReleaseRequest {
        job_id: job_id.to_owned(),
        forget: true,
        ..ReleaseRequest::default()
    };
    runner.client.release(forget("forgotten")).await.unwrap();
    assert_eq!(proven(&mut runner, "never", &first).await, Some(true));
    assert_eq!(proven(&mut runner, "never", "").await, Some(false));
    let unknown = "0".repeat(32);
    assert_eq!(proven(&mut runner, "never", &unknown).await, Some(false));

    let runner = Runner::start_in(runner.crash()).await;
    let second = runner.incarnation.clone();
    let mut runner = Runner::start_in(runner.crash()).await;
    for incarnation in [&first, &second, &runner.incarnation.clone()] {
        assert_eq!(proven(&mut runner, "never", incarnation).await, Some(true));
    }
    assert_eq!(proven(&mut runner, "ran", &first).await, None);
    // What the change of files came to is not known here: only that it may have been made, and is not made again.
    assert_eq!(proven(&mut runner, "made", &first).await, Some(false));
    let again = make_folder(&mut runner, "made", 9).await;
    assert_eq!(again.unwrap_err().code(), Code::AlreadyExists);
    runner.client.release(forget("made")).await.unwrap();
    let third = runner.incarnation.clone();
    let mut runner = Runner::start_in(runner.crash()).await;
    assert_eq!(proven(&mut runner, "made", &third).await, Some(true));
}

#[tokio::test]
async fn a_boot_of_the_machine_in_between_proves_nothing() {
    let runner = Runner::start().await;
    let old = runner.incarnation.clone();
    let home = runner.crash();
    let boot = home.path().join("state/boot");
    let noted = std::fs::read_to_string(&boot).unwrap();
    let (_, incarnations) = noted.split_once('\n').unwrap();
    assert_eq!(incarnations, format!("{old}\n"));
    std::fs::write(&boot, format!("another\n{incarnations}")).unwrap();
    let mut runner = Runner::start_in(home).await;
    assert_eq!(proven(&mut runner, "never", &old).await, Some(false));
    let new = runner.incarnation.clone();
    assert_eq!(proven(&mut runner, "never", &new).await, Some(true));
}

#[tokio::test]
async fn a_change_that_cannot_be_marked_is_made_and_ends_what_can_be_proven() {
    let mut runner = Runner::start().await;
    let old = runner.incarnation.clone();
    // From now on it can write to no file.
    let limited = Command::new("prlimit")
        .args(["--fsize=0", "--pid", &runner.child.id().to_string()])
        .status();
    assert!(limited.unwrap().success());
    make_folder(&mut runner, "made", 1).await.unwrap();
    assert!(runner.volume().join("made").is_dir());
    let mut runner = Runner::start_in(runner.crash()).await;
    for id in ["made", "never"] {
        assert_eq!(proven(&mut runner, id, &old).await, Some(false), "{id}");
    }
}

#[tokio::test]
async fn a_flood_comes_back_to_the_last_byte_and_needs_no_memory() {
    let mut runner = Runner::start().await;
    // 150 MiB to each stream, side by side, in repetitions of a block that no frame's size divides.
    let block: Vec<u8> = (0..1_310_723_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let inverted: Vec<u8> = block.iter().map(|byte| !byte).collect();
    std::fs::write(runner.volume().join("out"), &block).unwrap();
    std::fs::write(runner.volume().join("err"), &inverted).unwrap();
    let script = "repeat() { i=0; while [ $i -lt 120 ]; do cat $1; i=$((i+1)); done; }
                  repeat out & repeat err >&2; wait";
    let finished = runner.run_shell("flood", script).await;
    for (pieces, block) in finished.pieces.iter().zip([block, inverted]) {
        let mut at = 0;
        for (offset, data) in pieces {
            assert_eq!(*offset, at as u64);
            let start = at % block.len();
            let (first, second) = data.split_at(data.len().min(block.len() - start));
            assert!(block[start..].starts_with(first) && block.starts_with(second));
            at += data.len();
        }
        assert_eq!(at, 120 * block.len());
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", runner.child.id())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap()
        .trim();
    let peak: u64 = peak.strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(peak < 100 * 1024, "{peak} kB");
}

#[tokio::test]
async fn a_reader_that_stalls_holds_up_neither_the_job_nor_others() {
    let mut runner = Runner::start().await;
    runner
        .client
        .start(runner.shell("job", "head -c 60000000 /dev/zero; echo done >&2"))
        .await
        .unwrap();
    let request = AttachRequest {
        job_id: "job".to_owned(),
        ..AttachRequest::default()
    };
    let mut stalled = Vec::new();
    for _ in 0..3 {
        let mut reader = runner
            .client
            .attach(request.clone())
            .await
            .unwrap()
            .into_inner();
        reader.message().await.unwrap();
        stalled.push(reader);
    }
    // Each connection has its own window, so the others are read through another one.
    let mut other = common::connect(&runner.home.path().join("socket")).await;
    let finished = attach(other.clone(), "job", [0, 0]).await.unwrap();
    assert_eq!(finished.record.stdout.unwrap().total, 60_000_000);
    other.hello(HelloRequest {}).await.unwrap();
    // Who stalled gets all of it in the end.
    let mut bytes = 0;
    let mut reader = stalled.pop().unwrap();
    drop(stalled);
    while let Some(event) = reader.message().await.unwrap() {
        if let Some(runner::proto::attach_event::Event::Output(output)) = event.event {
            bytes += output.data.len();
        }
    }
    assert!(bytes > 60_000_000 - 2 * runner::MAX_FRAME_BYTES);
}

#[tokio::test]
async fn releasing_frees_the_disk_while_the_job_runs() {
    use std::os::unix::fs::MetadataExt;
    let mut runner = Runner::start().await;
    let request = StartRequest {
        stdin_open: true,
        ..runner.shell("job", "head -c 8388608 /dev/zero; cat")
    };
    runner.client.start(request).await.unwrap();
    let log = runner.state().join("jobs/job.out");
    wait_for("output", || {
        std::fs::metadata(&log)
            .ok()
            .filter(|metadata| metadata.len() == 8 << 20)
    })
    .await;
    let release = ReleaseRequest {
        job_id: "job".to_owned(),
        stdout_offset: 8 << 20,
        ..ReleaseRequest::default()
    };
    runner.client.release(release).await.unwrap();
    assert!(std::fs::metadata(&log).unwrap().blocks() < 64);
    let end = runner::proto::WriteStdinRequest {
        job_id: "job".to_owned(),
        data: "after".into(),
        eof: true,
        ..Default::default()
    };
    runner.client.write_stdin(end).await.unwrap();
    assert_eq!(
        runner.finish_from("job", [8 << 20, 0]).await.text(),
        "after"
    );
}

#[tokio::test]
async fn a_full_state_disk_costs_no_job_its_end() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    // A file system of one megabyte, in a mount namespace that ends with the runner, which cannot even say what is wrong.
    let home = common::new_home();
    std::fs::create_dir(home.path().join("state")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=1m none {}/state && exec \"$0\" \"$@\" 2>/dev/full",
        home.path().display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, program()]);
    command.args(common::init_arguments(home.path(), common::user()));
    let mut runner = Runner::start_command(home, &mut command).await;
    let finished = runner
        .run_shell("flood", "head -c 5000000 /dev/zero; echo end; exit 4")
        .await;
    assert_eq!(
        (finished.record.cause(), finished.record.exit),
        (Cause::Exited, Some(Exit::Code(4)))
    );
    let counts = finished.record.stdout.unwrap();
    assert_eq!(
        (counts.total, counts.tail_start),
        (5_000_004, 5_000_004 - runner::TAIL_BYTES)
    );
    assert!(counts.head < 1 << 20);
    assert!(finished.stdout().ends_with(b"\0end\n"));
    // The next one runs, or, if there is no room for its record, says that it did not.
    let next = runner.run_shell("next", "true").await;
    assert!(matches!(
        next.record.cause(),
        Cause::Exited | Cause::StartFailed
    ));
    let forget = ReleaseRequest {
        job_id: "flood".to_owned(),
        forget: true,
        ..ReleaseRequest::default()
    };
    runner.client.release(forget).await.unwrap();
    assert_eq!(
        runner.run_shell("again", "echo works").await.text(),
        "works\n"
    );
}

#[tokio::test]
async fn connect_splices_a_connection_to_standard_streams() {
    let runner = Runner::start().await;
    let socket = runner.home.path().join("socket");
    let mut child = tokio::process::Command::new(program())
        .arg("connect")
        .arg(&socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (read, write) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
    let mut ends = Some(tokio::io::join(read, write));
    let dial = tower::service_fn(move |_: tonic::transport::Uri| {
        let ends = ends
            .take()
            .ok_or_else(|| std::io::Error::other("one connection"));
        async move { ends.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://runner");
    let channel = endpoint.connect_with_connector(dial).await.unwrap();
    let mut client = runner::proto::runner_client::RunnerClient::new(channel);
    let hello = client.hello(HelloRequest {}).await.unwrap().into_inner();
    assert_eq!(hello.incarnation, runner.incarnation);
    client
        .start(runner.shell("job", "head -c 3000000 /dev/zero"))
        .await
        .unwrap();
    assert_eq!(
        attach(client.clone(), "job", [0, 0])
            .await
            .unwrap()
            .stdout()
            .len(),
        3_000_000
    );
    // It ends with its standard input.
    drop(client);
    assert!(child.wait().await.unwrap().success());
    let refused = Command::new(program())
        .args(["connect", "/no/such/socket"])
        .output()
        .unwrap();
    assert!(!refused.status.success() && !refused.stderr.is_empty());
}

#[test]
fn the_command_line_says_what_is_wrong() {
    let run = |arguments: &[&str]| Command::new(program()).args(arguments).output().unwrap();
    let version = run(&["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        format!("em-runner {}\n", env!("CARGO_PKG_VERSION"))
    );
    let cases: [&[&str]; 4] = [
        &[],
        &["nonsense"],
        &["init", "--state"],
        &["init", "--state", "/x"],
    ];
    for arguments in cases {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stderr.starts_with(b"em-runner: "), "{arguments:?}");
    }
    let not_open = [
        "init",
        "--state",
        "/nonexistent",
        "--listen-fd",
        "99",
        "--volume",
        "/",
        "--uid",
        "1",
        "--gid",
        "1",
    ];
    assert_eq!(run(&not_open).status.code(), Some(1));
}
