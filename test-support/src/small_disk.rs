//! A file system of a few MiB that a test fills and empties.
//!
//! It is in memory, and mounted in a name space of its own that ends with its process: nothing of
//! it stays behind, however the test ends. If that is not allowed there is none.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Its mount point in its name space. The directory is there everywhere, and is covered there.
const MOUNT: &str = "/mnt";

pub struct SmallDisk {
    holder: Child,
}

impl SmallDisk {
    /// A file system of so many KiB, if this is allowed.
    pub fn new(kib: usize) -> Option<SmallDisk> {
        let disk = SmallDisk::mounted(kib);
        if disk.is_none() {
            crate::skipped("no file system can be mounted here");
        }
        disk
    }

    fn mounted(kib: usize) -> Option<SmallDisk> {
        let script =
            format!("mount -t tmpfs -o size={kib}k,mode=755 tmpfs {MOUNT} && echo up && read -r _");
        let mut holder = Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let mut said = BufReader::new(holder.stdout.take()?);
        if said.read_line(&mut line).is_err() || line != "up\n" {
            let _ = holder.wait();
            return None;
        }
        Some(SmallDisk { holder })
    }

    /// The shell's commands that run a server of `Server::start_by` on the disk.
    pub fn prelude(&self) -> String {
        format!(r#"exec nsenter -m -t {} "$@""#, self.holder.id())
    }

    /// The URL of a database there, for such a server.
    pub fn database_url() -> String {
        format!("sqlite://{MOUNT}/small.db")
    }

    /// The path by which the test reaches a file of the disk.
    pub fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{MOUNT}/{name}", self.holder.id()))
    }

    /// Leaves no room at all.
    pub fn fill(&self) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.path("filler"))
            .expect("a name needs no room");
        for piece in [65_536, 4_096, 1] {
            let bytes = vec![0; piece];
            while file.write_all(&bytes).is_ok() {}
        }
    }

    /// Makes room again.
    pub fn free(&self) {
        fs::remove_file(self.path("filler")).expect("it is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
