//! Processes: the costs of the server and of this program, read from `/proc`.
//!
//! Without `/proc` the figures are absent, and everything else works.
//!
//! Imports nothing of the crate. Imported by `main` and the scenarios.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A process on this machine that can be watched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: u32,
}

/// The CPU time a process had used at some moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct CpuSample {
    total_ns: u64,
    threads_ns: BTreeMap<u32, u64>,
}

/// The CPU time between two samples.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CpuUse {
    /// User and system time of all threads.
    pub(crate) total_ns: u64,
    /// The time of the thread that used most.
    pub(crate) busiest_ns: u64,
}

impl Process {
    /// The process that listens on `address`, if that is on this machine and may be inspected.
    pub(crate) fn listening_on(address: SocketAddr) -> Option<Self> {
        if !is_local(address.ip()) {
            return None;
        }
        let inodes = listener_inodes(address.port());
        if inodes.is_empty() {
            return None;
        }
        let pids = fs::read_dir("/proc").ok()?.flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .find(|pid| holds_socket(*pid, &inodes))
            .map(|pid| Process { pid })
    }

    /// The CPU time used so far. Counted by the kernel in steps of 10 ms as a rule.
    pub(crate) fn sample(self) -> Option<CpuSample> {
        let total_ns = cpu_ns(&format!("/proc/{}/stat", self.pid))?;
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?.flatten();
        let threads_ns = tasks
            .filter_map(|task| {
                let tid = task.file_name().to_str()?.parse().ok()?;
                Some((tid, cpu_ns(&format!("/proc/{}/task/{tid}/stat", self.pid))?))
            })
            .collect();
        Some(CpuSample { total_ns, threads_ns })
    }

    /// Resident memory in bytes.
    pub(crate) fn rss_bytes(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(kib * 1024)
    }
}

impl CpuSample {
    /// The CPU time since `earlier`.
    pub(crate) fn since(&self, earlier: &CpuSample) -> CpuUse {
        let threads = self.threads_ns.iter().map(|(tid, ns)| {
            ns.saturating_sub(earlier.threads_ns.get(tid).copied().unwrap_or_default())
        });
        CpuUse {
            total_ns: self.total_ns.saturating_sub(earlier.total_ns),
            busiest_ns: threads.max().unwrap_or_default(),
        }
    }
}

/// User plus system time out of a `stat` file.
fn cpu_ns(path: &str) -> Option<u64> {
    let stat = fs::read_to_string(path).ok()?;
    // The name in parentheses may itself hold spaces and parentheses.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some((user + system) * 1_000_000_000 / rustix::param::clock_ticks_per_second())
}

fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || TcpListener::bind((ip, 0)).is_ok()
}

/// The inodes of the sockets that listen on a port.
fn listener_inodes(port: u16) -> HashSet<String> {
    let suffix = format!(":{port:04X}");
    let mut inodes = HashSet::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(path).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Fields: number, local address, remote address, state (0A = listening), .., inode.
            if let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..]
                && local.ends_with(&suffix)
            {
                inodes.insert(format!("socket:[{inode}]"));
            }
        }
    }
    inodes
}

fn holds_socket(pid: u32, inodes: &HashSet<String>) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|link| link.to_str().is_some_and(|name| inodes.contains(name)))
}

/// Raises the limit of open files as far as we may. Returns the limit then.
pub(crate) fn raise_open_files_max() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // If it cannot be raised, the present limit counts.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_ours_is_found_by_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = Process::listening_on(listener.local_addr().unwrap()).unwrap();
        assert_eq!(found.pid, std::process::id());
    }

    #[test]
    fn our_own_cost_can_be_read() {
        let before = Process { pid: std::process::id() }.sample().unwrap();
        let after = Process { pid: std::process::id() }.sample().unwrap();
        assert!(after.since(&before).total_ns < 10_000_000_000);
        assert!(Process { pid: std::process::id() }.rss_bytes().unwrap() > 100_000);
    }
}
