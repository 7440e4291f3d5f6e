//! Keys that open the service: kept as hashes, known to every API that uses the store.

use std::fmt;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::TenantId;

/// The SHA-256 of a key. Keys are 128 random bits or more, so a fast hash is enough.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a key.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<KeyHash> for String {
    fn from(hash: KeyHash) -> Self {
        HEXLOWER.encode(&hash.0)
    }
}

impl TryFrom<String> for KeyHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        HEXLOWER
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or("a key's hash has 64 hexadecimal digits")
    }
}

/// Not even the hash is told: it is as good as the key to whoever can guess keys.
impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

/// A key that the service accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Whose environments it opens.
    pub tenant: TenantId,
    /// What it is called, once in its tenant: it is replaced and revoked by that.
    pub name: String,
    /// How it is recognised.
    pub hash: KeyHash,
    /// When it was first accepted.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_being_written_and_is_not_shown() {
        let hash = KeyHash::of("a key");
        let text = serde_json::to_string(&hash).expect("written");
        assert_eq!(text.len(), 66);
        assert_eq!(
            serde_json::from_str::<KeyHash>(&text)
                .expect("read")
                .bytes(),
            hash.bytes()
        );
        assert!(!text.contains("a key") && !format!("{hash:?}").contains(&text[1..9]));
        for bad in ["\"\"", "\"00\"", "7"] {
            assert!(serde_json::from_str::<KeyHash>(bad).is_err(), "{bad}");
        }
    }
}
