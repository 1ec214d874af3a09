//! A node that is killed, not stopped: the next one must find everything.
//!
//! The node to be killed is another process: this test program itself, started to run
//! `a_node_to_be_killed` only.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use atoll_core::id::SandboxId;

use crate::guest::run;
use crate::rig::{World, spec_named};

/// Tells the other process where its world is.
const WORLD: &str = "ATOLL_TEST_WORLD";

/// Lives of a node in the test, and how long each is: every part of a start and of creates should
/// be hit by some of them.
const LIVES: u64 = 8;
const FIRST_LIFE: Duration = Duration::from_millis(40);
const LONGER: Duration = Duration::from_millis(75);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_at_any_instant_loses_nothing_and_leaves_nothing() {
    let Some(world) = World::new().await else {
        return;
    };
    world.prepare_templates().await;
    for life in 0..LIVES {
        let mut victim = start(&world, life);
        tokio::time::sleep(FIRST_LIFE + LONGER * u32::try_from(life).unwrap()).await;
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    let node = world.node().await;
    let found: Vec<SandboxId> = node
        .agent
        .report()
        .sandboxes
        .into_iter()
        .map(|sandbox| sandbox.id)
        .collect();
    println!("{} sandboxes adopted", found.len());
    for id in &found {
        let output = run(&node.agent, id, "hostname").await;
        assert_eq!(output.stdout, format!("{id}\n"), "{output:?}");
    }
    // Everything that is on the machine belongs to what was found, and to the new node's stock.
    let cells = world.cells_with_processes();
    assert!(cells.len() >= found.len(), "{cells:?}");
    for id in &found {
        node.remove(id).await;
    }
    node.stop().await;
    world.assert_clean().await;
}

fn start(world: &World, life: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::a_node_to_be_killed"])
        .env(
            WORLD,
            format!(
                "{life}:{}:{}",
                world.instance,
                world.directory.path().display()
            ),
        )
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Makes sandboxes until it is killed; does nothing in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_to_be_killed() {
    let Ok(text) = std::env::var(WORLD) else {
        return;
    };
    let mut parts = text.splitn(3, ':');
    let mut part = || parts.next().unwrap().to_owned();
    let (life, instance, directory) = (part(), part(), PathBuf::from(part()));
    let world = World::existing(instance, directory).await;
    let node = world.node().await;
    for number in 0..20 {
        let kept = spec_named(&format!("i{life}x{number}"));
        let removed = spec_named(&format!("i{life}y{number}"));
        tokio::join!(node.ensure(&kept), node.ensure(&removed));
        node.remove(&removed.id).await;
    }
    std::future::pending::<()>().await;
}
