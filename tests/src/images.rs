//! Images for tests, made on the spot: a tiny one of a static busybox, and a real Debian with Python from the cache.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// The name of every image in its layout.
pub const TAG: &str = "test";

/// The tools of a tiny image.
const TOOLS: [&str; 18] = [
    "cat", "chmod", "env", "grep", "head", "hostname", "id", "ls", "mkdir", "mount", "nc", "rm",
    "sh", "sleep", "stat", "touch", "whoami", "wget",
];

/// An OCI layout in a folder of its own.
pub struct Layout {
    folder: TempDir,
}

/// An image that is being put together.
pub struct Tiny {
    layout: Layout,
}

impl Default for Tiny {
    fn default() -> Self {
        Self::new()
    }
}

impl Tiny {
    /// An image with a busybox, its tools, and nothing else.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let layout = Layout { folder };
        let path = layout.path();
        run(Command::new("umoci").args(["init", "--layout"]).arg(&path));
        run(umoci(&layout, "new"));
        let tiny = Self { layout };
        let root = tempfile::tempdir().expect("a folder");
        let bin = root.path().join("bin");
        fs::create_dir(&bin).expect("made");
        for folder in ["etc", "data"] {
            fs::create_dir(root.path().join(folder)).expect("made");
        }
        fs::copy("/bin/busybox", bin.join("busybox")).expect("a static busybox");
        for tool in TOOLS {
            std::os::unix::fs::symlink("busybox", bin.join(tool)).expect("linked");
        }
        let tar = tiny.layout.folder.path().join("root.tar");
        run(Command::new("tar")
            .args(["--owner=0", "--group=0", "--mode=a+rX", "-cf"])
            .arg(&tar)
            .arg("-C")
            .arg(root.path())
            .arg("."));
        tiny.add(&tar);
        fs::remove_file(tar).expect("removed");
        tiny
    }

    /// Adds a layer that a Python program writes into `layer`, an open tar file.
    pub fn layer(self, python: &str) -> Self {
        let tar = self.layout.folder.path().join("layer.tar");
        let program = format!(
            "import io, sys, tarfile\n\
             layer = tarfile.open(sys.argv[1], 'w')\n\
             def entry(name, kind=tarfile.REGTYPE, mode=0o644, content=b'', link='', device=(0, 0), uid=0, gid=0):\n\
             \x20   info = tarfile.TarInfo(name)\n\
             \x20   info.type, info.mode, info.size, info.linkname = kind, mode, len(content), link\n\
             \x20   info.devmajor, info.devminor = device\n\
             \x20   info.uid, info.gid = uid, gid\n\
             \x20   layer.addfile(info, io.BytesIO(content))\n\
             {python}\n\
             layer.close()\n"
        );
        run(Command::new("python3").args(["-c", &program]).arg(&tar));
        self.add(&tar);
        fs::remove_file(tar).expect("removed");
        self
    }

    /// Sets what the image says of itself: `("config.env", "A=b")`, `("config.user", "app")`.
    pub fn set(self, key: &str, value: &str) -> Self {
        run(umoci(&self.layout, "config")
            .arg(format!("--{key}"))
            .arg(value));
        self
    }

    /// The finished image.
    pub fn made(self) -> Layout {
        self.layout
    }

    fn add(&self, tar: &Path) {
        let path = self.layout.path();
        run(Command::new("umoci")
            .args(["raw", "add-layer", "--image"])
            .arg(format!("{}:{TAG}", path.display()))
            .arg(tar));
    }
}

impl From<Layout> for Tiny {
    /// To be changed further.
    fn from(layout: Layout) -> Self {
        Self { layout }
    }
}

impl Layout {
    /// The folder of the layout.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("layout")
    }

    /// A folder of its own, which holds the layout.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How a caller names the image.
    pub fn reference(&self) -> String {
        format!("oci:{}:{TAG}", self.path().display())
    }

    /// The same image as an archive, and how a caller names that.
    pub fn archive(&self) -> String {
        let file = self.folder.path().join("image.tar");
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg(self.reference())
            .arg(format!("docker-archive:{}:tiny:1", file.display())));
        format!("docker-archive:{}", file.display())
    }
}

/// The folder of a Debian with Python: `layout` with the image `debian`, and `debian.tar`. Made once for all tests.
pub fn debian() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/lib/debian-image");
    said_by(&mut Command::new(script))
}

/// The path that a script prints.
fn said_by(script: &mut Command) -> PathBuf {
    let output = script.output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).expect("a path");
    PathBuf::from(said.trim())
}

/// A registry on the loopback, ended with this.
pub struct Registry {
    child: Child,
    address: String,
    _folder: TempDir,
}

impl Registry {
    /// Starts one, without TLS, on a port that is free.
    pub fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/lib/registry");
        let program = said_by(&mut Command::new(script));
        let folder = tempfile::tempdir().expect("a folder");
        // It cannot be asked which port it took: another may take this one first, and then it is tried again.
        loop {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address").to_string();
            drop(listener);
            let settings = folder.path().join("settings.yml");
            let text = format!(
                "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: \"{address}\"}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\n",
                folder.path().join("data").display()
            );
            fs::write(&settings, text).expect("written");
            let mut child = Command::new(&program)
                .arg("serve")
                .arg(&settings)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("it starts");
            while child.try_wait().expect("a child").is_none() {
                if TcpStream::connect(&address).is_ok() {
                    return Self {
                        child,
                        address,
                        _folder: folder,
                    };
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Puts an image into it; answers how a caller names it there.
    pub fn push(&self, image: &Layout, name: &str) -> String {
        let reference = format!("{}/{name}", self.address);
        run(Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
            ])
            .arg(image.reference())
            .arg(format!("docker://{reference}")));
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn umoci(layout: &Layout, verb: &str) -> Command {
    let mut command = Command::new("umoci");
    command
        .args([verb, "--image"])
        .arg(format!("{}:{TAG}", layout.path().display()));
    command
}

fn run(mut command: impl std::borrow::BorrowMut<Command>) {
    let command = command.borrow_mut();
    let output = command.output().expect("it runs");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
