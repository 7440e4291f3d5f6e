//! How much a tree takes on the disk, while others write it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes of a block as the kernel counts them.
const BLOCK: u64 = 512;

/// The size of a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Bytes on the disk.
    pub(super) bytes: u64,
    /// Files, folders and links.
    pub(super) entries: u64,
}

/// Adds up what is there now. What goes away meanwhile does not count; a folder too deep to be looked into counts by
/// itself.
pub(super) fn measure(folder: &Path) -> io::Result<Size> {
    let mut size = Size::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let entry = match entry {
                // The folder was removed since it was opened: so its entries are none.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                entry => entry?,
            };
            let Ok(found) = entry.metadata() else {
                continue;
            };
            size.entries += 1;
            size.bytes += found.blocks() * BLOCK;
            if found.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_below_is_counted_and_links_are_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let below = folder.path().join("a/b");
        fs::create_dir_all(&below).expect("made");
        fs::write(below.join("c"), vec![1; 100_000]).expect("written");
        std::os::unix::fs::symlink("/usr", below.join("link")).expect("linked");
        let size = measure(folder.path()).expect("measured");
        assert_eq!(size.entries, 4);
        assert!((100_000..200_000).contains(&size.bytes), "{size:?}");
        let none = measure(&folder.path().join("none")).expect("measured");
        assert_eq!(none, Size::default());
    }
}
