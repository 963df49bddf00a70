//! Every example of every document runs, or names the reason why it does not.
//!
//! A fence's language decides how it is run; CONTRIBUTING.md has the table. Each document has a
//! server of its own. `cargo test --test snippets -- clients.md` runs the examples of one
//! document. An example whose tool is missing here is reported as skipped.

#![allow(
    clippy::disallowed_methods,
    reason = "what the documents' shells find is in the environment"
)]

#[path = "snippets/fence.rs"]
mod fence;
#[path = "snippets/transcript.rs"]
mod transcript;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::LazyLock;

use clap::error::ErrorKind;
use fanfare::config::Config;
use fanfare_test_support::Server;
use fence::Fence;
use serde_json::Value;
use transcript::Session;

/// How long one example may take, in seconds.
const EXAMPLE_SECONDS: &str = "90";

/// Where documents say that a server is. All of them are the server of the test.
const PLACES: &[&str] =
    &["localhost:8080", "127.0.0.1:8080", "fanfare:8080", "eureka:8761", "fanfare.example.org"];

/// Types of frames that the server sends, beside those that it takes.
const SERVER_TYPES: &[&str] = &[
    "welcome",
    "subscribed",
    "unsubscribed",
    "service_change",
    "service_rules",
    "service_snapshot",
    "registered",
    "heartbeat_ack",
    "unregistered",
    "pong",
    "published",
    "text",
    "json",
    "event",
    "joined",
    "left",
    "private",
    "group",
    "refreshed",
    "error",
    "reconnect",
];

/// Types of frames that the server takes.
const CLIENT_TYPES: &[&str] = &[
    "subscribe",
    "unsubscribe",
    "ping",
    "register",
    "heartbeat",
    "unregister",
    "publish",
    "system",
    "join",
    "leave",
    "chat",
    "refresh",
];

enum Outcome {
    Passed,
    /// Its document says why.
    NotRun,
    /// A tool is missing here.
    Skipped(String),
    Failed(String),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let filters: Vec<_> = arguments.iter().filter(|name| !name.starts_with('-')).collect();
    let documents = fence::documents();
    // A document is one thread: its examples follow each other, as they do for its reader.
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> =
            documents.iter().map(|file| scope.spawn(|| document(file, &filters))).collect();
        let joined = threads.into_iter().map(|thread| thread.join().expect("it catches panics"));
        joined.flatten().collect::<Vec<_>>()
    });
    let (mut passed, mut failed, mut not_run) = (0, 0, 0);
    for (name, outcome) in &results {
        match outcome {
            Outcome::Passed => passed += 1,
            Outcome::NotRun => not_run += 1,
            // `scripts/test.sh` counts these lines.
            Outcome::Skipped(why) => println!("SKIPPED: {name}: {why}"),
            Outcome::Failed(why) => {
                failed += 1;
                println!("test {name} ... FAILED\n{why}\n");
            }
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("{not_run} examples are not run, for the reasons that stand at them.");
    println!(
        "test result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs what is in a document.
fn document(file: &str, filters: &[&String]) -> Vec<(String, Outcome)> {
    let is_asked = |name: &str| {
        filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
    };
    let text = fs::read_to_string(file).expect("a document is UTF-8");
    let mut sandbox = Sandbox::default();
    let mut results = Vec::new();
    for example in fence::fences(file, &text) {
        let name = format!("{} ({})", example.place(), example.language);
        if is_asked(&name) {
            let outcome = catch_unwind(AssertUnwindSafe(|| run(&example, &mut sandbox)))
                .unwrap_or_else(|_| Outcome::Failed("it panicked; see above".into()));
            results.push((name, outcome));
        }
    }
    let name = format!("{file} (names)");
    if is_asked(&name) {
        let faults = names(file, &text);
        let outcome =
            if faults.is_empty() { Outcome::Passed } else { Outcome::Failed(faults.join("\n")) };
        results.push((name, outcome));
    }
    results
}

fn run(example: &Fence, sandbox: &mut Sandbox) -> Outcome {
    if let Some(reason) = &example.not_run {
        let is_reason = reason.split(' ').count() >= 2;
        return if is_reason { Outcome::NotRun } else { failed("`not run` gives no reason") };
    }
    if let Some(name) = missing_program(example) {
        return Outcome::Skipped(format!("{name} is not there"));
    }
    let outcome = match example.language.as_str() {
        "sh" => sandbox.shell(&format!("{}{}", example.before, example.text)).map(|_| ()),
        "console" => sandbox.session(example),
        "js" | "html" => return sandbox.javascript(example),
        "python" => sandbox.python(example),
        "toml" => sandbox.toml(example),
        "json" => frames(&example.text),
        "rust" => doctested(&example.file),
        "nginx" => return sandbox.nginx(&example.text),
        "yaml" => return sandbox.yaml(&example.text),
        "lua" => return sandbox.lua(&example.text),
        other => Err(format!(
            "nothing is known to do with the language {other:?}: name one of CONTRIBUTING.md, or \
             say above the fence why it is not run: <!-- not run: reason -->"
        )),
    };
    match outcome {
        Ok(()) => Outcome::Passed,
        Err(fault) => Outcome::Failed(fault),
    }
}

fn failed(why: &str) -> Outcome {
    Outcome::Failed(why.to_owned())
}

/// A server, a directory and a shell for the examples of one document, made when they are needed.
#[derive(Default)]
struct Sandbox {
    server: Option<Server>,
    session: Session,
    count: usize,
}

impl Sandbox {
    fn server(&mut self) -> &Server {
        self.server.get_or_insert_with(|| {
            let server = Server::start(&[]);
            let dir = server.dir().join("shell");
            fs::create_dir_all(&dir).expect("a directory for the shell");
            for name in ["scripts", "deploy", "tests", "web", "docs"] {
                let root = Path::new(env!("CARGO_MANIFEST_DIR"));
                let _ = std::os::unix::fs::symlink(root.join(name), dir.join(name));
            }
            server
        })
    }

    fn dir(&mut self) -> PathBuf {
        self.server().dir().join("shell")
    }

    /// A file of the sandbox that is no other example's.
    fn file(&mut self, extension: &str, text: &str) -> PathBuf {
        self.count += 1;
        let path = self.dir().join(format!("example-{}.{extension}", self.count));
        fs::write(&path, text).expect("the directory can be written");
        path
    }

    /// The text with the server's real address.
    fn placed(&mut self, text: &str) -> String {
        let address = self.server().address().to_string();
        let text = text.replace("https://fanfare.example.org", "http://fanfare.example.org");
        PLACES.iter().fold(text, |text, place| text.replace(place, &address))
    }

    fn command(&mut self, program: &str) -> Command {
        let dir = self.dir();
        let address = self.server().address();
        let programs = Path::new(env!("CARGO_BIN_EXE_fanfare")).parent().expect("a directory");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("timeout");
        command
            .args([EXAMPLE_SECONDS, program])
            .current_dir(&dir)
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("FANFARE_BIND", address.to_string())
            .env("FANFARE_DATA_DIR", dir.parent().expect("the server's").join("data"))
            .env("HOME", &dir)
            .env_remove("FANFARE_TOKEN")
            .env_remove("JWT_SECRET")
            .stdin(Stdio::null());
        command
    }

    /// Runs commands in bash, which ends at the first that fails. Returns what they printed.
    fn shell(&mut self, commands: &str) -> Result<String, String> {
        let commands = self.placed(commands);
        // These two have no setting for the server but their flag.
        let clients = ["websocket_client", "websocket_stress_test"].map(|name| {
            let address = self.server().address();
            format!("{name}() {{ command {name} --url ws://{address}/ws \"$@\"; }}\n")
        });
        let script = self.file("sh", &format!("{}{commands}", clients.concat()));
        let mut command = self.command("bash");
        finished(command.args(["-e", "-u", "-o", "pipefail"]).arg(script))
    }

    fn session(&mut self, example: &Fence) -> Result<(), String> {
        if !example.before.is_empty() {
            self.shell(&example.before)?;
        }
        let text = self.placed(&example.text);
        let address = self.server().address();
        let mut session = std::mem::take(&mut self.session);
        let outcome = session.play(&text, address, |command| self.shell(command));
        self.session = session;
        outcome
    }

    /// Runs a module with Node until it has printed something, or ends. It may not print `undefined`.
    fn javascript(&mut self, example: &Fence) -> Outcome {
        let Some(node) = node() else {
            return Outcome::Skipped("Node 22 or newer is not installed".into());
        };
        let mut attempt = || {
            if !example.before.is_empty() {
                self.shell(&example.before)?;
            }
            let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("web/fanfare.js");
            let address = self.server().address();
            let token = self.shell("fanfare token --user example --scope admin")?;
            let text = self.placed(script_of(&example.text));
            let client = format!("\"file://{}\"", client.display());
            let places = ["\"/fanfare.js\"", &format!("\"http://{address}/fanfare.js\"")];
            let text = places.iter().fold(text, |text, place| text.replace(place, &client));
            let module =
                self.file("mjs", &format!("{}{text}", javascript_prelude(address, token.trim())));
            let mut command = self.command(&node);
            finished(command.arg(module)).map(|_| ())
        };
        match attempt() {
            Ok(()) => Outcome::Passed,
            Err(fault) => Outcome::Failed(fault),
        }
    }

    fn python(&mut self, example: &Fence) -> Result<(), String> {
        if !example.before.is_empty() {
            self.shell(&example.before)?;
        }
        let text = self.placed(&example.text);
        let script = self.file("py", &text);
        let mut command = self.command("python3");
        finished(command.arg(script)).map(|_| ())
    }

    /// A configuration file that the server takes, or dependencies that the crate can satisfy.
    fn toml(&mut self, example: &Fence) -> Result<(), String> {
        let table: toml::Table =
            toml::from_str(&example.text).map_err(|fault| fault.to_string())?;
        // The crate's line alone stands for a table of dependencies.
        let is_ours = |table: &toml::Table| table.get("fanfare-client").cloned();
        let nested = table.get("dependencies").and_then(toml::Value::as_table).and_then(is_ours);
        if let Some(dependency) = is_ours(&table).or(nested) {
            return satisfiable(&dependency);
        }
        let file = self.file("toml", &example.text);
        let mut command = self.command("fanfare");
        finished(command.arg("check-config").arg("--config").arg(file)).map(|_| ())
    }

    fn nginx(&mut self, text: &str) -> Outcome {
        let Some(nginx) = tool("nginx", &["/usr/sbin/nginx"]) else {
            return Outcome::Skipped("nginx is not installed".into());
        };
        let is_whole = text.contains("events {");
        let servers = if text.contains("server {") {
            text.to_owned()
        } else {
            format!("server {{ listen 127.0.0.1:1;\n{text}\n}}")
        };
        let dir = self.dir();
        let whole = if is_whole {
            text.to_owned()
        } else {
            format!(
                "pid {0}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{servers}\n}}\n",
                dir.display()
            )
        };
        let file = self.file("conf", &whole);
        let mut command = self.command(&nginx);
        outcome(finished(command.arg("-t").arg("-p").arg(dir).arg("-c").arg(file)))
    }

    fn yaml(&mut self, text: &str) -> Outcome {
        let mut probe = Command::new("python3");
        let status = probe.args(["-c", "import yaml"]).stderr(Stdio::null()).status();
        if !status.is_ok_and(|status| status.success()) {
            return Outcome::Skipped("python3 with PyYAML is not installed".into());
        }
        let file = self.file("yaml", text);
        let mut command = self.command("python3");
        let script = "import sys, yaml; list(yaml.safe_load_all(open(sys.argv[1])))";
        outcome(finished(command.args(["-c", script]).arg(file)))
    }

    fn lua(&mut self, text: &str) -> Outcome {
        let Some(luac) =
            ["luac", "luac5.4", "luac5.3", "luac5.1"].iter().find_map(|name| tool(name, &[]))
        else {
            return Outcome::Skipped("luac is not installed".into());
        };
        let file = self.file("lua", text);
        let mut command = self.command(&luac);
        outcome(finished(command.arg("-p").arg(file)))
    }
}

fn outcome(result: Result<String, String>) -> Outcome {
    match result {
        Ok(_) => Outcome::Passed,
        Err(fault) => Outcome::Failed(fault),
    }
}

/// Runs a command to its end. Returns its standard output; what it said is the fault where it fails.
fn finished(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|fault| fault.to_string())?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (out, err) = (text(output.stdout), text(output.stderr));
    if output.status.success() {
        return Ok(out);
    }
    Err(format!("{}\n{out}{err}", output.status))
}

/// A program that a shell's example needs and that is not here. Those of the other packages are built by
/// `cargo test --workspace`.
fn missing_program(example: &Fence) -> Option<&'static str> {
    const NEEDED: &[&str] = &["websocket_client", "websocket_stress_test", "curl", "jq", "openssl"];
    let text = format!("{}{}", example.before, example.text);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let is_used = |name: &str| text.split(|c| !is_word(c)).any(|word| word == name);
    let programs = Path::new(env!("CARGO_BIN_EXE_fanfare")).with_file_name("");
    let is_there = |name: &str| programs.join(name).is_file() || tool(name, &[]).is_some();
    let is_shell = ["sh", "console"].contains(&example.language.as_str());
    NEEDED.iter().copied().find(|name| is_shell && is_used(name) && !is_there(name))
}

fn tool(name: &str, places: &[&str]) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path.split(':').map(|dir| format!("{dir}/{name}"));
    let mut found = found.chain(places.iter().map(|&place| place.to_owned()));
    found.find(|path| Path::new(path).is_file())
}

/// Node 22 or newer: that of the browser's tests, else the system's.
fn node() -> Option<String> {
    let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/node_modules/node/bin/node");
    [Some(ours.to_owned()), tool("node", &[])].into_iter().flatten().find(|node| {
        let is_new = "process.exit(parseInt(process.versions.node, 10) < 22 ? 1 : 0)";
        let status = Command::new(node).args(["-e", is_new]).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    })
}

/// The script of a page, or all of a text that is no page.
fn script_of(text: &str) -> &str {
    let Some((_, rest)) = text.split_once("<script type=\"module\">") else { return text };
    rest.split_once("</script>").map_or(rest, |(script, _)| script)
}

/// What a page has and Node has not, and an end for loops that have none.
fn javascript_prelude(address: std::net::SocketAddr, token: &str) -> String {
    format!(
        r#"globalThis.location = {{ origin: "http://{address}" }};
globalThis.fetchToken = () => {token:?};
{{
  const print = console.log;
  console.log = (...things) => {{
    print(...things);
    if (things.some((one) => one === undefined || Number.isNaN(one))) process.exit(3);
    setTimeout(() => process.exit(0), 200);
  }};
  setTimeout(() => {{ print("it printed nothing"); process.exit(4); }}, 20_000).unref();
}}
"#
    )
}

/// Whether the dependency names our client as it can be had: from a checkout or its repository, with
/// features that it has.
fn satisfiable(dependency: &toml::Value) -> Result<(), String> {
    let manifest = fs::read_to_string("clients/rust/Cargo.toml").expect("the manifest is there");
    let manifest: toml::Table = toml::from_str(&manifest).expect("TOML");
    if dependency.get("path").or_else(|| dependency.get("git")).is_none() {
        return Err("the crate is in no registry: name a path or a repository".into());
    }
    for feature in dependency.get("features").and_then(toml::Value::as_array).into_iter().flatten()
    {
        let feature = feature.as_str().unwrap_or_default();
        if manifest["features"].get(feature).is_none() {
            return Err(format!("there is no feature {feature:?}"));
        }
    }
    Ok(())
}

/// Rust is compiled by rustdoc, where the root of the document's package includes it.
fn doctested(file: &str) -> Result<(), String> {
    let (package, path) = match file.strip_prefix("clients/rust/") {
        Some(path) => ("clients/rust/", path),
        None => ("", file),
    };
    let root = format!("{package}src/lib.rs");
    let text = fs::read_to_string(&root).expect("the crate's root");
    if text.contains(&format!("include_str!(\"../{path}\")")) {
        return Ok(());
    }
    Err(format!("{root} does not include {file} for doctests"))
}

/// JSON values one after the other; frames are of types that there are.
fn frames(text: &str) -> Result<(), String> {
    let mut count = 0;
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let value = value.map_err(|fault| format!("not JSON: {fault}"))?;
        count += 1;
        if let Some(kind) = value["type"].as_str() {
            let is_problem = kind == "about:blank" && value["status"].is_u64();
            if !is_problem && !is_known(kind) {
                return Err(format!("no frame is of the type {kind:?}"));
            }
        }
    }
    if count == 0 { Err("there is nothing in it".into()) } else { Ok(()) }
}

fn is_known(kind: &str) -> bool {
    CLIENT_TYPES.contains(&kind) || SERVER_TYPES.contains(&kind)
}

/// What a document names is there: files behind links, their headings, programs, tests, flags, types of
/// frames.
fn names(file: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |line: usize, what: String| faults.push(format!("{file}:{line}: {what}"));
    for (line, target) in fence::links(text) {
        if let Err(what) = linked(file, text, &target) {
            fault(line, what);
        }
    }
    let inline = fence::spans(text);
    let fenced = fence::fences(file, text).into_iter().flat_map(|example| {
        let is_shell = ["sh", "console"].contains(&example.language.as_str());
        let text = if is_shell { example.text.replace("\\\n", " ") } else { String::new() };
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.into_iter().map(move |line| (example.line, line))
    });
    for (line, span) in &inline {
        if let Some(path) = own_path(span)
            && !Path::new(path).exists()
        {
            fault(*line, format!("there is no {path}"));
        }
    }
    for (line, span) in inline.into_iter().chain(fenced) {
        let span = span.trim_start_matches("$ ");
        for command in span.split(" && ").flat_map(|part| part.split(" | ")) {
            if let Err(what) = command_exists(command) {
                fault(line, what);
            }
        }
    }
    if file != "CHANGELOG.md" {
        for (index, line) in text.lines().enumerate() {
            for part in line.split("{\"type\":\"").skip(1) {
                let kind = part.split('"').next().unwrap_or_default();
                if !is_known(kind) && kind != "about:blank" {
                    fault(index + 1, format!("no frame is of the type {kind:?}"));
                }
            }
        }
    }
    faults
}

/// The path that a span names, where it is one of the repository.
fn own_path(span: &str) -> Option<&str> {
    const DIRS: &[&str] = &[
        "benches/",
        "build/",
        "deploy/",
        "docs/",
        "examples/",
        "fuzz/",
        "loadtest/",
        "scripts/",
        "src/",
        "terminal/",
        "tests/",
        "web/",
    ];
    let is_path =
        DIRS.iter().any(|dir| span.starts_with(dir)) && !span.contains(['*', '{', '<', '$']);
    span.split_whitespace().next().filter(|_| is_path)
}

fn linked(file: &str, text: &str, target: &str) -> Result<(), String> {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let dir = Path::new(file).parent().expect("a file is somewhere");
    let path = if path.is_empty() { PathBuf::from(file) } else { dir.join(path) };
    if !path.exists() {
        return Err(format!("{target} leads nowhere"));
    }
    let is_document = path.extension().is_some_and(|extension| extension == "md");
    if anchor.is_empty() || !is_document {
        return Ok(());
    }
    let other = fs::read_to_string(&path).map_err(|fault| fault.to_string())?;
    let text = if path == Path::new(file) { text } else { &other };
    if fence::anchors(text).iter().any(|heading| heading == anchor) {
        return Ok(());
    }
    Err(format!("{target}: there is no such heading"))
}

/// Targets of the workspace by kind, as `bin websocket_client` and `test limits`.
static TARGETS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut found = BTreeSet::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        found.insert(format!("package {}", package["name"].as_str().unwrap_or_default()));
        for target in package["targets"].as_array().into_iter().flatten() {
            let kind = target["kind"][0].as_str().unwrap_or_default();
            found.insert(format!("{kind} {}", target["name"].as_str().unwrap_or_default()));
        }
    }
    found
});

/// Whether a command of ours names programs, tests, subcommands and flags that there are.
fn command_exists(command: &str) -> Result<(), String> {
    let mut words = fence::words(command);
    let is_assignment = |word: &String| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty()
                && name.chars().all(|c| c.is_ascii_uppercase() || "_0123456789".contains(c))
        })
    };
    let skipped = words.iter().take_while(|word| is_assignment(word)).count();
    words.drain(..skipped);
    let Some(program) = words.first().map(String::as_str) else { return Ok(()) };
    let has = |kind: &str, name: &str| TARGETS.contains(&format!("{kind} {name}"));
    if program == "cargo" {
        for pair in words.windows(2).take_while(|pair| pair[0] != "--") {
            let kind = match pair[0].as_str() {
                "--bin" => "bin",
                "--example" => "example",
                "--test" => "test",
                "--bench" => "bench",
                "-p" | "--package" => "package",
                _ => continue,
            };
            if !has(kind, &pair[1]) && !pair[1].chars().all(char::is_uppercase) {
                return Err(format!("`{command}`: there is no {kind} {:?}", pair[1]));
            }
        }
    } else if program == "fanfare" && !command.contains(['|', '[']) && !is_its_word(&words) {
        words.retain(|word| word != "...");
        return fanfare_takes(&words).map_err(|fault| format!("`{command}`: {fault}"));
    } else if let Some(name) = program.strip_prefix("target/release/") {
        if !has("bin", name) {
            return Err(format!("`{command}`: there is no program {name:?}"));
        }
    } else if program.starts_with("scripts/") && !Path::new(program).exists() {
        return Err(format!("`{command}`: there is no {program}"));
    }
    Ok(())
}

/// `fanfare listening on http://...` is what the program says.
fn is_its_word(words: &[String]) -> bool {
    words.get(1).is_some_and(|word| word == "listening")
}

/// Whether the command line knows these words. Values may be placeholders.
fn fanfare_takes(words: &[String]) -> Result<(), String> {
    match Config::command().try_get_matches_from(words) {
        Ok(_) => Ok(()),
        Err(fault) => match fault.kind() {
            ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => {
                let mut text = String::new();
                let _ = write!(text, "{fault}");
                Err(text.lines().next().unwrap_or_default().to_owned())
            }
            _ => Ok(()),
        },
    }
}
