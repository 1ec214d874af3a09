//! A server and a node as processes of their own, on one data directory, with a sandbox that must
//! not notice what happens to another one.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use atoll_node::doctor::{Verdict, jail_checks};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

const ATOLL: &str = env!("CARGO_BIN_EXE_atoll");
const TOKEN: &str = "a-token-of-the-crash-tests";

/// How long anything may take to come about, a restart of both processes included.
const LIMIT: Duration = Duration::from_secs(60);

/// How long one request may take. A caller that waits longer than this for a dead node asks again.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// How long the caller waits that is cut off.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(1);

/// How long to wait between looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Name of the storage that nodes share, in the folder.
const SHARED: &str = "shared";

/// Counts ten times a second for as long as the sandbox lives.
const COUNTER: &str = "nohup bash -c 'i=0; while sleep 0.1; do i=$((i+1)); echo $i > /tmp/next; \
                       mv /tmp/next /tmp/count; done' > /dev/null 2>&1 &";

/// Whether this machine can run sandboxes; says why not.
pub(crate) fn is_possible() -> bool {
    let checks = jail_checks(&std::env::temp_dir());
    let mut missing = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Missing);
    match missing.next() {
        Some(check) => {
            eprintln!(
                "skipped: no sandboxes here: {}: {}",
                check.subject, check.found
            );
            false
        }
        None => true,
    }
}

/// The processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Server,
    Node,
    /// Another node, where a test wants one.
    Second,
}

/// Where a client knocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// The server's.
    Server,
    /// That of the first node's machine.
    Machine,
}

impl Part {
    /// Whose step it is.
    pub(crate) fn of(step: &str) -> Self {
        if step.starts_with("node.") {
            Self::Node
        } else {
            Self::Server
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Node => "node",
            Self::Second => "second",
        }
    }
}

pub(crate) struct Rig {
    folder: TempDir,
    /// Of server, node, second node and machine.
    ports: [u16; 4],
    children: BTreeMap<Part, Child>,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    key: String,
    bystander: String,
    /// When the bystander began to count.
    counting_since: Instant,
}

/// A sandbox and the token that opens it.
pub(crate) struct Access {
    pub(crate) id: String,
    token: String,
}

/// What an answer was: its status and document.
type Answer = (u16, Value);

impl Rig {
    /// Starts both, and a sandbox that counts.
    pub(crate) fn start() -> Self {
        Self::start_on_disk(None)
    }

    /// The same with a storage that nodes share.
    pub(crate) fn start_sharing() -> Self {
        let folder = tempfile::Builder::new().prefix("crash-").tempdir().unwrap();
        fs::create_dir(folder.path().join(SHARED)).unwrap();
        Self::start_in(folder)
    }

    /// The storage that nodes share, where a test wants one.
    pub(crate) fn shared(&self) -> PathBuf {
        self.path(SHARED)
    }

    /// The same with the server's data in memory, on a file system with these options.
    pub(crate) fn start_on_disk(options: Option<&str>) -> Self {
        let folder = tempfile::Builder::new().prefix("crash-").tempdir().unwrap();
        if let Some(options) = options {
            let data = folder.path().join("server");
            fs::create_dir(&data).unwrap();
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", options, "crash-test"]);
            assert!(mount.arg(data).status().unwrap().success());
        }
        Self::start_in(folder)
    }

    fn start_in(folder: TempDir) -> Self {
        // All at once: a port that is free again may be given twice.
        let listeners = [0; 4].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.map(|listener| listener.local_addr().unwrap().port());
        let mut rig = Self {
            folder,
            ports,
            children: BTreeMap::new(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            client: reqwest::Client::builder().build().unwrap(),
            key: String::new(),
            bystander: String::new(),
            counting_since: Instant::now(),
        };
        rig.run(Part::Server);
        rig.run(Part::Node);
        let ready = rig.wait("the server is ready", |rig| {
            let text = fs::read_to_string(rig.path("server.out")).ok()?;
            serde_json::from_str::<Value>(text.lines().next()?).ok()
        });
        rig.key = ready["api_key"].as_str().unwrap().to_owned();
        rig.bystander = rig.create("bystander");
        rig.exec_until(&rig.bystander, COUNTER);
        rig.exec_until(
            &rig.bystander,
            "until [ -e /tmp/count ]; do sleep 0.1; done",
        );
        rig.counting_since = Instant::now();
        rig
    }

    /// The sandbox that must not notice anything.
    pub(crate) fn bystander(&self) -> &str {
        &self.bystander
    }

    /// The file of the server's store.
    pub(crate) fn database(&self) -> PathBuf {
        self.path("server/atoll.db")
    }

    /// Checks that all processes are those that were started last.
    pub(crate) fn check_lives(&mut self) {
        for part in self.children.keys().copied().collect::<Vec<_>>() {
            let ended = self.child(part).try_wait().unwrap();
            assert_eq!(ended, None, "{part:?}\n{}", self.logs());
        }
    }

    /// Ends a process as a loss of power would.
    pub(crate) fn kill(&mut self, part: Part) {
        let child = self.child(part);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// What the server tells its operator; none if it does not.
    pub(crate) fn ask_operator(&self, path: &str) -> Option<Value> {
        let token = fs::read_to_string(self.path("server/admin-token")).unwrap();
        let request = self.prepare("GET", path, None, None, REQUEST_LIMIT);
        let request = request.header("x-admin-token", token.trim());
        let text = self
            .runtime
            .block_on(async { request.send().await.ok()?.text().await.ok() })?;
        serde_json::from_str(&text).ok()
    }

    /// How the server says that a node stands.
    pub(crate) fn node_state(&self, name: &str) -> Option<String> {
        let node = self.ask_operator(&format!("/admin/v1/nodes/{name}"))?;
        node["state"].as_str().map(str::to_owned)
    }

    /// Whether another process has the first node's port now.
    pub(crate) fn relay_is_replaced(&self, before: u64) -> bool {
        let text = fs::read_to_string(self.path("node/node/relay.json")).unwrap_or_default();
        let state: Option<Value> = serde_json::from_str(&text).ok();
        state.is_some_and(|state| state["pid"].as_u64() != Some(before))
    }

    /// Ends a process in order.
    pub(crate) fn stop(&mut self, part: Part) {
        let id = rustix::process::Pid::from_child(self.child(part));
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.wait_mut("the process stops", |rig| {
            rig.child(part).try_wait().unwrap()
        });
    }

    /// The process that has the first node's port.
    pub(crate) fn relay(&self) -> u64 {
        let text = fs::read_to_string(self.path("node/node/relay.json")).unwrap();
        let state: Value = serde_json::from_str(&text).unwrap();
        state["pid"].as_u64().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts one of the processes.
    pub(crate) fn run(&mut self, part: Part) {
        let name = part.name();
        let log = |suffix: &str| {
            let path = self.path(&format!("{name}.{suffix}"));
            let file = fs::File::options().create(true).append(true).open(path);
            Stdio::from(file.unwrap())
        };
        let [server, node, second, machine] = self.ports;
        let listen = |port: u16| format!("127.0.0.1:{port}");
        let mut command = Command::new(ATOLL);
        command
            .arg(if part == Part::Server {
                "server"
            } else {
                "node"
            })
            .args(["--json", "--data-dir"])
            .arg(self.path(name))
            .env("ATOLL_JOIN_TOKEN", TOKEN)
            .env(
                "ATOLL_CRASH_AT",
                format!("@{}", self.path(&format!("{name}.crash")).display()),
            )
            .stdin(Stdio::null())
            .stdout(log("out"))
            .stderr(log("err"));
        match part {
            Part::Server => command.args(["--listen", &listen(server)]),
            Part::Node => command
                .args(["--listen", &listen(node), "--name", "n1"])
                .args(["--traffic-listen", &listen(machine)]),
            Part::Second => command.args(["--listen", &listen(second), "--name", "n2"]),
        };
        let shared = self.shared();
        if part != Part::Server && shared.exists() {
            command.args(["--snapshot-store", &format!("file://{}", shared.display())]);
        }
        if part != Part::Server {
            command.args(["--server", &format!("http://127.0.0.1:{server}")]);
        }
        self.children.insert(part, command.spawn().unwrap());
    }

    fn child(&mut self, part: Part) -> &mut Child {
        self.children.get_mut(&part).unwrap()
    }

    /// Has a process end when it comes to this step.
    pub(crate) fn arm(&self, step: &str) {
        self.arm_at(Part::of(step), step);
    }

    /// The same of one of several nodes.
    pub(crate) fn arm_at(&self, part: Part, step: &str) {
        let path = self.path(&format!("{}.crash", part.name()));
        fs::write(path, step).unwrap();
    }

    /// Waits for the armed process to have ended at its step, and starts it again.
    pub(crate) fn revive(&mut self, step: &str) {
        self.revive_at(Part::of(step), step);
    }

    /// The same of one of several nodes.
    pub(crate) fn revive_at(&mut self, part: Part, step: &str) {
        self.wait_mut(&format!("{step} ends the process"), |rig| {
            rig.child(part).try_wait().unwrap()
        });
        fs::remove_file(self.path(&format!("{}.crash", part.name()))).unwrap();
        self.run(part);
    }

    /// Waits for something, with a limit.
    pub(crate) fn wait<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(
                since.elapsed() < LIMIT,
                "waited too long: {what}\n{}",
                self.logs()
            );
            std::thread::sleep(PAUSE);
        }
    }

    fn wait_mut<T>(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(
                since.elapsed() < LIMIT,
                "waited too long: {what}\n{}",
                self.logs()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// The last lines of both logs.
    fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read_to_string(self.path(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(25).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        let all = self.children.keys().map(|part| {
            let name = part.name();
            format!("{name}:\n{}", tail(&format!("{name}.err")))
        });
        all.collect::<Vec<_>>().join("\n")
    }

    /// Asks once for what will be cut off. Whoever gets no answer soon asks again later.
    pub(crate) fn attempt(
        &self,
        (method, path): (&str, &str),
        key: Option<&str>,
        body: Option<&Value>,
    ) {
        drop(self.request(method, path, key, body, ATTEMPT_LIMIT));
    }

    /// Whether a change is refused for now, with the time to try again; none if it is not.
    pub(crate) fn refusal(&self, (method, path): (&str, &str), body: Option<&Value>) -> Option<()> {
        let request = self.prepare(method, path, None, body, REQUEST_LIMIT);
        let answer = self.runtime.block_on(async { request.send().await });
        let answer = answer.ok()?;
        let is_refused = answer.status() == reqwest::StatusCode::SERVICE_UNAVAILABLE;
        assert!(
            !is_refused || answer.headers().contains_key("retry-after"),
            "{answer:?}"
        );
        is_refused.then_some(())
    }

    /// One request; none if there was no answer.
    fn request(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
        limit: Duration,
    ) -> Option<Answer> {
        let request = self.prepare(method, path, key, body, limit);
        self.runtime.block_on(async {
            let answer = request.send().await.ok()?;
            let status = answer.status().as_u16();
            let text = answer.text().await.ok()?;
            Some((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
        })
    }

    fn prepare(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
        limit: Duration,
    ) -> reqwest::RequestBuilder {
        let url = format!("http://127.0.0.1:{}{path}", self.ports[0]);
        let method = method.parse().unwrap();
        let mut request = self.client.request(method, url).timeout(limit);
        request = request.header("x-api-key", &self.key);
        if let Some(key) = key {
            request = request.header("idempotency-key", key.replace('.', "-"));
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request
    }

    /// Repeats a request until it is answered with one of these, as a careful client does.
    pub(crate) fn insist(
        &self,
        (method, path): (&str, &str),
        key: Option<&str>,
        body: Option<&Value>,
        wanted: &[u16],
    ) -> Value {
        let mut last = None;
        self.wait(&format!("{method} {path} is answered"), |rig| {
            let answer = rig.request(method, path, key, body, REQUEST_LIMIT);
            let answer = answer.filter(|(status, document)| {
                let is_wanted = wanted.contains(status);
                if !is_wanted && last.as_ref() != Some(document) {
                    eprintln!("{method} {path}: {status} {document}");
                    last = Some(document.clone());
                }
                is_wanted
            });
            answer.map(|(_, document)| document)
        })
    }

    /// What a create of this name asks for.
    pub(crate) fn wish(name: &str) -> Value {
        json!({
            "templateID": "base",
            "timeout": 3600,
            "secure": true,
            "metadata": {"name": name},
        })
    }

    /// Makes a sandbox, however often that must be asked.
    pub(crate) fn create(&self, name: &str) -> String {
        let made = self.insist(
            ("POST", "/sandboxes"),
            Some(name),
            Some(&Self::wish(name)),
            &[201],
        );
        made["sandboxID"].as_str().unwrap().to_owned()
    }

    /// The names of the sandboxes there are, with their states.
    pub(crate) fn list(&self) -> Vec<(String, String)> {
        let list = self.insist(("GET", "/v2/sandboxes"), None, None, &[200]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let rows = list.as_array().unwrap().iter();
        let mut found: Vec<_> = rows
            .map(|row| (text(&row["metadata"]["name"]), text(&row["state"])))
            .collect();
        found.sort();
        found
    }

    /// Runs a command in a sandbox; none if it did not come to its end.
    pub(crate) fn exec(&self, id: &str, command: &str) -> Option<String> {
        let output = Command::new(ATOLL)
            .args(["sandbox", "exec", "--data-dir"])
            .arg(self.path("server"))
            .args([id, "--", "bash", "-c", command])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    }

    /// Runs a command, however often that must be tried.
    pub(crate) fn exec_until(&self, id: &str, command: &str) -> String {
        self.wait(&format!("`{command}` runs"), |rig| rig.exec(id, command))
    }

    /// What it takes to use a sandbox without a word with the control plane.
    pub(crate) fn access(&self, id: &str) -> Access {
        let path = format!("/v2/sandboxes/{id}/connect");
        let wish = json!({ "timeout": 3600 });
        let shown = self.insist(("POST", &path), None, Some(&wish), &[200, 201]);
        Access {
            id: id.to_owned(),
            token: shown["envdAccessToken"].as_str().unwrap().to_owned(),
        }
    }

    /// Runs a command in a sandbox as a client does that has access already: what it wrote; none
    /// if it did not come to its end.
    pub(crate) fn command(&self, access: &Access, command: &str) -> Option<String> {
        self.command_at(Door::Server, access, command)
    }

    /// The same, through this door.
    pub(crate) fn command_at(&self, door: Door, access: &Access, command: &str) -> Option<String> {
        let request = self.guest_call(door, access, "Start", &bash(command));
        let request = request.timeout(REQUEST_LIMIT);
        let bytes = self.runtime.block_on(async {
            let answer = request.send().await.ok()?;
            answer.bytes().await.ok()
        })?;
        let written = written(&bytes)?;
        written.has_ended.then(|| written.text.trim().to_owned())
    }

    /// A call of a sandbox's guest agent that is answered by a stream.
    pub(crate) fn guest_call(
        &self,
        door: Door,
        access: &Access,
        method: &str,
        message: &Value,
    ) -> reqwest::RequestBuilder {
        let message = message.to_string();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = [&[0], &length[..], message.as_bytes()].concat();
        let port = match door {
            Door::Server => self.ports[0],
            Door::Machine => self.ports[3],
        };
        let url = format!("http://127.0.0.1:{port}/process.Process/{method}");
        // Connections of its own: one that a dead process left must not be taken for a refusal.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0);
        let request = client.build().unwrap().post(url).body(body);
        request
            .header("e2b-sandbox-id", &access.id)
            .header("e2b-sandbox-port", "49983")
            .header("x-access-token", &access.token)
            .header("content-type", "application/connect+json")
            .header("connect-protocol-version", "1")
    }

    /// Checks that the bystander went on counting all the time.
    pub(crate) fn check_bystander(&self) {
        self.judge_count(&self.exec_until(&self.bystander, "cat /tmp/count"));
    }

    /// Checks that what the bystander counted is what it must have if it never stood still.
    pub(crate) fn judge_count(&self, count: &str) {
        let since = self.counting_since.elapsed();
        let count: u64 = count.parse().unwrap();
        // A busy machine may halve its speed; a stop of a second at each step would show.
        let least = u64::try_from(since.as_millis() / 300).unwrap();
        assert!(count >= least, "it counted {count} in {since:?}");
    }

    /// The sandboxes that the node's ledger knows.
    pub(crate) fn ledger(&self) -> Vec<String> {
        self.ledger_of(Part::Node)
    }

    /// The same of one of several nodes; nothing while it was never started.
    pub(crate) fn ledger_of(&self, part: Part) -> Vec<String> {
        let folder = self.path(&format!("{}/node/sandboxes", part.name()));
        let entries = fs::read_dir(folder).into_iter().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Waits until there is nothing but the bystander, in the API and on the node.
    pub(crate) fn wait_alone(&self) {
        self.wait("only the bystander is left", |rig| {
            let is_alone = rig.list() == [("bystander".to_owned(), "running".to_owned())]
                && rig.ledger() == [rig.bystander.as_str()];
            is_alone.then_some(())
        });
    }

    /// Ends everything in order, and checks that nothing at all is left on the machine.
    pub(crate) fn finish(mut self) {
        self.insist(
            ("DELETE", &format!("/sandboxes/{}", self.bystander)),
            None,
            None,
            &[204, 404],
        );
        self.wait("the ledger is empty", |rig| {
            rig.ledger().is_empty().then_some(())
        });
        let mut parts: Vec<Part> = self.children.keys().copied().collect();
        // Nodes first.
        parts.reverse();
        let instances: Vec<String> = parts[..parts.len() - 1]
            .iter()
            .map(|part| self.path(&format!("{}/node/instance", part.name())))
            .map(|path| fs::read_to_string(path).unwrap().trim().to_owned())
            .collect();
        for part in parts {
            self.stop(part);
        }
        // Where its data is on a file system of its own, that is not a leftover.
        self.unmount();
        self.wait("nothing is left", |rig| {
            let left = rig.leftovers(&instances);
            if !left.is_empty() {
                eprintln!("left: {left:?}");
            }
            left.is_empty().then_some(())
        });
    }

    fn unmount(&self) {
        let data = self.path("server");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        if mounts.contains(data.to_str().unwrap()) {
            let done = Command::new("umount").arg(data).status().unwrap();
            assert!(done.success());
        }
    }

    /// Processes, mounts, cgroups, links and loop devices of the nodes.
    fn leftovers(&self, instances: &[String]) -> Vec<String> {
        let folder = self.folder.path().to_str().unwrap();
        let mut left = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(folder) {
                left.push(line);
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(folder))
                .map(str::to_owned),
        );
        for instance in instances {
            left.extend(cgroups(Path::new("/sys/fs/cgroup"), instance, 3));
            let prefix = format!("at{instance}-");
            left.extend(names("/sys/class/net").filter(|name| name.starts_with(&prefix)));
        }
        // The file behind a device, or nothing where there is none.
        let backing = names("/sys/block").filter_map(|name| {
            let path = format!("/sys/block/{name}/loop/backing_file");
            let file = fs::read_to_string(path).ok()?;
            Some(format!("{name}: {}", file.trim()))
        });
        left.extend(backing.filter(|line| line.contains(folder)));
        left
    }
}

/// What has a command run by a shell.
pub(crate) fn bash(command: &str) -> Value {
    json!({ "process": { "cmd": "/bin/bash", "args": ["-c", command] } })
}

/// What a stream of a process's events tells.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) pid: Option<u64>,
    pub(crate) text: String,
    pub(crate) has_ended: bool,
}

/// What the whole events of a stream tell; none if one of them is none.
pub(crate) fn written(mut stream: &[u8]) -> Option<Written> {
    let mut found = Written::default();
    let mut bytes = Vec::new();
    while let Some((head, rest)) = stream.split_first_chunk::<5>() {
        let [_, length @ ..] = *head;
        let Some((message, rest)) = rest.split_at_checked(u32::from_be_bytes(length) as usize)
        else {
            break;
        };
        stream = rest;
        let event = serde_json::from_slice::<Value>(message).ok()?;
        let event = &event["event"];
        if let Some(text) = event["data"]["stdout"].as_str() {
            bytes.extend(BASE64_STANDARD.decode(text).ok()?);
        }
        found.pid = found.pid.or_else(|| event["start"]["pid"].as_u64());
        found.has_ended |= event["end"].is_object();
    }
    found.text = String::from_utf8_lossy(&bytes).into_owned();
    Some(found)
}

/// The names of what a folder of the system holds.
fn names(folder: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Cgroups that carry the node's instance in their names, a few levels down.
fn cgroups(folder: &Path, instance: &str, levels: u32) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(instance) {
            found.push(entry.path().display().to_string());
        } else if levels > 0 {
            found.extend(cgroups(&entry.path(), instance, levels - 1));
        }
    }
    found
}

impl Drop for Rig {
    /// Leaves the machine clean also where a test failed.
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            // What ended already needs no signal.
            let _ = child.kill();
            let _ = child.wait();
        }
        let folder = self.folder.path().display();
        let script = format!(
            "pkill -KILL -f {folder}/; sleep 0.5; grep -o ' {folder}/[^ ]*' /proc/self/mountinfo \
             | sort -r | xargs -r -n 1 umount -l"
        );
        let _ = Command::new("sh").args(["-c", &script]).status();
    }
}
