//! Times as the wire shows them.

use atoll_core::time::Timestamp;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_MILLI: i64 = 1_000;

/// RFC 3339 with microseconds, always six digits, UTC.
pub(crate) fn to_rfc3339(at: Timestamp) -> String {
    let time = jiff::Timestamp::from_microsecond(at.as_micros()).unwrap_or_default();
    format!("{time:.6}")
}

/// Parses RFC 3339 with any offset.
pub(crate) fn from_rfc3339(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp::from_micros(time.as_microsecond()))
}

/// Whole seconds since the epoch.
pub(crate) const fn to_unix_seconds(at: Timestamp) -> i64 {
    at.as_micros().div_euclid(MICROS_PER_SECOND)
}

/// From seconds since the epoch; out of range is the end of time.
pub(crate) const fn from_unix_seconds(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds.saturating_mul(MICROS_PER_SECOND))
}

/// From milliseconds since the epoch; out of range is the end of time.
pub(crate) const fn from_unix_millis(millis: i64) -> Timestamp {
    Timestamp::from_micros(millis.saturating_mul(MICROS_PER_MILLI))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_to_the_wire_and_back() {
        let at = Timestamp::from_micros(1_790_000_000_000_100);
        assert_eq!(to_rfc3339(at), "2026-09-21T14:13:20.000100Z");
        assert_eq!(from_rfc3339(&to_rfc3339(at)), Some(at));
        assert_eq!(from_rfc3339("2026-09-21T16:13:20.0001+02:00"), Some(at));
        assert_eq!(from_rfc3339("yesterday"), None);
        assert_eq!(to_unix_seconds(at), 1_790_000_000);
    }
}
