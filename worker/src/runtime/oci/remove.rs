//! Removes a tree that hostile code has built, however deep it is.
//!
//! The usual recursion needs a descriptor and a stack frame for every level, so that a tree of a hundred thousand nested
//! folders cannot be removed by it. Here a folder that is not empty is moved up to the top instead: each is opened once
//! and nothing is held but its own entries. No link is followed; names are only ever resolved against open folders.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Names that are held at a time, so that a folder of millions needs no memory for them all.
const BATCH: usize = 4096;

/// Removes the folder with all that is in it. None there is success. It may be interrupted and called again.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open(CWD, path) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut moved = 0_u64;
    loop {
        let names = names_of(&top)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            if remove_leaf(&top, &name)? {
                continue;
            }
            let folder = open(&top, name.as_c_str())?;
            lift(&folder, &top, &mut moved)?;
            if let Err(error) = unlinkat(&top, &name, AtFlags::REMOVEDIR)
                && !matches!(error, Errno::NOENT | Errno::NOTEMPTY)
            {
                return Err(error.into());
            }
        }
    }
    match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes the files and empty folders of `folder`, and moves its other folders to the top under new names.
fn lift(folder: &OwnedFd, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    for name in names_of(folder)? {
        if remove_leaf(folder, &name)? {
            continue;
        }
        loop {
            let to = format!(".moved-{moved}");
            *moved += 1;
            match renameat(folder, &name, top, &to) {
                Ok(()) | Err(Errno::NOENT) => break,
                // What an interrupted call has left there.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Removes what is no folder, or an empty one; false if it is a folder with something in it.
fn remove_leaf(folder: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match unlinkat(folder, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn open(at: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

/// Some of the names in the folder; none only if it is empty.
fn names_of(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let itself =
            entry.file_type() == FileType::Directory && matches!(name.to_bytes(), b"." | b"..");
        if !itself {
            names.push(name.to_owned());
        }
        if names.len() == BATCH {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        // Where there is a file system in memory this takes no time.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.expect("a folder");
        let top = folder.path().join("top");
        fs::create_dir(&top).expect("made");
        let mut at = open(CWD, top.as_path()).expect("opened");
        for _ in 0..30_000 {
            mkdirat(&at, "d", Mode::RWXU).expect("made");
            at = open(&at, "d").expect("opened");
        }
        remove_tree(&top).expect("removed");
        assert!(!top.exists());
        remove_tree(&top).expect("nothing to remove");
    }

    #[test]
    fn links_are_not_followed_and_leftovers_of_an_interrupted_call_go_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let (top, kept) = (folder.path().join("top"), folder.path().join("kept"));
        fs::create_dir_all(top.join(".moved-0/x/y")).expect("made");
        fs::write(top.join(".moved-1"), "").expect("written");
        fs::create_dir_all(top.join("a/b/c")).expect("made");
        fs::create_dir(&kept).expect("made");
        fs::write(kept.join("file"), "kept").expect("written");
        symlink(&kept, top.join("a/link")).expect("linked");
        symlink(&kept, top.join("link")).expect("linked");
        remove_tree(&top).expect("removed");
        assert!(!top.exists());
        assert_eq!(
            fs::read_to_string(kept.join("file")).expect("there"),
            "kept"
        );
    }
}
