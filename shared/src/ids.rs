//! Every identifier of the domain, each a type of its own.
//!
//! A value of one of these types is valid by construction: parsing is the only way in, and a refused text says what was
//! wrong with it ([`InvalidId`]). All of them serialise as plain strings or numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A text that is not an identifier of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}")]
pub struct InvalidId {
    /// Which identifier it should have been.
    pub what: &'static str,
    /// What such an identifier looks like.
    pub rule: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Takes a text that keeps the rule of this identifier.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
                let text = text.into();
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) { Ok(Self(text)) } else { Err(InvalidId { what: $what, rule: $rule }) }
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

fn all_of(text: &str, lengths: std::ops::RangeInclusive<usize>, allowed: fn(u8) -> bool) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(allowed)
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn is_base32(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'2'..=b'7')
}

text_id!(
    /// Who owns a record. It stands in every key, so that tenants never see each other.
    TenantId, "tenant", "1 to 63 of a-z, 0-9 and -, beginning with a letter or digit",
    |text| all_of(text, 1..=63, |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')) && !text.starts_with('-')
);

text_id!(
    /// The caller's name of an environment, unique in its tenant, kept exactly as it was given.
    EnvironmentId, "environment id", "1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
    |text| {
        all_of(text, 1..=63, |b| matches!(b, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
            && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
    }
);

text_id!(
    /// One life of an environment, from its create to its delete: 10 base32 characters of the hash of the create job's
    /// id. Everything on a runtime is named from it, since it is safe in every kind of name.
    EnvironmentUid, "environment uid", "10 of a-z and 2-7",
    |text| all_of(text, 10..=10, is_base32)
);

text_id!(
    /// One start of PID 1 of an environment, made by the runner itself: 32 lower-case hexadecimal digits.
    Incarnation, "incarnation", "32 lower-case hexadecimal digits",
    |text| all_of(text, 32..=32, is_lower_hex)
);

text_id!(
    /// One process of a worker; new at each start.
    WorkerId, "worker id", "1 to 64 of a-z, 0-9 and -",
    |text| all_of(text, 1..=64, |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
);

text_id!(
    /// The installation that a store belongs to; made once, kept in the store, carried by all that a runtime holds.
    InstanceId, "instance id", "10 of a-z and 2-7",
    |text| all_of(text, 10..=10, is_base32)
);

text_id!(
    /// A published file. Derived from its job's id, so that a repeated publish is the same artifact.
    ArtifactId, "artifact id", "`art-` and 26 of a-z and 2-7",
    |text| text.strip_prefix("art-").is_some_and(|rest| all_of(rest, 26..=26, is_base32))
);

impl TenantId {
    /// The tenant of an installation that has only one.
    pub fn default_tenant() -> Self {
        Self("default".to_owned())
    }
}

impl EnvironmentUid {
    /// The uid of the life that a create job begins.
    pub fn of_create(job: &JobId) -> Self {
        Self(base32_of_hash(
            &[b"environment", job.to_string().as_bytes()],
            10,
        ))
    }

    /// A name for what is no life yet, from 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(base32_of_hash(&[b"ready", &bytes], 10))
    }
}

impl InstanceId {
    /// An instance id from 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(base32_of_hash(&[b"instance", &bytes], 10))
    }
}

impl ArtifactId {
    /// The artifact that a publish job makes.
    pub fn of_publish(job: &JobId) -> Self {
        Self(format!(
            "art-{}",
            base32_of_hash(&[b"artifact", job.to_string().as_bytes()], 26)
        ))
    }
}

fn base32_of_hash(parts: &[&[u8]], length: usize) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut text = data_encoding::BASE32_NOPAD
        .encode(&hash.finalize())
        .to_ascii_lowercase();
    text.truncate(length);
    text
}

/// A job: a UUID of version 7, so that jobs sort by the time they were accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Uuid);

impl JobId {
    /// Wraps a UUID that the clock made.
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID.
    pub fn as_uuid(&self) -> Uuid {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for JobId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId {
            what: "job id",
            rule: "a UUID such as 01920000-0000-7000-8000-000000000000",
        };
        if text.len() != 36 {
            return Err(invalid);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| invalid)
    }
}

impl TryFrom<String> for JobId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> String {
        id.to_string()
    }
}

/// Where a job is found: its tenant and its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobRef {
    /// The owner.
    pub tenant: TenantId,
    /// The job.
    pub job: JobId,
}

/// Where an environment is found: its tenant and the caller's name for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EnvironmentRef {
    /// The owner.
    pub tenant: TenantId,
    /// The environment.
    pub environment: EnvironmentId,
}

/// Rises with each accepted lifecycle job of an environment, over all of its lives.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of the next lifecycle job.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Rises with each lease of a job. A write or a start that carries an old one is refused.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Fence(pub u64);

impl Fence {
    /// The fence of the next lease.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_ids_keep_every_allowed_shape() {
        let longest = "a".repeat(63);
        for good in [
            "A.b_c-",
            "exec-gplan_0a1b",
            "exec-env-1751",
            "test-env",
            "0",
            longest.as_str(),
        ] {
            assert_eq!(
                EnvironmentId::new(good).map(|id| id.to_string()),
                Ok(good.to_owned())
            );
        }
        let too_long = "a".repeat(64);
        for bad in [
            "",
            "-a",
            ".a",
            "_a",
            "a/b",
            "a b",
            "ä",
            "a\n",
            too_long.as_str(),
        ] {
            assert!(EnvironmentId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn derived_ids_are_stable_and_valid() {
        let job: JobId = "01920000-0000-7000-8000-000000000001"
            .parse()
            .expect("a job id");
        let uid = EnvironmentUid::of_create(&job);
        assert_eq!(uid, EnvironmentUid::of_create(&job));
        assert!(EnvironmentUid::new(uid.as_str()).is_ok());
        assert!(ArtifactId::new(ArtifactId::of_publish(&job).as_str()).is_ok());
        assert!(InstanceId::new(InstanceId::from_random([7; 16]).as_str()).is_ok());
    }

    #[test]
    fn ids_refuse_to_deserialise_what_they_refuse_to_parse() {
        assert!(serde_json::from_str::<EnvironmentUid>("\"../../etc\"").is_err());
        assert!(serde_json::from_str::<JobId>("\"1\"").is_err());
    }
}
