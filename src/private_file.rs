//! Private files: only the account that runs the server may read them.
//!
//! The database holds password hashes and messages, the secret file signs tokens. Their modes are
//! set here one by one, so that they do not depend on the umask of the caller, the server or the
//! command line.
//!
//! # Promises
//!
//! * A directory made here has mode 0700, a file 0600.
//! * One that exists with a wider mode is narrowed, and a warning names it. If that is not allowed
//!   the warning says so, and the start goes on.
//!
//! # Not here
//!
//! Which files there are: `auth` and `store` know theirs. The root directory, and directories that
//! every account shares (`/tmp`: the sticky bit), keep their modes.
//!
//! Imports nothing of the crate. Imported by `auth`, `store`, `server` and the binary.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Read, write and search for the owner alone.
const DIR_MODE: u32 = 0o700;

/// Read and write for the owner alone.
const FILE_MODE: u32 = 0o600;

/// The rights of the group and all others.
const FOREIGN_BITS: u32 = 0o077;

/// The bit of directories that every account shares.
const STICKY_BIT: u32 = 0o1000;

/// Makes `dir` and its missing parents, for the owner alone. One that exists is narrowed.
///
/// # Errors
///
/// If it cannot be made, or is not a directory.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    // An empty path is the working directory.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let is_new = !dir.exists();
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
    if is_new {
        // The umask may have taken bits that the owner needs.
        return fs::set_permissions(dir, Permissions::from_mode(DIR_MODE));
    }
    let mode = fs::metadata(dir)?.permissions().mode();
    let is_root = fs::canonicalize(dir).is_ok_and(|path| path.parent().is_none());
    if mode & STICKY_BIT == 0 && !is_root {
        narrow(dir, mode);
    }
    Ok(())
}

/// Opens a file for writing and keeps its content. A missing one is made, for the owner alone; one
/// that exists is narrowed.
///
/// # Errors
///
/// The file system's.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    let new = options.write(true).create_new(true).mode(FILE_MODE).open(path);
    match new {
        Ok(file) => {
            // The umask may have taken bits that the owner needs.
            file.set_permissions(Permissions::from_mode(FILE_MODE))?;
            Ok(file)
        }
        Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => {
            narrow_file(path);
            File::options().write(true).open(path)
        }
        Err(fault) => Err(fault),
    }
}

/// Makes a file that must not exist yet, for the owner alone.
///
/// # Errors
///
/// `AlreadyExists`, and the file system's.
pub fn create_new(path: &Path) -> io::Result<File> {
    let file = File::options().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// Narrows a file, if it is there.
pub fn narrow_file(path: &Path) {
    if let Ok(metadata) = fs::metadata(path)
        && metadata.is_file()
    {
        narrow(path, metadata.permissions().mode());
    }
}

/// The same path with a longer file name: `fanfare.db` and `-wal`.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn narrow(path: &Path, mode: u32) {
    if mode & FOREIGN_BITS == 0 {
        return;
    }
    let (shown, before) = (path.display(), mode & 0o7777);
    let after = before & !FOREIGN_BITS;
    match fs::set_permissions(path, Permissions::from_mode(after)) {
        Ok(()) => tracing::warn!(
            "{shown} could be reached by other accounts (mode {before:o}): it is {after:o} now"
        ),
        Err(fault) => tracing::warn!(
            %fault,
            "{shown} can be reached by other accounts (mode {before:o}), and that cannot be changed"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct TempDir(PathBuf);

    impl TempDir {
        fn new() -> TempDir {
            let dir = std::env::temp_dir().join(format!("fanfare-mode-{}", uuid::Uuid::new_v4()));
            fs::create_dir(&dir).unwrap();
            TempDir(dir)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn new_and_old_are_for_the_owner_alone() {
        let dir = TempDir::new();
        let nested = dir.0.join("a/b");
        create_dir(&nested).unwrap();
        assert_eq!((mode(&nested), mode(&dir.0.join("a"))), (0o700, 0o700));
        let file = nested.join("file");
        open(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
        assert!(create_new(&file).is_err());

        fs::write(&file, "kept").unwrap();
        for wide in [0o777, 0o644, 0o666, 0o640] {
            set(&file, wide);
            set(&nested, wide | 0o700);
            create_dir(&nested).unwrap();
            open(&file).unwrap();
            assert_eq!((mode(&file), mode(&nested)), (wide & 0o700, 0o700), "{wide:o}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }

    #[test]
    fn what_every_account_shares_keeps_its_mode() {
        let dir = TempDir::new();
        set(&dir.0, 0o1777);
        create_dir(&dir.0).unwrap();
        assert_eq!(mode(&dir.0), 0o1777);
        create_dir(Path::new("/")).unwrap();
        assert_ne!(mode(Path::new("/")) & FOREIGN_BITS, 0);
        // The bit for the group of new files gives no rights.
        set(&dir.0, 0o2770);
        create_dir(&dir.0).unwrap();
        assert_eq!(mode(&dir.0), 0o2700);
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_a_fault() {
        let dir = TempDir::new();
        let file = dir.0.join("file");
        fs::write(&file, "").unwrap();
        assert!(create_dir(&file).is_err());
        assert!(create_dir(&file.join("below")).is_err());
    }
}
