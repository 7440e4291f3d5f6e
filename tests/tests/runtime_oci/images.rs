//! Environments on images: what they find there, what they share, and what a hostile image does not get.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use shared::environment::Reason;
use shared::ports::{Heard, Runtime, RuntimeError};
use tests::conformance::runtime::given::{Bed, Given, Lodging};
use tests::images::{Layout, Tiny, debian};

use crate::bench::Bench;

/// A case whose environments stand on an image.
fn given(bench: &Bench, image: &str) -> Given {
    Given::new(Bed {
        image: image.to_owned(),
        ..bench.bed()
    })
}

fn nobody_hears() -> Heard {
    Heard::new(None)
}

async fn fetch(lodging: &Lodging) -> Result<(), RuntimeError> {
    let heard = nobody_hears();
    lodging.runtime.fetch(&lodging.placement, &heard).await
}

async fn lodging(given: &Given) -> Lodging {
    let lodging = given.life();
    fetch(&lodging).await.expect("fetched");
    lodging.create().await;
    lodging
}

/// Names in the folder of images that are neither this machine's own image nor an image.
fn leftovers(bench: &Bench) -> Vec<String> {
    let names = names(&bench.data().join("images"));
    let whole = |name: &String| {
        let own = name.starts_with("host-") || name == ".host-unfinished";
        own || name.starts_with("sha256-") || name == ".references"
    };
    names.into_iter().filter(|name| !whole(name)).collect()
}

fn images(bench: &Bench) -> Vec<String> {
    let mut names = names(&bench.data().join("images"));
    names.retain(|name| name.starts_with("sha256-"));
    names
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect()
}

fn with_a_user() -> Layout {
    Tiny::new()
        .layer(
            "entry('etc/passwd', content=b'root:x:0:0::/root:/bin/sh\\napp:x:77:78::/:/bin/sh\\n')\n\
             entry('data/all', tarfile.DIRTYPE, 0o1777)\n\
             entry('data/own', content=b'own', mode=0o600, uid=77, gid=78)\n\
             entry('data/roots', content=b'root', mode=0o600)\n\
             entry('data/busybox', mode=0o4755, content=open('/bin/busybox', 'rb').read())",
        )
        .set("config.user", "app")
        .set("config.env", "FROM_IMAGE=a b=c")
        .set("config.env", "HOME=/nowhere")
        .set("config.env", "PATH=/bin")
        .set("config.workingdir", "/data")
        .made()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_stands_on_its_image() {
    let image = with_a_user();
    let bench = Bench::with_images(image.folder());
    let given = given(&bench, &image.reference());
    let lodging = lodging(&given).await;
    let script = "id -u; id -g; whoami; pwd; env; hostname; cat /data/own; touch /app/x /tmp/x /data/all/x; \
                  stat -c '%u %n' / /bin /data/own /app /app/x; cat /data/roots || echo closed; \
                  touch /bin/x || echo read-only; grep -c /data /proc/self/mountinfo || true";
    let outcome = lodging.run(script).await;
    let text = outcome.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..4], ["77", "78", "app", "/app"], "{text}");
    for expected in [
        "FROM_IMAGE=a b=c",
        "HOME=/app",
        "PATH=/bin",
        "environment",
        "own0 /",
        "0 /bin",
        "77 /data/own",
        "77 /app",
        "77 /app/x",
        "closed",
        "read-only",
    ] {
        assert!(lines.contains(&expected), "{expected}: {text}");
    }
    given.clear().await;
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn environments_share_an_image_and_nothing_that_they_write() {
    let image = with_a_user();
    let bench = Bench::with_images(image.folder());
    let given = given(&bench, &image.reference());
    let (one, other) = (lodging(&given).await, lodging(&given).await);
    assert_eq!(images(&bench).len(), 1);
    assert_eq!(leftovers(&bench), [""; 0]);
    one.run("echo one > /data/all/x; echo one > /app/x; rm /data/own 2>/dev/null; echo more >> /data/own")
        .await;
    let seen = other.run("ls /data/all; cat /data/own").await;
    assert_eq!(seen.text(), "own");
    // The volume outlives a stop; what was written on the image does not.
    one.stop().await;
    one.start().await;
    let after = one.run("cat /app/x; ls /data/all; cat /data/own").await;
    assert_eq!(after.text(), "one\nown");
    given.clear().await;
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_users_gets_one() {
    let image = Tiny::new().made();
    let bench = Bench::with_images(image.folder());
    let given = given(&bench, &image.archive());
    let lodging = lodging(&given).await;
    let outcome = lodging
        .run("whoami; id -u; echo $PATH $HOME; touch /app/x")
        .await;
    assert_eq!(
        outcome.text(),
        "user\n1000\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /app"
    );
    given.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_image_reaches_nothing() {
    let kept = tempfile::tempdir().expect("a folder");
    let target = kept.path().display();
    let image = Tiny::new()
        .layer(
            "entry('gone', content=b'x')\n\
             entry('etc/passwd', content=b'root:x:0:0::/root:/bin/sh\\n')",
        )
        .layer(&format!(
            "entry('../../../../../../{target}/up', content=b'x')\n\
             entry('/{target}/absolute', content=b'x')\n\
             entry('link', tarfile.SYMTYPE, link='{target}')\n\
             entry('link/through', content=b'x')\n\
             entry('app', tarfile.SYMTYPE, link='{target}')\n\
             entry('etc/hosts', tarfile.SYMTYPE, link='{target}/hosts')\n\
             entry('tmp', tarfile.SYMTYPE, link='{target}')\n\
             entry('proc', tarfile.DIRTYPE, 0o755)\n\
             entry('dev/kmem', tarfile.CHRTYPE, 0o666, device=(1, 2))\n\
             entry('data/disk', tarfile.BLKTYPE, 0o666, device=(254, 0))\n\
             entry('data/busybox', mode=0o4755, content=open('/bin/busybox', 'rb').read())\n\
             entry('.wh.gone')\n\
             entry('etc/shadow', tarfile.LNKTYPE, link='etc/passwd')"
        ))
        .made();
    let bench = Bench::with_images(image.folder());
    let given = given(&bench, &image.reference());
    let lodging = lodging(&given).await;
    let outcome = lodging
        .run(
            "head -c 1 /data/disk | stat -c %F /data/disk; ls /dev; ls /gone 2>/dev/null || echo gone; \
             /data/busybox id -u; touch /app/own; cat /etc/shadow",
        )
        .await;
    let text = outcome.text();
    assert!(
        !text.contains("kmem") && !text.contains("block special"),
        "{text}"
    );
    assert!(text.contains("gone\n1000\n"), "{text}");
    assert_eq!(names(kept.path()), [""; 0], "it wrote outside");
    given.clear().await;
    bench.assert_nothing_left();
}

/// Why an image cannot be had.
async fn refusal(bench: &Bench, image: &str) -> String {
    let given = given(bench, image);
    match fetch(&given.life()).await {
        Err(RuntimeError::ImageNotFound { image: named, why }) => {
            assert_eq!(named, image);
            why
        }
        other => panic!("{image}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_says_why_and_leaves_nothing() {
    let image = Tiny::new().made();
    let bench = Bench::with_images(image.folder());
    let layout = image.path();
    for (reference, why) in [
        ("--help".to_owned(), "not well-formed"),
        ("dir:/etc".to_owned(), "cannot be had by dir"),
        ("127.0.0.1:1/x".to_owned(), "images.registries"),
        ("oci:/etc:x".to_owned(), "images.folders"),
        ("docker-archive:/etc/passwd".to_owned(), "images.folders"),
        (format!("oci:{}:other", layout.display()), "other"),
        (
            format!("docker-archive:{}", layout.join("index.json").display()),
            "manifest.json",
        ),
    ] {
        let said = refusal(&bench, &reference).await;
        assert!(said.contains(why), "{reference}: {said}");
        assert!(!said.contains("pulling-"), "{said}");
    }
    assert_eq!(leftovers(&bench), [""; 0]);
    let locks = names(&bench.folder().join(".locks"));
    assert!(
        !locks.iter().any(|name| name.starts_with("image-")),
        "{locks:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_too_large_is_given_up() {
    // Small as it is sent, large as it is unpacked.
    let image = Tiny::new()
        .layer("for n in range(64): entry(f'data/{n}', content=b'x' * (8 << 20))")
        .made();
    let mut bench = Bench::with_images(image.folder());
    bench.images.max_bytes = shared::resources::ByteSize(64 << 20);
    let said = refusal(&bench, &image.reference()).await;
    assert!(said.contains("images.max_bytes"), "{said}");
    assert_eq!(leftovers(&bench), [""; 0]);
    assert_eq!(images(&bench), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_is_another_image() {
    let image = Tiny::new().made();
    let bench = Bench::with_images(image.folder());
    let given = given(&bench, &image.reference());
    let first = lodging(&given).await;
    let image = Tiny::from(image).set("config.env", "NEW=yes").made();
    let second = given.life();
    fetch(&second).await.expect("fetched");
    second.create().await;
    assert_eq!(first.run("echo $NEW").await.text(), "");
    assert_eq!(second.run("echo $NEW").await.text(), "yes");
    assert_eq!(images(&bench).len(), 2);
    drop(image);
    given.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_nobody_waits_for_ends_and_leaves_nothing() {
    let image = Tiny::new()
        .layer("entry('data/large', content=__import__('os').urandom(64 << 20))")
        .made();
    let bench = Bench::with_images(image.folder());
    let given = given(&bench, &image.reference());
    let heard = nobody_hears();
    let mut hearing = heard.subscribe();
    let life = given.life();
    let began = |reason: &Option<Reason>| reason.as_ref().is_some_and(|r| r.code == "pulling");
    tokio::select! {
        fetched = life.runtime.fetch(&life.placement, &heard) => panic!("too fast: {fetched:?}"),
        told = hearing.wait_for(began) => assert!(told.is_ok()),
    }
    tests::program::wait_until("the fetch has ended", async || leftovers(&bench).is_empty()).await;
    // The next one begins anew.
    fetch(&life).await.expect("fetched");
    assert_eq!(images(&bench).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_in_use_stay_and_others_expire() {
    let image = Tiny::new().made();
    let mut bench = Bench::with_images(image.folder());
    bench.images.unused_days = 0;
    let runtime: Arc<dyn Runtime> = Arc::new(bench.open());
    let given = Given::new(Bed {
        runtime: Arc::clone(&runtime),
        ..given(&bench, &image.reference()).bed
    });
    let lodging = lodging(&given).await;
    runtime.tidy().await.expect("tidied");
    assert_eq!(images(&bench).len(), 1);
    lodging.stop().await;
    runtime.tidy().await.expect("tidied");
    lodging.start().await;
    assert_eq!(lodging.run("echo on").await.text(), "on");
    given.clear().await;
    runtime.tidy().await.expect("tidied");
    assert_eq!(images(&bench), [""; 0]);
    assert_eq!(names(&bench.data().join("images/.references")), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debian_with_python_installs_packages() {
    let place = debian();
    let bench = Bench::with_images(&place);
    let archive = format!("docker-archive:{}", place.join("debian.tar").display());
    let layout = format!("oci:{}:debian", place.join("layout").display());
    for image in [archive, layout] {
        let given = given(&bench, &image);
        let lodging = lodging(&given).await;
        let script = r#"cat > build.py <<'END'
import zipfile
with zipfile.ZipFile("hello_em-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("hello_em.py", "def main():\n    print('hello from a package')\n")
    wheel.writestr("hello_em-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: hello-em\nVersion: 1.0\n")
    wheel.writestr("hello_em-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("hello_em-1.0.dist-info/entry_points.txt", "[console_scripts]\nhello-em = hello_em:main\n")
    wheel.writestr("hello_em-1.0.dist-info/RECORD", "")
END
python3 build.py && pip install --quiet --no-index ./hello_em-1.0-py3-none-any.whl && hello-em
. /etc/os-release; echo $ID $(whoami) $(stat -c %U /usr/bin/python3)"#;
        let outcome = lodging.run(script).await;
        assert_eq!(outcome.text(), "hello from a package\ndebian user root");
        given.clear().await;
    }
    bench.assert_nothing_left();
}
