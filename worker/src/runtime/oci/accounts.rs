//! Who is known inside: the machine's system accounts, and the environment's own user. No person of the machine is.

use std::fs;
use std::io;

/// The two files.
pub(super) struct Accounts {
    /// `/etc/passwd`.
    pub(super) passwd: String,
    /// `/etc/group`.
    pub(super) group: String,
}

impl Accounts {
    pub(super) fn of_the_machine() -> io::Result<Self> {
        let system = |text: String| -> String {
            text.lines()
                .filter(|line| is_system(line))
                .map(|line| format!("{line}\n"))
                .collect()
        };
        let passwd = system(fs::read_to_string("/etc/passwd")?);
        let group: String = system(fs::read_to_string("/etc/group")?)
            .lines()
            .map(|line| {
                format!(
                    "{}:\n",
                    line.rsplit_once(':').map_or(line, |(rest, _)| rest)
                )
            })
            .collect();
        Ok(Self {
            passwd: format!("{passwd}user:x:1000:1000:The environment's user:/app:/bin/sh\n"),
            group: format!("{group}user:x:1000:\n"),
        })
    }
}

/// Whether a line of passwd or group is of an account that comes with the system.
fn is_system(line: &str) -> bool {
    let id = line.split(':').nth(2).and_then(|id| id.parse::<u32>().ok());
    let named_user = line.starts_with("user:");
    !named_user && id.is_some_and(|id| id < 1000 || id == 65534)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_not_shown_inside() {
        assert!(is_system("root:x:0:0:root:/root:/bin/bash"));
        assert!(is_system("nogroup:x:65534:"));
        assert!(!is_system("alice:x:1001:1001::/home/alice:/bin/bash"));
        assert!(!is_system("user:x:500:500::/home/user:/bin/bash"));
        assert!(!is_system("+::::::"));
    }
}
