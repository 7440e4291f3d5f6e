//! What an environment looks like from the machine.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use shared::ids::EnvironmentUid;
use shared::ports::{Runtime, Sight};
use shared::resources::{ByteSize, Cpu, Resources};
use tests::conformance::runtime::Given;
use tests::conformance::runtime::given::until;

use crate::bench::{Bench, is_rootless};

const LIMITS: Resources = Resources {
    cpu: Cpu { millis: 750 },
    memory: ByteSize(200 << 20),
    storage: ByteSize(1 << 30),
    pids: 77,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_leaves_nothing_on_the_machine() {
    let bench = Bench::new();
    let given = bench.given();
    let lodging = given.environment().await;
    let mut session = lodging.session().await;
    session
        .run("mkdir deep && cd deep && i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done")
        .await
        .text();
    session
        .run("mkfifo fifo; ln -s / root; mkdir closed; touch closed/x; chmod 0 closed")
        .await
        .text();
    session
        .begin("setsid sleep 1000 & trap '' TERM; sleep 1000")
        .await;
    assert_eq!(bench.cgroups(lodging.uid()).is_empty(), is_rootless());
    lodging.delete().await;
    assert!(bench.cgroups(lodging.uid()).is_empty());
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn root_inside_is_nobody_outside() {
    let bench = Bench::new();
    let given = bench.given();
    let mut firsts = BTreeSet::new();
    for lodging in [given.environment().await, given.environment().await] {
        let mut session = lodging.session().await;
        let pid = bench.pid(lodging.uid());
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("its map");
        let map: Vec<u32> = map
            .split_whitespace()
            .map(|part| part.parse().expect("a number"))
            .collect();
        let &[0, first, 65536] = map.as_slice() else {
            panic!("{map:?}");
        };
        // Not those of the machine's users, nor the one that this process has.
        assert!(first >= if is_rootless() { 1 } else { 1 << 20 });
        firsts.insert(first);
        let owner = fs::metadata(format!("/proc/{pid}")).expect("it runs").uid();
        // A process that is not dumpable belongs to root of its own namespace, or to nobody here.
        assert!([first, 0].contains(&owner), "{owner}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        // gVisor's own process works on files as whoever an environment's process is to that kernel.
        let rights = if bench.has_own_kernel() {
            "8001f"
        } else {
            "000e0"
        };
        for line in [
            format!("Uid:\t{first}\t{first}\t{first}\t{first}"),
            "CapInh:\t0000000000000000".to_owned(),
            format!("CapPrm:\t00000000000{rights}"),
            format!("CapBnd:\t00000000000{rights}"),
            "CapAmb:\t0000000000000000".to_owned(),
            "NoNewPrivs:\t1".to_owned(),
            "Seccomp:\t2".to_owned(),
        ] {
            assert!(
                status.lines().any(|found| found == line),
                "{line:?} in {status}"
            );
        }
        session.run("touch file").await.text();
        let volume = bench.home(lodging.uid()).join("volume");
        for path in [volume.join("file"), volume] {
            let found = fs::metadata(path).expect("it is there");
            assert_eq!((found.uid(), found.gid()), (first + 1000, first + 1000));
        }
        assert_eq!(
            fs::metadata(bench.folder()).expect("there").mode() & 0o777,
            0o700
        );
    }
    assert!(
        firsts.len() == 2 || is_rootless(),
        "two environments share a range"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_namespace_is_its_own() {
    let bench = Bench::new();
    let given = bench.given();
    let lodgings = [given.environment().await, given.environment().await];
    let mut kinds = vec!["ipc", "mnt", "net", "pid", "user", "uts"];
    // In one with a kernel of its own nobody sees cgroups of the machine.
    kinds.extend((!bench.has_own_kernel()).then_some("cgroup"));
    for kind in kinds {
        let namespace = |process: &str| {
            fs::read_link(format!("/proc/{process}/ns/{kind}")).expect("a namespace")
        };
        let mut seen = BTreeSet::from([namespace("self")]);
        for lodging in &lodgings {
            let first = bench.pid(lodging.uid()).to_string();
            assert!(seen.insert(namespace(&first)), "{kind} is shared");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_those_of_the_spec_and_jobs_have_cgroups_of_their_own() {
    let bench = Bench::new();
    let given = bench.given();
    if is_rootless() {
        return limits_are_rlimits(&bench, &given).await;
    }
    let lodging = given.life_with(LIMITS);
    let started = lodging.try_create().await.expect("created");
    if bench.has_own_kernel() {
        assert_eq!(started.limits_not_enforced, ["pids", "storage"]);
        return limits_are_of_the_whole(&bench, lodging.uid());
    }
    assert_eq!(started.limits_not_enforced, ["storage"]);
    let cgroups = bench.cgroups(lodging.uid());
    let found = |part: &str, names: &[&str]| -> String {
        let mut files = cgroups
            .iter()
            .flat_map(|folder| names.iter().map(move |name| folder.join(part).join(name)));
        let file = files.find(|file| file.exists()).expect("a limit");
        fs::read_to_string(file)
            .expect("readable")
            .trim()
            .to_owned()
    };
    let memory = |part| found(part, &["memory.limit_in_bytes", "memory.max"]);
    let pids = |part| found(part, &["pids.max"]);
    let cpu = |part| {
        let quota = found(part, &["cpu.cfs_quota_us", "cpu.max"]);
        quota.split(' ').next().expect("a number").to_owned()
    };
    assert_eq!(memory("commands"), (200 << 20).to_string());
    assert_eq!(pids("commands"), "77");
    assert_eq!(cpu("commands"), "75000");
    // The whole is bounded too, and leaves PID 1 something that no command can take.
    assert_eq!(memory("."), (264 << 20).to_string());
    assert_eq!(pids("."), "2125");
    assert_eq!(cpu("."), "100000");
    let mut session = lodging.session().await;
    let job = session.begin("cat; sleep 1000").await;
    let limiting: Vec<_> = cgroups
        .iter()
        .filter(|folder| folder.join("commands").exists())
        .collect();
    let first = bench.pid(lodging.uid()).to_string();
    for cgroup in &limiting {
        let members = |part: &str| {
            fs::read_to_string(cgroup.join(part).join("cgroup.procs")).expect("readable")
        };
        assert_eq!(members("."), "", "{}", cgroup.display());
        assert!(members("init").lines().any(|pid| pid == first));
        assert!(!members("commands").lines().any(|pid| pid == first));
    }
    let unified = cgroups
        .iter()
        .find(|folder| folder.join("cgroup.kill").exists());
    let unified = unified
        .expect("a cgroup of the unified hierarchy")
        .join("commands");
    let children = || {
        fs::read_dir(&unified)
            .expect("there")
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .count()
    };
    until(async || children() == 1).await;
    // Its limits are not PID 1's to change, only the children of its commands are its own.
    let owner = fs::metadata(&unified).expect("there").uid();
    assert!(owner >= 1 << 20);
    for part in limiting
        .iter()
        .flat_map(|cgroup| [".", "init", "commands"].map(|part| cgroup.join(part)))
    {
        for limit in [
            "memory.limit_in_bytes",
            "memory.max",
            "pids.max",
            "cgroup.max.depth",
            "cpu.cfs_quota_us",
            "cpu.max",
        ] {
            if let Ok(found) = fs::metadata(part.join(limit)) {
                assert_eq!(found.uid(), 0, "{} {limit}", part.display());
            }
        }
    }
    drop(job);
}

/// With a kernel of its own: the machine's knows nothing of its commands.
fn limits_are_of_the_whole(bench: &Bench, uid: &EnvironmentUid) {
    let cgroups = bench.cgroups(uid);
    for (names, most) in [
        (["memory.limit_in_bytes", "memory.max"], "276824064"),
        (["cpu.cfs_quota_us", "cpu.max"], "100000"),
    ] {
        let files = cgroups
            .iter()
            .flat_map(|folder| names.iter().map(move |name| folder.join(name)));
        let set: Vec<String> = files.flat_map(fs::read_to_string).collect();
        let [set] = set.as_slice() else {
            panic!("{names:?} in {cgroups:?}");
        };
        assert_eq!(set.split_whitespace().next(), Some(most));
    }
}

/// Without cgroups.
async fn limits_are_rlimits(bench: &Bench, given: &Given) {
    let lodging = given.life_with(LIMITS);
    let started = lodging.runtime.create(&lodging.placement).await;
    let not_enforced = started.expect("created").limits_not_enforced;
    if bench.has_own_kernel() {
        assert_eq!(not_enforced, ["cpu", "memory", "pids", "storage"]);
        return;
    }
    assert_eq!(not_enforced, ["cpu", "memory", "storage"]);
    lodging.session().await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", bench.pid(lodging.uid())));
    let limits = limits.expect("it runs");
    let processes = limits
        .lines()
        .find(|line| line.starts_with("Max processes"));
    let processes: Vec<&str> = processes.expect("a limit").split_whitespace().collect();
    assert_eq!(processes, ["Max", "processes", "77", "77", "processes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_network_but_its_own_loopback() {
    let bench = Bench::new();
    let given = bench.given();
    let lodging = given.environment().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let script = format!(
        "python3 -c '
import socket
server = socket.create_server((\"127.0.0.1\", 0))
socket.create_connection(server.getsockname()).close()
print(\"loopback\")
for address in [(\"127.0.0.1\", {port}), (\"192.0.2.1\", 80), (\"169.254.169.254\", 80)]:
    try:
        socket.create_connection(address, 2)
        print(\"reached\", address)
    except OSError as error:
        print(error.errno)
' && tail -n +3 /proc/net/dev | cut -d: -f1 && tail -n +2 /proc/net/route"
    );
    assert_eq!(
        lodging.run(&script).await.text(),
        "loopback\n111\n101\n101\n    lo"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_host_is_this_machine_without_its_people() {
    let bench = Bench::new();
    let given = bench.given();
    let lodging = given.environment().await;
    let found = lodging
        .run("id -un; hostname; getent hosts environment | tr -s ' '; getent passwd root >/dev/null && echo root; \
              test -s /etc/ld.so.cache && echo cache; python3 -c 'import ssl; print(40 + 2)'; awk 'BEGIN {print 7}'")
        .await;
    assert_eq!(
        found.text(),
        "user\nenvironment\n127.0.0.1 localhost environment\nroot\ncache\n42\n7"
    );
    let data = bench.folder();
    let hidden = lodging
        .run(&format!(
            "ls -d {} /var/lib/dpkg /etc/ssh /boot /.dockerenv 2>/dev/null; ls -A /etc/ssl; true",
            data.display()
        ))
        .await;
    assert!(
        ["certs", "certs\nopenssl.cnf"].contains(&hidden.text()),
        "{hidden:?}"
    );
    let people = fs::read_to_string("/etc/passwd").expect("the accounts");
    let inside = lodging.run("cat /etc/passwd").await;
    for line in people.lines() {
        let uid: u32 = line
            .split(':')
            .nth(2)
            .expect("a uid")
            .parse()
            .expect("a number");
        if (1000..65534).contains(&uid) {
            assert!(!inside.text().contains(line), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pid_1_holds_nothing_that_is_not_its_own() {
    let bench = Bench::new();
    let given = bench.given();
    let lodging = given.environment().await;
    lodging.session().await;
    let pid = bench.pid(lodging.uid());
    let folder = bench.folder();
    let mut held = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors") {
        let target = fs::read_link(entry.expect("an entry").path()).unwrap_or_default();
        held.push(target.to_string_lossy().into_owned());
    }
    let home = bench.home(lodging.uid());
    for target in held
        .iter()
        .filter(|target| target.starts_with(&*folder.to_string_lossy()))
    {
        assert!(Path::new(target).starts_with(&home), "{target} in {held:?}");
    }
    assert!(
        !held.iter().any(|target| target.contains(".locks")),
        "{held:?}"
    );
    let session = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
        let rest = stat.rsplit_once(')').expect("a name").1.to_owned();
        rest.split_whitespace()
            .nth(3)
            .expect("a session")
            .to_owned()
    };
    let own = session(std::process::id());
    assert_ne!(session(u32::try_from(pid).expect("a pid")), own);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pid_1_that_ended_by_itself_is_seen_and_replaced() {
    let bench = Bench::new();
    let given = bench.given();
    let lodging = given.environment().await;
    let incarnation = lodging.session().await.incarnation;
    let pid = nix::unistd::Pid::from_raw(bench.pid(lodging.uid()));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
    let sight = async || lodging.runtime.inspect(lodging.uid()).await.expect("seen");
    until(async || sight().await != Sight::Alive).await;
    let Sight::Stopped {
        reason: Some(reason),
    } = sight().await
    else {
        panic!("no reason");
    };
    assert_eq!(reason.code, "exited");
    let held = lodging.runtime.list().await.expect("a list");
    assert!(!held[0].alive);
    lodging.start().await;
    assert_ne!(lodging.session().await.incarnation, incarnation);
    let runtime = bench.open();
    assert_eq!(
        runtime.inspect(lodging.uid()).await.expect("seen"),
        Sight::Alive
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_may_lie_deep() {
    let bench = Bench::below("x".repeat(100) + "/" + &"y".repeat(100));
    let given = bench.given();
    let lodging = given.environment().await;
    lodging.run("echo kept > file").await.text();
    lodging.stop().await;
    lodging.start().await;
    assert_eq!(lodging.run("cat file").await.text(), "kept");
    lodging.delete().await;
    bench.assert_nothing_left();
}
