//! How clients name templates: `[namespace/]alias[:tag]`, or an id (E2B wire protocol).

use crate::error::{Error, Result};

/// The tag meant when none is given, and so far the only one that builds get.
pub(crate) const DEFAULT_TAG: &str = "default";

/// The longest part of a reference.
const PART_MAX: usize = 128;

/// A reference, lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Whose name it is; none: the caller's own, then a global one.
    pub(crate) namespace: Option<String>,
    /// The name, or an id.
    pub(crate) alias: String,
    /// Which of its builds.
    pub(crate) tag: String,
}

impl Reference {
    /// Reads a reference.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let lower = text.trim().to_lowercase();
        let (rest, tag) = match lower.split_once(':') {
            Some((rest, tag)) => (rest, tag),
            None => (lower.as_str(), DEFAULT_TAG),
        };
        let (namespace, alias) = match rest.split_once('/') {
            Some((namespace, alias)) => (Some(namespace), alias),
            None => (None, rest),
        };
        let is_valid =
            namespace.is_none_or(is_name) && is_name(alias) && is_part(tag, |b| b == b'.');
        if !is_valid {
            return Err(Error::invalid(format!(
                "`{}` is not a template reference: [namespace/]name[:tag] of letters, digits, \
                 `-` and `_`",
                text.chars().take(PART_MAX).collect::<String>()
            ))
            .with_field("template"));
        }
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            alias: alias.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

/// Whether the text can name a template: `[a-z0-9_-]+`.
pub(crate) fn is_name(text: &str) -> bool {
    is_part(text, |_| false)
}

fn is_part(text: &str, more: fn(u8) -> bool) -> bool {
    !text.is_empty()
        && text.len() <= PART_MAX
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_') || more(b)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_with_defaults_and_in_lower_case() {
        let parse = |text: &str| Reference::parse(text).unwrap();
        assert_eq!(parse("Base").alias, "base");
        assert_eq!(parse("base").tag, "default");
        let full = parse("team-a/py_3:v1.2");
        assert_eq!(full.namespace.as_deref(), Some("team-a"));
        assert_eq!((full.alias.as_str(), full.tag.as_str()), ("py_3", "v1.2"));
        for bad in ["", "a b", "a/b/c", "a:", "/a", "a:b:c", "a.b", "é", "../x"] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }
}
