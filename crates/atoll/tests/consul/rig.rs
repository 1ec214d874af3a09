//! A server and a node as processes of their own, and clients of what they and Consul offer.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use atoll_node::doctor::{Verdict, jail_checks};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::agent::ports;

const ATOLL: &str = env!("CARGO_BIN_EXE_atoll");
const TOKEN: &str = "a-token-of-the-consul-tests";

/// How long anything may take to come about.
const LIMIT: Duration = Duration::from_secs(60);

/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// How long to wait between looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits for something, with a limit.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < LIMIT, "not in time: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually(what, || is_so().then_some(()));
}

/// Whether this machine can run sandboxes; says why not.
pub(crate) fn is_possible() -> bool {
    let checks = jail_checks(&std::env::temp_dir());
    let missing = checks
        .iter()
        .find(|check| check.verdict == Verdict::Missing);
    if let Some(check) = missing {
        eprintln!(
            "skipped: no sandboxes here: {}: {}",
            check.subject, check.found
        );
    }
    missing.is_none()
}

/// Asks one HTTP API.
pub(crate) struct Client {
    base: String,
    header: Option<(&'static str, String)>,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
}

impl Client {
    pub(crate) fn new(base: String) -> Self {
        Self {
            base,
            header: None,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    pub(crate) fn showing(mut self, name: &'static str, value: &str) -> Self {
        self.header = Some((name, value.to_owned()));
        self
    }

    /// Status and document of the answer; none if nobody answered.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Option<(u16, Value)> {
        let url = format!("{}{path}", self.base);
        let method = method.parse().unwrap();
        let mut request = self.client.request(method, url).timeout(REQUEST_LIMIT);
        if let Some((name, value)) = &self.header {
            request = request.header(*name, value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.runtime.block_on(async {
            let answer = request.send().await.ok()?;
            let status = answer.status().as_u16();
            let text = answer.text().await.ok()?;
            Some((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
        })
    }

    /// The document of an answer that must be one of success.
    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask("GET", path, None).expect("an answer");
        assert!(status < 300, "{path}: {status} {answer}");
        answer
    }
}

/// The processes.
pub(crate) struct Rig {
    folder: TempDir,
    ports: [u16; 2],
    children: BTreeMap<&'static str, Child>,
    api: Option<Client>,
    operator: Option<Client>,
}

impl Rig {
    /// Starts a server that is told of Consul so.
    pub(crate) fn start(consul: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("rig-").tempdir().unwrap();
        let mut rig = Self {
            folder,
            ports: ports(),
            children: BTreeMap::new(),
            api: None,
            operator: None,
        };
        rig.run("server", consul);
        let ready = eventually("the server is ready", || {
            let text = fs::read_to_string(rig.path("server.out")).ok()?;
            serde_json::from_str::<Value>(text.lines().next()?).ok()
        });
        let url = ready["api_url"].as_str().unwrap();
        let token = fs::read_to_string(rig.path("server/admin-token")).unwrap();
        let key = ready["api_key"].as_str().unwrap();
        rig.api = Some(Client::new(url.to_owned()).showing("x-api-key", key));
        let operator = Client::new(url.to_owned());
        rig.operator = Some(operator.showing("x-admin-token", token.trim()));
        rig
    }

    /// Starts the node `n1` that is told of Consul and of servers so, and waits until it serves.
    pub(crate) fn start_node(&mut self, arguments: &[&str]) {
        self.run("node", arguments);
        until("the node serves", || self.node_state() == "ready");
    }

    pub(crate) fn node_state(&self) -> String {
        let (_, node) = self
            .operator()
            .ask("GET", "/admin/v1/nodes/n1", None)
            .unwrap();
        node["state"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn api(&self) -> &Client {
        self.api.as_ref().unwrap()
    }

    pub(crate) fn operator(&self) -> &Client {
        self.operator.as_ref().unwrap()
    }

    /// Where the server is.
    pub(crate) fn server_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    pub(crate) const fn node_port(&self) -> u16 {
        self.ports[1]
    }

    /// Starts one of the processes.
    pub(crate) fn run(&mut self, part: &'static str, consul: &[&str]) {
        let log = |suffix: &str| {
            Stdio::from(fs::File::create(self.path(&format!("{part}.{suffix}"))).unwrap())
        };
        let [server, node] = self.ports.map(|port| format!("127.0.0.1:{port}"));
        let mut command = Command::new(ATOLL);
        command
            .args([part, "--json", "--data-dir"])
            .arg(self.path(part))
            .args(consul)
            .env("ATOLL_JOIN_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(log("out"))
            .stderr(log("err"));
        if part == "server" {
            command.args(["--listen", &server, "--consul-interval-s", "1"]);
        } else {
            command.args(["--listen", &node, "--name", "n1"]);
        }
        self.children.insert(part, command.spawn().unwrap());
    }

    /// Makes a sandbox, and answers with its id.
    pub(crate) fn create(&self) -> String {
        let wish = json!({"templateID": "base", "timeout": 300});
        let made = eventually("a sandbox is made", || {
            let (status, made) = self.api().ask("POST", "/sandboxes", Some(wish.clone()))?;
            // `base` may still be in the making.
            (status == 201).then_some(made)
        });
        made["sandboxID"].as_str().unwrap().to_owned()
    }

    pub(crate) fn remove(&self, id: &str) {
        let path = format!("/sandboxes/{id}");
        let (status, answer) = self.api().ask("DELETE", &path, None).unwrap();
        assert_eq!(status, 204, "{answer}");
    }

    /// What health says of discovery: status and details.
    pub(crate) fn discovery(&self) -> Value {
        self.health("discovery")
    }

    /// What health says of a component.
    pub(crate) fn health(&self, name: &str) -> Value {
        let (_, health) = self
            .operator()
            .ask("GET", "/admin/v1/health", None)
            .unwrap();
        let parts = health["components"].as_array().cloned().unwrap_or_default();
        let found = parts.into_iter().find(|part| part["name"] == name);
        found.unwrap_or(Value::Null)
    }

    /// How often the directory was repaired so, of which sandboxes.
    pub(crate) fn repairs(&self, kind: &str) -> Vec<String> {
        let all = self.operator().get("/admin/v1/corrections");
        let all = all.as_array().cloned().unwrap_or_default();
        let of_kind = all.into_iter().filter(|repair| repair["kind"] == kind);
        of_kind
            .map(|repair| repair["sandboxID"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Ends a process in order.
    pub(crate) fn stop(&mut self, part: &'static str) {
        let mut child = self.children.remove(part).unwrap();
        terminate(&child);
        until("the process stops", || child.try_wait().unwrap().is_some());
    }

    /// The log of a process, for a failure's message.
    pub(crate) fn log(&self, part: &str) -> String {
        fs::read_to_string(self.path(&format!("{part}.err"))).unwrap_or_default()
    }
}

fn terminate(child: &Child) {
    let id = rustix::process::Pid::from_child(child);
    // It may have ended already.
    let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "server:\n{}\nnode:\n{}",
                self.log("server"),
                self.log("node")
            );
        }
        // Sandboxes outlive their node: they end while there is one.
        if let Some((200, Value::Array(left))) = self
            .api
            .as_ref()
            .filter(|_| self.children.contains_key("node") && !std::thread::panicking())
            .and_then(|api| api.ask("GET", "/v2/sandboxes", None))
        {
            for sandbox in left {
                self.remove(sandbox["sandboxID"].as_str().unwrap_or_default());
            }
        }
        for child in self.children.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        end_relay(&self.path("node/node/relay.json"));
    }
}

/// A node's relay outlives it.
fn end_relay(file: &std::path::Path) {
    let text = fs::read_to_string(file).unwrap_or_default();
    let state: Value = serde_json::from_str(&text).unwrap_or_default();
    let pid = state["pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
