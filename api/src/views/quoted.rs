//! Text as a JSON string, written a stretch at a time: most of an output needs no escape.

/// Bytes that are looked at together, by the processor's own vectors.
const STEP: usize = 32;

/// Writes a text in quotes, escaped as `serde_json` does.
pub(crate) fn write(json: &mut Vec<u8>, text: &str) {
    json.push(b'"');
    let mut rest = text.as_bytes();
    while let (plain, Some((&byte, after))) = split(rest) {
        json.extend_from_slice(plain);
        escape(json, byte);
        rest = after;
    }
    json.extend_from_slice(rest);
    json.push(b'"');
}

/// What needs no escape, and what follows it.
fn split(bytes: &[u8]) -> (&[u8], Option<(&u8, &[u8])>) {
    let steps = bytes.chunks_exact(STEP);
    let plain_steps =
        steps.take_while(|step| !step.iter().fold(false, |any, &byte| any | is_special(byte)));
    let skipped = plain_steps.count() * STEP;
    let plain = bytes[skipped..].iter().position(|&byte| is_special(byte));
    let (plain, rest) = bytes.split_at(plain.map_or(bytes.len(), |plain| skipped + plain));
    (plain, rest.split_first())
}

fn is_special(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

fn escape(json: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\t' => b't',
        b'\r' => b'r',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            json.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
            return;
        }
    };
    json.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agrees(text: &str) {
        let mut json = Vec::new();
        write(&mut json, text);
        assert_eq!(
            String::from_utf8(json).unwrap(),
            serde_json::to_string(text).unwrap()
        );
    }

    #[test]
    fn every_character_that_needs_an_escape_has_the_usual_one() {
        for byte in 0..=0x80_u8 {
            let character = char::from(byte);
            agrees(&character.to_string());
            agrees(&format!("{}{character}{}", "a".repeat(40), "ä".repeat(40)));
        }
        agrees("");
    }

    proptest! {
        #[test]
        fn any_text_is_written_as_serde_json_does(text in any::<String>(), lines in "[a-z\n\"\\\\ä]{0,200}") {
            agrees(&text);
            agrees(&lines);
        }
    }
}
