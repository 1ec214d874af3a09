//! `NodeService`: the wire's orders onto the agent.

use std::time::Duration;

use atoll_core::crash;
use atoll_core::id::Generation;
use atoll_core::node::NodeEvent;
use atoll_core::sandbox::SandboxSpec;
use atoll_proto::node::{
    self as wire, DropSnapshotsRequest, EnsureRequest, ImportTemplateRequest, ListSnapshotsRequest,
    ListSnapshotsResponse, NodeService, OrderResponse, PauseRequest, RemoveRequest,
    RemoveTemplateRequest, ReportRequest, ReportResponse, ResumeRequest, SandboxResponse,
    UpdateNetworkRequest, WatchEventsRequest,
};
use atoll_proto::node_domain::{Malformed, alive, id};
use connectrpc::{
    ConnectError, Encodable, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::stream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;

/// How often a silent stream of events shows that it lives.
const ALIVE_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Orders {
    agent: Agent,
    events: broadcast::Sender<NodeEvent>,
    cancel: CancellationToken,
}

impl Orders {
    pub(super) const fn new(
        agent: Agent,
        events: broadcast::Sender<NodeEvent>,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            agent,
            events,
            cancel,
        }
    }
}

fn invalid(error: &Malformed) -> ConnectError {
    ConnectError::invalid_argument(error.to_string())
}

fn spec(message: Option<wire::SandboxSpec>) -> Result<SandboxSpec, ConnectError> {
    let message = message.ok_or(Malformed::Missing("spec"));
    message
        .and_then(TryInto::try_into)
        .map_err(|error| invalid(&error))
}

impl NodeService for Orders {
    async fn ensure<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, EnsureRequest>,
    ) -> ServiceResult<impl Encodable<SandboxResponse> + Send + use<'a>> {
        let spec = spec(request.to_owned_message().spec.into_option())?;
        let outcome = self.agent.ensure(&spec).await;
        crash::reached("node.ensure.answer");
        Response::ok(SandboxResponse::from(outcome))
    }

    async fn remove<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, RemoveRequest>,
    ) -> ServiceResult<impl Encodable<OrderResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let sandbox = id(&request.id).map_err(|error| invalid(&error))?;
        let generation = Generation::new(request.generation);
        let outcome = self.agent.remove(&sandbox, generation).await;
        crash::reached("node.remove.answer");
        Response::ok(OrderResponse::from(outcome))
    }

    async fn pause<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, PauseRequest>,
    ) -> ServiceResult<impl Encodable<SandboxResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let sandbox = id(&request.id).map_err(|error| invalid(&error))?;
        let generation = Generation::new(request.generation);
        let order = self.agent.pause(&sandbox, generation, request.keep_memory);
        let outcome = order.await;
        crash::reached("node.pause.answer");
        Response::ok(SandboxResponse::from(outcome))
    }

    async fn resume<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, ResumeRequest>,
    ) -> ServiceResult<impl Encodable<SandboxResponse> + Send + use<'a>> {
        let spec = spec(request.to_owned_message().spec.into_option())?;
        let outcome = self.agent.resume(&spec).await;
        crash::reached("node.resume.answer");
        Response::ok(SandboxResponse::from(outcome))
    }

    async fn update_network<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, UpdateNetworkRequest>,
    ) -> ServiceResult<impl Encodable<OrderResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let sandbox = id(&request.id).map_err(|error| invalid(&error))?;
        let generation = Generation::new(request.generation);
        let policy = request.policy.into_option();
        let policy = policy.ok_or_else(|| invalid(&Malformed::Missing("policy")))?;
        let policy = policy.into();
        let order = self.agent.update_network(&sandbox, generation, &policy);
        Response::ok(OrderResponse::from(order.await))
    }

    async fn report<'a>(
        &'a self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, ReportRequest>,
    ) -> ServiceResult<impl Encodable<ReportResponse> + Send + use<'a>> {
        Response::ok(ReportResponse::from(&self.agent.report()))
    }

    async fn import_template<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, ImportTemplateRequest>,
    ) -> ServiceResult<impl Encodable<OrderResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let template = id(&request.template).map_err(|error| invalid(&error))?;
        let build = id(&request.build).map_err(|error| invalid(&error))?;
        let source = request.source.into_option();
        let source = source.ok_or(Malformed::Missing("source"));
        let source = source
            .and_then(TryInto::try_into)
            .map_err(|error| invalid(&error))?;
        let order = self.agent.import_template(&template, &build, &source);
        Response::ok(OrderResponse::from(order.await))
    }

    async fn remove_template<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, RemoveTemplateRequest>,
    ) -> ServiceResult<impl Encodable<OrderResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let template = id(&request.template).map_err(|error| invalid(&error))?;
        let build = id(&request.build).map_err(|error| invalid(&error))?;
        let outcome = self.agent.remove_template(&template, &build).await;
        Response::ok(OrderResponse::from(outcome))
    }

    async fn list_snapshots<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, ListSnapshotsRequest>,
    ) -> ServiceResult<impl Encodable<ListSnapshotsResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let after = match request.after.as_str() {
            "" => None,
            text => Some(id(text).map_err(|error| invalid(&error))?),
        };
        let order = self.agent.list_snapshots(after.as_ref(), request.limit);
        Response::ok(ListSnapshotsResponse::from(order.await))
    }

    async fn drop_snapshots<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, DropSnapshotsRequest>,
    ) -> ServiceResult<impl Encodable<OrderResponse> + Send + use<'a>> {
        let unneeded = request.to_owned_message().try_into();
        let unneeded = unneeded.map_err(|error| invalid(&error))?;
        let order = self.agent.drop_snapshots(&unneeded);
        Response::ok(OrderResponse::from(order.await))
    }

    async fn watch_events(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, WatchEventsRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<wire::NodeEvent> + Send + use<>>> {
        let reader = Reader {
            events: self.events.subscribe(),
            cancel: self.cancel.clone(),
            has_begun: false,
        };
        Response::stream_ok(stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Some(Ok(event)) => Some((Ok(event), Some(reader))),
                Some(Err(error)) => Some((Err(error), None)),
                None => None,
            }
        }))
    }
}

/// One stream of events.
struct Reader {
    events: broadcast::Receiver<NodeEvent>,
    cancel: CancellationToken,
    has_begun: bool,
}

impl Reader {
    /// The next message; none at the end.
    async fn next(&mut self) -> Option<Result<wire::NodeEvent, ConnectError>> {
        if !self.has_begun {
            // Tells the reader that from here on it misses nothing.
            self.has_begun = true;
            return Some(Ok(alive()));
        }
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => None,
            received = self.events.recv() => match received {
                Ok(event) => Some(Ok(event.into())),
                Err(RecvError::Lagged(missed)) => Some(Err(ConnectError::new(
                    connectrpc::ErrorCode::DataLoss,
                    format!("{missed} events were missed"),
                ))),
                Err(RecvError::Closed) => None,
            },
            () = tokio::time::sleep(ALIVE_INTERVAL) => Some(Ok(alive())),
        }
    }
}
