//! `FleetService`: nodes joining, and their signs of life.

use std::sync::Arc;

use atoll_control::fleet::{Fleet, JoinError};
use atoll_proto::join_token::JoinToken;
use atoll_proto::node::{
    BeatRequest, BeatResponse, FleetService, FleetServiceExt as _, JoinRequest, JoinResponse,
};
use atoll_proto::node_domain::{self, Malformed};
use axum::Router;
use connectrpc::{
    ConnectError, ConnectRpcService, Encodable, Limits, RequestContext, Response, ServiceRequest,
    ServiceResult,
};
use http::header::AUTHORIZATION;

/// Bytes of one message: names and an address.
const MESSAGE_MAX: usize = 64 * 1024;

/// The longest address and incarnation.
const TEXT_MAX: usize = 256;

/// Adds the service to a router. Without a `token` everybody may join; only a loopback address may
/// be served so.
pub fn mount(router: Router, fleet: Fleet, token: Option<JoinToken>) -> Router {
    let service = Arc::new(Service { fleet, token });
    let limits = Limits::default()
        .with_max_message_size(MESSAGE_MAX)
        .with_max_request_body_size(MESSAGE_MAX);
    let services = service.register(connectrpc::Router::new());
    let services = ConnectRpcService::new(services).with_limits(limits);
    router.route_service("/atoll.node.v1.FleetService/{method}", services)
}

#[derive(Debug)]
struct Service {
    fleet: Fleet,
    token: Option<JoinToken>,
}

impl Service {
    fn authenticate(&self, context: &RequestContext) -> Result<(), ConnectError> {
        let shown = context.headers().get(AUTHORIZATION);
        let shown = shown.map(http::HeaderValue::as_bytes);
        match &self.token {
            Some(token) if !token.is_shown_by(shown) => Err(ConnectError::unauthenticated(
                "the join token is missing or wrong",
            )),
            _ => Ok(()),
        }
    }
}

fn refused(error: &JoinError) -> ConnectError {
    let message = error.to_string();
    match error {
        JoinError::Address(_) => ConnectError::invalid_argument(message),
        JoinError::NameTaken(..) => ConnectError::already_exists(message),
        JoinError::Full => ConnectError::resource_exhausted(message),
        JoinError::Unreachable(..) => ConnectError::failed_precondition(message),
    }
}

impl FleetService for Service {
    async fn join<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, JoinRequest>,
    ) -> ServiceResult<impl Encodable<JoinResponse> + Send + use<'a>> {
        self.authenticate(&ctx)?;
        let request = request.to_owned_message();
        let node = node_domain::id(&request.node)
            .map_err(|error| ConnectError::invalid_argument(error.to_string()))?;
        if request.address.len() > TEXT_MAX || request.incarnation.len() > TEXT_MAX {
            return Err(ConnectError::invalid_argument("a text is too long"));
        }
        let joining = self
            .fleet
            .join(node, &request.address, &request.incarnation);
        joining.await.map_err(|error| refused(&error))?;
        Response::ok(JoinResponse::default())
    }

    async fn beat<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, BeatRequest>,
    ) -> ServiceResult<impl Encodable<BeatResponse> + Send + use<'a>> {
        self.authenticate(&ctx)?;
        let request = request.to_owned_message();
        let heartbeat = request.heartbeat.into_option();
        let heartbeat = heartbeat.ok_or(Malformed::Missing("heartbeat"));
        let heartbeat = heartbeat
            .and_then(TryInto::try_into)
            .map_err(|error| ConnectError::invalid_argument(error.to_string()))?;
        let taken = self.fleet.beat(heartbeat, &request.incarnation).await;
        let is_member = taken.map_err(|error| ConnectError::unavailable(error.to_string()))?;
        Response::ok(BeatResponse {
            is_member,
            ..BeatResponse::default()
        })
    }
}
