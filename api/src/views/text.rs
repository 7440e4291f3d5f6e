//! Bytes as JSON text: as they are where they are UTF-8, else base64 with a mark beside them.

use shared::octets::Octets;

/// The mark of texts that are base64.
pub(crate) const BASE64: &str = "base64";

/// Some byte strings that share one mark: if any of them is not UTF-8, all are base64.
pub(crate) struct Texts {
    base64: bool,
}

impl Texts {
    /// Looks at all of them.
    pub(crate) fn of<'a>(all: impl IntoIterator<Item = &'a Octets>) -> Self {
        Self {
            base64: all.into_iter().any(|octets| octets.as_text().is_none()),
        }
    }

    /// One of them, as text.
    pub(crate) fn show(&self, octets: &Octets) -> String {
        match octets.as_text() {
            Some(text) if !self.base64 => text.to_owned(),
            _ => octets.to_base64(),
        }
    }

    /// The mark, where there is one.
    pub(crate) fn encoding(&self) -> Option<&'static str> {
        self.base64.then_some(BASE64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_not_utf8_marks_all() {
        let (plain, raw) = (Octets::from("ä"), Octets::from(vec![0xff]));
        let texts = Texts::of([&plain]);
        assert_eq!((texts.show(&plain).as_str(), texts.encoding()), ("ä", None));
        let texts = Texts::of([&plain, &raw]);
        assert_eq!(texts.show(&plain), "w6Q=");
        assert_eq!(texts.show(&raw), "/w==");
        assert_eq!(texts.encoding(), Some("base64"));
    }
}
