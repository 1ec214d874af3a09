//! Policies of several levels laid over one another: the fleet's, a team's, a request's.
//!
//! What a level says of strategy, tolerance and preferences replaces what the one above says.
//! Constraints only add up: none is ever lifted by a level below. Taints are put up with if the
//! operator says so: in the fleet's or the team's policy, or in a request as far as one of these
//! lets requests ([`Overlay::allow_tolerations`]).

use std::collections::{BTreeMap, BTreeSet};

use super::artifact::{Artifact, Kind};
use super::constraint::{Constraints, DriverNeed, Toleration};
use super::policy::{Policy, Strategy};
use super::score::{Term, Weights};
use crate::descriptor::{check_name, check_value};
use crate::id::{SandboxId, TeamId};

/// Entries of one list of a policy. Each is looked at for every node once for a kind of request.
pub const ENTRIES_MAX: usize = 32;
/// The highest weight of a term; the strategy's own terms weigh 100 together.
pub const WEIGHT_MAX: u16 = 1_000;
/// Groups that a sandbox belongs to by its metadata, in the order of the names: each is counted on
/// its node.
pub const METADATA_GROUPS_MAX: usize = 64;
/// Bytes of a name and its value beyond which an entry of the metadata makes no group.
pub const METADATA_GROUP_LEN_MAX: usize = 256;
/// What a preference weighs that is named without a weight.
pub const WEIGHT_USUAL: u16 = 50;

/// Which sandboxes belong together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kin {
    /// Those of the same team.
    Team,
    /// Those of the team that say that they belong to this group.
    Group(String),
    /// Those of the team whose metadata has the same value under this name.
    Metadata(String),
}

/// What one level says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overlay {
    /// What makes a node good.
    pub strategy: Option<Strategy>,
    /// How close to the best is as good as it.
    pub tolerance: Option<u32>,
    /// What counts beside the strategy.
    pub preferences: BTreeMap<Term, u16>,
    /// What a node must fulfil; its groups and tolerations are given below.
    pub constraints: Constraints,
    /// Whether the sandbox's template must be on the node.
    pub needs_template: bool,
    /// Of which sandboxes the node must have none.
    pub apart_from: Vec<Kin>,
    /// Taints that are put up with.
    pub tolerations: Vec<Toleration>,
    /// Taints that the levels below may put up with. The operator's to say.
    pub allow_tolerations: Vec<Toleration>,
    /// Which sandboxes are spread over zones.
    pub spread: Option<Kin>,
    /// A sandbox of the team whose node is preferred.
    pub near: Option<SandboxId>,
    /// Groups that the sandbox belongs to.
    pub groups: BTreeSet<String>,
}

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The operator, for all.
    Fleet,
    /// The operator, for a team.
    Team,
    /// Whoever makes a sandbox.
    Request,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Fleet => "the fleet's policy",
            Self::Team => "the team's policy",
            Self::Request => "the request",
        }
    }
}

/// Why a policy is none, or cannot be laid over those above it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct Invalid {
    /// Which part: a path in the JSON form.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Invalid {
    /// This is wrong with that part.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

/// The sandbox that a policy is for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Whose it is.
    pub team: &'a TeamId,
    /// Its labels.
    pub metadata: &'a BTreeMap<String, String>,
    /// The build of its template.
    pub build: &'a str,
}

/// What comes of all levels for one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laid {
    /// How its node is chosen.
    pub policy: Policy,
    /// The group that is spread over zones.
    pub spread_group: Option<String>,
    /// The sandbox whose node is preferred.
    pub near: Option<SandboxId>,
}

impl Overlay {
    /// Whether everything is within its limits, and this level's to say.
    ///
    /// # Errors
    /// What is not, the first one.
    pub fn check(&self, level: Level) -> Result<(), Invalid> {
        let demands = &self.constraints;
        for (field, count) in [
            ("constraints.labels", demands.labels.len()),
            ("constraints.tags", demands.tags.len()),
            ("constraints.cpuFeatures", demands.cpu_features.len()),
            ("constraints.present", demands.present.len()),
            ("constraints.apartFrom", self.apart_from.len()),
            ("tolerations", self.tolerations.len()),
            ("allowTolerations", self.allow_tolerations.len()),
            ("groups", self.groups.len()),
        ] {
            if count > ENTRIES_MAX {
                let problem = format!("has {count} entries; {ENTRIES_MAX} is the most");
                return Err(Invalid::new(field, problem));
            }
        }
        for (place, wanted) in demands.labels.iter().enumerate() {
            name(&format!("constraints.labels[{place}].key"), &wanted.key)?;
        }
        for (place, toleration) in self.tolerations.iter().enumerate() {
            name(&format!("tolerations[{place}].key"), &toleration.key)?;
        }
        for (place, toleration) in self.allow_tolerations.iter().enumerate() {
            name(&format!("allowTolerations[{place}].key"), &toleration.key)?;
        }
        for group in &self.groups {
            name("groups", group)?;
        }
        if let Some((term, weight)) = self.preferences.iter().find(|(_, w)| **w > WEIGHT_MAX) {
            let field = format!("preferences.{}", term.as_str());
            let problem = format!("is {weight}; {WEIGHT_MAX} is the most");
            return Err(Invalid::new(field, problem));
        }
        if level == Level::Request && !self.allow_tolerations.is_empty() {
            let problem = "is the operator's to say, in the fleet's or the team's policy";
            return Err(Invalid::new("allowTolerations", problem));
        }
        Ok(())
    }
}

fn name(field: &str, text: &str) -> Result<(), Invalid> {
    check_name("", text).map_err(|invalid| Invalid::new(field, invalid.problem))
}

/// The groups that a sandbox belongs to: its team's, those it says, and one for each entry of its
/// metadata, as far as [`METADATA_GROUPS_MAX`] and [`METADATA_GROUP_LEN_MAX`] go.
#[must_use]
pub fn memberships(
    team: &TeamId,
    metadata: &BTreeMap<String, String>,
    said: Option<&Overlay>,
) -> Vec<String> {
    let mut groups = vec![format!("team:{team}")];
    let said = said.map(|overlay| overlay.groups.iter());
    groups.extend(said.into_iter().flatten().map(|group| named(team, group)));
    let short = metadata.iter().filter(|(key, value)| is_short(key, value));
    let short = short.take(METADATA_GROUPS_MAX);
    groups.extend(short.map(|(key, value)| labelled(team, key, value)));
    groups
}

fn is_short(key: &str, value: &str) -> bool {
    key.len() + value.len() <= METADATA_GROUP_LEN_MAX
}

fn named(team: &TeamId, group: &str) -> String {
    format!("group:{team}:{group}")
}

fn labelled(team: &TeamId, key: &str, value: &str) -> String {
    format!("metadata:{team}:{key}={value}")
}

/// Lays the levels over one another and over `base`, what holds where nobody says anything.
///
/// # Errors
/// What a level asks for that one above it rules out.
pub fn lay(
    base: &Policy,
    levels: &[(Level, &Overlay)],
    subject: &Subject<'_>,
) -> Result<Laid, Invalid> {
    let mut laid = Laid {
        policy: base.clone(),
        spread_group: None,
        near: None,
    };
    let mut preferences: BTreeMap<Term, u16> = BTreeMap::new();
    let mut allowed: Vec<&Toleration> = Vec::new();
    for (level, overlay) in levels {
        let policy = &mut laid.policy;
        policy.strategy = overlay.strategy.unwrap_or(policy.strategy);
        policy.tolerance = overlay.tolerance.unwrap_or(policy.tolerance);
        if let Some(kin) = &overlay.spread {
            laid.spread_group = group_of(kin, subject);
            preferences.insert(Term::Zones, WEIGHT_USUAL);
        }
        if let Some(near) = &overlay.near {
            laid.near = Some(near.clone());
            preferences.insert(Term::Near, WEIGHT_USUAL);
        }
        preferences.extend(&overlay.preferences);
        demand(&mut policy.constraints, overlay, *level, subject)?;
        tolerate(&mut policy.constraints, overlay, *level, &allowed)?;
        allowed.extend(&overlay.allow_tolerations);
    }
    let weights = Term::ALL.map(|term| {
        let above = base.preferences.get(term);
        (term, preferences.get(&term).copied().unwrap_or(above))
    });
    laid.policy.preferences = Weights::of(&weights);
    Ok(laid)
}

/// The group of a sandbox's kin; none if its metadata has no such name.
fn group_of(kin: &Kin, subject: &Subject<'_>) -> Option<String> {
    let team = subject.team;
    match kin {
        Kin::Team => Some(format!("team:{team}")),
        Kin::Group(group) => Some(named(team, group)),
        Kin::Metadata(key) => {
            let value = subject.metadata.get(key)?;
            Some(labelled(team, key, value))
        }
    }
}

/// Adds what a level demands.
fn demand(
    sum: &mut Constraints,
    overlay: &Overlay,
    level: Level,
    subject: &Subject<'_>,
) -> Result<(), Invalid> {
    let more = &overlay.constraints;
    sum.labels.extend(more.labels.iter().cloned());
    sum.tags.extend(more.tags.iter().cloned());
    sum.cpu_features.extend(more.cpu_features.iter().cloned());
    sum.present.extend(more.present.iter().cloned());
    if overlay.needs_template {
        sum.present
            .push(Artifact::new(Kind::Template, subject.build));
    }
    match (&sum.architecture, &more.architecture) {
        (Some(above), Some(wanted)) if above != wanted => {
            let problem = format!("is `{wanted}` in {}, but `{above}` above", level.as_str());
            return Err(Invalid::new("constraints.architecture", problem));
        }
        (_, Some(wanted)) => sum.architecture = Some(wanted.clone()),
        (_, None) => {}
    }
    match (&mut sum.driver, &more.driver) {
        (Some(above), Some(wanted)) if above.name != wanted.name => {
            let DriverNeed { name, .. } = wanted;
            let problem = format!(
                "is `{name}` in {}, but `{}` above",
                level.as_str(),
                above.name
            );
            return Err(Invalid::new("constraints.driver", problem));
        }
        (Some(above), Some(wanted)) => above.at_least = above.at_least.max(wanted.at_least),
        (driver @ None, Some(wanted)) => *driver = Some(wanted.clone()),
        (_, None) => {}
    }
    for (place, kin) in overlay.apart_from.iter().enumerate() {
        let field = || format!("constraints.apartFrom[{place}]");
        match (group_of(kin, subject), kin) {
            (Some(_), Kin::Metadata(key)) if !is_short(key, &subject.metadata[key]) => {
                let problem = format!("names `{key}`, whose value is too long to be a group");
                return Err(Invalid::new(field(), problem));
            }
            (Some(group), _) => sum.apart_from.push(group),
            (None, Kin::Metadata(key)) if level == Level::Request => {
                let problem = format!("names `{key}`, which the metadata lacks");
                return Err(Invalid::new(field(), problem));
            }
            // A rule for all: it says nothing of sandboxes without the name.
            (None, _) => {}
        }
    }
    Ok(())
}

/// Adds what a level puts up with.
fn tolerate(
    sum: &mut Constraints,
    overlay: &Overlay,
    level: Level,
    allowed: &[&Toleration],
) -> Result<(), Invalid> {
    for (place, wanted) in overlay.tolerations.iter().enumerate() {
        let lets = |allowed: &&Toleration| {
            let any = allowed.value.is_none();
            allowed.key == wanted.key && (any || allowed.value == wanted.value)
        };
        if level == Level::Request && !allowed.iter().any(lets) {
            let key = &wanted.key;
            let problem = format!("tolerates `{key}`, which the team's policy does not allow");
            return Err(Invalid::new(format!("tolerations[{place}]"), problem));
        }
        if let Some(value) = &wanted.value {
            let checked = check_value("", value);
            let field = format!("tolerations[{place}].value");
            checked.map_err(|invalid| Invalid::new(field, invalid.problem))?;
        }
        sum.tolerations.push(wanted.clone());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
