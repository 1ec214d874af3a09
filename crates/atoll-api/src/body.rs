//! Reading request bodies: bounded in size and time, with precise refusals.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::limit::{BODY_TIMEOUT, MAX_BODY_BYTES};

/// A JSON document, with its bytes.
#[derive(Debug)]
pub(crate) struct JsonBody<T> {
    pub(crate) value: T,
    pub(crate) bytes: Bytes,
}

/// A JSON document that may be left out.
#[derive(Debug)]
pub(crate) struct OptionalJsonBody<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = read(request.into_body()).await?;
        let value = parse(&bytes)?;
        Ok(Self { value, bytes })
    }
}

impl<S: Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = read(request.into_body()).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(T::default()));
        }
        Ok(Self(parse(&bytes)?))
    }
}

async fn read(body: Body) -> Result<Bytes, ApiError> {
    let collected =
        tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect());
    match collected.await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if is_too_long(error.as_ref()) => Err(ApiError::validation(format_args!(
            "the request body is larger than {MAX_BODY_BYTES} bytes"
        ))
        .with_status(StatusCode::PAYLOAD_TOO_LARGE)),
        Ok(Err(error)) => Err(ApiError::validation(format_args!(
            "the request body cannot be read: {error}"
        ))),
        Err(_) => Err(ApiError::validation(format_args!(
            "the request body did not arrive within {} s",
            BODY_TIMEOUT.as_secs()
        ))
        .with_status(StatusCode::REQUEST_TIMEOUT)),
    }
}

fn is_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<LengthLimitError>() {
            return true;
        }
        next = error.source();
    }
    false
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.trim_ascii().is_empty() {
        return Err(ApiError::validation("the request body is empty"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if path == "." || !error.is_data() {
            ApiError::validation(format_args!("the request body is not valid: {error}"))
        } else {
            ApiError::validation(format_args!("`{path}`: {error}"))
        }
    })?;
    json.end().map_err(|error| {
        ApiError::validation(format_args!("the request body is not valid: {error}"))
    })?;
    Ok(value)
}
