//! The directory adapter of the blobs: the suite of the port, and what can happen to a folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use rand::RngExt as _;
use shared::directory_blobs::DirectoryBlobs;
use shared::ports::{BlobError, BlobName, Blobs};
use tempfile::TempDir;
use tests::conformance::blobs::{content, name, pieces, put, read, sha256, suite};

fn fresh() -> (TempDir, DirectoryBlobs) {
    let folder = TempDir::new().expect("a folder");
    let blobs = DirectoryBlobs::open(&folder.path().join("blobs")).expect("opened");
    (folder, blobs)
}

/// The only file in a folder, at any depth.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_passes_the_suite() {
    let folder = TempDir::new().expect("a folder");
    let count = AtomicU32::new(0);
    suite(async || {
        let dir = folder
            .path()
            .join(count.fetch_add(1, Ordering::Relaxed).to_string());
        Arc::new(DirectoryBlobs::open(&dir).expect("opened")) as Arc<dyn Blobs>
    })
    .await;
}

#[tokio::test]
async fn the_object_is_a_plain_file_that_its_uri_names_and_sha256sum_knows() {
    let (folder, blobs) = fresh();
    let content = content(7, 100_000);
    for object in ["reports/a b%20.txt", "back\\slash", "plain"] {
        let name = name("artifacts", object);
        put(&blobs, &name, &content).await;
        let path = blobs
            .uri(&name)
            .strip_prefix("file://")
            .expect("a file URI")
            .to_owned();
        assert_eq!(fs::read(percent_decoded(&path)).expect("the file"), content);
    }
    let root = folder.path().join("blobs");
    let check = "cat .sums/artifacts/* | sha256sum --check --strict --quiet";
    let checked = Command::new("sh")
        .args(["-c", check])
        .current_dir(&root)
        .status();
    assert!(checked.expect("sha256sum").success());
    for path in files_below(&root) {
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{path:?}"
        );
        let folder = path.parent().expect("a folder");
        assert_eq!(
            folder.metadata().unwrap().permissions().mode() & 0o777,
            0o700,
            "{folder:?}"
        );
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if let (b'%', Some(digits)) = (
            first,
            text.get(text.len() - tail.len()..text.len() - tail.len() + 2),
        ) {
            bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).expect("text")
}

#[tokio::test]
async fn damage_is_told_before_the_end() {
    let (folder, blobs) = fresh();
    let (name, original) = (name("bucket", "damaged"), content(3, 1_000_000));
    let path = folder.path().join("blobs/bucket/damaged");
    let damages: BTreeMap<&str, fn(&mut Vec<u8>)> = BTreeMap::from([
        ("first byte", (|bytes| bytes[0] ^= 1) as fn(&mut Vec<u8>)),
        ("last byte", |bytes| *bytes.last_mut().unwrap() ^= 1),
        ("shorter", |bytes| bytes.truncate(999_999)),
        ("longer", |bytes| bytes.push(0)),
        ("empty", Vec::clear),
    ]);
    for (what, damage) in damages {
        put(&blobs, &name, &original).await;
        let mut bytes = original.to_vec();
        damage(&mut bytes);
        fs::write(&path, &bytes).expect("damaged");
        let (_, mut stream) = blobs.get(&name).await.expect("opened");
        let mut got = 0;
        let error = loop {
            match stream.next().await.expect("no end without an error") {
                Ok(piece) => got += piece.len(),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, BlobError::Damaged(_)), "{what}: {error}");
        assert!(
            got < bytes.len().max(1),
            "{what}: all of it was given before the error"
        );
        assert!(stream.next().await.is_none(), "{what}");
    }
    fs::remove_file(&files_below(&folder.path().join("blobs/.sums"))[0]).expect("removed");
    assert!(matches!(blobs.get(&name).await, Err(BlobError::Damaged(_))));
    put(&blobs, &name, &original).await;
    assert_eq!(read(&blobs, &name).await.expect("written anew"), original);
}

/// Every state in which a crash can leave an object that is being replaced.
#[tokio::test]
async fn a_crash_at_any_step_of_a_replacement_leaves_a_pair() {
    let (folder, blobs) = fresh();
    let name = name("bucket", "object");
    let (old, new) = (content(1, 300_000), content(2, 400_000));
    let object = folder.path().join("blobs/bucket/object");
    let line = |content: &[u8]| format!("{}  bucket/object\n", sha256(content));
    let torn = line(&new)[..40].to_owned();
    for (what, in_place, next) in [
        ("before the rename", &old, line(&new)),
        ("after the rename", &new, line(&new)),
        ("while the checksum was written", &old, torn),
    ] {
        put(&blobs, &name, &old).await;
        let sum = files_below(&folder.path().join("blobs/.sums")).remove(0);
        fs::write(&object, in_place).expect("written");
        fs::write(sum.with_extension("next"), next).expect("written");
        assert_eq!(
            read(&blobs, &name).await.expect("a pair"),
            in_place,
            "{what}"
        );
        assert_eq!(
            blobs.stat(&name).await.expect("a pair").sha256,
            sha256(in_place),
            "{what}"
        );
        assert_eq!(
            files_below(&folder.path().join("blobs/.sums")),
            [sum],
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_writer_that_is_killed_leaves_whole_objects_only() {
    let folder = TempDir::new().expect("a folder");
    let dir = folder.path().join("blobs");
    let object = name("bucket", "deep/object");
    let mut lowest = None;
    for round in 0..12 {
        let done =
            kill_a_writer_after(&dir, Duration::from_millis(rand::rng().random_range(0..40)));
        let blobs = DirectoryBlobs::open(&dir).expect("opened again");
        assert_eq!(
            files_below(&dir.join(".tmp")),
            Vec::<PathBuf>::new(),
            "round {round}"
        );
        lowest = done.or(lowest);
        match read(&blobs, &object).await {
            Ok(content) => {
                assert_eq!(content.len(), 48 * 64 * 1024, "round {round}");
                assert!(
                    content.iter().all(|byte| *byte == content[0]),
                    "round {round}: mixed"
                );
            }
            Err(BlobError::NotFound(_)) => assert_eq!(lowest, None, "round {round}: lost"),
            Err(error) => panic!("round {round}: {error}"),
        }
        assert!(blobs.list("bucket", "").await.expect("listed").len() <= 1);
    }
}

/// Lets a child write, kills it some time after the beginning of its second write, and gives the last version that it
/// told to be written.
fn kill_a_writer_after(dir: &Path, delay: Duration) -> Option<u64> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_blob_writer"))
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the writer");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let first = lines.next().expect("a line").expect("text");
    assert_eq!(first, "begun 0");
    std::thread::sleep(delay);
    child.kill().expect("killed");
    child.wait().expect("gone");
    lines
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("done ")?.parse().ok())
        .last()
}

#[tokio::test]
async fn a_list_removes_what_dead_writers_left_and_spares_the_living() {
    let (folder, blobs) = fresh();
    let temp = folder.path().join("blobs/.tmp");
    fs::write(temp.join("leftover"), "half").expect("written");
    let orphan = name("bucket", "gone");
    put(&blobs, &orphan, &content(1, 10)).await;
    fs::remove_file(folder.path().join("blobs/bucket/gone")).expect("removed");

    let (pieces_in, pieces_out) = futures::channel::mpsc::unbounded();
    let blobs = Arc::new(blobs);
    let writing = tokio::spawn({
        let blobs = Arc::clone(&blobs);
        async move {
            blobs
                .put(&name("bucket", "living"), pieces_out.boxed())
                .await
        }
    });
    let living = content(2, 3 << 20);
    pieces_in.unbounded_send(Ok(living.clone())).expect("sent");
    while files_below(&temp).len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(blobs.list("bucket", "").await.expect("listed").is_empty());
    assert_eq!(files_below(&temp).len(), 1);
    assert_eq!(
        files_below(&folder.path().join("blobs/.sums")),
        Vec::<PathBuf>::new()
    );
    drop(pieces_in);
    writing.await.expect("no panic").expect("written");
    assert_eq!(
        read(&*blobs, &name("bucket", "living"))
            .await
            .expect("read"),
        living
    );
}

#[tokio::test]
async fn links_and_other_files_are_never_followed() {
    let (folder, blobs) = fresh();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("secret"), "secret").expect("written");
    let bucket = folder.path().join("blobs/bucket");
    put(&blobs, &name("bucket", "own"), &content(1, 10)).await;
    symlink(&outside, bucket.join("folder")).expect("linked");
    symlink(outside.join("secret"), bucket.join("file")).expect("linked");
    nix::unistd::mkfifo(&bucket.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("made");

    for object in ["folder/secret", "file", "fifo"] {
        let found = blobs
            .get(&name("bucket", object))
            .await
            .map(|(info, _)| info);
        assert!(
            matches!(found, Err(BlobError::NotFound(_))),
            "{object}: {found:?}"
        );
    }
    let through = blobs
        .put(&name("bucket", "folder/new"), pieces(&content(1, 1), 1))
        .await;
    assert!(matches!(through, Err(BlobError::BadName(_))), "{through:?}");
    blobs
        .delete(&name("bucket", "folder/secret"))
        .await
        .expect("nothing there");
    put(&blobs, &name("bucket", "file"), &content(4, 10)).await;
    assert_eq!(blobs.list("bucket", "").await.expect("listed").len(), 2);
    assert_eq!(
        fs::read_to_string(outside.join("secret")).expect("untouched"),
        "secret"
    );
    assert_eq!(fs::read_dir(&outside).expect("read").count(), 1);
}

/// A small file system of its own, unmounted when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: &Path) -> Self {
        fs::create_dir_all(at).expect("made");
        let options = Some("size=4m,mode=700");
        nix::mount::mount(
            Some("tmpfs"),
            at,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            options,
        )
        .expect("mounted");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_harms_nothing() {
    let folder = TempDir::new().expect("a folder");
    let disk = SmallDisk::new(&folder.path().join("disk"));
    let blobs = DirectoryBlobs::open(&disk.0).expect("opened");
    let (kept, small) = (name("bucket", "kept"), content(1, 1 << 20));
    put(&blobs, &kept, &small).await;
    for _ in 0..3 {
        for name in [&kept, &name("bucket", "new")] {
            let written = blobs.put(name, pieces(&content(2, 8 << 20), 100_000)).await;
            assert!(
                matches!(written, Err(BlobError::Unavailable(_))),
                "{written:?}"
            );
        }
    }
    assert_eq!(read(&blobs, &kept).await.expect("unharmed"), small);
    assert_eq!(blobs.list("bucket", "").await.expect("listed").len(), 1);
    put(&blobs, &name("bucket", "fits"), &content(3, 1 << 20)).await;
}

#[tokio::test]
async fn a_folder_that_went_is_unavailable() {
    let (folder, blobs) = fresh();
    blobs.check().await.expect("it can work");
    fs::remove_dir_all(folder.path().join("blobs")).expect("removed");
    assert!(matches!(
        blobs.check().await,
        Err(BlobError::Unavailable(_))
    ));
    let written = blobs
        .put(&name("bucket", "object"), pieces(&content(1, 1), 1))
        .await;
    assert!(
        matches!(written, Err(BlobError::Unavailable(_))),
        "{written:?}"
    );
}

#[tokio::test]
async fn a_file_where_the_folder_should_be_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("file");
    fs::File::create(&path)
        .and_then(|mut file| file.write_all(b"x"))
        .expect("written");
    assert!(matches!(
        DirectoryBlobs::open(&path),
        Err(BlobError::Unavailable(_))
    ));
}

#[tokio::test]
async fn two_openers_share_a_folder() {
    let (folder, one) = fresh();
    let two = DirectoryBlobs::open(&folder.path().join("blobs")).expect("opened twice");
    let object: BlobName = name("bucket", "object");
    let contents = [content(1, 200_000), content(2, 200_000)];
    put(&one, &object, &contents[0]).await;
    stream::iter(0..200)
        .map(|number| {
            let (writer, reader) = if number % 2 == 0 {
                (&one, &two)
            } else {
                (&two, &one)
            };
            let (object, content) = (&object, &contents[number % 2]);
            async move {
                put(writer, object, content).await;
                read(reader, object).await
            }
        })
        .buffer_unordered(8)
        .try_for_each(|_| async { Ok(()) })
        .await
        .expect("always whole");
}
