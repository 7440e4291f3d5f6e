//! The user of an image, looked up in the image's own files, which may be anything: no link leads out of its tree, and
//! nothing but ordinary files of a bounded size is read.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use serde::{Deserialize, Serialize};

use super::super::spec::USER;
use super::pull::PullError;

/// As much of a file as is read.
const LARGEST: u64 = 1 << 20;
/// The highest id that an environment has.
const HIGHEST: u32 = 65_534;

/// Who runs commands, inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Person {
    /// The user.
    pub(in super::super) uid: u32,
    /// The group.
    pub(in super::super) gid: u32,
}

impl Person {
    /// Who it is where nobody says it.
    pub(in super::super) const DEFAULT: Self = Self {
        uid: USER,
        gid: USER,
    };

    /// The user that an image asks for: `USER`, `USER:GROUP`, names or numbers. Root is not to be had, nor is nobody at
    /// all: then it is the default user.
    pub(super) fn of_image(asked: &str, root: &Path) -> Result<Self, PullError> {
        let (user, group) = asked.split_once(':').unwrap_or((asked, ""));
        if user.is_empty() {
            return Ok(Self::DEFAULT);
        }
        let passwd = read(root, "etc/passwd");
        let (uid, own_gid) = match number(user) {
            Some(uid) => (uid, gid_of(&passwd, uid).unwrap_or(uid)),
            None => named(&passwd, user)
                .ok_or_else(|| PullError::refused(format!("it has no user {user:?}")))?,
        };
        if uid == 0 {
            return Ok(Self::DEFAULT);
        }
        let gid = match group {
            "" => own_gid,
            group => number(group)
                .or_else(|| named(&read(root, "etc/group"), group).map(|(gid, _)| gid))
                .ok_or_else(|| PullError::refused(format!("it has no group {group:?}")))?,
        };
        if uid > HIGHEST || gid > HIGHEST {
            return Err(PullError::refused(format!(
                "its user {asked:?} is above {HIGHEST}"
            )));
        }
        Ok(Self { uid, gid })
    }

    /// The image's list of users with this one in it, where it is not yet.
    pub(super) fn added_to_passwd(self, root: &Path) -> Option<String> {
        let mut passwd = read(root, "etc/passwd");
        if gid_of(&passwd, self.uid).is_some() {
            return None;
        }
        if !passwd.is_empty() && !passwd.ends_with('\n') {
            passwd.push('\n');
        }
        let Self { uid, gid } = self;
        passwd.push_str(&format!(
            "user:x:{uid}:{gid}:The environment's user:/app:/bin/sh\n"
        ));
        Some(passwd)
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    text.parse().ok()
}

/// The third and fourth field of the line of that name.
fn named(text: &str, name: &str) -> Option<(u32, u32)> {
    let fields = lines(text).find(|fields| fields.first() == Some(&name))?;
    let field = |at: usize| fields.get(at).and_then(|text| text.parse().ok());
    Some((field(2)?, field(3).unwrap_or_default()))
}

fn gid_of(passwd: &str, uid: u32) -> Option<u32> {
    let uid = uid.to_string();
    lines(passwd)
        .find(|fields| fields.get(2) == Some(&&*uid))
        .and_then(|fields| fields.get(3)?.parse().ok())
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

/// A file of the image; nothing where there is none that can be read.
fn read(root: &Path, name: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = openat(CWD, root, flags | OFlags::DIRECTORY, Mode::empty()).and_then(|top| {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(top, name, flags | OFlags::NONBLOCK, Mode::empty(), resolve)
    });
    let mut bytes = Vec::new();
    if let Ok(file) = opened.map(File::from)
        && file.metadata().is_ok_and(|found| found.is_file())
    {
        // What was read before an error still counts.
        let _ = file.take(LARGEST).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn image() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let etc = folder.path().join("etc");
        fs::create_dir(&etc).expect("made");
        let passwd = "root:x:0:0::/root:/bin/sh\napp:x:77:78::/:/bin/sh\nbad:x:y\n";
        fs::write(etc.join("passwd"), passwd).expect("written");
        fs::write(etc.join("group"), "staff:x:50:app\n").expect("written");
        folder
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let image = image();
        for (asked, uid, gid) in [
            ("", 1000, 1000),
            ("root", 1000, 1000),
            ("0:0", 1000, 1000),
            ("app", 77, 78),
            ("77", 77, 78),
            ("app:staff", 77, 50),
            ("500", 500, 500),
            ("500:60", 500, 60),
        ] {
            let found = Person::of_image(asked, image.path()).expect(asked);
            assert_eq!(found, Person { uid, gid }, "{asked}");
        }
        for bad in ["nobody-here", "app:nobody-here", "70000", "5:70000", "bad"] {
            assert!(Person::of_image(bad, image.path()).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_file_of_the_machine_is_taken_for_the_images() {
        let image = image();
        let passwd = image.path().join("etc/passwd");
        fs::remove_file(&passwd).expect("removed");
        symlink("/etc/passwd", &passwd).expect("linked");
        assert_eq!(read(image.path(), "etc/passwd"), "");
        symlink("/etc/hostname", image.path().join("etc/up")).expect("linked");
        symlink("../../../../../../etc/hostname", image.path().join("up")).expect("linked");
        assert_eq!(read(image.path(), "etc/up"), "");
        assert_eq!(read(image.path(), "up"), "");
        symlink("group", image.path().join("etc/own")).expect("linked");
        assert!(read(image.path(), "etc/own").contains("staff"));
    }

    #[test]
    fn the_user_is_added_where_the_image_does_not_know_him() {
        let image = image();
        let added = Person::DEFAULT.added_to_passwd(image.path());
        assert!(added.is_some_and(|text| text.ends_with("/app:/bin/sh\n")));
        let known = Person { uid: 77, gid: 78 };
        assert_eq!(known.added_to_passwd(image.path()), None);
    }
}
