//! What nodes have and sandboxes take, in four dimensions.

use std::fmt;

use crate::resources::Resources;

/// How many dimensions there are.
pub const DIMENSIONS: usize = 4;

/// The highest share and the highest score: all of it.
pub const SHARE_MAX: u32 = 1_000_000;

/// A kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// CPU time, in thousandths of a core.
    Cpu,
    /// Memory, in MiB.
    Memory,
    /// Writable disk, in MiB.
    Disk,
    /// Network bandwidth, in Mbit/s.
    Network,
}

impl Dimension {
    /// All, in the order of their index.
    pub const ALL: [Self; DIMENSIONS] = [Self::Cpu, Self::Memory, Self::Disk, Self::Network];

    /// The name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Network => "network",
        }
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// An amount of this dimension in the unit that people read most easily.
    #[must_use]
    pub const fn in_words(self, value: u32) -> Words {
        Words {
            dimension: self,
            value,
        }
    }
}

/// An amount for people: `1.5 cores`, `3.2 GiB`, `100 Mbit/s`.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    dimension: Dimension,
    value: u32,
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, divisor) = match self.dimension {
            Dimension::Cpu => ("cores", 1_000),
            Dimension::Memory | Dimension::Disk if self.value < 1_024 => {
                return write!(f, "{} MiB", self.value);
            }
            Dimension::Memory | Dimension::Disk => ("GiB", 1_024),
            Dimension::Network => return write!(f, "{} Mbit/s", self.value),
        };
        // Rounded down: what is free is never told larger than it is.
        let tenths = u64::from(self.value) * 10 / divisor;
        match tenths % 10 {
            0 => write!(f, "{} {unit}", tenths / 10),
            rest => write!(f, "{}.{rest} {unit}", tenths / 10),
        }
    }
}

/// An amount of each dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Amount([u32; DIMENSIONS]);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self([0; DIMENSIONS]);

    /// From cpu in thousandths of a core, memory and disk in MiB, network in Mbit/s.
    #[must_use]
    pub const fn new(
        cpu_millis: u32,
        memory_mib: u32,
        disk_mib: u32,
        network_mbit_per_s: u32,
    ) -> Self {
        Self([cpu_millis, memory_mib, disk_mib, network_mbit_per_s])
    }

    /// The amount of one dimension.
    #[must_use]
    pub const fn get(self, dimension: Dimension) -> u32 {
        self.0[dimension.index()]
    }

    pub(super) const fn values(&self) -> &[u32; DIMENSIONS] {
        &self.0
    }

    /// Each dimension's value and its counterpart, combined.
    #[must_use]
    pub fn zip(self, other: Self, combine: impl Fn(u32, u32) -> u32) -> Self {
        Self(std::array::from_fn(|i| combine(self.0[i], other.0[i])))
    }

    /// Sum; stops at the largest number.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        self.zip(other, u32::saturating_add)
    }

    /// Difference; stops at zero.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        self.zip(other, u32::saturating_sub)
    }

    /// Whether every dimension is at most `room`'s.
    #[must_use]
    pub fn fits_in(self, room: Self) -> bool {
        self.0
            .iter()
            .zip(room.0)
            .all(|(wanted, free)| *wanted <= free)
    }

    /// The largest share that any dimension takes of `whole`. A dimension that `whole` lacks counts
    /// as full if anything of it is taken.
    #[must_use]
    pub fn dominant_share(self, whole: Self) -> u32 {
        let shares = self
            .0
            .iter()
            .zip(whole.0)
            .map(|(part, of)| share(*part, of));
        shares.max().unwrap_or(0)
    }
}

impl From<Resources> for Amount {
    fn from(resources: Resources) -> Self {
        Self::new(
            resources.cpu_millis,
            resources.memory_mib,
            resources.disk_mib,
            0,
        )
    }
}

/// `part` of `whole`: 0 to [`SHARE_MAX`]. Something of nothing is all of it.
#[must_use]
pub fn share(part: u32, whole: u32) -> u32 {
    match (part, whole) {
        (0, _) => 0,
        (_, 0) => SHARE_MAX,
        _ => {
            let scaled = u64::from(part) * u64::from(SHARE_MAX) / u64::from(whole);
            u32::try_from(scaled.min(u64::from(SHARE_MAX))).unwrap_or(SHARE_MAX)
        }
    }
}
