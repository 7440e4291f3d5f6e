//! The program's command line as a person meets it: answers on standard output, failures as single lines on standard
//! error with exit code 1, wrong command lines with 2.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "everything here is a part of tests: what is wrong shall end them"
)]

use std::process::{Command, Output};

/// Runs the program with nothing of this process's environment but these variables.
fn run(args: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_environment-manager"))
        .args(args)
        .env_clear()
        .env("EM_DATA_DIR", "/nowhere/data")
        .envs(variables.iter().copied())
        .output()
        .expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("it exits"), text(stdout), text(stderr))
}

#[test]
fn good_settings_are_ok() {
    let (code, stdout, stderr) = run(&["config", "check"], &[]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "ok\n", ""));
}

#[test]
fn an_image_of_the_runner_that_nobody_named_is_a_warning_and_no_fault() {
    let mut variables = vec![
        ("EM_RUNTIME__KIND", "kubernetes"),
        ("EM_RUNTIME__DEFAULT_IMAGE", "debian:12"),
    ];
    let (code, stdout, stderr) = run(&["config", "check"], &variables);
    assert_eq!((code, stdout.as_str()), (0, "ok\n"));
    assert!(
        stderr.starts_with("warning: runtime.runner_image "),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    variables.push(("EM_RUNTIME__RUNNER_IMAGE", "registry.example/em:1"));
    let (code, _, stderr) = run(&["config", "check"], &variables);
    assert_eq!((code, stderr.as_str()), (0, ""));
}

#[test]
fn each_fault_is_one_line() {
    let variables = [("EM_SERVER__LISTNE", "x"), ("EM_STORE__KIND", "redis")];
    for command in ["check", "show"] {
        let (code, stdout, stderr) = run(&["config", command, "--listen", "here"], &variables);
        assert_eq!((code, stdout.as_str()), (1, ""));
        let lines: Vec<_> = stderr.lines().collect();
        assert_eq!(lines.len(), 3, "{stderr}");
        assert!(
            lines.iter().all(|line| line.starts_with("error: ")),
            "{stderr}"
        );
        assert!(
            stderr.contains("did you mean EM_SERVER__LISTEN?"),
            "{stderr}"
        );
        assert!(stderr.contains("server.listen (flag --listen)"), "{stderr}");
    }
}

#[test]
fn settings_are_shown_with_their_origins() {
    let (code, stdout, _) = run(
        &["config", "show", "--listen", "127.0.0.1:9"],
        &[("AGENT_NAME", "ada")],
    );
    assert_eq!(code, 0);
    for line in [
        "# data folder: /nowhere/data (variable EM_DATA_DIR)",
        "# flag --listen",
        "# variable AGENT_NAME",
    ] {
        assert!(stdout.contains(line), "{line}: {stdout}");
    }
}

#[test]
fn a_file_named_on_the_command_line_is_read_below_variables_and_flags() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("settings.toml");
    let settings =
        "[server]\nlisten = \"127.0.0.1:1\"\n[worker]\nconcurrency = 3\nlease_seconds = 17\n";
    std::fs::write(&file, settings).expect("written");
    let file = file.to_str().expect("UTF-8");
    let (code, stdout, stderr) = run(
        &[
            "config",
            "show",
            "--config",
            file,
            "--listen",
            "127.0.0.1:9",
        ],
        &[("EM_WORKER__CONCURRENCY", "5")],
    );
    assert_eq!(code, 0, "{stderr}");
    for (line, origin) in [
        ("listen = \"127.0.0.1:9\"", "# flag --listen"),
        ("concurrency = 5", "# variable EM_WORKER__CONCURRENCY"),
        ("lease_seconds = 17", &format!("# file {file}")),
    ] {
        let shown = stdout.lines().find(|shown| shown.starts_with(line));
        let shown = shown.unwrap_or_else(|| panic!("{line} is not shown: {stdout}"));
        assert!(shown.contains(origin), "{shown} is not from {origin}");
    }
    std::fs::write(file, "[server]\nlistne = \"x\"\n").expect("written");
    let (code, _, stderr) = run(&["config", "check", "--config", file], &[]);
    assert_eq!(code, 1);
    assert!(
        stderr.contains("listne") && stderr.contains(file),
        "{stderr}"
    );
    let (code, _, stderr) = run(&["serve", "--config", "/nowhere/settings.toml"], &[]);
    assert_eq!(code, 1);
    assert!(stderr.contains("/nowhere/settings.toml"), "{stderr}");
}

#[test]
fn a_wrong_command_line_is_answered_with_the_usage() {
    for args in [
        &["config"][..],
        &["frobnicate"],
        &[],
        &["config", "show", "--nope"],
    ] {
        let (code, _, stderr) = run(args, &[]);
        assert_eq!(code, 2, "{args:?}");
        assert!(stderr.contains("Usage:"), "{stderr}");
    }
}

#[test]
fn the_version_is_the_packages() {
    let version = format!("environment-manager {}\n", env!("CARGO_PKG_VERSION"));
    for args in [["version"], ["--version"]] {
        assert_eq!(run(&args, &[]).1, version);
    }
}
