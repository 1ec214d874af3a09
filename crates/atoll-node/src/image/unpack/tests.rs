//! Small archives, honest and hostile.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// An archive of these entries: kind, path, content or link target. Names are written as they are.
fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        let id = if rustix::process::geteuid().is_root() {
            33
        } else {
            0
        };
        header.set_uid(id);
        header.set_gid(id);
        header.set_mode(0o4755);
        header.set_mtime(1_000_000_000);
        let data = if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            ""
        } else {
            content
        };
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const SYMLINK: EntryType = EntryType::Symlink;
const LINK: EntryType = EntryType::Link;

struct World {
    dir: tempfile::TempDir,
    budget: Budget,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        Self {
            dir,
            budget: Budget::new(Limits {
                max_bytes: 1000,
                max_entries: 100,
            }),
        }
    }

    fn unpack(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let tree = Tree::open(&self.root()).unwrap();
        unpack(bytes, &tree, &mut self.budget)
    }

    fn layer(&mut self, entries: &[(EntryType, &str, &str)]) {
        self.unpack(&archive(entries)).unwrap();
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root().join(path)).ok()
    }

    /// Everything outside the root: nothing, whatever an archive tries.
    fn outside(&self) -> usize {
        std::fs::read_dir(self.dir.path()).unwrap().count() - 1
    }
}

#[test]
fn entries_keep_owner_mode_and_time() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root may give files away");
        return;
    }
    let mut world = World::new();
    world.layer(&[
        (DIR, "./", ""),
        (FILE, "a/b/file", "text"),
        (SYMLINK, "a/link", "b/file"),
        (LINK, "a/hard", "a/b/file"),
        (EntryType::Char, "dev/null", ""),
    ]);
    let metadata = std::fs::metadata(world.root().join("a/b/file")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (33, 33));
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o4755);
    assert_eq!(metadata.mtime(), 1_000_000_000);
    assert_eq!(metadata.nlink(), 2);
    assert_eq!(world.text("a/link").as_deref(), Some("text"));
    assert!(!world.root().join("dev/null").exists());
    // Directories that the archive does not mention are open to all.
    let implied = std::fs::metadata(world.root().join("a/b")).unwrap();
    assert_eq!(implied.permissions().mode() & 0o7777, 0o755);
}

#[test]
fn every_compression_is_recognised() {
    let plain = archive(&[(FILE, "f", "x")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut gzip, &plain).unwrap();
    let packed = [
        plain.clone(),
        gzip.finish().unwrap(),
        zstd::encode_all(&*plain, 1).unwrap(),
    ];
    for bytes in packed {
        let mut world = World::new();
        world.unpack(&bytes).unwrap();
        assert_eq!(world.text("f").as_deref(), Some("x"));
        let cut = world.unpack(&bytes[..bytes.len() / 3]);
        assert!(matches!(
            cut,
            Err(UnpackError::Damaged(_) | UnpackError::Entry { .. })
        ));
    }
}

#[test]
fn whiteouts_remove_what_lower_layers_brought() {
    let mut world = World::new();
    world.layer(&[
        (FILE, "etc/gone", "1"),
        (FILE, "etc/kept", "1"),
        (FILE, "dir/old", "1"),
        (FILE, "dir/sub/old", "1"),
        (FILE, "tree/a/b", "1"),
    ]);
    world.layer(&[
        (FILE, "etc/.wh.gone", ""),
        (FILE, "etc/.wh.absent", ""),
        (FILE, "dir/new", "2"),
        (FILE, "dir/sub/new", "2"),
        // After what this layer brings itself, which stays.
        (FILE, "dir/.wh..wh..opq", ""),
        (FILE, ".wh.tree", ""),
    ]);
    let left = ["etc/gone", "dir/old", "dir/sub/old", "tree", "etc/.wh.gone"];
    assert!(left.iter().all(|path| !world.root().join(path).exists()));
    for path in ["etc/kept", "dir/new", "dir/sub/new"] {
        assert!(world.text(path).is_some(), "{path}");
    }
}

#[test]
fn later_layers_replace_one_kind_by_another() {
    let mut world = World::new();
    world.layer(&[
        (FILE, "one/inner", "1"),
        (FILE, "two", "1"),
        (SYMLINK, "three", "one"),
    ]);
    world.layer(&[(FILE, "one", "2")]);
    world.layer(&[
        (DIR, "two", ""),
        (FILE, "two/inner", "2"),
        (DIR, "three", ""),
    ]);
    assert_eq!(world.text("one").as_deref(), Some("2"));
    assert_eq!(world.text("two/inner").as_deref(), Some("2"));
    assert!(!world.root().join("three").is_symlink());
}

#[test]
fn nothing_is_written_outside() {
    for path in ["../evil", "a/../../evil", "a/.."] {
        let mut world = World::new();
        let result = world.unpack(&archive(&[(FILE, path, "x")]));
        assert!(matches!(result, Err(UnpackError::Entry { .. })), "{path}");
        assert_eq!(world.outside(), 0);
    }
    // Absolute names, and links upwards, mean places inside.
    let mut world = World::new();
    world.layer(&[
        (FILE, "/etc/name", "1"),
        (SYMLINK, "up", "../../../.."),
        (FILE, "up/through", "2"),
        (SYMLINK, "host", "/etc"),
        (FILE, "host/passwd", "3"),
    ]);
    assert_eq!(world.outside(), 0);
    assert_eq!(world.text("through").as_deref(), Some("2"));
    assert_eq!(world.text("etc/passwd").as_deref(), Some("3"));
}

#[test]
fn links_do_not_lead_out_either() {
    let mut world = World::new();
    let secret = world.dir.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let target = secret.to_str().unwrap().to_owned();
    // A hard link to a file of the host, by path and through a link.
    for entries in [
        vec![(LINK, "stolen", target.as_str())],
        vec![(LINK, "stolen", "../secret")],
        vec![(SYMLINK, "up", ".."), (LINK, "stolen", "up/secret")],
    ] {
        assert!(world.unpack(&archive(&entries)).is_err());
        assert_eq!(world.text("stolen"), None);
    }
    // A file written over a link replaces the link.
    world.layer(&[(SYMLINK, "out", &target), (FILE, "out", "mine")]);
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(world.text("out").as_deref(), Some("mine"));
    // A whiteout through a link stays inside as well.
    world.layer(&[(SYMLINK, "w", ".."), (FILE, "w/.wh.secret", "")]);
    assert!(secret.exists());
}

#[test]
fn limits_name_themselves() {
    let mut world = World::new();
    let large = "x".repeat(1001);
    let error = world.unpack(&archive(&[(FILE, "f", &large)])).unwrap_err();
    assert!(error.to_string().contains("max_bytes"), "{error}");
    assert_eq!(world.text("f"), None, "refused before it is written");
    let names: Vec<String> = (0..101).map(|number| format!("f{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| (FILE, name.as_str(), "")).collect();
    let error = World::new().unpack(&archive(&many)).unwrap_err();
    assert!(error.to_string().contains("max_entries"), "{error}");
}

#[test]
fn bookkeeping_cannot_fill_the_memory() {
    for kind in [
        EntryType::XHeader,
        EntryType::GNULongName,
        EntryType::GNULongLink,
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1 << 40);
        header.set_cksum();
        let endless = header.as_bytes().chain(io::repeat(b'x'));
        let tree = World::new();
        let mut budget = Budget::new(Limits::default());
        let tree = Tree::open(&tree.root()).unwrap();
        let error = unpack(endless, &tree, &mut budget).unwrap_err();
        assert!(matches!(error, UnpackError::Damaged(_)), "{error}");
    }
}

#[test]
fn real_tools_archives_pass_the_guard() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(90), "n".repeat(180));
    let path = dir.path().join("in").join(&long);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "deep").unwrap();
    for format in ["gnu", "pax", "posix"] {
        let output = std::process::Command::new("tar")
            .args(["--format", format, "--sparse", "-C"])
            .arg(dir.path().join("in"))
            .args(["-c", "."])
            .output();
        let Ok(output) = output else {
            println!("skipped: tar is not installed");
            return;
        };
        let mut world = World::new();
        world.unpack(&output.stdout).unwrap();
        assert_eq!(world.text(&long).as_deref(), Some("deep"), "{format}");
    }
}
