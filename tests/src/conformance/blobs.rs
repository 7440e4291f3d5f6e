//! What every blob store does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use shared::ports::{BlobError, BlobInfo, BlobName, BlobStream, Blobs};

/// Runs the whole suite; `make` gives an empty blob store each time.
pub async fn suite<M: AsyncFn() -> Arc<dyn Blobs>>(make: M) {
    content_of_every_size_comes_back(&*make().await).await;
    a_second_write_replaces_the_first(&*make().await).await;
    a_source_that_fails_writes_nothing(&*make().await).await;
    a_write_that_is_dropped_writes_nothing(&*make().await).await;
    what_is_not_there_is_not_found(&*make().await).await;
    lists_are_by_bucket_and_prefix(&*make().await).await;
    names_of_every_shape_are_kept(&*make().await).await;
    a_name_inside_another_breaks_neither(&*make().await).await;
    racing_writes_never_mix(&make().await).await;
    neighbours_come_and_go(&make().await).await;
    make().await.check().await.expect("it can work");
}

/// A name that is allowed.
pub fn name(bucket: &str, object: &str) -> BlobName {
    BlobName::new(bucket, object).expect("a name")
}

/// Bytes that look random and are the same for the same seed.
pub fn content(seed: u64, size: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(step)
        .take(size / 8 + 1)
        .flatten()
        .collect();
    bytes.truncate(size);
    bytes.into()
}

/// Content in pieces.
pub fn pieces(content: &Bytes, size: usize) -> BlobStream {
    let pieces: Vec<_> = content
        .chunks(size)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    stream::iter(pieces).boxed()
}

/// SHA-256 in hexadecimal.
pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Writes an object.
pub async fn put(blobs: &dyn Blobs, name: &BlobName, content: &Bytes) -> BlobInfo {
    blobs
        .put(name, pieces(content, 10_000))
        .await
        .expect("written")
}

/// Reads an object to its end.
pub async fn read(blobs: &dyn Blobs, name: &BlobName) -> Result<Bytes, BlobError> {
    let (info, stream) = blobs.get(name).await?;
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    let content = pieces.concat();
    assert_eq!(content.len() as u64, info.size);
    assert_eq!(sha256(&content), info.sha256);
    Ok(content.into())
}

async fn names(blobs: &dyn Blobs, bucket: &str, prefix: &str) -> BTreeSet<String> {
    let entries = blobs.list(bucket, prefix).await.expect("listed");
    let names: BTreeSet<_> = entries
        .iter()
        .map(|entry| entry.name.object().to_owned())
        .collect();
    assert_eq!(names.len(), entries.len(), "a name is listed twice");
    names
}

async fn content_of_every_size_comes_back(blobs: &dyn Blobs) {
    let edge = 256 * 1024;
    for size in [0, 1, edge - 1, edge, edge + 1, 4 << 20, (5 << 20) + 7] {
        let (name, content) = (
            name("sizes", &format!("{size}")),
            content(size as u64, size),
        );
        let info = put(blobs, &name, &content).await;
        let expected = BlobInfo {
            size: size as u64,
            sha256: sha256(&content),
        };
        assert_eq!(info, expected);
        assert_eq!(blobs.stat(&name).await.expect("known"), expected);
        assert_eq!(read(blobs, &name).await.expect("read"), content);
    }
}

async fn a_second_write_replaces_the_first(blobs: &dyn Blobs) {
    let name = name("bucket", "a/b/c");
    let (first, second) = (content(1, 3 << 20), content(2, 1 << 20));
    put(blobs, &name, &first).await;
    let (_, open) = blobs.get(&name).await.expect("opened");
    put(blobs, &name, &second).await;
    assert_eq!(read(blobs, &name).await.expect("read"), second);
    // Whoever reads the first one meanwhile gets it whole or an error, but no mixture.
    if let Ok(pieces) = open.try_collect::<Vec<Bytes>>().await {
        assert_eq!(pieces.concat(), first);
    }
}

async fn a_source_that_fails_writes_nothing(blobs: &dyn Blobs) {
    let (old, new) = (name("bucket", "old"), name("bucket", "new"));
    let before = content(1, 1000);
    put(blobs, &old, &before).await;
    for name in [&old, &new] {
        for size in [1, 3 << 20] {
            let error = BlobError::Unavailable("the caller went away".to_owned());
            let failing = pieces(&content(2, size), 60_000).chain(stream::iter([Err(error)]));
            let written = blobs.put(name, failing.boxed()).await;
            assert!(matches!(written, Err(BlobError::Source(_))), "{written:?}");
        }
    }
    assert_eq!(read(blobs, &old).await.expect("still there"), before);
    assert_eq!(
        names(blobs, "bucket", "").await,
        BTreeSet::from(["old".to_owned()])
    );
}

async fn a_write_that_is_dropped_writes_nothing(blobs: &dyn Blobs) {
    let name = name("bucket", "dropped");
    let endless = pieces(&content(1, 3 << 20), 60_000).chain(stream::pending());
    let put = blobs.put(&name, endless.boxed());
    assert!(
        tokio::time::timeout(Duration::from_millis(200), put)
            .await
            .is_err()
    );
    assert!(matches!(
        blobs.get(&name).await,
        Err(BlobError::NotFound(_))
    ));
    assert!(names(blobs, "bucket", "").await.is_empty());
}

async fn what_is_not_there_is_not_found(blobs: &dyn Blobs) {
    let (there, inside) = (name("bucket", "folder/there"), name("bucket", "folder"));
    put(blobs, &there, &content(1, 10)).await;
    for missing in [
        &name("bucket", "missing"),
        &name("nowhere", "missing"),
        &inside,
    ] {
        assert!(matches!(
            blobs.get(missing).await,
            Err(BlobError::NotFound(_))
        ));
        assert!(matches!(
            blobs.stat(missing).await,
            Err(BlobError::NotFound(_))
        ));
        blobs.delete(missing).await.expect("nothing to delete");
    }
    assert!(
        blobs
            .list("nowhere", "")
            .await
            .expect("an empty list")
            .is_empty()
    );
    assert!(matches!(
        blobs.list("../bucket", "").await,
        Err(BlobError::BadName(_))
    ));
    blobs.delete(&there).await.expect("deleted");
    assert!(matches!(
        blobs.stat(&there).await,
        Err(BlobError::NotFound(_))
    ));
    blobs.delete(&there).await.expect("deleted again");
}

async fn lists_are_by_bucket_and_prefix(blobs: &dyn Blobs) {
    for (bucket, object) in [
        ("one", "a/1"),
        ("one", "a/2"),
        ("one", "ab/3"),
        ("one", "b"),
        ("two", "a/4"),
    ] {
        put(blobs, &name(bucket, object), &content(1, 1)).await;
    }
    for (prefix, expected) in [
        ("", vec!["a/1", "a/2", "ab/3", "b"]),
        ("a", vec!["a/1", "a/2", "ab/3"]),
        ("a/", vec!["a/1", "a/2"]),
        ("a/2", vec!["a/2"]),
        ("a/2/", vec![]),
        ("c", vec![]),
    ] {
        let expected = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(
            names(blobs, "one", prefix).await,
            expected,
            "prefix {prefix:?}"
        );
    }
    for entry in blobs.list("one", "").await.expect("listed") {
        assert!(entry.age_seconds < 3600, "{entry:?}");
    }
}

async fn names_of_every_shape_are_kept(blobs: &dyn Blobs) {
    let long_part = "p".repeat(255);
    let other_part = "q".repeat(255);
    let longest = [other_part.as_str(); 4].join("/");
    let shapes = [
        "plain",
        ".hidden",
        "...",
        "-",
        "a b",
        "100%",
        "what?#",
        "ä/ö\u{1f600}",
        "back\\slash",
        "quote'\"",
        "*",
        "~",
        "C:con",
        ".sums",
        ".tmp/x",
        &long_part,
        &longest,
    ];
    let mut uris = BTreeSet::new();
    for shape in shapes {
        let (name, content) = (
            name("b-1.x_y", shape),
            Bytes::copy_from_slice(shape.as_bytes()),
        );
        put(blobs, &name, &content).await;
        assert_eq!(read(blobs, &name).await.expect("read"), content, "{shape}");
        let uri = blobs.uri(&name);
        assert!(uri.bytes().all(|byte| byte.is_ascii_graphic()), "{uri}");
        uris.insert(uri);
    }
    assert_eq!(uris.len(), shapes.len());
    let expected: BTreeSet<_> = shapes.into_iter().map(str::to_owned).collect();
    assert_eq!(names(blobs, "b-1.x_y", "").await, expected);
    for shape in shapes {
        blobs
            .delete(&name("b-1.x_y", shape))
            .await
            .expect("deleted");
    }
    assert!(names(blobs, "b-1.x_y", "").await.is_empty());
}

async fn a_name_inside_another_breaks_neither(blobs: &dyn Blobs) {
    for (first, second) in [("x", "x/y"), ("v/w", "v"), ("r", "r/s/t")] {
        let (first, second) = (name("bucket", first), name("bucket", second));
        let (one, two) = (content(1, 100), content(2, 200));
        put(blobs, &first, &one).await;
        match blobs.put(&second, pieces(&two, 50)).await {
            Ok(_) => assert_eq!(read(blobs, &second).await.expect("read"), two),
            Err(BlobError::BadName(_)) => {
                assert!(matches!(
                    blobs.get(&second).await,
                    Err(BlobError::NotFound(_))
                ));
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(read(blobs, &first).await.expect("read"), one);
        blobs.delete(&first).await.expect("deleted");
        put(blobs, &second, &two).await;
        assert_eq!(read(blobs, &second).await.expect("read"), two);
    }
}

async fn racing_writes_never_mix(blobs: &Arc<dyn Blobs>) {
    let name = name("bucket", "raced");
    let versions: Vec<_> = (1..5)
        .map(|seed| content(seed, 300_000 + 1000 * usize::try_from(seed).unwrap()))
        .collect();
    put(&**blobs, &name, &versions[0]).await;
    let writers: Vec<_> = versions
        .iter()
        .cloned()
        .map(|version| {
            let (blobs, name) = (Arc::clone(blobs), name.clone());
            tokio::spawn(async move {
                for _ in 0..10 {
                    put(&*blobs, &name, &version).await;
                }
            })
        })
        .collect();
    while writers.iter().any(|writer| !writer.is_finished()) {
        let found = read(&**blobs, &name).await.expect("always one of them");
        assert!(versions.contains(&found));
    }
    for writer in writers {
        writer.await.expect("every write succeeds");
    }
    assert!(versions.contains(&read(&**blobs, &name).await.expect("read")));
}

async fn neighbours_come_and_go(blobs: &Arc<dyn Blobs>) {
    let tasks: Vec<_> = (0..4)
        .map(|number| {
            let blobs = Arc::clone(blobs);
            tokio::spawn(async move {
                let (name, content) = (
                    name("bucket", &format!("same/folder/{number}")),
                    content(number, 100),
                );
                for _ in 0..50 {
                    put(&*blobs, &name, &content).await;
                    assert_eq!(read(&*blobs, &name).await.expect("read"), content);
                    blobs.delete(&name).await.expect("deleted");
                    assert!(matches!(
                        blobs.stat(&name).await,
                        Err(BlobError::NotFound(_))
                    ));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("none disturbs another");
    }
    assert!(names(&**blobs, "bucket", "").await.is_empty());
}
