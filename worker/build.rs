//! Builds the runner, the static program that becomes PID 1 of every environment, so that it can be embedded.
//!
//! The nested cargo gets a target folder of its own (with the outer one it would wait for ever for the lock that the
//! outer cargo holds), beside `OUT_DIR`, so that check, clippy and test build the runner once. It gets none of the outer
//! build's variables (the flags and wrappers of a clippy or coverage run would make another program). `EM_RUNNER_BIN`
//! names a finished program to embed instead.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// The outer cargo's variables that the nested one may see: where its caches and registries are, and how to behave.
const KEPT: [&str; 6] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
];

/// What the outer build says to compilers, beside the variables that begin with `CARGO`.
const DROPPED: [&str; 6] = [
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTDOCFLAGS",
    "LLVM_PROFILE_FILE",
];

/// What the runner is made of, from the workspace's root.
const SOURCES: [&str; 6] = [
    "Cargo.lock",
    "Cargo.toml",
    "runner/Cargo.toml",
    "runner/build.rs",
    "runner/proto",
    "runner/src",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=EM_RUNNER_BIN");
    let program = match env::var_os("EM_RUNNER_BIN") {
        Some(given) => {
            let given = PathBuf::from(given);
            println!("cargo::rerun-if-changed={}", given.display());
            given
        }
        None => build()?,
    };
    let bytes = std::fs::read(&program)
        .map_err(|error| format!("the runner {} cannot be read: {error}", program.display()))?;
    let hash: String = Sha256::digest(&bytes)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    println!("cargo::rustc-env=EM_RUNNER_PROGRAM={}", program.display());
    println!("cargo::rustc-env=EM_RUNNER_HASH={hash}");
    Ok(())
}

/// Builds the runner as a static program for the machine that the worker is built for.
fn build() -> Result<PathBuf, Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?)
        .parent()
        .ok_or("the worker has no folder above it")?
        .to_owned();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let target = env::var("TARGET")?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let folder = out.ancestors().nth(2).unwrap_or(&out).join("em-runner");
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo
        .current_dir(&root)
        .args(["build", "--locked", "--profile", "embedded"])
        .args(["--package", "runner", "--bin", "em-runner"])
        .args(["--target", &target]);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let outer = text.starts_with("CARGO") && !KEPT.iter().any(|kept| text.starts_with(kept));
        if outer || DROPPED.contains(&text.as_ref()) {
            cargo.env_remove(&name);
        }
    }
    cargo
        .env("CARGO_TARGET_DIR", &folder)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("the runner could not be built ({status}): {cargo:?}").into());
    }
    // Another run of this script may build another runner there.
    let program = out.join("em-runner");
    std::fs::copy(folder.join(target).join("embedded/em-runner"), &program)?;
    Ok(program)
}
