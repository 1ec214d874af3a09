//! The routes, and what every handler shares.
//!
//! [`Table`] is the one list of operations: the router is built from it, and so is the list that
//! tests compare with the specifications.

use std::sync::{Arc, OnceLock};

use atoll_control::ControlPlane;
use atoll_control::fleet::Fleet;
use atoll_core::error::ErrorKind;
use atoll_core::id::{SandboxId, TeamId};
use atoll_proto::join_token::JoinToken;
use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::handler::Handler;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use http::request::Parts;
use http::{HeaderName, Method, StatusCode, Uri};
use secrecy::SecretString;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

use crate::audit;
use crate::body::Room;
use crate::error::ApiError;
use crate::guard::{self, Places};
use crate::limit::{MAX_REQUESTS, REQUEST_TIMEOUT};
use crate::rest::imports::Imports;
use crate::rpc;

mod admin;
mod events;
mod explain;
mod health;
mod imports;
mod keys;
mod lists;
mod metrics;
mod nodes;
mod observe;
mod pause;
mod sandboxes;
mod teams;
mod templates;
mod unsupported;

/// Tells the next page of a listing.
pub(crate) const NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");
/// Tells how many sandboxes of the team run.
pub(crate) const TOTAL_RUNNING: HeaderName = HeaderName::from_static("x-total-running");

/// What the API is told about its installation.
#[derive(Debug, Clone)]
pub struct Config {
    /// Opens the admin surface; none keeps it shut.
    pub admin_token: Option<SecretString>,
    /// The team operators act for where they name none.
    pub default_team: TeamId,
    /// Base domain of sandbox host names, told to clients; none lets them keep their own.
    pub sandbox_domain: Option<String>,
}

#[derive(Debug)]
struct Inner {
    cfg: Config,
    control: ControlPlane,
    imports: Imports,
    metrics: OnceLock<fn() -> String>,
    tasks: TaskTracker,
    bodies: Room,
    fleet: OnceLock<Membership>,
}

/// Where nodes join over the network, and what they show for it.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) fleet: Fleet,
    /// None lets everybody join.
    pub(crate) token: Option<JoinToken>,
}

/// The API. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

impl Api {
    /// An API for this control plane. What outlives its request (imports) runs on `tasks`.
    #[must_use]
    pub fn new(cfg: Config, control: ControlPlane, tasks: TaskTracker) -> Self {
        Self {
            inner: Arc::new(Inner {
                cfg,
                control,
                metrics: OnceLock::new(),
                imports: Imports::new(tasks.clone()),
                tasks,
                bodies: Room::new(),
                fleet: OnceLock::new(),
            }),
        }
    }

    /// The same API, which takes in nodes that join over the network. Without a `token` everybody
    /// may; only a loopback address may be served so.
    #[must_use]
    pub fn with_fleet(self, fleet: Fleet, token: Option<JoinToken>) -> Self {
        // A second fleet in one process would be the same.
        let _ = self.inner.fleet.set(Membership { fleet, token });
        self
    }

    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.inner.fleet.get()
    }

    /// The service that answers requests.
    pub fn router(&self) -> Router {
        // Browsers do not count `Authorization` among the headers that `*` allows: each preflight
        // gets back what it asks for.
        let cors = CorsLayer::new()
            .allow_origin(Any)
            .allow_methods(Any)
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(Any);
        let places = Places::new(MAX_REQUESTS, REQUEST_TIMEOUT);
        table()
            .router
            .fallback(no_route)
            .method_not_allowed_fallback(no_method)
            .with_state(self.clone())
            .layer(middleware::from_fn_with_state(places.clone(), guard::bound))
            .layer(CatchPanicLayer::custom(guard::panicked))
            .layer(middleware::from_fn_with_state(self.clone(), audit::rest))
            .merge(rpc::router(self, &places))
            .layer(middleware::from_fn(guard::trace))
            .layer(cors)
    }

    /// The same API, with `/metrics` answering what `render` writes.
    #[must_use]
    pub fn with_metrics(self, render: fn() -> String) -> Self {
        // A second source in one process would be the same.
        let _ = self.inner.metrics.set(render);
        self
    }

    pub(crate) fn metrics(&self) -> Option<fn() -> String> {
        self.inner.metrics.get().copied()
    }

    pub(crate) fn control(&self) -> &ControlPlane {
        &self.inner.control
    }

    pub(crate) fn admin_token(&self) -> Option<&SecretString> {
        self.inner.cfg.admin_token.as_ref()
    }

    pub(crate) fn default_team(&self) -> &TeamId {
        &self.inner.cfg.default_team
    }

    pub(crate) fn sandbox_domain(&self) -> Option<&str> {
        self.inner.cfg.sandbox_domain.as_deref()
    }

    /// Where work runs that outlives its request.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// Memory for request bodies.
    pub(crate) fn bodies(&self) -> &Room {
        &self.inner.bodies
    }

    pub(crate) fn imports(&self) -> &Imports {
        &self.inner.imports
    }
}

/// One operation: a method and the path as the specifications write it.
pub type Operation = (Method, &'static str);

/// Every operation that is served, in the order of the routes.
#[must_use]
pub fn operations() -> Vec<Operation> {
    table().operations
}

/// The operations of the E2B surface that only answer that they are not supported yet.
#[must_use]
pub fn unsupported_operations() -> Vec<Operation> {
    unsupported::operations().to_vec()
}

/// Routes in the making.
pub(crate) struct Table {
    router: Router<Api>,
    operations: Vec<Operation>,
}

impl Table {
    pub(crate) fn add<H, T>(mut self, method: Method, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        // Every method used here has a filter.
        if let Ok(filter) = MethodFilter::try_from(method.clone()) {
            self.router = self.router.route(path, on(filter, handler));
            self.operations.push((method, path));
        }
        self
    }
}

fn table() -> Table {
    let table = Table {
        router: Router::new(),
        operations: Vec::new(),
    };
    let table = health::routes(table);
    let table = metrics::routes(table);
    let table = sandboxes::routes(table);
    let table = pause::routes(table);
    let table = lists::routes(table);
    let table = observe::routes(table);
    let table = events::routes(table);
    let table = templates::routes(table);
    let table = keys::routes(table);
    let table = nodes::routes(table);
    let table = teams::routes(table);
    let table = unsupported::routes(table);
    let table = explain::routes(table);
    admin::routes(table)
}

async fn no_route(uri: Uri) -> ApiError {
    let path = crate::query::shorten(uri.path());
    ApiError::new(ErrorKind::NotFound, format!("no route `{path}`"))
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    let path = crate::query::shorten(uri.path());
    let message = format!("method {method} is not allowed on `{path}`");
    ApiError::new(ErrorKind::InvalidArgument, message).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// The sandbox a path names, in the form clients may send.
#[derive(Debug)]
pub(crate) struct SandboxPath(pub(crate) SandboxId);

impl FromRequestParts<Api> for SandboxPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let Segment(text) = Segment::from_request_parts(parts, api).await?;
        SandboxId::parse_client_form(&text)
            .map(Self)
            .map_err(|_| ApiError::validation("Invalid sandbox ID"))
    }
}

/// The one variable segment of a path, decoded.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) String);

impl FromRequestParts<Api> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        Path::<String>::from_request_parts(parts, api)
            .await
            .map(|Path(text)| Self(text))
            .map_err(|error| ApiError::validation(error.body_text()))
    }
}

/// What a handler answers.
pub(crate) type Answer = Result<Response, ApiError>;

pub(crate) fn json<T: serde::Serialize>(status: StatusCode, document: T) -> Response {
    (status, axum::Json(document)).into_response()
}

/// The answer to a request that made something.
pub(crate) fn made<T: serde::Serialize>(status: StatusCode, id: &str, document: T) -> Response {
    let mut response = json(status, document);
    response.extensions_mut().insert(audit::Made(id.to_owned()));
    response
}

pub(crate) fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn no_operation_is_routed_twice() {
        let operations = super::operations();
        let distinct: BTreeSet<(String, &str)> = operations
            .iter()
            .map(|(method, path)| (method.to_string(), *path))
            .collect();
        assert_eq!(distinct.len(), operations.len());
    }
}
