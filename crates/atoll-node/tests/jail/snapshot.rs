//! Copies of a sandbox's files, and the sandboxes that start from them.

use atoll_core::id::{BuildId, TemplateId};
use atoll_core::node::{CallOutcome, ObservedState, Refusal};
use atoll_core::sandbox::SandboxSpec;

use crate::guest::run;
use crate::rig::{Node, World, spec};

fn name(build: &str) -> (TemplateId, BuildId) {
    ("snap".parse().unwrap(), build.parse().unwrap())
}

async fn snapshot(node: &Node<'_>, of: &SandboxSpec, build: &str) {
    let (template, build) = name(build);
    let agent = &node.agent;
    let taken = agent.snapshot(&of.id, of.generation, &template, &build);
    assert_eq!(taken.await, CallOutcome::Done(()));
}

async fn from_snapshot(node: &Node<'_>, build: &str) -> SandboxSpec {
    let mut spec = spec();
    (spec.template, spec.build) = name(build);
    node.ensure(&spec).await;
    spec
}

async fn forget(node: &Node<'_>, build: &str) {
    let (template, build) = name(build);
    let removed = node.agent.remove_template(&template, &build).await;
    assert_eq!(removed, CallOutcome::Done(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_starts_others_with_the_files_of_one_instant() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let first = spec();
    node.ensure(&first).await;
    // Two files that have as many lines but for the instant between two writes.
    let change = "echo kept >/root/file; rm /etc/issue; n=0
                  nohup sh -c 'while :; do n=$((n+1)); echo $n >>/root/a; echo $n >>/root/b; done' \
                  >/dev/null 2>&1 & until [ -s /root/b ]; do :; done; echo $!";
    let pid = run(&node.agent, &first.id, change).await.stdout;
    snapshot(&node, &first, "one").await;
    // Asked again, it is there.
    snapshot(&node, &first, "one").await;
    // The one it was taken of goes on.
    let alive = format!(
        "kill -0 {} && echo changed >/root/file && cat /root/file",
        pid.trim()
    );
    let output = run(&node.agent, &first.id, &alive).await;
    assert_eq!(output.stdout, "changed\n", "{output:?}");

    let (second, third) = (
        from_snapshot(&node, "one").await,
        from_snapshot(&node, "one").await,
    );
    let look = "cat /root/file; ls /etc/issue 2>/dev/null; hostname; pgrep -c nohup
                [ $(($(wc -l </root/a) - $(wc -l </root/b))) -le 1 ] && echo together";
    for spec in [&second, &third] {
        let output = run(&node.agent, &spec.id, look).await;
        let expected = format!("kept\n{}\n0\ntogether\n", spec.id);
        assert_eq!(output.stdout, expected, "{output:?}");
    }
    // They share nothing that is written.
    run(&node.agent, &second.id, "echo own >/root/file").await;
    let output = run(&node.agent, &third.id, "cat /root/file").await;
    assert_eq!(output.stdout, "kept\n");
    // One of a paused one, and of one that came from a snapshot itself.
    node.pause(&second, true).await;
    snapshot(&node, &second, "two").await;
    assert_eq!(state_of(&node, &second), ObservedState::Paused);
    let fourth = from_snapshot(&node, "two").await;
    let output = run(&node.agent, &fourth.id, "cat /root/file").await;
    assert_eq!(output.stdout, "own\n");
    node.agent.shutdown_sandboxes().await;
    forget(&node, "one").await;
    forget(&node, "two").await;
    node.stop().await;
    world.assert_clean().await;
}

fn state_of(node: &Node<'_>, spec: &SandboxSpec) -> ObservedState {
    let report = node.agent.report();
    let found = report.sandboxes.iter().find(|found| found.id == spec.id);
    found.unwrap().state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_taken_or_used_is_refused() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let first = spec();
    let (template, build) = name("three");
    let agent = &node.agent;
    let taken = agent.snapshot(&first.id, first.generation, &template, &build);
    assert_eq!(taken.await, CallOutcome::Refused(Refusal::UnknownSandbox));
    node.ensure(&first).await;
    snapshot(&node, &first, "three").await;
    let mut larger = spec();
    (larger.template, larger.build) = name("three");
    larger.resources.disk_mib *= 2;
    let outcome = agent.ensure(&larger).await;
    assert!(
        matches!(outcome, CallOutcome::Refused(Refusal::Unsupported(_))),
        "{outcome:?}"
    );
    node.remove(&first.id).await;
    // What the snapshot stands on stays.
    let removed = agent.remove_template(&first.template, &first.build).await;
    let CallOutcome::Refused(Refusal::Failed(why)) = removed else {
        panic!("{removed:?}");
    };
    assert!(why.contains("snapshots need its layers"), "{why}");
    forget(&node, "three").await;
    node.stop().await;
    world.assert_clean().await;
}
