//! What a killed PID 1 leaves half done is removed by the next one: against the real program.

#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::path::{Path, PathBuf};

use common::{Runner, wait_for};
use futures::StreamExt as _;
use runner::proto::unpack_request::Event as Unpack;
use runner::proto::write_file_request::Event as Write;
use runner::proto::{UnpackHead, UnpackRequest, WriteEnd, WriteFileRequest, WriteHead};

/// Drafts below a folder, and whatever else is called like one.
fn drafts(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with(".em-") && name.ends_with(".part") {
            found.push(path);
        } else if path.is_dir() && !path.is_symlink() {
            found.extend(drafts(&path));
        }
    }
    found
}

/// An archive with a folder and an empty file in it, without its end.
fn archive() -> Vec<u8> {
    let header = |name: &str, kind: u8| {
        let mut block = vec![0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000755");
        block[124..135].copy_from_slice(b"00000000000");
        block[136..147].copy_from_slice(b"00000000000");
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    };
    [header("d/", b'5'), header("d/f", b'0')].concat()
}

impl Runner {
    /// Begins to write a file, and never ends.
    fn begin_file(&self, id: &str, path: &str) {
        let head = WriteHead {
            permit: Some(self.permit(id, 1)),
            path: path.as_bytes().to_vec().into(),
            mode: 0,
        };
        let events = [Write::Head(head), Write::Data(vec![b'x'; 1000].into())];
        let events = events.map(|event| WriteFileRequest { event: Some(event) });
        let sent = futures::stream::iter(events).chain(futures::stream::pending());
        let mut client = self.client.clone();
        tokio::spawn(async move { client.write_file(sent).await });
    }

    /// Begins to unpack an archive, and never ends.
    fn begin_folder(&self, id: &str, path: &str) {
        let head = UnpackHead {
            permit: Some(self.permit(id, 1)),
            path: path.as_bytes().to_vec().into(),
        };
        let events = [Unpack::Head(head), Unpack::Data(archive().into())];
        let events = events.map(|event| UnpackRequest { event: Some(event) });
        let sent = futures::stream::iter(events).chain(futures::stream::pending());
        let mut client = self.client.clone();
        tokio::spawn(async move { client.unpack(sent).await });
    }

    fn notes(&self) -> usize {
        let notes = std::fs::read_dir(self.state().join("drafts"));
        notes.unwrap().count()
    }
}

#[tokio::test]
async fn what_was_being_written_when_pid_1_was_killed_is_removed_by_the_next() {
    let mut runner = Runner::start().await;
    let script = "mkdir -p a/b; echo old >a/b/file; echo own >.em-own.part; ln -s a link";
    runner.run_shell("before", script).await;
    // A file by way of a link, a new folder, and one that is there already.
    runner.begin_file("file", "link/b/file");
    runner.begin_folder("new", "new/folder");
    runner.begin_folder("there", "a");
    let volume = runner.volume();
    wait_for("all that was sent", || {
        let drafts = drafts(&volume);
        let unpacked = drafts.iter().filter(|path| path.join("d/f").exists());
        (unpacked.count() == 2 && drafts.len() == 4).then_some(())
    })
    .await;
    assert_eq!(runner.notes(), 3);

    let mut runner = Runner::start_in(runner.crash()).await;
    wait_for("no note", || (runner.notes() == 0).then_some(())).await;
    // That one is the user's own.
    let volume = runner.volume();
    assert_eq!(drafts(&volume), [volume.join(".em-own.part")]);
    let shown = runner.run_shell("after", "cat a/b/file; ls a new").await;
    assert_eq!(shown.text(), "old\na:\nb\n\nnew:\n");
}

#[tokio::test]
async fn what_comes_to_an_end_leaves_no_note() {
    let mut runner = Runner::start().await;
    for (id, size) in [("whole", 0), ("short", 7)] {
        let head = WriteHead {
            permit: Some(runner.permit(id, 1)),
            path: b"file".to_vec().into(),
            mode: 0,
        };
        let events = [Write::Head(head), Write::End(WriteEnd { size })];
        let events = events.map(|event| WriteFileRequest { event: Some(event) });
        let written = runner.client.write_file(futures::stream::iter(events));
        assert_eq!(written.await.is_ok(), size == 0);
        wait_for("no note", || (runner.notes() == 0).then_some(())).await;
    }
    assert_eq!(drafts(&runner.volume()), [""; 0].map(PathBuf::from));
}

#[tokio::test]
async fn notes_that_cannot_be_read_keep_nobody_from_starting_or_writing() {
    let runner = Runner::start().await;
    let home = runner.crash();
    let notes = home.path().join("state/drafts");
    std::fs::remove_dir_all(&notes).unwrap();
    std::fs::write(&notes, "no folder").unwrap();
    let mut runner = Runner::start_in(home).await;
    let head = WriteHead {
        permit: Some(runner.permit("file", 1)),
        path: b"file".to_vec().into(),
        mode: 0,
    };
    let data = Write::Data(b"well".to_vec().into());
    let events = [Write::Head(head), data, Write::End(WriteEnd { size: 4 })];
    let events = events.map(|event| WriteFileRequest { event: Some(event) });
    let written = runner.client.write_file(futures::stream::iter(events));
    written.await.unwrap();
    assert_eq!(runner.run_shell("after", "cat file").await.text(), "well");
}
