//! Actions in words, for explanations.

use std::fmt;

use super::Action;
use crate::lifecycle::event_name;

impl Action {
    /// A word for it, for counters and spans.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Ensure => "ensure",
            Self::Pause => "pause",
            Self::Readmit => "readmit",
            Self::Resume => "resume",
            Self::NoteSnapshot => "note_snapshot",
            Self::Relocate => "relocate",
            Self::Remove => "remove",
            Self::Advance(_) => "advance",
            Self::StayPaused => "stay_paused",
            Self::Fail { .. } => "fail",
            Self::Expire => "expire",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place => f.write_str("choose a node"),
            Self::Ensure => f.write_str("tell the node to run it"),
            Self::Pause => f.write_str("tell the node to pause it"),
            Self::Readmit => f.write_str("take its room on the node again"),
            Self::Resume => f.write_str("tell the node to let it go on"),
            Self::NoteSnapshot => f.write_str("commit that shared storage has it"),
            Self::Relocate => f.write_str("choose a node to go on with it from shared storage"),
            Self::Remove => f.write_str("tell the node to remove it"),
            Self::Advance(event) => write!(f, "commit `{}`", event_name(*event)),
            Self::StayPaused => f.write_str("commit that it stays paused"),
            Self::Fail { detail, .. } => write!(f, "commit that it failed: {detail}"),
            Self::Expire => f.write_str("commit that its time is up"),
        }
    }
}
