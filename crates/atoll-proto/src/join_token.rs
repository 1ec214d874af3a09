//! What the parts of a fleet show each other: one secret that all of them know.

use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

/// The shortest text that is taken as a token: what can be guessed protects nothing.
pub const LEN_MIN: usize = 16;

/// The fleet's join token. Whoever has it may give orders to nodes and be one.
#[derive(Debug, Clone)]
pub struct JoinToken(Arc<SecretString>);

/// Why a text is no token.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// Too short.
    #[error("a join token has at least {LEN_MIN} characters")]
    Short,
    /// It cannot stand in a header.
    #[error("a join token is visible ASCII without spaces")]
    Characters,
}

impl JoinToken {
    /// A token from its text, without white space around it.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let text = text.trim();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Invalid::Characters);
        }
        if text.len() < LEN_MIN {
            return Err(Invalid::Short);
        }
        Ok(Self(Arc::new(SecretString::from(text))))
    }

    /// The value of the `authorization` header that shows it.
    #[must_use]
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0.expose_secret())
    }

    /// The token itself, to hand it on to another process of this machine.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Tells this token from others without telling it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(self.0.expose_secret());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether this `authorization` header shows it. Digests are compared, so that the time it
    /// takes says nothing about the token.
    #[must_use]
    pub fn is_shown_by(&self, header: Option<&[u8]>) -> bool {
        let given = header.and_then(|header| header.strip_prefix(b"Bearer "));
        let digest = Sha256::digest(given.unwrap_or_default());
        given.is_some() && digest == Sha256::digest(self.0.expose_secret())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_header_shows_a_token() {
        let token = JoinToken::parse(" 0123456789abcdef\n").unwrap();
        assert!(token.is_shown_by(Some(token.header().as_bytes())));
        for wrong in ["", "Bearer ", "Bearer 0123456789abcdeg", "0123456789abcdef"] {
            assert!(!token.is_shown_by(Some(wrong.as_bytes())), "{wrong}");
        }
        assert!(!token.is_shown_by(None));
        assert!(!format!("{token:?} {}", token.fingerprint()).contains("0123"));
    }

    #[test]
    fn what_can_be_guessed_or_not_sent_is_no_token() {
        assert!(matches!(JoinToken::parse("short"), Err(Invalid::Short)));
        let spaced = JoinToken::parse("0123456789 abcdef");
        assert!(matches!(spaced, Err(Invalid::Characters)));
    }
}
