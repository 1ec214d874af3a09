//! The JSON form of a policy: the same in a request's body and header, with a team, and in the
//! fleet's file.

use std::collections::{BTreeMap, BTreeSet};

use atoll_core::scheduler::constraint::{
    Constraints, DriverNeed, Expression, Operator, Toleration,
};
use atoll_core::scheduler::overlay::{Invalid, Kin, Level, Overlay};
use atoll_core::scheduler::policy::{SAMPLE_MAX, Strategy};
use atoll_core::scheduler::score::{Term, Weights};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ApiError;

/// The header that carries a request's policy, for clients that cannot add to the body.
pub(crate) const HEADER: &str = "x-atoll-scheduling";

/// Bytes of [`HEADER`]: what servers and proxies take of one header.
pub(crate) const HEADER_LEN_MAX: usize = 8 * 1024;

/// How much of a score is one of the form's thousandths.
const PERMILLE: u32 = 1_000;

/// A policy. What is left out is the level above's to say.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PolicyDto {
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<StrategyDto>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tolerance_permille: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    preferences: BTreeMap<String, u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraints: Option<ConstraintsDto>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tolerations: Vec<TolerationDto>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow_tolerations: Vec<TolerationDto>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spread: Option<KinDto>,
    #[serde(skip_serializing_if = "Option::is_none")]
    near: Option<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    groups: BTreeSet<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StrategyDto {
    BestFit,
    LeastAllocated,
    Random,
    BestOf(u8),
    Weighted(BTreeMap<String, u16>),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct ConstraintsDto {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<ExpressionDto>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpu_features: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<DriverDto>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    present: Vec<PresentDto>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    apart_from: Vec<KinDto>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpressionDto {
    key: String,
    operator: OperatorDto,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OperatorDto {
    Eq,
    Ne,
    In,
    NotIn,
    Exists,
    Absent,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DriverDto {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_least: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PresentDto {
    Template,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KinDto {
    Team,
    Group(String),
    Metadata(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TolerationDto {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

/// Reads a policy from its JSON text.
///
/// # Errors
/// What is wrong, with the name of the field.
pub fn parse(text: &str, level: Level) -> Result<Overlay, Invalid> {
    let read = serde_json::from_str(text);
    let said = read.map_err(|error| Invalid::new("scheduling", format!("is no JSON: {error}")))?;
    from_value(said, level)
}

fn from_value(said: Value, level: Level) -> Result<Overlay, Invalid> {
    if !said.is_object() {
        return Err(Invalid::new("scheduling", "is a JSON object"));
    }
    let read = serde_json::from_value::<PolicyDto>(said);
    let policy = read
        .map_err(|error| Invalid::new("scheduling", format!("is not as it should be: {error}")))?;
    policy.into_overlay(level)
}

/// The policy of a request, in the words of a refusal.
pub(crate) fn refused(invalid: &Invalid) -> ApiError {
    let field = match invalid.field.as_str() {
        "scheduling" => "scheduling".to_owned(),
        field => format!("scheduling.{field}"),
    };
    ApiError::validation(format_args!("`{field}` {}", invalid.problem)).at(field)
}

/// The policy that a request's header carries.
///
/// # Errors
/// If it is no JSON, longer than [`HEADER_LEN_MAX`], or there are two.
pub(crate) fn header(headers: &HeaderMap) -> Result<Option<Value>, ApiError> {
    let mut all = headers.get_all(HEADER).iter();
    let Some(header) = all.next() else {
        return Ok(None);
    };
    if all.next().is_some() {
        return Err(twice());
    }
    let refuse = |problem: String| refused(&Invalid::new("scheduling", problem));
    if header.len() > HEADER_LEN_MAX {
        let problem = format!("is a header of more than {HEADER_LEN_MAX} bytes");
        return Err(refuse(problem));
    }
    let read = serde_json::from_slice(header.as_bytes());
    read.map(Some)
        .map_err(|error| refuse(format!("is no JSON: {error}")))
}

/// The error for a policy that is given more than once.
pub(crate) fn twice() -> ApiError {
    refused(&Invalid::new("scheduling", "is given twice"))
}

/// The policy of a request.
///
/// # Errors
/// What is wrong, with the name of the field.
pub(crate) fn of_request(said: Value) -> Result<Box<Overlay>, ApiError> {
    of_level(said, Level::Request)
}

/// The policy of a request that carries its JSON text.
///
/// # Errors
/// What is wrong, with the name of the field.
pub(crate) fn of_text(text: &str) -> Result<Box<Overlay>, ApiError> {
    let parsed = parse(text, Level::Request);
    parsed.map(Box::new).map_err(|invalid| refused(&invalid))
}

/// The policy that this level gives.
///
/// # Errors
/// What is wrong, with the name of the field.
pub(crate) fn of_level(said: Value, level: Level) -> Result<Box<Overlay>, ApiError> {
    from_value(said, level)
        .map(Box::new)
        .map_err(|invalid| refused(&invalid))
}

impl PolicyDto {
    /// The policy, within its limits.
    ///
    /// # Errors
    /// What is wrong, with the name of the field.
    pub fn into_overlay(self, level: Level) -> Result<Overlay, Invalid> {
        let demands = self.constraints.unwrap_or_default();
        let preferences = self.preferences.into_iter().map(|(name, weight)| {
            let field = format!("preferences.{name}");
            Ok((term(&name, &field)?, weight))
        });
        let near = self.near.map(|id| {
            let parsed = id.parse();
            parsed.map_err(|_| Invalid::new("near", "is the id of no sandbox"))
        });
        let tolerance = self.tolerance_permille.map(|permille| match permille {
            0..=1_000 => Ok(permille * PERMILLE),
            _ => Err(Invalid::new("tolerancePermille", "is 0 to 1000")),
        });
        let labels = demands.labels.into_iter().enumerate();
        let overlay = Overlay {
            strategy: self.strategy.map(StrategyDto::into_strategy).transpose()?,
            tolerance: tolerance.transpose()?,
            preferences: preferences.collect::<Result<_, Invalid>>()?,
            constraints: Constraints {
                labels: labels.map(expression).collect::<Result<_, _>>()?,
                tags: demands.tags,
                architecture: demands.architecture,
                cpu_features: demands.cpu_features,
                driver: demands.driver.map(DriverDto::into_need).transpose()?,
                ..Constraints::default()
            },
            needs_template: !demands.present.is_empty(),
            apart_from: demands.apart_from.into_iter().map(Kin::from).collect(),
            tolerations: self.tolerations.into_iter().map(Toleration::from).collect(),
            allow_tolerations: self
                .allow_tolerations
                .into_iter()
                .map(Toleration::from)
                .collect(),
            spread: self.spread.map(Kin::from),
            near: near.transpose()?,
            groups: self.groups,
        };
        overlay.check(level)?;
        Ok(overlay)
    }
}

fn term(name: &str, field: &str) -> Result<Term, Invalid> {
    Term::from_name(name).ok_or_else(|| {
        let all = Term::ALL.map(Term::as_str).join("`, `");
        Invalid::new(field, format!("is no term; there are `{all}`"))
    })
}

impl StrategyDto {
    fn into_strategy(self) -> Result<Strategy, Invalid> {
        Ok(match self {
            Self::BestFit => Strategy::BestFit,
            Self::LeastAllocated => Strategy::LeastAllocated,
            Self::Random => Strategy::Random,
            Self::BestOf(count) if (1..=SAMPLE_MAX).contains(&count) => Strategy::BestOf(count),
            Self::BestOf(count) => {
                let problem = format!("is {count}; it is 1 to {SAMPLE_MAX}");
                return Err(Invalid::new("strategy.best_of", problem));
            }
            Self::Weighted(weights) => {
                let weights = weights.into_iter().map(|(name, weight)| {
                    let field = format!("strategy.weighted.{name}");
                    Ok((term(&name, &field)?, weight))
                });
                let weights = weights.collect::<Result<Vec<_>, Invalid>>()?;
                if weights.iter().all(|(_, weight)| *weight == 0) {
                    return Err(Invalid::new("strategy.weighted", "needs a weight above 0"));
                }
                Strategy::Weighted(Weights::of(&weights))
            }
        })
    }
}

impl From<Strategy> for StrategyDto {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::BestFit => Self::BestFit,
            Strategy::LeastAllocated => Self::LeastAllocated,
            Strategy::Random => Self::Random,
            Strategy::BestOf(count) => Self::BestOf(count),
            Strategy::Weighted(weights) => {
                let all = Term::ALL.into_iter();
                let all = all.map(|term| (term.as_str().to_owned(), weights.get(term)));
                Self::Weighted(all.filter(|(_, weight)| *weight > 0).collect())
            }
        }
    }
}

fn expression((place, dto): (usize, ExpressionDto)) -> Result<Expression, Invalid> {
    let ExpressionDto {
        key,
        operator,
        values,
    } = dto;
    let field = || format!("constraints.labels[{place}].values");
    let one = |values: &[String]| match values {
        [value] => Ok(value.clone()),
        _ => Err(Invalid::new(field(), "has one entry for `eq` and `ne`")),
    };
    let some = |values: Vec<String>| match values.len() {
        0 => Err(Invalid::new(
            field(),
            "has at least one entry for `in` and `not_in`",
        )),
        _ => Ok(values),
    };
    let operator = match operator {
        OperatorDto::Eq => Operator::Equals(one(&values)?),
        OperatorDto::Ne => Operator::NotEquals(one(&values)?),
        OperatorDto::In => Operator::In(some(values)?),
        OperatorDto::NotIn => Operator::NotIn(some(values)?),
        OperatorDto::Exists | OperatorDto::Absent if !values.is_empty() => {
            return Err(Invalid::new(
                field(),
                "is left out for `exists` and `absent`",
            ));
        }
        OperatorDto::Exists => Operator::Exists,
        OperatorDto::Absent => Operator::Absent,
    };
    Ok(Expression { key, operator })
}

impl From<Expression> for ExpressionDto {
    fn from(expression: Expression) -> Self {
        let (operator, values) = match expression.operator {
            Operator::Equals(value) => (OperatorDto::Eq, vec![value]),
            Operator::NotEquals(value) => (OperatorDto::Ne, vec![value]),
            Operator::In(values) => (OperatorDto::In, values),
            Operator::NotIn(values) => (OperatorDto::NotIn, values),
            Operator::Exists => (OperatorDto::Exists, Vec::new()),
            Operator::Absent => (OperatorDto::Absent, Vec::new()),
        };
        Self {
            key: expression.key,
            operator,
            values,
        }
    }
}

impl DriverDto {
    fn into_need(self) -> Result<DriverNeed, Invalid> {
        let at_least = self.at_least.map(|version| {
            let parsed = version.parse();
            parsed.map_err(|_| {
                let problem = "is one to three numbers with dots between them";
                Invalid::new("constraints.driver.atLeast", problem)
            })
        });
        Ok(DriverNeed {
            name: self.name,
            at_least: at_least.transpose()?.unwrap_or_default(),
        })
    }
}

impl From<KinDto> for Kin {
    fn from(dto: KinDto) -> Self {
        match dto {
            KinDto::Team => Self::Team,
            KinDto::Group(name) => Self::Group(name),
            KinDto::Metadata(name) => Self::Metadata(name),
        }
    }
}

impl From<Kin> for KinDto {
    fn from(kin: Kin) -> Self {
        match kin {
            Kin::Team => Self::Team,
            Kin::Group(name) => Self::Group(name),
            Kin::Metadata(name) => Self::Metadata(name),
        }
    }
}

impl From<TolerationDto> for Toleration {
    fn from(dto: TolerationDto) -> Self {
        Self {
            key: dto.key,
            value: dto.value,
        }
    }
}

impl From<Toleration> for TolerationDto {
    fn from(toleration: Toleration) -> Self {
        Self {
            key: toleration.key,
            value: toleration.value,
        }
    }
}

impl From<Overlay> for PolicyDto {
    fn from(overlay: Overlay) -> Self {
        let demands = overlay.constraints;
        let preferences = overlay.preferences.into_iter();
        let constraints = ConstraintsDto {
            labels: demands
                .labels
                .into_iter()
                .map(ExpressionDto::from)
                .collect(),
            tags: demands.tags,
            architecture: demands.architecture,
            cpu_features: demands.cpu_features,
            driver: demands.driver.map(|need| DriverDto {
                name: need.name,
                at_least: Some(need.at_least.to_string()),
            }),
            present: overlay
                .needs_template
                .then_some(PresentDto::Template)
                .into_iter()
                .collect(),
            apart_from: overlay.apart_from.into_iter().map(KinDto::from).collect(),
        };
        let allowed = overlay.allow_tolerations.into_iter();
        Self {
            strategy: overlay.strategy.map(StrategyDto::from),
            tolerance_permille: overlay.tolerance.map(|tolerance| tolerance / PERMILLE),
            preferences: preferences
                .map(|(t, w)| (t.as_str().to_owned(), w))
                .collect(),
            constraints: Some(constraints),
            tolerations: overlay
                .tolerations
                .into_iter()
                .map(TolerationDto::from)
                .collect(),
            allow_tolerations: allowed.map(TolerationDto::from).collect(),
            spread: overlay.spread.map(KinDto::from),
            near: overlay.near.map(|id| id.to_string()),
            groups: overlay.groups,
        }
    }
}
