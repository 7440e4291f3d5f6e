//! The system calls that an environment may make: an allow list, so that what the kernel gains later is not open by
//! itself.
//!
//! What is not on the list does not exist (`ENOSYS`), which programs know how to live with; what programs expect to be
//! refused is refused (`EPERM`). The list is that of ordinary programs: files, memory, processes, signals, time,
//! sockets, and debugging of one's own processes. Left out is what changes the machine or the set of namespaces (mount,
//! namespaces, modules, clocks, swap, reboot, quotas, accounting, keys) and what has been a way into the kernel again
//! and again without being needed here (bpf, io_uring, perf, userfaultfd, raw sockets and rare address families, open
//! by handle).

use serde_json::{Value, json};

/// Allowed whatever the arguments.
const ALLOWED: &str = "
    accept accept4 access alarm arch_prctl bind brk
    cachestat capget capset chdir chmod chown clock_getres clock_gettime clock_nanosleep close close_range connect
    copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit
    exit_group
    faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl
    fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue
    futex_wait futex_waitv futex_wake futimesat
    get_mempolicy get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups
    getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage
    getsid getsockname getsockopt gettid gettimeofday getuid getxattr
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
    io_setup io_submit ioctl ioprio_get ioprio_set
    kcmp kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen
    listxattr llistxattr lremovexattr lseek lsetxattr lstat
    madvise map_shadow_stack mbind membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2
    mlockall mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl
    msgget msgrcv msgsnd msync munlock munlockall munmap
    name_to_handle_at nanosleep newfstatat
    open openat openat2
    pause pidfd_getfd pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl
    pread64 preadv preadv2 prlimit64 process_madvise process_mrelease process_vm_readv process_vm_writev pselect6 ptrace
    pwrite64 pwritev pwritev2
    read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr rename renameat
    renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
    semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_mempolicy set_mempolicy_home_node
    set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority
    setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown
    sigaltstack signalfd signalfd4 splice stat statfs statx symlink symlinkat sync sync_file_range syncfs
    sysinfo
    tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime times tkill truncate
    umask uname unlink unlinkat utime utimensat utimes
    vfork vmsplice
    wait4 waitid write writev
";

/// Refused with `EPERM`, as programs expect them to be.
const REFUSED: &str = "
    acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module fanotify_init finit_module fsconfig fsmount
    fsopen fspick init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kexec_file_load kexec_load
    keyctl lookup_dcookie mount mount_setattr move_mount move_pages migrate_pages nfsservctl open_by_handle_at open_tree
    perf_event_open pivot_root quotactl quotactl_fd reboot request_key setdomainname sethostname setns
    settimeofday stime swapoff swapon syslog umount umount2 unshare userfaultfd ustat uselib vhangup
";

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// Every flag of `clone` that makes a namespace. (That of a time namespace only works with `clone3` and `unshare`.)
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// The bits of a socket's type that are no flags.
const SOCKET_TYPE: u64 = 0xf;

const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;
const SOCK_STREAM: u64 = 1;
const SOCK_DGRAM: u64 = 2;
const SOCK_RAW: u64 = 3;

/// The protocols of a stream or datagram socket: by default, TCP or UDP, and those that programs try first.
const STREAM_PROTOCOLS: [u64; 3] = [0, 6, 262];
const DATAGRAM_PROTOCOLS: [u64; 4] = [0, 17, 1, 58];

/// The execution domains that programs ask for: the usual one, with and without 32-bit addresses or a fixed layout, and
/// the question which it is.
const PERSONALITIES: [u64; 6] = [0x0, 0x8, 0x4_0000, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The profile as the OCI runtime reads it, for the architecture of this program.
pub(super) fn profile() -> Value {
    let mut rules = vec![
        json!({"names": words(ALLOWED), "action": "SCMP_ACT_ALLOW"}),
        // A C library that is told there is no clone3 takes clone, whose flags can be looked at.
        refuse(&["clone3"], ENOSYS, &[]),
        allow("clone", &[masked(0, NAMESPACE_FLAGS, 0)]),
        refuse(&words(REFUSED), EPERM, &[]),
        allow("socketpair", &[equal(0, AF_UNIX)]),
    ];
    rules.extend(PERSONALITIES.map(|domain| allow("personality", &[equal(0, domain)])));
    rules.extend(sockets());
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "architectures": [architecture()],
        "syscalls": rules,
    })
}

/// The sockets that there are: local ones, TCP and UDP, and the one that lists network interfaces.
fn sockets() -> Vec<Value> {
    let mut rules = vec![
        allow("socket", &[equal(0, AF_UNIX)]),
        allow("socket", &[equal(0, AF_NETLINK), equal(2, 0)]),
        refuse(&["socket"], EAFNOSUPPORT, &[greater(0, AF_NETLINK)]),
    ];
    for family in [AF_INET, AF_INET6] {
        let kinds = [
            (SOCK_STREAM, STREAM_PROTOCOLS.as_slice()),
            (SOCK_DGRAM, DATAGRAM_PROTOCOLS.as_slice()),
        ];
        for (kind, protocols) in kinds {
            for protocol in protocols {
                let conditions = [
                    equal(0, family),
                    masked(1, SOCKET_TYPE, kind),
                    equal(2, *protocol),
                ];
                rules.push(allow("socket", &conditions));
            }
        }
        let raw = [equal(0, family), masked(1, SOCKET_TYPE, SOCK_RAW)];
        rules.push(refuse(&["socket"], EPERM, &raw));
    }
    rules
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "SCMP_ARCH_AARCH64"
    } else {
        "SCMP_ARCH_X86_64"
    }
}

fn allow(name: &str, conditions: &[Value]) -> Value {
    json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": conditions})
}

fn refuse(names: &[&str], errno: u32, conditions: &[Value]) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": conditions})
}

fn equal(index: u32, value: u64) -> Value {
    json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"})
}

fn greater(index: u32, value: u64) -> Value {
    json!({"index": index, "value": value, "op": "SCMP_CMP_GT"})
}

fn masked(index: u32, mask: u64, value: u64) -> Value {
    json!({"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_refused() {
        let allowed: BTreeSet<&str> = words(ALLOWED).into_iter().collect();
        let refused: BTreeSet<&str> = words(REFUSED).into_iter().collect();
        assert_eq!(allowed.len(), words(ALLOWED).len(), "a name stands twice");
        assert!(allowed.is_disjoint(&refused));
        for guarded in [
            "clone",
            "clone3",
            "socket",
            "socketpair",
            "personality",
            "unshare",
            "setns",
            "mount",
        ] {
            assert!(
                !allowed.contains(guarded),
                "{guarded} needs its arguments looked at"
            );
        }
    }

    #[test]
    fn every_namespace_flag_is_looked_at() {
        let flags = [
            0x0002_0000,
            0x0200_0000,
            0x0400_0000,
            0x0800_0000,
            0x1000_0000,
            0x2000_0000,
            0x4000_0000,
        ];
        assert_eq!(
            flags.iter().fold(0, |all, flag| all | flag),
            NAMESPACE_FLAGS
        );
    }
}
