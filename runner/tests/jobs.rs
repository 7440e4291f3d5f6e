//! Starting commands, their output, their ends: against the real program.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::process::Command;

use common::{Runner, attach, code, env, init_arguments, new_home, program, user};
use runner::proto::job_record::Exit;
use runner::proto::seal_reply::Fate;
use runner::proto::start_error::Kind;
use runner::proto::{
    AttachRequest, Cause, HelloRequest, JobPhase, Permit, ReleaseRequest, StartRequest,
    WriteStdinRequest,
};
use tonic::Code;

#[tokio::test]
async fn a_command_runs_and_every_byte_comes_back() {
    let mut runner = Runner::start().await;
    let finished = runner
        .run_shell("job", "printf 'out\\0\\377'; printf err >&2; exit 7")
        .await;
    assert_eq!(finished.stdout(), b"out\0\xff");
    assert_eq!(finished.stderr(), b"err");
    let record = finished.record;
    assert_eq!(
        (record.phase(), record.cause()),
        (JobPhase::Ended, Cause::Exited)
    );
    assert_eq!(record.exit, Some(Exit::Code(7)));
    assert_eq!(
        (record.fence, &record.incarnation),
        (1, &runner.incarnation)
    );
    let counts = record.stdout.unwrap();
    assert_eq!((counts.total, counts.head, counts.tail_start), (5, 5, 5));
    assert_eq!(record.start_error, None);
    assert!(record.started_at_ms > 1_700_000_000_000);
    assert_eq!(runner.record("job").await, record);
}

#[tokio::test]
async fn a_signal_is_told_apart_from_a_code() {
    let mut runner = Runner::start().await;
    let finished = runner.run_shell("killed", "kill -9 $$").await;
    assert_eq!(
        (finished.record.cause(), finished.record.exit),
        (Cause::Exited, Some(Exit::Signal(9)))
    );
    let finished = runner.run_shell("real-time", "kill -40 $$").await;
    assert_eq!(finished.record.exit, Some(Exit::Signal(40)));
    let finished = runner.run_shell("coded", "exit 137").await;
    assert_eq!(finished.record.exit, Some(Exit::Code(137)));
}

#[tokio::test]
async fn the_images_variables_are_below_the_requests_and_above_the_defaults() {
    let home = new_home();
    let mut command = Command::new(program());
    command.args(init_arguments(home.path(), user()));
    for variable in [
        "PATH=/bin:/usr/bin",
        "HOME=/nowhere",
        "USER=of-the-image",
        "A=image=1",
        "B=image",
    ] {
        command.args(["--env", variable]);
    }
    let mut runner = Runner::start_command(home, &mut command).await;
    let mut request = runner.argv("env", &["env", "-0"]);
    request.env = env(&[("B", "request")]);
    let text = runner.run(request).await.text();
    let seen: Vec<&str> = text.split_terminator('\0').collect();
    let home = format!("HOME={}", runner.volume().display());
    for expected in [
        "A=image=1",
        "B=request",
        "PATH=/bin:/usr/bin",
        "LANG=C.UTF-8",
        &home,
    ] {
        assert!(seen.contains(&expected), "{expected}: {seen:?}");
    }
    // The last is the user's own name.
    assert!(seen.iter().any(|entry| entry.starts_with("USER=")));
    assert!(
        !seen.contains(&"USER=of-the-image") && seen.len() == 6,
        "{seen:?}"
    );
}

#[tokio::test]
async fn the_environment_is_the_documented_one_and_nothing_leaks() {
    let mut runner = Runner::start().await;
    let mut request = runner.argv("env", &["/usr/bin/env", "-0"]);
    request.env = env(&[("EXTRA", "a b\nc"), ("LANG", "C")]);
    let text = runner.run(request).await.text();
    let mut seen: Vec<&str> = text.split_terminator('\0').collect();
    seen.sort_unstable();
    let home = format!("HOME={}", runner.volume().display());
    let user = seen
        .iter()
        .find(|entry| entry.starts_with("USER="))
        .copied()
        .unwrap();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(seen, ["EXTRA=a b\nc", &home, "LANG=C", path, user]);

    let finished = runner
        .run_shell("cwd", "pwd; umask; cat /proc/self/status; ls /proc/self/fd")
        .await;
    let text = finished.text();
    assert!(
        text.starts_with(&format!("{}\n0022\n", runner.volume().display())),
        "{text}"
    );
    let (uid, gid) = user_ids();
    let status = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(status("Uid:"), format!("{uid}\t{uid}\t{uid}\t{uid}"));
    assert_eq!(status("Gid:"), format!("{gid}\t{gid}\t{gid}\t{gid}"));
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(status(set), "0000000000000000", "{set}");
    }
    assert_eq!(status("NoNewPrivs:"), "1");
    assert_eq!(status("SigBlk:"), "0000000000000000");
    assert_eq!(status("SigIgn:"), "0000000000000000");
    if uid != nix::unistd::geteuid().as_raw() {
        assert_eq!(status("CapBnd:"), "0000000000000000");
        assert_eq!(status("Groups:"), "");
    }
    // 3 is the folder that ls reads.
    assert!(text.ends_with("\n0\n1\n2\n3\n"), "{text}");
}

fn user_ids() -> (u32, u32) {
    user()
}

#[tokio::test]
async fn a_command_has_a_session_of_its_own() {
    let mut runner = Runner::start().await;
    let finished = runner.run_shell("job", "cat /proc/$$/stat; echo $$").await;
    let text = finished.text();
    let pid = text.lines().last().unwrap();
    let after_name: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!((after_name[2], after_name[3]), (pid, pid));
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let mut runner = Runner::start().await;
    let volume = runner.volume();
    std::fs::write(volume.join("plain"), "x").unwrap();
    for (name, text) in [
        ("noexec", "#!/bin/sh\n"),
        ("nointerp", "#!/no/such\n"),
        ("garbage", "not a program\n"),
    ] {
        std::fs::write(volume.join(name), text).unwrap();
        common::set_mode(
            &volume.join(name),
            if name == "noexec" { 0o644 } else { 0o755 },
        );
    }
    let long = "x".repeat(200 * 1024);
    let cases: [(&str, &[&str], Kind); 7] = [
        ("missing", &["no-such-command"], Kind::CommandNotFound),
        ("missing-path", &["/no/such/command"], Kind::CommandNotFound),
        ("noexec", &["./noexec"], Kind::NotExecutable),
        ("folder", &["/tmp"], Kind::NotExecutable),
        ("nointerp", &["./nointerp"], Kind::NotExecutable),
        ("garbage", &["./garbage"], Kind::NotExecutable),
        ("long", &["echo", &long], Kind::Other),
    ];
    for (id, argv, kind) in cases {
        let finished = runner.run(runner.argv(id, argv)).await;
        let record = finished.record;
        assert_eq!(
            (record.cause(), record.exit),
            (Cause::StartFailed, None),
            "{id}"
        );
        let error = record.start_error.unwrap();
        assert_eq!(error.kind(), kind, "{id}: {}", error.message);
        assert!(!error.message.is_empty());
    }
    let workdirs = [
        ("absent", "no-such-folder"),
        ("file", "plain"),
        ("absolute", "/no/such"),
    ];
    for (id, workdir) in workdirs {
        let request = StartRequest {
            workdir: workdir.to_owned(),
            ..runner.shell(id, "true")
        };
        let error = runner.run(request).await.record.start_error.unwrap();
        assert_eq!(error.kind(), Kind::WorkdirNotFound, "{id}");
    }
    let request = StartRequest {
        workdir: "sub".to_owned(),
        ..runner.shell("sub", "pwd")
    };
    std::fs::create_dir(volume.join("sub")).unwrap();
    assert_eq!(
        runner.run(request).await.text(),
        format!("{}/sub\n", volume.display())
    );
}

#[tokio::test]
async fn users_are_those_of_the_image_but_never_the_runners() {
    let mut runner = Runner::start().await;
    let as_user = |user: &str, id: &str| StartRequest {
        user: user.to_owned(),
        ..runner.shell(id, "id -u")
    };
    let reserved =
        ["0", "root", "4294967295"].map(|user| as_user(user, &format!("reserved-{user}")));
    let (named, numbered, unknown) = (
        as_user("nobody", "named"),
        as_user("4242", "numbered"),
        as_user("nosuch", "no"),
    );
    let can_switch = nix::unistd::geteuid().is_root();
    if can_switch {
        assert_eq!(runner.run(named).await.text(), "65534\n");
        assert_eq!(runner.run(numbered).await.text(), "4242\n");
        assert_eq!(
            runner.run(unknown).await.record.start_error.unwrap().kind(),
            Kind::UserNotFound
        );
    } else {
        for request in [named, numbered, unknown] {
            assert_eq!(
                code(runner.client.start(request).await),
                Code::InvalidArgument
            );
        }
    }
    for request in reserved {
        assert_eq!(
            code(runner.client.start(request).await),
            Code::InvalidArgument
        );
    }
    let own = StartRequest {
        user: user().0.to_string(),
        ..runner.shell("own", "id -u")
    };
    assert_eq!(runner.run(own).await.text(), format!("{}\n", user().0));
}

#[tokio::test]
async fn the_rules_of_permits_hold() {
    let mut runner = Runner::start().await;
    let with = |permit: Option<Permit>| StartRequest {
        permit,
        ..runner.shell("x", "true")
    };
    let (fine, again) = (
        with(Some(runner.permit("job", 5))),
        with(Some(runner.permit("job", 6))),
    );
    let other = with(Some(Permit {
        incarnation: "0".repeat(32),
        ..runner.permit("other", 1)
    }));
    let bad = [
        None,
        Some(runner.permit("a/b", 1)),
        Some(runner.permit("", 1)),
        Some(runner.permit("zero", 0)),
    ]
    .map(with);
    let late = with(Some(runner.permit("sealed", 3)));
    let in_time = with(Some(runner.permit("sealed", 4)));

    runner.client.start(fine.clone()).await.unwrap();
    assert_eq!(code(runner.client.start(fine).await), Code::AlreadyExists);
    assert_eq!(code(runner.client.start(again).await), Code::AlreadyExists);
    assert_eq!(
        code(runner.client.start(other).await),
        Code::FailedPrecondition
    );
    for request in bad {
        assert_eq!(
            code(runner.client.start(request).await),
            Code::InvalidArgument
        );
    }
    assert!(matches!(
        runner.seal("sealed", 4).await.unwrap().fate,
        Some(Fate::NeverStarted(_))
    ));
    assert_eq!(code(runner.client.start(late).await), Code::Aborted);
    assert_eq!(code(runner.seal("sealed", 3).await), Code::Aborted);
    runner.client.start(in_time).await.unwrap();
    runner.finish("sealed").await;
    let reply = runner.seal("sealed", 9).await.unwrap();
    assert_eq!(reply.incarnation, runner.incarnation);
    assert!(
        matches!(reply.fate, Some(Fate::Record(record)) if record.fence == 4 && record.phase() == JobPhase::Ended)
    );
    let nobody = AttachRequest {
        job_id: "nobody".to_owned(),
        ..AttachRequest::default()
    };
    assert_eq!(
        code(runner.client.attach(nobody).await.map(|_| ())),
        Code::NotFound
    );
}

#[tokio::test]
async fn requests_that_mean_nothing_are_refused() {
    let mut runner = Runner::start().await;
    let mut requests = vec![
        StartRequest {
            command: None,
            ..runner.shell("a", "")
        },
        runner.argv("b", &[]),
        runner.argv("c", &[""]),
        runner.argv("d", &["a\0b"]),
        StartRequest {
            workdir: "a\0b".to_owned(),
            ..runner.shell("e", "true")
        },
    ];
    for pair in [
        ("", "x"),
        ("A=B", "x"),
        ("A", "x\0y"),
        ("A", &"x".repeat(1024 * 1024)),
    ] {
        requests.push(StartRequest {
            env: env(&[pair]),
            ..runner.shell("f", "true")
        });
    }
    for request in requests {
        assert_eq!(
            code(runner.client.start(request).await),
            Code::InvalidArgument
        );
    }
    // Nothing of it was started.
    assert!(
        runner
            .client
            .list_jobs(runner::proto::ListJobsRequest {})
            .await
            .unwrap()
            .into_inner()
            .jobs
            .is_empty()
    );
}

#[tokio::test]
async fn standard_input_arrives() {
    let mut runner = Runner::start().await;
    let empty = runner.run_shell("empty", "cat; echo end").await;
    assert_eq!(empty.text(), "end\n");
    let big = vec![b'x'; 3 << 20];
    let request = StartRequest {
        stdin: big.clone().into(),
        ..runner.shell("given", "cat")
    };
    assert_eq!(runner.run(request).await.stdout(), big);
    let ignored = StartRequest {
        stdin: big.into(),
        ..runner.shell("ignored", "exit 3")
    };
    assert_eq!(runner.run(ignored).await.record.exit, Some(Exit::Code(3)));
}

#[tokio::test]
async fn standard_input_grows_by_offset() {
    let mut runner = Runner::start().await;
    let request = StartRequest {
        stdin: "one ".into(),
        stdin_open: true,
        ..runner.shell("job", "cat")
    };
    runner.client.start(request).await.unwrap();
    let write = |offset, data: &'static str, eof| WriteStdinRequest {
        job_id: "job".to_owned(),
        offset,
        data: data.into(),
        eof,
    };
    for _ in 0..2 {
        let reply = runner
            .client
            .write_stdin(write(4, "two ", false))
            .await
            .unwrap();
        assert_eq!(reply.into_inner().next_offset, 8);
    }
    let gap = runner
        .client
        .write_stdin(write(9, "no", false))
        .await
        .unwrap_err();
    assert_eq!(gap.code(), Code::OutOfRange);
    assert!(gap.message().contains('8'));
    let last = runner
        .client
        .write_stdin(write(8, "three", true))
        .await
        .unwrap();
    assert_eq!(last.into_inner().next_offset, 13);
    assert_eq!(runner.finish("job").await.text(), "one two three");
    assert_eq!(
        code(runner.client.write_stdin(write(13, "x", false)).await),
        Code::FailedPrecondition
    );
}

#[tokio::test]
async fn output_beyond_the_limit_is_counted_and_its_tail_kept() {
    let mut runner = Runner::start().await;
    let script = "i=0; while [ $i -lt 40000 ]; do echo line-$i; i=$((i+1)); done";
    let whole: String = (0..40_000).map(|i| format!("line-{i}\n")).collect();
    let request = StartRequest {
        output_limit: 1000,
        ..runner.shell("job", script)
    };
    let finished = runner.run(request).await;
    let counts = finished.record.stdout.unwrap();
    let total = whole.len() as u64;
    assert_eq!(
        (counts.total, counts.head, counts.tail_start),
        (total, 1000, total - runner::TAIL_BYTES)
    );
    let mut at = 0;
    for (offset, data) in &finished.pieces[0] {
        assert!(*offset == at || (at, *offset) == (counts.head, counts.tail_start));
        let offset = usize::try_from(*offset).unwrap();
        assert_eq!(data, &whole.as_bytes()[offset..offset + data.len()]);
        at = (offset + data.len()) as u64;
    }
    assert_eq!(at, total);
    let inside_gap = runner.finish_from("job", [5000, 0]).await;
    assert_eq!(inside_gap.pieces[0][0].0, counts.tail_start);
}

#[tokio::test]
async fn attaching_follows_live_from_any_offset() {
    let mut runner = Runner::start().await;
    let request = StartRequest {
        stdin_open: true,
        ..runner.shell("job", "echo first; cat; echo last")
    };
    runner.client.start(request).await.unwrap();
    let first = AttachRequest {
        job_id: "job".to_owned(),
        ..AttachRequest::default()
    };
    let mut first = runner.client.attach(first).await.unwrap().into_inner();
    assert!(first.message().await.unwrap().is_some());
    let attached: Vec<_> = [0, 3, 6]
        .into_iter()
        .map(|offset| tokio::spawn(attach(runner.client.clone(), "job", [offset, 0])))
        .collect();
    let input = WriteStdinRequest {
        job_id: "job".to_owned(),
        offset: 0,
        data: "middle\n".into(),
        eof: true,
    };
    runner.client.write_stdin(input).await.unwrap();
    let expected = "first\nmiddle\nlast\n";
    for (reader, offset) in attached.into_iter().zip([0, 3, 6]) {
        assert_eq!(reader.await.unwrap().unwrap().text(), expected[offset..]);
    }
    assert_eq!(
        code(attach(runner.client.clone(), "job", [99, 0]).await),
        Code::OutOfRange
    );
}

#[tokio::test]
async fn released_output_is_gone_and_forgotten_jobs_never_start_again() {
    let mut runner = Runner::start().await;
    runner
        .run_shell("job", "printf 0123456789; printf abc >&2")
        .await;
    let release = |stdout_offset, forget| ReleaseRequest {
        job_id: "job".to_owned(),
        stdout_offset,
        stderr_offset: 0,
        forget,
    };
    runner.client.release(release(4, false)).await.unwrap();
    assert_eq!(
        code(attach(runner.client.clone(), "job", [3, 0]).await),
        Code::OutOfRange
    );
    let rest = runner.finish_from("job", [4, 0]).await;
    assert_eq!(
        (rest.text().as_str(), rest.stderr().as_slice()),
        ("456789", &b"abc"[..])
    );
    for _ in 0..2 {
        runner.client.release(release(0, true)).await.unwrap();
    }
    assert_eq!(
        std::fs::read_dir(runner.state().join("jobs"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(
        code(attach(runner.client.clone(), "job", [0, 0]).await),
        Code::NotFound
    );
    assert_eq!(
        code(runner.client.start(runner.shell("job", "true")).await),
        Code::AlreadyExists
    );
    assert!(matches!(
        runner.seal("job", 2).await.unwrap().fate,
        Some(Fate::Tombstone(_))
    ));
    let unknown = ReleaseRequest {
        job_id: "unknown".to_owned(),
        forget: true,
        ..ReleaseRequest::default()
    };
    assert_eq!(code(runner.client.release(unknown).await), Code::NotFound);
    runner
        .client
        .start(StartRequest {
            stdin_open: true,
            ..runner.shell("on", "cat")
        })
        .await
        .unwrap();
    let running = ReleaseRequest {
        job_id: "on".to_owned(),
        forget: true,
        ..ReleaseRequest::default()
    };
    assert_eq!(
        code(runner.client.release(running).await),
        Code::FailedPrecondition
    );
}

#[tokio::test]
async fn hello_names_the_program() {
    let mut runner = Runner::start().await;
    let hello = runner
        .client
        .hello(HelloRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(hello.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(hello.incarnation.len(), 32);
}
