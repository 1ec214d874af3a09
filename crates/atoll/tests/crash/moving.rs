//! A sandbox that goes on on another node, from what shared storage has, cut off at every step.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::rig::{Part, Rig, is_possible};

/// Each step by which the files of a paused sandbox come to shared storage.
const STORE: [&str; 6] = [
    "node.snapshot.begun",
    "node.snapshot.parts",
    "node.snapshot.whole",
    "node.snapshot.verified",
    "node.snapshot.recorded",
    "control.snapshot",
];

/// Each step of the server by which it goes on on another node. Those of the node are those of a
/// create.
const MOVE: [&str; 4] = [
    "control.relocating",
    "control.ensure.sent",
    "control.ensure.answered",
    "control.running",
];

const WRITE: &str = "echo kept > ~/file; seq 1 200000 > ~/numbers; sha256sum < ~/numbers";
const LOOK: &str = "cat ~/file; sha256sum < ~/numbers";

/// What is asked for, and the answers that end the asking.
type Turn = (&'static str, Value, &'static [u16]);

fn pause() -> Turn {
    ("pause", json!({ "memory": false }), &[204, 409])
}

fn resume() -> Turn {
    ("resume", json!({ "timeout": 3600 }), &[201, 409])
}

/// A sandbox that wrote something.
struct Traveller {
    id: String,
    sum: String,
}

impl Traveller {
    fn start(rig: &Rig, name: &str) -> Self {
        let id = rig.create(name);
        let sum = rig.exec_until(&id, WRITE);
        Self { id, sum }
    }

    fn path(&self, what: &str) -> String {
        format!("/sandboxes/{}/{what}", self.id)
    }

    fn turn(&self, rig: &Rig, (what, body, answers): Turn) {
        let path = self.path(what);
        rig.insist(("POST", &path), None, Some(&body), answers);
        let wanted = if what == "pause" { "paused" } else { "running" };
        rig.wait(&format!("it is {wanted}"), |rig| {
            let path = format!("/sandboxes/{}", self.id);
            let shown = rig.insist(("GET", &path), None, None, &[200]);
            (shown["state"] == wanted).then_some(())
        });
    }

    /// Asks, and is cut off at the step.
    fn cut_off(&self, rig: &mut Rig, (part, step): (Part, &str), (what, body, _): Turn) {
        eprintln!("{what}: {step}");
        rig.arm_at(part, step);
        rig.attempt(("POST", &self.path(what)), None, Some(&body));
        rig.revive_at(part, step);
    }

    /// Waits until others can go on with it, for the time of this number.
    fn wait_stored(&self, rig: &Rig, time: usize) {
        rig.wait("its files are in shared storage", |rig| {
            let path = format!("/v2/sandboxes/{}/logs?limit=1000", self.id);
            let log = rig.insist(("GET", &path), None, None, &[200]).to_string();
            (log.matches("are in shared storage").count() == time).then_some(())
        });
    }

    fn check(&self, rig: &Rig) {
        assert_eq!(
            rig.exec_until(&self.id, LOOK),
            format!("kept\n{}", self.sum)
        );
    }

    fn remove(&self, rig: &Rig) {
        let path = format!("/sandboxes/{}", self.id);
        rig.insist(("DELETE", &path), None, None, &[204, 404]);
        rig.wait("no node has it", |rig| {
            let is_gone = |part| !rig.ledger_of(part).contains(&self.id);
            (is_gone(Part::Node) && is_gone(Part::Second)).then_some(())
        });
    }
}

/// What is in shared storage.
fn stored(rig: &Rig) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![rig.shared()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("store.json") {
                found.push(path);
            }
        }
    }
    found
}

/// Waits until nothing is in shared storage. What a server that was killed did not come to remove
/// is left to the sweep, so this is for those that were not.
fn wait_unstored(rig: &Rig) {
    rig.wait("nothing is stored", |rig| {
        stored(rig).is_empty().then_some(())
    });
}

/// Has one of the nodes take nothing new, and the other take all.
fn prefer(rig: &Rig, (yes, no): (&str, &str)) {
    for (what, node) in [("undrain", yes), ("drain", no)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        command.args(["nodes", what, node, "--data-dir"]);
        command.arg(rig.path("server"));
        rig.wait(&format!("{what} {node}"), |_| {
            let output = command.output().unwrap();
            output.status.success().then_some(())
        });
    }
}

/// Whatever step the upload is cut off at, it comes to its end, and a resume finds every file.
#[test]
fn an_upload_survives_a_crash_at_every_step() {
    if !is_possible() {
        return;
    }
    let mut rig = Rig::start_sharing();
    let traveller = Traveller::start(&rig, "traveller");
    for (time, step) in STORE.into_iter().enumerate() {
        traveller.cut_off(&mut rig, (Part::of(step), step), pause());
        traveller.turn(&rig, pause());
        traveller.wait_stored(&rig, time + 1);
        traveller.turn(&rig, resume());
        traveller.check(&rig);
        rig.check_bystander();
    }
    traveller.remove(&rig);
    wait_unstored(&rig);
    rig.finish();
}

/// Whatever step of the server a resume on another node is cut off at, it serves there, with every
/// file, and nothing of it is left where it was.
#[test]
fn a_move_survives_a_crash_at_every_step() {
    if !is_possible() {
        return;
    }
    let mut rig = Rig::start_sharing();
    rig.run(Part::Second);
    rig.wait("the second node is there", |rig| {
        (rig.node_state("n2")? == "ready").then_some(())
    });
    for step in MOVE {
        prefer(&rig, ("n1", "n2"));
        let traveller = Traveller::start(&rig, step);
        traveller.turn(&rig, pause());
        traveller.wait_stored(&rig, 1);
        prefer(&rig, ("n2", "n1"));
        traveller.cut_off(&mut rig, (Part::of(step), step), resume());
        traveller.turn(&rig, resume());
        traveller.check(&rig);
        rig.wait("it is on the second node only", |rig| {
            let is_on = |part| rig.ledger_of(part).contains(&traveller.id);
            (is_on(Part::Second) && !is_on(Part::Node)).then_some(())
        });
        rig.check_bystander();
        traveller.remove(&rig);
    }
    rig.finish();
}

/// A node that is gone for good takes nothing along that was in shared storage. What is damaged
/// there is refused, and what is mended goes on.
#[test]
fn what_a_dead_node_kept_goes_on_on_another() {
    if !is_possible() {
        return;
    }
    let mut rig = Rig::start_sharing();
    let traveller = Traveller::start(&rig, "traveller");
    rig.run(Part::Second);
    traveller.turn(&rig, pause());
    traveller.wait_stored(&rig, 1);
    rig.kill(Part::Node);
    rig.wait("the first node is lost", |rig| {
        (rig.node_state("n1")? == "lost").then_some(())
    });
    let part = stored(&rig)
        .into_iter()
        .find(|path| !path.ends_with("manifest.json"))
        .unwrap();
    let whole = fs::read(&part).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&part, flipped).unwrap();
    let (what, body, _) = resume();
    let refused = rig.insist(("POST", &traveller.path(what)), None, Some(&body), &[500]);
    let name = part.file_name().unwrap().to_str().unwrap();
    assert!(refused.to_string().contains(name), "{refused}");
    assert!(rig.ledger_of(Part::Second).is_empty());
    fs::write(&part, whole).unwrap();
    traveller.turn(&rig, resume());
    traveller.check(&rig);
    assert_eq!(rig.ledger_of(Part::Second), [traveller.id.as_str()]);
    // The node comes back with its copy, which is in nobody's way for long.
    rig.run(Part::Node);
    rig.wait("the copy is gone", |rig| {
        let is_gone = !rig.ledger_of(Part::Node).contains(&traveller.id);
        is_gone.then_some(())
    });
    traveller.check(&rig);
    traveller.remove(&rig);
    wait_unstored(&rig);
    rig.finish();
}
