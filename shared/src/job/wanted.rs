//! What of a file a read wants: all of it, a range, or nothing where the caller has it already. Decided by pure functions
//! once the file's size and tag are known, so that every way to ask is decided alike.

use serde::{Deserialize, Serialize};

/// What is wanted, and under which conditions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wanted {
    /// A part of it; all where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<ByteRange>,
    /// The part is wanted only of the file with this tag, else all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_if: Option<String>,
    /// Nothing is wanted of a file with one of these tags; `*` is every tag.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unless: Vec<String>,
    /// Only what is known of the file is wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_head: bool,
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByteRange {
    /// From a byte on.
    From(u64),
    /// From the first byte to the last one, both included.
    Within(u64, u64),
    /// So many of the last bytes.
    Last(u64),
}

/// What a read came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All of the file.
    #[default]
    Whole,
    /// The part that was asked for.
    Part,
    /// Nothing: the caller has it.
    NotModified,
    /// Nothing: the file has no such part.
    NotSatisfiable,
}

/// What is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// What it comes to.
    pub verdict: Verdict,
    /// The first byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

impl Wanted {
    /// Whether all of the file is wanted, whatever it is.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// What is to be read of a file of this size and tag.
    pub fn span(&self, size: u64, etag: &str) -> Span {
        let none = |verdict| Span {
            verdict,
            offset: 0,
            length: 0,
        };
        let known = |tag: &String| tag == "*" || tag.trim_start_matches("W/") == etag;
        if self.unless.iter().any(known) {
            return none(Verdict::NotModified);
        }
        let same = self.range_if.as_ref().is_none_or(|tag| tag == etag);
        let Some(range) = self.range.filter(|_| same && !self.only_head) else {
            return Span {
                verdict: Verdict::Whole,
                offset: 0,
                length: size,
            };
        };
        let (offset, length) = match range {
            ByteRange::From(first) => (first, size.saturating_sub(first)),
            ByteRange::Within(first, last) => {
                let end = last.saturating_add(1).min(size);
                (first, end.saturating_sub(first))
            }
            ByteRange::Last(count) => (size.saturating_sub(count), count.min(size)),
        };
        match length {
            0 => none(Verdict::NotSatisfiable),
            length => Span {
                verdict: Verdict::Part,
                offset,
                length,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(range: ByteRange) -> Wanted {
        Wanted {
            range: Some(range),
            ..Wanted::default()
        }
    }

    proptest! {
        #[test]
        fn a_part_is_the_part(size in 0..50_u64, first in 0..60_u64, count in 0..60_u64) {
            let all: Vec<u64> = (0..size).collect();
            let last = first + count;
            let asked = [
                (ByteRange::From(first), all.iter().skip_while(|at| **at < first).copied().collect::<Vec<_>>()),
                (ByteRange::Within(first, last), all.iter().copied().filter(|at| (first..=last).contains(at)).collect()),
                (ByteRange::Last(count), all.iter().copied().filter(|at| at + count >= size).collect()),
            ];
            for (asked, expected) in asked {
                let span = range(asked).span(size, "\"t\"");
                let read: Vec<u64> = (span.offset..span.offset + span.length).collect();
                prop_assert_eq!(&read, &expected, "{:?}", asked);
                prop_assert_eq!(span.verdict == Verdict::NotSatisfiable, expected.is_empty());
            }
        }
    }

    #[test]
    fn conditions_count_before_ranges() {
        let unless = |tags: &[&str]| Wanted {
            unless: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..range(ByteRange::From(1))
        };
        for known in [&["\"t\""][..], &["\"x\"", "W/\"t\""], &["*"]] {
            let verdict = unless(known).span(9, "\"t\"").verdict;
            assert_eq!(verdict, Verdict::NotModified, "{known:?}");
        }
        assert_eq!(unless(&["\"x\""]).span(9, "\"t\"").verdict, Verdict::Part);
        let range_if = |tag: &str| Wanted {
            range_if: Some(tag.to_owned()),
            ..range(ByteRange::From(1))
        };
        assert_eq!(range_if("\"t\"").span(9, "\"t\"").verdict, Verdict::Part);
        for other in ["\"x\"", "W/\"t\"", "Wed, 21 Oct 2015 07:28:00 GMT"] {
            assert_eq!(
                range_if(other).span(9, "\"t\"").verdict,
                Verdict::Whole,
                "{other}"
            );
        }
        let head = Wanted {
            only_head: true,
            ..range(ByteRange::From(100))
        };
        assert_eq!(
            (head.span(9, "").verdict, head.span(9, "").length),
            (Verdict::Whole, 9)
        );
        assert!(Wanted::default().is_everything() && !head.is_everything());
    }
}
