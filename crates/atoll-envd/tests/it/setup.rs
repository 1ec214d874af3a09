//! `/health`, `/init`, `/envs`, `/metrics`, and who may ask what.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::http;
use crate::world::{World, base64, rest};

#[test]
fn health_needs_no_token_and_all_else_does() {
    let world = World::new();
    let set = world.init(&json!({"accessToken": "secret", "defaultUser": "root"}));
    assert_eq!(
        (set.status, set.header("x-envd-version")),
        (204, Some(atoll_envd::VERSION))
    );
    assert_eq!(world.get("/health", &[]).status, 204);
    let refused = world.get("/envs", &[]);
    let message =
        "unauthorized access, please provide a valid access token or method signing if supported";
    assert_eq!(
        (refused.status, refused.json()),
        (401, json!({"code": 401, "message": message}))
    );
    assert_eq!(
        world.get("/envs", &[("X-Access-Token", "secret")]).json(),
        json!({"E2B_SANDBOX": "true"})
    );
    assert_eq!(
        world
            .post(
                "/process.Process/List",
                &[("X-Access-Token", "wrong")],
                &json!({})
            )
            .status,
        401
    );
    assert_eq!(
        world
            .post(
                "/process.Process/List",
                &[("X-Access-Token", "secret")],
                &json!({})
            )
            .status,
        200
    );
    let wrong = world.init(&json!({"accessToken": "other"}));
    assert_eq!(
        (wrong.status, wrong.text()),
        (401, "access token validation failed".to_owned())
    );
    assert_eq!(world.init(&json!({})).status, 401);
}

#[test]
fn what_is_not_done_is_refused() {
    let world = World::new();
    assert_eq!(
        world
            .init(&json!({"volumeMounts": [{"nfs_target": "x", "path": "/x"}]}))
            .status,
        400
    );
    assert_eq!(world.init(&json!({"timestamp": "soon"})).status, 400);
    assert_eq!(
        http::send(world.address, "POST", "/init", &[], b"{nonsense").status,
        400
    );
    assert_eq!(world.post("/freeze", &[], &json!({})).status, 501);
    assert_eq!(world.get("/nothing", &[]).status, 404);
    assert_eq!(world.post("/health", &[], &json!({})).status, 405);
}

#[test]
fn pages_of_any_origin_may_ask() {
    let world = World::new();
    let asked = [
        ("Origin", "http://page"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-a"),
    ];
    let answer = http::send(world.address, "OPTIONS", "/files", &asked, b"");
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (204, Some("*"))
    );
    assert_eq!(answer.header("access-control-allow-headers"), Some("x-a"));
    assert_eq!(
        world
            .get("/health", &[("Origin", "http://page")])
            .header("access-control-allow-origin"),
        Some("*")
    );
}

#[test]
fn metrics_are_numbers() {
    let world = World::new();
    let metrics = world.get("/metrics", &[]).json();
    for name in [
        "ts",
        "cpu_count",
        "mem_total",
        "mem_used",
        "disk_total",
        "disk_used",
        "mem_total_mib",
    ] {
        assert!(
            metrics[name].as_u64().is_some_and(|value| value > 0),
            "{name}: {metrics}"
        );
    }
    assert!(
        metrics["cpu_used_pct"]
            .as_f64()
            .is_some_and(|value| (0.0..=100.0).contains(&value))
    );
}

/// More connections than the agent keeps, from somebody who says nothing.
const CROWD: usize = 900;

#[test]
fn silent_connections_lock_nobody_out() {
    raise_open_files();
    let world = World::new();
    let mut crowd: Vec<TcpStream> = Vec::new();
    for number in 0..CROWD {
        let mut stream = TcpStream::connect(world.address).unwrap();
        if number % 2 == 0 {
            stream
                .write_all(b"GET /health HTTP/1.1\r\nHost: a")
                .unwrap();
        }
        crowd.push(stream);
    }
    #[expect(clippy::disallowed_methods, reason = "tests measure real time")]
    let begin = Instant::now();
    assert_eq!(world.get("/health", &[]).status, 204);
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "waited {:?} for a place",
        begin.elapsed()
    );
    // The last was in nobody's way, but a place is not for keeping.
    let last = crowd.last_mut().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert!(!is_time_out(last.read_to_end(&mut Vec::new())));
}

/// An idle connection is closed in favour of a new one, and a busy one is not.
#[test]
fn work_under_way_keeps_its_connection() {
    raise_open_files();
    let world = World::new();
    let (mut stream, _) = world.start("read line; echo still here", &json!({"stdin": true}), &[]);
    let crowd: Vec<TcpStream> = (0..CROWD)
        .map(|_| TcpStream::connect(world.address).unwrap())
        .collect();
    assert_eq!(world.get("/health", &[]).status, 204);
    let pid = world.children()[0].0;
    let input = json!({"process": {"pid": pid}, "input": {"stdin": base64("\n")}});
    world.call("process.Process/SendInput", &input).unwrap();
    assert_eq!(rest(&mut stream).0, "still here\n");
    drop(crowd);
}

fn is_time_out(read: std::io::Result<usize>) -> bool {
    read.is_err_and(|error| {
        matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        )
    })
}

fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}
