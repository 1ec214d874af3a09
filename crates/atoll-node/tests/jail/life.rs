//! Creating, finding, removing.

use crate::guest::run;
use crate::rig::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_made_runs_commands_and_leaves_nothing() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let id = node.create().await;
    let output = run(
        &node.agent,
        &id,
        "echo $GREETING; id -u; hostname; cut -c1-4 /proc/1/cmdline",
    )
    .await;
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.stdout, format!("hello\n0\n{id}\nenvd\n"));
    node.remove(&id).await;
    node.stop().await;
    world.assert_clean().await;
}
