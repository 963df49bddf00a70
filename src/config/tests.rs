//! The configuration's promises, layer by layer.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::command::command;
use super::keys::*;
use super::layers::load;
use super::*;

/// As long as a secret has to be.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Loads from a command line, an environment and the text of `fanfare.toml`.
fn load_from(args: &str, env: &[(&str, &str)], file: &str) -> Result<Loaded, LoadError> {
    let args = std::iter::once("fanfare").chain(args.split_whitespace());
    let env = env.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let read = |path: &Path| match path.to_str() {
        Some("fanfare.toml") => Ok(file.to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    load(args.map(OsString::from).collect(), env, read)
}

fn faults(args: &str, env: &[(&str, &str)], file: &str) -> Vec<String> {
    match load_from(args, env, file) {
        Err(LoadError::Faults(faults)) => faults.iter().map(Fault::to_string).collect(),
        other => panic!("no faults but {other:?}"),
    }
}

fn usage(args: &str) -> clap::Error {
    match load_from(args, &[], "") {
        Err(LoadError::Usage(error)) => error,
        other => panic!("no usage error but {other:?}"),
    }
}

#[test]
fn the_command_line_is_sound() {
    command().debug_assert();
}

#[test]
fn defaults_in_the_help_are_the_defaults() {
    let mut config = Config::default();
    let mut given = 0;
    for key in KEYS {
        if let Unset::Is(text) = key.unset {
            (key.parse)(&mut config, text).unwrap();
            assert_eq!(config, Config::default(), "{}", key.name);
            given += 1;
        }
    }
    assert!(given > 25);
    let loaded = load_from("", &[], "").unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.sources, Sources::default());
    assert_eq!((loaded.action, loaded.warnings), (Action::Serve, Vec::new()));
}

/// Each key changes one shown value, its own, and shows it in a form that is read back.
#[test]
fn every_key_reads_and_shows_its_own_field() {
    let other = |key: &Key| match key.name {
        "bind" => "[::1]:9000",
        "auth" => "required",
        "jwt-secret" | "jwt-other-secrets" => SECRET,
        "jwt-jwks-url" => "https://issuer.example/keys",
        "data-dir" => "something",
        "database-url" => "sqlite://x.db",
        "redis-url" => "redis://x",
        "differing-settings" | "group-invitations" | "access-log" => "on",
        "log-format" => "json",
        "allowed-origins" => "http://a,https://b:1",
        "allowed-hosts" => "*.internal,h:81",
        "base-path" => "/push",
        "trusted-proxies" | "artemis-networks" => "10.0.0.0/8,::1",
        "advertise-url" => "https://node.example:81/push",
        "artemis" | "echo" | "eureka" => "off",
        "registration" => "token",
        "default-scopes" => "publish, sockets:read",
        _ => match key.placeholder {
            "TIME" => "17s",
            "SIZE"
                if [
                    "history-bytes-max",
                    "instances-bytes-max",
                    "snapshots-bytes-max",
                    "store-set-bytes-max",
                ]
                .contains(&key.name) =>
            {
                "7MiB"
            }
            "SIZE" => "2049",
            _ => "77",
        },
    };
    let before = Config::default().entries(&Sources::default());
    for (index, key) in KEYS.iter().enumerate() {
        let mut config = Config::default();
        (key.parse)(&mut config, other(key)).unwrap();
        let after = config.entries(&Sources::default());
        for (at, (old, new)) in before.iter().zip(&after).enumerate() {
            assert_eq!(old == new, at != index, "{} and {}", key.name, new.0);
        }
    }
}

#[test]
fn names_are_unique_and_well_formed() {
    let names: BTreeSet<&str> = KEYS.iter().map(|key| key.name).collect();
    let variables: BTreeSet<String> = KEYS.iter().map(Key::env).collect();
    assert_eq!((names.len(), variables.len()), (KEYS.len(), KEYS.len()));
    assert!(names.iter().all(|n| n.bytes().all(|b| b == b'-' || b.is_ascii_lowercase())));
    let special =
        ["JWT_SECRET", "JWT_PUBLIC_KEY", "DATABASE_URL", "REDIS_URL", "JWT_OTHER_SECRETS"];
    assert!(variables.iter().all(|v| v.starts_with("FANFARE_") || special.contains(&&**v)));
    assert!(variables.contains("FANFARE_OUTBOX_BYTES_MAX"));
    assert!(!variables.contains(CONFIG_ENV));
}

#[test]
fn later_layers_win() {
    let file = "lease-ttl = \"5s\"\nping_interval = \"5s\"\nwrite_timeout = \"5s\"\n";
    let env = [
        ("FANFARE_CONFIG", "fanfare.toml"),
        ("FANFARE_PING_INTERVAL", "6s"),
        ("FANFARE_WRITE_TIMEOUT", "6s"),
        ("FANFARE_SHARDS", ""),
    ];
    let Loaded { config, sources, .. } = load_from("--write-timeout 7s", &env, file).unwrap();
    assert_eq!(config.lease_ttl_ms, 5_000);
    assert_eq!(config.limits.ping_interval_ms, 6_000);
    assert_eq!(config.limits.write_timeout_ms, 7_000);
    let entries = config.entries(&sources);
    let source = |name: &str| entries.iter().find(|entry| entry.0 == name).unwrap().2;
    assert_eq!(source("lease_ttl"), Source::File);
    assert_eq!(source("ping_interval"), Source::Environment);
    assert_eq!(source("write_timeout"), Source::Flag);
    assert_eq!(source("shards"), Source::Default);
}

#[test]
fn file_takes_toml_types() {
    let file = "shards = 3\necho = false\nallowed_origins = [\"https://A.example/\", \"*\"]\n\
        outbox-bytes-max = 2048\nconnections_max = \"auto\"\n";
    let config = load_from("--config fanfare.toml", &[], file).unwrap().config;
    assert_eq!((config.shards, config.echo), (3, false));
    assert_eq!(config.allowed_origins, ["https://a.example", "*"]);
    assert_eq!(config.limits.outbox_bytes_max, 2_048);
    assert_eq!(config.limits.connections_max, None);
}

#[test]
fn all_faults_of_all_layers_are_reported() {
    let file = "lease_tll = \"20s\"\nlease-ttl = 20\nlease_ttl = \"20s\"\n\
        [limits]\nshards = 1\n[echo]\n";
    let env = [("FANFARE_ECHO", "maybe"), ("DATABASE_URL", "mysql://u:pw@h/d")];
    let args = "--config fanfare.toml --lease-ttl abc --bogus 1 --shards=0 --bind nowhere \
        --bod-timeout=3s --ping-interval 0";
    assert_eq!(
        faults(args, &env, file),
        [
            "--bogus: unknown flag; see --help",
            "--bod-timeout: unknown flag; is --body-timeout meant?",
            "fanfare.toml: echo: a table is not a value of this key",
            "fanfare.toml: lease-ttl: \"20\" has no unit: 20s or 20ms?",
            "fanfare.toml: lease_tll: unknown key; is lease_ttl meant?",
            "fanfare.toml: lease_ttl: stands twice, with - and with _",
            "fanfare.toml: limits: unknown key",
            "DATABASE_URL: not a URL that starts with sqlite:// or postgres://",
            "FANFARE_ECHO: \"maybe\" is neither on nor off",
            "--bind: \"nowhere\" is not an address like 127.0.0.1:8080",
            "--shards: \"0\" is out of range: 1 to 256",
            "--lease-ttl: \"abc\" is not a duration like 20s",
            "--ping-interval: \"0\" is out of range: 10ms to 1h",
        ]
    );
}

#[test]
fn file_that_cannot_be_read_or_parsed_is_a_fault() {
    let missing = faults("--config other.toml --shards x", &[], "");
    assert!(missing[0].starts_with("other.toml: cannot be read: "), "{missing:?}");
    assert_eq!(missing[1], "--shards: \"x\" is not a whole number");
    let secret = "shards = 1\njwt_secret = \"hunter2\nshards = 2\n";
    let broken = faults("--config fanfare.toml", &[], secret);
    assert!(broken[0].starts_with("fanfare.toml: line 2: "), "{broken:?}");
    assert!(!broken[0].contains("hunter2") && broken.len() == 1, "{broken:?}");
}

#[test]
fn address_beyond_loopback_needs_a_word_about_auth() {
    for args in ["--bind 0.0.0.0:1", "--bind [::]:1", "--bind 192.0.2.1:1"] {
        let faults = faults(args, &[], "");
        assert!(faults.len() == 1 && faults[0].starts_with("--bind: "), "{faults:?}");
        assert!(faults[0].contains("--auth required"), "{faults:?}");
    }
    let faults = faults("", &[("FANFARE_BIND", "0.0.0.0:1"), ("FANFARE_AUTH", "no")], "");
    assert_eq!(faults, ["FANFARE_AUTH: \"no\" is neither open nor required"]);

    let loaded = load_from("--bind 0.0.0.0:1 --auth open", &[], "").unwrap();
    assert_eq!((loaded.config.auth, loaded.config.echo), (AuthMode::Open, false));
    let loaded = load_from("--bind 0.0.0.0:1 --auth required --echo on", &[], "").unwrap();
    assert_eq!((loaded.config.auth, loaded.config.echo), (AuthMode::Required, true));
    for args in ["--bind :0", "--bind localhost:0", "--bind [::1]:0", "--bind 127.9.9.9:0"] {
        let config = load_from(args, &[], "").unwrap().config;
        assert!(config.echo && config.bind.port() == 0, "{args}");
    }
}

#[test]
fn a_token_is_wanted_where_something_is_given_that_is_for_tokens() {
    let secret = [("JWT_SECRET", SECRET)];
    let file = format!("jwt-secret = \"{SECRET}\"\nauth = \"open\"");
    for (args, env, file, auth, reason) in [
        ("", &[][..], "", AuthMode::Open, "open: only this machine reaches 127.0.0.1:8080"),
        ("", &secret, "", AuthMode::Required, "required: jwt-secret is given"),
        (
            "--jwt-public-key k.pem",
            &[],
            "",
            AuthMode::Required,
            "required: jwt-public-key is given",
        ),
        (
            "--redis-url redis://x",
            &secret,
            "",
            AuthMode::Required,
            "jwt-secret, redis-url are given",
        ),
        ("--bind 0.0.0.0:1", &secret, "", AuthMode::Required, "required: jwt-secret is given"),
        ("--auth open", &secret, "", AuthMode::Open, "open: set by a flag"),
        ("--config fanfare.toml", &[], &*file, AuthMode::Open, "set by the configuration file"),
        ("--bind 0.0.0.0:1", &[("FANFARE_AUTH", "open")], "", AuthMode::Open, "the environment"),
    ] {
        let Loaded { config, sources, .. } = load_from(args, env, file).expect("no faults");
        assert_eq!(config.auth, auth, "{args} {env:?}");
        let line = config.auth_reason(&sources);
        assert!(line.contains(reason) && !line.contains(SECRET), "{args} {env:?}: {line}");
    }
}

#[test]
fn an_unknown_variable_is_refused_with_a_hint() {
    let env = [
        ("FANFARE_BND", ":0"),
        ("FANFARE_EMPTY", ""),
        ("FANFARE_SERVICE_HOST", "10.0.0.1"),
        ("FANFARE_PORT", "9000"),
    ];
    assert_eq!(
        faults("--port 9000 -l 0.0.0.0 --log-level debug --bind 9000", &env, ""),
        [
            "--port: unknown flag; is --bind meant? It takes address and port in one, as \
             127.0.0.1:9000, or :9000 on loopback",
            "-l: unknown flag; is --bind meant? It takes address and port in one, as \
             127.0.0.1:9000, or :9000 on loopback",
            "--log-level: unknown flag; the variable RUST_LOG says what is logged: RUST_LOG=debug",
            "FANFARE_BND: unknown variable; is FANFARE_BIND meant?",
            "FANFARE_PORT: unknown variable; is FANFARE_BIND meant? It takes address and port in \
             one, as 127.0.0.1:9000, or :9000 on loopback",
            "--bind: \"9000\" is not an address like 127.0.0.1:8080; is :9000 meant?",
        ]
    );
    assert_eq!(
        faults("--config fanfare.toml --bind 0.0.0.0", &[], "bnd = 1\nport = 9000\nxyzzy = 1"),
        [
            "fanfare.toml: bnd: unknown key; is bind meant?",
            "fanfare.toml: port: unknown key; is bind meant? It takes address and port in one, as \
             127.0.0.1:9000, or :9000 on loopback",
            "fanfare.toml: xyzzy: unknown key",
            "--bind: \"0.0.0.0\" is not an address like 127.0.0.1:8080; is 0.0.0.0:8080 meant?",
        ]
    );
}

#[test]
fn secrets_are_never_shown() {
    let args = "--database-url postgres://ann:pa:ss@word@db:5/f?password=x";
    let loaded = load_from(args, &[("JWT_SECRET", SECRET)], "").unwrap();
    let entries = loaded.config.entries(&loaded.sources);
    let value = |name: &str| entries.iter().find(|entry| entry.0 == name).unwrap().1.clone();
    assert_eq!(value("jwt_secret"), "***");
    assert_eq!(value("database_url"), "postgres://ann:***@db:5/f?password=***");
    let debug = format!("{loaded:?}");
    assert!(!debug.contains(SECRET) && !debug.contains("word@"), "{debug}");
    let plain = load_from("--database-url sqlite://x.db", &[], "").unwrap().config;
    assert_eq!((KEYS[index_of("database-url")].show)(&plain), "sqlite://x.db");
    assert_eq!((KEYS[index_of("jwt-secret")].show)(&plain), Value::Null);
}

#[test]
fn a_short_secret_is_refused_and_not_repeated() {
    let text = "jwt_secret = \"hunter2\"";
    for (args, env, file, place) in [
        ("--jwt-secret hunter2", &[][..], "", "--jwt-secret"),
        ("", &[("JWT_SECRET", "hunter2")][..], "", "JWT_SECRET"),
        ("token --user u", &[("JWT_SECRET", "hunter2")][..], "", "JWT_SECRET"),
        ("--config fanfare.toml", &[][..], text, "fanfare.toml: jwt_secret"),
    ] {
        let faults = faults(args, env, file);
        assert!(faults.len() == 1 && faults[0].starts_with(place), "{faults:?}");
        assert!(faults[0].contains("7 bytes") && faults[0].contains("at least 32"), "{faults:?}");
        assert!(!faults[0].contains("hunter2"), "{faults:?}");
    }
    assert!(load_from("", &[("JWT_SECRET", &SECRET[1..])], "").is_err());
    assert!(load_from("", &[("JWT_SECRET", SECRET)], "").is_ok());
}

#[test]
fn which_account_is_meant_is_said_once() {
    let action = |args: &str| load_from(args, &[], "").unwrap().action;
    let set = |who| Action::UserSet { who, is_disabled: true };
    assert_eq!(action("user disable --id ann"), set(Who::Id("ann".into())));
    assert_eq!(action("user disable --name ann"), set(Who::Name("ann".into())));
    assert_eq!(action("user disable ann"), set(Who::Either("ann".into())));
    for wrong in ["user disable", "user disable ann --id u", "user revoke --id u --name n"] {
        assert_eq!(LoadError::Usage(usage(wrong)).exit_code(), 2, "{wrong}");
    }
    let scope = |who, scope: &str| Action::UserScope { who, scope: scope.into() };
    assert_eq!(action("user scope ann publish"), scope(Who::Either("ann".into()), "publish"));
    assert_eq!(action("user scope ann"), scope(Who::Either("ann".into()), ""));
    let both = "user scope --name ann publish registry:write";
    assert_eq!(action(both), scope(Who::Name("ann".into()), "publish registry:write"));
    assert_eq!(action("user scope --id u publish"), scope(Who::Id("u".into()), "publish"));
    assert_eq!(faults("user scope", &[], "").len(), 1);
    assert_eq!(faults("user scope --id u --name n", &[], "").len(), 1);
    let token = |token: Option<&str>| Action::TokenRevoke { token: token.map(str::to_owned) };
    assert_eq!(action("token revoke abc"), token(Some("abc")));
    assert_eq!(action("token revoke"), token(None));
}

#[test]
fn help_and_version_are_no_failure() {
    assert_eq!(LoadError::Usage(usage("--version")).exit_code(), 0);
    let help = usage("--help");
    assert_eq!(help.exit_code(), 0);
    let text = help.to_string();
    for key in KEYS {
        assert!(text.contains(&format!("--{} <", key.name)), "{}", key.name);
        assert!(text.contains(&format!("[env: {}]", key.env())), "{}", key.name);
    }
    assert_eq!(LoadError::Usage(usage("--shards")).exit_code(), 2);
    assert_eq!(LoadError::Usage(usage("nonsense")).exit_code(), 2);
    assert_eq!(LoadError::Faults(Vec::new()).exit_code(), 2);
    assert_eq!(faults("-x", &[], ""), ["-x: unknown flag; see --help"]);
}

#[test]
fn serve_is_what_happens_without_a_subcommand() {
    for args in ["--shards 3", "serve --shards 3", "--shards 3 serve"] {
        let loaded = load_from(args, &[], "").unwrap();
        assert_eq!((loaded.action, loaded.config.shards), (Action::Serve, 3), "{args}");
    }
    assert_eq!(faults("--bogus serve --shards 0", &[], "").len(), 2);
}

#[test]
fn token_has_flags_of_its_own_and_the_same_layers() {
    let env = [("FANFARE_BIND", "0.0.0.0:80"), ("JWT_SECRET", SECRET)];
    for args in ["--data-dir d token --user u", "token --user u --data-dir d"] {
        let loaded = load_from(args, &env, "").unwrap();
        let token = Action::Token { user: "u".into(), username: None, scope: None, ttl_s: 3_600 };
        assert_eq!(loaded.action, token);
        assert_eq!(loaded.config.data_dir, Path::new("d"));
        assert_eq!(loaded.config.jwt_secret.as_deref(), Some(SECRET));
    }
    let args = "token --user u --username ann --scope publish --ttl 30d";
    let token = Action::Token {
        user: "u".into(),
        username: Some("ann".into()),
        scope: Some("publish".into()),
        ttl_s: 30 * 86_400,
    };
    assert_eq!(load_from(args, &[], "").unwrap().action, token);
    assert_eq!(
        faults("token --user= --scope root --ttl 500ms --shards 0", &[], ""),
        [
            "--shards: \"0\" is out of range: 1 to 256",
            "--user: the user id is empty",
            "--scope: \"root\" is no scope; there are admin, registry:write, registry:read, \
             publish, message, sockets:read, channels:read, audit:read",
            "--ttl: \"500ms\" is out of range: 1s to 3650d",
        ]
    );
    assert_eq!(LoadError::Usage(usage("token")).exit_code(), 2);
}

#[test]
fn origins_are_in_the_form_browsers_send() {
    for (text, origin) in [
        ("https://App.Example.org", "https://app.example.org"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]:80"),
        ("*", "*"),
    ] {
        assert_eq!(parse_origin(text).as_deref(), Ok(origin));
    }
    for wrong in ["", "example.org", "https://", "https://a/b", "https://*.a", "https://a b"] {
        assert!(parse_origin(wrong).is_err(), "{wrong}");
    }
    for file in ["file://", "file:///home/ann/page.html", "file://localhost"] {
        assert!(parse_origin(file).is_err_and(|fault| fault.contains("sends null")), "{file}");
    }
}

#[test]
fn shared_settings_are_rows_of_the_table() {
    let shared = Config::default().shared();
    assert_eq!(shared.len(), SHARED.len() + 1, "{shared:?}");
    assert_eq!(shared["lease_ttl"], "20s");
    assert!(shared["namespaces"].is_object());
}

#[test]
fn settings_that_need_each_other_say_so() {
    assert_eq!(
        faults("--redis-url redis://x", &[], ""),
        ["redis-url: needs jwt-secret or jwt-public-key, the same for all nodes"]
    );
    assert!(load_from("--redis-url redis://x", &[("JWT_SECRET", SECRET)], "").is_ok());
    assert_eq!(faults("--tls-cert a", &[], ""), ["tls-key: missing beside tls-cert"]);
    assert_eq!(faults("--tls-key a", &[], ""), ["tls-cert: missing beside tls-key"]);
    let joined = |flags: &str| {
        faults(&format!("--jwt-secret {} --redis-url {flags}", "s".repeat(32)), &[], "")
    };
    assert_eq!(joined("rediss://x --redis-cert a"), ["redis-key: missing beside redis-cert"]);
    assert_eq!(
        joined("redis://x --redis-ca a"),
        ["redis-ca: needs a redis-url that starts with rediss://"]
    );
    // The library would then trust any certificate.
    assert_eq!(joined("rediss://x#insecure").len(), 1);
    // A fault never repeats a password.
    assert!(!faults("--redis-url http://u:geheim@x", &[], "")[0].contains("geheim"));
}

#[test]
fn registration_is_closed_where_others_can_reach_the_server() {
    use crate::auth::accounts::Registration;
    for (args, registration) in [
        ("", Registration::Open),
        ("--bind [::1]:1", Registration::Open),
        ("--bind 0.0.0.0:1 --auth required", Registration::Closed),
        ("--bind 10.0.0.1:1 --auth open", Registration::Closed),
        ("--bind 0.0.0.0:1 --auth required --registration open", Registration::Open),
        ("--bind 0.0.0.0:1 --auth required --registration token", Registration::Token),
        ("--registration closed", Registration::Closed),
    ] {
        let loaded = load_from(args, &[], "").expect("no faults");
        assert_eq!(loaded.config.registration, registration, "{args}");
    }
}

#[test]
fn rules_that_would_open_a_reserved_channel_change_nothing_and_say_so() {
    let file = "[namespaces.\"chat:\"]\npublish = \"anyone\"\n\
        [namespaces.\"$stats\"]\nhistory-max = 5\n\
        [namespaces.\"live:order\"]\nhistory-max = 5\n\
        [namespaces.\"dashboard:\"]\npublish = \"admin\"\n";
    let loaded = load_from("--config fanfare.toml", &[], file).expect("no faults");
    let of = |channel: &str| loaded.config.namespaces.of(channel);
    assert_eq!(of("chat:r").publish.to_string(), "nobody");
    let stats = (of("$stats").subscribe.to_string(), of("$stats").publish.to_string());
    assert_eq!(stats, ("sockets:read".to_owned(), "nobody".to_owned()));
    assert_eq!(of("live:order").publish.to_string(), "publish", "a longer prefix opens nothing");
    assert_eq!(of("dashboard:d").publish.to_string(), "admin");
    let [warning] = &loaded.warnings[..] else { panic!("{:?}", loaded.warnings) };
    assert!(warning.contains("\"chat:\".publish changes nothing"), "{warning}");
    let everybody = load_from("--default-scopes admin", &[], "").expect("no faults");
    assert!(everybody.warnings[0].contains("default-scopes"), "{:?}", everybody.warnings);
}
