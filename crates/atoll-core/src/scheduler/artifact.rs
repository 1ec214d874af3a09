//! What a node may have ready that makes a sandbox start sooner there.

/// How many kinds there are.
pub(super) const KINDS: usize = 4;

/// A kind of artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A template's files.
    Template,
    /// A paused sandbox's files.
    Snapshot,
    /// A layer of an image.
    Layer,
    /// At least one started instance of a template that waits for a sandbox.
    Warm,
}

impl Kind {
    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// Something that nodes have or have not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Artifact {
    /// What it is.
    pub kind: Kind,
    /// Its name, unique among its kind.
    pub name: String,
}

impl Artifact {
    /// An artifact by kind and name.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
        }
    }
}
