//! A server as a process of its own, and the commands that talk to it.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use atoll_core::template::BuildStatus;
use atoll_store::sqlite::SqliteStore;
use atoll_store::store::Store as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

const ATOLL: &str = env!("CARGO_BIN_EXE_atoll");

/// How long anything may take to come about, a start included.
const LIMIT: Duration = Duration::from_secs(60);

/// How long to wait between looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(PAUSE).await;
    }
}

/// A program of this test's; ends with it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines of a program, as they come.
fn lines(output: ChildStdout) -> mpsc::Receiver<String> {
    let (to, lines) = mpsc::channel(1_024);
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if to.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

pub(crate) struct Server {
    folder: TempDir,
    port: u16,
    targets: &'static str,
    process: Option<Process>,
    url: String,
    key: String,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with("any").await
    }

    pub(crate) async fn start_with(targets: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut server = Self {
            folder: tempfile::Builder::new()
                .prefix("events-")
                .tempdir()
                .unwrap(),
            port,
            targets,
            process: None,
            url: String::new(),
            key: String::new(),
        };
        server.restart().await;
        server.kill();
        server.seed().await;
        server.restart().await;
        server
    }

    /// Stores a template that is ready, as if a node had made it and gone.
    async fn seed(&self) {
        let path = self.folder.path().join("data/atoll.db");
        let store = SqliteStore::open(&path).await.unwrap();
        let rows = store.template_list().await.unwrap();
        let mut template = rows[0].template.clone();
        template.id = "seeded0000000000000".parse().unwrap();
        template.build = "00000000-0000-4000-8000-000000000001".parse().unwrap();
        template.names = vec!["seeded".to_owned()];
        template.status = BuildStatus::Ready;
        store.template_insert(&template).await.unwrap();
    }

    /// Starts it on its data directory and port, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        let listen = format!("127.0.0.1:{}", self.port);
        let mut child = Command::new(ATOLL)
            .args(["server", "--json", "--listen", &listen, "--data-dir"])
            .arg(self.folder.path().join("data"))
            .args(["--webhook-targets", self.targets])
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = lines(child.stdout.take().unwrap());
        self.process = Some(Process(child));
        let ready = timeout(LIMIT, output.recv())
            .await
            .expect("it is not ready");
        let ready: Value = serde_json::from_str(&ready.expect("it ended")).unwrap();
        self.url = ready["api_url"].as_str().unwrap().to_owned();
        self.key = ready["api_key"].as_str().unwrap().to_owned();
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(ATOLL);
        command
            .args(arguments)
            .env("E2B_API_URL", &self.url)
            .env("E2B_API_KEY", &self.key)
            .stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that succeeds; answers what it prints.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that fails; answers its complaint.
    pub(crate) fn fail(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Follows the events from the beginning.
    pub(crate) fn follow(&self, selection: &[&str]) -> Follower {
        let mut command = self.command(&["events", "--follow", "--json", "--from", "beginning"]);
        let mut child = command
            .args(selection)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines(child.stdout.take().unwrap());
        Follower {
            lines,
            _process: Process(child),
        }
    }

    /// Asks for a sandbox, which no node can take.
    pub(crate) async fn create_in_vain(&self) {
        let client = reqwest::Client::builder().timeout(LIMIT).build().unwrap();
        let request = client
            .post(format!("{}/v2/sandboxes", self.url))
            .header("X-API-Key", &self.key)
            .body(r#"{"templateID":"seeded"}"#);
        let answer = request.send().await.unwrap();
        let status = answer.status();
        assert_eq!(status.as_u16(), 503, "{}", answer.text().await.unwrap());
    }
}

/// `atoll events --follow`.
pub(crate) struct Follower {
    lines: mpsc::Receiver<String>,
    _process: Process,
}

impl Follower {
    /// Waits until it has told of these sandboxes, each once and in this order.
    pub(crate) async fn until(&mut self, wanted: &[String]) {
        for id in wanted {
            let line = timeout(LIMIT, self.lines.recv()).await;
            let line = line.expect("nothing followed").expect("it ended");
            let event: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(event["sandboxID"], id.as_str());
        }
    }
}
