//! Creating, finding again, removing, and what is left of it.

use std::time::Duration;

use atoll_core::id::Generation;
use atoll_core::node::{CallOutcome, NodeEvent, ObservedSandbox, ObservedState, Refusal};
use atoll_core::resources::Resources;

use crate::guest::run;
use crate::rig::{SIZE, World, output, spec, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_made_runs_commands_and_leaves_nothing() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let id = node.create().await;
    let command = "echo $GREETING; id -u; hostname; cut -c1-4 /proc/1/cmdline";
    let output = run(&node.agent, &id, command).await;
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.stdout, format!("hello\n0\n{id}\nenvd\n"));
    node.remove(&id).await;
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_outlive_the_node_and_the_next_one_adopts_them() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let spec = spec();
    let made = node.ensure(&spec).await;
    run(
        &node.agent,
        &spec.id,
        "echo kept >/tmp/file; sleep 1000 >/dev/null 2>&1 &",
    )
    .await;
    node.stop().await;

    let mut node = world.node().await;
    let report = node.agent.report();
    assert_eq!(report.sandboxes, std::slice::from_ref(&made));
    assert_eq!(report.allocated, SIZE);
    assert_eq!(node.ensure(&spec).await, made);
    let output = run(&node.agent, &spec.id, "cat /tmp/file; pgrep -c sleep").await;
    assert_eq!(output.stdout, "kept\n1\n");
    // The adopted one's end is noticed like any other's.
    run(&node.agent, &spec.id, "kill -9 -1; kill -9 1").await;
    let (_, supervisor) = node.processes_of(&spec.id);
    crate::rig::output("kill", &["-9", &supervisor.to_string()]);
    let ended = node
        .event(|event| match event {
            NodeEvent::Changed(observed) => Some(observed),
            _ => None,
        })
        .await;
    assert_eq!(ended.state, ObservedState::Exited);
    node.remove(&spec.id).await;
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_supervisor_is_noticed_at_once_and_cleaned_up() {
    let Some(world) = World::new().await else {
        return;
    };
    let mut node = world.node().await;
    let spec = spec();
    node.ensure(&spec).await;
    let (guest, supervisor) = node.processes_of(&spec.id);
    let start = tokio::time::Instant::now();
    output("kill", &["-9", &supervisor.to_string()]);
    let ended = node
        .event(|event| match event {
            NodeEvent::Changed(observed) => Some(observed),
            _ => None,
        })
        .await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!((&ended.id, ended.state), (&spec.id, ObservedState::Exited));
    until("pid 1 is gone", || {
        match std::path::Path::new(&format!("/proc/{guest}")).exists() {
            false => Ok(()),
            true => Err("alive".to_owned()),
        }
    })
    .await;
    until("its room is given back", || {
        let allocated = node.agent.report().allocated;
        if allocated == Resources::default() {
            Ok(())
        } else {
            Err(format!("{allocated:?}"))
        }
    })
    .await;
    // It stays in the report until control has taken note, and holds nothing.
    let remembered = ObservedSandbox {
        resources: Resources::default(),
        ..ended
    };
    assert_eq!(node.agent.report().sandboxes, [remembered]);
    let again = node.agent.ensure(&spec).await;
    assert!(
        matches!(again, CallOutcome::Refused(Refusal::Failed(_))),
        "{again:?}"
    );
    node.remove(&spec.id).await;
    assert!(node.agent.report().sandboxes.is_empty());
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_older_generations_are_refused_and_newer_ones_replace() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let mut spec = spec();
    spec.generation = Generation::new(5);
    node.ensure(&spec).await;
    run(&node.agent, &spec.id, "touch /tmp/of-five").await;
    let stale = |ordered, known| Refusal::StaleGeneration {
        ordered: Generation::new(ordered),
        known: Generation::new(known),
    };
    spec.generation = Generation::new(4);
    assert_eq!(
        node.agent.ensure(&spec).await,
        CallOutcome::Refused(stale(4, 5))
    );
    let removed = node.agent.remove(&spec.id, Generation::new(4)).await;
    assert_eq!(removed, CallOutcome::Refused(stale(4, 5)));
    spec.generation = Generation::new(6);
    assert_eq!(node.ensure(&spec).await.generation, Generation::new(6));
    let output = run(&node.agent, &spec.id, "ls /tmp/of-five").await;
    assert_ne!(output.code, 0);
    let removed = node.agent.remove(&spec.id, Generation::new(6)).await;
    assert_eq!(removed, CallOutcome::Done(()));
    assert_eq!(
        node.agent.ensure(&spec).await,
        CallOutcome::Refused(stale(6, 6))
    );
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_no_more_than_it_has() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world
        .node_with(|agent, _| {
            agent.total = Resources {
                memory_mib: SIZE.memory_mib * 2,
                ..agent.total
            };
        })
        .await;
    let (first, second, third) = (spec(), spec(), spec());
    let (a, b, c) = tokio::join!(
        node.agent.ensure(&first),
        node.agent.ensure(&second),
        node.agent.ensure(&third),
    );
    let refused: Vec<_> = [&a, &b, &c]
        .into_iter()
        .filter_map(|outcome| match outcome {
            CallOutcome::Refused(refusal) => Some(refusal.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(refused, ["no room: 512 MiB memory wanted, 0 free"]);
    let mut unknown = spec();
    unknown.build = "other".parse().unwrap();
    node.agent.shutdown_sandboxes().await;
    let report = node.agent.report();
    assert_eq!(
        (report.allocated, report.sandboxes.len()),
        (Resources::default(), 0)
    );
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_carried_out_leaves_nothing() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let mut spec = spec();
    spec.build = "other".parse().unwrap();
    let outcome = node.agent.ensure(&spec).await;
    assert_eq!(outcome, CallOutcome::Refused(Refusal::UnknownTemplate));
    assert_eq!(node.agent.report().allocated, Resources::default());
    node.stop().await;
    world.assert_clean().await;
}
