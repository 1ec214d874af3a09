//! What a node must fulfil, and what it fell to if it does not.

use std::fmt;
use std::hash::{Hash, Hasher};

use super::artifact::Artifact;
use crate::node::NodeState;

/// How many constraints there are.
pub const CONSTRAINTS: usize = 20;

/// Why a node cannot take a sandbox. A node counts for the first one that holds, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Constraint {
    /// It already refused this one.
    Excluded,
    /// It lacks an artifact that has to be there.
    Artifact,
    /// It is being emptied.
    Draining,
    /// It does not answer lately, or never did.
    Suspect,
    /// It was silent for so long that it counts as gone, or was removed.
    Lost,
    /// It has a taint that is not tolerated.
    Taint,
    /// Its labels are not the wanted ones.
    Label,
    /// It lacks a tag.
    Tag,
    /// Its processor is of another architecture.
    Architecture,
    /// Its processor lacks a feature.
    CpuFeature,
    /// It lacks the driver, or has an older version of it.
    Driver,
    /// It has a sandbox of a group that this one must be apart from.
    AntiAffinity,
    /// It failed so often lately that it gets nothing for now.
    Failing,
    /// It has as many sandboxes as it may.
    Sandboxes,
    /// As many sandboxes are starting on it as may at a time.
    Starts,
    /// Its measured use is too high, whatever is allocated.
    Pressure,
    /// Too little cpu is free.
    Cpu,
    /// Too little memory is free.
    Memory,
    /// Too little disk is free.
    Disk,
    /// Too little network bandwidth is free.
    Network,
}

impl Constraint {
    /// All, in order.
    pub const ALL: [Self; CONSTRAINTS] = [
        Self::Excluded,
        Self::Artifact,
        Self::Draining,
        Self::Suspect,
        Self::Lost,
        Self::Taint,
        Self::Label,
        Self::Tag,
        Self::Architecture,
        Self::CpuFeature,
        Self::Driver,
        Self::AntiAffinity,
        Self::Failing,
        Self::Sandboxes,
        Self::Starts,
        Self::Pressure,
        Self::Cpu,
        Self::Memory,
        Self::Disk,
        Self::Network,
    ];

    /// What a node falls to that stands like this; none if it is ready.
    pub(super) const fn of_state(state: NodeState) -> Option<Self> {
        match state {
            NodeState::Ready => None,
            NodeState::Draining => Some(Self::Draining),
            NodeState::Suspect => Some(Self::Suspect),
            NodeState::Lost | NodeState::Left => Some(Self::Lost),
        }
    }

    /// Whether the node is out of the fleet for now, whatever is asked.
    #[must_use]
    pub const fn is_state(self) -> bool {
        matches!(self, Self::Draining | Self::Suspect | Self::Lost)
    }

    /// Those for each dimension, by its index.
    pub(super) const OF_DIMENSIONS: [Self; 4] =
        [Self::Cpu, Self::Memory, Self::Disk, Self::Network];

    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// Its name, as stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Excluded => "refused",
            Self::Artifact => "artifact",
            Self::Draining => "draining",
            Self::Suspect => "suspect",
            Self::Lost => "lost",
            Self::Taint => "taint",
            Self::Label => "label",
            Self::Tag => "tag",
            Self::Architecture => "architecture",
            Self::CpuFeature => "cpu_feature",
            Self::Driver => "driver",
            Self::AntiAffinity => "anti_affinity",
            Self::Failing => "failing",
            Self::Sandboxes => "sandboxes",
            Self::Starts => "starts",
            Self::Pressure => "pressure",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Network => "network",
        }
    }

    /// The constraint of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|constraint| constraint.name() == name)
    }

    /// The constraint in words that end "… node(s)".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Excluded => "already refused it",
            Self::Artifact => "without the files it needs",
            Self::Draining => "draining",
            Self::Suspect => "not answering",
            Self::Lost => "lost",
            Self::Taint => "with a taint it does not tolerate",
            Self::Label => "without the wanted labels",
            Self::Tag => "without a wanted tag",
            Self::Architecture => "of another architecture",
            Self::CpuFeature => "without a wanted cpu feature",
            Self::Driver => "without the wanted driver or its version",
            Self::AntiAffinity => "with a sandbox it must be apart from",
            Self::Failing => "failing too often lately",
            Self::Sandboxes => "at their largest number of sandboxes",
            Self::Starts => "with no start slot free",
            Self::Pressure => "under too much measured load",
            Self::Cpu => "too little cpu",
            Self::Memory => "too little memory",
            Self::Disk => "too little disk",
            Self::Network => "too little network",
        }
    }
}

/// How many nodes fell to each constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts([u32; CONSTRAINTS]);

impl Counts {
    /// How many nodes fell to this one.
    #[must_use]
    pub const fn get(&self, constraint: Constraint) -> u32 {
        self.0[constraint.index()]
    }

    /// Those that any node fell to, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Constraint, u32)> + '_ {
        let all = Constraint::ALL.into_iter().zip(self.0);
        all.filter(|(_, count)| *count > 0)
    }

    /// All nodes that fell to any.
    #[must_use]
    pub fn sum(&self) -> u32 {
        self.0.iter().sum()
    }

    pub(super) const fn add(&mut self, constraint: Constraint, count: u32) {
        self.0[constraint.index()] += count;
    }

    pub(super) const fn subtract(&mut self, constraint: Constraint) {
        self.0[constraint.index()] -= 1;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (constraint, count)) in self.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            write!(f, "{comma}{}: {count} node(s)", constraint.as_str())?;
        }
        Ok(())
    }
}

/// What a label must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// Exactly this.
    Equals(String),
    /// Not this, or absent.
    NotEquals(String),
    /// One of these.
    In(Vec<String>),
    /// None of these, or absent.
    NotIn(Vec<String>),
    /// There, whatever its value.
    Exists,
    /// Not there.
    Absent,
}

/// One condition on a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expression {
    /// Of which label.
    pub key: String,
    /// What it must be.
    pub operator: Operator,
}

impl Expression {
    /// Whether a node whose label has this value, if any, fulfils it.
    #[must_use]
    pub fn holds(&self, value: Option<&str>) -> bool {
        let is_among = |list: &[String]| value.is_some_and(|value| list.iter().any(|v| v == value));
        match &self.operator {
            Operator::Equals(wanted) => value == Some(wanted.as_str()),
            Operator::NotEquals(other) => value != Some(other.as_str()),
            Operator::In(list) => is_among(list),
            Operator::NotIn(list) => !is_among(list),
            Operator::Exists => value.is_some(),
            Operator::Absent => value.is_none(),
        }
    }
}

/// A mark that keeps sandboxes away which do not tolerate it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Taint {
    /// What about.
    pub key: String,
    /// Which; may be empty.
    pub value: String,
}

/// What a sandbox puts up with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Toleration {
    /// Taints of this key.
    pub key: String,
    /// Of this value only; none: of any.
    pub value: Option<String>,
}

impl Toleration {
    /// Whether it covers the taint.
    #[must_use]
    pub fn covers(&self, taint: &Taint) -> bool {
        let is_value = self.value.as_ref();
        self.key == taint.key && is_value.is_none_or(|value| *value == taint.value)
    }
}

/// A version of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u32, pub u32, pub u32);

impl std::str::FromStr for Version {
    type Err = InvalidVersion;

    /// One to three numbers with dots between them; what is left out is 0.
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let mut numbers = [0; 3];
        let mut places = numbers.iter_mut();
        for part in text.split('.') {
            let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
            let place = places.next().filter(|_| is_number).ok_or(InvalidVersion)?;
            *place = part.parse().map_err(|_| InvalidVersion)?;
        }
        Ok(Self(numbers[0], numbers[1], numbers[2]))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A text is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version is one to three numbers with dots between them")]
pub struct InvalidVersion;

/// A driver that has to be there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriverNeed {
    /// Its name.
    pub name: String,
    /// The oldest version that does.
    pub at_least: Version,
}

/// What a node must be, have and not have. Nothing is asked for by default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Constraints {
    /// Conditions on labels; all must hold.
    pub labels: Vec<Expression>,
    /// Tags that must be there.
    pub tags: Vec<String>,
    /// The processor's architecture.
    pub architecture: Option<String>,
    /// Features that the processor must have.
    pub cpu_features: Vec<String>,
    /// The driver.
    pub driver: Option<DriverNeed>,
    /// Artifacts that must be there.
    pub present: Vec<Artifact>,
    /// Groups of which the node must have no sandbox: a team, a group, a metadata key's value.
    pub apart_from: Vec<String>,
    /// Taints that are put up with.
    pub tolerations: Vec<Toleration>,
}

impl Constraints {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same without the groups to be apart from.
    pub(super) fn without_groups(&self) -> Self {
        Self {
            apart_from: Vec::new(),
            ..self.clone()
        }
    }

    /// Whether the same is asked for, whatever groups are to be apart from.
    pub(super) fn is_same_but_groups(&self, other: &Self) -> bool {
        self.but_groups() == other.but_groups()
    }

    /// Takes that into a hash.
    pub(super) fn hash_but_groups(&self, hasher: &mut impl Hasher) {
        self.but_groups().hash(hasher);
    }

    fn but_groups(&self) -> impl Hash + PartialEq + '_ {
        let Self {
            labels,
            tags,
            architecture,
            cpu_features,
            driver,
            present,
            apart_from: _,
            tolerations,
        } = self;
        let processor = (architecture, cpu_features, driver);
        (labels, tags, processor, present, tolerations)
    }
}
