//! Many sandboxes: how long creates take, and that nothing is left, however they end.
//!
//! `ATOLL_TEST_CREATES` sets how many are made; the figures are printed.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use crate::guest::run;
use crate::rig::{World, output, spec};

fn creates(default: usize) -> usize {
    let set = std::env::var("ATOLL_TEST_CREATES");
    set.map_or(default, |number| number.parse().unwrap())
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what}: {} times, p50 {:.1?}, p95 {:.1?}, p99 {:.1?}, max {:.1?}",
        times.len(),
        at(50),
        at(95),
        at(99),
        at(100)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_after_the_other() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let (mut creates_took, mut commands_took, mut removals_took) = (vec![], vec![], vec![]);
    for _ in 0..creates(30) {
        let start = Instant::now();
        let id = node.create().await;
        creates_took.push(start.elapsed());
        let start = Instant::now();
        assert_eq!(run(&node.agent, &id, "true").await.code, 0);
        commands_took.push(start.elapsed());
        let start = Instant::now();
        node.remove(&id).await;
        removals_took.push(start.elapsed());
    }
    show("create", creates_took);
    show("first command", commands_took);
    show("remove", removals_took);
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_at_a_time_some_killed_half_way() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let start = Instant::now();
    let lives = futures::stream::iter(0..creates(60)).map(|number| {
        let node = &node;
        async move {
            let spec = spec();
            let start = Instant::now();
            match number % 6 {
                // Removed while it is being made.
                4 => {
                    let (_, ()) = tokio::join!(node.agent.ensure(&spec), node.remove(&spec.id));
                }
                // Its supervisor is killed.
                5 => {
                    node.ensure(&spec).await;
                    let (_, supervisor) = node.processes_of(&spec.id);
                    output("kill", &["-9", &supervisor.to_string()]);
                }
                _ => {
                    node.ensure(&spec).await;
                }
            }
            let took = start.elapsed();
            node.remove(&spec.id).await;
            took
        }
    });
    let times: Vec<_> = lives.buffer_unordered(20).collect().await;
    println!("{} lives in {:.1?}", times.len(), start.elapsed());
    show("create at 20 at a time", times);
    assert!(node.agent.report().sandboxes.is_empty());
    node.stop().await;
    world.assert_clean().await;
}
