//! File operations on every kind of path: against the real program.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure is a failed test"
)]

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use common::{Runner, code, user, wait_for};
use prost::Message;
use runner::proto::read_file_event::Event as Read;
use runner::proto::write_file_request::Event as Write;
use runner::proto::{
    Entry, FileError, FileErrorCode, FileHead, FileType, ListFilesReply, ListFilesRequest, Permit,
    ReadFileEvent, ReadFileRequest, ReleaseRequest, RemoveFileReply, RemoveFileRequest, WriteEnd,
    WriteFileReply, WriteFileRequest, WriteHead,
};
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

/// The file error in a status.
fn fault<T: std::fmt::Debug>(outcome: Result<T, Status>) -> FileErrorCode {
    let status = outcome.unwrap_err();
    let error = FileError::decode(status.details()).unwrap();
    assert!(
        !error.message.is_empty() && error.code() != FileErrorCode::Unspecified,
        "{status:?}"
    );
    error.code()
}

impl Runner {
    async fn list(
        &mut self,
        path: &[u8],
        depth: u32,
        after: &[u8],
        limit: u32,
    ) -> Result<ListFilesReply, Status> {
        let (path, after) = (path.to_vec().into(), after.to_vec().into());
        let request = ListFilesRequest {
            path,
            depth,
            after,
            limit,
        };
        Ok(self.client.list_files(request).await?.into_inner())
    }

    async fn list_all(&mut self, path: &[u8], depth: u32, limit: u32) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let after = entries
                .last()
                .map(|entry| entry.name.to_vec())
                .unwrap_or_default();
            let page = self.list(path, depth, &after, limit).await.unwrap();
            assert!(page.entries.len() <= limit as usize);
            assert!(!page.more || !page.entries.is_empty());
            let decoded = page.entries.into_iter().map(Entry::decode);
            entries.extend(decoded.map(Result::unwrap));
            if !page.more {
                assert!(entries.is_sorted_by(|one, other| one.name < other.name));
                return entries;
            }
        }
    }

    async fn read(&mut self, path: &[u8]) -> Result<(FileHead, Vec<u8>), Status> {
        self.read_range(path, 0, 0).await
    }

    async fn read_range(
        &mut self,
        path: &[u8],
        offset: u64,
        length: u64,
    ) -> Result<(FileHead, Vec<u8>), Status> {
        let request = ReadFileRequest {
            path: path.to_vec().into(),
            offset,
            length,
            only_head: false,
        };
        let mut events = self.client.read_file(request).await?.into_inner();
        let Some(Read::Head(head)) = events.message().await?.and_then(|event| event.event) else {
            panic!("no head");
        };
        let mut bytes = Vec::new();
        loop {
            match events.message().await?.and_then(|event| event.event) {
                Some(Read::Data(data)) => {
                    assert!((1..=runner::MAX_FRAME_BYTES).contains(&data.len()));
                    bytes.extend(data);
                }
                Some(Read::End(_)) => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(events.message().await?.is_none());
        assert_eq!(bytes.len() as u64, head.length);
        Ok((head, bytes))
    }

    async fn send(&mut self, events: Vec<Write>) -> Result<WriteFileReply, Status> {
        let requests = events
            .into_iter()
            .map(|event| WriteFileRequest { event: Some(event) });
        let sent = self
            .client
            .write_file(futures::stream::iter(requests.collect::<Vec<_>>()));
        Ok(sent.await?.into_inner())
    }

    fn events(permit: Permit, path: &[u8], mode: u32, content: &[u8]) -> Vec<Write> {
        let head = WriteHead {
            permit: Some(permit),
            path: path.to_vec().into(),
            mode,
        };
        let mut events = vec![Write::Head(head)];
        events.extend(
            content
                .chunks(runner::MAX_FRAME_BYTES)
                .map(|data| Write::Data(data.to_vec().into())),
        );
        events.push(Write::End(WriteEnd {
            size: content.len() as u64,
        }));
        events
    }

    async fn write(
        &mut self,
        id: &str,
        path: &[u8],
        content: &[u8],
    ) -> Result<WriteFileReply, Status> {
        self.send(Self::events(self.permit(id, 1), path, 0, content))
            .await
    }

    async fn remove(
        &mut self,
        id: &str,
        path: &[u8],
        recursive: bool,
    ) -> Result<RemoveFileReply, Status> {
        let request = RemoveFileRequest {
            permit: Some(self.permit(id, 1)),
            path: path.to_vec().into(),
            recursive,
        };
        Ok(self.client.remove_file(request).await?.into_inner())
    }

    /// Names in the volume that are left of writes.
    fn leftovers(&self) -> usize {
        let names = std::fs::read_dir(self.volume())
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.as_bytes().starts_with(b".em-"))
            .count()
    }

    /// Makes things as the environment's user does.
    async fn prepare(&mut self, script: &str) {
        let finished = self
            .run_shell("prepare", &format!("set -e; {script}"))
            .await;
        assert_eq!(
            finished.record.exit,
            Some(runner::proto::job_record::Exit::Code(0)),
            "{finished:?}"
        );
    }
}

#[tokio::test]
async fn what_is_written_is_read_back() {
    let mut runner = Runner::start().await;
    let content: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let reply = runner
        .write("w", b"new/deep//./file", &content)
        .await
        .unwrap();
    let path = runner.volume().join("new/deep/file");
    assert_eq!(
        (reply.path.as_ref(), reply.size),
        (path.as_os_str().as_bytes(), 4_000_000)
    );
    assert_eq!(reply.sha256.as_ref(), Sha256::digest(&content).as_slice());
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777),
        (user().0, user().1, 0o644)
    );
    assert_eq!(
        std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777,
        0o755
    );

    let (head, bytes) = runner.read(b"new/deep/file").await.unwrap();
    assert!(bytes == content);
    assert_eq!(
        (head.path.as_ref(), head.size, head.mode),
        (path.as_os_str().as_bytes(), 4_000_000, 0o644)
    );
    assert_eq!(
        (head.inode, head.modified_ns / 1_000_000_000),
        (metadata.ino(), metadata.mtime())
    );
    let (head, bytes) = runner
        .read_range(path.as_os_str().as_bytes(), 1_000_001, 300_000)
        .await
        .unwrap();
    assert!(bytes == content[1_000_001..1_300_001]);
    assert_eq!(head.size, 4_000_000);
    let (head, _) = runner
        .read_range(b"new/deep/file", 3_999_999, 10)
        .await
        .unwrap();
    assert_eq!(head.length, 1);
    let beyond = runner.read_range(b"new/deep/file", 4_000_000, 0).await;
    assert_eq!(fault(beyond), FileErrorCode::RangeNotSatisfiable);

    let events = Runner::events(runner.permit("again", 1), b"new/deep/file", 0o751, b"");
    assert_eq!(runner.send(events).await.unwrap().size, 0);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o751);
    assert_eq!(runner.read(b"new/deep/file").await.unwrap().1, b"");
    assert_eq!(runner.leftovers(), 0);
}

#[tokio::test]
async fn paths_resolve_inside_the_environment() {
    let mut runner = Runner::start().await;
    runner.prepare("mkdir -p a/b; echo x > a/file; ln -s ../file a/b/up; ln -s a dir; ln -s loop loop; ln -s nowhere/x dangling").await;
    let volume = runner.volume();
    for path in ["a/file", "a/../a/file", "dir/file", "a/b/up", "./a//file"] {
        let (head, bytes) = runner.read(path.as_bytes()).await.unwrap();
        assert_eq!(
            (head.path.as_ref(), bytes.as_slice()),
            (volume.join("a/file").as_os_str().as_bytes(), &b"x\n"[..])
        );
    }
    let (head, _) = runner.read(b"/etc/passwd").await.unwrap();
    assert_eq!(head.path.as_ref(), b"/etc/passwd");
    assert_eq!(
        fault(runner.read(b"loop").await),
        FileErrorCode::TooManyLinks
    );
    assert_eq!(
        fault(runner.read(b"dangling").await),
        FileErrorCode::NotFound
    );
    assert_eq!(
        fault(runner.read(b"a/file/x").await),
        FileErrorCode::NotADirectory
    );
    assert_eq!(
        fault(runner.read(b"a\0b").await),
        FileErrorCode::InvalidPath
    );
    assert_eq!(
        fault(runner.read(&[b'x'; 256]).await),
        FileErrorCode::NameTooLong
    );
    assert_eq!(
        fault(runner.read(&b"x/".repeat(3000)).await),
        FileErrorCode::NameTooLong
    );

    // A link is written through, a dangling one makes the file that it names.
    runner.write("through", b"a/b/up", b"new").await.unwrap();
    assert_eq!(std::fs::read(volume.join("a/file")).unwrap(), b"new");
    assert!(
        std::fs::symlink_metadata(volume.join("a/b/up"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(
        fault(runner.write("dangling", b"dangling", b"").await),
        FileErrorCode::NotFound
    );
    std::fs::create_dir(volume.join("nowhere")).unwrap();
    std::os::unix::fs::chown(volume.join("nowhere"), Some(user().0), None).unwrap();
    runner
        .write("dangling-2", b"dangling", b"made")
        .await
        .unwrap();
    assert_eq!(std::fs::read(volume.join("nowhere/x")).unwrap(), b"made");
    assert_eq!(
        fault(runner.write("loop", b"loop", b"").await),
        FileErrorCode::TooManyLinks
    );
    assert_eq!(
        fault(runner.write("below", b"a/file/x", b"").await),
        FileErrorCode::NotADirectory
    );
    let up = runner.write("up", b"a/../dir/y", b"").await.unwrap();
    assert_eq!(up.path.as_ref(), volume.join("a/y").as_os_str().as_bytes());
}

#[tokio::test]
async fn names_of_every_kind_work() {
    let mut runner = Runner::start().await;
    let names: [&[u8]; 5] = [
        &[b'n'; 255],
        b"\xff\xfe not UTF-8",
        b"new\nline",
        b"-rf",
        "ünïcødé".as_bytes(),
    ];
    for (index, name) in names.iter().enumerate() {
        runner
            .write(&format!("w{index}"), name, name)
            .await
            .unwrap();
        assert_eq!(runner.read(name).await.unwrap().1, *name);
    }
    let mut listed: Vec<Vec<u8>> = runner
        .list_all(b"", 1, 2)
        .await
        .into_iter()
        .map(|entry| entry.name.to_vec())
        .collect();
    let mut expected = names.map(<[u8]>::to_vec).to_vec();
    expected.sort();
    assert_eq!(listed, expected);
    assert_eq!(
        fault(runner.write("long", &[b'n'; 256], b"").await),
        FileErrorCode::NameTooLong
    );
    listed.reverse();
    for (index, name) in listed.iter().enumerate() {
        assert_eq!(
            runner
                .remove(&format!("r{index}"), name, false)
                .await
                .unwrap()
                .removed,
            1
        );
    }
    assert_eq!(runner.list_all(b".", 1, 10).await.len(), 0);
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused_and_holds_up_nobody() {
    let mut runner = Runner::start().await;
    runner
        .prepare("mkfifo fifo; mkdir folder; echo x > file; ln -s /dev/null device")
        .await;
    let _socket = std::os::unix::net::UnixListener::bind(runner.volume().join("socket")).unwrap();
    let refused = [
        ("fifo", FileErrorCode::NotARegularFile),
        ("device", FileErrorCode::NotARegularFile),
    ];
    for (path, expected) in [
        refused[0],
        refused[1],
        ("socket", FileErrorCode::NotARegularFile),
        ("folder", FileErrorCode::IsADirectory),
        ("", FileErrorCode::IsADirectory),
    ] {
        assert_eq!(
            fault(runner.read(path.as_bytes()).await),
            expected,
            "{path}"
        );
        assert_eq!(
            fault(
                runner
                    .write(&format!("w{path}"), path.as_bytes(), b"x")
                    .await
            ),
            expected,
            "{path}"
        );
    }
    assert_eq!(
        fault(runner.write("slash", b"folder/", b"x").await),
        FileErrorCode::IsADirectory
    );
    assert_eq!(
        fault(runner.list(b"file", 1, b"", 10).await),
        FileErrorCode::NotADirectory
    );
    let kinds: Vec<_> = runner
        .list_all(b"", 1, 10)
        .await
        .into_iter()
        .map(|entry| (entry.r#type(), entry.target.to_vec()))
        .collect();
    let other = (FileType::OtherFile, Vec::new());
    let device = (FileType::Symlink, b"/dev/null".to_vec());
    assert_eq!(
        kinds,
        [
            device,
            other.clone(),
            (FileType::File, Vec::new()),
            (FileType::Directory, Vec::new()),
            other
        ]
    );
    // Removing does not care.
    for path in ["fifo", "device", "socket"] {
        runner
            .remove(&format!("r{path}"), path.as_bytes(), false)
            .await
            .unwrap();
    }
    assert!(std::path::Path::new("/dev/null").exists());
    // The runner's own descriptors are out of reach.
    for descriptor in 3..40 {
        let path = format!("/proc/self/fd/{descriptor}");
        assert!(runner.read(path.as_bytes()).await.is_err(), "{path}");
    }
}

#[tokio::test]
async fn files_are_touched_with_the_users_rights() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let mut runner = Runner::start().await;
    let volume = runner.volume();
    std::fs::create_dir(volume.join("roots")).unwrap();
    std::fs::write(volume.join("roots/secret"), "x").unwrap();
    std::fs::set_permissions(
        volume.join("roots/secret"),
        std::fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    assert_eq!(
        fault(runner.read(b"roots/secret").await),
        FileErrorCode::PermissionDenied
    );
    assert_eq!(
        fault(runner.read(b"/etc/shadow").await),
        FileErrorCode::PermissionDenied
    );
    assert_eq!(
        fault(runner.write("w", b"roots/new", b"x").await),
        FileErrorCode::PermissionDenied
    );
    assert_eq!(
        fault(runner.write("v", b"/new", b"x").await),
        FileErrorCode::PermissionDenied
    );
    assert_eq!(
        fault(runner.remove("r", b"roots/secret", false).await),
        FileErrorCode::PermissionDenied
    );
    assert_eq!(
        fault(runner.remove("s", b"roots", true).await),
        FileErrorCode::PermissionDenied
    );
    assert!(
        fault(
            runner
                .list(runner.state().as_os_str().as_bytes(), 1, b"", 10)
                .await
        ) == FileErrorCode::PermissionDenied
    );
    assert!(volume.join("roots/secret").exists());
}

#[tokio::test]
async fn a_hundred_thousand_entries_come_in_pages() {
    let mut runner = Runner::start().await;
    let folder = runner.volume().join("many");
    std::fs::create_dir(&folder).unwrap();
    let inside = folder.clone();
    let making = tokio::task::spawn_blocking(move || {
        for number in 0..100_000 {
            std::fs::File::create(inside.join(format!("entry-{number}"))).unwrap();
        }
    });
    making.await.unwrap();
    let entries = runner.list_all(b"many", 1, 10_000).await;
    assert_eq!(entries.len(), 100_000);
    assert!(entries.iter().all(|entry| entry.r#type() == FileType::File));
    std::os::unix::fs::chown(&folder, Some(user().0), Some(user().1)).unwrap();
    let removed = runner.remove("remove", b"many", true).await.unwrap();
    assert_eq!(removed.removed, 100_001);
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_tree_is_listed_in_byte_order_whatever_the_pages() {
    let mut runner = Runner::start().await;
    let root = runner.volume();
    let folders = ["a", "a/b", "a/b/c", "a-b", "a.b", "empty", "z/z"];
    for folder in folders {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    let files = [
        "a/b/c/file",
        "a/b/file",
        "a/file",
        "a-b/file",
        "a.b/\u{e9}",
        "a0",
        "a!",
        "z/file",
        "z/z/file",
    ];
    for file in files {
        std::fs::write(root.join(file), file).unwrap();
    }
    symlink("..", root.join("a/b/up")).unwrap();
    let names = |depth: usize| {
        let mut names: Vec<String> = folders
            .iter()
            .chain(&files)
            .chain(&["a/b/up", "z"])
            .map(|&name| name.to_owned())
            .collect();
        names.retain(|name| name.split('/').count() <= depth);
        names.sort();
        names
    };
    for depth in 1..=5 {
        for limit in [1, 2, 3, 5, 100] {
            let listed = runner.list_all(b"", depth, limit).await;
            let listed: Vec<String> = listed
                .into_iter()
                .map(|entry| String::from_utf8(entry.name.to_vec()).unwrap())
                .collect();
            assert_eq!(
                listed,
                names(depth as usize),
                "depth {depth}, limit {limit}"
            );
        }
    }
    let page = runner.list(b"a/../a/b", 1, b"", 10).await.unwrap();
    assert_eq!(page.path.as_ref(), root.join("a/b").as_os_str().as_bytes());
    assert_eq!(
        code(runner.list(b"", 0, b"", 1).await),
        Code::InvalidArgument
    );
    assert_eq!(
        code(runner.list(b"", 17, b"", 1).await),
        Code::InvalidArgument
    );
    assert_eq!(
        code(runner.list(b"", 1, b"", 0).await),
        Code::InvalidArgument
    );
    assert_eq!(
        code(runner.list(b"", 1, b"", 10_001).await),
        Code::InvalidArgument
    );
    assert_eq!(
        fault(runner.list(b"none", 1, b"", 1).await),
        FileErrorCode::NotFound
    );
}

#[tokio::test]
async fn a_page_fits_into_a_message_whatever_its_names() {
    let mut runner = Runner::start().await;
    let long = "l".repeat(250);
    let mut deep = runner.volume();
    for _ in 0..14 {
        deep.push(&long);
    }
    // A path this long is made step by step.
    let mut at = std::fs::File::open(runner.volume()).unwrap();
    for _ in 0..14 {
        rustix::fs::mkdirat(&at, &long, 0o755.into()).unwrap();
        at = rustix::fs::openat(&at, &long, rustix::fs::OFlags::DIRECTORY, 0.into())
            .unwrap()
            .into();
    }
    for number in 0..2000 {
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        rustix::fs::openat(&at, format!("{number:0250}"), flags, 0o644.into()).unwrap();
    }
    let entries = runner.list_all(b"", 16, 10_000).await;
    assert_eq!(entries.len(), 2014);
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_whole_or_an_error() {
    let mut runner = Runner::start().await;
    let path = runner.volume().join("file");
    let size = 40 << 20;
    std::fs::write(&path, vec![b'x'; size]).unwrap();
    let request = ReadFileRequest {
        path: "file".into(),
        offset: 0,
        length: 0,
        only_head: false,
    };
    let mut growing = runner
        .client
        .read_file(request.clone())
        .await
        .unwrap()
        .into_inner();
    let Some(Read::Head(head)) = growing.message().await.unwrap().unwrap().event else {
        panic!("no head")
    };
    let mut more = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    std::io::Write::write_all(&mut more, &[b'y'; 1 << 20]).unwrap();
    let rewriting = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut bytes = 0;
    while let Some(Read::Data(data)) = growing.message().await.unwrap().unwrap().event {
        assert!(data.iter().all(|byte| *byte == b'x'));
        bytes += data.len();
    }
    assert_eq!((bytes, head.length), (size, size as u64));

    let reading = runner.client.read_file(request.clone());
    let mut overwritten = reading.await.unwrap().into_inner();
    overwritten.message().await.unwrap();
    // Another time for sure: the clock of the file system ticks seldom.
    let another = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(9);
    std::os::unix::fs::FileExt::write_all_at(&rewriting, b"z", 30 << 20).unwrap();
    rewriting.set_modified(another).unwrap();
    assert_eq!(failure(overwritten).await, FileErrorCode::ChangedWhileRead);

    let mut shrinking = runner.client.read_file(request).await.unwrap().into_inner();
    shrinking.message().await.unwrap();
    more.set_len(1000).unwrap();
    assert_eq!(failure(shrinking).await, FileErrorCode::ChangedWhileRead);
}

/// How a read that must not come to its end failed.
async fn failure(mut read: tonic::Streaming<ReadFileEvent>) -> FileErrorCode {
    loop {
        match read.message().await {
            Ok(Some(event)) => assert!(!matches!(event.event, Some(Read::End(_)))),
            ended => return fault(ended),
        }
    }
}

#[tokio::test]
async fn a_write_that_is_not_whole_leaves_nothing() {
    let mut runner = Runner::start().await;
    let whole = Runner::events(runner.permit("w", 1), b"sub/file", 0, b"content");
    let without_end = whole[..2].to_vec();
    assert_eq!(code(runner.send(without_end).await), Code::DataLoss);
    let wrong_size = vec![
        whole[0].clone(),
        whole[1].clone(),
        Write::End(WriteEnd { size: 8 }),
    ];
    assert_eq!(code(runner.send(wrong_size).await), Code::DataLoss);
    assert_eq!(
        code(runner.send(vec![whole[1].clone()]).await),
        Code::InvalidArgument
    );
    assert_eq!(
        code(runner.send(vec![whole[0].clone(), whole[0].clone()]).await),
        Code::InvalidArgument
    );
    assert_eq!(code(runner.send(Vec::new()).await), Code::InvalidArgument);
    let oversized = Write::Data(vec![0; runner::MAX_FRAME_BYTES + 1].into());
    assert_eq!(
        code(runner.send(vec![whole[0].clone(), oversized]).await),
        Code::InvalidArgument
    );

    // A caller that goes away in the middle.
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let mut client = runner.client.clone();
    let call = tokio::spawn(async move {
        let _ = client
            .write_file(tokio_stream::wrappers::ReceiverStream::new(receiver))
            .await;
    });
    for event in &whole[..2] {
        sender
            .send(WriteFileRequest {
                event: Some(event.clone()),
            })
            .await
            .unwrap();
    }
    let sub = runner.volume().join("sub");
    wait_for("the temporary file", || {
        (std::fs::read_dir(&sub).ok()?.count() == 1).then_some(())
    })
    .await;
    call.abort();
    wait_for("its removal", || {
        (std::fs::read_dir(&sub).ok()?.count() == 0).then_some(())
    })
    .await;
    // None of it counts as done.
    runner.send(whole).await.unwrap();
    assert_eq!(std::fs::read(sub.join("file")).unwrap(), b"content");
}

#[tokio::test]
async fn mutations_happen_once_and_only_when_permitted() {
    let mut runner = Runner::start().await;
    let first = runner.write("w", b"file", b"first").await.unwrap();
    // A repeated call gets the first reply, also when its content is large and other.
    assert_eq!(
        runner
            .write("w", b"file", &vec![b'x'; 8 << 20])
            .await
            .unwrap(),
        first
    );
    assert_eq!(
        std::fs::read(runner.volume().join("file")).unwrap(),
        b"first"
    );

    let other = Permit {
        incarnation: "f".repeat(32),
        ..runner.permit("o", 1)
    };
    assert_eq!(
        code(
            runner
                .send(Runner::events(other.clone(), b"file", 0, b"x"))
                .await
        ),
        Code::FailedPrecondition
    );
    let removal = RemoveFileRequest {
        permit: Some(other),
        path: "file".into(),
        recursive: false,
    };
    assert_eq!(
        code(runner.client.remove_file(removal).await),
        Code::FailedPrecondition
    );
    runner.seal("late", 5).await.unwrap();
    let late = runner.permit("late", 4);
    assert_eq!(
        code(runner.send(Runner::events(late, b"file", 0, b"x")).await),
        Code::Aborted
    );
    let in_time = runner.permit("late", 5);
    runner
        .send(Runner::events(in_time, b"late", 0, b"x"))
        .await
        .unwrap();

    let removed = runner.remove("r", b"file", false).await.unwrap();
    assert_eq!(
        removed.path.as_ref(),
        runner.volume().join("file").as_os_str().as_bytes()
    );
    std::fs::write(runner.volume().join("file"), "again").unwrap();
    assert_eq!(runner.remove("r", b"file", false).await.unwrap(), removed);
    assert!(runner.volume().join("file").exists());
    assert_eq!(
        code(runner.write("r", b"file", b"x").await),
        Code::AlreadyExists
    );

    runner.run_shell("exec", "true").await;
    assert_eq!(
        code(runner.write("exec", b"file", b"x").await),
        Code::AlreadyExists
    );
    let forget = ReleaseRequest {
        job_id: "w".to_owned(),
        forget: true,
        ..ReleaseRequest::default()
    };
    for _ in 0..2 {
        runner.client.release(forget.clone()).await.unwrap();
    }
    assert_eq!(
        code(runner.write("w", b"file", b"x").await),
        Code::AlreadyExists
    );
}

#[tokio::test]
async fn a_seal_stops_a_write_before_its_rename() {
    let mut runner = Runner::start().await;
    let events = Runner::events(runner.permit("w", 1), b"file", 0, b"content");
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let mut client = runner.client.clone();
    let call = tokio::spawn(async move {
        client
            .write_file(tokio_stream::wrappers::ReceiverStream::new(receiver))
            .await
    });
    let mut events = events
        .into_iter()
        .map(|event| WriteFileRequest { event: Some(event) });
    sender.send(events.next().unwrap()).await.unwrap();
    sender.send(events.next().unwrap()).await.unwrap();
    wait_for("the temporary file", || {
        (runner.leftovers() == 1).then_some(())
    })
    .await;
    runner.seal("w", 2).await.unwrap();
    sender.send(events.next().unwrap()).await.unwrap();
    drop(sender);
    assert_eq!(code(call.await.unwrap()), Code::Aborted);
    assert!(!runner.volume().join("file").exists());
    wait_for("no leftovers", || (runner.leftovers() == 0).then_some(())).await;
}

#[tokio::test]
async fn removal_follows_no_link_and_spares_the_volume() {
    let mut runner = Runner::start().await;
    runner.prepare("mkdir -p keep tree/a/b tree/c; echo x > keep/file; echo y > tree/a/b/file; ln -s ../keep tree/link; ln -s keep top").await;
    assert_eq!(
        fault(runner.remove("full", b"tree", false).await),
        FileErrorCode::DirectoryNotEmpty
    );
    // tree, a, b, file, c, link
    assert_eq!(
        runner.remove("tree", b"tree", true).await.unwrap().removed,
        6
    );
    assert_eq!(runner.remove("top", b"top", true).await.unwrap().removed, 1);
    assert_eq!(
        std::fs::read(runner.volume().join("keep/file")).unwrap(),
        b"x\n"
    );
    for (index, path) in ["", ".", "/", "keep/..", "..", "/.", "../app"]
        .iter()
        .enumerate()
    {
        let outcome = runner
            .remove(&format!("no-{index}"), path.as_bytes(), true)
            .await;
        assert_eq!(fault(outcome), FileErrorCode::InvalidPath, "{path}");
    }
    let whole = runner.volume();
    assert_eq!(
        fault(
            runner
                .remove("whole", whole.as_os_str().as_bytes(), true)
                .await
        ),
        FileErrorCode::InvalidPath
    );
    assert_eq!(
        fault(runner.remove("gone", b"tree", true).await),
        FileErrorCode::NotFound
    );
    assert!(whole.join("keep").exists());
}

#[tokio::test]
async fn a_very_deep_tree_is_removed() {
    let mut runner = Runner::start().await;
    // Deeper than the stack, the descriptors or the longest path would allow.
    let mut at = std::fs::File::open(runner.volume()).unwrap();
    for _ in 0..5000 {
        rustix::fs::mkdirat(&at, "d", 0o755.into()).unwrap();
        let below = rustix::fs::openat(&at, "d", rustix::fs::OFlags::DIRECTORY, 0.into()).unwrap();
        rustix::fs::fchown(&below, Some(rustix::fs::Uid::from_raw(user().0)), None).unwrap();
        at = below.into();
    }
    assert_eq!(
        runner.remove("deep", b"d", true).await.unwrap().removed,
        5000
    );
    assert_eq!(std::fs::read_dir(runner.volume()).unwrap().count(), 0);
}

#[tokio::test]
async fn odd_bytes_in_paths_come_back_as_they_went() {
    let mut runner = Runner::start().await;
    let name = OsStr::from_bytes(b"\x80\xff");
    std::fs::write(runner.volume().join(name), "x").unwrap();
    let (head, _) = runner.read(b"\x80\xff").await.unwrap();
    assert_eq!(
        head.path.as_ref(),
        runner.volume().join(name).into_os_string().into_vec()
    );
}
