//! `POST /init`: whoever runs the sandbox tells the agent its variables, user and token.
//!
//! The first call needs no token: until then nothing in the sandbox was started by anybody. Once a
//! token is set, only a call with the same token may change anything, so nobody in the sandbox can
//! take it away. A call whose timestamp is not newer than the newest so far is answered and
//! ignored, because calls may be repeated and overtake each other.
//!
//! Not done, and refused: volume mounts and certificates. The clock is that of the machine and is
//! left alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::CACHE_CONTROL;
use http::{HeaderValue, Request, Response, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{full, mark, no_content, read_all};
use crate::VERSION;
use crate::inbound::Inbound;
use crate::server::{Agent, Body};
use crate::settings::{Values, is_equal};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Init {
    env_vars: Option<BTreeMap<String, String>>,
    access_token: Option<String>,
    timestamp: Option<String>,
    #[serde(rename = "hyperloopIP")]
    hyperloop_ip: Option<String>,
    default_user: Option<String>,
    default_workdir: Option<String>,
    volume_mounts: Option<Vec<IgnoredAny>>,
    ca_bundle: Option<String>,
}

/// Why nothing was set.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("access token validation failed")]
    WrongToken,
    #[error("access token reset not authorized")]
    ResetToken,
    #[error("invalid request body: {0}")]
    Body(serde_json::Error),
    #[error("invalid timestamp '{0}'")]
    Timestamp(String),
    #[error("volume mounts are not supported by this agent")]
    Volumes,
    #[error("CA bundles are not supported by this agent")]
    Certificates,
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::WrongToken | Self::ResetToken => StatusCode::UNAUTHORIZED,
            Self::Body(_) | Self::Timestamp(_) | Self::Volumes | Self::Certificates => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

/// Answers the request. Every answer names the agent's version.
pub(crate) async fn answer(agent: &Arc<Agent>, request: Request<Inbound>) -> Response<Body> {
    let mut answer = match read_all(request.into_body()).await {
        Err(refusal) => refusal.into_response(),
        Ok(body) => match set(agent, &body) {
            Ok(()) => no_content(),
            Err(refused) => {
                let mut answer = Response::new(full(refused.to_string()));
                *answer.status_mut() = refused.status();
                answer
            }
        },
    };
    answer
        .headers_mut()
        .insert("x-envd-version", HeaderValue::from_static(VERSION));
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn set(agent: &Agent, body: &[u8]) -> Result<(), Refused> {
    let mut values = agent.settings.lock();
    apply(&mut values, body)?;
    if agent.is_init {
        mark::write_told(&values);
    }
    Ok(())
}

fn apply(values: &mut Values, body: &[u8]) -> Result<(), Refused> {
    let init: Init = if body.is_empty() {
        Init::default()
    } else {
        serde_json::from_slice(body).map_err(Refused::Body)?
    };
    let token = init.access_token.filter(|token| !token.is_empty());
    match (&values.token, &token) {
        (None, _) => {}
        (Some(known), Some(offered)) if is_equal(known.as_bytes(), offered.as_bytes()) => {}
        (Some(_), Some(_)) => return Err(Refused::WrongToken),
        (Some(_), None) => return Err(Refused::ResetToken),
    }
    if init.volume_mounts.is_some_and(|mounts| !mounts.is_empty()) {
        return Err(Refused::Volumes);
    }
    if init.ca_bundle.is_some_and(|bundle| !bundle.is_empty()) {
        return Err(Refused::Certificates);
    }
    if let Some(text) = init.timestamp {
        let time_ns = parse_time(&text).ok_or(Refused::Timestamp(text))?;
        if values
            .newest_ns
            .is_some_and(|newest_ns| time_ns <= newest_ns)
        {
            return Ok(());
        }
        values.newest_ns = Some(time_ns);
    }
    if let Some(variables) = init.env_vars {
        values.replace_variables(variables);
    }
    values.token = token;
    if let Some(address) = init.hyperloop_ip.filter(|address| !address.is_empty()) {
        values
            .variables
            .insert("E2B_EVENTS_ADDRESS".to_owned(), format!("http://{address}"));
    }
    if let Some(user) = init.default_user.filter(|user| !user.is_empty()) {
        values.user = user;
    }
    if let Some(workdir) = init.default_workdir.filter(|workdir| !workdir.is_empty()) {
        values.workdir = Some(workdir);
    }
    Ok(())
}

/// An RFC 3339 time in nanoseconds since 1970.
fn parse_time(text: &str) -> Option<i128> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i128>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone_at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let offset_s = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let seconds = hours.parse::<i128>().ok()? * 3600 + minutes.parse::<i128>().ok()? * 60;
            if zone.starts_with('-') {
                -seconds
            } else {
                seconds
            }
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut clock = clock.splitn(3, ':').map(|part| part.parse::<i128>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let nanoseconds: i128 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    if !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    // Days since 1970 in the proleptic Gregorian calendar, counting years from March.
    let (shifted_year, shifted_month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100
        + (153 * shifted_month + 2) / 5
        + day
        - 1;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(
        (days * 86_400 + hour * 3600 + minute * 60 + second - offset_s) * 1_000_000_000
            + nanoseconds,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn times_are_read_to_the_nanosecond() {
        assert_eq!(parse_time("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(
            parse_time("2026-11-23T20:13:21.5Z"),
            Some(1_795_464_801_500_000_000)
        );
        assert_eq!(
            parse_time("2026-11-23T21:13:21.5+01:00"),
            parse_time("2026-11-23T20:13:21.5Z")
        );
        for bad in [
            "",
            "yesterday",
            "2026-11-23",
            "2026-13-01T00:00:00Z",
            "2026-11-23T20:13:21",
        ] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn stale_calls_change_nothing_and_tokens_protect() {
        let settings = Settings::new();
        let init = |text: &str| apply(&mut settings.lock(), text.as_bytes());
        init(r#"{"timestamp":"2026-01-01T00:00:02Z","accessToken":"t","envVars":{"A":"1"}}"#)
            .unwrap();
        init(r#"{"timestamp":"2026-01-01T00:00:01Z","accessToken":"t","envVars":{"A":"2"}}"#)
            .unwrap();
        assert_eq!(settings.lock().variables["A"], "1");
        assert!(matches!(
            init(r#"{"accessToken":"other"}"#),
            Err(Refused::WrongToken)
        ));
        assert!(matches!(init(""), Err(Refused::ResetToken)));
        assert!(matches!(
            init(r#"{"accessToken":"t","volumeMounts":[{}]}"#),
            Err(Refused::Volumes)
        ));
        let newer = r#"{"timestamp":"2026-01-01T00:00:03Z","accessToken":"t",
            "envVars":{"B":"3"},"unknown":[1]}"#;
        init(newer).unwrap();
        assert_eq!(
            settings.lock().variables.keys().collect::<Vec<_>>(),
            ["B", "E2B_SANDBOX"]
        );
    }
}
