//! Named steps at which a test may end the process.
//!
//! Code that changes something in several steps says which step it has just done. Nothing happens
//! there, unless the binary installed a hook: then the hook may end the process, as a loss of power
//! would. What is named here is therefore the list of the places at which a crash must be harmless.

use std::sync::OnceLock;

/// The steps of the control plane, in the order in which a sandbox comes by.
pub const CONTROL: [&str; 24] = [
    // The caller's wish is committed (create: with its placement); nothing was ordered.
    "control.intent",
    // The state that follows is committed, before any order of it.
    "control.pausing",
    "control.resuming",
    // The same, on another node than the one that keeps it.
    "control.relocating",
    "control.restarting",
    "control.stopping",
    // What restarts has its new placement; its node was not told.
    "control.placed",
    // An order is under way: the node may or may not have it.
    "control.ensure.sent",
    "control.pause.sent",
    "control.resume.sent",
    "control.remove.sent",
    // The node answered; nobody else knows yet.
    "control.ensure.answered",
    "control.pause.answered",
    "control.resume.answered",
    "control.remove.answered",
    // The outcome is committed; the caller was not answered.
    "control.running",
    "control.paused",
    // That shared storage has its files, or that only it has them.
    "control.snapshot",
    "control.detached",
    "control.vacated",
    "control.removed",
    // What did not work is committed: it runs still, is kept still, or is given up.
    "control.pause-failed",
    "control.resume-failed",
    "control.failed",
];

/// The steps of a node.
pub const NODE: [&str; 27] = [
    // The order was taken; nothing was done.
    "node.ensure.admitted",
    // The ledger says that it is being made.
    "node.ensure.recorded",
    // The driver made it; nobody is awake inside.
    "node.ensure.created",
    // The guest agent answered; the ledger does not say that it runs.
    "node.ensure.initialised",
    // The ledger says that it runs.
    "node.ensure.running",
    "node.pause.ordered",
    "node.pause.frozen",
    "node.pause.recorded",
    // Only files are kept, and the processes are gone.
    "node.pause.released",
    // Its files are on their way to shared storage; nothing of them is there.
    "node.snapshot.begun",
    // Every part is there, and nothing says what they are parts of.
    "node.snapshot.parts",
    // The whole is there, and was not read back.
    "node.snapshot.whole",
    "node.snapshot.verified",
    // The ledger says that it is there; the control plane does not know.
    "node.snapshot.recorded",
    // They came from shared storage; nothing was started over them.
    "node.ensure.fetched",
    "node.resume.ordered",
    // The processes go on, under the ledger's old record.
    "node.resume.thawed",
    // New processes stand over the kept files.
    "node.resume.restored",
    "node.resume.serving",
    "node.resume.recorded",
    "node.remove.ordered",
    // Everything but its directory is gone.
    "node.remove.released",
    "node.remove.gone",
    // It is done; the control plane was not answered.
    "node.ensure.answer",
    "node.pause.answer",
    "node.resume.answer",
    "node.remove.answer",
];

/// What the binary does at the steps.
pub trait Hook: Send + Sync {
    /// Whether the process is to end at this step when it comes by next.
    fn is_armed(&self, step: &str) -> bool;

    /// The step was done.
    fn reached(&self, step: &str);
}

static HOOK: OnceLock<&'static dyn Hook> = OnceLock::new();

/// Installs the hook; the first one stays. Only binaries do that.
pub fn install(hook: &'static dyn Hook) {
    // A second one has nothing to say.
    let _ = HOOK.set(hook);
}

/// Says that a step was done.
pub fn reached(step: &'static str) {
    if let Some(hook) = HOOK.get() {
        hook.reached(step);
    }
}

/// Whether the process is to end at this step.
#[must_use]
pub fn is_armed(step: &'static str) -> bool {
    HOOK.get().is_some_and(|hook| hook.is_armed(step))
}
