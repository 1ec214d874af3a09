//! The row of a request is in the transaction that decides it.

use std::time::Duration;

use atoll_control::audit::{Actor, Deed, Outcome, Receipt};
use atoll_control::view::Tenant;
use atoll_core::network::NetworkPolicy;
use atoll_core::node::Refusal;
use atoll_store::store::{AuditFilter, AuditRow};

use crate::fake_node::Script;
use crate::world::{Running, World, request};

const TIMEOUT: Duration = Duration::from_secs(300);

/// A caller whose request has a row coming.
fn caller(running: &Running, operation: &str) -> (Tenant, Receipt) {
    let mut tenant = running.tenant.clone();
    let receipt = Receipt::new(Deed {
        team: Some(tenant.team.clone()),
        actor: Actor::Key(tenant.key.clone()),
        operation: operation.to_owned(),
        object: None,
        outcome: Outcome::Done,
        address: None,
        agent: None,
        trace: None,
    });
    tenant.receipt = Some(receipt.clone());
    (tenant, receipt)
}

async fn rows(world: &World) -> Vec<AuditRow> {
    let filter = AuditFilter {
        limit: 100,
        ..AuditFilter::default()
    };
    world.store().await.audit_list(&filter).await.unwrap()
}

/// Defends: no change costs a commit more for its row, and none is without.
#[tokio::test]
async fn what_is_done_to_a_sandbox_brings_its_own_row() {
    let world = World::new();
    let running = world.start().await;
    let control = &running.control;
    let (tenant, receipt) = caller(&running, "create");
    let made = control.sandbox_create(&tenant, request()).await.unwrap();
    let id = made.sandbox.id;
    let mut receipts = vec![receipt];
    for operation in ["pause", "resume", "restart", "pause again", "connect"] {
        let (tenant, receipt) = caller(&running, operation);
        receipts.push(receipt);
        match operation {
            "resume" => drop(control.sandbox_resume(&tenant, &id, TIMEOUT).await.unwrap()),
            "restart" => drop(control.sandbox_restart(&tenant, &id).await.unwrap()),
            "connect" => drop(
                control
                    .sandbox_connect(&tenant, &id, TIMEOUT)
                    .await
                    .unwrap(),
            ),
            _ => drop(control.sandbox_pause(&tenant, &id, true).await.unwrap()),
        }
    }
    let (tenant, receipt) = caller(&running, "network");
    receipts.push(receipt);
    let network = control.sandbox_update_network(&tenant, &id, NetworkPolicy::default());
    network.await.unwrap();
    let (tenant, receipt) = caller(&running, "kill");
    receipts.push(receipt);
    control.sandbox_kill(&tenant, &id).await.unwrap();

    for receipt in receipts {
        assert!(!receipt.settle().await, "nothing is left for the door");
    }
    let told = rows(&world).await;
    let of_it = |row: &AuditRow| row.object.as_deref() == Some(id.as_str()) && row.outcome == "ok";
    assert!(told.iter().all(of_it), "{told:?}");
    let told: Vec<_> = told
        .iter()
        .rev()
        .map(|row| row.operation.as_str())
        .collect();
    let all = [
        "create",
        "pause",
        "resume",
        "restart",
        "pause again",
        "connect",
        "network",
        "kill",
    ];
    assert_eq!(told, all);
    running.stop().await;
}

/// Defends: what was refused is never told of as done, also when somebody else does it later.
#[tokio::test]
async fn what_a_node_refuses_is_left_to_the_door() {
    let world = World::new();
    let running = world.start().await;
    let control = &running.control;
    let id = running.create().await.sandbox.id;
    let refusal = || Script::Refuse(Refusal::Failed("the disk is full".to_owned()));
    world.node().script(refusal());
    let (tenant, receipt) = caller(&running, "refused");
    control.sandbox_pause(&tenant, &id, true).await.unwrap_err();
    control
        .sandbox_pause(&running.tenant, &id, true)
        .await
        .unwrap();
    assert_eq!(rows(&world).await, []);
    assert!(
        receipt.settle().await,
        "the door writes that it was refused"
    );

    world.node().script(refusal());
    let (tenant, receipt) = caller(&running, "refused");
    control
        .sandbox_resume(&tenant, &id, TIMEOUT)
        .await
        .unwrap_err();
    control
        .sandbox_resume(&running.tenant, &id, TIMEOUT)
        .await
        .unwrap();
    assert_eq!(rows(&world).await, []);
    assert!(
        receipt.settle().await,
        "the door writes that it was refused"
    );
    running.stop().await;
}
