//! The service as the generated code wants it: each call taken apart, handed on, put together.

use atoll_proto::orchestrator::{
    BatchCreateSandboxesRequest, BatchCreateSandboxesResponse, CreateSandboxRequest,
    CreateSandboxResponse, DeleteSandboxRequest, DeleteSandboxResponse, DrainNodeRequest,
    DrainNodeResponse, DryRunSandboxRequest, DryRunSandboxResponse, ExplainSandboxRequest,
    ExplainSandboxResponse, GetHealthRequest, GetHealthResponse, GetNodeStatusRequest,
    GetNodeStatusResponse, GetResourceUsageRequest, GetResourceUsageResponse, GetSandboxRequest,
    GetSandboxResponse, GetSystemMetricsRequest, GetSystemMetricsResponse, HeartbeatRequest,
    HeartbeatResponse, ListNodesRequest, ListNodesResponse, ListSandboxesRequest,
    ListSandboxesResponse, OrchestratorService, PauseSandboxRequest, PauseSandboxResponse,
    RegisterNodeRequest, RegisterNodeResponse, RestartSandboxRequest, RestartSandboxResponse,
    ResumeSandboxRequest, ResumeSandboxResponse, WatchEventsRequest, WatchEventsResponse,
    WatchSandboxRequest, WatchSandboxResponse,
};
use connectrpc::{Encodable, RequestContext, ServiceRequest, ServiceResult, ServiceStream};

use super::access::{Identity, identity};
use super::status::answer;
use super::{installation, nodes, sandboxes, schedule, watch};
use crate::audit::Note;
use crate::rest::Api;

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Service {
    api: Api,
}

impl Service {
    pub(super) const fn new(api: Api) -> Self {
        Self { api }
    }
}

/// What a call answers: `$call` with the caller and the message, or why it was not made.
macro_rules! call {
    ($ctx:ident, $request:ident, |$caller:ident, $message:ident| $call:expr) => {{
        let call = async {
            let $caller: &Identity = identity(&$ctx)?;
            let $message = $request.to_owned_message();
            $call
        };
        let result = call.await;
        Note::of($ctx.extensions()).ended(&result);
        answer(result)
    }};
}

impl OrchestratorService for Service {
    async fn create_sandbox<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateSandboxRequest>,
    ) -> ServiceResult<impl Encodable<CreateSandboxResponse> + Send + use<'a>> {
        call!(ctx, request, |caller, message| {
            let made = sandboxes::create(&self.api, &caller.tenant, message).await?;
            caller.note.about(&made.sandbox.id);
            Ok(made)
        })
    }

    async fn batch_create_sandboxes<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, BatchCreateSandboxesRequest>,
    ) -> ServiceResult<impl Encodable<BatchCreateSandboxesResponse> + Send + use<'a>> {
        call!(ctx, request, |caller, message| sandboxes::batch_create(
            &self.api, caller, message
        )
        .await)
    }

    async fn get_sandbox<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, GetSandboxRequest>,
    ) -> ServiceResult<impl Encodable<GetSandboxResponse> + Send + use<'a>> {
        call!(ctx, request, |caller, message| sandboxes::get(
            &self.api,
            &caller.tenant,
            message
        )
        .await)
    }

    async fn list_sandboxes<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListSandboxesRequest>,
    ) -> ServiceResult<impl Encodable<ListSandboxesResponse> + Send + use<'a>> {
        call!(ctx, request, |caller, message| sandboxes::list(
            &self.api,
            &caller.tenant,
            message
        )
        .await)
    }

    async fn delete_sandbox<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, DeleteSandboxRequest>,
    ) -> ServiceResult<impl Encodable<DeleteSandboxResponse> + Send + use<'a>> {
        call!(ctx, request, |caller, message| {
            caller.note.about(&message.sandbox_id);
            sandboxes::delete(&self.api, &caller.tenant, message).await
        })
    }

    async fn restart_sandbox<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, RestartSandboxRequest>,
    ) -> ServiceResult<impl Encodable<RestartSandboxResponse> + Send + use<'a>> {
        call!(ctx, request, |caller, message| {
            caller.note.about(&message.sandbox_id);
            sandboxes::restart(&self.api, &caller.tenant, message).await
        })
    }

    async fn pause_sandbox<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, PauseSandboxRequest>,
    ) -> ServiceResult<impl Encodable<PauseSandboxResponse> + Send + use<'a>> {
        call!(ctx, request, |caller, message| {
            caller.note.about(&message.sandbox_id);
            sandboxes::pause(&self.api, &caller.tenant, message).await
        })
    }

    async fn resume_sandbox<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ResumeSandboxRequest>,
    ) -> ServiceResult<impl Encodable<ResumeSandboxResponse> + Send + use<'a>> {
        call!(ctx, request, |caller, message| {
            caller.note.about(&message.sandbox_id);
            sandboxes::resume(&self.api, &caller.tenant, message).await
        })
    }

    async fn explain_sandbox<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ExplainSandboxRequest>,
    ) -> ServiceResult<impl Encodable<ExplainSandboxResponse> + Send + use<'a>> {
        call!(ctx, request, |caller, message| sandboxes::explain(
            &self.api, caller, message
        )
        .await)
    }

    async fn dry_run_sandbox<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, DryRunSandboxRequest>,
    ) -> ServiceResult<impl Encodable<DryRunSandboxResponse> + Send + use<'a>> {
        call!(ctx, request, |caller, message| schedule::dry_run(
            &self.api,
            &caller.tenant,
            message
        )
        .await)
    }

    async fn get_resource_usage<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, GetResourceUsageRequest>,
    ) -> ServiceResult<impl Encodable<GetResourceUsageResponse> + Send + use<'a>> {
        call!(ctx, request, |caller, message| nodes::usage(
            &self.api, caller, message
        )
        .await)
    }

    async fn register_node<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, RegisterNodeRequest>,
    ) -> ServiceResult<impl Encodable<RegisterNodeResponse> + Send + use<'a>> {
        call!(ctx, request, |_caller, message| nodes::register(
            &self.api, message
        )
        .await)
    }

    async fn heartbeat<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, HeartbeatRequest>,
    ) -> ServiceResult<impl Encodable<HeartbeatResponse> + Send + use<'a>> {
        call!(ctx, request, |_caller, message| nodes::heartbeat(
            &self.api, message
        )
        .await)
    }

    async fn get_node_status<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, GetNodeStatusRequest>,
    ) -> ServiceResult<impl Encodable<GetNodeStatusResponse> + Send + use<'a>> {
        call!(ctx, request, |_caller, message| nodes::status(
            &self.api, &message
        ))
    }

    async fn list_nodes<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListNodesRequest>,
    ) -> ServiceResult<impl Encodable<ListNodesResponse> + Send + use<'a>> {
        call!(ctx, request, |_caller, _message| Ok(nodes::list(&self.api)))
    }

    async fn drain_node<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, DrainNodeRequest>,
    ) -> ServiceResult<impl Encodable<DrainNodeResponse> + Send + use<'a>> {
        call!(ctx, request, |_caller, message| nodes::drain(
            &self.api, message
        )
        .await)
    }

    async fn get_system_metrics<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, GetSystemMetricsRequest>,
    ) -> ServiceResult<impl Encodable<GetSystemMetricsResponse> + Send + use<'a>> {
        call!(ctx, request, |_caller, message| installation::metrics(
            &self.api, &message
        ))
    }

    async fn get_health<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, GetHealthRequest>,
    ) -> ServiceResult<impl Encodable<GetHealthResponse> + Send + use<'a>> {
        call!(ctx, request, |_caller, message| Ok(installation::health(
            &self.api, &message
        )
        .await))
    }

    async fn watch_sandbox(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, WatchSandboxRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<WatchSandboxResponse> + Send + use<>>> {
        let stream: ServiceResult<ServiceStream<WatchSandboxResponse>> = call!(
            ctx,
            request,
            |caller, message| watch::sandbox(&self.api, caller, &message).await
        );
        stream
    }

    async fn watch_events(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, WatchEventsRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<WatchEventsResponse> + Send + use<>>> {
        let stream: ServiceResult<ServiceStream<WatchEventsResponse>> =
            call!(ctx, request, |caller, message| watch::events(
                &self.api, caller, &message
            ));
        stream
    }
}
