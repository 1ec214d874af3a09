//! What fails, cut off at the step that commits the failure.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Rig, is_possible};
use crate::turns::{Turn, Victim};

/// A file of a sandbox's that is out of the way for as long as this lives.
struct Hidden<'a> {
    path: &'a Path,
    elsewhere: std::path::PathBuf,
}

impl<'a> Hidden<'a> {
    fn hide(path: &'a Path) -> Self {
        let elsewhere = path.with_extension("hidden");
        fs::rename(path, &elsewhere).unwrap();
        Self { path, elsewhere }
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // Where the test failed the sandbox may be gone.
        let _ = fs::rename(&self.elsewhere, self.path);
    }
}

/// The number on the host of a sandbox's first process: of those of its user, the first in its
/// namespace, and in a cgroup of this node. Other nodes on the machine have the same users.
fn first_process(rig: &Rig, id: &str) -> Pid {
    let map = rig.exec_until(id, "cat /proc/self/uid_map");
    let user = map.split_whitespace().nth(1).unwrap().to_owned();
    let is_first = |status: &str| {
        let has = |name: &str, at: usize, wanted: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.is_some_and(|line| line.split_whitespace().nth(at) == Some(wanted))
        };
        has("Uid:", 1, &user) && has("NSpid:", 2, "1")
    };
    let instance = fs::read_to_string(rig.path("node/node/instance")).unwrap();
    let found = fs::read_dir("/proc").unwrap().flatten().find(|entry| {
        let text = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        is_first(&text("status")) && text("cgroup").contains(instance.trim())
    });
    let name = found.unwrap().file_name();
    Pid::from_raw(name.to_str().unwrap().parse().unwrap()).unwrap()
}

/// A sandbox whose first process ends is given up once, and nothing of it is left.
#[test]
fn a_failure_survives_a_crash() {
    if !is_possible() {
        return;
    }
    let mut rig = Rig::start();
    let id = rig.create("victim");
    let first = first_process(&rig, &id);
    rig.arm("control.failed");
    kill_process(first, Signal::KILL).unwrap();
    rig.revive("control.failed");
    rig.wait_alone();
    let path = format!("/sandboxes/{id}");
    rig.insist(("DELETE", &path), None, None, &[204, 404]);
    rig.check_bystander();
    rig.finish();
}

/// A pause that the node refuses leaves the sandbox running, and a resume that it refuses leaves
/// it kept; also if the server dies when it has noted that. The retry succeeds.
#[test]
fn a_refused_pause_and_a_refused_resume_survive_a_crash() {
    if !is_possible() {
        return;
    }
    let mut victim = Victim::start();
    let directory = victim.rig.path("node/node/sandboxes").join(&victim.id);
    // Whom the node cannot ask to write the disk it does not pause.
    let socket = directory.join("ctl.sock");
    let hidden = Hidden::hide(&socket);
    victim.cut_off("control.pause-failed", &Turn::pause(true));
    victim.wait_for("running");
    victim.check_memory();
    drop(hidden);
    victim.turn(&Turn::pause(true));
    victim.turn(&Turn::resume());
    victim.check_memory();
    // What has no disk does not begin again.
    victim.turn(&Turn::pause(false));
    let disk = directory.join("disk.img");
    let hidden = Hidden::hide(&disk);
    victim.cut_off("control.resume-failed", &Turn::resume());
    victim.wait_for("paused");
    drop(hidden);
    victim.turn(&Turn::resume());
    victim.check_files();
    victim.finish();
}
