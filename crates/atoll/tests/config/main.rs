//! Settings in layers, through the binary: what holds, where it is from, and what is refused.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

const TOKEN: &str = "0123456789abcdef0123";
/// Far more than a server needs to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A folder with a file of settings, and a command line over it.
struct World {
    folder: TempDir,
}

impl World {
    fn new(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("atoll.toml"), settings).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn secret(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }

    fn command(&self, variables: &[(&str, &str)], line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        command
            .env_clear()
            .env("ATOLL_CONFIG", self.path("atoll.toml"))
            .envs(variables.iter().copied())
            .args(line);
        command
    }

    fn run(&self, variables: &[(&str, &str)], line: &[&str]) -> Output {
        self.command(variables, line).output().unwrap()
    }

    /// What `config show --json` says of one setting.
    fn shown(&self, variables: &[(&str, &str)], line: &[&str], key: &str) -> Value {
        let mut whole = vec!["config", "show", "--json"];
        whole.extend(line);
        let output = self.run(variables, &whole);
        assert!(output.status.success(), "{}", told(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains(TOKEN), "{text}");
        let mut lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.find(|line| line["key"] == key).unwrap_or(Value::Null)
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Refused for what was given, before anything was started.
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{}", told(output));
    assert!(output.stdout.is_empty());
    told(output)
}

#[test]
fn flags_go_over_the_environment_over_the_file_over_the_default() {
    let world = World::new("history_days = 3\n[server]\nlisten = \"127.0.0.1:4001\"\n");
    let listen = |variables: &[(&str, &str)], line: &[&str]| {
        let shown = world.shown(variables, line, "listen");
        let text = |name: &str| shown[name].as_str().unwrap_or_default().to_owned();
        (text("value"), text("origin"), text("source"))
    };
    let file = world.path("atoll.toml").display().to_string();
    let expect = |value: &str, origin: &str, source: &str| {
        (value.to_owned(), origin.to_owned(), source.to_owned())
    };
    assert_eq!(
        listen(&[], &["dev"]),
        expect("127.0.0.1:3000", "default", "")
    );
    assert_eq!(
        listen(&[], &["server"]),
        expect("127.0.0.1:4001", "file", &format!("{file}:3"))
    );
    let variable = [("ATOLL_LISTEN", "127.0.0.1:4002")];
    assert_eq!(
        listen(&variable, &["server"]),
        expect("127.0.0.1:4002", "environment", "ATOLL_LISTEN")
    );
    assert_eq!(
        listen(&variable, &["server", "--", "--listen", "127.0.0.1:4003"]),
        expect("127.0.0.1:4003", "flag", "--listen")
    );
    let days = world.shown(&[], &["dev"], "history_days");
    assert_eq!((&days["value"], &days["default"]), (&3.into(), &7.into()));
    let table = world.run(&[], &["config", "show", "server"]);
    let table = String::from_utf8(table.stdout).unwrap();
    let is_told = table
        .lines()
        .any(|line| line.starts_with("listen ") && line.ends_with(&format!("{file}:3")));
    assert!(is_told, "{table}");
}

#[test]
fn mistakes_are_all_told_and_nothing_starts() {
    let world = World::new("[server]\nlistne = \"127.0.0.1:0\"\nhistory_days = 0\n");
    for line in [
        ["config", "check"].as_slice(),
        &["config", "show", "server"],
        &["server", "--json"],
    ] {
        let told = refused(&world.run(&[], line));
        assert!(
            told.contains("atoll.toml:2:1: `listne` is no setting"),
            "{told}"
        );
        assert!(told.contains("did you mean `listen`?"), "{told}");
        assert!(told.contains("atoll.toml:3:16: `history_days`"), "{told}");
    }
    let world = World::new("");
    let told = refused(&world.run(&[("ATOLL_LISTEN", "here")], &["server"]));
    assert!(
        told.contains("variable `ATOLL_LISTEN`: `here`: invalid"),
        "{told}"
    );
    let told = refused(&world.run(&[], &["server", "--config", "/nowhere.toml"]));
    assert!(told.contains("/nowhere.toml: cannot be read"), "{told}");
    // Commands that start nothing do without settings.
    let broken = World::new("[");
    assert!(broken.run(&[], &["completions", "bash"]).status.success());
    let help = broken.run(&[], &["server", "--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("[env: ATOLL_LISTEN=]"), "{help}");
    assert!(!help.contains("--join-token <"), "{help}");
}

#[test]
fn a_slip_in_a_variable_is_warned_of() {
    let world = World::new("");
    let output = world.run(&[("ATOLL_LISTNE", "127.0.0.1:1")], &["config", "check"]);
    assert!(output.status.success());
    let told = told(&output);
    assert!(
        told.contains("`ATOLL_LISTNE`; did you mean `ATOLL_LISTEN`?"),
        "{told}"
    );
}

#[test]
fn what_is_required_may_be_in_the_file() {
    let world = World::new("[node]\nserver = \"http://127.0.0.1:3000\"\n");
    assert!(
        world
            .run(&[], &["config", "check", "node"])
            .status
            .success()
    );
    let world = World::new("[node]\nname = \"one\"\n");
    let told = refused(&world.run(&[], &["config", "check", "node"]));
    assert!(told.contains("--server"), "{told}");
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let world = World::new("");
    let file = world.secret("token", TOKEN, 0o600);
    let settings = format!("join_token_file = \"{file}\"\n");
    fs::write(world.path("atoll.toml"), settings).unwrap();
    let shown = world.shown(&[], &["server"], "join_token_file");
    assert_eq!(
        (&shown["value"], &shown["origin"]),
        (&file.into(), &"file".into())
    );
    assert_eq!(world.shown(&[], &["server"], "join_token"), Value::Null);
    let table = world.run(&[], &["config", "show", "server"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("(secret, in ") && !table.contains(TOKEN),
        "{table}"
    );
    assert!(
        world
            .run(&[], &["config", "check", "server"])
            .status
            .success()
    );

    // The upper layer's secret counts, whichever of the two ways it is given.
    let variable = [("ATOLL_JOIN_TOKEN", TOKEN)];
    let shown = world.shown(&variable, &["server"], "join_token");
    assert_eq!(
        (&shown["value"], &shown["is_secret"]),
        (&Value::Null, &true.into())
    );
    assert_eq!(shown["origin"], "environment");
    let shown = world.shown(&variable, &["server"], "join_token_file");
    assert_eq!(shown["origin"], "unset");
    let other = world.secret("other", TOKEN, 0o600);
    let line = ["server", "--", "--join-token-file", &other];
    assert_eq!(
        world.shown(&variable, &line, "join_token_file")["origin"],
        "flag"
    );
    assert_eq!(world.shown(&variable, &line, "join_token"), Value::Null);
}

#[test]
fn secrets_that_are_open_or_ambiguous_are_refused() {
    let world = World::new("");
    let file = world.secret("token", TOKEN, 0o644);
    let check = ["config", "check", "server"];
    let told = refused(&world.run(&[("ATOLL_JOIN_TOKEN_FILE", &file)], &check));
    assert!(told.contains("chmod o="), "{told}");
    let both = [
        ("ATOLL_JOIN_TOKEN_FILE", file.as_str()),
        ("ATOLL_JOIN_TOKEN", TOKEN),
    ];
    let told = refused(&world.run(&both, &check));
    assert!(
        told.contains("`ATOLL_JOIN_TOKEN` and `ATOLL_JOIN_TOKEN_FILE` are both given"),
        "{told}"
    );
    let told = refused(&world.run(&[], &["server", "--join-token", TOKEN]));
    assert!(
        told.contains("use --join-token-file") && !told.contains(TOKEN),
        "{told}"
    );
    fs::write(
        world.path("atoll.toml"),
        format!("join_token = \"{TOKEN}\"\n"),
    )
    .unwrap();
    let told = refused(&world.run(&[], &["config", "check"]));
    assert!(told.contains("name that in `join_token_file`"), "{told}");
    assert!(!told.contains(TOKEN), "{told}");
}

#[test]
fn a_server_starts_from_its_file_alone() {
    let world = World::new("");
    let key = format!("e2b_{}", "7".repeat(40));
    let file = world.secret("key", &key, 0o400);
    let settings = format!(
        "data_dir = \"{}\"\n[server]\nlisten = \"127.0.0.1:0\"\napi_key_file = \"{file}\"\n",
        world.path("data").display()
    );
    fs::write(world.path("atoll.toml"), settings).unwrap();
    let mut server = world.command(&[], &["server", "--json"]);
    server.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = server.spawn().unwrap();
    let mut output = BufReader::new(server.stdout.take().unwrap());
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = output.read_line(&mut line).map(|_| line);
        ready.send(read)
    });
    let line = is_ready.recv_timeout(START_TIMEOUT);
    server.kill().unwrap();
    server.wait().unwrap();
    let connection: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
    assert_eq!(connection["api_key"], key.as_str());
    assert!(world.path("data").join("atoll.db").exists());
}
