//! What can happen, by name, and to what.
//!
//! The names are an interface: they are stored, and subscribers see them. A kind may be added, and
//! none is ever renamed or given another meaning.

use std::fmt;

use crate::id::{NodeId, SandboxId};
use crate::lifecycle::Announcement;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal),+ $(,)?) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventKind {
            $($(#[$doc])* $kind),+
        }

        impl EventKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// Its name, as stored and as subscribers see it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name),+
                }
            }

            /// The kind of this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$kind),)+
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// A sandbox was accepted.
    SandboxCreated = "sandbox.created",
    /// A node was chosen for it.
    SandboxPlaced = "sandbox.placed",
    /// It serves for the first time under this placement.
    SandboxRunning = "sandbox.running",
    /// It is kept without serving.
    SandboxPaused = "sandbox.paused",
    /// It serves again.
    SandboxResumed = "sandbox.resumed",
    /// Its deadline, network policy or placement changed.
    SandboxUpdated = "sandbox.updated",
    /// What a node reported differed from the intent, and this was done about it.
    SandboxCorrected = "sandbox.corrected",
    /// It is gone.
    SandboxDeleted = "sandbox.deleted",
    /// It failed.
    SandboxError = "sandbox.error",
    /// A node became part of the fleet, or came back.
    NodeJoined = "node.joined",
    /// A node is silent: nothing is placed there.
    NodeSuspect = "node.suspect",
    /// A node is silent for so long that what it ran counts as lost.
    NodeLost = "node.lost",
    /// A node takes nothing new.
    NodeDraining = "node.draining",
    /// A node left the fleet.
    NodeLeft = "node.left",
    /// Something was refused because there is not enough of something.
    ResourceExhausted = "resource.exhausted",
    /// A webhook was given up until its owner enables it again.
    WebhookDisabled = "webhook.disabled",
    /// A line about its subject that is no change of its own.
    Log = "log",
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Announcement> for EventKind {
    fn from(announcement: Announcement) -> Self {
        match announcement {
            Announcement::Created => Self::SandboxCreated,
            Announcement::Running => Self::SandboxRunning,
            Announcement::Paused => Self::SandboxPaused,
            Announcement::Resumed => Self::SandboxResumed,
            Announcement::Updated => Self::SandboxUpdated,
            Announcement::Deleted => Self::SandboxDeleted,
            Announcement::Error => Self::SandboxError,
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A sandbox.
    Sandbox(SandboxId),
    /// A node.
    Node(NodeId),
    /// The fleet as a whole.
    Fleet,
}

impl Subject {
    /// The sandbox, if it is one.
    #[must_use]
    pub const fn sandbox(&self) -> Option<&SandboxId> {
        match self {
            Self::Sandbox(id) => Some(id),
            Self::Node(_) | Self::Fleet => None,
        }
    }

    /// The node, if it is one.
    #[must_use]
    pub const fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Node(id) => Some(id),
            Self::Sandbox(_) | Self::Fleet => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox(id) => write!(f, "sandbox {id}"),
            Self::Node(id) => write!(f, "node {id}"),
            Self::Fleet => f.write_str("fleet"),
        }
    }
}

/// A place in the sequence of all events. What is read after a cursor has a higher one; cursors of
/// stored events start at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cursor(u64);

impl Cursor {
    /// Before the first event.
    pub const START: Self = Self(0);

    /// A cursor from its number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_kinds_belong_together() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_name(kind.as_str()), Some(*kind));
        }
        assert_eq!(EventKind::from_name("sandbox.unheard_of"), None);
    }

    #[test]
    fn announcements_keep_their_names() {
        for announcement in [
            Announcement::Created,
            Announcement::Running,
            Announcement::Paused,
            Announcement::Resumed,
            Announcement::Updated,
            Announcement::Deleted,
            Announcement::Error,
        ] {
            assert_eq!(
                EventKind::from(announcement).as_str(),
                announcement.as_str()
            );
        }
    }
}
