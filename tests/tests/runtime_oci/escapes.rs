//! What code in an environment tries first, and how it is refused.

use crate::bench::Bench;

/// Tries each way out and prints `name errno`, or `name in` where it was let through.
const ATTEMPTS: &str = r#"
import ctypes, errno, os, platform, resource, socket, stat, sys
libc = ctypes.CDLL(None, use_errno=True)

def call(name, x86, arm, *arguments):
    # In a process of its own: one that gets in somewhere is there for all that it tries after that.
    sys.stdout.flush()
    child = os.fork()
    if child: return os.waitpid(child, 0)
    ctypes.set_errno(0)
    number, me = x86 if platform.machine() == "x86_64" else arm, os.getpid()
    answer = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if os.getpid() == me:
        print("call", name, "in" if answer >= 0 else errno.errorcode[ctypes.get_errno()], flush=True)
    os._exit(0)

NEWUSER, NEWNS = 0x10000000, 0x20000
call("unshare", 272, 97, NEWUSER)
call("unshare-ns", 272, 97, NEWNS)
call("clone-user", 56, 220, NEWUSER | 17, 0, 0, 0, 0)
call("clone3", 435, 435, 0, 0)
call("setns", 308, 268, 0, 0)
call("mount", 165, 40, b"x", b"/tmp", b"tmpfs", 0, 0)
call("umount", 166, 39, b"/app", 2)
call("pivot_root", 155, 41, b"/tmp", b"/tmp")
call("chroot", 161, 51, b"/tmp")
call("fsopen", 430, 430, b"tmpfs", 0)
call("open_tree", 428, 428, -100, b"/app", 1)
call("move_mount", 429, 429, 0, b"", 0, b"", 0)
call("bpf", 321, 280, 0, 0, 0)
call("keyctl", 250, 219, 0, -3, 0, 0, 0)
call("add_key", 248, 217, b"user", b"x", b"y", 1, -3)
call("request_key", 249, 218, b"user", b"x", 0, -3)
call("io_uring_setup", 425, 425, 8, 0)
call("perf_event_open", 298, 241, 0, 0, -1, -1, 0)
call("userfaultfd", 323, 282, 1)
call("open_by_handle_at", 304, 265, -100, 0, 0)
call("kexec_load", 246, 104, 0, 0, 0, 0)
call("init_module", 175, 105, 0, 0, b"")
call("finit_module", 313, 273, 0, b"", 0)
call("swapon", 167, 224, b"/tmp/x", 0)
call("reboot", 169, 142, 0, 0, 0, 0)
call("settimeofday", 170, 170, 0, 0)
call("syslog", 103, 116, 2, 0, 0)
call("quotactl", 179, 60, 0, b"/", 0, 0)
call("no-such-call", 9999, 9999)

def attempt(name, what):
    try:
        what()
        print("try", name, "in")
    except OSError as error:
        print("try", name, errno.errorcode[error.errno])

def as_root_of_its_own(what):
    # In a user namespace, where there may be one.
    here, there = os.pipe()
    if not os.fork():
        code = errno.EPERM
        try:
            uid = os.getuid()
            if libc.unshare(NEWUSER) == 0:
                with open("/proc/self/uid_map", "w") as file: file.write(f"0 {uid} 1")
                what()
                code = 0
        except OSError as error:
            code = error.errno
        os.write(there, bytes([code]))
        os._exit(0)
    code = os.read(here, 1)[0]
    os.wait()
    if code: raise OSError(code, "refused")

def write(path):
    with open(path, "wb", buffering=0) as file:
        file.write(b"1")

attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt("raw6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58))
attempt("sctp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132))
attempt("vsock", lambda: socket.socket(40, socket.SOCK_STREAM, 0))
attempt("alg", lambda: socket.socket(38, 5, 0))
attempt("netfilter", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12))
attempt("tipc", lambda: socket.socketpair(30, socket.SOCK_STREAM, 0))
attempt("mem", lambda: open("/proc/1/mem", "r+b"))
attempt("environ", lambda: open("/proc/1/environ", "rb"))
attempt("fd", lambda: os.listdir("/proc/1/fd"))
attempt("root", lambda: os.listdir("/proc/1/root"))
attempt("kill", lambda: os.kill(1, 9))
attempt("limits", lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0)))
attempt("setuid", lambda: os.setuid(0))
attempt("setgroups", lambda: os.setgroups([0]))
attempt("chown", lambda: (write("/app/own"), os.chown("/app/own", 0, 0)))
attempt("device", lambda: os.mknod("/app/kmem", 0o666 | stat.S_IFCHR, os.makedev(1, 2)))
attempt("disk", lambda: os.mknod("/app/disk", 0o666 | stat.S_IFBLK, os.makedev(254, 0)))
attempt("hostname", lambda: socket.sethostname("x"))
attempt("sysctl", lambda: write("/proc/sys/kernel/hostname"))
attempt("core_pattern", lambda: write("/proc/sys/kernel/core_pattern"))
attempt("sysrq", lambda: write("/proc/sysrq-trigger"))
attempt("usr", lambda: write("/usr/bin/x"))
attempt("etc", lambda: write("/etc/passwd"))
attempt("runner", lambda: write("/.em/runner"))
attempt("records", lambda: os.listdir("/.em/state"))
attempt("records-as-root", lambda: as_root_of_its_own(lambda: os.listdir("/.em/state")))
attempt("runner-as-root", lambda: as_root_of_its_own(lambda: open("/proc/1/mem", "r+b")))
attempt("cgroup", lambda: os.listdir("/sys/fs/cgroup"))
attempt("kmsg", lambda: open("/dev/kmsg", "rb"))
attempt("sys", lambda: write("/sys/kernel/mm/transparent_hugepage/enabled"))
attempt("sys-cgroup", lambda: write("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
attempt("oom_score", lambda: write("/proc/1/oom_score_adj"))
attempt("exe", lambda: open("/proc/1/exe", "r+b"))
attempt("cwd", lambda: os.listdir("/proc/1/cwd"))
attempt("task", lambda: open("/proc/1/task/1/mem", "r+b"))
attempt("map_files", lambda: os.listdir("/proc/1/map_files"))
attempt("tun", lambda: open("/dev/net/tun", "r+b", buffering=0))
attempt("kvm", lambda: open("/dev/kvm", "r+b", buffering=0))
attempt("fuse", lambda: open("/dev/fuse", "r+b", buffering=0))
attempt("memory-device", lambda: open("/dev/mem", "rb"))
attempt("capability", lambda: os.setxattr("/app/own", "security.capability", b"\x01\x00\x00\x02" + b"\xff" * 16))
attempt("trusted", lambda: os.setxattr("/app/own", "trusted.x", b"1"))
attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19))
attempt("affinity", lambda: os.sched_setaffinity(1, {0}))

def ask(name, answer):
    print("try", name, "in" if answer >= 0 else errno.errorcode[ctypes.get_errno()])

PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
def above(pid):
    fields = dict(line.split(":\t", 1) for line in open(f"/proc/{pid}/status") if ":\t" in line)
    return int(fields["PPid"]), int(fields["Uid"].split()[0])

# The first one above that is of another user.
runner, supervisor = 1, os.getpid()
while above(supervisor)[1] == os.getuid(): supervisor = above(supervisor)[0]
for name, pid in (("runner", runner), ("supervisor", supervisor)):
    for way, request in (("ptrace", PTRACE_ATTACH), ("seize", PTRACE_SEIZE)):
        ctypes.set_errno(0)
        ask(f"{way}-{name}", libc.ptrace(request, pid, 0, 0))
    # Its socket, and with it everything that a worker may ask for.
    ctypes.set_errno(0)
    descriptor = libc.syscall(ctypes.c_long(434), pid, 0)
    ask(f"getfd-{name}", libc.syscall(ctypes.c_long(438), descriptor, 3, 0))
    memory = ctypes.create_string_buffer(8)
    class Piece(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    here, there = Piece(ctypes.addressof(memory), 8), Piece(0x400000, 8)
    for way in ("process_vm_readv", "process_vm_writev"):
        ctypes.set_errno(0)
        ask(f"{way}-{name}", getattr(libc, way)(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))
attempt("kill-supervisor", lambda: os.kill(supervisor, 9))
attempt("mem-supervisor", lambda: open(f"/proc/{supervisor}/mem", "r+b"))
print("read kcore", len(open("/proc/kcore", "rb").read(64)) if os.access("/proc/kcore", os.R_OK) else 0)
print("read keys", len(open("/proc/keys", "rb").read(64)) if os.access("/proc/keys", os.R_OK) else 0)
"#;

/// What a kernel of an environment's own lets everybody do with itself.
const OF_ITS_OWN: [&str; 6] = ["unshare", "clone-user", "keyctl", "cgroup", "tun", "fuse"];

#[tokio::test(flavor = "multi_thread")]
async fn every_way_out_is_refused() {
    let bench = Bench::new();
    let given = bench.given();
    let lodging = given.environment().await;
    let script = format!("cat > try.py <<'END'\n{ATTEMPTS}\nEND\npython3 try.py");
    let outcome = lodging.run(&script).await;
    let tried: Vec<&str> = outcome.text().lines().collect();
    assert_eq!(tried.len(), 89, "{tried:#?}");
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/security.md");
    let page = std::fs::read_to_string(page);
    for line in tried {
        let (attempt, answer) = line.rsplit_once(' ').expect("an answer");
        let refused = match attempt.split_once(' ') {
            // Its own kernel is what answers then, and what it gives is a part of itself.
            Some((_, name)) if bench.has_own_kernel() => {
                answer != "in" || OF_ITS_OWN.contains(&name)
            }
            // The filter itself refuses: EFAULT or EINVAL would be the kernel's own answer to wrong arguments.
            Some(("call", _)) => ["EPERM", "ENOSYS"].contains(&answer),
            Some(("try", _)) => [
                "EPERM",
                "EACCES",
                "EROFS",
                "ENOENT",
                "ENOSYS",
                "EAFNOSUPPORT",
                "ENXIO",
            ]
            .contains(&answer),
            _ => answer == "0",
        };
        assert!(refused, "{line}");
        // A copy of this test that runs elsewhere has no page beside it.
        let name = attempt.split_once(' ').map_or(attempt, |(_, name)| name);
        if let Ok(page) = &page {
            assert!(
                page.contains(&format!("`{name}`")),
                "{name} is not in docs/security.md"
            );
        }
    }
    assert_eq!(
        lodging
            .run("su -c true root < /dev/null 2>/dev/null || echo refused")
            .await
            .text(),
        "refused"
    );
}

/// Looks for the sockets of runners, its own and its neighbours': by path, by abstract name, by open descriptor.
const SOCKETS: &str = r#"
import os, socket
with open("/proc/net/unix") as table:
    listed = [line.split()[7] for line in list(table)[1:] if len(line.split()) > 7]
found = []
for name in listed + ["runner.sock", "/.em/runner.sock", "/.em/state/runner.sock", "/app/runner.sock"]:
    try:
        socket.socket(socket.AF_UNIX).connect(name); found.append(name)
    except OSError: pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError: continue
    found += [link for link in held if link.startswith("socket:")]
print(listed)
print(found)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn no_runner_can_be_spoken_to_from_inside() {
    let bench = Bench::new();
    let given = bench.given();
    let (one, other) = (given.environment().await, given.environment().await);
    one.session().await;
    let folder = bench.socket_folder(&bench.home(one.uid()));
    let path = folder.join("runner.sock");
    assert!(path.exists(), "there is something to find");
    for lodging in [&one, &other] {
        let script = format!(
            "cat > find.py <<'END'\n{SOCKETS}\nEND\npython3 find.py; ls {}",
            path.display()
        );
        let outcome = lodging.run(&script).await;
        let (listed, found) = outcome.stdout.split_once('\n').expect("two lines");
        assert_eq!(found.trim(), "[]", "{outcome:?}");
        // A kernel of its own lists that of its own PID 1, which only PID 1 can reach.
        let own = ["[]", "['/proc/self/fd/3/runner.sock']"];
        assert_eq!(listed, own[usize::from(bench.has_own_kernel())]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ordinary_programs_do_is_allowed() {
    let bench = Bench::new();
    let given = bench.given();
    let lodging = given.environment().await;
    let script = r#"python3 -c '
import asyncio, mmap, multiprocessing, os, pty, signal, socket, subprocess, tempfile, threading
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
print(subprocess.check_output(["echo", "process"], text=True).strip())
with multiprocessing.get_context("spawn").Pool(1) as pool: print(pool.apply(len, ["four"]))
left, right = socket.socketpair(); left.send(b"pair"); print(right.recv(9).decode())
master, slave = pty.openpty(); print(os.ttyname(slave).startswith("/dev/pts/"))
print(mmap.mmap(-1, 4096).size() if False else "mapped")
async def waits(): await asyncio.sleep(0); return "async"
print(asyncio.run(waits()))
print(os.memfd_create("x") > 0, signal.Signals.SIGTERM.name, os.sched_yield())
print([name for _, name in socket.if_nameindex()])
'"#;
    let outcome = lodging.run(script).await;
    assert_eq!(
        outcome.text(),
        "thread\nprocess\n4\npair\nTrue\nmapped\nasync\nTrue SIGTERM None\n['lo']"
    );
}
