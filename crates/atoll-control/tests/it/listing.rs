//! Listing: order, filters, pages.

use std::collections::{BTreeMap, BTreeSet};

use atoll_control::request::{Order, VisibleState};
use atoll_core::error::ErrorKind;

use crate::world::{World, all, request};

#[tokio::test]
async fn pages_hold_every_sandbox_once_in_both_orders() {
    let world = World::new();
    let running = world.start().await;
    for _ in 0..7 {
        running.create().await;
    }
    for order in [Order::Ascending, Order::Descending] {
        let mut query = all();
        query.order = order;
        query.limit = 3;
        let mut seen = Vec::new();
        let mut sizes = Vec::new();
        loop {
            let page = running
                .control
                .sandbox_list(&running.tenant, &query)
                .await
                .unwrap();
            assert_eq!(page.total_running, 7);
            sizes.push(page.items.len());
            seen.extend(
                page.items
                    .iter()
                    .map(|view| (view.sandbox.created_at, view.sandbox.id.clone())),
            );
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(sizes, [3, 3, 1]);
        let mut sorted = seen.clone();
        sorted.sort();
        if order == Order::Descending {
            sorted.reverse();
        }
        assert_eq!(seen, sorted);
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 7);
    }
    // Exactly full pages have no next one.
    let mut query = all();
    query.limit = 7;
    let page = running
        .control
        .sandbox_list(&running.tenant, &query)
        .await
        .unwrap();
    assert_eq!((page.items.len(), page.next), (7, None));
    running.stop().await;
}

#[tokio::test]
async fn a_page_holds_its_place_while_sandboxes_come_and_go() {
    let world = World::new();
    let running = world.start().await;
    for _ in 0..4 {
        running.create().await;
    }
    let mut query = all();
    query.limit = 2;
    let first = running
        .control
        .sandbox_list(&running.tenant, &query)
        .await
        .unwrap();
    let later = running.create().await.sandbox.id;
    let last_seen = first.items[1].sandbox.id.clone();
    running
        .control
        .sandbox_kill(&running.tenant, &last_seen)
        .await
        .unwrap();
    query.cursor = first.next;
    let second = running
        .control
        .sandbox_list(&running.tenant, &query)
        .await
        .unwrap();
    assert_eq!(second.items.len(), 2);
    assert!(second.items.iter().all(|view| view.sandbox.id != later));
    running.stop().await;
}

#[tokio::test]
async fn filters_restrict_by_label_template_state_and_start() {
    let world = World::new();
    let running = world.start().await;
    let mut ids = Vec::new();
    for (user, app) in [("ann", "x"), ("ann", "y"), ("bob", "x"), ("a=b&c", "%_'")] {
        let mut wanted = request();
        wanted.metadata = BTreeMap::from([
            ("user".to_owned(), user.to_owned()),
            ("app".to_owned(), app.to_owned()),
        ]);
        let view = running
            .control
            .sandbox_create(&running.tenant, wanted)
            .await
            .unwrap();
        ids.push(view);
    }
    let count = async |edit: &dyn Fn(&mut atoll_control::request::ListQuery)| {
        let mut query = all();
        edit(&mut query);
        let page = running
            .control
            .sandbox_list(&running.tenant, &query)
            .await
            .unwrap();
        page.items.len()
    };
    let label = |query: &mut atoll_control::request::ListQuery, name: &str, value: &str| {
        query.metadata.insert(name.to_owned(), value.to_owned());
    };
    assert_eq!(count(&|q| label(q, "user", "ann")).await, 2);
    let both = count(&|q| {
        label(q, "user", "ann");
        label(q, "app", "x");
    })
    .await;
    assert_eq!(both, 1);
    assert_eq!(count(&|q| label(q, "app", "%_'")).await, 1);
    assert_eq!(count(&|q| label(q, "app", "%")).await, 0);
    assert_eq!(count(&|q| q.template = Some("base".to_owned())).await, 4);
    assert_eq!(count(&|q| q.template = Some("BASE".to_owned())).await, 4);
    assert_eq!(count(&|q| q.template = Some("nothing".to_owned())).await, 0);
    assert_eq!(
        count(&|q| q.template = Some("not a name".to_owned())).await,
        0
    );
    assert_eq!(count(&|q| q.states = vec![VisibleState::Running]).await, 4);
    assert_eq!(count(&|q| q.states = vec![VisibleState::Paused]).await, 0);
    let third = ids[2].sandbox.started_at;
    assert_eq!(count(&|q| q.started_after = third).await, 2);

    for limit in [0, 101] {
        let mut query = all();
        query.limit = limit;
        let error = running.control.sandbox_list(&running.tenant, &query).await;
        assert_eq!(error.unwrap_err().kind, ErrorKind::InvalidArgument);
    }
    running.stop().await;
}
