//! Archives out and in, folders made, files moved: against the real program, with GNU tar and Python as peers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure is a failed test"
)]

mod common;

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Runner, code};
use prost::Message;
use runner::proto::pack_event::Event as Pack;
use runner::proto::unpack_request::Event as Unpack;
use runner::proto::{
    FileError, FileErrorCode, MakeFolderReply, MakeFolderRequest, MoveFileReply, MoveFileRequest,
    PackRequest, Permit, UnpackEnd, UnpackHead, UnpackReply, UnpackRequest,
};
use tonic::{Code, Status};

/// The file error in a status.
fn fault<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (FileErrorCode, String) {
    let status = outcome.unwrap_err();
    let error = FileError::decode(status.details()).unwrap();
    (error.code(), error.message)
}

impl Runner {
    async fn pack(&mut self, path: &str) -> Result<Vec<u8>, Status> {
        let path = path.to_owned().into();
        let mut events = self.client.pack(PackRequest { path }).await?.into_inner();
        let first = events.message().await?.and_then(|event| event.event);
        assert!(matches!(first, Some(Pack::Head(_))), "{first:?}");
        let mut bytes = Vec::new();
        loop {
            match events.message().await?.and_then(|event| event.event) {
                Some(Pack::Data(data)) => {
                    assert!((1..=runner::MAX_FRAME_BYTES).contains(&data.len()));
                    bytes.extend_from_slice(&data);
                }
                Some(Pack::End(end)) => {
                    assert_eq!(end.size, bytes.len() as u64);
                    assert!(events.message().await?.is_none());
                    return Ok(bytes);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn unpack_events(permit: Permit, path: &str, archive: &[u8]) -> Vec<Unpack> {
        let head = UnpackHead {
            permit: Some(permit),
            path: path.to_owned().into(),
        };
        let data = archive
            .chunks(runner::MAX_FRAME_BYTES)
            .map(|data| Unpack::Data(data.to_vec().into()));
        let end = UnpackEnd {
            size: archive.len() as u64,
        };
        let mut events = vec![Unpack::Head(head)];
        events.extend(data);
        events.push(Unpack::End(end));
        events
    }

    async fn send(&mut self, events: Vec<Unpack>) -> Result<UnpackReply, Status> {
        let events = events
            .into_iter()
            .map(|event| UnpackRequest { event: Some(event) });
        let sent = futures::stream::iter(events.collect::<Vec<_>>());
        Ok(self.client.unpack(sent).await?.into_inner())
    }

    async fn unpack(
        &mut self,
        id: &str,
        path: &str,
        archive: &[u8],
    ) -> Result<UnpackReply, Status> {
        let permit = self.permit(id, 1);
        self.send(Self::unpack_events(permit, path, archive)).await
    }

    async fn move_file(&mut self, id: &str, from: &str, to: &str) -> Result<MoveFileReply, Status> {
        let request = MoveFileRequest {
            permit: Some(self.permit(id, 1)),
            from: from.to_owned().into(),
            to: to.to_owned().into(),
        };
        Ok(self.client.move_file(request).await?.into_inner())
    }

    async fn mkdir(
        &mut self,
        id: &str,
        path: &str,
        parents: bool,
    ) -> Result<MakeFolderReply, Status> {
        let request = MakeFolderRequest {
            permit: Some(self.permit(id, 1)),
            path: path.to_owned().into(),
            parents,
        };
        Ok(self.client.make_folder(request).await?.into_inner())
    }

    /// Makes things as the environment's user does.
    async fn prepare(&mut self, id: &str, script: &str) {
        let finished = self.run_shell(id, &format!("set -e; {script}")).await;
        let exit = finished.record.exit;
        assert_eq!(
            exit,
            Some(runner::proto::job_record::Exit::Code(0)),
            "{finished:?}"
        );
    }

    /// Every name below the volume, but for what a script of a test needs.
    fn names(&self) -> Vec<String> {
        let mut names = names_below(&self.volume(), "");
        names.sort();
        names
    }
}

fn names_below(folder: &Path, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            names.extend(names_below(&entry.path(), &format!("{name}/")));
        }
        names.push(name);
    }
    names
}

/// What a program makes of some input.
fn piped(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writing = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output.stdout
}

/// An archive that a Python script writes with `add(name, type, link, data, pax)`.
fn python(script: &str) -> Vec<u8> {
    let begin = "
import io, sys, tarfile
out = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.PAX_FORMAT)
def add(name, kind=tarfile.REGTYPE, link='', data=b'x', pax=None):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, link, pax or {}
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    out.addfile(info, io.BytesIO(data) if info.size else None)
";
    let script = format!("{begin}\n{script}\nout.close()\n");
    piped(Command::new("python3").args(["-c", &script]), b"")
}

/// Two folders hold the same.
fn assert_same(one: &Path, other: &Path) {
    let listing = |folder: &Path| {
        let script = "find . -printf '%P %y %m %s %l %n\\n' | sed 's/^\\(.* d [0-7]*\\) .*/\\1/' | LC_ALL=C sort";
        let output = Command::new("sh")
            .args(["-c", script])
            .current_dir(folder)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(listing(one), listing(other));
    let differ = Command::new("diff")
        .arg("-r")
        .arg("--no-dereference")
        .args([one, other])
        .output();
    let differ = differ.unwrap();
    assert!(differ.status.success(), "{differ:?}");
}

const TREE: &str = "mkdir -p tree/deep/er tree/empty; cd tree; echo hello >file; chmod 750 file; : >none; \
    head -c 1500000 /dev/urandom >deep/large; ln -s ../file deep/link; ln -s nowhere dangling; \
    ln file second; ln file deep/third; printf x >\"$(printf 'a\\377b')\"; \
    n=$(printf 'n%.0s' $(seq 150)); mkdir -p $n/$n; echo long >$n/$n/$n; ln -s $n/$n/$n longlink; \
    touch -d 2001-02-03T04:05:06Z file; truncate -s 3000000 sparse; printf end >>sparse";

#[tokio::test]
async fn a_folder_comes_back_as_it_went() {
    let mut runner = Runner::start().await;
    runner.prepare("tree", TREE).await;
    runner.prepare("left-out", "cd tree; mkfifo fifo; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('socket')\"").await;
    let archive = runner.pack("tree").await.unwrap();
    runner
        .prepare("only-what-is-packed", "rm tree/fifo tree/socket")
        .await;
    let tree = runner.volume().join("tree");

    // To another program it is an archive like any other.
    let peer = tempfile::tempdir().unwrap();
    piped(
        Command::new("tar")
            .arg("-C")
            .arg(peer.path())
            .args(["-xpf", "-"]),
        &archive,
    );
    assert_same(&tree, peer.path());
    let hard = |name: &str| std::fs::metadata(peer.path().join(name)).unwrap().ino();
    assert_eq!(
        (hard("second"), hard("deep/third")),
        (hard("file"), hard("file"))
    );

    let reply = runner.unpack("u", "new/copy", &archive).await.unwrap();
    let copy = runner.volume().join("new/copy");
    assert_eq!(reply.path.as_ref(), copy.as_os_str().as_bytes());
    assert_eq!(reply.size, archive.len() as u64);
    assert_same(&tree, &copy);
    let metadata = std::fs::metadata(copy.join("file")).unwrap();
    assert_eq!((metadata.mtime(), metadata.nlink()), (981_173_106, 3));
    assert_eq!(metadata.uid(), common::user().0);

    // A file by itself, and nothing at all.
    let archive = runner.pack("tree/deep/link").await.unwrap();
    let listed = piped(Command::new("tar").args(["-tf", "-"]), &archive);
    assert_eq!(listed, b"file\n");
    let empty = runner.pack("tree/empty").await.unwrap();
    assert_eq!(
        runner.unpack("e", "nothing", &empty).await.unwrap().entries,
        0
    );
    assert!(runner.volume().join("nothing").is_dir());
    assert_eq!(fault(runner.pack("none").await).0, FileErrorCode::NotFound);
    assert_eq!(
        fault(runner.pack("/dev/null").await).0,
        FileErrorCode::NotARegularFile
    );
    runner
        .prepare("closed", "mkdir -p c/d; : >c/d/f; chmod 0 c/d/f")
        .await;
    let (code, message) = fault(runner.pack("c").await);
    if code == FileErrorCode::PermissionDenied {
        assert!(message.contains("d/f"), "{message}");
    } else {
        panic!("{code:?} {message}");
    }
}

#[tokio::test]
async fn archives_of_other_programs_are_read() {
    let mut runner = Runner::start().await;
    runner.prepare("tree", TREE).await;
    let tree = runner.volume().join("tree");
    let formats: [&[&str]; 7] = [
        &["--format=gnu"],
        &["--format=posix"],
        &["--format=gnu", "--sparse"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=oldgnu", "--sparse"],
        &[
            "--format=posix",
            "--pax-option=globexthdr.name=x,comment=hello",
        ],
    ];
    for (number, format) in formats.into_iter().enumerate() {
        let mut tar = Command::new("tar");
        tar.arg("-C")
            .arg(&tree)
            .args(format)
            .args(["-cf", "-", "."]);
        let archive = piped(&mut tar, b"");
        let into = format!("copy{number}");
        let reply = runner.unpack(&into, &into, &archive).await;
        reply.unwrap_or_else(|status| panic!("{format:?}: {status:?}"));
        assert_same(&tree, &runner.volume().join(&into));
    }
    // What the oldest formats can hold.
    runner
        .prepare(
            "plain",
            "mkdir -p plain/d; echo a >plain/d/a; ln plain/d/a plain/b; ln -s b plain/c",
        )
        .await;
    for format in ["--format=v7", "--format=ustar"] {
        let mut tar = Command::new("tar");
        tar.arg("-C")
            .arg(runner.volume().join("plain"))
            .args([format, "-cf", "-", "."]);
        let archive = piped(&mut tar, b"");
        let into = format!("old-{}", format.trim_start_matches("--format="));
        runner.unpack(&into, &into, &archive).await.unwrap();
        assert_same(&runner.volume().join("plain"), &runner.volume().join(&into));
    }
    let (code, message) = {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&tree).args([
            "--format=posix",
            "--sparse",
            "--sparse-version=0.0",
            "-cf",
            "-",
            "sparse",
        ]);
        let archive = piped(&mut tar, b"");
        fault(runner.unpack("s", "s", &archive).await)
    };
    assert!(
        code == FileErrorCode::ArchiveRefused && message.contains("1.0"),
        "{message}"
    );
}

#[tokio::test]
async fn what_would_lie_outside_is_refused_with_all_of_the_archive() {
    let mut runner = Runner::start().await;
    runner
        .prepare(
            "outside",
            "mkdir -p t/inside outside; echo kept >outside/file; echo kept >t/inside/file",
        )
        .await;
    let before = runner.names();
    let hostile = [
        "add('/abs')",
        "add('../up')",
        "add('a/../../up')",
        "add('a/..', tarfile.DIRTYPE)",
        "add('./.././up')",
        "add('l', tarfile.SYMTYPE, '/etc')",
        "add('l', tarfile.SYMTYPE, '..')",
        "add('d/l', tarfile.SYMTYPE, '../..')",
        "add('d/l', tarfile.SYMTYPE, 'x/../../..')",
        "add('l', tarfile.SYMTYPE, '../outside'); add('l/new')",
        "add('l', tarfile.SYMTYPE, 'd'); add('d', tarfile.DIRTYPE); add('l/new')",
        "add('d', tarfile.DIRTYPE); add('d', tarfile.SYMTYPE, '../outside'); add('d/new')",
        "add('f'); add('f/new')",
        "add('d/f'); add('d')",
        "add('h', tarfile.LNKTYPE, '../outside/file')",
        "add('h', tarfile.LNKTYPE, '/etc/passwd')",
        "add('h', tarfile.LNKTYPE, 'inside/file')",
        "add('l', tarfile.SYMTYPE, 'f'); add('f'); add('h', tarfile.LNKTYPE, 'l')",
        "add('h', tarfile.LNKTYPE, 'h')",
        "add('null', tarfile.CHRTYPE)",
        "add('sda', tarfile.BLKTYPE)",
        "add('fifo', tarfile.FIFOTYPE)",
        "add('odd', b'Z')",
        "add('fine', pax={'path': '../up'})",
        "add('fine', pax={'path': '/abs'})",
        "add('fine', tarfile.SYMTYPE, 'fine', pax={'linkpath': '/etc'})",
        "add('fine', pax={'path': 'x/' * 300 + 'deep'})",
        "add('fine', pax={'size': '99999999999999999999'})",
        "add('fine', pax={'GNU.sparse.map': '0,1,0,1', 'GNU.sparse.size': '5'})",
        "add('fine', pax={'GNU.sparse.map': '9223372036854775807,1', 'GNU.sparse.size': '5'})",
        "add('fine', pax={'GNU.sparse.major': '1', 'GNU.sparse.realsize': '5'})",
        "out.pax_headers = {'path': '../up'}; out.fileobj.write(out.tarinfo.create_pax_global_header({'path': '../up'})); add('fine')",
        "add('fine', pax={'comment': 'x' * 2000000})",
        "add('n' * 5000)",
    ];
    for (number, script) in hostile.into_iter().enumerate() {
        let archive = python(&format!("add('first', data=b'fine')\n{script}"));
        for into in ["t", "fresh"] {
            let id = format!("h{number}{into}");
            let (code, message) = fault(runner.unpack(&id, into, &archive).await);
            assert!(
                matches!(
                    code,
                    FileErrorCode::ArchiveRefused | FileErrorCode::NameTooLong
                ),
                "{script}: {code:?} {message}"
            );
        }
    }
    // Made again by those that begin afresh each time; the drafts go right after the answer.
    common::wait_for("nothing is left", || {
        (runner.names() == before).then_some(())
    })
    .await;
    let kept = std::fs::read_to_string(runner.volume().join("outside/file")).unwrap();
    assert_eq!(kept, "kept\n");
}

#[tokio::test]
async fn links_that_were_there_before_lead_nothing_astray() {
    let mut runner = Runner::start().await;
    runner.prepare("traps", "mkdir -p t/real outside; ln -s ../outside t/trap; echo kept >outside/file; ln -s ../outside/file t/file").await;
    let archive = python("add('trap/file', data=b'bad')");
    let (code, _) = fault(runner.unpack("a", "t", &archive).await);
    assert_eq!(code, FileErrorCode::NotADirectory);
    // A file takes the place of the link, and does not go through it.
    let archive = python("add('file', data=b'new')\nadd('real/more', data=b'more')");
    runner.unpack("b", "t", &archive).await.unwrap();
    let read = |name: &str| std::fs::read_to_string(runner.volume().join(name)).unwrap();
    assert_eq!(
        (read("outside/file").as_str(), read("t/file").as_str()),
        ("kept\n", "new")
    );
    assert_eq!(read("t/real/more"), "more");
}

#[tokio::test]
async fn an_archive_that_is_cut_or_garbled_unpacks_nothing() {
    let mut runner = Runner::start().await;
    let archive = python(
        "add('a', data=b'x' * 2000)\nadd('d/b', pax={'comment': 'y' * 700})\nadd('l', tarfile.SYMTYPE, 'a')",
    );
    let end = archive
        .chunks(512)
        .rposition(|block| block.iter().any(|byte| *byte != 0))
        .unwrap()
        + 1;
    for blocks in 0..=end {
        let cut = &archive[..blocks * 512];
        let (code, _) = fault(runner.unpack(&format!("c{blocks}"), "new", cut).await);
        assert_eq!(
            code,
            FileErrorCode::ArchiveRefused,
            "{blocks} blocks of {end}"
        );
    }
    for (number, garbled) in [
        [&archive[..], b"more"].concat(),
        piped(Command::new("gzip").arg("-c"), &archive),
        b"hello".repeat(300),
        vec![0xff; 2048],
    ]
    .iter()
    .enumerate()
    {
        let (code, message) = fault(runner.unpack(&format!("g{number}"), "new", garbled).await);
        assert_eq!(code, FileErrorCode::ArchiveRefused, "{message}");
    }
    // A stream without its end, and one whose end is of another size.
    let mut events = Runner::unpack_events(runner.permit("s", 1), "new", &archive);
    events.pop();
    assert_eq!(code(runner.send(events.clone()).await), Code::DataLoss);
    events.push(Unpack::End(UnpackEnd { size: 1 }));
    assert_eq!(code(runner.send(events).await), Code::DataLoss);
    common::wait_for("nothing is left", || {
        runner.names().is_empty().then_some(())
    })
    .await;
    runner.unpack("whole", "new", &archive).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_is_there_is_filled_up() {
    let mut runner = Runner::start().await;
    runner.prepare("there", "mkdir -p t/d t/full/x; echo old >t/file; echo old >t/d/a; echo kept >t/d/kept; chmod 500 t/full").await;
    let archive = python(
        "add('file', data=b'new')\nadd('d/a', data=b'new')\nadd('d/sub/b', data=b'new')\nadd('file', data=b'newest')",
    );
    let reply = runner.unpack("u", "t", &archive).await.unwrap();
    assert_eq!(reply.entries, 4);
    let again = runner.unpack("u", "t", &archive).await.unwrap();
    assert_eq!(again, reply, "at most once per job");
    let folder = runner.volume().join("t");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(
        (read("file").as_str(), read("d/a").as_str()),
        ("newest", "new")
    );
    assert_eq!(
        (read("d/kept").as_str(), read("d/sub/b").as_str()),
        ("kept\n", "new")
    );
    // What is in the way is found before anything is moved.
    for (id, script) in [
        ("f", "add('file')\nadd('d')"),
        ("d", "add('d/a')\nadd('file/x')"),
    ] {
        let (code, message) = fault(runner.unpack(id, "t", &python(script)).await);
        assert!(
            matches!(
                code,
                FileErrorCode::IsADirectory | FileErrorCode::NotADirectory
            ),
            "{message}"
        );
        assert_eq!(
            (read("file").as_str(), read("d/a").as_str()),
            ("newest", "new")
        );
    }
    assert_eq!(
        fault(runner.unpack("x", "t/file", &archive).await).0,
        FileErrorCode::NotADirectory
    );
    // A worker that was replaced unpacks nothing.
    runner.seal("sealed", 2).await.unwrap();
    assert_eq!(
        code(runner.unpack("sealed", "t", &archive).await),
        Code::Aborted
    );
    let leftovers = || {
        runner
            .names()
            .iter()
            .filter(|name| name.contains(".em-"))
            .count()
    };
    common::wait_for("no draft is left", || (leftovers() == 0).then_some(())).await;
}

#[tokio::test]
async fn folders_are_made_and_files_moved() {
    let mut runner = Runner::start().await;
    let made = runner.mkdir("m", "a", false).await.unwrap();
    assert!(made.made && made.path.as_ref() == runner.volume().join("a").as_os_str().as_bytes());
    assert_eq!(
        runner.mkdir("m", "a", false).await.unwrap(),
        made,
        "at most once per job"
    );
    assert_eq!(
        fault(runner.mkdir("m2", "a", false).await).0,
        FileErrorCode::AlreadyExists
    );
    assert!(!runner.mkdir("m3", "a", true).await.unwrap().made);
    assert_eq!(
        fault(runner.mkdir("m4", "x/y", false).await).0,
        FileErrorCode::NotFound
    );
    assert!(runner.mkdir("m5", "x/y", true).await.unwrap().made);
    runner
        .prepare(
            "files",
            "echo one >one; echo two >two; mkdir full; : >full/f",
        )
        .await;
    assert_eq!(
        fault(runner.mkdir("m6", "one", true).await).0,
        FileErrorCode::AlreadyExists
    );
    assert!(matches!(
        fault(runner.mkdir("m7", "one/x", true).await).0,
        FileErrorCode::NotADirectory
    ));

    let moved = runner.move_file("v", "one", "new/place/uno").await.unwrap();
    assert_eq!(
        moved.to.as_ref(),
        runner.volume().join("new/place/uno").as_os_str().as_bytes()
    );
    assert_eq!(
        runner.move_file("v", "one", "new/place/uno").await.unwrap(),
        moved
    );
    runner
        .move_file("v1", "two", "new/place/uno")
        .await
        .unwrap();
    let read = std::fs::read_to_string(runner.volume().join("new/place/uno")).unwrap();
    assert_eq!(read, "two\n", "a file that is there is replaced");
    runner.move_file("v2", "new", "a/b").await.unwrap();
    for (id, from, to, expected) in [
        ("f0", "none", "x", FileErrorCode::NotFound),
        ("f1", "a", "a/b/c", FileErrorCode::InvalidPath),
        ("f2", "x", "full", FileErrorCode::DirectoryNotEmpty),
        ("f3", "full/f", "a", FileErrorCode::IsADirectory),
        ("f4", "x", "full/f", FileErrorCode::NotADirectory),
        ("f5", ".", "elsewhere", FileErrorCode::InvalidPath),
        ("f6", "/", "elsewhere", FileErrorCode::InvalidPath),
        ("f7", "full/f", "/", FileErrorCode::InvalidPath),
    ] {
        let (code, message) = fault(runner.move_file(id, from, to).await);
        assert_eq!(code, expected, "{from} {to}: {message}");
    }
    // A link is moved itself.
    runner.prepare("link", "ln -s full/f link").await;
    runner.move_file("l", "link", "other").await.unwrap();
    let link = std::fs::read_link(runner.volume().join("other")).unwrap();
    assert_eq!(link.as_os_str(), OsStr::new("full/f"));
    assert!(
        std::fs::metadata(runner.volume().join("a/b/place"))
            .unwrap()
            .permissions()
            .mode()
            & 0o700
            == 0o700
    );
}
