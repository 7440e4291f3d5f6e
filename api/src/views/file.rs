//! Files and folders, as callers read them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use shared::job::{Entry, EntryType};
use shared::octets::Octets;
use utoipa::ToSchema;

use crate::views::text::Texts;

/// A file that was written.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Uploaded)]
pub(crate) struct UploadedView {
    /// Absolute.
    path: String,
    /// `base64` where the path is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
    /// In bytes.
    size: u64,
    /// Of the content, in hexadecimal.
    sha256: String,
}

/// A file or folder that was removed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Removed)]
pub(crate) struct RemovedView {
    /// Absolute.
    path: String,
    /// `base64` where the path is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
    /// Files and folders.
    removed: u64,
}

/// A file or folder that has another path now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Moved)]
pub(crate) struct MovedView {
    /// Absolute.
    from: String,
    /// Absolute.
    to: String,
    /// `base64` where either path is not UTF-8: then both are base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
}

/// A folder that was made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MadeFolder)]
pub(crate) struct MadeFolderView {
    /// Absolute.
    path: String,
    /// `base64` where the path is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
    /// Whether it was not there before.
    made: bool,
}

/// An archive that was unpacked.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Unpacked)]
pub(crate) struct UnpackedView {
    /// Absolute.
    path: String,
    /// `base64` where the path is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
    /// Entries of the archive.
    entries: u64,
    /// Bytes of the archive.
    size: u64,
}

/// One page of a folder, sorted by name in byte order.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Listing)]
pub(crate) struct ListingView {
    /// Absolute.
    path: String,
    /// `base64` where the path is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
    entries: Vec<EntryView>,
    /// Where the next page begins; empty at the end.
    next_page_token: String,
}

/// One name in a folder.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Entry)]
pub(crate) struct EntryView {
    /// Relative to the listed folder.
    name: String,
    /// Absolute.
    path: String,
    /// `file`, `directory`, `symlink` or `other`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// In bytes.
    size: u64,
    /// Permission bits in octal.
    mode: String,
    #[schema(value_type = String, format = DateTime)]
    modified_at: Timestamp,
    /// Of a symlink: what it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    target: Option<String>,
    /// `base64` where name, path or target is not UTF-8: then all three are base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
}

impl UploadedView {
    pub(crate) fn of(path: &Octets, size: u64, sha256: &str) -> Self {
        let texts = Texts::of([path]);
        Self {
            path: texts.show(path),
            encoding: texts.encoding(),
            size,
            sha256: sha256.to_owned(),
        }
    }
}

impl RemovedView {
    pub(crate) fn of(path: &Octets, removed: u64) -> Self {
        let texts = Texts::of([path]);
        Self {
            path: texts.show(path),
            encoding: texts.encoding(),
            removed,
        }
    }
}

impl MovedView {
    pub(crate) fn of(from: &Octets, to: &Octets) -> Self {
        let texts = Texts::of([from, to]);
        Self {
            from: texts.show(from),
            to: texts.show(to),
            encoding: texts.encoding(),
        }
    }
}

impl MadeFolderView {
    pub(crate) fn of(path: &Octets, made: bool) -> Self {
        let texts = Texts::of([path]);
        Self {
            path: texts.show(path),
            encoding: texts.encoding(),
            made,
        }
    }
}

impl UnpackedView {
    pub(crate) fn of(path: &Octets, entries: u64, size: u64) -> Self {
        let texts = Texts::of([path]);
        Self {
            path: texts.show(path),
            encoding: texts.encoding(),
            entries,
            size,
        }
    }
}

impl ListingView {
    pub(crate) fn of(path: &Octets, entries: &[Entry], more: bool) -> Self {
        let texts = Texts::of([path]);
        let next = entries.last().filter(|_| more);
        Self {
            path: texts.show(path),
            encoding: texts.encoding(),
            entries: entries
                .iter()
                .map(|entry| EntryView::of(path, entry))
                .collect(),
            next_page_token: next
                .map(|entry| token_after(&entry.name))
                .unwrap_or_default(),
        }
    }
}

impl EntryView {
    fn of(folder: &Octets, entry: &Entry) -> Self {
        let path = joined(folder, &entry.name);
        let texts = Texts::of([&entry.name, &path].into_iter().chain(&entry.target));
        Self {
            name: texts.show(&entry.name),
            path: texts.show(&path),
            kind: match entry.kind {
                EntryType::File => "file",
                EntryType::Directory => "directory",
                EntryType::Symlink => "symlink",
                EntryType::Other => "other",
            },
            size: entry.size,
            mode: format!("{:04o}", entry.mode),
            modified_at: entry.modified_at,
            target: entry.target.as_ref().map(|target| texts.show(target)),
            encoding: texts.encoding(),
        }
    }
}

fn joined(folder: &Octets, name: &Octets) -> Octets {
    let folder = folder.0.strip_suffix(b"/").unwrap_or(&folder.0);
    [folder, b"/", &name.0].concat().into()
}

/// What a page token of this list begins with, so that a foreign or a made-up one is refused.
const TOKEN_MARK: &[u8] = b"files-1:";

/// The page token of what follows a name.
fn token_after(name: &Octets) -> String {
    URL_SAFE_NO_PAD.encode([TOKEN_MARK, &name.0].concat())
}

/// The name in a page token that [`ListingView`] made; nothing where it is none.
pub(crate) fn name_in_token(token: &str) -> Option<Octets> {
    let marked = URL_SAFE_NO_PAD.decode(token).ok()?;
    let name = marked.strip_prefix(TOKEN_MARK)?;
    Some(Octets(Bytes::copy_from_slice(name)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_survives_its_token(name: Vec<u8>) {
            let name = Octets::from(name);
            prop_assert_eq!(name_in_token(&token_after(&name)), Some(name));
        }

        #[test]
        fn any_token_is_read_or_refused(token in ".*") {
            let _ = name_in_token(&token);
        }
    }

    #[test]
    fn names_that_are_not_utf8_mark_their_entry_only() {
        let entry = |name: &[u8]| Entry {
            name: name.to_vec().into(),
            kind: EntryType::File,
            size: 1,
            mode: 0o644,
            modified_at: Timestamp::UNIX_EPOCH,
            target: None,
        };
        let view = ListingView::of(&"/app/".into(), &[entry(b"a"), entry(b"\xff")], true);
        assert_eq!(view.entries[0].path, "/app/a");
        assert_eq!(view.entries[0].encoding, None);
        assert_eq!(view.entries[1].name, "/w==");
        assert_eq!(view.entries[1].encoding, Some("base64"));
        assert_eq!(
            name_in_token(&view.next_page_token),
            Some(vec![0xff].into())
        );
    }
}
