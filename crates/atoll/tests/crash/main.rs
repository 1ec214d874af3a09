//! A server and a node are killed at every step that is named in `atoll_core::crash`, with real
//! sandboxes: the caller's retry gives one sandbox, nothing is lost, nothing is left over, and a
//! sandbox beside it never notices.
#![cfg(test)]
#![expect(
    clippy::print_stderr,
    reason = "what is skipped says so, and a failure shows at which step it was"
)]

mod failures;
mod moving;
mod outage;
mod rig;
mod service;
mod turns;

use rig::{Rig, is_possible};

/// Each step that a create comes by.
const CREATE: [&str; 10] = [
    "control.intent",
    "control.ensure.sent",
    "control.ensure.answered",
    "control.running",
    "node.ensure.admitted",
    "node.ensure.recorded",
    "node.ensure.created",
    "node.ensure.initialised",
    "node.ensure.running",
    "node.ensure.answer",
];

/// Each step that a delete comes by.
const DELETE: [&str; 9] = [
    "control.intent",
    "control.stopping",
    "control.remove.sent",
    "control.remove.answered",
    "control.removed",
    "node.remove.ordered",
    "node.remove.released",
    "node.remove.gone",
    "node.remove.answer",
];

fn running(name: &str) -> Vec<(String, String)> {
    let row = |name: &str| (name.to_owned(), "running".to_owned());
    vec![row("bystander"), row(name)]
}

/// Whatever step a create is cut off at, its retry with the same key gives the one sandbox.
#[test]
fn a_create_survives_a_crash_at_every_step() {
    if !is_possible() {
        return;
    }
    let mut rig = Rig::start();
    for step in CREATE {
        eprintln!("create: {step}");
        rig.arm(step);
        let wish = Rig::wish(step);
        rig.attempt(("POST", "/sandboxes"), Some(step), Some(&wish));
        rig.revive(step);
        let id = rig.create(step);
        assert_eq!(rig.create(step), id, "the key finds the same sandbox");
        assert_eq!(rig.exec_until(&id, "echo served"), "served");
        assert_eq!(rig.list(), running(step));
        rig.check_bystander();
        rig.insist(
            ("DELETE", &format!("/sandboxes/{id}")),
            None,
            None,
            &[204, 404],
        );
        rig.wait_alone();
    }
    rig.finish();
}

/// Whatever step a delete is cut off at, the sandbox goes, and the retry is answered.
#[test]
fn a_delete_survives_a_crash_at_every_step() {
    if !is_possible() {
        return;
    }
    let mut rig = Rig::start();
    for step in DELETE {
        eprintln!("delete: {step}");
        let id = rig.create(step);
        rig.arm(step);
        let path = format!("/sandboxes/{id}");
        rig.attempt(("DELETE", &path), None, None);
        rig.revive(step);
        rig.insist(("DELETE", &path), None, None, &[204, 404]);
        rig.wait_alone();
        rig.check_bystander();
    }
    rig.finish();
}
