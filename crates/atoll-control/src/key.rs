//! The form of API keys: `e2b_` and 40 hex digits, as the SDKs expect (E2B wire protocol).

use secrecy::SecretString;
use sha2::{Digest as _, Sha256};

use crate::random::Random;

/// What every key begins with.
pub(crate) const PREFIX: &str = "e2b_";

/// Random bytes of a key: 160 bits.
const BODY_BYTES: usize = 20;

/// Hex digits after the prefix.
pub(crate) const BODY_LEN: usize = BODY_BYTES * 2;

/// How many characters of the body people may see at each end.
const MASK_START: usize = 2;
const MASK_END: usize = 4;

/// What may be kept of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digested {
    /// SHA-256 of the body's bytes, in hex.
    pub(crate) hash: String,
    /// The first characters of the body.
    pub(crate) masked_start: String,
    /// The last characters of the body.
    pub(crate) masked_end: String,
}

/// Digests a key's text; none if it has not the form of a key.
pub(crate) fn digest(text: &str) -> Option<Digested> {
    let body = text.strip_prefix(PREFIX)?;
    if body.len() != BODY_LEN {
        return None;
    }
    let bytes = hex::decode(body).ok()?;
    Some(Digested {
        hash: hex::encode(Sha256::digest(bytes)),
        masked_start: body.get(..MASK_START)?.to_owned(),
        masked_end: body.get(BODY_LEN - MASK_END..)?.to_owned(),
    })
}

/// Makes a key.
pub(crate) fn generate(random: &dyn Random) -> SecretString {
    let mut body = [0; BODY_BYTES];
    random.fill(&mut body);
    SecretString::from(format!("{PREFIX}{}", hex::encode(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_form_is_a_key() {
        let good = format!("e2b_{}", "0f".repeat(20));
        let digested = digest(&good).unwrap();
        assert_eq!(digested.hash.len(), 64);
        assert_eq!(digested.masked_start, "0f");
        assert_eq!(digested.masked_end, "0f0f");
        // Letter case of the digits does not make another key.
        assert_eq!(
            digest(&good.to_uppercase().replace("E2B_", "e2b_"))
                .unwrap()
                .hash,
            digested.hash
        );
        for bad in [
            "",
            "e2b_",
            &good[..43],
            &format!("{good}00"),
            &good.replace("e2b_", "sk_"),
            &good.replace("0f", "zz"),
            &format!("e2b_{}", "é".repeat(20)),
        ] {
            assert_eq!(digest(bad), None, "{bad}");
        }
    }
}
