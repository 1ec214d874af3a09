//! The layouts that cannot be tried on one machine, on a tree of ordinary files.

use super::*;

const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
const V1: &str = "\
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw shared:6 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/pids rw shared:7 - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/freezer rw shared:8 - cgroup cgroup rw,freezer
35 30 0:31 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,name=systemd
36 30 0:32 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
37 22 8:1 / / rw shared:1 - ext4 /dev/vda rw";

const SIZE: Resources = Resources {
    cpu_millis: 1500,
    memory_mib: 512,
    disk_mib: 1024,
};

fn tree(controllers: &str, directories: &[&str]) -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    for directory in directories {
        let path = tree.path().join("sys/fs/cgroup").join(directory);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("cgroup.controllers"), controllers).unwrap();
    }
    tree
}

fn shown(settings: &[Setting], root: &Path) -> Vec<String> {
    let show = |setting: &Setting| {
        let path = setting.path.strip_prefix(root.join("sys/fs/cgroup"));
        format!("{}={}", path.unwrap().display(), setting.value)
    };
    settings.iter().map(show).collect()
}

#[test]
fn version_2_has_one_directory_and_its_controllers_delegated() {
    let tree = tree("cpuset cpu io memory pids", &[""]);
    let cgroups = Cgroups::open_in(tree.path(), V2, "x").unwrap();
    let base = tree.path().join("sys/fs/cgroup");
    let read = |path: &str| fs::read_to_string(base.join(path)).unwrap();
    // An ordinary file keeps the last write only.
    assert_eq!(read("cgroup.subtree_control"), "+pids");
    assert_eq!(read("atoll-x/cgroup.subtree_control"), "+pids");
    assert_eq!(
        cgroups.supervisor_procs(),
        [base.join("atoll-x/supervisors/cgroup.procs")]
    );
    cgroups.limit_memory(1 << 30).unwrap();
    assert_eq!(read("atoll-x/memory.max"), "1073741824");
    assert_eq!(cgroups.create(7).unwrap(), [base.join("atoll-x/cell-0007")]);
    assert_eq!(cgroups.cells().unwrap(), BTreeSet::from([7]));
    assert_eq!(
        shown(&cgroups.limits(7, SIZE), tree.path()),
        [
            "atoll-x/cell-0007/cpu.max=150000 100000",
            "atoll-x/cell-0007/memory.max=536870912",
            "atoll-x/cell-0007/memory.swap.max=0",
            "atoll-x/cell-0007/pids.max=4096",
        ]
    );
    for (file, content) in [
        ("memory.current", "4096\n"),
        ("memory.stat", "anon 1\nfile 2048\n"),
        ("cpu.stat", "usage_usec 77\nuser_usec 1\n"),
    ] {
        fs::write(base.join("atoll-x/cell-0007").join(file), content).unwrap();
    }
    let expected = Usage {
        cpu_us: 77,
        memory_bytes: 4096,
        cache_bytes: 2048,
    };
    assert_eq!(cgroups.usage(7).unwrap(), expected);
}

#[test]
fn a_hybrid_uses_version_1_for_limits_and_the_rest_for_supervisors() {
    let names = [
        "cpu,cpuacct",
        "memory",
        "pids",
        "freezer",
        "systemd",
        "unified",
    ];
    let tree = tree("", &names);
    let cgroups = Cgroups::open_in(tree.path(), V1, "x").unwrap();
    assert_eq!(cgroups.supervisor_procs().len(), 6);
    let directories = cgroups.create(12).unwrap();
    assert_eq!(directories.len(), 4);
    assert!(
        directories
            .iter()
            .all(|path| path.ends_with("atoll-x/cell-0012"))
    );
    assert_eq!(
        shown(&cgroups.limits(12, SIZE), tree.path()),
        [
            "cpu,cpuacct/atoll-x/cell-0012/cpu.cfs_quota_us=150000",
            "memory/atoll-x/cell-0012/memory.limit_in_bytes=536870912",
            "memory/atoll-x/cell-0012/memory.memsw.limit_in_bytes=536870912",
            "pids/atoll-x/cell-0012/pids.max=4096",
        ]
    );
    cgroups.remove(12).unwrap();
    assert!(cgroups.cells().unwrap().is_empty());
}

#[test]
fn a_missing_controller_is_named() {
    let tree = tree("cpu memory", &[""]);
    let error = Cgroups::open_in(tree.path(), V2, "x").unwrap_err();
    assert_eq!(error.to_string(), "no `pids` cgroup controller");
}
