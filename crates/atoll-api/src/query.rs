//! Query strings: typed access with precise refusals. Unknown parameters are tolerated.

use std::collections::BTreeMap;
use std::str::FromStr;

use atoll_control::request::{ListCursor, VisibleState};
use atoll_core::id::SandboxId;
use atoll_core::time::Timestamp;
use axum::extract::FromRequestParts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use percent_encoding::percent_decode_str;

use crate::error::ApiError;
use crate::time;

/// Separates the parts of a cursor.
const CURSOR_SEPARATOR: &str = "__";

/// The parameters of a request, decoded, in order.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Query {
    fn parse(query: &str) -> Self {
        let pairs = form_urlencoded::parse(query.as_bytes());
        Self(
            pairs
                .map(|(k, v)| (k.into_owned(), v.into_owned()))
                .collect(),
        )
    }

    /// The first value of a parameter; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.0.iter();
        values
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// A list, either comma separated or given by repeating the parameter.
    pub(crate) fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.all(name)
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|value| !value.is_empty())
    }

    /// A number within `min..=max`.
    pub(crate) fn number<T>(&self, name: &str, min: T, max: T) -> Result<Option<T>, ApiError>
    where
        T: FromStr + PartialOrd + Copy + std::fmt::Display,
    {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        match text.parse::<T>() {
            Ok(number) if number >= min && number <= max => Ok(Some(number)),
            _ => Err(ApiError::validation(format_args!(
                "parameter `{name}` must be an integer from {min} to {max}, not `{}`",
                shorten(text)
            ))),
        }
    }

    /// A time in RFC 3339.
    pub(crate) fn time(&self, name: &str) -> Result<Option<Timestamp>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        // A client that does not escape the plus of an offset sends what decodes to a space.
        time::from_rfc3339(text)
            .or_else(|| time::from_rfc3339(&text.replace(' ', "+")))
            .map(Some)
            .ok_or_else(|| {
                ApiError::validation(format_args!(
                    "parameter `{name}` must be a time in RFC 3339, not `{}`",
                    shorten(text)
                ))
            })
    }

    /// One of a fixed set of words.
    pub(crate) fn word<T: Copy>(
        &self,
        name: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, ApiError> {
        self.get(name)
            .map(|text| pick(name, text, words))
            .transpose()
    }

    /// The states to list.
    pub(crate) fn states(&self) -> Result<Vec<VisibleState>, ApiError> {
        let words = [
            ("running", VisibleState::Running),
            ("paused", VisibleState::Paused),
        ];
        let mut states: Vec<VisibleState> = Vec::new();
        for text in self.list("state") {
            let state = pick("state", text, &words)?;
            if !states.contains(&state) {
                states.push(state);
            }
        }
        Ok(states)
    }

    /// The labels to filter by. Clients encode names and values, then the pairs as a whole, and
    /// the query once more (E2B wire protocol); one level was taken off before.
    pub(crate) fn metadata(&self) -> Result<BTreeMap<String, String>, ApiError> {
        let mut labels = BTreeMap::new();
        let Some(text) = self.get("metadata") else {
            return Ok(labels);
        };
        for pair in unescape(text)?.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            labels.insert(unescape(name)?, unescape(value)?);
        }
        Ok(labels)
    }

    /// Where the page begins.
    pub(crate) fn cursor(&self) -> Result<Option<ListCursor>, ApiError> {
        let Some(text) = self.get("nextToken") else {
            return Ok(None);
        };
        decode_cursor(text)
            .map(Some)
            .ok_or_else(|| ApiError::validation("parameter `nextToken` is not one of ours"))
    }
}

fn pick<T: Copy>(name: &str, text: &str, words: &[(&str, T)]) -> Result<T, ApiError> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        ApiError::validation(format_args!(
            "parameter `{name}` must be one of {}, not `{}`",
            known.join(", "),
            shorten(text)
        ))
    })
}

fn unescape(text: &str) -> Result<String, ApiError> {
    percent_decode_str(&text.replace('+', " "))
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| ApiError::validation("parameter `metadata` is not valid UTF-8"))
}

/// What a client sent, cut to a length that fits into a message.
pub(crate) fn shorten(text: &str) -> String {
    const MAX_SHOWN: usize = 64;
    text.chars()
        .take(MAX_SHOWN)
        .flat_map(char::escape_debug)
        .collect()
}

/// The opaque text of a cursor.
pub(crate) fn encode_cursor(cursor: &ListCursor) -> String {
    let at = time::to_rfc3339(cursor.created_at);
    URL_SAFE_NO_PAD.encode(format!("{at}{CURSOR_SEPARATOR}{}", cursor.id))
}

/// The cursor of such a text.
pub(crate) fn decode_cursor(text: &str) -> Option<ListCursor> {
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
    let decoded = String::from_utf8(bytes).ok()?;
    let (at, id) = decoded.split_once(CURSOR_SEPARATOR)?;
    Some(ListCursor {
        created_at: time::from_rfc3339(at)?,
        id: id.parse::<SandboxId>().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_under_three_levels_of_encoding() {
        // What the JavaScript SDK sends for {"a&b": "c=d e"}.
        let query = Query::parse("metadata=a%252526b%3Dc%25253Dd%252520e%26x%3D1");
        let labels = query.metadata().unwrap();
        assert_eq!(labels["a&b"], "c=d e");
        assert_eq!(labels["x"], "1");
        // What a person types.
        let labels = Query::parse("metadata=user%3Dbob").metadata().unwrap();
        assert_eq!(labels["user"], "bob");
        assert!(Query::parse("metadata=%25FF").metadata().is_err());
    }

    #[test]
    fn cursors_survive_and_foreign_ones_do_not() {
        let cursor = ListCursor {
            created_at: Timestamp::from_micros(1_790_000_000_000_100),
            id: "iabc".parse().unwrap(),
        };
        let query = Query::parse(&format!("nextToken={}", encode_cursor(&cursor)));
        assert_eq!(query.cursor().unwrap(), Some(cursor));
        for text in ["x", "%00", "AAAA", &URL_SAFE_NO_PAD.encode("now__iabc")] {
            let query = Query::parse(&format!("nextToken={text}"));
            assert!(query.cursor().is_err(), "{text}");
        }
    }

    #[test]
    fn states_come_as_list_or_repeated() {
        let both = vec![VisibleState::Running, VisibleState::Paused];
        assert_eq!(Query::parse("state=running,paused").states().unwrap(), both);
        assert_eq!(
            Query::parse("state=running&state=paused&state=running")
                .states()
                .unwrap(),
            both
        );
        assert!(Query::parse("").states().unwrap().is_empty());
        assert!(Query::parse("state=dead").states().is_err());
    }

    #[test]
    fn numbers_have_ranges() {
        let query = Query::parse("limit=100&big=101&neg=-1&text=ten&empty=");
        assert_eq!(query.number("limit", 1, 100_u32).unwrap(), Some(100));
        assert_eq!(query.number("empty", 1, 100_u32).unwrap(), None);
        for name in ["big", "neg", "text"] {
            assert!(query.number(name, 1, 100_u32).is_err(), "{name}");
        }
    }
}
