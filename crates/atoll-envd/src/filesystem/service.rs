//! `filesystem.Filesystem`: the wire's requests onto the tree and the watches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use atoll_proto::filesystem::{
    CreateWatcherRequest, CreateWatcherResponse, Filesystem, FilesystemEvent,
    GetWatcherEventsRequest, GetWatcherEventsResponse, ListDirRequest, ListDirResponse,
    MakeDirRequest, MakeDirResponse, MoveRequest, MoveResponse, RemoveRequest, RemoveResponse,
    RemoveWatcherRequest, RemoveWatcherResponse, StatRequest, StatResponse, WatchDirRequest,
    WatchDirResponse,
};
use atoll_proto::filesystem_oneof::watch_dir_response::Event;
use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::stream;
use http::HeaderMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::tree;
use super::watch::{self, Watch};
use crate::helper;
use crate::path;
use crate::server::{self, Agent};
use crate::user::User;

/// Watches that stream, at once.
const STREAMS_MAX: usize = 64;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    agent: Arc<Agent>,
    streams: Arc<Semaphore>,
}

impl Service {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self {
            agent,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }

    /// The user of a request, and the absolute path that is meant.
    fn resolve(&self, headers: &HeaderMap, path: &str) -> Result<(User, String), ConnectError> {
        let user = server::request_user(&self.agent.settings, headers)?;
        let path = self.resolve_for(&user, path)?;
        Ok((user, path))
    }

    fn resolve_for(&self, user: &User, path: &str) -> Result<String, ConnectError> {
        let workdir = self.agent.settings.lock().workdir.clone();
        path::resolve(path, user, workdir.as_deref())
            .map_err(|error| ConnectError::invalid_argument(error.to_string()))
    }

    async fn watch(&self, headers: &HeaderMap, wanted: Wanted) -> Result<Watch, ConnectError> {
        let (_, path) = self.resolve(headers, &wanted.path)?;
        check_watchable(&path, wanted.allow_network_mounts)?;
        Watch::begin(&path, wanted.recursive, wanted.include_entry)
            .map_err(|error| ConnectError::internal(error.to_string()))
    }
}

/// What both kinds of watch ask for.
struct Wanted {
    path: String,
    recursive: bool,
    include_entry: bool,
    allow_network_mounts: bool,
}

fn check_watchable(path: &str, allow_network_mounts: bool) -> Result<(), ConnectError> {
    let found = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ConnectError::not_found(format!(
            "path {path} not found: stat {path}: {}",
            tree::reason(&error)
        )),
        _ => ConnectError::internal(format!(
            "error statting path {path}: {}",
            tree::reason(&error)
        )),
    })?;
    if !found.is_dir() {
        return Err(ConnectError::invalid_argument(format!(
            "path {path} not a directory"
        )));
    }
    if !allow_network_mounts {
        let is_on_network = watch::is_on_network(path).map_err(|error| {
            ConnectError::internal(format!("error checking mount status: {error}"))
        })?;
        if is_on_network {
            return Err(ConnectError::invalid_argument(format!(
                "cannot watch path on network filesystem: {path}"
            )));
        }
    }
    Ok(())
}

impl Filesystem for Service {
    async fn stat<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, StatRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<StatResponse> + Send + use<'a>> {
        let (_, path) = self.resolve(ctx.headers(), request.path)?;
        let entry = helper::run(move || tree::stat(&path)).await??;
        Response::ok(StatResponse {
            entry: entry.into(),
            ..StatResponse::default()
        })
    }

    async fn make_dir<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MakeDirRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<MakeDirResponse> + Send + use<'a>> {
        let (user, path) = self.resolve(ctx.headers(), request.path)?;
        let entry = helper::run(move || tree::make(&path, &user)).await??;
        Response::ok(MakeDirResponse {
            entry: entry.into(),
            ..MakeDirResponse::default()
        })
    }

    async fn r#move<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MoveRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<MoveResponse> + Send + use<'a>> {
        let (user, source) = self.resolve(ctx.headers(), request.source)?;
        let destination = self.resolve_for(&user, request.destination)?;
        let entry = helper::run(move || tree::rename(&source, &destination, &user)).await??;
        Response::ok(MoveResponse {
            entry: entry.into(),
            ..MoveResponse::default()
        })
    }

    async fn list_dir<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListDirRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<ListDirResponse> + Send + use<'a>> {
        let (_, path) = self.resolve(ctx.headers(), request.path)?;
        let depth = request.depth;
        let entries = helper::run(move || tree::list(&path, depth)).await??;
        Response::ok(ListDirResponse {
            entries,
            ..ListDirResponse::default()
        })
    }

    async fn remove<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, RemoveRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<RemoveResponse> + Send + use<'a>> {
        let (_, path) = self.resolve(ctx.headers(), request.path)?;
        helper::run(move || tree::remove(&path)).await??;
        Response::ok(RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<impl connectrpc::Encodable<WatchDirResponse> + Send + use<>>>
    {
        let place = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            ConnectError::resource_exhausted(format!("more than {STREAMS_MAX} watches"))
        })?;
        let wanted = Wanted {
            path: request.path.to_owned(),
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
        };
        let watch = self.watch(ctx.headers(), wanted).await?;
        let streaming = Streaming {
            watch,
            waiting: VecDeque::new(),
            keepalive: server::keepalive(ctx.headers()),
            is_started: false,
            is_over: false,
            _place: place,
        };
        Ok(Response::stream(stream::unfold(
            streaming,
            |mut streaming| async move { Some((streaming.next().await?, streaming)) },
        )))
    }

    async fn create_watcher<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<CreateWatcherResponse> + Send + use<'a>> {
        let wanted = Wanted {
            path: request.path.to_owned(),
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
        };
        let watch = self.watch(ctx.headers(), wanted).await?;
        let watcher_id = self.agent.watchers.add(watch, &self.agent.tasks);
        let watcher_id =
            watcher_id.ok_or_else(|| ConnectError::resource_exhausted("too many watchers"))?;
        Response::ok(CreateWatcherResponse {
            watcher_id,
            ..CreateWatcherResponse::default()
        })
    }

    async fn get_watcher_events<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<GetWatcherEventsResponse> + Send + use<'a>> {
        let taken = self
            .agent
            .watchers
            .take(request.watcher_id)
            .ok_or_else(|| no_watcher(request.watcher_id))?;
        let events = taken.map_err(ConnectError::internal)?;
        Response::ok(GetWatcherEventsResponse {
            events,
            ..GetWatcherEventsResponse::default()
        })
    }

    async fn remove_watcher<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<RemoveWatcherResponse> + Send + use<'a>> {
        if !self.agent.watchers.remove(request.watcher_id) {
            return Err(no_watcher(request.watcher_id));
        }
        Response::ok(RemoveWatcherResponse::default())
    }
}

fn no_watcher(id: &str) -> ConnectError {
    ConnectError::not_found(format!("watcher with id {id} not found"))
}

/// A watch that one client is told of as it happens.
struct Streaming {
    watch: Watch,
    waiting: VecDeque<FilesystemEvent>,
    keepalive: Duration,
    is_started: bool,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl Streaming {
    async fn next(&mut self) -> Option<Result<WatchDirResponse, ConnectError>> {
        if self.is_over {
            return None;
        }
        let event = if !self.is_started {
            self.is_started = true;
            Event::Start(Box::default())
        } else if let Some(change) = self.waiting.pop_front() {
            Event::Filesystem(Box::new(change))
        } else {
            tokio::select! {
                biased;
                changes = self.watch.next() => match changes {
                    Ok(changes) => {
                        self.waiting.extend(changes);
                        Event::Filesystem(Box::new(self.waiting.pop_front()?))
                    }
                    Err(error) => {
                        self.is_over = true;
                        return Some(Err(ConnectError::internal(error.to_string())));
                    }
                },
                () = tokio::time::sleep(self.keepalive) => Event::Keepalive(Box::default()),
            }
        };
        Some(Ok(WatchDirResponse {
            event: Some(event),
            ..WatchDirResponse::default()
        }))
    }
}
