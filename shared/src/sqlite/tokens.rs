//! Page tokens: base64 of a small versioned record that names the list it belongs to.
//!
//! Invariant: a token is read only by the list that made it, with the same tenant and filter; any other text is refused
//! as a bad token before it reaches the database.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ports::{ListError, PageToken};

const VERSION: u8 = 1;

/// Longer ones were not made here; in bytes.
const LONGEST: usize = 1024;

/// Which list, of whom, with which filter.
pub(super) struct ListKey(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token<C> {
    /// Of this layout.
    v: u8,
    /// The list's key.
    l: String,
    /// The last item of the page before.
    a: C,
}

impl ListKey {
    /// The key of a list from all that tells it from others.
    pub(super) fn new(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(data_encoding::HEXLOWER.encode(&hash.finalize()[..8]))
    }

    /// The token of the page after an item.
    pub(super) fn token<C: Serialize>(&self, after: C) -> Option<PageToken> {
        let token = Token {
            v: VERSION,
            l: self.0.clone(),
            a: after,
        };
        let json = serde_json::to_vec(&token).ok()?;
        Some(URL_SAFE_NO_PAD.encode(json))
    }

    /// The item after which the page of a token begins.
    pub(super) fn read<C: for<'de> Deserialize<'de>>(
        &self,
        token: Option<&PageToken>,
    ) -> Result<Option<C>, ListError> {
        let Some(text) = token else { return Ok(None) };
        if text.len() > LONGEST {
            return Err(ListError::BadToken);
        }
        let json = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| ListError::BadToken)?;
        let token: Token<C> = serde_json::from_slice(&json).map_err(|_| ListError::BadToken)?;
        if token.v == VERSION && token.l == self.0 {
            Ok(Some(token.a))
        } else {
            Err(ListError::BadToken)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_of_one_list() {
        let (one, other) = (ListKey::new(&["a", "b"]), ListKey::new(&["ab", ""]));
        let token = one.token("x");
        assert_eq!(
            one.read(token.as_ref()).expect("its own"),
            Some("x".to_owned())
        );
        assert!(matches!(
            other.read::<String>(token.as_ref()),
            Err(ListError::BadToken)
        ));
    }

    proptest! {
        #[test]
        fn no_text_is_more_than_a_bad_token(text: String, bytes: Vec<u8>) {
            let list = ListKey::new(&["a"]);
            for token in [text, URL_SAFE_NO_PAD.encode(bytes)] {
                prop_assert!(matches!(list.read::<String>(Some(&token)), Err(ListError::BadToken)));
            }
        }
    }
}
