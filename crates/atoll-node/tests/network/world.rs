//! A pretend host for one test: its own network and mount namespace, so that the machine's real
//! network is never touched and nothing outlives the test.

use std::future::Future;
use std::path::PathBuf;
use std::process::Command;

use atoll_node::net::{Config, Pool};
use rustix::mount::{MountPropagationFlags, mount_change};

/// Runs `test` on a thread in fresh namespaces with loopback up. Threads of the runtime inherit
/// them. Prints why and returns if the machine does not allow that.
pub(crate) fn in_pretend_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = crate::sys::enter_fresh_namespaces() {
            println!("skipped: needs root and namespaces ({error})");
            return;
        }
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        // For what `ip netns` leaves there.
        run("mount -t tmpfs none /run");
        run("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command in the calling thread's namespaces and returns its output; it must succeed.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A configuration with a run directory of its own.
pub(crate) fn config(ready: usize, max_slots: u32) -> (tempfile::TempDir, Config) {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        instance: "test".to_owned(),
        run_dir: dir.path().to_owned(),
        ranges: Vec::new(),
        ready,
        max_slots,
        resolvers: Vec::new(),
        denied: Vec::new(),
    };
    (dir, config)
}

/// Waits until the pool has `count` ready slots.
pub(crate) async fn ready(pool: &Pool, count: usize) {
    wait_for("ready slots", || pool.ready() == count).await;
}

/// Waits for a condition, with a limit.
pub(crate) async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("never came: {what}");
}

/// What slots have left in the run directory and among the interfaces.
pub(crate) fn remains(run_dir: &std::path::Path) -> Vec<String> {
    let mut found: Vec<String> = std::fs::read_dir(run_dir.join("netns"))
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect();
    let links = run("ip -br link");
    found.extend(
        links
            .lines()
            .filter(|line| line.starts_with("attest-"))
            .map(str::to_owned),
    );
    found
}

/// The text of a setting as seen inside a slot's namespace.
pub(crate) fn inside(netns: &std::path::Path, command: &str) -> String {
    let netns: PathBuf = netns.to_owned();
    run(&format!("nsenter --net={} {command}", netns.display()))
}
