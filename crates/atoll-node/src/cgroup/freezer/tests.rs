//! Both versions, on a tree of ordinary files. The real thing is in the jail's tests.

use super::*;

const TWO_ONLY: &str = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw";
const ONE_WITH: &str = "\
31 30 0:27 / /sys/fs/cgroup/limits rw shared:5 - cgroup cgroup rw,cpu,memory,pids
34 30 0:30 / /sys/fs/cgroup/freezer rw shared:8 - cgroup cgroup rw,freezer
36 30 0:32 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw";
const ONE_WITHOUT: &str = "\
31 30 0:27 / /sys/fs/cgroup/limits rw shared:5 - cgroup cgroup rw,cpu,memory,pids
36 30 0:32 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw";

/// The groups of a machine, and the directory of cell 3 in which it is frozen.
fn machine(
    mounts: &str,
    controllers: &str,
    freezer: &str,
) -> (tempfile::TempDir, Cgroups, PathBuf) {
    let tree = tempfile::tempdir().unwrap();
    let base = tree.path().join("sys/fs/cgroup");
    for name in ["", "limits", "freezer", "unified"] {
        fs::create_dir_all(base.join(name)).unwrap();
        fs::write(base.join(name).join("cgroup.controllers"), controllers).unwrap();
    }
    let cgroups = Cgroups::open_in(tree.path(), mounts, "x").unwrap();
    let directories = cgroups.create(3).unwrap();
    let directory = base.join(freezer).join("atoll-x/cell-0003");
    assert!(directories.contains(&directory), "{directories:?}");
    (tree, cgroups, directory)
}

#[test]
fn version_1_is_frozen_in_its_own_hierarchy() {
    let (_tree, cgroups, directory) = machine(ONE_WITH, "", "freezer");
    let state = directory.join("freezer.state");
    fs::write(&state, "THAWED\n").unwrap();
    assert!(!cgroups.is_frozen(3));
    // An ordinary file answers what was written.
    fs::write(&state, "").unwrap();
    cgroups.freeze(3).unwrap();
    assert!(cgroups.is_frozen(3));
    cgroups.thaw(3).unwrap();
    assert_eq!(fs::read_to_string(&state).unwrap(), "THAWED");
    assert!(!cgroups.is_frozen(3));
}

#[test]
fn version_2_is_frozen_by_its_group_with_limits_there_or_elsewhere() {
    for (mounts, controllers, place) in [
        (TWO_ONLY, "cpu memory pids", ""),
        (ONE_WITHOUT, "", "unified"),
    ] {
        let (_tree, cgroups, directory) = machine(mounts, controllers, place);
        assert!(cgroups.can_freeze());
        let order = directory.join("cgroup.freeze");
        fs::write(&order, "").unwrap();
        fs::write(directory.join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        cgroups.freeze(3).unwrap();
        assert_eq!(fs::read_to_string(&order).unwrap(), "1");
        cgroups.thaw(3).unwrap();
        assert_eq!(fs::read_to_string(&order).unwrap(), "0");
    }
}

#[test]
fn what_does_not_stop_in_time_goes_on() {
    let (_tree, cgroups, directory) = machine(TWO_ONLY, "cpu memory pids", "");
    fs::write(directory.join("cgroup.freeze"), "0").unwrap();
    fs::write(directory.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
    let error = cgroups.freeze_within(3, 3).unwrap_err();
    assert!(error.to_string().contains("cell-0003"), "{error}");
    let order = fs::read_to_string(directory.join("cgroup.freeze")).unwrap();
    assert_eq!(order, "0");
}

#[test]
fn a_cell_that_is_gone_is_thawed_and_not_frozen() {
    let (_tree, cgroups, directory) = machine(ONE_WITH, "", "freezer");
    fs::remove_dir(&directory).unwrap();
    cgroups.thaw(3).unwrap();
    assert!(!cgroups.is_frozen(3));
    cgroups.freeze(3).unwrap_err();
}
