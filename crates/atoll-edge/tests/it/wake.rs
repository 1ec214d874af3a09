//! Traffic for sandboxes that are paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use atoll_core::id::Generation;
use atoll_core::route::RouteUpdate;
use atoll_edge::table::RouteTable;
use atoll_edge::target::Target;
use atoll_edge::wake::{WakeError, Waker};
use axum::Router;
use axum::routing::get;
use http::StatusCode;

use crate::world::{SANDBOX, World, route};

/// Resumes the sandbox of the tests, or says why not.
#[derive(Debug)]
struct Control {
    table: RouteTable,
    outcome: Result<(), WakeError>,
    asked: AtomicUsize,
}

#[async_trait]
impl Waker for Control {
    async fn wake(&self, target: &Target, token: Option<&str>) -> Result<(), WakeError> {
        assert_eq!(target.sandbox.as_str(), SANDBOX);
        assert_eq!(token, None);
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.outcome?;
        let mut route = route();
        route.generation = Generation::new(2);
        self.table.apply(RouteUpdate::Publish(route));
        Ok(())
    }
}

async fn paused(outcome: Result<(), WakeError>) -> (World, Arc<Control>) {
    let mut control = None;
    let world = World::with(64, |table| {
        let made = Arc::new(Control {
            table: table.clone(),
            outcome,
            asked: AtomicUsize::new(0),
        });
        control = Some(Arc::clone(&made));
        Some(made)
    })
    .await;
    let page = Router::new().route("/", get(|| async { "awake" }));
    world.open(3000, page).await;
    let sandbox = SANDBOX.parse().unwrap();
    let withdrawn = RouteUpdate::Withdraw(sandbox, Generation::FIRST);
    assert!(world.table.apply(withdrawn));
    (world, control.unwrap())
}

#[tokio::test]
async fn a_request_wakes_its_sandbox_and_goes_through() {
    let (world, control) = paused(Ok(())).await;
    let answer = world.get(3000, "/").await;
    assert_eq!(
        (answer.status, answer.text.as_str()),
        (StatusCode::OK, "awake")
    );
    world.get(3000, "/").await;
    let asked = control.asked.load(Ordering::SeqCst);
    assert_eq!(asked, 1, "one that has a route is not woken");
}

#[tokio::test]
async fn what_keeps_a_sandbox_asleep_is_told() {
    for (error, status, retry_after) in [
        (WakeError::NotFound, 502, None),
        (WakeError::TokenMissing, 403, None),
        (WakeError::TokenInvalid, 403, None),
        (WakeError::Changing, 409, Some("1")),
        (WakeError::QuotaExceeded, 429, Some("5")),
        (WakeError::Unavailable, 503, Some("5")),
    ] {
        let (world, _) = paused(Err(error)).await;
        let answer = world.get(3000, "/").await;
        assert_eq!(answer.status, status, "{error:?}");
        let told = answer.headers.get("retry-after");
        let told = told.map(|value| value.to_str().unwrap());
        assert_eq!(told, retry_after, "{error:?}");
        let body: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        assert_eq!(body["code"], status, "{error:?}");
    }
}
