//! The file that holds keys of the service in clear, for its owner alone.
//!
//! The first start makes it with one random key; every start reads it and hands on only the hashes. The file appears
//! whole or not at all, and is never replaced: a key that somebody has noted goes on working.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use shared::clock::Clock;
use shared::key::KeyHash;

use crate::failure::Failure;

/// Characters of a key at least: its hash is fast to compute, so it must be long enough not to be guessed.
const KEY_LENGTH_MIN: usize = 20;

/// The hashes of the file's keys, in its order. It is made with a new random key if it is not there.
pub(crate) fn hashes(path: &Path, clock: &dyn Clock) -> Result<Vec<KeyHash>, Failure> {
    let failure = |error: io::Error| {
        Failure::new(
            format!("the key file {} cannot be used", path.display()),
            error,
        )
        .advise("set auth.keys_file to a file that this user may read, in a folder that is there")
    };
    match make(path, clock) {
        Ok(()) => {
            tracing::info!(path = %path.display(), "made a key; callers send it as bearer token")
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failure(error)),
    }
    let text = fs::read_to_string(path).map_err(failure)?;
    warn_if_open(path).map_err(failure)?;
    keys(&text).map_err(|why| {
        Failure::new(
            format!("the key file {} cannot be used", path.display()),
            why,
        )
        .advise(
            "write one key of at least 20 characters a line, or remove the file to have one made",
        )
    })
}

/// Makes the file with one random key. `AlreadyExists` if it is there.
fn make(path: &Path, clock: &dyn Clock) -> io::Result<()> {
    if path.try_exists()? {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let random = [clock.random(), clock.random()].concat();
    let key: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = path.parent().unwrap_or(Path::new("/"));
    let draft = folder.join(format!(".api-key.{}", std::process::id()));
    let made = write(&draft, &format!("em_{key}\n")).and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    made.and(removed)?;
    File::open(folder)?.sync_all()
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn warn_if_open(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "other users can read the key file: chmod 600 it");
    }
    Ok(())
}

/// The hashes of the keys in a file's text, one a line. The error never holds a key.
fn keys(text: &str) -> Result<Vec<KeyHash>, String> {
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        return Err("there is no key in it".to_owned());
    }
    if let Some(short) = lines.iter().position(|key| key.len() < KEY_LENGTH_MIN) {
        return Err(format!("key {} of it is too short", short + 1));
    }
    // What no header can carry would be a key that nobody is let in with.
    let plain = |key: &&str| key.bytes().all(|byte| byte.is_ascii_graphic());
    if let Some(odd) = lines.iter().position(|key| !plain(key)) {
        return Err(format!(
            "key {} of it has other characters than visible ASCII ones",
            odd + 1
        ));
    }
    Ok(lines.into_iter().map(KeyHash::of).collect())
}

#[cfg(test)]
mod tests {
    use shared::clock::SystemClock;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("api-key");
        hashes(&path, &SystemClock).expect("a key");
        let key = fs::read_to_string(&path).expect("the key");
        assert!(key.starts_with("em_") && key.trim().len() == 67, "{key}");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let found = hashes(&path, &SystemClock).expect("a key");
        assert_eq!(found, [KeyHash::of(key.trim())]);
        assert_eq!(fs::read_to_string(&path).expect("the key"), key);
        let files = fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(files, 1, "no draft is left");
    }

    #[test]
    fn several_keys_are_taken_and_bad_files_refused_without_showing_a_key() {
        let long = "a-key-of-somebody-s-own-making";
        let found = keys(&format!("{long}\n\n  {long}2 \n")).expect("keys");
        assert_eq!(found, [KeyHash::of(long), KeyHash::of(&format!("{long}2"))]);
        for bad in [
            "",
            "\n\n",
            "hunter2",
            &format!("{long}\nhunter2"),
            &format!("\u{feff}{long}hunter2"),
            &format!("{long} hunter2"),
        ] {
            let error = keys(bad).expect_err("refused");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_said() {
        let failure = hashes(Path::new("/nowhere/api-key"), &SystemClock).expect_err("no folder");
        assert!(format!("{failure:?}").contains("/nowhere/api-key"));
    }
}
