//! The bearer tokens of sandboxes: derived, never stored.
//!
//! A token is HMAC-SHA256 of the sandbox's id under a seed made once per installation, so every
//! later answer can repeat it and no table can leak it.

use atoll_core::id::SandboxId;
use atoll_core::sandbox::{AccessToken, Sandbox};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Length of the seed in bytes: the block that HMAC-SHA256 makes of it loses nothing.
pub(crate) const SEED_LEN: usize = 32;

/// Makes tokens.
pub(crate) struct Tokens {
    keyed: Hmac<Sha256>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens(…)")
    }
}

impl Tokens {
    /// From the installation's seed.
    pub(crate) fn new(seed: &[u8]) -> Self {
        Self {
            keyed: Hmac::new_from_slice(seed).expect("HMAC takes keys of any length"),
        }
    }

    /// What the guest agent demands; none if it demands nothing.
    pub(crate) fn envd(&self, sandbox: &Sandbox) -> Option<AccessToken> {
        sandbox
            .config
            .is_secured
            .then(|| self.derive("sandbox-envd-", &sandbox.id))
    }

    /// What the edge demands on ports; none if they are public.
    pub(crate) fn traffic(&self, sandbox: &Sandbox) -> Option<AccessToken> {
        (!sandbox.config.network.public_traffic)
            .then(|| self.derive("sandbox-traffic-", &sandbox.id))
    }

    fn derive(&self, purpose: &str, id: &SandboxId) -> AccessToken {
        let mut mac = self.keyed.clone();
        mac.update(purpose.as_bytes());
        mac.update(id.as_str().as_bytes());
        AccessToken::new(hex::encode(mac.finalize().into_bytes()))
    }
}
