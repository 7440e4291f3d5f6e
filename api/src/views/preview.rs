//! Head and tail of a stream as text: what the cut left of a split character goes, so that text stays text.

use shared::job::Preview;
use shared::octets::Octets;

/// Bytes of a UTF-8 character after the first one, at most.
const CONTINUATIONS: usize = 3;

/// A preview whose cut does not split a character.
pub(super) struct Trimmed {
    /// Head and tail.
    pub(super) data: Octets,
    /// Where bytes are missing, as an offset in `data`.
    pub(super) omitted_at: u64,
    /// How many are missing there.
    pub(super) omitted: u64,
}

/// Takes what is left of split characters from both sides of the cut, if the rest is text; else nothing.
pub(super) fn trim(preview: &Preview) -> Trimmed {
    let whole = || Trimmed {
        data: preview.data.clone(),
        omitted_at: preview.omitted_at,
        omitted: preview.omitted,
    };
    let cut = usize::try_from(preview.omitted_at).unwrap_or(usize::MAX);
    let bytes = &preview.data.0;
    if preview.omitted == 0 || cut > bytes.len() {
        return whole();
    }
    let (head, tail) = bytes.split_at(cut);
    let kept_head = complete_prefix(head);
    let kept_tail = &tail[split_start(tail)..];
    let (Some(kept_head), Ok(kept_tail)) = (kept_head, std::str::from_utf8(kept_tail)) else {
        return whole();
    };
    let lost = bytes.len() - kept_head.len() - kept_tail.len();
    Trimmed {
        data: [kept_head, kept_tail].concat().into_bytes().into(),
        omitted_at: kept_head.len() as u64,
        omitted: preview.omitted + lost as u64,
    }
}

/// The text without a character that is cut off at the end; nothing where it is no text.
fn complete_prefix(bytes: &[u8]) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

/// Bytes at the start that can only be the rest of a character.
pub(crate) fn split_start(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .take(CONTINUATIONS)
        .take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000)
        .count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cut_through_text_leaves_text(text in "[aäグ🦀]{0,40}", head in 0usize..60, tail in 0usize..60) {
            let all = text.as_bytes();
            let first = &all[..head.min(all.len())];
            let last = &all[all.len().saturating_sub(tail)..];
            let preview = Preview::new(first, last, all.len() as u64);
            let trimmed = trim(&preview);
            prop_assert!(trimmed.data.as_text().is_some());
            prop_assert_eq!(trimmed.data.len() as u64 + trimmed.omitted, all.len() as u64);
            let at = usize::try_from(trimmed.omitted_at).expect("small");
            if trimmed.omitted > 0 {
                prop_assert!(text.starts_with(&trimmed.data.as_text().expect("text")[..at]));
                prop_assert!(text.ends_with(&trimmed.data.as_text().expect("text")[at..]));
            }
        }

        #[test]
        fn what_is_no_text_stays_whole(mut bytes: Vec<u8>, omitted in 1u64..9) {
            bytes.insert(0, 0xff);
            let preview = Preview { omitted_at: bytes.len() as u64, data: bytes.into(), omitted };
            let trimmed = trim(&preview);
            prop_assert_eq!(trimmed.data, preview.data);
            prop_assert_eq!(trimmed.omitted, omitted);
        }
    }
}
