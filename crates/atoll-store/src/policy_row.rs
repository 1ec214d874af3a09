//! How a policy looks in a column: a team's, and the request's with a sandbox's configuration.

use std::collections::BTreeSet;

use atoll_core::scheduler::artifact::{Artifact, Kind};
use atoll_core::scheduler::constraint::{
    Constraints, DriverNeed, Expression, Operator, Toleration,
};
use atoll_core::scheduler::overlay::{Kin, Overlay};
use atoll_core::scheduler::policy::Strategy;
use atoll_core::scheduler::score::{Term, Weights};
use serde::{Deserialize, Serialize};

/// What is wrong with a stored policy.
pub(crate) type Problem = String;

/// The version of [`PolicyRow`] that is written.
const VERSION: u32 = 1;

/// A strategy's name, how many nodes are drawn, and the weights.
type StrategyRow = (String, u8, Vec<(String, u16)>);

/// The JSON form. What a policy does not say is left out.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PolicyRow {
    v: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<StrategyRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tolerance: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    preferences: Vec<(String, u16)>,
    /// Key, operator, values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<(String, String, Vec<String>)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpu_features: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<(String, String)>,
    /// Kind and name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    present: Vec<(String, String)>,
    needs_template: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    apart_from: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tolerations: Vec<(String, Option<String>)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow_tolerations: Vec<(String, Option<String>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spread: Option<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    near: Option<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    groups: BTreeSet<String>,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Template, "template"),
    (Kind::Snapshot, "snapshot"),
    (Kind::Layer, "layer"),
    (Kind::Warm, "warm"),
];

fn kind_name(kind: Kind) -> &'static str {
    let found = KINDS.iter().find(|(other, _)| *other == kind);
    found.map_or("", |(_, name)| *name)
}

fn artifact((kind, name): (String, String)) -> Result<Artifact, Problem> {
    let found = KINDS.iter().find(|(_, word)| *word == kind);
    let (kind, _) = found.ok_or_else(|| format!("artifact `{kind}` is not known"))?;
    Ok(Artifact::new(*kind, name))
}

fn kin_row(kin: &Kin) -> (String, String) {
    match kin {
        Kin::Team => ("team".to_owned(), String::new()),
        Kin::Group(name) => ("group".to_owned(), name.clone()),
        Kin::Metadata(name) => ("metadata".to_owned(), name.clone()),
    }
}

fn kin((kind, name): (String, String)) -> Result<Kin, Problem> {
    match kind.as_str() {
        "team" => Ok(Kin::Team),
        "group" => Ok(Kin::Group(name)),
        "metadata" => Ok(Kin::Metadata(name)),
        other => Err(format!("kin `{other}` is not known")),
    }
}

fn expression_row(expression: &Expression) -> (String, String, Vec<String>) {
    let (word, values) = match &expression.operator {
        Operator::Equals(value) => ("eq", vec![value.clone()]),
        Operator::NotEquals(value) => ("ne", vec![value.clone()]),
        Operator::In(values) => ("in", values.clone()),
        Operator::NotIn(values) => ("not_in", values.clone()),
        Operator::Exists => ("exists", Vec::new()),
        Operator::Absent => ("absent", Vec::new()),
    };
    (expression.key.clone(), word.to_owned(), values)
}

fn expression((key, word, values): (String, String, Vec<String>)) -> Result<Expression, Problem> {
    let first = || values.first().cloned().unwrap_or_default();
    let operator = match word.as_str() {
        "eq" => Operator::Equals(first()),
        "ne" => Operator::NotEquals(first()),
        "in" => Operator::In(values),
        "not_in" => Operator::NotIn(values),
        "exists" => Operator::Exists,
        "absent" => Operator::Absent,
        other => return Err(format!("operator `{other}` is not known")),
    };
    Ok(Expression { key, operator })
}

fn weights_row(weights: &Weights) -> Vec<(String, u16)> {
    let all = Term::ALL.into_iter();
    let all = all.map(|term| (term.as_str().to_owned(), weights.get(term)));
    all.filter(|(_, weight)| *weight > 0).collect()
}

fn term((name, weight): (String, u16)) -> Result<(Term, u16), Problem> {
    let term = Term::from_name(&name).ok_or_else(|| format!("term `{name}` is not known"))?;
    Ok((term, weight))
}

fn strategy_row(strategy: Strategy) -> StrategyRow {
    let (sample, weights) = match strategy {
        Strategy::BestOf(count) => (count, Vec::new()),
        Strategy::Weighted(weights) => (0, weights_row(&weights)),
        Strategy::BestFit | Strategy::LeastAllocated | Strategy::Random => (0, Vec::new()),
    };
    (strategy.as_str().to_owned(), sample, weights)
}

fn strategy((name, sample, weights): StrategyRow) -> Result<Strategy, Problem> {
    Ok(match name.as_str() {
        "best_fit" => Strategy::BestFit,
        "least_allocated" => Strategy::LeastAllocated,
        "random" => Strategy::Random,
        "best_of" => Strategy::BestOf(sample),
        "weighted" => {
            let weights = weights
                .into_iter()
                .map(term)
                .collect::<Result<Vec<_>, _>>()?;
            Strategy::Weighted(Weights::of(&weights))
        }
        other => return Err(format!("strategy `{other}` is not known")),
    })
}

fn tolerations_row(list: &[Toleration]) -> Vec<(String, Option<String>)> {
    let list = list.iter().cloned();
    list.map(|toleration| (toleration.key, toleration.value))
        .collect()
}

fn tolerations(rows: Vec<(String, Option<String>)>) -> Vec<Toleration> {
    let rows = rows.into_iter();
    rows.map(|(key, value)| Toleration { key, value }).collect()
}

impl From<&Overlay> for PolicyRow {
    fn from(overlay: &Overlay) -> Self {
        let demands = &overlay.constraints;
        let driver = demands.driver.as_ref();
        let preferences = overlay.preferences.iter();
        let present = demands.present.iter();
        Self {
            v: VERSION,
            strategy: overlay.strategy.map(strategy_row),
            tolerance: overlay.tolerance,
            preferences: preferences
                .map(|(term, w)| (term.as_str().to_owned(), *w))
                .collect(),
            labels: demands.labels.iter().map(expression_row).collect(),
            tags: demands.tags.clone(),
            architecture: demands.architecture.clone(),
            cpu_features: demands.cpu_features.clone(),
            driver: driver.map(|need| (need.name.clone(), need.at_least.to_string())),
            present: present
                .map(|a| (kind_name(a.kind).to_owned(), a.name.clone()))
                .collect(),
            needs_template: overlay.needs_template,
            apart_from: overlay.apart_from.iter().map(kin_row).collect(),
            tolerations: tolerations_row(&overlay.tolerations),
            allow_tolerations: tolerations_row(&overlay.allow_tolerations),
            spread: overlay.spread.as_ref().map(kin_row),
            near: overlay.near.as_ref().map(ToString::to_string),
            groups: overlay.groups.clone(),
        }
    }
}

impl TryFrom<PolicyRow> for Overlay {
    type Error = Problem;

    fn try_from(row: PolicyRow) -> Result<Self, Problem> {
        if row.v != VERSION {
            return Err(format!("policy version {} is not known", row.v));
        }
        let driver = row.driver.map(|(name, version)| {
            let at_least = version
                .parse()
                .map_err(|_| format!("`{version}` is no version"))?;
            Ok::<_, Problem>(DriverNeed { name, at_least })
        });
        let near = row.near.map(|id| {
            let parsed = id.parse();
            parsed.map_err(|_| format!("`{id}` is no sandbox"))
        });
        Ok(Self {
            strategy: row.strategy.map(strategy).transpose()?,
            tolerance: row.tolerance,
            preferences: row
                .preferences
                .into_iter()
                .map(term)
                .collect::<Result<_, _>>()?,
            constraints: Constraints {
                labels: row
                    .labels
                    .into_iter()
                    .map(expression)
                    .collect::<Result<_, _>>()?,
                tags: row.tags,
                architecture: row.architecture,
                cpu_features: row.cpu_features,
                driver: driver.transpose()?,
                present: row
                    .present
                    .into_iter()
                    .map(artifact)
                    .collect::<Result<_, _>>()?,
                ..Constraints::default()
            },
            needs_template: row.needs_template,
            apart_from: row
                .apart_from
                .into_iter()
                .map(kin)
                .collect::<Result<_, _>>()?,
            tolerations: tolerations(row.tolerations),
            allow_tolerations: tolerations(row.allow_tolerations),
            spread: row.spread.map(kin).transpose()?,
            near: near.transpose()?,
            groups: row.groups,
        })
    }
}
