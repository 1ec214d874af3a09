//! What changes in the head of a message on its way through.
//!
//! A proxy must not pass on what was meant for one connection (RFC 9110, section 7.6.1), says for
//! whom it forwards, and otherwise leaves the message alone.

use std::net::IpAddr;

use http::header::{CONNECTION, COOKIE, EXPECT, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Uri, Version};

use crate::body::EdgeBody;
use crate::proxy::TRAFFIC_TOKEN_HEADER;
use crate::target::request_host;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Removes what was meant for one connection only, and returns the protocol an upgrade was
/// asked for (or granted), if any.
///
/// `Trailer` stays: without it the next hop could not send the trailers it receives.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let upgrade = if named.contains(&UPGRADE) {
        headers.get(UPGRADE).cloned()
    } else {
        None
    };
    let wants_trailers = headers.get_all(TE).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.to_ascii_lowercase().contains("trailers"))
    });
    for name in named {
        // Naming one of these in `Connection` must not make the edge lose the message's framing
        // or its addressee.
        if name != HOST && name != http::header::CONTENT_LENGTH {
            headers.remove(name);
        }
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    upgrade.filter(is_allowed_upgrade)
}

/// An upgrade to HTTP/2 would carry requests past every check the edge makes.
fn is_allowed_upgrade(protocol: &HeaderValue) -> bool {
    protocol.to_str().is_ok_and(|protocols| {
        !protocols
            .split(',')
            .any(|p| p.trim().to_ascii_lowercase().starts_with("h2"))
    })
}

/// Adds the headers of an upgrade back.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// How the sandbox is to see the request.
pub(crate) struct View<'a> {
    /// The address of the client, if known.
    pub(crate) peer: Option<IpAddr>,
    /// Host to show instead of the client's.
    pub(crate) host: Option<&'a str>,
    /// Protocol of an upgrade that is passed on.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// The request as the sandbox gets it. `parts` must have gone through [`strip_hop_by_hop`].
pub(crate) fn request_to_sandbox(
    parts: Parts,
    body: EdgeBody,
    view: View<'_>,
) -> Request<EdgeBody> {
    let original_host = HeaderValue::from_str(request_host(&parts)).ok();
    let mut headers = parts.headers;
    // The edge has already said "100 Continue" to the client when it reads the body.
    headers.remove(EXPECT);
    // The guest has no use for a secret that keeps others away from it.
    headers.remove(TRAFFIC_TOKEN_HEADER);
    join_cookies(&mut headers);
    if let Some(peer) = view.peer {
        append_forwarded_for(&mut headers, peer);
    }
    if !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if let Some(original) = original_host {
        let masked = view.host.and_then(|host| HeaderValue::from_str(host).ok());
        headers.insert(HOST, masked.unwrap_or_else(|| original.clone()));
        headers.insert(X_FORWARDED_HOST, original);
    }
    if let Some(protocol) = view.upgrade {
        set_upgrade(&mut headers, protocol);
    }
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = origin_form(&parts.uri);
    *request.headers_mut() = headers;
    request
}

fn origin_form(uri: &Uri) -> Uri {
    let path = uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    Uri::from(path)
}

/// HTTP/2 may split cookies over several fields; HTTP/1.1 servers expect one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().count() < 2 {
        return;
    }
    let parts: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

fn append_forwarded_for(headers: &mut HeaderMap, peer: IpAddr) {
    let mut chain: Vec<String> = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned)
        .collect();
    chain.push(peer.to_canonical().to_string());
    if let Ok(value) = HeaderValue::from_str(&chain.join(", ")) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

/// Routes of the guest agent that only the node may call.
const INTERNAL_ROUTES: [&str; 7] = [
    "init", "freeze", "unfreeze", "collapse", "fsfreeze", "fsthaw", "upgrade",
];

/// Whether a path, however it is spelled, leads to a route of the guest agent that only the node
/// may call.
pub(crate) fn is_internal_path(path: &str) -> bool {
    let decoded = percent_decode(path);
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in decoded.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    match segments.as_slice() {
        [only] => INTERNAL_ROUTES
            .iter()
            .any(|route| route.as_bytes() == *only),
        _ => false,
    }
}

fn percent_decode(path: &str) -> Vec<u8> {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = match &bytes[at..] {
            [b'%', high, low, ..] => hex_digit(*high).zip(hex_digit(*low)),
            _ => None,
        };
        if let Some((high, low)) = hex {
            decoded.push(high << 4 | low);
            at += 3;
        } else {
            decoded.push(bytes[at]);
            at += 1;
        }
    }
    decoded
}

const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn internal_routes_are_found_in_every_spelling() {
        for path in [
            "/init",
            "/init/",
            "//init",
            "/./init",
            "/files/../init",
            "/%69nit",
            "/fsfreeze",
            "/fsthaw",
            "/freeze",
            "/unfreeze",
            "/collapse",
            "/upgrade",
            "/x%2f..%2finit",
        ] {
            assert!(is_internal_path(path), "{path}");
        }
        for path in [
            "/", "", "/health", "/files", "/initial", "/init/x", "/%zz", "/%",
        ] {
            assert!(!is_internal_path(path), "{path}");
        }
    }

    #[test]
    fn headers_of_one_connection_do_not_pass() {
        let mut map = headers(&[
            ("connection", "keep-alive, X-Private, host, content-length"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("host", "a"),
            ("content-length", "3"),
            ("te", "trailers, deflate"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x-sum"),
            ("upgrade", "websocket"),
            ("accept", "*/*"),
        ]);
        assert_eq!(
            strip_hop_by_hop(&mut map),
            None,
            "upgrade not named in connection"
        );
        let mut left: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host", "te", "trailer"]);
        assert_eq!(map["te"], "trailers");
    }

    #[test]
    fn only_upgrades_that_keep_the_checks_pass() {
        let mut map = headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(strip_hop_by_hop(&mut map).unwrap(), "websocket");
        let mut map = headers(&[("connection", "upgrade"), ("upgrade", "H2C")]);
        assert_eq!(strip_hop_by_hop(&mut map), None);
    }

    #[test]
    fn request_tells_for_whom_it_is_forwarded() {
        let (parts, ()) = Request::builder()
            .uri("http://80-iabc.e2b.test/x?y=1")
            .header("x-forwarded-for", "192.0.2.1")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header(TRAFFIC_TOKEN_HEADER, "secret")
            .header("expect", "100-continue")
            .body(())
            .unwrap()
            .into_parts();
        let view = View {
            peer: Some("::ffff:127.0.0.1".parse().unwrap()),
            host: Some("localhost:80"),
            upgrade: None,
        };
        let request = request_to_sandbox(parts, crate::body::full(bytes::Bytes::new()), view);
        assert_eq!(request.uri(), "/x?y=1");
        let headers = request.headers();
        assert_eq!(headers["host"], "localhost:80");
        assert_eq!(headers["x-forwarded-host"], "80-iabc.e2b.test");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1, 127.0.0.1");
        assert_eq!(headers["cookie"], "a=1; b=2");
        assert!(!headers.contains_key(TRAFFIC_TOKEN_HEADER));
        assert!(!headers.contains_key("expect"));
    }
}
