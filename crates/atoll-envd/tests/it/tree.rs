//! `filesystem.Filesystem`.

use serde_json::{Value, json};

use crate::http::{self, Stream};
use crate::world::{World, wait_for};

fn names(entries: &Value) -> Vec<String> {
    entries
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| entry["path"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn directories_are_made_listed_moved_and_removed() {
    let world = World::new();
    let call =
        |method: &str, body: Value| world.call(&format!("filesystem.Filesystem/{method}"), &body);
    let made = call("MakeDir", json!({"path": world.path("d/e")})).unwrap();
    assert_eq!(made["entry"]["type"], "FILE_TYPE_DIRECTORY");
    assert_eq!(made["entry"]["permissions"], "drwxr-xr-x");
    assert_eq!(
        call("MakeDir", json!({"path": world.path("d/e")}))
            .unwrap_err()
            .0,
        "already_exists"
    );
    world.upload(&world.path("d/f"), b"12345");
    assert_eq!(
        call("MakeDir", json!({"path": world.path("d/f")}))
            .unwrap_err()
            .0,
        "invalid_argument"
    );
    let entry = call("Stat", json!({"path": world.path("d/f")})).unwrap()["entry"].clone();
    assert_eq!(
        (&entry["size"], &entry["mode"], &entry["permissions"]),
        (&json!("5"), &json!(0o644), &json!("-rw-r--r--"))
    );
    assert_eq!(
        (&entry["owner"], &entry["type"]),
        (&json!("root"), &json!("FILE_TYPE_FILE"))
    );
    let list = |path: &str, depth: u32| call("ListDir", json!({"path": path, "depth": depth}));
    assert_eq!(
        names(&list(&world.path(""), 1).unwrap()["entries"]),
        [world.path("d")]
    );
    assert_eq!(
        names(&list(&world.path(""), 2).unwrap()["entries"]),
        [world.path("d"), world.path("d/e"), world.path("d/f")]
    );
    assert_eq!(
        list(&world.path("d/f"), 1).unwrap_err().0,
        "invalid_argument"
    );
    assert_eq!(list(&world.path("none"), 1).unwrap_err().0, "not_found");
    let moved = call(
        "Move",
        json!({"source": world.path("d/f"), "destination": world.path("x/y/f")}),
    )
    .unwrap();
    assert_eq!(moved["entry"]["path"], world.path("x/y/f"));
    assert_eq!(
        call(
            "Move",
            json!({"source": world.path("d/f"), "destination": world.path("g")})
        )
        .unwrap_err()
        .0,
        "not_found"
    );
    call("Remove", json!({"path": world.path("x")})).unwrap();
    call("Remove", json!({"path": world.path("x")})).unwrap();
    assert_eq!(
        call("Stat", json!({"path": world.path("x")}))
            .unwrap_err()
            .0,
        "not_found"
    );
    assert_eq!(
        call("Stat", json!({"path": "a\u{0}b"})).unwrap_err().0,
        "invalid_argument"
    );
}

#[test]
fn links_show_what_they_lead_to() {
    let world = World::new();
    world.upload(&world.path("target"), b"x");
    std::os::unix::fs::symlink(world.path("target"), world.path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", world.path("broken")).unwrap();
    let stat = |name: &str| {
        world
            .call(
                "filesystem.Filesystem/Stat",
                &json!({"path": world.path(name)}),
            )
            .unwrap()["entry"]
            .clone()
    };
    assert_eq!(stat("link")["type"], "FILE_TYPE_FILE");
    assert_eq!(stat("link")["permissions"], "Lrwxrwxrwx");
    let target = std::fs::canonicalize(world.path("target")).unwrap();
    assert_eq!(
        stat("link")["symlinkTarget"],
        target.to_string_lossy().as_ref()
    );
    assert!(stat("broken")["type"].is_null());
}

#[test]
fn a_new_file_is_three_events() {
    let world = World::new();
    let watch = json!({"path": world.path(""), "includeEntry": true});
    let mut stream = Stream::open(
        world.address,
        "/filesystem.Filesystem/WatchDir",
        &[],
        &[watch],
    );
    assert_eq!(stream.next().unwrap(), json!({"start": {}}));
    world.upload(&world.path("new"), b"content");
    std::fs::remove_file(world.path("new")).unwrap();
    for kind in ["CREATE", "CHMOD", "WRITE", "REMOVE"] {
        let event = stream.next().unwrap()["filesystem"].clone();
        assert_eq!(
            (&event["name"], &event["type"]),
            (&json!("new"), &json!(format!("EVENT_TYPE_{kind}")))
        );
        if kind == "REMOVE" {
            assert!(event["entry"].is_null(), "{event}");
        }
    }
    let file = json!({"path": "/etc/passwd"});
    let mut refused = Stream::open(
        world.address,
        "/filesystem.Filesystem/WatchDir",
        &[],
        &[file],
    );
    assert_eq!(
        refused.next().unwrap_err()["error"]["code"],
        "invalid_argument"
    );
}

#[test]
fn a_recursive_watch_grows_and_follows_moves() {
    let world = World::new();
    let call =
        |method: &str, body: Value| world.call(&format!("filesystem.Filesystem/{method}"), &body);
    let id = call(
        "CreateWatcher",
        json!({"path": world.path(""), "recursive": true}),
    )
    .unwrap()["watcherId"]
        .clone();
    let mut seen = Vec::new();
    let mut saw = |name: &str, kind: &str| {
        wait_for(&format!("{kind} of {name}"), || {
            let events =
                call("GetWatcherEvents", json!({"watcherId": id})).unwrap()["events"].clone();
            seen.extend(events.as_array().cloned().unwrap_or_default());
            seen.contains(&json!({"name": name, "type": format!("EVENT_TYPE_{kind}")}))
        });
    };
    std::fs::create_dir_all(world.path("a/b/c")).unwrap();
    saw("a/b/c", "CREATE");
    std::fs::write(world.path("a/b/c/f"), "x").unwrap();
    saw("a/b/c/f", "WRITE");
    std::fs::rename(world.path("a/b"), world.path("moved")).unwrap();
    saw("a/b", "RENAME");
    saw("moved", "CREATE");
    std::fs::write(world.path("moved/c/g"), "x").unwrap();
    saw("moved/c/g", "WRITE");
    call("RemoveWatcher", json!({"watcherId": id})).unwrap();
    let gone = call("GetWatcherEvents", json!({"watcherId": id})).unwrap_err();
    assert_eq!(gone.0, "not_found");
}

#[test]
fn binary_messages_are_spoken_too() {
    let world = World::new();
    let path = world.path("");
    // Field 1, a text: the path.
    let mut message = vec![0x0a, u8::try_from(path.len()).unwrap()];
    message.extend(path.as_bytes());
    let headers = [("Content-Type", "application/proto")];
    let answer = http::send(
        world.address,
        "POST",
        "/filesystem.Filesystem/Stat",
        &headers,
        &message,
    );
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/proto"))
    );
    assert!(
        answer
            .body
            .windows(path.len())
            .any(|window| window == path.as_bytes())
    );
}
