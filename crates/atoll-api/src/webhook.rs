//! How a webhook's delivery looks on the wire, and how it gets there.
//!
//! The body and the `e2b-` headers are those of E2B's webhooks, so that what receives and checks
//! those works unchanged. E2B's signature is a plain digest without a time; next to it goes
//! `atoll-signature`, an HMAC over time and body, which a receiver should prefer.
//!
//! A webhook's owner chooses where this server connects to. So only addresses of the public
//! internet are connected to, unless the operator allows others: what a name resolves to is looked
//! at for each connection, not when the webhook is made; redirections are not followed; and
//! nothing of the answer but its status is looked at.

mod target;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use atoll_control::webhooks::{Delivery, Notice, SendError, WebhookSender};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{StatusCode, header};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::lifecycle::LifecycleEventDto;
use crate::limit::{WEBHOOK_BODY_MAX, WEBHOOK_CONNECT_TIMEOUT, WEBHOOK_TIMEOUT};
use crate::time;
pub use target::Targets;

/// How long an idle connection to a receiver is kept for the next event.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

const WEBHOOK_ID: &str = "e2b-webhook-id";
const DELIVERY_ID: &str = "e2b-delivery-id";
const SIGNATURE_VERSION: &str = "e2b-signature-version";
const SIGNATURE: &str = "e2b-signature";
const OWN_SIGNATURE: &str = "atoll-signature";

/// Sends deliveries over HTTP.
#[derive(Debug)]
pub struct HttpSender {
    client: reqwest::Client,
    targets: Targets,
}

impl HttpSender {
    /// A sender that connects to these targets.
    ///
    /// # Errors
    /// If the system's certificates cannot be read.
    pub fn new(targets: Targets) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("atoll/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(WEBHOOK_TIMEOUT)
            .connect_timeout(WEBHOOK_CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(1)
            .dns_resolver(Arc::new(target::Resolver::new(targets)))
            .build()?;
        Ok(Self { client, targets })
    }
}

/// E2B's signature: a digest of the secret and the body.
fn signature(secret: &str, body: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(secret.as_bytes());
    digest.update(body);
    URL_SAFE_NO_PAD.encode(digest.finalize())
}

/// Our signature: `t=<seconds>,v1=<HMAC-SHA256 of "<seconds>.<body>" in hex>`.
fn own_signature(secret: &str, seconds: i64, body: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    format!(
        "t={seconds},v1={}",
        hex::encode(mac.finalize().into_bytes())
    )
}

/// What a receiver hears of events that it can no longer have.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LaggedDto<'a> {
    version: &'static str,
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    sandbox_team_id: &'a str,
    timestamp: String,
    event_data: LaggedData,
}

#[derive(Debug, Serialize)]
struct LaggedData {
    missed: u64,
}

fn body(delivery: &Delivery<'_>) -> Result<Vec<u8>, serde_json::Error> {
    match delivery.notice {
        Notice::Event { event, sandbox } => {
            let mut document = LifecycleEventDto::new(event, sandbox.as_deref());
            let bytes = serde_json::to_vec(&document)?;
            if bytes.len() <= WEBHOOK_BODY_MAX {
                return Ok(bytes);
            }
            document.leave_out_metadata();
            serde_json::to_vec(&document)
        }
        Notice::Lagged { team, missed, .. } => serde_json::to_vec(&LaggedDto {
            version: crate::lifecycle::VERSION,
            id: &delivery.id,
            kind: "webhook.lagged",
            sandbox_team_id: team.as_str(),
            timestamp: time::to_rfc3339(delivery.at),
            event_data: LaggedData { missed: *missed },
        }),
    }
}

/// The whole chain of causes: the outermost alone only says that sending failed.
fn explain(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() {
        "it did not answer in time".to_owned()
    } else {
        "it was not reached".to_owned()
    };
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[async_trait]
impl WebhookSender for HttpSender {
    fn check(&self, url: &str) -> Result<(), String> {
        self.targets.check(url).map(drop)
    }

    async fn send(&self, delivery: &Delivery<'_>) -> Result<(), SendError> {
        let failed = |text: String| SendError::Failed(text);
        // Again, because what is allowed may have changed since the webhook was made.
        let url = self.targets.check(delivery.url).map_err(failed)?;
        let body = body(delivery).map_err(|error| failed(error.to_string()))?;
        let secret = delivery.secret.expose();
        let seconds = time::to_unix_seconds(delivery.at);
        let sent = self
            .client
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(WEBHOOK_ID, delivery.webhook.as_str())
            .header(DELIVERY_ID, &delivery.id)
            .header(SIGNATURE_VERSION, "v1")
            .header(SIGNATURE, signature(secret, &body))
            .header(OWN_SIGNATURE, own_signature(secret, seconds, &body))
            .body(body)
            .send()
            .await;
        let answer = sent.map_err(|error| failed(explain(&error.without_url())))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::GONE => Err(SendError::Gone),
            status => Err(failed(format!("it answered {status}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with the checking code that E2B publishes for receivers, and with `openssl dgst`.
    #[test]
    fn signatures_are_as_receivers_compute_them() {
        let body = br#"{"a":1}"#;
        assert_eq!(
            signature("secret", body),
            "N7005LKS7534v-cOP1BSYTkklJDDwllM8gF1unZl4B0"
        );
        assert_eq!(
            own_signature("secret", 1_700_000_000, body),
            "t=1700000000,v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686"
        );
    }
}
