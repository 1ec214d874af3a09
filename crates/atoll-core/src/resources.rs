//! Amounts of what a node has and a sandbox takes.

/// CPU, memory and disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Resources {
    /// CPU time, in thousandths of a core.
    pub cpu_millis: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Writable disk, in MiB.
    pub disk_mib: u32,
}

impl Resources {
    /// Sum, or none on overflow.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self {
            cpu_millis: self.cpu_millis.checked_add(other.cpu_millis)?,
            memory_mib: self.memory_mib.checked_add(other.memory_mib)?,
            disk_mib: self.disk_mib.checked_add(other.disk_mib)?,
        })
    }

    /// Difference, or none if any dimension of `other` is larger.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        Some(Self {
            cpu_millis: self.cpu_millis.checked_sub(other.cpu_millis)?,
            memory_mib: self.memory_mib.checked_sub(other.memory_mib)?,
            disk_mib: self.disk_mib.checked_sub(other.disk_mib)?,
        })
    }

    /// What a paused sandbox of this size still takes: its disk, and its memory if that is kept.
    #[must_use]
    pub const fn held_when_paused(self, keep_memory: bool) -> Self {
        Self {
            cpu_millis: 0,
            memory_mib: if keep_memory { self.memory_mib } else { 0 },
            disk_mib: self.disk_mib,
        }
    }

    /// Whether every dimension of `self` is at most `room`'s.
    #[must_use]
    pub fn fits_in(self, room: Self) -> bool {
        room.checked_sub(self).is_some()
    }
}
