//! The rules of requests beyond their types. All that is wrong is collected, so that one answer names every field.

use std::collections::BTreeMap;

use shared::environment::{Egress, MAX_LABELS};
use shared::ids::EnvironmentId;
use shared::octets::Octets;
use shared::ports::RuntimeOffer;
use shared::secret::EnvVars;

use crate::problem::{FieldError, Problem};

/// Bytes of one argument or variable at most: the kernel's own limit for one string of a new program.
const MAX_STRING: usize = 128 * 1024 - 1;

/// Bytes of all arguments and variables of one command, or all variables of one environment, at most.
const MAX_STRINGS: usize = 512 * 1024;

/// Bytes of a path at most, as in the kernel.
const MAX_PATH: usize = 4095;

const MAX_LABEL_NAME: usize = 128;
const MAX_LABEL_VALUE: usize = 1024;

/// The number that is no user: it tells the kernel to change nothing.
const NO_USER: u32 = u32::MAX;

/// Seconds of a lifetime or an idle time at most: ten years.
const MAX_LIFETIME: u64 = 10 * 366 * 24 * 3600;

/// What is wrong with a request, so far.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<FieldError>);

impl Faults {
    /// Notes that a field cannot be taken.
    pub(crate) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError {
            field: field.into(),
            message: message.into(),
        });
    }

    /// Notes it unless the field keeps the rule.
    pub(crate) fn unless(&mut self, kept: bool, field: &str, message: &str) {
        if !kept {
            self.add(field, message);
        }
    }

    /// The value, or a note of what is wrong with it.
    pub(crate) fn take<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        read: Result<T, E>,
    ) -> Option<T> {
        read.map_err(|error| self.add(field, error.to_string()))
            .ok()
    }

    /// Success where nothing is wrong.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid_fields(self.0))
        }
    }

    /// Variables: names that a program can find, values that the kernel takes.
    pub(crate) fn env(&mut self, env: &EnvVars) {
        let mut total = 0;
        for (name, value) in env.reveal() {
            total += name.len() + value.len() + 2;
            let plain = !name.is_empty() && !name.contains(['=', '\0']) && name.len() <= 1024;
            self.unless(
                plain,
                "env",
                "a name must be 1 to 1024 bytes without = and NUL",
            );
            self.unless(
                !value.contains('\0') && name.len() + value.len() < MAX_STRING,
                "env",
                "a value must be shorter than 128 KiB and without NUL",
            );
        }
        self.unless(
            total <= MAX_STRINGS,
            "env",
            "all variables together must be at most 512 KiB",
        );
    }

    /// An image's name, as far as its letters go.
    pub(crate) fn image(&mut self, field: &str, image: &str) {
        self.unless(
            (1..=512).contains(&image.len())
                && image.bytes().all(|byte| byte.is_ascii_graphic())
                && !image.starts_with('-'),
            field,
            "must be 1 to 512 visible ASCII characters and not begin with -",
        );
    }

    /// Marks of the caller's own by which records are found.
    pub(crate) fn labels(&mut self, field: &str, labels: &BTreeMap<String, String>) {
        self.marks(field, labels);
        self.label_names(field, labels.keys());
    }

    /// Names of labels. A filter reads what is before the first `=` as the name.
    pub(crate) fn label_names<'a>(
        &mut self,
        field: &str,
        names: impl IntoIterator<Item = &'a String>,
    ) {
        for name in names.into_iter().filter(|name| name.contains('=')) {
            self.add(
                field,
                format!("the name {name:?} must be without =: lists are filtered by name=value"),
            );
        }
    }

    /// Marks of the caller's own.
    pub(crate) fn marks(&mut self, field: &str, marks: &BTreeMap<String, String>) {
        let fits = marks.len() <= MAX_LABELS
            && marks.iter().all(|(name, value)| {
                (1..=MAX_LABEL_NAME).contains(&name.len())
                    && value.len() <= MAX_LABEL_VALUE
                    && !name.contains('\0')
                    && !value.contains('\0')
            });
        self.unless(
            fits,
            field,
            "must be at most 64, each name 1 to 128 bytes and each value at most 1024, without NUL",
        );
    }

    /// A lifetime or an idle time.
    pub(crate) fn lifetime(&mut self, field: &str, seconds: Option<u64>) {
        self.unless(
            seconds.is_none_or(|seconds| (1..=MAX_LIFETIME).contains(&seconds)),
            field,
            "must be from 1 second to ten years",
        );
    }

    /// A folder to start in.
    pub(crate) fn workdir(&mut self, workdir: &str) {
        self.unless(
            workdir.starts_with('/') && !workdir.contains('\0') && workdir.len() <= MAX_PATH,
            "workdir",
            "must be an absolute path of at most 4095 bytes without NUL",
        );
    }

    /// A file or folder of an environment.
    pub(crate) fn path(&mut self, field: &str, path: &Octets) {
        self.unless(
            (1..=MAX_PATH).contains(&path.len()) && !path.0.contains(&0),
            field,
            "must be 1 to 4095 bytes without NUL",
        );
    }

    /// A program's arguments, or a script.
    pub(crate) fn command(&mut self, words: &[&str]) {
        let total: usize = words.iter().map(|word| word.len() + 1).sum();
        self.unless(
            words.first().is_some_and(|word| !word.is_empty()),
            "command",
            "must not be empty",
        );
        self.unless(
            words.iter().all(|word| !word.contains('\0')),
            "command",
            "must not hold NUL",
        );
        self.unless(
            words.iter().all(|word| word.len() <= MAX_STRING) && total <= MAX_STRINGS,
            "command",
            "a script or word must be shorter than 128 KiB, all together at most 512 KiB: send more as stdin or as a file",
        );
    }

    /// A user of the image.
    pub(crate) fn user(&mut self, user: &str, offer: &RuntimeOffer) {
        let number = !user.is_empty() && user.bytes().all(|byte| byte.is_ascii_digit());
        let named = (1..=32).contains(&user.len())
            && user.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
            && user
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        let root = user == "root" || (number && user.bytes().all(|byte| byte == b'0'));
        if !offer.users {
            self.add(
                "user",
                "this service's runtime runs all commands as one user",
            );
        } else if root {
            self.add("user", "must not be root");
        } else if number && !user.parse::<u32>().is_ok_and(|uid| uid != NO_USER)
            || !number && !named
        {
            self.add(
                "user",
                "must be a number below 4294967295 or a name of a-z, 0-9, _ and -",
            );
        }
    }

    /// What may be reached over the network.
    pub(crate) fn egress(&mut self, egress: Egress, offer: &RuntimeOffer) {
        if !offer.egress.contains(&egress) {
            let names: Vec<&str> = offer.egress.iter().copied().map(egress_name).collect();
            let message = format!(
                "cannot be had here: this service offers {}",
                names.join(", ")
            );
            self.add("network.egress", message);
        }
    }

    /// The caller's name of an environment.
    pub(crate) fn environment_id(&mut self, field: &str, id: &str) -> Option<EnvironmentId> {
        self.take(field, EnvironmentId::new(id))
    }
}

fn egress_name(egress: Egress) -> &'static str {
    match egress {
        Egress::None => "none",
        Egress::Internet => "internet",
        Egress::Cluster => "cluster",
    }
}

#[cfg(test)]
mod tests {
    use shared::secret::Secret;

    use super::*;

    fn faulty(check: impl FnOnce(&mut Faults)) -> bool {
        let mut faults = Faults::default();
        check(&mut faults);
        faults.finish().is_err()
    }

    #[test]
    fn variables_must_fit_a_programs_environment() {
        let vars =
            |name: &str, value: &str| EnvVars([(name.to_owned(), Secret::new(value))].into());
        assert!(!faulty(|f| f.env(&vars("A_b.c", "x=y\n"))));
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
            assert!(faulty(|f| f.env(&vars(name, value))), "{name:?}");
        }
        assert!(faulty(|f| f.env(&vars("A", &"x".repeat(1 << 17)))));
        let mut faults = Faults::default();
        faults.env(&vars("A", "hunter2\0"));
        let problem = faults.finish().expect_err("NUL");
        assert!(!format!("{problem:?}").contains("hunter2"));
    }

    #[test]
    fn a_label_can_be_found_by_its_name() {
        let named = |name: &str| [(name.to_owned(), "a=b".to_owned())].into();
        assert!(!faulty(|f| f.labels("labels", &named("a/b c"))));
        assert!(faulty(|f| f.labels("labels", &named("a=b"))));
        assert!(!faulty(|f| f.marks("metadata", &named("a=b"))));
        for bad in ["", "a\0"] {
            assert!(faulty(|f| f.labels("labels", &named(bad))));
            assert!(faulty(|f| f.marks("metadata", &named(bad))));
        }
    }

    #[test]
    fn commands_and_paths_hold_no_nul() {
        assert!(!faulty(|f| f.command(&["sh", "-c", ""])));
        for bad in [&[][..], &[""], &["a\0"], &["a", "b\0"]] {
            assert!(faulty(|f| f.command(bad)), "{bad:?}");
        }
        assert!(!faulty(|f| f.path("path", &Octets::from(vec![0xff]))));
        assert!(faulty(|f| f.path("path", &Octets::from("a\0b"))));
        assert!(faulty(|f| f.path("path", &Octets::from(""))));
        assert!(faulty(|f| f.workdir("app")));
        assert!(faulty(|f| f.workdir("/a\0")));
    }

    #[test]
    fn users_are_taken_only_where_they_can_be_had() {
        let offer = |users| RuntimeOffer {
            egress: vec![Egress::None],
            default_egress: Egress::None,
            users,
        };
        for good in ["nobody", "1000", "_x-1"] {
            assert!(!faulty(|f| f.user(good, &offer(true))), "{good}");
            assert!(faulty(|f| f.user(good, &offer(false))), "{good}");
        }
        for bad in [
            "root",
            "0",
            "00",
            "",
            "a b",
            "99999999999",
            "4294967295",
            "A",
            "-1",
            "a:b",
        ] {
            assert!(faulty(|f| f.user(bad, &offer(true))), "{bad}");
        }
        assert!(faulty(|f| f.egress(Egress::Internet, &offer(true))));
        assert!(!faulty(|f| f.egress(Egress::None, &offer(true))));
    }
}
