//! Calls of an HTTP API that speaks JSON: one place for deadlines, sizes, secrets and errors.

use std::fmt;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Certificate, Client, Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an idle connection is kept for the next call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of one answer: a node's worth of sandboxes, or a fleet's worth of nodes.
const ANSWER_MAX: usize = 32 * 1024 * 1024;

/// Characters of an error's text that are kept.
const TEXT_MAX: usize = 256;

/// What does not stand for itself in a segment of a path.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'?')
    .add(b'\\');

/// Consul's header with the index of what was asked for.
const INDEX: &str = "x-consul-index";

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was given to reach it by is of no use.
    #[error("{0}")]
    Settings(String),
    /// It was not reached, or did not answer in time.
    #[error("it is not reached: {0}")]
    Unreachable(String),
    /// It answered that it will not.
    #[error("it answered {status}: {text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its words, cut.
        text: String,
    },
    /// Its answer is none.
    #[error("its answer cannot be read: {0}")]
    Malformed(String),
}

/// Where an API is, and what is shown there.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its URL, `http://host:port` or `https://host:port`.
    pub url: String,
    /// The secret that goes with every call.
    pub token: Option<SecretString>,
    /// Certificates, as PEM, one of which signed the API's; the system's unless given.
    pub authorities: Option<Vec<u8>>,
}

/// A client of one API.
#[derive(Clone)]
pub(crate) struct Http {
    client: Client,
    base: String,
    token: Option<(HeaderName, HeaderValue)>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    /// The index of what was asked for, from [`INDEX`].
    pub(crate) index: Option<u64>,
    body: Vec<u8>,
}

/// A call.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// Segments of the path.
    pub(crate) path: &'a [&'a str],
    pub(crate) query: &'a [(&'a str, &'a str)],
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) timeout: Duration,
}

impl Http {
    /// A client that shows the target's token in `header`.
    ///
    /// # Errors
    /// If URL, token or certificates are none.
    pub(crate) fn new(target: &Target, header: &'static str) -> Result<Self, Error> {
        let settings = |text: String| Error::Settings(text);
        let is_url = target.url.starts_with("http://") || target.url.starts_with("https://");
        let base = target.url.trim_end_matches('/').to_owned();
        if !is_url || base.contains(['?', '#', '@']) {
            return Err(settings(format!(
                "`{base}` is no URL of an API: write http://HOST:PORT or https://HOST:PORT"
            )));
        }
        let mut builder = Client::builder()
            .user_agent(concat!("atoll/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT);
        if let Some(pem) = &target.authorities {
            let certificates = Certificate::from_pem_bundle(pem)
                .map_err(|error| settings(format!("the certificates cannot be read: {error}")))?;
            if certificates.is_empty() {
                return Err(settings("the file of certificates holds none".to_owned()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder
            .build()
            .map_err(|error| settings(format!("no client can be made: {}", explain(&error))))?;
        let token = target.token.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(token.expose_secret())
                .map_err(|_| settings("the token has characters that none has".to_owned()))?;
            value.set_sensitive(true);
            Ok((HeaderName::from_static(header), value))
        });
        Ok(Self {
            client,
            base,
            token: token.transpose()?,
        })
    }

    pub(crate) async fn send(&self, call: Call<'_>) -> Result<Answer, Error> {
        let mut url = self.base.clone();
        for segment in call.path {
            url.push('/');
            url.extend(utf8_percent_encode(segment, SEGMENT));
        }
        if !call.query.is_empty() {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(call.query);
            url.push('?');
            url.push_str(&query.finish());
        }
        let mut request = self.client.request(call.method, url).timeout(call.timeout);
        if let Some((name, value)) = &self.token {
            request = request.header(name, value);
        }
        if let Some(body) = call.body {
            request = request
                .header("content-type", "application/json")
                .body(body);
        }
        let unreached = |error: reqwest::Error| Error::Unreachable(explain(&error.without_url()));
        let mut response = request.send().await.map_err(unreached)?;
        let index = response.headers().get(INDEX);
        let index = index.and_then(|value| value.to_str().ok()?.parse().ok());
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreached)? {
            if body.len() + chunk.len() > ANSWER_MAX {
                let why = format!("it is longer than {ANSWER_MAX} bytes");
                return Err(Error::Malformed(why));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status,
            index,
            body,
        })
    }
}

impl Answer {
    /// The same answer, if it is one of success.
    pub(crate) fn granted(self) -> Result<Self, Error> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(self.refusal())
    }

    /// The answer as a refusal.
    pub(crate) fn refusal(&self) -> Error {
        let text = String::from_utf8_lossy(&self.body);
        Error::Refused {
            status: self.status.as_u16(),
            text: text.trim().chars().take(TEXT_MAX).collect(),
        }
    }

    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| Error::Malformed(error.to_string()))
    }
}

/// The chain of causes: the outermost alone only says that sending failed.
fn explain(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text.chars().take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_target_is_refused_in_words() {
        let target = |url: &str| Target {
            url: url.to_owned(),
            token: None,
            authorities: None,
        };
        assert!(Http::new(&target("http://127.0.0.1:8500/"), "x-consul-token").is_ok());
        for wrong in ["127.0.0.1:8500", "ftp://h", "http://u@h", "http://h?x"] {
            let error = Http::new(&target(wrong), "x-consul-token").unwrap_err();
            assert!(error.to_string().contains("http://HOST:PORT"), "{error}");
        }
        let mut cut = target("https://h:1");
        cut.authorities = Some(b"no certificate".to_vec());
        let error = Http::new(&cut, "x-consul-token").unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
    }

    #[test]
    fn a_token_is_shown_to_nobody() {
        let target = Target {
            url: "http://h:1".to_owned(),
            token: Some(SecretString::from("hush-hush")),
            authorities: None,
        };
        let http = Http::new(&target, "x-consul-token").unwrap();
        assert!(!format!("{target:?}{http:?}{:?}", http.token).contains("hush"));
    }
}
