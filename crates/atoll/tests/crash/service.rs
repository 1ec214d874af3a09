//! Server, node or both die and come back: sandboxes serve commands meanwhile, and streams of what
//! runs in them go on, or can be taken up again.

use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::rig::{Access, Door, Part, Rig, Written, bash, is_possible, written};

/// Counts aloud for as long as somebody lets it.
const COUNT: &str = "i=0; while sleep 0.1; do i=$((i+1)); echo $i; done";

/// A stream of a process's events, read as it comes.
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Stream {
    fn read(request: reqwest::RequestBuilder) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(async move {
                let Ok(mut answer) = request.send().await else {
                    return;
                };
                // It ends with the process, or breaks with whoever carries it.
                while let Ok(Some(chunk)) = answer.chunk().await {
                    sink.lock().unwrap().extend_from_slice(&chunk);
                }
            });
        });
        Self { bytes, reader }
    }

    /// Has a command run, and follows it.
    fn start(rig: &Rig, door: Door, access: &Access) -> Self {
        Self::read(rig.guest_call(door, access, "Start", &bash(COUNT)))
    }

    /// Follows a process that runs.
    fn connect(rig: &Rig, door: Door, access: &Access, pid: u64) -> Self {
        let process = json!({ "process": { "pid": pid } });
        Self::read(rig.guest_call(door, access, "Connect", &process))
    }

    fn written(&self) -> Written {
        written(&self.bytes.lock().unwrap()).unwrap()
    }

    /// The numbers that came whole.
    fn numbers(&self) -> Vec<u64> {
        let text = self.written().text;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Waits for more to come than there is now, and checks that nothing is missing in between.
    fn wait_for_more(&self, rig: &Rig) -> u64 {
        let before = self.numbers().len();
        let numbers = rig.wait("the stream goes on", |_| {
            let numbers = self.numbers();
            (numbers.len() > before + 3).then_some(numbers)
        });
        let expected: Vec<u64> = (numbers[0]..).take(numbers.len()).collect();
        assert_eq!(numbers, expected, "nothing is lost and nothing comes twice");
        numbers[numbers.len() - 1]
    }
}

/// A sandbox that is used while processes die.
struct Scene {
    rig: Rig,
    access: Access,
    rounds: u32,
}

impl Scene {
    fn serve_through(&mut self, dead: &[Part]) {
        let (rig, access) = (&mut self.rig, &self.access);
        let relay = rig.relay();
        let direct = Stream::start(rig, Door::Machine, access);
        let usual = Stream::start(rig, Door::Server, access);
        direct.wait_for_more(rig);
        let last = usual.wait_for_more(rig);
        for part in dead {
            rig.kill(*part);
        }
        let has_server = !dead.contains(&Part::Server);
        // At the first attempt each.
        for n in 0..5 {
            let command = format!("echo served {n}");
            let served = Some(format!("served {n}"));
            assert_eq!(rig.command_at(Door::Machine, access, &command), served);
            if has_server {
                assert_eq!(rig.command_at(Door::Server, access, &command), served);
            }
        }
        direct.wait_for_more(rig);
        if has_server {
            usual.wait_for_more(rig);
        } else {
            rig.wait("the stream breaks", |_| {
                usual.reader.is_finished().then_some(())
            });
        }
        for part in dead {
            rig.run(*part);
        }
        // Server and node have found each other.
        self.rounds += 1;
        let proof = rig.create(&format!("after-{}", self.rounds));
        assert_eq!(rig.exec_until(&proof, "echo served"), "served");
        let path = format!("/sandboxes/{proof}");
        rig.insist(("DELETE", &path), None, None, &[204, 404]);
        direct.wait_for_more(rig);
        if has_server {
            usual.wait_for_more(rig);
        } else {
            // What nobody followed ran on, and can be followed again.
            let pid = usual.written().pid.unwrap();
            let again = rig.wait("the stream is taken up again", |rig| {
                let stream = Stream::connect(rig, Door::Server, access, pid);
                rig.wait("it is answered", |_| {
                    let is_answered = stream.reader.is_finished() || !stream.numbers().is_empty();
                    is_answered.then_some(())
                });
                (!stream.numbers().is_empty()).then_some(stream)
            });
            assert!(again.wait_for_more(rig) > last + 10, "it counted meanwhile");
        }
        assert_eq!(rig.relay(), relay, "it was the same all the time");
        rig.check_bystander();
    }
}

fn signal(pid: u64) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// "Every sandbox goes on serving commands meanwhile": with the server dead through the machine's
/// own door, with the node dead through either.
#[test]
fn commands_are_served_while_server_and_node_are_dead() {
    if !is_possible() {
        return;
    }
    let rig = Rig::start();
    let id = rig.create("used");
    let access = rig.access(&id);
    let mut scene = Scene {
        rig,
        access,
        rounds: 0,
    };
    for dead in [
        &[Part::Node][..],
        &[Part::Server],
        &[Part::Node, Part::Server],
    ] {
        eprintln!("dead: {dead:?}");
        scene.serve_through(dead);
    }
    let Scene { rig, access, .. } = scene;
    // The node sees to it that there is always somebody at the doors.
    let relay = rig.relay();
    signal(relay);
    for door in [Door::Machine, Door::Server] {
        rig.wait("commands are served again", |rig| {
            let served = rig.command_at(door, &access, "echo served");
            (served.as_deref() == Some("served")).then_some(())
        });
    }
    assert!(rig.relay_is_replaced(relay));
    let path = format!("/sandboxes/{}", access.id);
    rig.insist(("DELETE", &path), None, None, &[204, 404]);
    rig.wait_alone();
    rig.finish();
}

/// One of two nodes is dead: what is new is made on the other one, and what it has serves on.
#[test]
fn another_node_takes_creates_while_one_is_dead() {
    if !is_possible() {
        return;
    }
    let mut rig = Rig::start();
    let access = rig.access(rig.bystander());
    rig.run(Part::Second);
    let wait_for = |rig: &Rig, node: &str, wanted: &str| {
        rig.wait(&format!("{node} is {wanted}"), |rig| {
            (rig.node_state(node).as_deref() == Some(wanted)).then_some(())
        });
    };
    wait_for(&rig, "n2", "ready");
    rig.kill(Part::Node);
    wait_for(&rig, "n1", "suspect");
    let ids: Vec<String> = ["one", "two"].map(|name| rig.create(name)).into();
    for id in &ids {
        assert_eq!(rig.exec_until(id, "echo served"), "served");
    }
    assert_eq!(rig.command(&access, "echo on").as_deref(), Some("on"));
    assert_eq!(rig.ledger(), [rig.bystander()], "the others are elsewhere");
    rig.run(Part::Node);
    for id in ids {
        assert_eq!(rig.exec_until(&id, "echo served"), "served");
        let path = format!("/sandboxes/{id}");
        rig.insist(("DELETE", &path), None, None, &[204, 404]);
    }
    rig.wait_alone();
    rig.check_bystander();
    rig.finish();
}
