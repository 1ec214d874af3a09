//! One agent for one test, and how to talk to it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{self, Answer, Stream};

/// Conditions come true within this, or the test fails.
const LIMIT: Duration = Duration::from_secs(15);

/// A running agent. It and its directory end with this.
pub(crate) struct World {
    agent: Child,
    pub(crate) address: SocketAddr,
    pub(crate) directory: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Command::new(env!("CARGO_BIN_EXE_atoll-envd")))
    }

    /// An agent that is pid 1 of name spaces of its own, as in a sandbox.
    pub(crate) fn as_pid_1() -> Self {
        let script = "mount -t tmpfs run /run && exec \"$0\" --init \"$@\"";
        let mut command = Command::new("unshare");
        command.args([
            "--pid",
            "--mount",
            "--fork",
            "--kill-child",
            "/bin/sh",
            "-c",
            script,
        ]);
        command.arg(env!("CARGO_BIN_EXE_atoll-envd"));
        Self::with(command)
    }

    fn with(mut command: Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
        let agent = command
            .args(["--listen-fd", &listener.as_raw_fd().to_string()])
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .spawn()
            .unwrap();
        let world = Self {
            agent,
            address,
            directory,
        };
        // The user `user` of a template may be missing here.
        world.init(&json!({"defaultUser": "root", "defaultWorkdir": world.path("")}));
        world
    }

    pub(crate) fn init(&self, body: &Value) -> Answer {
        self.post("/init", &[], body)
    }

    /// A path in the world's directory.
    pub(crate) fn path(&self, name: &str) -> String {
        self.directory
            .path()
            .join(name)
            .to_string_lossy()
            .trim_end_matches('/')
            .to_owned()
    }

    pub(crate) fn get(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        http::send(self.address, "GET", target, headers, b"")
    }

    pub(crate) fn post(&self, target: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut all = vec![("Content-Type", "application/json")];
        all.extend(headers);
        http::send(
            self.address,
            "POST",
            target,
            &all,
            body.to_string().as_bytes(),
        )
    }

    /// A unary call; an error is what its body says.
    pub(crate) fn call(&self, method: &str, body: &Value) -> Result<Value, (String, String)> {
        let answer = self.post(&format!("/{method}"), &[], body);
        let value = answer.json();
        if answer.status == 200 {
            return Ok(value);
        }
        Err((
            value["code"].as_str().unwrap().to_owned(),
            value["message"].as_str().unwrap_or_default().to_owned(),
        ))
    }

    pub(crate) fn upload(&self, path: &str, bytes: &[u8]) -> Answer {
        let target = format!("/files?path={path}");
        http::send(
            self.address,
            "POST",
            &target,
            &[("Content-Type", "application/octet-stream")],
            bytes,
        )
    }

    pub(crate) fn download(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.get(&format!("/files?path={path}"), headers)
    }

    /// Starts a shell script and returns the stream after its first event, with the pid.
    pub(crate) fn start(
        &self,
        script: &str,
        more: &Value,
        headers: &[(&str, &str)],
    ) -> (Stream, u64) {
        let mut request = json!({"process": {"cmd": "/bin/sh", "args": ["-c", script]}});
        merge(&mut request, more);
        let mut stream = Stream::open(self.address, "/process.Process/Start", headers, &[request]);
        let first = stream.next().unwrap();
        let pid = first["event"]["start"]["pid"]
            .as_u64()
            .unwrap_or_else(|| panic!("first event {first}"));
        (stream, pid)
    }

    /// The error with which a process does not start.
    pub(crate) fn refused(&self, request: &Value, headers: &[(&str, &str)]) -> (String, String) {
        let end = Stream::open(
            self.address,
            "/process.Process/Start",
            headers,
            std::slice::from_ref(request),
        )
        .next()
        .unwrap_err();
        let text = |name: &str| end["error"][name].as_str().unwrap().to_owned();
        (text("code"), text("message"))
    }

    /// Children of the agent, from `/proc`, as (pid, state).
    pub(crate) fn children(&self) -> Vec<(u32, String)> {
        let all = processes();
        // Under `unshare` the agent is the child of what was started.
        let is_agent = |pid: u32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name == "atoll-envd\n")
        };
        let below = all
            .iter()
            .find(|(pid, parent, _)| *parent == self.agent.id() && is_agent(*pid));
        let agent = below.map_or_else(|| self.agent.id(), |(pid, _, _)| *pid);
        all.into_iter()
            .filter(|(_, parent, _)| *parent == agent)
            .map(|(pid, _, state)| (pid, state))
            .collect()
    }

    pub(crate) fn zombies(&self) -> Vec<u32> {
        self.children()
            .into_iter()
            .filter(|(_, state)| state == "Z")
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Resident memory of the agent, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.agent.id())).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// Everything that comes until the end: both outputs, and the end event.
pub(crate) fn rest(stream: &mut Stream) -> (String, Value) {
    let mut output = Vec::new();
    loop {
        let event = stream
            .next()
            .unwrap_or_else(|end| panic!("ended with {end}"))["event"]
            .clone();
        for name in ["stdout", "stderr", "pty"] {
            if let Some(data) = event["data"][name].as_str() {
                output.extend(STANDARD.decode(data).unwrap());
            }
        }
        if event["end"].is_object() {
            assert_eq!(stream.next(), Err(json!({})), "the end event is the last");
            return (
                String::from_utf8_lossy(&output).into_owned(),
                event["end"].clone(),
            );
        }
    }
}

/// All processes as (pid, parent, state).
fn processes() -> Vec<(u32, u32, String)> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = pids.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let text = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, after_name) = text.rsplit_once(") ")?;
        let mut fields = after_name.split(' ');
        let state = fields.next()?.to_owned();
        Some((pid, fields.next()?.parse().ok()?, state))
    });
    stats.collect()
}

/// Waits for a condition.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    #[expect(clippy::disallowed_methods, reason = "tests measure real time")]
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

fn merge(target: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        match target.get_mut(key) {
            Some(known) if known.is_object() => merge(known, value),
            _ => target[key] = value.clone(),
        }
    }
}
