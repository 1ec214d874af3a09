//! Builds a sandbox's file system tree, from the supervisor, inside the sandbox's mount namespace.
//!
//! The supervisor enters the namespace with the host's root privileges, because overlayfs over
//! ID-mapped layers and device nodes need them, and leaves it again before any guest code runs.
//!
//! What needs no knowledge of the sandbox is built ahead on a staging tmpfs ([`Stage::prepare`]):
//! `/dev`, `/run` and `/sys`. [`Stage::assemble`] adds the root file system and moves everything
//! into place. All names inside the root are resolved with the root as the ceiling, so a symbolic
//! link in a template cannot lead to the host's tree, which is gone altogether once the root is
//! pivoted.
//!
//! On disk, ids are canonical (root is 0) in template layers and in the writable layer; ID-mapped
//! mounts shift them into the sandbox's own range.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, mkdirat, mknodat, open,
    openat, openat2, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, move_mount,
    open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use atoll_jail::spec::{MAX_LAYERS, MAX_OVERLAYS, Overlay};

use crate::error::{Context, Result, failure};
use crate::sys;

/// Device nodes of `/dev`: name, major, minor. All are safe to share: none holds state.
const DEVICES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Symbolic links of `/dev`.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Group `tty` in every common distribution; owns terminals, so that `mesg` and `write` work.
const TTY_GROUP: u32 = 5;

/// Subdirectory names of `/sys` that are hidden: firmware tables identify the machine.
const HIDDEN_IN_SYS: &[&str] = &["firmware"];

const DIRECTORY: Mode = Mode::from_raw_mode(0o755);

/// The file system tree under construction.
#[derive(Debug)]
pub(crate) struct Stage {
    host_namespace: OwnedFd,
    guest_namespace: OwnedFd,
    /// The staging tmpfs.
    root: OwnedFd,
    uid_base: u32,
}

/// An option of a file system, by name and value.
type FsOption<'a> = (&'a str, &'a str);

impl Stage {
    /// Enters the mount namespace of `pid`, builds what every sandbox has, and leaves it again.
    pub(crate) fn prepare(pid: i32, staging: &Path, uid_base: u32) -> Result<Self> {
        let namespace = |path: &str| {
            open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context("open namespace")
        };
        let host_namespace = namespace("/proc/self/ns/mnt")?;
        let guest_namespace = namespace(&format!("/proc/{pid}/ns/mnt"))?;
        enter(&guest_namespace)?;
        let built = build_stage(staging, uid_base);
        enter(&host_namespace)?;
        Ok(Self {
            host_namespace,
            guest_namespace,
            root: built?,
            uid_base,
        })
    }

    /// Adds the root file system and makes it the root of the sandbox's mount namespace.
    pub(crate) fn assemble(
        self,
        overlays: &[Overlay],
        disk: BorrowedFd<'_>,
        user_namespace: BorrowedFd<'_>,
    ) -> Result<()> {
        // Layers are opened in the host's namespace: they may have been mounted after the
        // sandbox's one was copied.
        let layers = open_layers(overlays, user_namespace)?;
        make_disk_directories(disk, overlays.len())?;
        sys::mount_set_attributes(
            disk,
            sys::ATTR_NODEV | sys::ATTR_NOSUID,
            Some(user_namespace),
        )
        .context("map ids of the disk")?;
        enter(&self.guest_namespace)?;
        // Overlayfs works with the credentials of its mounter: they must be valid owners in the
        // mapped layers, which the host's root is not.
        let done = sys::set_fs_ids(self.uid_base, self.uid_base)
            .context("set file system ids")
            .and_then(|()| self.assemble_inside(overlays, &layers, disk));
        sys::set_fs_ids(0, 0).context("reset file system ids")?;
        enter(&self.host_namespace)?;
        done
    }

    fn assemble_inside(
        &self,
        overlays: &[Overlay],
        layers: &[Vec<OwnedFd>],
        disk: BorrowedFd<'_>,
    ) -> Result<()> {
        fchdir(&self.root).context("enter staging")?;
        self.make_directory("disk")?;
        attach(disk, CWD, "disk").context("attach disk")?;
        let mut root = None;
        for (index, (overlay, layers)) in overlays.iter().zip(layers).enumerate() {
            let name = self.mount_overlay(index, layers)?;
            let Some(root) = &root else {
                root = Some(self.open_path(&name)?);
                continue;
            };
            let target = directory_within(root.as_fd(), &overlay.mount_point)?;
            self.move_to(&name, target.as_fd())?;
        }
        let root = root.ok_or_else(|| failure("mount root", "no overlay given"))?;
        for name in ["dev", "run", "sys"] {
            let target = directory_within(root.as_fd(), Path::new(name))?;
            self.move_to(name, target.as_fd())?;
        }
        fchdir(&root).context("enter root")?;
        pivot_root(".", ".").context("pivot root")?;
        // The old root lies over the new one now; what is mounted in it goes with it.
        unmount(".", UnmountFlags::DETACH).context("detach old root")?;
        chdir("/").context("enter new root")
    }

    /// Mounts one overlay on the stage and answers its name there.
    fn mount_overlay(&self, index: usize, layers: &[OwnedFd]) -> Result<String> {
        let mut names = Vec::with_capacity(layers.len());
        for (position, layer) in layers.iter().enumerate() {
            let name = format!("l{index}.{position}");
            self.make_directory(&name)?;
            attach(layer.as_fd(), CWD, &name).context("attach layer")?;
            names.push(name);
        }
        let name = format!("m{index}");
        self.make_directory(&name)?;
        // Nothing that runs survives the machine, so the guest need not wait for the host's disk:
        // `volatile`. What is kept beyond that is synced as a whole, below the overlay.
        let options = format!(
            "lowerdir={},upperdir=disk/u{index},workdir=disk/w{index},volatile,redirect_dir=on",
            names.join(":")
        );
        let options = CString::new(options).expect("made of our own names");
        mount(
            c"overlay",
            &name,
            c"overlay",
            MountFlags::NODEV,
            options.as_c_str(),
        )
        .with_context(|| format!("mount overlay {index}"))?;
        Ok(name)
    }

    fn make_directory(&self, name: &str) -> Result<()> {
        mkdirat(&self.root, name, DIRECTORY).with_context(|| format!("make staging `{name}`"))
    }

    fn open_path(&self, name: &str) -> Result<OwnedFd> {
        open_directory(&self.root, name).with_context(|| format!("open staging `{name}`"))
    }

    fn move_to(&self, name: &str, target: BorrowedFd<'_>) -> Result<()> {
        move_mount(
            &self.root,
            name,
            target,
            "",
            MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
        )
        .with_context(|| format!("move `{name}` into place"))
    }
}

fn enter(namespace: &OwnedFd) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .context("enter mount namespace")
}

/// Makes the staging tmpfs with `/dev`, `/run` and `/sys` mounted on it.
fn build_stage(staging: &Path, uid_base: u32) -> Result<OwnedFd> {
    let stage = new_mount("tmpfs", &[("mode", "700")], MountAttrFlags::empty())?;
    attach(stage.as_fd(), CWD, staging).context("attach staging")?;
    // The detached mount's descriptor stays valid as its root directory.
    for name in ["dev", "run", "sys", "empty"] {
        mkdirat(&stage, name, DIRECTORY).context("make staging directory")?;
    }
    let owner = uid_base.to_string();
    build_dev(stage.as_fd(), uid_base)?;
    let run = new_mount(
        "tmpfs",
        &[
            ("mode", "755"),
            ("size", "64m"),
            ("uid", &owner),
            ("gid", &owner),
        ],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    )?;
    attach(run.as_fd(), &stage, "run").context("attach run")?;
    build_sys(stage.as_fd())?;
    Ok(stage)
}

fn build_dev(stage: BorrowedFd<'_>, uid_base: u32) -> Result<()> {
    let owner = uid_base.to_string();
    let terminal_group = (uid_base + TTY_GROUP).to_string();
    let no_exec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev = new_mount(
        "tmpfs",
        &[
            ("mode", "755"),
            ("size", "64k"),
            ("uid", &owner),
            ("gid", &owner),
        ],
        no_exec,
    )?;
    attach(dev.as_fd(), stage, "dev").context("attach dev")?;
    let give = |name: &str| {
        let (uid, gid) = (Uid::from_raw(uid_base), Gid::from_raw(uid_base));
        chownat(&dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).context("own device")
    };
    for (name, major, minor) in DEVICES {
        let number = rustix::fs::makedev(*major, *minor);
        mknodat(
            &dev,
            *name,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            number,
        )
        .with_context(|| format!("make device `{name}`"))?;
        give(name)?;
    }
    for (name, target) in DEVICE_LINKS {
        symlinkat(*target, &dev, *name).context("link device")?;
        give(name)?;
    }
    for name in ["pts", "shm", "mqueue"] {
        mkdirat(&dev, name, DIRECTORY).context("make device directory")?;
        give(name)?;
    }
    let terminals = new_mount(
        "devpts",
        &[
            ("mode", "620"),
            ("ptmxmode", "666"),
            ("gid", &terminal_group),
        ],
        no_exec,
    )?;
    attach(terminals.as_fd(), &dev, "pts").context("attach devpts")?;
    // Bounded by the sandbox's memory limit: its pages are charged to it.
    let shared = new_mount(
        "tmpfs",
        &[("mode", "1777"), ("uid", &owner), ("gid", &owner)],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    )?;
    attach(shared.as_fd(), &dev, "shm").context("attach shm")
}

fn build_sys(stage: BorrowedFd<'_>) -> Result<()> {
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let sys = new_mount("sysfs", &[], attributes)?;
    attach(sys.as_fd(), stage, "sys").context("attach sys")?;
    for name in HIDDEN_IN_SYS {
        let empty = clone_mount(stage, "empty").context("clone empty directory")?;
        sys::mount_set_attributes(empty.as_fd(), sys::ATTR_RDONLY, None).context("hide in sys")?;
        match attach(empty.as_fd(), &sys, *name) {
            // Not every kernel has it.
            Err(Errno::NOENT) => {}
            other => other.with_context(|| format!("hide `{name}` in sys"))?,
        }
    }
    Ok(())
}

/// Opens every layer as an ID-mapped, read-only, detached mount.
fn open_layers(overlays: &[Overlay], user_namespace: BorrowedFd<'_>) -> Result<Vec<Vec<OwnedFd>>> {
    let layers: usize = overlays
        .iter()
        .map(|overlay| overlay.lower_dirs.len())
        .sum();
    if overlays.len() > MAX_OVERLAYS || layers > MAX_LAYERS {
        return Err(failure("open layers", "too many layers"));
    }
    let open_layer = |path: &std::path::PathBuf| {
        let name = || format!("layer `{}`", path.display());
        let layer = clone_mount(CWD, path).with_context(name)?;
        sys::mount_set_attributes(
            layer.as_fd(),
            sys::ATTR_RDONLY | sys::ATTR_NODEV,
            Some(user_namespace),
        )
        .with_context(name)?;
        Ok(layer)
    };
    overlays
        .iter()
        .map(|overlay| overlay.lower_dirs.iter().map(open_layer).collect())
        .collect()
}

/// Makes the upper and work directories, before ids are mapped: the host's root has no id on the
/// mapped disk. A disk that was used before has them, and is taken as it is.
fn make_disk_directories(disk: BorrowedFd<'_>, overlays: usize) -> Result<()> {
    for index in 0..overlays {
        for kind in ["u", "w"] {
            match mkdirat(disk, format!("{kind}{index}"), DIRECTORY) {
                Err(Errno::EXIST) => {}
                other => other.context("make disk directory")?,
            }
        }
        forget_volatile(disk, index).context("reuse disk")?;
    }
    Ok(())
}

/// Removes the mark of an earlier volatile mount, with which overlayfs refuses another one: what is
/// on the disk may be old. Here it is not, because a disk that is kept was synced as a whole. The
/// work directory is not reachable from inside, so nothing of these paths is the guest's.
fn forget_volatile(disk: BorrowedFd<'_>, index: usize) -> std::result::Result<(), Errno> {
    let mark = [
        ("volatile/dirty", AtFlags::empty()),
        ("volatile", AtFlags::REMOVEDIR),
    ];
    for (name, kind) in mark {
        match unlinkat(disk, format!("w{index}/work/incompat/{name}"), kind) {
            Err(Errno::NOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// A new instance of a file system, not yet attached anywhere.
pub(crate) fn new_mount(
    kind: &str,
    options: &[FsOption<'_>],
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let make = || -> std::result::Result<OwnedFd, Errno> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (name, value) in options {
            fsconfig_set_string(context.as_fd(), *name, *value)?;
        }
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().with_context(|| format!("make {kind}"))
}

/// Attaches a detached mount.
pub(crate) fn attach(
    mount: BorrowedFd<'_>,
    directory: impl AsFd,
    name: impl rustix::path::Arg,
) -> std::result::Result<(), Errno> {
    move_mount(
        mount,
        "",
        directory.as_fd(),
        name,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// A detached copy of what `path` shows, without what is mounted below it.
pub(crate) fn clone_mount(
    directory: impl AsFd,
    path: impl rustix::path::Arg,
) -> std::result::Result<OwnedFd, Errno> {
    open_tree(
        directory.as_fd(),
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
}

fn open_directory(directory: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::empty())?)
}

/// Opens a directory inside `root`, with `root` as the ceiling, and makes its last part if missing.
fn directory_within(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let open_within = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(root, path, flags, Mode::empty(), resolve)
    };
    let step = || format!("mount point `{}`", path.display());
    match open_within(path) {
        Err(Errno::NOENT) => {}
        other => return other.with_context(step),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failure(&step(), "not a path below the root"));
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let parent = open_within(parent).with_context(step)?;
    mkdirat(&parent, name, DIRECTORY).with_context(step)?;
    open_within(path).with_context(step)
}
