//! A node that is killed, not stopped: the next one must find everything.
//!
//! The node to be killed is another process: this test program itself, started to run
//! `a_node_to_be_killed` only.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use atoll_core::id::{Generation, SandboxId};
use atoll_core::node::{NodeReport, ObservedState};
use atoll_core::resources::Resources;

use crate::guest::run;
use crate::rig::{SIZE, World, guest_programs, spec_named};

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
        let mut victim = start(&world, "crash::a_node_to_be_killed", life);
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

fn start(world: &World, victim: &str, life: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", victim])
        // Its short life is for the node, not for building what the node needs.
        .env("ATOLL_GUEST_DIR", guest_programs())
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
    let Some((life, world)) = borrowed_world().await else {
        return;
    };
    let node = world.node().await;
    for number in 0..20 {
        let kept = spec_named(&format!("i{life}x{number}"));
        let removed = spec_named(&format!("i{life}y{number}"));
        tokio::join!(node.ensure(&kept), node.ensure(&removed));
        node.remove(&removed.id).await;
    }
    std::future::pending::<()>().await;
}

/// The life's number and the world that this process was started in, if it was.
async fn borrowed_world() -> Option<(String, World)> {
    let text = std::env::var(WORLD).ok()?;
    let mut parts = text.splitn(3, ':');
    let mut part = || parts.next().unwrap().to_owned();
    let (life, instance, directory) = (part(), part(), PathBuf::from(part()));
    Some((life, World::existing(instance, directory).await))
}

/// What pauses and resumes are tried on: how many sandboxes, the first half of them with memory.
const PAUSED: usize = 4;

/// Lives of a node that pauses and resumes, and how much longer each is than the one before. A
/// pause takes some 20 ms and a start some 100, so every part of both is hit by some of them.
const PAUSING_LIVES: u64 = 16;
const LONGER_PAUSING: Duration = Duration::from_millis(37);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_while_it_pauses_and_resumes_loses_nothing() {
    let Some(world) = World::new().await else {
        return;
    };
    world.prepare_templates().await;
    let node = world.node().await;
    let counter = "echo kept >/root/file; nohup sh -c 'while :; do n=$((n+1)); echo $n \
                   >/dev/shm/now; sleep 0.01; done' >/dev/null 2>&1 & echo $!";
    let mut pids = Vec::new();
    for number in 0..PAUSED {
        let spec = spec_named(&format!("ipaused{number}"));
        node.ensure(&spec).await;
        pids.push(run(&node.agent, &spec.id, counter).await.stdout);
    }
    node.stop().await;
    let mut before = [Generation::FIRST; PAUSED];
    for life in 0..PAUSING_LIVES {
        let mut victim = start(&world, "crash::a_pausing_node_to_be_killed", life);
        tokio::time::sleep(FIRST_LIFE + LONGER_PAUSING * u32::try_from(life).unwrap()).await;
        victim.kill().unwrap();
        victim.wait().unwrap();
        let node = world.node().await;
        before = check_kept(&node.agent.report(), before);
        node.stop().await;
    }
    println!("generations {before:?}");
    assert!(before.iter().all(|last| *last > Generation::FIRST));
    let node = world.node().await;
    for (number, observed) in node.agent.report().sandboxes.iter().enumerate() {
        let mut spec = spec_named(observed.id.as_str());
        spec.generation = observed.generation;
        if observed.state == ObservedState::Paused {
            node.resume(&mut spec).await;
        }
        // Processes that were to be kept are the same ones, and go on.
        let look = format!(
            "cat /root/file; cat /dev/shm/now; kill -0 {}",
            pids[number].trim()
        );
        let output = run(&node.agent, &spec.id, &look).await;
        assert!(output.stdout.starts_with("kept\n"), "{output:?}");
        if number < PAUSED / 2 {
            assert_eq!(output.code, 0, "{output:?}");
        }
        node.remove_of(&spec.id, spec.generation).await;
    }
    node.stop().await;
    world.assert_clean().await;
}

/// Every sandbox is there, running or paused, under no older generation than before; and the
/// node's account is the sum of what it holds.
fn check_kept(report: &NodeReport, before: [Generation; PAUSED]) -> [Generation; PAUSED] {
    let mut sum = Resources::default();
    for (number, observed) in report.sandboxes.iter().enumerate() {
        assert_eq!(observed.id.as_str(), format!("ipaused{number}"));
        assert!(
            observed.generation >= before[number],
            "{observed:?}, {before:?}"
        );
        let has_memory = number < PAUSED / 2;
        let expected = match observed.state {
            ObservedState::Running => SIZE,
            ObservedState::Paused => SIZE.held_when_paused(has_memory),
            other => panic!("{other:?}"),
        };
        assert_eq!(observed.resources, expected, "{observed:?}");
        sum = sum.checked_add(observed.resources).unwrap();
    }
    assert_eq!(report.allocated, sum);
    let generations: Vec<_> = report
        .sandboxes
        .iter()
        .map(|found| found.generation)
        .collect();
    generations.try_into().unwrap()
}

/// Pauses and resumes what it finds until it is killed; does nothing in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn a_pausing_node_to_be_killed() {
    let Some((_, world)) = borrowed_world().await else {
        return;
    };
    let node = world.node().await;
    let found = node.agent.report().sandboxes;
    let cycles = found.into_iter().enumerate().map(|(number, observed)| {
        let node = &node;
        async move {
            let mut spec = spec_named(observed.id.as_str());
            spec.generation = observed.generation;
            if observed.state == ObservedState::Paused {
                node.resume(&mut spec).await;
            }
            loop {
                node.pause(&spec, number < PAUSED / 2).await;
                node.resume(&mut spec).await;
            }
        }
    });
    futures::future::join_all(cycles).await;
}
