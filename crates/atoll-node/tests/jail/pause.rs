//! Pausing and going on: what is kept, what is held meanwhile, and what is refused.

use std::time::Duration;

use atoll_core::id::Generation;
use atoll_core::node::{CallOutcome, NodeEvent, ObservedState, Refusal};
use atoll_core::resources::Resources;
use atoll_core::sandbox::SandboxSpec;
use atoll_node::guest_client::GUEST_AGENT_PORT;
use tokio::time::Instant;

use crate::guest::run;
use crate::rig::{LIMIT, Node, SIZE, World, output, spec, until};

/// Counts in its memory, and tells the count in a file of a tmpfs and in one of the disk.
const COUNTER: &str = "cat >/tmp/counter.sh <<'X'
n=0
while true; do n=$((n+1)); echo $n >/dev/shm/now; echo $n >/tmp/now; sleep 0.01; done
X
nohup sh /tmp/counter.sh >/dev/null 2>&1 & echo $!";

async fn count(node: &Node<'_>, spec: &SandboxSpec) -> u64 {
    let output = run(
        &node.agent,
        &spec.id,
        "until grep . /dev/shm/now; do :; done",
    )
    .await;
    let line = output.stdout.lines().next_back();
    line.unwrap_or_default()
        .parse()
        .unwrap_or_else(|_| panic!("{output:?}"))
}

fn next(spec: &SandboxSpec) -> SandboxSpec {
    SandboxSpec {
        generation: Generation::new(spec.generation.get() + 1),
        ..spec.clone()
    }
}

/// CPU time of a process and its children so far, in ticks.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let fields = after_name.split_whitespace().skip(11).take(4);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_memory_a_process_goes_on_where_it_was() {
    let Some(world) = World::new().await else {
        return;
    };
    let mut node = world
        .node_with(|agent, _| agent.usage_interval = Duration::from_millis(20))
        .await;
    let mut spec = spec();
    node.ensure(&spec).await;
    let output = run(&node.agent, &spec.id, COUNTER).await;
    let alive = format!("kill -0 {} && echo alive", output.stdout.trim());
    let (guest, _) = node.processes_of(&spec.id);
    let before = count(&node, &spec).await;
    let paused = node.pause(&spec, true).await;
    assert_eq!(paused.state, ObservedState::Paused);
    assert_eq!(paused.resources, SIZE.held_when_paused(true));
    assert_eq!(node.agent.report().sandboxes, std::slice::from_ref(&paused));
    // A repeated order changes nothing, whatever it says about memory.
    assert_eq!(node.pause(&spec, true).await, paused);
    assert_eq!(node.pause(&spec, false).await, paused);
    // Nothing in it moves, and nobody gets in.
    let stood = ticks(guest);
    let start = Instant::now();
    let error = node
        .agent
        .dial(&spec.id, spec.generation, GUEST_AGENT_PORT)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the sandbox is paused");
    assert!(start.elapsed() < Duration::from_secs(1));
    while node.events.try_recv().is_ok() {}
    tokio::time::timeout(Duration::from_millis(300), async {
        loop {
            if let Some(NodeEvent::Usage(_, sample)) = node.events.recv().await {
                panic!("a sample of what stands still: {sample:?}");
            }
        }
    })
    .await
    .unwrap_err();
    assert_eq!(ticks(guest), stood);

    let resumed = node.resume(&mut spec).await;
    assert_eq!(resumed.state, ObservedState::Running);
    assert_eq!(resumed.generation, spec.generation);
    assert_eq!(resumed.resources, SIZE);
    assert_eq!(node.agent.report().allocated, SIZE);
    let after = count(&node, &spec).await;
    assert!(after >= before, "{after} after {before}");
    until_counted(&node, &spec, after).await;
    let alive = run(&node.agent, &spec.id, &alive).await;
    assert_eq!(alive.stdout, "alive\n", "{alive:?}");
    let sample = node
        .event(|event| match event {
            NodeEvent::Usage(_, sample) => Some(sample),
            _ => None,
        })
        .await;
    let most = 100.0 * f64::from(SIZE.cpu_millis) / 1000.0 * 2.0;
    assert!(f64::from(sample.cpu_used_pct) < most, "{sample:?}");
    node.remove_of(&spec.id, spec.generation).await;
    node.stop().await;
    world.assert_clean().await;
}

async fn until_counted(node: &Node<'_>, spec: &SandboxSpec, past: u64) {
    let start = Instant::now();
    while count(node, spec).await <= past {
        assert!(start.elapsed() < LIMIT, "the counter stands at {past}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_files_are_kept_and_processes_are_not() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let mut spec = spec();
    node.ensure(&spec).await;
    run(&node.agent, &spec.id, COUNTER).await;
    let change = "echo kept >/root/file; mkdir -p /srv/a/b; rm /etc/issue; chmod 700 /srv/a; \
                  echo 10.1.1.1 other >>/etc/hosts; chown user /srv/a/b; head -c 20M /dev/urandom \
                  | tee /var/big | sha256sum";
    let sum = run(&node.agent, &spec.id, change).await.stdout;
    let paused = node.pause(&spec, false).await;
    assert_eq!(paused.state, ObservedState::Paused);
    assert_eq!(paused.resources, SIZE.held_when_paused(false));
    let cells = world.cells_with_processes();
    let idle = |cells: Vec<String>| cells.len() <= 4;
    assert!(idle(cells.clone()), "{cells:?}");
    let error = node
        .agent
        .dial(&spec.id, spec.generation, GUEST_AGENT_PORT)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the sandbox is paused");

    let resumed = node.resume(&mut spec).await;
    assert_eq!(resumed.resources, SIZE);
    let look = "pgrep -c counter.sh; ls /dev/shm; cat /root/file; ls /etc/issue 2>/dev/null; \
                stat -c '%U %a' /srv/a/b; stat -c %a /srv/a; grep -c other /etc/hosts; \
                sha256sum </var/big; hostname; echo $GREETING";
    let output = run(&node.agent, &spec.id, look).await;
    let expected = format!("0\nkept\nuser 755\n700\n1\n{sum}{}\nhello\n", spec.id);
    assert_eq!(output.stdout, expected, "{output:?}");
    // And again, with what was added since.
    run(&node.agent, &spec.id, "echo more >>/root/file").await;
    node.pause(&spec, false).await;
    node.resume(&mut spec).await;
    let output = run(&node.agent, &spec.id, "cat /root/file").await;
    assert_eq!(output.stdout, "kept\nmore\n");
    node.remove_of(&spec.id, spec.generation).await;
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_id_is_of_one_life_and_of_no_other() {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let mut spec = spec();
    node.ensure(&spec).await;
    let read = async || {
        let output = run(
            &node.agent,
            &spec.id,
            &format!("cat {PATH}; ls /dev/boot_id"),
        )
        .await;
        assert_ne!(output.code, 0, "the file behind it is hidden");
        output.stdout
    };
    let first = read().await;
    assert_eq!(first.trim().len(), 36, "{first:?}");
    assert_ne!(first, std::fs::read_to_string(PATH).unwrap());
    node.pause(&spec, true).await;
    node.resume(&mut spec).await;
    let thawed = run(&node.agent, &spec.id, &format!("cat {PATH}")).await;
    assert_eq!(thawed.stdout, first, "the same life");
    node.pause(&spec, false).await;
    node.resume(&mut spec).await;
    let rebooted = run(&node.agent, &spec.id, &format!("cat {PATH}")).await;
    assert_ne!(rebooted.stdout, first, "another life");
    node.remove_of(&spec.id, spec.generation).await;
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_tells_the_guest_agent_anew() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    for keep_memory in [true, false] {
        let mut spec = spec();
        node.ensure(&spec).await;
        node.pause(&spec, keep_memory).await;
        spec.env.insert("GREETING".to_owned(), "again".to_owned());
        spec.network.internet_access = false;
        node.resume(&mut spec).await;
        let output = run(&node.agent, &spec.id, "echo $GREETING").await;
        assert_eq!(output.stdout, "again\n", "with memory: {keep_memory}");
        let gateway = "ip route get 1.1.1.1 >/dev/null && timeout 5 bash -c '</dev/tcp/1.1.1.1/53'";
        assert_ne!(run(&node.agent, &spec.id, gateway).await.code, 0);
        node.remove_of(&spec.id, spec.generation).await;
    }
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_fence_pauses_and_resumes() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let mut spec = spec();
    spec.generation = Generation::new(5);
    let unknown = CallOutcome::Refused(Refusal::UnknownSandbox);
    let stale = |ordered, known| {
        CallOutcome::Refused(Refusal::StaleGeneration {
            ordered: Generation::new(ordered),
            known: Generation::new(known),
        })
    };
    let (agent, of) = (&node.agent, Generation::new);
    assert_eq!(agent.pause(&spec.id, of(5), true).await, unknown);
    assert_eq!(agent.resume(&next(&spec)).await, unknown);
    node.ensure(&spec).await;
    assert_eq!(agent.pause(&spec.id, of(4), true).await, stale(4, 5));
    assert_eq!(agent.pause(&spec.id, of(6), true).await, unknown);
    let running = node.agent.report().sandboxes;
    // One that runs is done already.
    assert_eq!(
        agent.resume(&spec).await,
        CallOutcome::Done(running[0].clone())
    );
    node.pause(&spec, true).await;
    assert_eq!(agent.resume(&spec).await, stale(5, 5));
    let resumed = node.resume(&mut spec).await;
    // The answer was lost, and it is asked again.
    assert_eq!(
        agent.resume(&spec).await,
        CallOutcome::Done(resumed.clone())
    );
    assert_eq!(agent.pause(&spec.id, of(5), true).await, stale(5, 6));
    let removed = agent.remove(&spec.id, of(5)).await;
    assert!(matches!(removed, CallOutcome::Refused(_)), "{removed:?}");
    // Together, they are done once.
    node.pause(&spec, false).await;
    spec = next(&spec);
    let (a, b) = tokio::join!(agent.resume(&spec), agent.resume(&spec));
    assert_eq!(a, b);
    assert_eq!(node.agent.report().sandboxes[0].generation, of(7));
    node.remove_of(&spec.id, spec.generation).await;
    assert_eq!(agent.resume(&spec).await, stale(7, 7));
    assert_eq!(agent.resume(&next(&spec)).await, unknown);
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_without_room_is_refused_and_changes_nothing() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world
        .node_with(|agent, _| {
            agent.total = Resources {
                cpu_millis: SIZE.cpu_millis,
                memory_mib: SIZE.memory_mib + 100,
                disk_mib: SIZE.disk_mib * 3,
            };
        })
        .await;
    let (mut frozen, mut files, mut taker) = (spec(), spec(), spec());
    taker.resources.memory_mib = 100;
    node.ensure(&files).await;
    run(&node.agent, &files.id, "echo kept >/root/file").await;
    node.pause(&files, false).await;
    node.ensure(&frozen).await;
    run(&node.agent, &frozen.id, COUNTER).await;
    node.pause(&frozen, true).await;
    node.ensure(&taker).await;
    let before = node.agent.report();
    let refused = |outcome| match outcome {
        CallOutcome::Refused(Refusal::NoRoom(why)) => why,
        other => panic!("{other:?}"),
    };
    let why = refused(node.agent.resume(&next(&frozen)).await);
    assert_eq!(why, "2000 mcpu wanted, 0 free");
    let why = refused(node.agent.resume(&next(&files)).await);
    assert_eq!(
        why,
        "2000 mcpu wanted, 0 free; 512 MiB memory wanted, 0 free"
    );
    assert_eq!(node.agent.report(), before);
    node.pause(&taker, true).await;
    node.resume(&mut frozen).await;
    count(&node, &frozen).await;
    node.remove_of(&frozen.id, frozen.generation).await;
    node.resume(&mut files).await;
    let output = run(&node.agent, &files.id, "cat /root/file").await;
    assert_eq!(output.stdout, "kept\n");
    node.agent.shutdown_sandboxes().await;
    assert_eq!(node.agent.report().allocated, Resources::default());
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_one_is_adopted_as_it_was() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let (mut frozen, mut files) = (spec(), spec());
    for spec in [&frozen, &files] {
        node.ensure(spec).await;
        run(&node.agent, &spec.id, COUNTER).await;
    }
    node.pause(&frozen, true).await;
    node.resume(&mut frozen).await;
    let before = count(&node, &frozen).await;
    node.pause(&frozen, true).await;
    node.pause(&files, false).await;
    let (guest, _) = node.processes_of(&frozen.id);
    let (report, stood) = (node.agent.report(), ticks(guest));
    node.stop().await;

    let node = world.node().await;
    assert_eq!(node.agent.report(), report);
    assert_eq!(ticks(guest), stood);
    node.resume(&mut frozen).await;
    let after = count(&node, &frozen).await;
    assert!(after >= before, "{after} after {before}");
    node.resume(&mut files).await;
    let output = run(&node.agent, &files.id, "ls /dev/shm /tmp/now").await;
    assert_eq!(output.stdout, "/tmp/now\n\n/dev/shm:\n", "{output:?}");
    node.agent.shutdown_sandboxes().await;
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_die_while_paused_leave_the_files() {
    let Some(world) = World::new().await else {
        return;
    };
    let mut node = world.node().await;
    let mut spec = spec();
    node.ensure(&spec).await;
    run(&node.agent, &spec.id, "echo kept >/root/file").await;
    node.pause(&spec, true).await;
    let (_, supervisor) = node.processes_of(&spec.id);
    output("kill", &["-9", &supervisor.to_string()]);
    let changed = node
        .event(|event| match event {
            NodeEvent::Changed(observed) => Some(observed),
            _ => None,
        })
        .await;
    assert_eq!(changed.state, ObservedState::Paused);
    assert_eq!(changed.resources, SIZE.held_when_paused(false));
    assert_eq!(node.agent.report().allocated, changed.resources);
    node.resume(&mut spec).await;
    let output = run(&node.agent, &spec.id, "cat /root/file").await;
    assert_eq!(output.stdout, "kept\n");
    node.remove_of(&spec.id, spec.generation).await;
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_went_down_leaves_the_files() {
    let Some(world) = World::new().await else {
        return;
    };
    let mut node = world.node().await;
    let mut spec = spec();
    node.ensure(&spec).await;
    run(
        &node.agent,
        &spec.id,
        "head -c 8M /dev/zero >/root/zeros; echo kept >/root/file",
    )
    .await;
    run(&node.agent, &spec.id, COUNTER).await;
    node.pause(&spec, true).await;
    // What a power cut would leave: the file as it is now, mounted and never unmounted.
    let directory = world
        .directory
        .path()
        .join("node/sandboxes")
        .join(spec.id.as_str());
    let (disk, copy) = (directory.join("disk.img"), directory.join("copy.img"));
    std::fs::copy(&disk, &copy).unwrap();
    let (_, supervisor) = node.processes_of(&spec.id);
    while node.events.try_recv().is_ok() {}
    node.stop().await;
    output("kill", &["-9", &supervisor.to_string()]);
    std::fs::rename(&copy, &disk).unwrap();

    let mut node = world.node().await;
    let said = node
        .event(|event| match event {
            NodeEvent::Log { message, .. } => Some(message),
            _ => None,
        })
        .await;
    assert!(said.contains("lost its memory"), "{said}");
    assert!(said.contains("its files are kept"), "{said}");
    let observed = node.agent.report().sandboxes.remove(0);
    assert_eq!(observed.state, ObservedState::Paused);
    assert_eq!(observed.resources, SIZE.held_when_paused(false));
    node.resume(&mut spec).await;
    let output = run(
        &node.agent,
        &spec.id,
        "cat /root/file; stat -c %s /root/zeros",
    )
    .await;
    assert_eq!(output.stdout, "kept\n8388608\n", "{output:?}");
    node.remove_of(&spec.id, spec.generation).await;
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_one_is_removed_in_bounded_time() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    for keep_memory in [true, false] {
        let spec = spec();
        node.ensure(&spec).await;
        run(&node.agent, &spec.id, COUNTER).await;
        node.pause(&spec, keep_memory).await;
        let start = Instant::now();
        node.remove(&spec.id).await;
        println!(
            "removed in {:.1?}, with memory: {keep_memory}",
            start.elapsed()
        );
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    assert_eq!(node.agent.report().allocated, Resources::default());
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_under_load_is_paused_in_bounded_time() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let loads = [
        "for i in 1 2 3 4; do sh -c 'while :; do :; done' >/dev/null 2>&1 & done",
        "bomb() { bomb | bomb & }; (bomb) >/dev/null 2>&1",
        "for i in 1 2; do sh -c 'while dd if=/dev/zero of=/tmp/f bs=1M count=64; do :; done' \
         >/dev/null 2>&1 & done",
    ];
    for load in loads {
        let mut spec = spec();
        node.ensure(&spec).await;
        let started = run(&node.agent, &spec.id, load);
        let _ = tokio::time::timeout(Duration::from_secs(2), started).await;
        let start = Instant::now();
        node.pause(&spec, true).await;
        let paused = start.elapsed();
        let start = Instant::now();
        let resumed = node.agent.resume(&next(&spec)).await;
        println!(
            "paused in {paused:.1?}, resumed in {:.1?}: {load}",
            start.elapsed()
        );
        assert!(paused < LIMIT && start.elapsed() < LIMIT);
        match resumed {
            CallOutcome::Done(_) => {
                spec = next(&spec);
                node.pause(&spec, false).await;
                node.resume(&mut spec).await;
                let output = run(&node.agent, &spec.id, "echo well").await;
                assert_eq!(output.stdout, "well\n");
            }
            // A bomb may leave the guest agent no turn; then it is paused as it was.
            CallOutcome::Refused(Refusal::Failed(_)) => {
                let state = node.agent.report().sandboxes[0].state;
                assert_eq!(state, ObservedState::Paused);
            }
            other => panic!("{other:?}"),
        }
        node.remove_of(&spec.id, spec.generation).await;
    }
    node.stop().await;
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_pauses_leave_nothing_behind() {
    let Some(world) = World::new().await else {
        return;
    };
    let node = world.node().await;
    let mut spec = spec();
    node.ensure(&spec).await;
    run(&node.agent, &spec.id, COUNTER).await;
    let (mut frozen, mut thawed, mut stored, mut restored) = (vec![], vec![], vec![], vec![]);
    for round in 0..20 {
        let keep_memory = round % 2 == 0;
        let start = Instant::now();
        node.pause(&spec, keep_memory).await;
        let paused = start.elapsed();
        let start = Instant::now();
        node.resume(&mut spec).await;
        let resumed = start.elapsed();
        let (pauses, resumes) = if keep_memory {
            (&mut frozen, &mut thawed)
        } else {
            (&mut stored, &mut restored)
        };
        pauses.push(paused);
        resumes.push(resumed);
        assert_eq!(
            run(&node.agent, &spec.id, "echo well").await.stdout,
            "well\n"
        );
    }
    crate::many::show("pause with memory", frozen);
    crate::many::show("resume with memory", thawed);
    crate::many::show("pause with files", stored);
    crate::many::show("resume with files", restored);
    let loops = output("losetup", &["--list", "--noheadings"]);
    let own = loops.lines().filter(|line| line.contains(spec.id.as_str()));
    assert_eq!(own.count(), 1, "{loops}");
    until("only one cell is used", || {
        let cells = world.cells_with_processes();
        // Four wait to be used.
        if cells.len() <= 5 {
            Ok(())
        } else {
            Err(format!("{cells:?}"))
        }
    })
    .await;
    node.remove_of(&spec.id, spec.generation).await;
    node.stop().await;
    world.assert_clean().await;
}
