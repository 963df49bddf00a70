//! The files of the data directory are for the owner alone, whatever the umask and the program that
//! made them.

use fanfare_test_support as support;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fanfare_test_support::{Server, token};
use serde_json::json;

/// Everything that is not withheld is granted.
const NO_UMASK: &str = r#"umask 000; exec "$@""#;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// The names in a directory; the directory and all of them have to be private.
fn private_names(dir: &Path) -> Vec<String> {
    assert_eq!(mode(dir), 0o700, "{}", dir.display());
    let entries = fs::read_dir(dir).expect("it can be read");
    let mut names: Vec<String> = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().expect("a name").to_string_lossy().into_owned());
    }
    names.sort();
    names
}

/// A directory that is removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        let dir = std::env::temp_dir().join(format!("fanfare-private-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&dir).expect("a directory");
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a command of the program without a umask. Returns what it wrote.
fn run(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("sh")
        .args(["-c", NO_UMASK, "sh", env!("CARGO_BIN_EXE_fanfare")])
        .args(args)
        .arg("--data-dir")
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{args:?}: {text}");
    text
}

#[test]
fn what_the_server_makes_is_for_its_owner() {
    let mut server = Server::start_by(Some(NO_UMASK), &[]);
    server.register(&[json!({"serviceId": "s", "instanceId": "i"})]);
    let data = server.dir().join("data");
    let names = private_names(&data);
    for name in ["fanfare.db", "fanfare.db-shm", "fanfare.db-wal", "fanfare.db.lock", "jwt-secret"]
    {
        assert!(names.iter().any(|one| one == name), "{name} is not among {names:?}");
    }
    assert!(server.stop().success());
    private_names(&data);
    assert!(!server.log().contains("could be reached"), "{}", server.log());
}

#[test]
fn what_the_command_line_makes_is_for_its_owner() {
    let dir = Dir::new();
    let (accounts, tokens) = (dir.0.join("accounts"), dir.0.join("tokens"));
    run(&accounts, &["user", "add", "ann", "--password", "correct horse", "--init"]);
    assert_eq!(private_names(&accounts)[0], "fanfare.db");
    run(&tokens, &["token", "--user", "ann", "--init"]);
    assert_eq!(private_names(&tokens), ["jwt-secret"]);
}

#[test]
fn a_database_elsewhere_is_private_and_its_directory_is_left_alone() {
    let dir = Dir::new();
    fs::set_permissions(&dir.0, Permissions::from_mode(0o755)).expect("its mode is set");
    let url = format!("sqlite://{}", dir.0.join("other.db").display());
    let mut server = Server::start_by(
        Some(NO_UMASK),
        &["--database-url", &url, "--jwt-secret", support::SECRET],
    );
    let reply = server.call(
        "POST",
        "/api/v1/groups",
        &token("ann", ""),
        &json!({"name": "g", "members": []}),
    );
    assert_eq!(reply.status, 201, "{}", reply.body);
    let others = |suffix: &str| dir.0.join(format!("other.db{suffix}"));
    for suffix in ["", "-wal", "-shm", ".lock"] {
        assert_eq!(mode(&others(suffix)), 0o600, "other.db{suffix}");
    }
    assert_eq!(mode(&dir.0), 0o755, "the directory is somebody else's");
    assert!(server.stop().success());
}

#[test]
fn what_was_open_to_others_is_narrowed_at_the_start() {
    let mut server = Server::start_by(Some(NO_UMASK), &[]);
    assert!(server.stop().success());
    let data = server.dir().join("data");
    fs::set_permissions(&data, Permissions::from_mode(0o777)).expect("its mode is set");
    for name in ["fanfare.db", "jwt-secret"] {
        fs::set_permissions(data.join(name), Permissions::from_mode(0o644))
            .expect("its mode is set");
    }
    // What somebody else put there is theirs.
    let foreign = data.join("notes.txt");
    fs::write(&foreign, "").expect("written");
    fs::set_permissions(&foreign, Permissions::from_mode(0o644)).expect("its mode is set");
    server.restart();
    assert_eq!(mode(&foreign), 0o644);
    fs::remove_file(&foreign).expect("removed");
    private_names(&data);
    let log = server.log();
    assert!(log.contains("jwt-secret could be reached by other accounts (mode 644)"), "{log}");
    assert!(log.contains("fanfare.db could be reached by other accounts (mode 644)"), "{log}");
    assert!(server.stop().success());
}
