//! Mounting a root file system and running programs in it, in a mount namespace that ends with the
//! test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use atoll_core::id::{BuildId, TemplateId};
use atoll_core::template::TemplateSource;
use atoll_node::image::{Config, Error, Log, RootFs, TemplateStore};

/// A store in a folder of its own.
pub(crate) fn store() -> (tempfile::TempDir, TemplateStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = TemplateStore::open(Config {
        dir: dir.path().join("templates"),
        sudo: None,
    })
    .unwrap();
    (dir, store)
}

/// Some template and build.
pub(crate) fn ids() -> (TemplateId, BuildId) {
    ("t1".parse().unwrap(), "b1".parse().unwrap())
}

/// Builds and resolves.
pub(crate) fn build(store: &TemplateStore, source: &TemplateSource) -> Result<RootFs, Error> {
    let (template, build) = ids();
    let log: Log = Arc::new(|line: &str| println!("{line}"));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(store.build(&template, &build, source, log))?;
    Ok(store.resolve(&template, &build).unwrap())
}

/// Whether tests that mount can run; says why not.
pub(crate) fn can_mount() -> bool {
    let can = rustix::process::geteuid().is_root();
    if !can {
        println!("skipped: needs root to mount");
    }
    can
}

/// Mounts the root file system with a writable layer, and runs a shell script in it.
pub(crate) fn run_in(rootfs: &RootFs, script: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut setup = String::from("set -e\n");
    for name in ["scratch", "root"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let scratch: PathBuf = dir.path().join("scratch");
    setup.push_str(&format!("mount -t tmpfs none {}\n", scratch.display()));
    for (number, mount) in rootfs.mounts.iter().enumerate() {
        let lower: Vec<String> = mount
            .lower_dirs
            .iter()
            .map(|dir| dir.display().to_string())
            .collect();
        let inside = mount.mount_point.strip_prefix("/").unwrap();
        let layer = scratch.join(number.to_string());
        setup.push_str(&format!(
            "mkdir -p {0}/up {0}/work; chmod 755 {0}/up\n\
             mount -t overlay none -o lowerdir={1},upperdir={0}/up,workdir={0}/work {2}\n",
            layer.display(),
            lower.join(":"),
            dir.path().join("root").join(inside).display(),
        ));
    }
    let root = dir.path().join("root");
    setup.push_str(&format!(
        "mount --bind /dev {0}/dev; mount -t proc proc {0}/proc\n\
         exec chroot {0} /bin/sh -c \"$1\"\n",
        root.display()
    ));
    Command::new("unshare")
        .args(["--mount", "sh", "-c", &setup, "sh", script])
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .output()
        .unwrap()
}

/// The output of a script that must succeed.
pub(crate) fn output(rootfs: &RootFs, script: &str) -> String {
    let output = run_in(rootfs, script);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Names below a directory, for messages.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
