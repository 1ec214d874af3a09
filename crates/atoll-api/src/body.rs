//! Reading request bodies: bounded in size and time, each and all together, with precise refusals.

use std::sync::Arc;

use atoll_control::code;
use atoll_core::error::ErrorKind;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;
use crate::limit::{BODY_TIMEOUT, MAX_BODIES_BYTES, MAX_BODY_BYTES};
use crate::rest::Api;

/// What one place in [`Room`] is worth, in bytes.
const PLACE_BYTES: usize = 1_024;

/// Memory for the bodies of all requests under way.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Semaphore>);

impl Room {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BODIES_BYTES / PLACE_BYTES)))
    }

    /// Takes what is missing for `bytes` bytes.
    fn grow(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), ApiError> {
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.div_ceil(PLACE_BYTES).saturating_sub(has);
        if missing == 0 {
            return Ok(());
        }
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.0).try_acquire_many_owned(missing);
        let more = more.map_err(|_| {
            let message = "the server is reading as many request bodies as it has memory for";
            let error = atoll_control::Error::new(ErrorKind::Unavailable, message);
            ApiError::from(error.with_code(code::OVERLOADED))
        })?;
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }
}

/// A JSON document, with its bytes.
#[derive(Debug)]
pub(crate) struct JsonBody<T> {
    pub(crate) value: T,
    pub(crate) bytes: Bytes,
    /// The document's share of the memory for all.
    _room: Option<OwnedSemaphorePermit>,
}

/// A JSON document that may be left out.
#[derive(Debug)]
pub(crate) struct OptionalJsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Api> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let (bytes, room) = read(request.into_body(), api.bodies()).await?;
        let value = parse(&bytes)?;
        Ok(Self {
            value,
            bytes,
            _room: room,
        })
    }
}

impl<T: DeserializeOwned + Default> FromRequest<Api> for OptionalJsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let (bytes, _room) = read(request.into_body(), api.bodies()).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(T::default()));
        }
        Ok(Self(parse(&bytes)?))
    }
}

async fn read(body: Body, room: &Room) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    match tokio::time::timeout(BODY_TIMEOUT, collect(body, room)).await {
        Ok(read) => read,
        Err(_) => Err(ApiError::validation(format_args!(
            "the request body did not arrive within {} s",
            BODY_TIMEOUT.as_secs()
        ))
        .with_status(StatusCode::REQUEST_TIMEOUT)),
    }
}

async fn collect(
    body: Body,
    room: &Room,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let mut body = Limited::new(body, MAX_BODY_BYTES);
    let (mut bytes, mut held) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| cut(error.as_ref()))?;
        if let Ok(data) = frame.into_data() {
            room.grow(&mut held, bytes.len() + data.len())?;
            bytes.extend_from_slice(&data);
        }
    }
    Ok((bytes.freeze(), held))
}

/// The error for a body that cannot be read to its end.
fn cut(error: &(dyn std::error::Error + 'static)) -> ApiError {
    if is_too_long(error) {
        let problem = format_args!("the request body is larger than {MAX_BODY_BYTES} bytes");
        return ApiError::validation(problem).with_status(StatusCode::PAYLOAD_TOO_LARGE);
    }
    ApiError::validation(format_args!("the request body cannot be read: {error}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn body(bytes: usize) -> Body {
        Body::from(vec![b' '; bytes])
    }

    /// Bodies of several requests share one memory; what one gives back the next may take.
    #[tokio::test]
    async fn bodies_of_all_requests_together_are_bounded() {
        let room = Room(Arc::new(Semaphore::new(4)));
        let (first, held) = read(body(3 * PLACE_BYTES), &room).await.unwrap();
        assert_eq!(first.len(), 3 * PLACE_BYTES);
        let (_, small) = read(body(10), &room).await.unwrap();
        let refused = read(body(1), &room).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        read(body(0), &room).await.unwrap();
        drop(held);
        read(body(3 * PLACE_BYTES), &room).await.unwrap();
        drop(small);
        read(body(4 * PLACE_BYTES), &room).await.unwrap();
        let refused = read(body(4 * PLACE_BYTES + 1), &room).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            room.0.available_permits(),
            4,
            "a refused body keeps nothing"
        );
    }
}
