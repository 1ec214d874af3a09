//! The orchestrator's service over gRPC, gRPC-Web and Connect: the other door to the use cases
//! that the REST surface opens.
//!
//! ```text
//!  request ─▶ trace ─▶ place, time ─▶ access ─▶ message ─▶ use case ─▶ message
//! ```
//!
//! What stands on the wire is `spec/proto/atoll/orchestrator/v1`; docs/rpc.md lists each call with
//! its REST counterpart and its errors. Server reflection and the standard health service are on.
//!
//! What it does not do: decide anything. A rule that holds for a call here and not for its REST
//! counterpart is a defect.

mod access;
mod decision;
mod exposition;
mod field;
mod installation;
mod message;
mod nodes;
mod sandboxes;
mod schedule;
mod service;
mod status;
mod watch;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use atoll_core::error::ErrorKind;
use atoll_proto::ORCHESTRATOR_DESCRIPTORS;
use atoll_proto::orchestrator::OrchestratorServiceExt as _;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use bytes::Bytes;
use connectrpc::{ConnectRpcService, DeadlinePolicy, Limits, Router};
use connectrpc_health::{HealthExt as _, HealthService};
use connectrpc_reflection::Reflector;
use futures::FutureExt as _;
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use crate::error::ApiError;
use crate::guard::{self, Places};
use crate::limit::{
    MAX_NODE_MESSAGE_BYTES, MAX_NODE_RPCS, MAX_RPC_MESSAGE_BYTES, MAX_RPC_STREAMS,
    NODE_RPC_TIMEOUT_MAX, RPC_STREAM_TIMEOUT_MAX, RPC_TIMEOUT_MAX,
};
use crate::rest::Api;
use crate::rpc::installation::Health;
use crate::rpc::service::Service;

/// The services and methods whose answer is a stream.
const STREAMS: [&str; 5] = [
    "/atoll.orchestrator.v1.OrchestratorService/WatchEvents",
    "/atoll.orchestrator.v1.OrchestratorService/WatchSandbox",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/{method}",
    "/grpc.reflection.v1alpha.ServerReflection/{method}",
];

/// The services whose other methods answer once.
const UNARY: [&str; 2] = [
    "/atoll.orchestrator.v1.OrchestratorService/{method}",
    "/grpc.health.v1.Health/{method}",
];

/// What node agents call, with places of their own.
const NODES: [&str; 2] = [
    "/atoll.orchestrator.v1.OrchestratorService/RegisterNode",
    "/atoll.orchestrator.v1.OrchestratorService/Heartbeat",
];

/// The routes of every RPC. Those that answer once share their places with the REST surface.
pub(crate) fn router(api: &Api, places: &Places) -> axum::Router {
    let services = Arc::new(services(api));
    let within = |limit| {
        DeadlinePolicy::new()
            .with_max(limit)
            .with_default_timeout(limit)
    };
    let streamed = within(RPC_STREAM_TIMEOUT_MAX).with_enforce_on_streams(true);
    let streams = Places::new(MAX_RPC_STREAMS, places.timeout);
    // The answer comes in the words of the protocol, as with the others.
    let margin = places.timeout.saturating_sub(RPC_TIMEOUT_MAX);
    let nodes = Places::new(MAX_NODE_RPCS, NODE_RPC_TIMEOUT_MAX + margin);
    let route = |paths: &[&str], policy: DeadlinePolicy, places: Places, bytes: usize| {
        let limits = Limits::default()
            .with_max_request_body_size(bytes)
            .with_max_message_size(bytes);
        let service = ConnectRpcService::from_arc(Arc::clone(&services))
            .with_limits(limits)
            .with_deadline_policy(policy);
        let mut router = axum::Router::new();
        for path in paths {
            router = router.route_service(path, service.clone());
        }
        router
            .layer(middleware::from_fn_with_state(api.clone(), access::check))
            .layer(middleware::from_fn_with_state(places, bound))
            .layer(middleware::from_fn_with_state(api.clone(), access::record))
    };
    let once = within(RPC_TIMEOUT_MAX);
    route(&UNARY, once, places.clone(), MAX_RPC_MESSAGE_BYTES)
        .merge(route(&STREAMS, streamed, streams, MAX_RPC_MESSAGE_BYTES))
        .merge(route(
            &NODES,
            within(NODE_RPC_TIMEOUT_MAX),
            nodes,
            MAX_NODE_MESSAGE_BYTES,
        ))
}

fn services(api: &Api) -> Router {
    let router = Arc::new(Service::new(api.clone())).register(Router::new());
    let router = Arc::new(HealthService::new(Health::new(api.clone()))).register(router);
    let router =
        connectrpc_health::apply_request_limits(router, connectrpc_health::request_limits());
    let reflector = Reflector::from_descriptor_set_bytes(ORCHESTRATOR_DESCRIPTORS)
        .expect("the descriptors were made by this build");
    connectrpc_reflection::install(router, reflector)
}

/// Bounds how many calls run and how long each may take to begin its answer, and turns a panic
/// into an answer. A call keeps its place until its answer is through.
async fn bound(State(places): State<Places>, request: Request, next: Next) -> Response {
    let headers = request.headers().clone();
    let Ok(place) = places.slots.try_acquire_owned() else {
        let message = "the server has too many requests under way";
        return status::refuse(&ApiError::new(ErrorKind::Unavailable, message), &headers);
    };
    let run = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(places.timeout, run).await {
        Ok(Ok(response)) => response.map(|body| {
            Body::new(Held {
                body,
                _place: place,
            })
        }),
        Ok(Err(panic)) => status::refuse(&guard::defect(panic), &headers),
        Err(_) => {
            let message = format!("no outcome within {} s", places.timeout.as_secs());
            let error = ApiError::new(ErrorKind::DeadlineExceeded, message);
            status::refuse(&error, &headers)
        }
    }
}

/// An answer on its way, with the place of its call.
struct Held {
    body: Body,
    _place: OwnedSemaphorePermit,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
