//! A whole API in one process: router, control plane, SQLite in a folder of its own, a fake node.

use std::sync::Arc;
use std::time::Duration;

use atoll_api::rest::{Api, Config as ApiConfig};
use atoll_control::clock::SystemClock;
use atoll_control::config::Config;
use atoll_control::fleet::{Addresses, Fleet};
use atoll_control::random::SystemRandom;
use atoll_control::request::ImportRequest;
use atoll_control::route_publisher::RoutePublisher;
use atoll_control::view::{Scope, Tenant};
use atoll_control::{ControlPlane, Parts};
use atoll_core::id::{NodeId, TeamId};
use atoll_core::node::{NodeEvent, NodeInfo};
use atoll_core::resources::Resources;
use atoll_core::route::RouteUpdate;
use atoll_core::template::TemplateSource;
use atoll_core::time::Timestamp;
use atoll_proto::join_token::JoinToken;
use atoll_store::sqlite::SqliteStore;
use atoll_store::store::Store as _;
use axum::Router;
use axum::body::{Body, Bytes};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::node::FakeNode;
use crate::spec;

pub(crate) const ADMIN_TOKEN: &str = "an-admin-token";
pub(crate) const KEY: &str = "e2b_0123456789abcdef0123456789abcdef01234567";
const OTHER_TEAM: &str = "11111111-2222-4333-8444-555555555555";
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct NoRoutes;

impl RoutePublisher for NoRoutes {
    fn publish(&self, _: RouteUpdate) {}
}

#[derive(Debug)]
struct NoAddresses;

impl Addresses for NoAddresses {
    fn note(&self, _: &NodeId, _: &str) {}
}

pub(crate) struct World {
    pub(crate) router: Router,
    pub(crate) control: ControlPlane,
    pub(crate) node: Arc<FakeNode>,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) events: mpsc::Sender<NodeEvent>,
    pub(crate) tenant: Tenant,
    /// A key of another team.
    pub(crate) other_key: String,
    cancel: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(
            SqliteStore::open(&folder.path().join("atoll.db"))
                .await
                .unwrap(),
        );
        let mut config = Config::development("0.6.13");
        change(&mut config);
        let parts = Parts {
            store: store.clone(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            routes: Arc::new(NoRoutes),
            cache: None,
        };
        let control = ControlPlane::open(config, parts).await.unwrap();
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let background = (control.clone(), cancel.clone());
        tasks.spawn(async move { background.0.run(background.1).await });
        let key = SecretString::from(KEY);
        let team = control.bootstrap(Some(key)).await.unwrap().team;
        let other: TeamId = OTHER_TEAM.parse().unwrap();
        store
            .team_ensure(&other, "other", Timestamp::from_micros(1))
            .await
            .unwrap();
        let other_key = control
            .key_create(&tenant(other), "other", Scope::Full)
            .await
            .unwrap();
        let (events, receiver) = mpsc::channel(64);
        let node = Arc::new(FakeNode::new());
        let client: Arc<FakeNode> = Arc::clone(&node);
        control.node_join(client, receiver).await.unwrap();
        control.template_ensure_global(base()).await.unwrap();
        let cfg = ApiConfig {
            admin_token: Some(SecretString::from(ADMIN_TOKEN)),
            default_team: team.clone(),
            sandbox_domain: None,
        };
        Self {
            router: Api::new(cfg, control.clone(), tasks).router(),
            control,
            node,
            store,
            events,
            tenant: tenant(team),
            other_key: other_key.text.expose_secret().to_owned(),
            cancel,
            _folder: folder,
        }
    }

    /// Has the API count, with `render` for what it counted.
    pub(crate) fn count(&mut self, render: fn() -> String) {
        self.router = self.api().with_metrics(render).router();
    }

    /// Another API on the same control plane.
    fn api(&self) -> Api {
        let cfg = ApiConfig {
            admin_token: Some(SecretString::from(ADMIN_TOKEN)),
            default_team: self.tenant.team.clone(),
            sandbox_domain: None,
        };
        Api::new(cfg, self.control.clone(), TaskTracker::new())
    }

    /// Has the API take in nodes that join over the network and show this token.
    pub(crate) fn open_to_nodes(&mut self, token: &str) {
        let token = JoinToken::parse(token).unwrap();
        let fleet = Fleet::new(
            self.control.clone(),
            Some(token.clone()),
            Arc::new(NoAddresses),
            TaskTracker::new(),
            self.cancel.clone(),
        );
        self.router = self.api().with_fleet(fleet, Some(token)).router();
    }

    /// Sends a request with the default team's key.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: &str) -> Answer {
        self.ask_as(&[("X-API-Key", KEY)], method, path, body).await
    }

    /// Sends a request as the operator.
    pub(crate) async fn ask_admin(&self, method: Method, path: &str, body: &str) -> Answer {
        self.ask_as(&[("X-Admin-Token", ADMIN_TOKEN)], method, path, body)
            .await
    }

    /// Sends a request, and checks the answer against the specification.
    pub(crate) async fn ask_as(
        &self,
        headers: &[(&str, &str)],
        method: Method,
        path: &str,
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method.clone()).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let answer = self.send(request).await;
        let only_path = path.split('?').next().unwrap();
        let (e2b, admin) = (spec::e2b(), spec::admin());
        let operation = e2b
            .find(&method, only_path)
            .or_else(|| admin.find(&method, only_path));
        if let Some(operation) = operation {
            let shown = (!answer.json.is_null()).then_some(&answer.json);
            if let Err(problem) = operation.check(answer.status.as_u16(), shown) {
                panic!("{method} {path}: {problem}");
            }
        }
        answer
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let sent = tokio::time::timeout(LIMIT, self.router.clone().oneshot(request));
        let (parts, body) = sent.await.expect("no answer in time").unwrap().into_parts();
        let kind = parts.headers.get("content-type");
        let bytes = if kind.is_some_and(|kind| kind == "text/event-stream") {
            // It has no end.
            Bytes::new()
        } else {
            body.collect().await.unwrap().to_bytes()
        };
        let json = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap()
        };
        if !parts.status.is_success() {
            assert_eq!(
                json["code"],
                parts.status.as_u16(),
                "the body repeats the status"
            );
            assert!(
                json["message"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty())
            );
        }
        assert!(parts.headers.contains_key("x-e2b-trace-id"));
        Answer {
            status: parts.status,
            headers: parts.headers,
            json,
        }
    }

    /// Has another node join, which says this of itself.
    pub(crate) async fn add_node(&self, id: &str, info: NodeInfo) -> Arc<FakeNode> {
        let node = Arc::new(FakeNode::described(id, info));
        self.join(&node).await;
        node
    }

    /// Has a node join.
    pub(crate) async fn join(&self, node: &Arc<FakeNode>) {
        // It never tells anything of its own accord.
        let (_, silent) = mpsc::channel(1);
        let client: Arc<FakeNode> = Arc::clone(node);
        self.control.node_join(client, silent).await.unwrap();
    }

    /// Waits until the condition holds; fails with `what` if it does not in time.
    pub(crate) async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        while !condition().await {
            assert!(
                tokio::time::Instant::now() < deadline,
                "not in time: {what}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Makes a sandbox and answers its id.
    pub(crate) async fn create(&self, body: &str) -> String {
        let answer = self.ask(Method::POST, "/v2/sandboxes", body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.json);
        answer.json["sandboxID"].as_str().unwrap().to_owned()
    }

    /// Makes a sandbox that takes so much of the node.
    pub(crate) async fn fill_up(&self, resources: Resources) {
        let large = ImportRequest {
            name: "large".to_owned(),
            resources,
            ..base()
        };
        self.control.template_ensure_global(large).await.unwrap();
        self.create(r#"{"templateID":"large"}"#).await;
    }

    pub(crate) async fn create_base(&self) -> String {
        self.create(r#"{"templateID":"base"}"#).await
    }
}

fn tenant(team: TeamId) -> Tenant {
    Tenant {
        team,
        key: "test".parse().unwrap(),
        scope: Scope::Full,
        receipt: None,
    }
}

fn base() -> ImportRequest {
    ImportRequest {
        name: "base".to_owned(),
        source: TemplateSource::Host,
        resources: Resources {
            cpu_millis: 2_000,
            memory_mib: 512,
            disk_mib: 1_024,
        },
        is_public: true,
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
}

impl Answer {
    pub(crate) fn message(&self) -> &str {
        self.json["message"].as_str().unwrap()
    }
}
