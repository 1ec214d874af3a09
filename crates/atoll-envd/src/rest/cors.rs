//! Cross-origin rules: any page may use the agent, since access is by token and not by origin.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response};

use super::no_content;
use crate::server::Body;

/// What a page may ask for, and read of the answer.
const METHODS: &[&str] = &["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE"];
const EXPOSED: &str = "Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin, Location, \
                       Cache-Control, X-Content-Type-Options";

/// How long a browser may remember the permission: two hours, in seconds.
const MAX_AGE: &str = "7200";

/// The answer to a browser that asks for permission first.
pub(crate) fn preflight<B>(request: &Request<B>) -> Option<Response<Body>> {
    let headers = request.headers();
    let wanted = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    if request.method() != Method::OPTIONS {
        return None;
    }
    let mut answer = no_content();
    let given = answer.headers_mut();
    let vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
    given.insert(VARY, HeaderValue::from_static(vary));
    let is_known = wanted
        .to_str()
        .is_ok_and(|wanted| METHODS.contains(&wanted));
    if is_known && headers.contains_key(ORIGIN) {
        given.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        given.insert(ACCESS_CONTROL_ALLOW_METHODS, wanted.clone());
        if let Some(names) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            given.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        given.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    }
    Some(answer)
}

/// Lets a page read the answer.
pub(crate) fn allow(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED),
    );
    headers.append(VARY, HeaderValue::from_static("Origin"));
}
