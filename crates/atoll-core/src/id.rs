//! Identities. Each is a newtype whose parse validates, so that a value of the type is well formed.

use std::fmt;
use std::str::FromStr;

/// Length of the random part of a sandbox or template id.
pub const ID_BODY_LEN: usize = 20;

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {kind} id")]
pub struct InvalidId {
    /// What was being parsed: `sandbox`, `node`, …
    pub kind: &'static str,
    /// The rejected text, cut to a printable length.
    pub text: String,
}

impl InvalidId {
    fn new(kind: &'static str, text: &str) -> Self {
        Self {
            kind,
            text: text.chars().take(64).collect(),
        }
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId::new($kind, text))
                }
            }
        }
    };
}

fn is_lower_alnum(text: &str, max: usize) -> bool {
    !text.is_empty()
        && text.len() <= max
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn is_slug(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.')
        })
}

id!(
    /// A sandbox: `i` and 20 characters of `[a-z0-9]` when Atoll makes it; any `[a-z0-9]+` up to
    /// 64 characters is accepted, as E2B does.
    SandboxId,
    "sandbox",
    |t| is_lower_alnum(t, 64)
);
id!(
    /// A template: 20 characters of `[a-z0-9]` when Atoll makes it.
    TemplateId,
    "template",
    |t| is_lower_alnum(t, 64)
);
id!(
    /// One build of a template: a UUID.
    BuildId,
    "build",
    is_slug
);
id!(
    /// A team, the unit of tenancy: a UUID.
    TeamId,
    "team",
    is_slug
);
id!(
    /// An API key's public id: a UUID. Never the key itself.
    KeyId,
    "key",
    is_slug
);
id!(
    /// A webhook: a UUID.
    WebhookId,
    "webhook",
    is_slug
);
id!(
    /// A machine that runs sandboxes: a slug, unique in the fleet.
    NodeId,
    "node",
    is_slug
);
id!(
    /// A storage of snapshots, drawn when it is first used: two nodes that find the same id share
    /// it.
    StoreId,
    "snapshot store",
    is_slug
);

id!(
    /// One start of a process of the control plane: a UUID.
    ServerId,
    "server",
    is_slug
);

/// Turns random bytes into `[a-z0-9]` text, one character a byte.
///
/// The bias of `byte % 36` (7 of 256 values) costs less than a tenth of a bit per character.
#[must_use]
pub fn id_body(random: [u8; ID_BODY_LEN]) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    random
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

impl SandboxId {
    /// Makes an id from the given random bytes.
    #[must_use]
    pub fn from_random(random: [u8; ID_BODY_LEN]) -> Self {
        Self(format!("i{}", id_body(random)))
    }

    /// Parses the form clients may send: `<id>` or `<id>-<client id>`.
    ///
    /// # Errors
    /// If what stands before the first dash is no sandbox id.
    pub fn parse_client_form(text: &str) -> Result<Self, InvalidId> {
        text.split('-').next().unwrap_or_default().parse()
    }
}

impl TemplateId {
    /// Makes an id from the given random bytes.
    #[must_use]
    pub fn from_random(random: [u8; ID_BODY_LEN]) -> Self {
        Self(id_body(random))
    }
}

/// Which placement of a sandbox an order or a report speaks of.
///
/// Raised by control whenever the sandbox is placed (create, resume, restart, move). A node refuses
/// an order of an older generation: that fence keeps two live copies from both being routable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// The generation of the first placement.
    pub const FIRST: Self = Self(1);

    /// Newer than any there will be.
    pub const MAX: Self = Self(i64::MAX.unsigned_abs());

    /// A generation from its number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The generation of the placement before; the first has none.
    #[must_use]
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The generation of the next placement.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
