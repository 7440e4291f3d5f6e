//! Which names and links of an archive are taken: those that lead down only, and out of the folder by no way.

use rustix::io::Errno;

use super::super::fault::Fault;
use crate::proto::FileErrorCode;

/// Folders in each other, at most.
const MAX_DEPTH: usize = 256;

/// Bytes of a name in an archive, at most.
const MAX_NAME: usize = 4096;

/// The parts of a name in an archive; one that leads anywhere but down is refused.
pub(super) fn parts(name: &[u8], shown: &str) -> Result<Vec<Vec<u8>>, Fault> {
    if name.starts_with(b"/") {
        return Err(refused(shown, "has an absolute name"));
    }
    if name.contains(&0) || name.len() > MAX_NAME {
        return Err(refused(shown, "has a name that no file can have"));
    }
    let parts: Vec<Vec<u8>> = name
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect();
    if parts.iter().any(|part| part == b"..") {
        return Err(refused(shown, "climbs out of its folder"));
    }
    if parts.len() > MAX_DEPTH {
        return Err(refused(shown, "lies deeper than 256 folders"));
    }
    Ok(parts)
}

/// Refuses a symbolic link that may lead out of the folder; it lies `depth` folders below it.
pub(super) fn check_link(target: &[u8], depth: usize, shown: &str) -> Result<(), Fault> {
    if target.is_empty() || target.contains(&0) || target.starts_with(b"/") {
        return Err(refused(shown, "is a link to outside of the folder"));
    }
    let names = target
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    let (mut climbed, mut descends) = (0, false);
    for name in names {
        if name != b".." {
            descends = true;
            continue;
        }
        climbed += 1;
        if descends || climbed > depth {
            return Err(refused(shown, "is a link to outside of the folder"));
        }
    }
    Ok(())
}

pub(super) fn refused(shown: &str, why: &str) -> Fault {
    Fault::new(
        FileErrorCode::ArchiveRefused,
        format!("the archive is refused: {shown:?} {why}"),
    )
}

/// An entry that meets another of the same archive.
pub(super) fn in_the_way(shown: &str, errno: Errno) -> Fault {
    match errno {
        Errno::NOTDIR | Errno::LOOP => refused(shown, "goes through an entry that is no folder"),
        Errno::ISDIR | Errno::PERM | Errno::EXIST => refused(shown, "takes the place of a folder"),
        errno => errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_only_down() {
        let names = |name: &[u8]| parts(name, "x").map(|parts| parts.concat());
        assert_eq!(names(b"./a//b/.").unwrap(), b"ab");
        assert_eq!(names(b"./").unwrap(), b"");
        assert_eq!(names(b"a/..b/...").unwrap(), b"a..b...");
        for bad in [
            &b"/a"[..],
            b"..",
            b"a/../b",
            b"a/..",
            b"a\0b",
            &[b'x'; 5000],
        ] {
            assert!(names(bad).is_err(), "{bad:?}");
        }
        assert!(names(&b"a/".repeat(257)).is_err());
    }

    #[test]
    fn links_climb_only_within_the_folder_and_first() {
        let fine = |target: &[u8], depth| check_link(target, depth, "x").is_ok();
        assert!(fine(b"a/b", 0) && fine(b"../a", 1) && fine(b"../..", 2) && fine(b"./.././b", 1));
        assert!(!fine(b"..", 0) && !fine(b"../../a", 1) && !fine(b"/etc", 5) && !fine(b"", 1));
        // It may lead through another link, whose parent is not what its name says.
        assert!(!fine(b"a/../b", 3) && !fine(b"../a/..", 3));
    }
}
