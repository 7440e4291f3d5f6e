//! PAX records: `LENGTH KEY=VALUE\n`, which overrule the header of the entry that follows.

use super::Flaw;
use super::sparse::{self, Segment};

/// What the records of one extension say, as far as it matters here.
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<i64>,
    /// GNU: the name of a sparse file, whose header has a made-up one.
    pub(super) sparse_name: Option<Vec<u8>>,
    /// GNU: the size of a sparse file with its holes.
    pub(super) sparse_size: Option<u64>,
    /// GNU: the map of a sparse file, where it does not stand before its content.
    pub(super) sparse_map: Option<Vec<Segment>>,
    /// GNU: whether the map stands before the content.
    pub(super) map_in_content: bool,
}

impl Pax {
    /// Takes the records of an extension in; later ones overrule earlier ones.
    pub(super) fn read(&mut self, mut records: &[u8]) -> Result<(), Flaw> {
        while !records.is_empty() {
            let (record, rest) = split(records)
                .ok_or_else(|| Flaw::new("a PAX record cannot be read: the archive is damaged"))?;
            let (key, value) = record;
            self.take(key, value)?;
            records = rest;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Flaw> {
        let some = |value: &[u8]| (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = some(value),
            b"linkpath" => self.link = some(value),
            b"size" => self.size = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(seconds(value)),
            b"GNU.sparse.name" => self.sparse_name = some(value),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = Some(decimal(value)?),
            b"GNU.sparse.map" => self.sparse_map = Some(sparse::of_list(value)?),
            b"GNU.sparse.major" => self.map_in_content = decimal(value)? == 1,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                return Err(Flaw::new(
                    "the archive has a sparse file in format 0.0: make it with --sparse-version=1.0",
                ));
            }
            _ => {}
        }
        Ok(())
    }
}

type Record<'a> = (&'a [u8], &'a [u8]);

/// The first record and what follows it.
fn split(records: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&records[..space]).ok()?).ok()?;
    let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((
        (&record[..equals], &record[equals + 1..]),
        &records[length..],
    ))
}

/// A decimal number.
pub(super) fn decimal(text: &[u8]) -> Result<u64, Flaw> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text)
        .ok()
        .filter(|_| plain)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Flaw::new("a number in a PAX record cannot be read"))
}

/// Whole seconds of a time that may have a fraction; the epoch where it is none.
fn seconds(text: &[u8]) -> i64 {
    let whole = text.split(|byte| *byte == b'.').next().unwrap_or_default();
    std::str::from_utf8(whole)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
