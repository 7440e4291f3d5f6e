//! Finding and ending a job's processes through `/proc`.
//!
//! A tree that forks while it is killed outruns a single pass. So a round stops first: it scans and stops until a scan
//! finds nobody new, and a stopped process forks no more; then it kills all of them. Rounds repeat until a scan finds
//! nobody alive, which is the confirmation.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// How long rounds go on before they give up: a process in an uninterruptible sleep cannot be killed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Scans for one signal, at most: what answers a signal with new processes is not chased for ever.
const MAX_SIGNAL_SCANS: usize = 16;

/// A process number.
pub(crate) type Pid = i32;

/// What a scan saw of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: Pid,
    parent: Pid,
    session: Pid,
    alive: bool,
}

/// Sends a signal to every process below `root`, once to each.
///
/// Scans again until nobody new is found: who forked before its signal came has a child that a single scan would miss.
pub(crate) fn signal_below(root: Pid, signal: i32) {
    let mut told = HashSet::new();
    for _ in 0..MAX_SIGNAL_SCANS {
        let mut news = living_below(root, &scan());
        news.retain(|pid| told.insert(*pid));
        if news.is_empty() {
            return;
        }
        for pid in news {
            send(pid, signal);
        }
    }
}

/// The parent of a process: 0 for one that came into the namespace from outside.
pub(crate) fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat).map(|process| process.parent)
}

/// Kills everything below `root`; whether nothing is left.
pub(crate) fn kill_rounds(root: Pid, patience: Duration) -> bool {
    kill_selected(|processes| living_below(root, processes), patience)
}

/// Kills a tree that lost its supervisor: `main`, its session, and what is below them. Whoever had detached before has
/// become an orphan like any other and is not found; only a cgroup would hold it.
pub(crate) fn kill_orphaned(main: Pid, patience: Duration) -> bool {
    let own = Pid::try_from(std::process::id()).unwrap_or(1);
    kill_selected(
        |processes| {
            let is_root = |process: &&Process| {
                process.session == main || (process.pid == main && process.parent == own)
            };
            let roots: Vec<Pid> = processes
                .iter()
                .filter(is_root)
                .map(|process| process.pid)
                .collect();
            let living = processes
                .iter()
                .filter(|process| process.alive && roots.contains(&process.pid));
            let mut found: HashSet<Pid> = living.map(|process| process.pid).collect();
            found.extend(roots.iter().flat_map(|root| living_below(*root, processes)));
            found.into_iter().collect()
        },
        patience,
    )
}

fn kill_selected(select: impl Fn(&[Process]) -> Vec<Pid>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_micros(200);
    loop {
        let living = stop_all(&select, deadline);
        if living.is_empty() {
            return true;
        }
        for pid in living {
            send(pid, libc::SIGKILL);
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Stops what `select` finds until it finds nobody new; answers whom it found last.
fn stop_all(select: &impl Fn(&[Process]) -> Vec<Pid>, deadline: Instant) -> Vec<Pid> {
    let mut stopped = HashSet::new();
    loop {
        let living = select(&scan());
        let mut news = false;
        for pid in &living {
            if stopped.insert(*pid) {
                news = true;
                send(*pid, libc::SIGSTOP);
            }
        }
        if !news || Instant::now() > deadline {
            return living;
        }
    }
}

fn send(pid: Pid, signal: i32) {
    // A process that ended since the scan is no error.
    let _ = crate::sys::send_signal(pid, signal);
}

/// The living processes below `root`, without itself.
fn living_below(root: Pid, processes: &[Process]) -> Vec<Pid> {
    let mut children: HashMap<Pid, Vec<&Process>> = HashMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process);
    }
    let (mut living, mut to_visit) = (Vec::new(), vec![root]);
    while let Some(parent) = to_visit.pop() {
        // Removing makes a visit happen once, whatever a scan of a moving target claims.
        for child in children.remove(&parent).unwrap_or_default() {
            to_visit.push(child.pid);
            if child.alive {
                living.push(child.pid);
            }
        }
    }
    living
}

fn scan() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<Pid>().ok());
    pids.filter_map(|pid| process(pid, &std::fs::read(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// What the `stat` file of a process says. One of gVisor's that is just going says 0 of itself, by which a signal would
/// reach this process' own group.
fn process(pid: Pid, stat: &[u8]) -> Option<Process> {
    parse_stat(stat).filter(|process| process.pid == pid && pid > 0)
}

/// Reads a `stat` file. The name in it may hold anything, so fields are counted from its last parenthesis.
fn parse_stat(stat: &[u8]) -> Option<Process> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let pid = stat.split(|byte| *byte == b' ').next()?;
    let rest = std::str::from_utf8(stat.get(name_end + 2..)?).ok()?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // A dead leader whose threads live on is shown as a zombie with more than one thread.
    let dead = matches!(*fields.first()?, "Z" | "X") && fields.get(17)?.parse::<u32>().ok()? <= 1;
    Some(Process {
        pid: std::str::from_utf8(pid).ok()?.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        alive: !dead,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pid: Pid, parent: Pid) -> Process {
        Process {
            pid,
            parent,
            session: 0,
            alive: true,
        }
    }

    #[test]
    fn a_name_cannot_forge_fields() {
        let stat = b"12 (a) Z 1 1 1) S 7 12 9 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5 0 0";
        assert_eq!(
            parse_stat(stat),
            Some(Process {
                pid: 12,
                parent: 7,
                session: 9,
                alive: true
            })
        );
    }

    #[test]
    fn who_is_going_and_has_no_number_any_more_is_nobody() {
        let stat = b"0 (x) X 1 12 9 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5 0 0";
        assert_eq!(process(12, stat), None);
        assert_eq!(process(0, stat), None);
    }

    #[test]
    fn a_zombie_is_dead_unless_it_has_threads() {
        let stat = |threads| {
            format!("12 (x) Z 7 12 9 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 {threads} 0 5 0 0")
        };
        assert!(!parse_stat(stat(1).as_bytes()).unwrap().alive);
        assert!(parse_stat(stat(2).as_bytes()).unwrap().alive);
    }

    #[test]
    fn what_is_below_is_found_at_any_depth_and_cycles_end() {
        let mut processes = vec![
            with(2, 1),
            with(3, 2),
            with(4, 3),
            with(5, 1),
            with(8, 9),
            with(9, 8),
        ];
        processes[1].alive = false;
        let mut below = living_below(2, &processes);
        below.sort_unstable();
        assert_eq!(below, [4]);
        assert_eq!(living_below(8, &processes).len(), 2);
    }

    #[test]
    fn this_process_is_seen() {
        let own = Pid::try_from(std::process::id()).unwrap();
        assert!(
            scan()
                .iter()
                .any(|process| process.pid == own && process.alive)
        );
    }
}
