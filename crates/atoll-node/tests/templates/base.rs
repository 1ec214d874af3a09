//! The template made from the host, and the store around it.

use std::time::Instant;

use atoll_core::template::TemplateSource;
use atoll_node::image::TemplateStore;

use crate::world::{build, can_mount, ids, names, output, store};

#[test]
fn base_is_made_quickly_and_works() {
    if !can_mount() {
        return;
    }
    let (_dir, store) = store();
    let begun = Instant::now();
    let rootfs = build(&store, &TemplateSource::Host).unwrap();
    println!("base made in {:?}", begun.elapsed());
    assert!(begun.elapsed().as_secs() < 30);

    let id = output(&rootfs, "id user; getent passwd user");
    assert!(id.contains("uid=1000(user) gid=1000(user)"), "{id}");
    assert!(id.contains("sudo"), "{id}");
    assert!(
        id.contains("user:x:1000:1000::/home/user:/bin/bash"),
        "{id}"
    );
    assert_eq!(
        output(&rootfs, "stat -c %u:%g:%a /home/user"),
        "1000:1000:755\n"
    );
    assert_eq!(
        output(&rootfs, "stat -c %a /tmp /root /"),
        "1777\n700\n755\n"
    );
    let shadow = output(&rootfs, "cat /etc/shadow /etc/gshadow");
    let is_locked = |line: &str| line.split(':').nth(1) == Some("*");
    assert!(shadow.lines().all(is_locked), "{shadow}");
    let absent = "ls /etc/ssh /etc/ssl/private /root/.ssh /home/*/.ssh /etc/apt/auth.conf \
                  2>/dev/null; cat /etc/machine-id /etc/environment";
    assert_eq!(output(&rootfs, &format!("{absent}; true")), "");
    assert_eq!(output(&rootfs, "ls -A /home"), "user\n");
    if std::path::Path::new("/usr/bin/python3").exists() {
        assert_eq!(output(&rootfs, "python -c 'print(6*7)'"), "42\n");
        let tls = "import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 0)";
        assert_eq!(output(&rootfs, &format!("python3 -c '{tls}'")), "True\n");
    }
    if std::path::Path::new("/usr/bin/dpkg").exists() {
        assert!(output(&rootfs, "dpkg -s dpkg").contains("install ok installed"));
    }
    assert_eq!(output(&rootfs, "bash -lc 'cd ~; echo $0'"), "bash\n");
}

#[test]
fn a_build_is_there_once_complete_and_gone_once_removed() {
    let (dir, store) = store();
    let (template, build_id) = ids();
    assert_eq!(store.resolve(&template, &build_id), None);
    let first = build(&store, &TemplateSource::Host).unwrap();
    // Again is the same, at no cost.
    assert_eq!(build(&store, &TemplateSource::Host).unwrap(), first);
    assert_eq!(
        store.list().unwrap(),
        [(template.clone(), build_id.clone())]
    );

    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime
        .block_on(store.remove(&template, &build_id))
        .unwrap();
    runtime
        .block_on(store.remove(&template, &build_id))
        .unwrap();
    assert_eq!(store.resolve(&template, &build_id), None);
    assert_eq!(store.list().unwrap(), []);
    assert_eq!(names(&dir.path().join("templates")), [".partial"]);
    assert!(names(&dir.path().join("templates/.partial")).is_empty());
}

#[test]
fn what_a_crash_left_does_not_resolve_and_is_swept() {
    let (dir, store) = store();
    let (template, build_id) = ids();
    let dir = dir.path().join("templates");
    std::fs::create_dir_all(dir.join(".partial/build-7/root/etc")).unwrap();
    std::fs::create_dir_all(dir.join("t1/b1/root")).unwrap();
    assert_eq!(store.resolve(&template, &build_id), None);
    std::fs::write(dir.join("t1/b1/template.json"), "{\"format\":1,\"mou").unwrap();
    assert_eq!(store.resolve(&template, &build_id), None);
    TemplateStore::open(atoll_node::image::Config {
        dir: dir.clone(),
        sudo: None,
    })
    .unwrap();
    assert!(names(&dir.join(".partial")).is_empty());
}
