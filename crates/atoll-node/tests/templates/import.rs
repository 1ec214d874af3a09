//! Templates from directories, archives, image layouts and Debian suites.

use std::error::Error as _;
use std::path::Path;

use atoll_core::template::TemplateSource;
use atoll_node::image::unpack::Limits;
use atoll_node::image::{Error, ImportConfig, RootFs};

use crate::image::{Image, archive};
use crate::world::{build, can_mount, ids, names, output, store};

fn text(rootfs: &RootFs, path: &str) -> Option<String> {
    std::fs::read_to_string(rootfs.mounts[0].lower_dirs[0].join(path)).ok()
}

/// What every imported template has.
fn assert_usable(rootfs: &RootFs) {
    assert_eq!(rootfs.mounts.len(), 1);
    assert_eq!(rootfs.mounts[0].mount_point, Path::new("/"));
    let passwd = text(rootfs, "etc/passwd").unwrap();
    assert!(passwd.contains("user:x:100"), "{passwd}");
    assert!(passwd.contains(":/home/user:/bin/"), "{passwd}");
    let root = &rootfs.mounts[0].lower_dirs[0];
    for dir in ["home/user", "tmp", "proc", "dev", "sys", "run"] {
        assert!(root.join(dir).is_dir(), "{dir}");
    }
    assert_eq!(text(rootfs, "etc/resolv.conf").as_deref(), Some(""));
}

/// All of an error's messages.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

/// A tool that was killed half-way left its mounts; the next start failed on them, and a removal
/// that entered them would have emptied what was mounted.
#[test]
fn what_is_mounted_in_a_half_made_template_is_let_go_of() {
    if !can_mount() {
        return;
    }
    let (dir, store) = store();
    let precious = dir.path().join("precious");
    let below = dir.path().join("templates/.partial/build-0/scratch/sys");
    std::fs::create_dir_all(&precious).unwrap();
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(precious.join("file"), "text").unwrap();
    rustix::mount::mount_bind(&precious, &below).unwrap();
    store.sweep().unwrap();
    assert!(precious.join("file").is_file());
    assert_eq!(names(&dir.path().join("templates/.partial")), [""; 0]);
}

/// A wrong name was answered like a defect of ours.
#[test]
fn a_source_that_is_not_there_is_its_authors_to_mend() {
    let (dir, store) = store();
    let absent = dir.path().join("absent");
    let file = dir.path().join("file");
    std::fs::write(&file, "neither archive nor layout").unwrap();
    for source in [
        TemplateSource::Directory(absent.clone()),
        TemplateSource::Tar(absent.clone()),
        TemplateSource::Tar(file.clone()),
        TemplateSource::OciLayout(absent),
        TemplateSource::OciLayout(file),
        TemplateSource::Image("NOT A REFERENCE".to_owned()),
        TemplateSource::Image("127.0.0.1:1/nobody/listens".to_owned()),
    ] {
        let error = build(&store, &source).unwrap_err();
        assert!(error.is_sources_fault(), "{source:?}: {}", chain(&error));
    }
}

#[test]
fn a_directory_becomes_a_template() {
    if !can_mount() {
        return;
    }
    let (dir, store) = store();
    let source = dir.path().join("source");
    std::fs::create_dir_all(source.join("srv/deep")).unwrap();
    std::fs::write(source.join("srv/deep/file"), "text").unwrap();
    std::fs::hard_link(source.join("srv/deep/file"), source.join("srv/again")).unwrap();
    std::os::unix::fs::symlink("deep", source.join("srv/link")).unwrap();
    std::os::unix::fs::chown(source.join("srv/deep/file"), Some(7), Some(8)).unwrap();
    let rootfs = build(&store, &TemplateSource::Directory(source)).unwrap();
    assert_usable(&rootfs);
    assert_eq!(text(&rootfs, "srv/link/file").as_deref(), Some("text"));
    let metadata = std::fs::metadata(rootfs.mounts[0].lower_dirs[0].join("srv/again")).unwrap();
    let found = std::os::unix::fs::MetadataExt::uid(&metadata);
    assert_eq!(
        (found, std::os::unix::fs::MetadataExt::nlink(&metadata)),
        (7, 2)
    );
}

#[test]
fn an_archive_becomes_a_template() {
    if !can_mount() {
        return;
    }
    let (dir, store) = store();
    let path = dir.path().join("root.tar.zst");
    let bytes = archive(&[("srv/file", "text"), ("etc/hosts", "own")]);
    std::fs::write(&path, zstd::encode_all(&*bytes, 3).unwrap()).unwrap();
    let rootfs = build(&store, &TemplateSource::Tar(path)).unwrap();
    assert_usable(&rootfs);
    assert_eq!(text(&rootfs, "srv/file").as_deref(), Some("text"));
    assert_eq!(text(&rootfs, "etc/hosts").as_deref(), Some("own"));
}

#[test]
fn an_image_layout_becomes_a_template() {
    if !can_mount() {
        return;
    }
    let (dir, store) = store();
    let layout = dir.path().join("layout");
    Image::new().write_layout(&layout);
    let rootfs = build(&store, &TemplateSource::OciLayout(layout)).unwrap();
    assert_usable(&rootfs);
    assert_eq!(text(&rootfs, "srv/old"), None);
    assert_eq!(text(&rootfs, "srv/kept").as_deref(), Some("kept"));
    assert_eq!(text(&rootfs, "srv/new").as_deref(), Some("new"));
    assert_eq!(rootfs.environment["A"], "b=c");
    assert_eq!(rootfs.working_dir.as_deref(), Some(Path::new("/srv")));
    assert_eq!(rootfs.user.as_deref(), Some("node"));
    let passwd = text(&rootfs, "etc/passwd").unwrap();
    assert!(passwd.contains("node:x:1000:"), "{passwd}");
    assert!(passwd.contains("user:x:1001:1001:"), "{passwd}");
}

#[test]
fn a_layer_that_was_tampered_with_is_refused_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let (dir, store) = store();
    let layout = dir.path().join("layout");
    let mut image = Image::new();
    for bytes in image.blobs.values_mut() {
        // Only the plain layer begins with a file name.
        if bytes.starts_with(b"srv/") {
            let at = bytes.windows(3).rposition(|w| w == b"new").unwrap();
            bytes[at..at + 3].copy_from_slice(b"bad");
        }
    }
    image.write_layout(&layout);
    let error = build(&store, &TemplateSource::OciLayout(layout)).unwrap_err();
    assert!(
        chain(&error).contains("does not match its digest"),
        "{}",
        chain(&error)
    );
    let (template, build_id) = ids();
    assert_eq!(store.resolve(&template, &build_id), None);
    assert!(names(&dir.path().join("templates/.partial")).is_empty());
}

#[test]
fn limits_and_missing_sources_are_named() {
    if !can_mount() {
        return;
    }
    let (dir, store) = store();
    let path = dir.path().join("large.tar");
    std::fs::write(&path, archive(&[("f", &"x".repeat(2000))])).unwrap();
    let limits = Limits {
        max_bytes: 1000,
        max_entries: 10,
    };
    let small = store.clone().with_import(ImportConfig {
        limits,
        ..ImportConfig::default()
    });
    let error = build(&small, &TemplateSource::Tar(path)).unwrap_err();
    assert!(chain(&error).contains("max_bytes"), "{}", chain(&error));
    for source in [
        TemplateSource::Tar("/nowhere.tar".into()),
        TemplateSource::Directory("/nowhere".into()),
        TemplateSource::OciLayout("/nowhere".into()),
    ] {
        let error = build(&store, &source).unwrap_err();
        assert!(chain(&error).contains("nowhere"), "{}", chain(&error));
    }
    assert!(names(&dir.path().join("templates/.partial")).is_empty());
}

#[test]
fn a_debian_suite_becomes_a_template() {
    let is_installed = Path::new("/usr/bin/mmdebstrap").exists();
    if !can_mount() || !is_installed {
        println!("skipped: needs root and mmdebstrap");
        return;
    }
    let (_dir, store) = store();
    let begun = std::time::Instant::now();
    let source = TemplateSource::Debian {
        suite: "bookworm".to_owned(),
        packages: vec!["iputils-ping".to_owned()],
    };
    let rootfs = match build(&store, &source) {
        Ok(rootfs) => rootfs,
        Err(error) if chain(&error).contains("Temporary failure resolving") => {
            println!("skipped: no network: {}", chain(&error));
            return;
        }
        Err(error) => panic!("{}", chain(&error)),
    };
    println!("bookworm made in {:?}", begun.elapsed());
    assert_usable(&rootfs);
    let sudo = output(&rootfs, "su user -c 'sudo -n id -u'");
    assert_eq!(sudo, "0\n");
    let capability = output(
        &rootfs,
        "getcap /bin/ping 2>/dev/null || stat -c %a /bin/ping",
    );
    assert!(capability.contains("cap_net_raw") || capability == "4755\n" || capability == "755\n");
    assert!(output(&rootfs, "dpkg -l").contains("iputils-ping"));
}

#[test]
fn names_that_are_none_do_not_reach_the_tool() {
    let (_dir, store) = store();
    for (suite, package) in [
        ("--customize-hook=x", "curl"),
        ("bookworm", "a,b"),
        ("../x", "curl"),
    ] {
        let source = TemplateSource::Debian {
            suite: suite.to_owned(),
            packages: vec![package.to_owned()],
        };
        let error = build(&store, &source).unwrap_err();
        assert!(chain(&error).contains("is not a name"), "{}", chain(&error));
    }
}
