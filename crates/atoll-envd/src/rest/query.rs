//! The query of `/files`, and who may ask it: the holder of the token, or of a signature made with
//! it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{HeaderMap, StatusCode, Uri};
use sha2::{Digest, Sha256};

use super::Refusal;
use crate::clock;
use crate::settings::{Settings, is_equal};

/// What a request about a file says in its address.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FileQuery {
    pub(crate) path: Option<String>,
    pub(crate) username: Option<String>,
    signature: Option<String>,
    expiration: Option<i64>,
}

impl FileQuery {
    /// Reads the query. Of a repeated name the first counts; unknown ones are ignored.
    pub(crate) fn parse(uri: &Uri) -> Result<Self, Refusal> {
        let mut query = Self::default();
        for pair in uri.query().unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or_else(|| {
                Refusal::bad_request(format!("Invalid format for parameter {name}"))
            })?;
            match name {
                "path" => drop(query.path.get_or_insert(value)),
                "username" => drop(query.username.get_or_insert(value)),
                "signature" => drop(query.signature.get_or_insert(value)),
                "signature_expiration" => {
                    let seconds = value.parse().map_err(|_| {
                        Refusal::bad_request(format!(
                            "Invalid format for parameter signature_expiration: '{value}' is no \
                             integer"
                        ))
                    })?;
                    query.expiration.get_or_insert(seconds);
                }
                _ => {}
            }
        }
        Ok(query)
    }

    /// Refuses whoever has neither the token nor a signature for this operation (`read` or
    /// `write`).
    pub(crate) fn authorise(
        &self,
        settings: &Settings,
        headers: &HeaderMap,
        operation: &str,
    ) -> Result<(), Refusal> {
        let Some(token) = settings.lock().token.clone() else {
            return Ok(());
        };
        let refused = |message: &str| Err(Refusal::new(StatusCode::UNAUTHORIZED, message));
        if let Some(offered) = headers
            .get("x-access-token")
            .filter(|offered| !offered.is_empty())
        {
            return if is_equal(offered.as_bytes(), token.as_bytes()) {
                Ok(())
            } else {
                refused("access token present in header but does not match")
            };
        }
        let Some(signature) = &self.signature else {
            return refused("missing signature query parameter");
        };
        let path = self.path.as_deref().unwrap_or_default();
        let user = self.username.as_deref().unwrap_or_default();
        let expected = sign(path, operation, user, &token, self.expiration);
        if !is_equal(expected.as_bytes(), signature.as_bytes()) {
            return refused("invalid signature");
        }
        if self
            .expiration
            .is_some_and(|expiration| expiration < clock::unix_seconds())
        {
            return refused("signature is already expired");
        }
        Ok(())
    }
}

/// The signature that SDKs make of a path, an operation, a user (may be empty), the token and an
/// expiration.
fn sign(path: &str, operation: &str, user: &str, token: &str, expiration: Option<i64>) -> String {
    let mut text = format!("{path}:{operation}:{user}:{token}");
    if let Some(expiration) = expiration {
        text.push_str(&format!(":{expiration}"));
    }
    format!(
        "v1_{}",
        STANDARD_NO_PAD.encode(Sha256::digest(text.as_bytes()))
    )
}

/// Undoes percent-encoding, where `+` is a space.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
                let value = digit(rest.next())? * 16 + digit(rest.next())?;
                u8::try_from(value).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_is_that_of_the_sdks() {
        let token = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";
        let signature = sign("hello.txt", "read", "user", token, None);
        assert_eq!(signature, "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E");
    }

    #[test]
    fn query_is_decoded() {
        let parse = |query: &str| FileQuery::parse(&format!("/files?{query}").parse().unwrap());
        let query = parse("path=%2Fa+b%C3%A9&username=u&path=other&x").unwrap();
        assert_eq!(
            (query.path.as_deref(), query.username.as_deref()),
            (Some("/a bé"), Some("u"))
        );
        assert!(parse("path=%zz").is_err());
        assert!(parse("signature_expiration=soon").is_err());
    }
}
