//! Trimming as the original did it.

/// Whether Python's `str.isspace` holds: Unicode's white space and the four information separators.
fn is_space(char: char) -> bool {
    char.is_whitespace() || ('\x1c'..='\x1f').contains(&char)
}

/// What Python's `str.strip()` leaves of a text.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_strips_what_python_strips() {
        assert_eq!(
            strip(" \t\n\r\x0b\x0c\x1c\x1f\u{85}\u{a0}\u{3000}a b\n\n"),
            "a b"
        );
        assert_eq!(strip("\u{200b}a\0"), "\u{200b}a\0");
        assert_eq!(strip(" \n"), "");
    }
}
