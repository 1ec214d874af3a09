//! What a node is, beside its size: what its operator says of it, and what it finds on its machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::id::NodeId;
use crate::node::NodeInfo;
use crate::resources::Resources;
use crate::scheduler::amount::Amount;
use crate::scheduler::constraint::{Taint, Version};
use crate::scheduler::node::{Node, Overcommit};

/// Labels of a node: more than any of the published fleets uses, and little to send.
pub const LABELS_MAX: usize = 64;
/// Bytes of the name of a label, tag, taint, zone or driver.
pub const NAME_LEN_MAX: usize = 64;
/// Bytes of a label's or taint's value.
pub const VALUE_LEN_MAX: usize = 128;
/// Taints of a node. Each is looked at whenever a new kind of request comes.
pub const TAINTS_MAX: usize = 16;
/// Features of a processor: today's largest have about 200.
pub const CPU_FEATURES_MAX: usize = 512;
/// Bytes of a processor feature's name.
pub const CPU_FEATURE_LEN_MAX: usize = 32;
/// Drivers of a node.
pub const DRIVERS_MAX: usize = 8;

/// What a node says of itself that changes only when its agent starts again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// Its operator's labels.
    pub labels: BTreeMap<String, String>,
    /// What keeps sandboxes away that do not tolerate it.
    pub taints: Vec<Taint>,
    /// Where it is; empty: nowhere in particular.
    pub zone: String,
    /// Its processor's architecture, in Rust's words: `x86_64`, `aarch64`; empty: not told.
    pub architecture: String,
    /// Its processor's features, in the kernel's words.
    pub cpu_features: BTreeSet<String>,
    /// Its drivers and their versions.
    pub drivers: BTreeMap<String, Version>,
    /// Sandboxes that it takes at most; none: as many as fit.
    pub sandboxes_max: Option<u32>,
    /// Sandboxes that may start on it at a time; none: as many as come.
    pub starts_max: Option<u16>,
    /// What new sandboxes leave free of it.
    pub headroom: Resources,
}

/// Why a descriptor, or a part of one, is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct Invalid {
    /// Which part.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

fn invalid(field: &'static str, problem: impl Into<String>) -> Invalid {
    let problem = problem.into();
    Invalid { field, problem }
}

impl Descriptor {
    /// Whether everything is within its limits.
    ///
    /// # Errors
    /// What is not, the first one.
    pub fn check(&self) -> Result<(), Invalid> {
        at_most("labels", self.labels.len(), LABELS_MAX)?;
        for (key, value) in &self.labels {
            check_name("labels", key)?;
            check_value("labels", value)?;
        }
        at_most("taints", self.taints.len(), TAINTS_MAX)?;
        for taint in &self.taints {
            check_name("taints", &taint.key)?;
            check_value("taints", &taint.value)?;
        }
        for (field, text) in [("zone", &self.zone), ("architecture", &self.architecture)] {
            if !text.is_empty() {
                check_name(field, text)?;
            }
        }
        at_most("cpu_features", self.cpu_features.len(), CPU_FEATURES_MAX)?;
        for feature in &self.cpu_features {
            check_name("cpu_features", feature)?;
            at_most("cpu_features", feature.len(), CPU_FEATURE_LEN_MAX)?;
        }
        at_most("drivers", self.drivers.len(), DRIVERS_MAX)?;
        for name in self.drivers.keys() {
            check_name("drivers", name)?;
        }
        for (field, limit) in [
            ("sandboxes_max", self.sandboxes_max),
            ("starts_max", self.starts_max.map(u32::from)),
        ] {
            if limit == Some(0) {
                return Err(invalid(
                    field,
                    "must be at least 1; a drained node takes none",
                ));
            }
        }
        Ok(())
    }
}

fn at_most(field: &'static str, count: usize, limit: usize) -> Result<(), Invalid> {
    if count <= limit {
        return Ok(());
    }
    Err(invalid(field, format!("has {count}; {limit} is the most")))
}

/// Whether this is a name of a label, taint, zone or driver: 1 to [`NAME_LEN_MAX`] of letters,
/// digits and `-_./`.
///
/// # Errors
/// If it is not.
pub fn check_name(field: &'static str, name: &str) -> Result<(), Invalid> {
    let is_one = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if (1..=NAME_LEN_MAX).contains(&name.len()) && name.chars().all(is_one) {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_LEN_MAX).collect();
    let rule = format!("1 to {NAME_LEN_MAX} of letters, digits, `-`, `_`, `.` and `/`");
    Err(invalid(
        field,
        format!("has the name `{shown}`: a name is {rule}"),
    ))
}

/// Whether this is a value of a label or taint: at most [`VALUE_LEN_MAX`] bytes that can be
/// printed.
///
/// # Errors
/// If it is not.
pub fn check_value(field: &'static str, value: &str) -> Result<(), Invalid> {
    if value.len() <= VALUE_LEN_MAX && !value.chars().any(char::is_control) {
        return Ok(());
    }
    let rule = format!("at most {VALUE_LEN_MAX} bytes without control characters");
    Err(invalid(
        field,
        format!("has a value that is none: a value is {rule}"),
    ))
}

/// The one effect of a taint: no new sandbox comes that does not tolerate it. What is there stays.
pub const NO_SCHEDULE: &str = "no_schedule";

/// A taint as an operator writes it: `key[=value]:no_schedule`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenTaint(pub Taint);

impl FromStr for WrittenTaint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let Some((what, effect)) = text.rsplit_once(':') else {
            return Err(invalid(
                "taints",
                "lacks the effect: write `KEY[=VALUE]:no_schedule`",
            ));
        };
        if effect != NO_SCHEDULE {
            let shown: String = effect.chars().take(NAME_LEN_MAX).collect();
            let problem = format!("has the effect `{shown}`: `{NO_SCHEDULE}` is the only one");
            return Err(invalid("taints", problem));
        }
        let (key, value) = what.split_once('=').unwrap_or((what, ""));
        check_name("taints", key)?;
        check_value("taints", value)?;
        Ok(Self(Taint {
            key: key.to_owned(),
            value: value.to_owned(),
        }))
    }
}

impl fmt::Display for WrittenTaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Taint { key, value } = &self.0;
        match value.as_str() {
            "" => write!(f, "{key}:{NO_SCHEDULE}"),
            value => write!(f, "{key}={value}:{NO_SCHEDULE}"),
        }
    }
}

/// A node as the scheduler knows it: of this size, described by `info`. A tag with a value is the
/// tag `KEY=VALUE` there.
#[must_use]
pub fn scheduled(id: NodeId, total: Amount, overcommit: Overcommit, info: &NodeInfo) -> Node {
    let described = &info.descriptor;
    let tags = info.tags.iter().map(|(key, value)| match value.as_str() {
        "" => key.clone(),
        value => format!("{key}={value}"),
    });
    let plain = Node::new(id, total);
    Node {
        overcommit,
        headroom: described.headroom.into(),
        labels: described.labels.clone(),
        tags: tags.collect(),
        taints: described.taints.clone(),
        zone: described.zone.clone(),
        architecture: described.architecture.clone(),
        cpu_features: described.cpu_features.clone(),
        drivers: described.drivers.clone(),
        sandboxes_max: described.sandboxes_max.unwrap_or(plain.sandboxes_max),
        // No more than its operator says, if anybody says.
        starts_max: described.starts_max.unwrap_or(u16::MAX),
        ..plain
    }
}

#[cfg(test)]
mod tests;
