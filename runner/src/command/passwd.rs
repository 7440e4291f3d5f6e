//! The users of the environment, read from its `/etc/passwd` by hand: a static program has no name service, and the
//! file is the image's, so nothing in it is trusted to be well-formed.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// As much of the file as is read.
const MAX_BYTES: u64 = 1024 * 1024;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The users of this environment; none if there is no readable file.
pub(crate) fn users() -> Vec<User> {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/etc/passwd");
    let mut text = Vec::new();
    match opened {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => {
            // What was read before an error still counts.
            let _ = file.take(MAX_BYTES).read_to_end(&mut text);
        }
        _ => {}
    }
    parse(&String::from_utf8_lossy(&text))
}

fn parse(text: &str) -> Vec<User> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let (name, _password, uid, gid) = (
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next()?,
    );
    Some(User {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_lines_survive_bad_neighbours() {
        let users = parse(
            "root:x:0:0:root:/root:/bin/sh\n\nhalf:x\nnan:x:a:b::\nbig:x:4294967296:0::\nem:x:1000:100\n",
        );
        let names: Vec<_> = users
            .iter()
            .map(|user| (user.name.as_str(), user.uid, user.gid))
            .collect();
        assert_eq!(names, [("root", 0, 0), ("em", 1000, 100)]);
    }
}
