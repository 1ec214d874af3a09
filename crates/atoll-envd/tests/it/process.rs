//! `process.Process`.

use serde_json::json;

use crate::http::Stream;
use crate::world::{World, base64, rest, wait_for};

#[test]
fn output_and_end_are_told_exactly() {
    let world = World::new();
    let (mut stream, _) = world.start("echo out; echo err >&2; exit 3", &json!({}), &[]);
    let (output, end) = rest(&mut stream);
    assert!(
        output.contains("out\n") && output.contains("err\n"),
        "{output}"
    );
    assert_eq!(
        end,
        json!({"exitCode": 3, "exited": true, "status": "exit status 3", "error": "exit status 3"})
    );
    let (mut stream, _) = world.start("true", &json!({}), &[]);
    assert_eq!(
        rest(&mut stream).1,
        json!({"exited": true, "status": "exit status 0"})
    );
}

#[test]
fn environment_directory_and_input_are_as_asked() {
    let world = World::new();
    world.init(&json!({
        "defaultUser": "root",
        "defaultWorkdir": world.path(""),
        "envVars": {"A": "global", "B": "global"},
    }));
    let script = "echo $A $B $USER $LOGNAME $HOME $E2B_SANDBOX; pwd; cat";
    let (mut stream, _) = world.start(
        script,
        &json!({"process": {"envs": {"A": "own"}}, "stdin": false}),
        &[],
    );
    let (output, _) = rest(&mut stream);
    assert_eq!(
        output,
        format!("own global root root /root true\n{}\n", world.path(""))
    );
}

#[test]
fn another_user_is_dropped_to() {
    let world = World::new();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let named = [("Authorization", &*format!("Basic {}", base64("daemon:")))];
    let (mut stream, _) = world.start(
        "id -un; id -Gn; cat /proc/self/oom_score_adj",
        &json!({"process": {"cwd": "/"}}),
        &named,
    );
    assert_eq!(rest(&mut stream).0, "daemon\ndaemon\n100\n");
    let nobody = [("Authorization", &*format!("Basic {}", base64("no-such:")))];
    let refused = world.refused(&json!({"process": {"cmd": "true"}}), &nobody);
    assert_eq!(
        refused,
        (
            "unauthenticated".to_owned(),
            "invalid username: 'no-such'".to_owned()
        )
    );
}

#[test]
fn what_cannot_start_says_why() {
    let world = World::new();
    let (code, message) =
        world.refused(&json!({"process": {"cmd": "/no/such", "args": ["x"]}}), &[]);
    assert_eq!(code, "invalid_argument");
    assert!(
        message.starts_with("error starting process '/no/such x': "),
        "{message}"
    );
    let (code, message) =
        world.refused(&json!({"process": {"cmd": "true", "cwd": "/no/such"}}), &[]);
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("invalid_argument", "cwd '/no/such' does not exist")
    );
    let (code, _) = world.refused(
        &json!({"process": {"cmd": "true", "envs": {"A=B": "x"}}}),
        &[],
    );
    assert_eq!(code, "invalid_argument");
}

#[test]
fn input_goes_in_and_ends() {
    let world = World::new();
    let (mut stream, pid) = world.start("cat; echo over", &json!({}), &[]);
    let input = json!({"process": {"pid": pid}, "input": {"stdin": base64("one\n")}});
    world.call("process.Process/SendInput", &input).unwrap();
    let messages = [
        json!({"start": {"process": {"pid": pid}}}),
        json!({"data": {"input": {"stdin": base64("two\n")}}}),
        json!({"keepalive": {}}),
        json!({"data": {"input": {"stdin": base64("three\n")}}}),
    ];
    assert_eq!(
        Stream::open(
            world.address,
            "/process.Process/StreamInput",
            &[],
            &messages
        )
        .next(),
        Ok(json!({}))
    );
    world
        .call(
            "process.Process/CloseStdin",
            &json!({"process": {"pid": pid}}),
        )
        .unwrap();
    assert_eq!(rest(&mut stream).0, "one\ntwo\nthree\nover\n");
    let (code, message) = world.call("process.Process/SendInput", &input).unwrap_err();
    assert_eq!(
        (code.as_str(), message),
        ("not_found", format!("process with pid {pid} not found"))
    );
}

#[test]
fn a_terminal_has_its_size_and_knows_no_end_of_input() {
    let world = World::new();
    let terminal = json!({"pty": {"size": {"cols": 80, "rows": 24}}});
    let (mut stream, pid) =
        world.start("stty size; read x; stty size; echo got $x", &terminal, &[]);
    let process = json!({"pid": pid});
    world
        .call(
            "process.Process/Update",
            &json!({"process": process, "pty": {"size": {"cols": 100, "rows": 30}}}),
        )
        .unwrap();
    let (code, message) = world
        .call("process.Process/CloseStdin", &json!({"process": process}))
        .unwrap_err();
    assert_eq!(code, "unknown");
    assert_eq!(
        message,
        "error closing stdin: cannot close stdin for PTY process — send Ctrl+D (0x04) instead"
    );
    world
        .call(
            "process.Process/SendInput",
            &json!({"process": process, "input": {"pty": base64("hi\n")}}),
        )
        .unwrap();
    let (output, end) = rest(&mut stream);
    assert!(
        output.contains("30 100\r\n") && output.contains("got hi\r\n"),
        "{output}"
    );
    assert_eq!(end["status"], "exit status 0");
}

#[test]
fn signals_end_a_process_and_its_end_is_kept() {
    let world = World::new();
    let (mut stream, pid) = world.start("sleep 600 & wait", &json!({"tag": "worker"}), &[]);
    let listed = world.call("process.Process/List", &json!({})).unwrap();
    assert_eq!(listed["processes"][0]["pid"], pid);
    assert_eq!(listed["processes"][0]["tag"], "worker");
    let (code, _) = world
        .call(
            "process.Process/SendSignal",
            &json!({"process": {"pid": pid}}),
        )
        .unwrap_err();
    assert_eq!(code, "unimplemented");
    let kill = json!({"process": {"tag": "worker"}, "signal": "SIGNAL_SIGKILL"});
    world.call("process.Process/SendSignal", &kill).unwrap();
    let end = json!({"exitCode": -1, "status": "signal: killed", "error": "signal: killed"});
    // The descendant that still holds the output does not hold up the end.
    assert_eq!(rest(&mut stream).1, end);
    let mut late = Stream::open(
        world.address,
        "/process.Process/Connect",
        &[],
        &[json!({"process": {"tag": "worker"}})],
    );
    assert_eq!(late.next().unwrap()["event"]["start"]["pid"], pid);
    assert_eq!(rest(&mut late).1, end);
    let mut nobody = Stream::open(
        world.address,
        "/process.Process/Connect",
        &[],
        &[json!({"process": {"pid": 4_000_000}})],
    );
    let error = nobody.next().unwrap_err();
    assert_eq!(
        error["error"],
        json!({"code": "not_found", "message": "process with pid 4000000 not found"})
    );
}

#[test]
fn time_is_limited_and_leaving_is_not_the_end() {
    let world = World::new();
    let (mut stream, pid) = world.start("sleep 600", &json!({}), &[("Connect-Timeout-Ms", "300")]);
    assert_eq!(
        stream.next().unwrap_err()["error"]["code"],
        "deadline_exceeded"
    );
    wait_for("the process is gone", || {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    });
    let mark = world.path("mark");
    let (stream, _) = world.start(
        &format!("while [ ! -e {mark}.go ]; do sleep 0.02; done; echo x; touch {mark}"),
        &json!({}),
        &[("Connect-Timeout-Ms", "0")],
    );
    drop(stream);
    std::fs::write(format!("{mark}.go"), "").unwrap();
    wait_for("the process went on", || {
        std::path::Path::new(&mark).exists()
    });
}

#[test]
fn many_follow_one_process_and_none_loses_output() {
    let world = World::new();
    let gate = world.path("gate");
    let script = format!(
        "while [ ! -e {gate} ]; do sleep 0.02; done; head -c 3000000 /dev/zero | tr '\\0' x"
    );
    let (first, pid) = world.start(&script, &json!({}), &[]);
    let mut streams = vec![first];
    for _ in 0..3 {
        let mut stream = Stream::open(
            world.address,
            "/process.Process/Connect",
            &[],
            &[json!({"process": {"pid": pid}})],
        );
        stream.next().unwrap();
        streams.push(stream);
    }
    std::fs::write(gate, "").unwrap();
    let readers: Vec<_> = streams
        .into_iter()
        .map(|mut stream| std::thread::spawn(move || rest(&mut stream).0.len()))
        .collect();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), 3_000_000);
    }
}

#[test]
fn silence_has_signs_of_life_and_no_zombies_stay() {
    let world = World::new();
    let (mut stream, _) = world.start("sleep 1.5", &json!({}), &[("Keepalive-Ping-Interval", "1")]);
    assert_eq!(stream.next().unwrap(), json!({"event": {"keepalive": {}}}));
    rest(&mut stream);
    for _ in 0..50 {
        rest(&mut world.start("true", &json!({}), &[]).0);
    }
    assert_eq!(
        world.call("process.Process/List", &json!({})).unwrap(),
        json!({})
    );
    wait_for("no zombies", || world.zombies().is_empty());
}

#[test]
fn as_pid_1_it_leaves_marks_and_reaps_orphans() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::as_pid_1();
    world.init(&json!({"defaultUser": "root", "envVars": {"E2B_SANDBOX_ID": "abc"}}));
    let (mut stream, _) = world.start(
        "cat /run/e2b/.E2B_SANDBOX /run/e2b/.E2B_SANDBOX_ID",
        &json!({}),
        &[],
    );
    assert_eq!(rest(&mut stream).0, "trueabc");
    // The inner process outlives its parent, and its new one is pid 1.
    let (mut stream, _) = world.start("(sleep 0.2 >/dev/null 2>&1 &)", &json!({}), &[]);
    assert_eq!(rest(&mut stream).1["status"], "exit status 0");
    wait_for("the orphan belongs to the agent", || {
        !world.children().is_empty()
    });
    wait_for("the orphan is gone", || world.children().is_empty());
}
