//! The template made from the host's own system directories.
//!
//! `/usr` is not copied: it is the lower layer of an overlay of its own, under a small layer of the
//! template with what the host lacks (`python`, `sudo`). The root layer is written anew: links and
//! empty directories, accounts, and of the host's `/etc` only what [`ETC`] names, which programs
//! need and which is public on any machine. A file that not everybody may read, or that holds a
//! private key, is left out even if it is named.
//!
//! What lies in `/usr` (also `/usr/local`) is visible in sandboxes. Nothing of `/home`, `/root`,
//! `/srv`, `/mnt` and `/var` is, except the package database, so that packages can be installed.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::account;
use super::setup;
use super::tree::{Extra, Meta, Tree};
use super::{Layer, Mount};

/// What is taken from the host's `/etc`: files and whole directories.
const ETC: &[&str] = &[
    "adduser.conf",
    "alternatives",
    "apt/keyrings",
    "apt/trusted.gpg.d",
    "bash.bashrc",
    "bindresvport.blacklist",
    "ca-certificates.conf",
    "crypto-policies",
    "debconf.conf",
    "debian_version",
    "deluser.conf",
    "dpkg",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "login.defs",
    "lsb-release",
    "magic",
    "magic.mime",
    "mime.types",
    "mke2fs.conf",
    "networks",
    "nsswitch.conf",
    "os-release",
    "pam.conf",
    "pam.d",
    "pki/ca-trust/extracted",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "profile",
    "protocols",
    "redhat-release",
    "rpc",
    "security/limits.conf",
    "security/namespace.conf",
    "security/pam_env.conf",
    "services",
    "shells",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "subuid",
    "timezone",
    "xattr.conf",
];
/// Directories of language runtimes in `/etc`, by the beginning of their names.
const ETC_PREFIXES: &[&str] = &["java-", "perl", "python"];
/// Directories of `/` that hold programs: links on most distributions, directories of their own on
/// some.
const PROGRAM_DIRS: [&str; 6] = ["bin", "lib", "lib32", "lib64", "libx32", "sbin"];
/// Programs that sandboxes are expected to have where the host has them at all.
const TOOLS: [&str; 3] = ["python3", "node", "git"];
/// Largest file taken from `/etc`; the certificate bundle is a fifth of a mebibyte.
const MAX_ETC_FILE: u64 = 4 * 1024 * 1024;
/// Largest file taken from the package database.
const MAX_PACKAGE_FILE: u64 = 64 * 1024 * 1024;
/// Packages ask it before they start a service; 101 forbids it. A sandbox has no init system.
const POLICY_RC: &str = "#!/bin/sh\nexit 101\n";
/// Most entries taken from one directory of the host, as a guard against a link that leads astray.
const MAX_ENTRIES: usize = 100_000;
/// The package database of Debian and its kin.
const DPKG: &str = "var/lib/dpkg";

/// What the template is made of.
#[derive(Debug)]
pub(super) struct Host<'a> {
    /// `/`, or a stand-in in tests.
    pub(super) root: &'a Path,
    /// Where programs are looked for, as in `PATH`.
    pub(super) path: Vec<PathBuf>,
    /// A program that acts as `sudo` under that name, for hosts that have none.
    pub(super) sudo: Option<&'a Path>,
}

/// Writes the template's own layers into `build`, and says how they are put together.
pub(super) fn build(host: &Host<'_>, build: &Path, log: &dyn Fn(&str)) -> io::Result<Vec<Mount>> {
    for layer in ["root", "usr"] {
        fs::create_dir(build.join(layer))?;
        fs::set_permissions(build.join(layer), fs::Permissions::from_mode(0o755))?;
    }
    let root = Tree::open(&build.join("root"))?;
    let usr = Tree::open(&build.join("usr"))?;
    let mut mounts = vec![
        Mount {
            mount_point: "/".into(),
            layers: vec![Layer::Own("root".into())],
        },
        Mount {
            mount_point: "/usr".into(),
            layers: vec![Layer::Own("usr".into()), Layer::Host(host.root.join("usr"))],
        },
    ];
    setup::skeleton(&root)?;
    root.dir("usr", Meta::root(0o755))?;
    program_dirs(host, &root, &mut mounts)?;
    etc(host, &root)?;
    accounts(host, &root)?;
    setup::settings(&root)?;
    package_database(host, &root, log)?;
    supplement(host, &root, &usr, &mut mounts, log)?;
    Ok(mounts)
}

/// `/bin`, `/lib` and the like: the host's links, or overlays where they are directories.
fn program_dirs(host: &Host<'_>, root: &Tree, mounts: &mut Vec<Mount>) -> io::Result<()> {
    for name in PROGRAM_DIRS {
        let path = host.root.join(name);
        if let Ok(target) = fs::read_link(&path) {
            root.symlink(name, target, (0, 0))?;
        } else if path.is_dir() {
            root.dir(name, Meta::root(0o755))?;
            mounts.push(Mount {
                mount_point: Path::new("/").join(name),
                layers: vec![Layer::Host(path)],
            });
        }
    }
    Ok(())
}

fn etc(host: &Host<'_>, root: &Tree) -> io::Result<()> {
    let etc = host.root.join("etc");
    let mut names: Vec<String> = ETC.iter().map(|&name| name.to_owned()).collect();
    for entry in fs::read_dir(&etc)?.take(MAX_ENTRIES) {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if ETC_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            names.push(name);
        }
    }
    for name in names {
        copy(
            &etc.join(&name),
            root,
            &Path::new("etc").join(&name),
            MAX_ETC_FILE,
        )?;
    }
    Ok(())
}

fn accounts(host: &Host<'_>, root: &Tree) -> io::Result<()> {
    let read =
        |name: &str| fs::read_to_string(host.root.join("etc").join(name)).unwrap_or_default();
    let shell = if host.root.join("usr/bin/bash").exists() || host.root.join("bin/bash").exists() {
        "/bin/bash"
    } else {
        "/bin/sh"
    };
    let accounts = account::from_host(&read("passwd"), &read("group"), shell);
    setup::write_accounts(root, &accounts)
}

/// The record of what is installed in `/usr`, so that a package manager adds to it.
fn package_database(host: &Host<'_>, root: &Tree, log: &dyn Fn(&str)) -> io::Result<()> {
    let source = host.root.join(DPKG);
    if !source.is_dir() {
        return Ok(());
    }
    log("copying the package database");
    copy(&source, root, Path::new(DPKG), MAX_PACKAGE_FILE)?;
    root.dir(Path::new(DPKG).join("updates"), Meta::root(0o755))?;
    setup::apt(root, &apt_sources(host)?)
}

/// The host's package sources, except those that carry a password.
fn apt_sources(host: &Host<'_>) -> io::Result<Vec<(String, String)>> {
    let apt = host.root.join("etc/apt");
    let mut files = vec!["sources.list".to_owned()];
    if let Ok(dir) = fs::read_dir(apt.join("sources.list.d")) {
        for entry in dir.take(MAX_ENTRIES) {
            let name = entry?.file_name();
            files.push(format!("sources.list.d/{}", name.to_string_lossy()));
        }
    }
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(apt.join(&file)) else {
            continue;
        };
        // `https://name:password@mirror/`
        if is_public(&apt.join(&file)) && !text.contains('@') {
            sources.push((file, text));
        }
    }
    Ok(sources)
}

/// What the host's `/usr` lacks: `python`, `sudo`, and tools that the host has elsewhere.
fn supplement(
    host: &Host<'_>,
    root: &Tree,
    usr: &Tree,
    mounts: &mut Vec<Mount>,
    log: &dyn Fn(&str),
) -> io::Result<()> {
    let in_usr = |name: &str| {
        ["usr/bin", "usr/local/bin", "bin"]
            .iter()
            .any(|dir| host.root.join(dir).join(name).exists())
    };
    if host.root.join(DPKG).is_dir() {
        usr.file("sbin/policy-rc.d", Meta::root(0o755), POLICY_RC)?;
    }
    if in_usr("python3") && !in_usr("python") {
        usr.symlink("bin/python", "python3", (0, 0))?;
    }
    if !in_usr("sudo") {
        if let Some(program) = host.sudo {
            let mut file = fs::File::open(program)?;
            usr.file_from("bin/sudo", Meta::root(0o4755), &mut file, &Extra::default())?;
        } else {
            log("the host has no sudo, and there is nothing to take its place");
        }
    }
    for tool in TOOLS {
        if in_usr(tool) {
            continue;
        }
        let Some((folder, program)) = outside_usr(host, tool) else {
            log(&format!("the host has no {tool}"));
            continue;
        };
        usr.symlink(Path::new("local/bin").join(tool), &program, (0, 0))?;
        if !mounts.iter().any(|mount| mount.mount_point == folder) {
            root.dir(&folder, Meta::root(0o755))?;
            let inside = folder.strip_prefix("/").unwrap_or(&folder);
            mounts.push(Mount {
                layers: vec![Layer::Host(host.root.join(inside))],
                mount_point: folder,
            });
        }
    }
    Ok(())
}

/// A tool in a folder of `/opt`: that folder, and the program, as sandboxes see them. Other places
/// outside `/usr` are private to somebody.
fn outside_usr(host: &Host<'_>, tool: &str) -> Option<(PathBuf, PathBuf)> {
    let found = host.path.iter().find_map(|dir| {
        let program = fs::canonicalize(dir.join(tool)).ok()?;
        let inside = program.strip_prefix(host.root).ok()?;
        inside.starts_with("opt").then(|| inside.to_owned())
    })?;
    let folder: PathBuf = found.components().take(2).collect();
    (folder != found).then(|| (Path::new("/").join(folder), Path::new("/").join(found)))
}

/// Copies a public file, link or directory of the host. That there is none is success.
fn copy(source: &Path, tree: &Tree, path: &Path, max_bytes: u64) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(source) else {
        return Ok(());
    };
    let mode = metadata.permissions().mode() & 0o755;
    if metadata.is_symlink() {
        return tree.symlink(path, fs::read_link(source)?, (0, 0));
    }
    if metadata.is_dir() {
        if mode & 0o005 != 0o005 {
            return Ok(());
        }
        tree.dir(path, Meta::root(mode))?;
        for entry in fs::read_dir(source)?.take(MAX_ENTRIES) {
            let name = entry?.file_name();
            copy(&source.join(&name), tree, &path.join(&name), max_bytes)?;
        }
        return Ok(());
    }
    if metadata.is_file() && is_public(source) && metadata.len() <= max_bytes {
        let content = fs::read(source)?;
        if !holds_private_key(&content) {
            tree.file(path, Meta::root(mode), content)?;
        }
    }
    Ok(())
}

fn is_public(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

fn holds_private_key(content: &[u8]) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    content.windows(MARK.len()).any(|window| window == MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, mode: u32, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A small host with the usual secrets in the usual places.
    fn host() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(root, "usr/bin/python3.11", 0o755, "");
        write(root, "usr/bin/bash", 0o755, "");
        std::os::unix::fs::symlink("python3.11", root.join("usr/bin/python3")).unwrap();
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        write(root, "sbin/real", 0o755, "");
        write(root, "opt/node/bin/node", 0o755, "");
        write(root, "root/secret-tools/git", 0o755, "");
        write(
            root,
            "etc/passwd",
            0o644,
            "root:SECRET:0:0:r:/root:/bin/sh\n",
        );
        write(root, "etc/group", 0o644, "root:x:0:\nshadow:x:42:\n");
        write(root, "etc/shadow", 0o640, "root:SECRET:1::::::\n");
        write(root, "etc/nsswitch.conf", 0o644, "passwd: files\n");
        write(root, "etc/login.defs", 0o600, "SECRET");
        write(root, "etc/environment", 0o644, "TOKEN=SECRET\n");
        write(root, "etc/machine-id", 0o444, "SECRET\n");
        write(root, "etc/profile.d/token.sh", 0o644, "SECRET\n");
        write(root, "etc/ssl/private/key.pem", 0o644, "SECRET");
        write(root, "etc/ssl/certs/ca.pem", 0o644, "public");
        write(
            root,
            "etc/ssl/certs/both.pem",
            0o644,
            "-----BEGIN PRIVATE KEY-----\nSECRET",
        );
        write(root, "etc/ssh/ssh_host_key", 0o600, "SECRET");
        write(
            root,
            "etc/apt/sources.list",
            0o644,
            "deb http://mirror/ x main\n",
        );
        write(
            root,
            "etc/apt/sources.list.d/own.list",
            0o644,
            "deb https://name:SECRET@mirror/ x main\n",
        );
        write(root, "etc/apt/auth.conf", 0o644, "SECRET");
        write(root, "home/me/.ssh/id", 0o644, "SECRET");
        write(root, "var/lib/dpkg/status", 0o644, "Package: bash\n");
        write(root, "var/lib/app/db", 0o644, "SECRET");
        dir
    }

    fn built(host: &Host<'_>) -> (tempfile::TempDir, Vec<Mount>) {
        let dir = tempfile::tempdir().unwrap();
        let mounts = build(host, dir.path(), &|_| ()).unwrap();
        (dir, mounts)
    }

    fn all_text(dir: &Path, text: &mut String) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                all_text(&path, text);
            } else {
                text.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn no_secret_of_the_host_is_taken() {
        let root = host();
        let (dir, _) = built(&Host {
            root: root.path(),
            path: Vec::new(),
            sudo: None,
        });
        let mut text = String::new();
        all_text(dir.path(), &mut text);
        assert!(!text.contains("SECRET"), "{text}");
        for needed in [
            "passwd: files",
            "public",
            "Package: bash",
            "deb http://mirror/",
        ] {
            assert!(text.contains(needed), "{needed}");
        }
    }

    #[test]
    fn programs_come_from_the_host_and_gaps_are_filled() {
        let root = host();
        let path = ["root/secret-tools", "opt/node/bin"].map(|dir| root.path().join(dir));
        let sudo = root.path().join("sbin/real");
        let (dir, mounts) = built(&Host {
            root: root.path(),
            path: path.to_vec(),
            sudo: Some(&sudo),
        });
        let points: Vec<_> = mounts
            .iter()
            .map(|m| m.mount_point.to_str().unwrap())
            .collect();
        assert_eq!(points, ["/", "/usr", "/sbin", "/opt/node"]);
        let usr = dir.path().join("usr");
        let link = |path: &str| fs::read_link(dir.path().join(path)).unwrap();
        assert_eq!(link("usr/bin/python"), Path::new("python3"));
        assert_eq!(link("usr/local/bin/node"), Path::new("/opt/node/bin/node"));
        assert_eq!(link("root/bin"), Path::new("usr/bin"));
        assert!(
            !usr.join("local/bin/git").is_symlink(),
            "private folders stay out"
        );
        let mode = fs::metadata(usr.join("bin/sudo"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o4755);
    }
}
