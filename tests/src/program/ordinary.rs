//! An ordinary user of this machine, as whom the program is started.
//!
//! Where the tests are root it is `em-test`, whom `scripts/test` makes; elsewhere it is who runs the tests.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::unistd::{Uid, User};

/// His name.
const NAME: &str = "em-test";

/// His uid.
pub fn uid() -> u32 {
    other().map_or_else(|| Uid::effective().as_raw(), |user| user.uid.as_raw())
}

/// Gives a folder to him.
pub fn give(folder: &Path) {
    if let Some(user) = other() {
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        chown(folder, Some(uid), Some(gid)).expect("given");
    }
}

/// The program, where he may read it: the checkout may be closed to him.
pub fn program() -> PathBuf {
    let given = std::env::var_os("ORDINARY_BIN").filter(|_| other().is_some());
    given.map_or_else(super::program, Into::into)
}

/// Any program, as he would start it.
pub fn starting(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    if let Some(user) = other() {
        command
            .uid(user.uid.as_raw())
            .gid(user.gid.as_raw())
            .env("HOME", &user.dir)
            .env_remove("XDG_DATA_HOME")
            .current_dir("/");
    }
    command.stdin(Stdio::null());
    command
}

/// The program with these arguments, as he would start it.
pub fn prepared(arguments: &[&str]) -> Command {
    let mut command = starting(program());
    command.args(arguments);
    command
}

/// Runs it to its end.
pub fn command(arguments: &[&str]) -> Output {
    prepared(arguments).output().expect("the program runs")
}

/// Him, unless he is who runs the tests.
fn other() -> Option<User> {
    if !Uid::effective().is_root() {
        return None;
    }
    let found = User::from_name(NAME).expect("the accounts can be read");
    Some(found.unwrap_or_else(|| panic!("there is no user {NAME}: scripts/test makes it")))
}
