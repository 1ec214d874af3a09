//! A real Consul agent that forgets everything when it ends, and a way to it that can be slow.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::rig::{Client, eventually};

/// Where the program is: named, put there for tests, or installed. Says why there is none.
pub(crate) fn program() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let beside = beside.parent().unwrap().join("consul/usr/bin/consul");
    let named = std::env::var_os("ATOLL_TEST_CONSUL").map(PathBuf::from);
    let candidates = [named, Some(beside), Some(PathBuf::from("consul"))];
    let found = candidates.into_iter().flatten().find(|program| {
        let mut version = Command::new(program);
        version
            .arg("version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    });
    if found.is_none() {
        eprintln!("skipped: no `consul` in the path or in ATOLL_TEST_CONSUL");
    }
    found
}

/// A port for each of so many listeners; all at once, because one that is free again may be given
/// twice.
pub(crate) fn ports<const N: usize>() -> [u16; N] {
    let listeners = [0; N].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// The agent.
pub(crate) struct Consul {
    program: PathBuf,
    folder: TempDir,
    ports: [u16; 4],
    arguments: Vec<String>,
    child: Option<Child>,
    pub(crate) client: Client,
}

impl Consul {
    pub(crate) fn start(program: PathBuf) -> Self {
        Self::start_with(program, "{}", |_| Vec::new())
    }

    /// Starts one with a file of settings, and with arguments that may name files in its folder.
    pub(crate) fn start_with(
        program: PathBuf,
        settings: &str,
        arguments: impl FnOnce(&std::path::Path) -> Vec<String>,
    ) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("consul-")
            .tempdir()
            .unwrap();
        fs::write(folder.path().join("settings.json"), settings).unwrap();
        let ports = ports();
        let mut consul = Self {
            program,
            arguments: arguments(folder.path()),
            folder,
            ports,
            child: None,
            client: Client::new(format!("http://127.0.0.1:{}", ports[0])),
        };
        consul.run();
        consul
    }

    /// Starts it, without anything it knew before.
    pub(crate) fn run(&mut self) {
        let [http, server, serf, https] = self.ports.map(|port| port.to_string());
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(&self.program);
        command
            .args(["agent", "-dev", "-node", "here", "-bind", "127.0.0.1"])
            .args(["-client", "127.0.0.1", "-http-port", &http])
            .args(["-server-port", &server, "-serf-lan-port", &serf])
            .args([
                "-serf-wan-port",
                "-1",
                "-dns-port",
                "-1",
                "-grpc-port",
                "-1",
            ])
            .args(["-https-port", &https, "-config-file"])
            .arg(self.folder.path().join("settings.json"))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if self.arguments.is_empty() {
            command.args(["-https-port", "-1"]);
        }
        self.child = Some(command.spawn().unwrap());
        eventually("Consul has a leader", || {
            let (status, leader) = self.client.ask("GET", "/v1/status/leader", None)?;
            (status == 200 && leader != Value::String(String::new())).then_some(())
        });
    }

    /// Ends it as a loss of power would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) const fn port(&self) -> u16 {
        self.ports[0]
    }

    pub(crate) const fn https_port(&self) -> u16 {
        self.ports[3]
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// What offers a service: ids with what Consul says of each.
    pub(crate) fn services(&self, name: &str) -> Vec<Value> {
        let path = format!("/v1/health/service/{name}");
        let answer = self.client.ask("GET", &path, None);
        match answer {
            Some((200, Value::Array(rows))) => rows,
            _ => Vec::new(),
        }
    }

    /// The ids of what offers a service, in order.
    pub(crate) fn ids(&self, name: &str) -> Vec<String> {
        let rows = self.services(name).into_iter();
        let id = |row: Value| row["Service"]["ID"].as_str().unwrap().to_owned();
        let mut ids: Vec<_> = rows.map(id).collect();
        ids.sort_unstable();
        ids
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Carries connections to a port, each piece of an answer after a delay.
pub(crate) struct Detour {
    pub(crate) port: u16,
    delay_ms: Arc<AtomicU64>,
}

impl Detour {
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let detour = Self {
            port: listener.local_addr().unwrap().port(),
            delay_ms: Arc::default(),
        };
        let delay_ms = Arc::clone(&detour.delay_ms);
        // They end with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let pair = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || pass(pair.0, pair.1, &AtomicU64::new(0)));
                let delay_ms = Arc::clone(&delay_ms);
                std::thread::spawn(move || pass(server, client, &delay_ms));
            }
        });
        detour
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).unwrap();
        self.delay_ms.store(delay, Ordering::Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, delay_ms: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        let delay = delay_ms.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(delay));
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
}
