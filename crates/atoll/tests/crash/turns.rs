//! Pauses, resumes and restarts, cut off at every step they come by.

use serde_json::{Value, json};

use crate::rig::{Rig, is_possible};

/// Each step that a pause which keeps the memory comes by.
const PAUSE: [&str; 9] = [
    "control.intent",
    "control.pausing",
    "control.pause.sent",
    "control.pause.answered",
    "control.paused",
    "node.pause.ordered",
    "node.pause.frozen",
    "node.pause.recorded",
    "node.pause.answer",
];

/// Each step that the resume after it comes by.
const RESUME: [&str; 10] = [
    "control.intent",
    "control.resuming",
    "control.resume.sent",
    "control.resume.answered",
    "control.running",
    "node.resume.ordered",
    "node.resume.thawed",
    "node.resume.serving",
    "node.resume.recorded",
    "node.resume.answer",
];

/// The steps at which a pause that keeps only files may be cut off otherwise than one that keeps
/// the memory.
const PAUSE_FILES: [&str; 3] = [
    "node.pause.recorded",
    "node.pause.released",
    "node.pause.answer",
];

/// The same for the resume after it.
const RESUME_FILES: [&str; 3] = [
    "node.resume.restored",
    "node.resume.serving",
    "node.resume.recorded",
];

/// Each step that a restart comes by.
const RESTART: [&str; 19] = [
    "control.intent",
    "control.restarting",
    "control.remove.sent",
    "control.remove.answered",
    "control.vacated",
    "control.placed",
    "control.ensure.sent",
    "control.ensure.answered",
    "control.running",
    "node.remove.ordered",
    "node.remove.released",
    "node.remove.gone",
    "node.remove.answer",
    "node.ensure.admitted",
    "node.ensure.recorded",
    "node.ensure.created",
    "node.ensure.initialised",
    "node.ensure.running",
    "node.ensure.answer",
];

/// Starts a process that stays, writes something into a file, and tells which process it is: a
/// number may be given twice, but not with the same time of birth.
const BEGIN: &str = "echo kept > /tmp/file; nohup sleep 100000 > /dev/null 2>&1 & \
                     echo $! > /tmp/process; cut -d ' ' -f 1,22 /proc/$!/stat";

/// Which process that is now, if it lives, and what the file says.
const LOOK: &str = "p=$(cat /tmp/process 2> /dev/null); \
                    cut -d ' ' -f 1,22 /proc/${p:-none}/stat 2> /dev/null || echo gone; \
                    cat /tmp/file 2> /dev/null || echo no file";

/// What is asked for.
pub(crate) struct Turn {
    name: &'static str,
    body: Option<Value>,
    /// What ends the asking. A conflict says that it is there already, or on its way.
    answers: &'static [u16],
    wanted: &'static str,
}

impl Turn {
    pub(crate) fn pause(has_memory: bool) -> Self {
        Self {
            name: "pause",
            body: Some(json!({ "memory": has_memory })),
            answers: &[204, 409],
            wanted: "paused",
        }
    }

    pub(crate) fn resume() -> Self {
        Self {
            name: "resume",
            body: Some(json!({ "timeout": 3600 })),
            answers: &[201, 409],
            wanted: "running",
        }
    }

    /// Insists on an answer of its own: one that is only on its way looks like one that serves.
    const fn restart() -> Self {
        Self {
            name: "restart",
            body: None,
            answers: &[200],
            wanted: "running",
        }
    }
}

/// A sandbox beside the bystander, to which things happen.
pub(crate) struct Victim {
    pub(crate) rig: Rig,
    pub(crate) id: String,
    process: String,
}

impl Victim {
    pub(crate) fn start() -> Self {
        let rig = Rig::start();
        let id = rig.create("victim");
        let process = rig.exec_until(&id, BEGIN);
        Self { rig, id, process }
    }

    /// Asks for a turn, is cut off at the step, and asks again until the sandbox is there.
    fn turn_through(&mut self, step: &str, turn: &Turn) {
        self.cut_off(step, turn);
        self.turn(turn);
        self.rig.check_bystander();
    }

    /// Asks for a turn, and is cut off at the step.
    pub(crate) fn cut_off(&mut self, step: &str, turn: &Turn) {
        eprintln!("{}: {step}", turn.name);
        self.rig.arm(step);
        let path = self.path(turn);
        self.rig.attempt(("POST", &path), None, turn.body.as_ref());
        self.rig.revive(step);
    }

    pub(crate) fn turn(&self, turn: &Turn) {
        let path = self.path(turn);
        self.rig
            .insist(("POST", &path), None, turn.body.as_ref(), turn.answers);
        self.wait_for(turn.wanted);
        assert_eq!(self.rig.ledger().len(), 2, "one of each");
    }

    /// Waits until it is in this state, as clients see it.
    pub(crate) fn wait_for(&self, wanted: &str) {
        let row = |name: &str, state: &str| (name.to_owned(), state.to_owned());
        let rows = [row("bystander", "running"), row("victim", wanted)];
        self.rig.wait(&format!("it is {wanted}"), |rig| {
            (rig.list() == rows).then_some(())
        });
    }

    fn path(&self, turn: &Turn) -> String {
        format!("/sandboxes/{}/{}", self.id, turn.name)
    }

    /// What is inside.
    fn look(&self) -> String {
        self.rig.exec_until(&self.id, LOOK)
    }

    pub(crate) fn check_memory(&self) {
        assert_eq!(self.look(), format!("{}\nkept", self.process));
    }

    /// The files are there, and the process is not; begins another one.
    pub(crate) fn check_files(&mut self) {
        assert_eq!(self.look(), "gone\nkept");
        self.process = self.rig.exec_until(&self.id, BEGIN);
    }

    pub(crate) fn finish(self) {
        let path = format!("/sandboxes/{}", self.id);
        self.rig.insist(("DELETE", &path), None, None, &[204, 404]);
        self.rig.wait_alone();
        self.rig.finish();
    }
}

/// Whatever step a pause is cut off at, the retry finds the sandbox paused, and its memory is what
/// it was.
#[test]
fn a_pause_survives_a_crash_at_every_step() {
    if !is_possible() {
        return;
    }
    let mut victim = Victim::start();
    for step in PAUSE {
        victim.turn_through(step, &Turn::pause(true));
        victim.turn(&Turn::resume());
        victim.check_memory();
    }
    victim.finish();
}

/// Whatever step a resume is cut off at, the retry finds the sandbox serving, with the processes
/// that it was paused with.
#[test]
fn a_resume_survives_a_crash_at_every_step() {
    if !is_possible() {
        return;
    }
    let mut victim = Victim::start();
    for step in RESUME {
        victim.turn(&Turn::pause(true));
        victim.turn_through(step, &Turn::resume());
        victim.check_memory();
    }
    victim.finish();
}

/// A pause without the memory, and the resume after it, keep every file.
#[test]
fn files_survive_a_crash_at_every_step() {
    if !is_possible() {
        return;
    }
    let mut victim = Victim::start();
    for step in PAUSE_FILES {
        victim.turn_through(step, &Turn::pause(false));
        victim.turn(&Turn::resume());
        victim.check_files();
    }
    for step in RESUME_FILES {
        victim.turn(&Turn::pause(false));
        victim.turn_through(step, &Turn::resume());
        victim.check_files();
    }
    victim.finish();
}

/// Whatever step a restart is cut off at, the retry finds the same sandbox serving, begun anew.
#[test]
fn a_restart_survives_a_crash_at_every_step() {
    if !is_possible() {
        return;
    }
    let mut victim = Victim::start();
    for step in RESTART {
        victim.turn_through(step, &Turn::restart());
        assert_eq!(victim.look(), "gone\nno file");
        victim.process = victim.rig.exec_until(&victim.id, BEGIN);
    }
    victim.finish();
}
