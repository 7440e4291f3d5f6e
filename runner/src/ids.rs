//! Identifiers as types, checked once where they come in.

use std::fmt;

use crate::proto;

/// A job's id: 1 to 64 of `[A-Za-z0-9-]`, so that it is a file name as it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct JobId(String);

/// A number that only grows, one per lease of a job; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fence(u64);

/// One start of PID 1: 32 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Incarnation(String);

/// What a mutation carries, with its fields checked.
#[derive(Clone, Debug)]
pub(crate) struct Permit {
    pub(crate) job: JobId,
    pub(crate) fence: Fence,
    pub(crate) incarnation: String,
}

/// An identifier that cannot be one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdError {
    #[error("job_id must be 1 to 64 of A-Z, a-z, 0-9 and '-'")]
    Job,
    #[error("fence must be greater than 0")]
    Fence,
    #[error("permit is missing")]
    NoPermit,
}

impl JobId {
    /// Checks an id that came over the wire or from a file name.
    pub(crate) fn new(id: &str) -> Result<Self, IdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if (1..=64).contains(&id.len()) && id.bytes().all(allowed) {
            Ok(Self(id.to_owned()))
        } else {
            Err(IdError::Job)
        }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Fence {
    /// Below every other.
    pub(crate) const LOWEST: Self = Self(1);

    /// Checks a fence that came over the wire.
    pub(crate) fn new(fence: u64) -> Result<Self, IdError> {
        if fence == 0 {
            Err(IdError::Fence)
        } else {
            Ok(Self(fence))
        }
    }

    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

impl Incarnation {
    /// Makes the incarnation of this start from 16 random bytes.
    pub(crate) fn random() -> std::io::Result<Self> {
        Ok(Self(random_hex()?))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<Option<proto::Permit>> for Permit {
    type Error = IdError;

    fn try_from(permit: Option<proto::Permit>) -> Result<Self, IdError> {
        let permit = permit.ok_or(IdError::NoPermit)?;
        Ok(Self {
            job: JobId::new(&permit.job_id)?,
            fence: Fence::new(permit.fence)?,
            incarnation: permit.incarnation,
        })
    }
}

/// 16 bytes of the kernel's randomness as 32 hexadecimal digits.
pub(crate) fn random_hex() -> std::io::Result<String> {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_ids_are_file_names() {
        for good in [
            "a",
            "exec-gplan-0a1b",
            "0198f7c0-0000-7000-8000-000000000000",
            &"x".repeat(64),
        ] {
            assert_eq!(JobId::new(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            ".",
            "a/b",
            "a.b",
            "a_b",
            "ä",
            "a b",
            "a\0",
            &"x".repeat(65),
        ] {
            assert_eq!(JobId::new(bad), Err(IdError::Job), "{bad:?}");
        }
    }

    #[test]
    fn incarnations_are_new_each_time() {
        let (one, other) = (
            Incarnation::random().unwrap(),
            Incarnation::random().unwrap(),
        );
        assert_ne!(one, other);
        assert!(
            one.as_str().len() == 32 && one.as_str().bytes().all(|byte| byte.is_ascii_hexdigit())
        );
    }
}
