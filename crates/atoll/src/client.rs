//! A small client of Atoll's own REST API, for the commands. It sends what any E2B client sends.

use std::time::Duration;

use anyhow::{Context, anyhow};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::connection::Connection;

/// How long one call may take. Template imports have their own bound on the server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a stream may last: longer than any server's own limit.
const STREAM_TIMEOUT: Duration = Duration::from_secs(2 * 3_600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Rows a page of a listing asks for: the most the API gives.
const PAGE_ROWS: u32 = 100;

/// The API of one server, as one key sees it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    connection: Connection,
    /// The team an operator acts for, in the admin part.
    team: Option<String>,
}

/// What create and connect answer.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Created {
    #[serde(rename = "sandboxID")]
    pub(crate) id: String,
    #[serde(rename = "envdAccessToken")]
    pub(crate) envd_access_token: Option<String>,
}

/// The fields of a sandbox that the commands show.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed {
    #[serde(rename = "sandboxID")]
    pub(crate) id: String,
    pub(crate) alias: Option<String>,
    #[serde(rename = "templateID")]
    pub(crate) template_id: String,
    pub(crate) state: String,
    pub(crate) started_at: String,
    pub(crate) end_at: String,
    pub(crate) cpu_count: u32,
    #[serde(rename = "memoryMB")]
    pub(crate) memory_mib: u32,
}

#[derive(Debug, Deserialize)]
struct ErrorBody {
    message: String,
}

impl Client {
    /// # Errors
    /// If the HTTP client cannot be built.
    pub(crate) fn new(connection: Connection) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            // Sandboxes are reached directly, whatever proxy the environment names.
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            connection,
            team: None,
        })
    }

    /// The same client, which acts for a team (by id) in the admin part.
    pub(crate) fn for_team(mut self, team: String) -> Self {
        self.team = Some(team);
        self
    }

    pub(crate) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Makes a sandbox.
    ///
    /// # Errors
    /// What the server says, or that it does not answer.
    pub(crate) async fn create(&self, template: &str, timeout_s: u32) -> anyhow::Result<Created> {
        let body = json!({ "templateID": template, "timeout": timeout_s });
        self.call(Method::POST, "/v2/sandboxes", Some(body)).await
    }

    /// Makes sure that a sandbox serves, and answers with its token.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(crate) async fn connect(&self, id: &str, timeout_s: u32) -> anyhow::Result<Created> {
        let body = json!({ "timeout": timeout_s });
        self.call(
            Method::POST,
            &format!("/v2/sandboxes/{}/connect", segment(id)),
            Some(body),
        )
        .await
    }

    /// One sandbox, as the API shows it.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(crate) async fn info(&self, id: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, &format!("/sandboxes/{}", segment(id)), None)
            .await
    }

    /// Removes a sandbox.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(crate) async fn kill(&self, id: &str) -> anyhow::Result<()> {
        let path = format!("/sandboxes/{}", segment(id));
        self.send(Method::DELETE, &path, None).await.map(drop)
    }

    /// Removes a sandbox; tells whether it was still there.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(crate) async fn kill_if_there(&self, id: &str) -> anyhow::Result<bool> {
        let path = format!("/sandboxes/{}", segment(id));
        let response = self.answer(Method::DELETE, &path, None).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        accept(response).await.map(|_| true)
    }

    /// Every sandbox of the team, newest first, all pages.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(crate) async fn list(&self) -> anyhow::Result<Vec<Value>> {
        let mut rows = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut path = format!("/v2/sandboxes?limit={PAGE_ROWS}");
            if let Some(token) = &token {
                path.push_str("&nextToken=");
                path.push_str(&segment(token));
            }
            let response = self.send(Method::GET, &path, None).await?;
            let next = response.headers().get("x-next-token");
            token = next
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned);
            rows.extend(response.json::<Vec<Value>>().await?);
            if token.is_none() {
                return Ok(rows);
            }
        }
    }

    /// Calls the API and parses its JSON answer.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<T> {
        let response = self.send(method, path, body).await?;
        response
            .json()
            .await
            .context("the server's answer is not what was expected")
    }

    /// Calls the API; the answer is a success.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<reqwest::Response> {
        accept(self.answer(method, path, body).await?).await
    }

    /// Calls the API; the answer may be a refusal.
    async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<reqwest::Response> {
        self.dispatch(self.request(method, path, body.as_ref()))
            .await
    }

    /// Asks for an endless answer, which may be a refusal too.
    ///
    /// # Errors
    /// If the server does not answer.
    pub(crate) async fn stream(&self, path: &str) -> anyhow::Result<reqwest::Response> {
        let request = self.request(Method::GET, path, None);
        self.dispatch(request.timeout(STREAM_TIMEOUT)).await
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.connection.api_url);
        let mut request = self.http.request(method, &url);
        request = request.header("X-API-Key", &self.connection.api_key);
        if let Some(token) = self.connection.admin_token.as_ref()
            && path.starts_with("/admin/")
        {
            request = request.header("X-Admin-Token", token);
            if let Some(team) = &self.team {
                request = request.header("X-Team-ID", team);
            }
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request
    }

    async fn dispatch(
        &self,
        request: reqwest::RequestBuilder,
    ) -> anyhow::Result<reqwest::Response> {
        request
            .send()
            .await
            .with_context(|| format!("no answer from {}", self.connection.api_url))
    }

    /// Asks the guest agent of a sandbox whether it answers.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) async fn guest_health(&self, id: &str) -> anyhow::Result<()> {
        let url = format!("{}/health", self.connection.sandbox_url);
        let request = self.http.get(url);
        let request = request
            .header("E2b-Sandbox-Id", id)
            .header("E2b-Sandbox-Port", "49983");
        let response = request.send().await?;
        let status = response.status();
        if status == StatusCode::NO_CONTENT {
            return Ok(());
        }
        Err(refusal(status, &response.text().await.unwrap_or_default()))
    }
}

/// The answer, if it is a success.
///
/// # Errors
/// What the server says.
pub(crate) async fn accept(response: reqwest::Response) -> anyhow::Result<reqwest::Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    Err(refusal(status, &response.text().await.unwrap_or_default()))
}

fn refusal(status: StatusCode, body: &str) -> anyhow::Error {
    match serde_json::from_str::<ErrorBody>(body) {
        Ok(error) => anyhow!("{} ({})", error.message, status.as_u16()),
        Err(_) => anyhow!("the server answered {status}"),
    }
}

/// Encodes text as one segment of a path, or one value of a query.
pub(crate) fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_hold_no_separators() {
        assert_eq!(segment("ns/alias:v1 ü"), "ns%2Falias%3Av1%20%C3%BC");
    }

    #[test]
    fn a_refusal_shows_the_servers_words() {
        let body = r#"{"code":404,"message":"no such thing"}"#;
        assert_eq!(
            refusal(StatusCode::NOT_FOUND, body).to_string(),
            "no such thing (404)"
        );
    }
}
