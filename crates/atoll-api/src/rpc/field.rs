//! Reading the fields of a request, with refusals that name them.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::time::Duration;

use atoll_core::error::ErrorKind;
use atoll_core::id::{NodeId, SandboxId, TeamId};
use atoll_core::resources::Resources as Amounts;
use atoll_core::time::Timestamp;
use atoll_proto::orchestrator::Resources;
use buffa_types::google::protobuf;

use super::message::BYTES_PER_MIB;
use crate::error::ApiError;

const NANOS_PER_MICRO: i64 = 1_000;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// Everything that is wrong with a request, so that its caller learns it at once.
#[derive(Debug, Default)]
pub(super) struct Problems {
    error: Option<ApiError>,
}

impl Problems {
    /// Takes the value, or notes what is wrong and goes on with a default.
    pub(super) fn take<T: Default>(&mut self, result: Result<T, ApiError>) -> T {
        result.unwrap_or_else(|error| {
            self.note(error);
            T::default()
        })
    }

    fn note(&mut self, error: ApiError) {
        self.error = Some(match self.error.take() {
            None => error,
            // What cannot be done here outweighs what is malformed: mending that would not help.
            Some(first) if first.kind() != ErrorKind::InvalidArgument => first,
            Some(_) if error.kind() != ErrorKind::InvalidArgument => error,
            Some(first) => first.and(error),
        });
    }

    /// Whether anything was wrong.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        self.error.map_or(Ok(()), Err)
    }
}

/// The sandbox that a request names.
pub(super) fn sandbox_id(text: &str) -> Result<SandboxId, ApiError> {
    SandboxId::parse_client_form(text)
        .map_err(|_| ApiError::validation("Invalid sandbox ID").at("sandbox_id"))
}

/// The node that a request names.
pub(super) fn node_id(text: &str) -> Result<NodeId, ApiError> {
    text.parse().map_err(|_| {
        let problem = "a node id has 1 to 64 characters of a-z, 0-9, dash, underscore and dot";
        ApiError::validation(problem).at("node_id")
    })
}

/// The team that a request names.
pub(super) fn team_id(text: &str) -> Result<TeamId, ApiError> {
    text.parse()
        .map_err(|_| ApiError::validation("Invalid team ID").at("team_id"))
}

/// A length of time; absent where the request has none.
pub(super) fn duration(
    name: &'static str,
    value: Option<protobuf::Duration>,
) -> Result<Option<Duration>, ApiError> {
    let Some(value) = value else {
        return Ok(None);
    };
    Duration::try_from(value).map(Some).map_err(|_| {
        let problem = format!("`{name}` must not be negative, nor out of range");
        ApiError::validation(problem).at(name)
    })
}

/// A point in time; absent where the request has none.
pub(super) fn timestamp(
    name: &'static str,
    value: Option<protobuf::Timestamp>,
) -> Result<Option<Timestamp>, ApiError> {
    let Some(value) = value else {
        return Ok(None);
    };
    let micros = value
        .seconds
        .checked_mul(MICROS_PER_SECOND)
        .and_then(|micros| micros.checked_add(i64::from(value.nanos) / NANOS_PER_MICRO));
    match micros {
        Some(micros) if (0..1_000_000_000).contains(&value.nanos) => {
            Ok(Some(Timestamp::from_micros(micros)))
        }
        _ => {
            let problem = format!("`{name}` is out of range");
            Err(ApiError::validation(problem).at(name))
        }
    }
}

/// Amounts in the domain's units; what is not a whole MiB is rounded down.
pub(super) fn resources(
    name: &'static str,
    value: Option<&Resources>,
) -> Result<Amounts, ApiError> {
    let refuse = |problem| ApiError::validation(format!("`{name}` {problem}")).at(name);
    let value = value.ok_or_else(|| refuse("is missing"))?;
    let fit = |amount: u64| u32::try_from(amount).map_err(|_| refuse("is out of range"));
    Ok(Amounts {
        cpu_millis: fit(value.cpu_millicores)?,
        memory_mib: fit(value.memory_bytes / BYTES_PER_MIB)?,
        disk_mib: fit(value.disk_bytes / BYTES_PER_MIB)?,
    })
}

/// A value of an enumeration that is none of the ones the `.proto` lists.
pub(super) fn unknown(name: &'static str, number: i32) -> ApiError {
    let problem = format!("`{name}` has no meaning for {number}");
    ApiError::validation(problem).at(name)
}

/// A text that may be left empty.
pub(super) fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A map in the order of its names.
pub(super) fn ordered<S: BuildHasher>(map: HashMap<String, String, S>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}
