//! Whom a request means: read from its host name or from its routing headers.
//!
//! Two forms exist in the E2B protocol. `<port>-<sandbox>[-<client>].<domain>` names the target in
//! the host; where the host cannot (a local name, an IP, the shared `sandbox.<domain>`, the API's
//! own host), the headers `E2b-Sandbox-Id` and `E2b-Sandbox-Port` do. Elsewhere these headers are
//! ignored: a host that names one sandbox must never lead to another.

use std::net::IpAddr;

use atoll_core::id::SandboxId;
use http::HeaderMap;
use http::request::Parts;

/// Names the sandbox where the host does not.
pub const SANDBOX_ID_HEADER: &str = "e2b-sandbox-id";
/// Names the port where the host does not.
pub const SANDBOX_PORT_HEADER: &str = "e2b-sandbox-port";
/// First label of the host shared by all sandboxes of a domain.
const SHARED_LABEL: &str = "sandbox";

/// One port of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The port inside it, never 0.
    pub port: u16,
}

/// Why a request names no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The host has neither form.
    #[error("invalid host")]
    Host,
    /// What stands in the place of the sandbox id is none.
    #[error("invalid sandbox id")]
    SandboxId,
    /// What stands in the place of the port is none.
    #[error("invalid sandbox port")]
    Port,
    /// One routing header came without the other.
    #[error("missing routing header")]
    MissingHeader,
}

/// The host names that mean something to this edge.
#[derive(Debug, Clone)]
pub struct Hosts {
    domain: String,
    api: Vec<String>,
}

impl Hosts {
    /// `domain` is the base domain of sandbox host names; `api` are further names of the API
    /// besides `api.<domain>`. Ports in either are ignored.
    #[must_use]
    pub fn new(domain: &str, api: &[&str]) -> Self {
        let domain = host_name(domain);
        let mut names = vec![format!("api.{domain}")];
        names.extend(api.iter().map(|name| host_name(name)));
        Self { domain, api: names }
    }

    /// Whether the request is for a sandbox rather than for the API, so that one listener can
    /// serve both. A request that means a sandbox but is malformed counts as sandbox traffic.
    #[must_use]
    pub fn is_sandbox_traffic(&self, request: &Parts) -> bool {
        let host = host_name(request_host(request));
        if is_shared(&host) {
            return true;
        }
        if self.is_headers_host(&host) {
            return has_routing_headers(&request.headers);
        }
        match host.split_once('.') {
            Some((label, domain)) if domain == self.domain => label.contains('-'),
            Some((label, _)) => looks_like_target(label),
            None => false,
        }
    }

    /// Whom the request means.
    ///
    /// # Errors
    /// If it names no port of a sandbox; the kind says what is wrong.
    pub fn target(&self, request: &Parts) -> Result<Target, TargetError> {
        let host = host_name(request_host(request));
        let by_headers = is_shared(&host) || self.is_headers_host(&host);
        if by_headers && has_routing_headers(&request.headers) {
            return from_headers(&request.headers);
        }
        from_host(&host)
    }

    fn is_headers_host(&self, host: &str) -> bool {
        host == "localhost" || host.parse::<IpAddr>().is_ok() || self.api.iter().any(|n| n == host)
    }
}

/// The authority the client asked for: of an absolute URI (always so in HTTP/2), else the Host
/// header; empty if neither is there.
#[must_use]
pub fn request_host(request: &Parts) -> &str {
    if let Some(authority) = request.uri.authority() {
        return authority.as_str();
    }
    request
        .headers
        .get(http::header::HOST)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// Lower-case name without port and without the brackets of an IPv6 address.
fn host_name(authority: &str) -> String {
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, rest)| rest);
    let name = if let Some(rest) = authority.strip_prefix('[') {
        rest.split(']').next().unwrap_or_default()
    } else {
        authority.split(':').next().unwrap_or_default()
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn is_shared(host: &str) -> bool {
    host.split_once('.')
        .is_some_and(|(label, domain)| label == SHARED_LABEL && !domain.is_empty())
}

fn has_routing_headers(headers: &HeaderMap) -> bool {
    headers.contains_key(SANDBOX_ID_HEADER) || headers.contains_key(SANDBOX_PORT_HEADER)
}

/// Whether a label of a foreign domain has the form `<digits>-<id>…`.
fn looks_like_target(label: &str) -> bool {
    let mut parts = label.split('-');
    let port = parts.next().unwrap_or_default();
    let id = parts.next().unwrap_or_default();
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && id.parse::<SandboxId>().is_ok()
}

fn from_headers(headers: &HeaderMap) -> Result<Target, TargetError> {
    let get = |name| match headers.get(name).map(http::HeaderValue::to_str) {
        None => Err(TargetError::MissingHeader),
        Some(Ok("")) => Err(TargetError::MissingHeader),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Ok(None),
    };
    let id = get(SANDBOX_ID_HEADER)?.ok_or(TargetError::SandboxId)?;
    let port = get(SANDBOX_PORT_HEADER)?.ok_or(TargetError::Port)?;
    parse(id, port)
}

fn from_host(host: &str) -> Result<Target, TargetError> {
    let (label, _) = host.split_once('.').ok_or(TargetError::Host)?;
    let (port, id) = label.split_once('-').ok_or(TargetError::Host)?;
    parse(id, port)
}

fn parse(id: &str, port: &str) -> Result<Target, TargetError> {
    // `u16::from_str` would also take a leading plus sign.
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TargetError::Port);
    }
    let port = port.parse().map_err(|_| TargetError::Port)?;
    if port == 0 {
        return Err(TargetError::Port);
    }
    let sandbox = SandboxId::parse_client_form(id).map_err(|_| TargetError::SandboxId)?;
    Ok(Target { sandbox, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::builder().uri("/x").header("host", host);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn hosts() -> Hosts {
        Hosts::new("e2b.test:8443", &["control.example:3000"])
    }

    fn ok(port: u16) -> Result<Target, TargetError> {
        Ok(Target {
            sandbox: "iabc123".parse().unwrap(),
            port,
        })
    }

    const BOTH: &[(&str, &str)] = &[("E2b-Sandbox-Id", "iabc123"), ("E2b-Sandbox-Port", "49983")];

    #[test]
    fn host_names_a_port_of_a_sandbox() {
        let cases: &[(&str, Result<Target, TargetError>)] = &[
            ("3000-iabc123.e2b.test", ok(3000)),
            ("3000-iabc123.e2b.test:8443", ok(3000)),
            ("3000-IABC123.E2B.test", ok(3000)),
            ("3000-iabc123-6532622b.e2b.test", ok(3000)),
            ("3000-iabc123.other.example", ok(3000)),
            ("iabc123.e2b.test", Err(TargetError::Host)),
            ("e2b", Err(TargetError::Host)),
            ("", Err(TargetError::Host)),
            ("x-iabc123.e2b.test", Err(TargetError::Port)),
            ("0-iabc123.e2b.test", Err(TargetError::Port)),
            ("65536-iabc123.e2b.test", Err(TargetError::Port)),
            ("-iabc123.e2b.test", Err(TargetError::Port)),
            ("80-.e2b.test", Err(TargetError::SandboxId)),
            ("80-i_b.e2b.test", Err(TargetError::SandboxId)),
        ];
        for (host, want) in cases {
            assert_eq!(&hosts().target(&request(host, &[])), want, "{host}");
        }
    }

    #[test]
    fn headers_count_only_where_the_host_cannot_say() {
        for host in [
            "localhost:3000",
            "127.0.0.1:3000",
            "[::1]:3000",
            "sandbox.e2b.test",
            "api.e2b.test",
            "control.example",
        ] {
            assert_eq!(hosts().target(&request(host, BOTH)), ok(49983), "{host}");
        }
        let elsewhere = request("80-iother.e2b.test", BOTH);
        assert_eq!(
            hosts().target(&elsewhere).unwrap().sandbox.as_str(),
            "iother"
        );
    }

    #[test]
    fn wrong_headers_are_told_apart() {
        let cases: &[(&[(&str, &str)], TargetError)] = &[
            (&[("E2b-Sandbox-Id", "iabc123")], TargetError::MissingHeader),
            (&[("E2b-Sandbox-Port", "80")], TargetError::MissingHeader),
            (
                &[("E2b-Sandbox-Id", "iabc123"), ("E2b-Sandbox-Port", "+80")],
                TargetError::Port,
            ),
            (
                &[("E2b-Sandbox-Id", "../etc"), ("E2b-Sandbox-Port", "80")],
                TargetError::SandboxId,
            ),
            (&[], TargetError::Host),
        ];
        for (headers, want) in cases {
            let got = hosts().target(&request("localhost", headers));
            assert_eq!(got, Err(*want), "{headers:?}");
        }
    }

    #[test]
    fn traffic_is_told_from_the_api() {
        let sandbox = [
            request("localhost:3000", BOTH),
            request("localhost:3000", &BOTH[..1]),
            request("sandbox.e2b.test", &[]),
            request("80-iabc123.e2b.test", &[]),
            request("x-y.e2b.test", &[]),
            request("80-iabc123.localhost:3000", &[]),
        ];
        for parts in sandbox {
            assert!(hosts().is_sandbox_traffic(&parts), "{parts:?}");
        }
        let api = [
            request("localhost:3000", &[]),
            request("127.0.0.1", &[]),
            request("api.e2b.test", &[]),
            request("control.example:3000", &[]),
            request("my-server.example", &[]),
            request("my-host", &[]),
            request("", &[]),
        ];
        for parts in api {
            assert!(!hosts().is_sandbox_traffic(&parts), "{parts:?}");
        }
    }

    #[test]
    fn authority_of_an_absolute_uri_beats_the_host_header() {
        let parts = http::Request::builder()
            .uri("http://80-iabc123.e2b.test/x")
            .header("host", "81-iother.e2b.test")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        assert_eq!(hosts().target(&parts), ok(80));
    }
}
