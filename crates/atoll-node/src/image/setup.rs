//! What every template has, whatever it was made from: directories that programs rely on, the user
//! `user`, and settings that make a sandbox usable at once.

use std::io;
use std::path::Path;

use super::account::{self, Accounts};
use super::tree::{Extra, Meta, Tree};

/// Largest account file that is read.
const MAX_ACCOUNT_FILE: u64 = 4 * 1024 * 1024;

const SUDOERS: &str = "\
Defaults env_reset
Defaults secure_path=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"
root ALL=(ALL:ALL) ALL
%sudo ALL=(ALL:ALL) NOPASSWD: ALL
@includedir /etc/sudoers.d
";
/// For images that bring a `sudoers` of their own.
const SUDOERS_USER: &str = "user ALL=(ALL:ALL) NOPASSWD: ALL\n";
const HOSTS: &str = "\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
";
const BASHRC: &str = "\
case $- in
  *i*) ;;
  *) return ;;
esac
HISTCONTROL=ignoreboth
HISTSIZE=1000
shopt -s histappend checkwinsize
PS1='\\u@\\h:\\w\\$ '
if ls --color=auto -d / >/dev/null 2>&1; then
  alias ls='ls --color=auto'
fi
";
const PROFILE: &str = "\
if [ -n \"$BASH_VERSION\" ] && [ -f \"$HOME/.bashrc\" ]; then
  . \"$HOME/.bashrc\"
fi
for dir in \"$HOME/bin\" \"$HOME/.local/bin\"; do
  if [ -d \"$dir\" ]; then
    PATH=\"$dir:$PATH\"
  fi
done
unset dir
";
/// A sandbox is thrown away, so there is no system whose packages pip could break.
const PIP: &str = "[global]\nbreak-system-packages = true\n";
/// No daemons start on installation, and no questions are asked.
const APT: &str = "\
APT::Install-Recommends \"false\";
Acquire::Retries \"2\";
Dpkg::Use-Pty \"false\";
";
/// Directories of an empty system, with their modes.
const DIRECTORIES: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/profile.d", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("run/lock", 0o1777),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/backups", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/local", 0o755),
    ("var/log", 0o755),
    ("var/mail", 0o755),
    ("var/opt", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
];

/// The directories of a system that is made anew.
pub(super) fn skeleton(root: &Tree) -> io::Result<()> {
    for (path, mode) in DIRECTORIES {
        root.dir(path, Meta::root(*mode))?;
    }
    root.symlink("var/run", "/run", (0, 0))?;
    root.symlink("var/lock", "/run/lock", (0, 0))
}

/// Settings of a system that is made anew. The accounts must be there.
pub(super) fn settings(root: &Tree) -> io::Result<()> {
    root.file("etc/hosts", Meta::root(0o644), HOSTS)?;
    root.file("etc/hostname", Meta::root(0o644), "sandbox\n")?;
    root.file("etc/resolv.conf", Meta::root(0o644), "")?;
    // Empty means: to be filled by whoever needs one. The host's own would identify it.
    root.file("etc/machine-id", Meta::root(0o444), "")?;
    root.file("etc/fstab", Meta::root(0o644), "")?;
    root.file("etc/environment", Meta::root(0o644), "")?;
    root.file("etc/pip.conf", Meta::root(0o644), PIP)?;
    root.symlink("etc/mtab", "../proc/self/mounts", (0, 0))?;
    root.dir("etc/sudoers.d", Meta::root(0o750))?;
    root.file("etc/sudoers", Meta::root(0o440), SUDOERS)?;
    for name in ["root", "etc/skel"] {
        root.file(format!("{name}/.bashrc"), Meta::root(0o644), BASHRC)?;
        root.file(format!("{name}/.profile"), Meta::root(0o644), PROFILE)?;
    }
    home(root)
}

/// What apt expects to find, with these source files (name in `/etc/apt`, content).
pub(super) fn apt(root: &Tree, sources: &[(String, String)]) -> io::Result<()> {
    for path in [
        "var/cache/apt/archives/partial",
        "var/lib/apt/lists/partial",
    ] {
        root.dir(path, Meta::root(0o755))?;
    }
    for path in ["preferences.d", "sources.list.d", "trusted.gpg.d"] {
        root.dir(format!("etc/apt/{path}"), Meta::root(0o755))?;
    }
    root.file("etc/apt/apt.conf.d/90sandbox", Meta::root(0o644), APT)?;
    for (name, content) in sources {
        root.file(format!("etc/apt/{name}"), Meta::root(0o644), content)?;
    }
    Ok(())
}

/// Gives a root file system that came from elsewhere what sandboxes rely on, and leaves alone what
/// it has already.
///
/// `sudo` is a program to stand in for it where there is none.
pub(super) fn complete(root: &Tree, sudo: Option<&Path>) -> io::Result<()> {
    // An archive's own entry for its root is often private to whoever made it.
    root.dir("", Meta::root(0o755))?;
    for (path, mode) in DIRECTORIES {
        if !root.exists(path) {
            root.dir(path, Meta::root(*mode))?;
        }
    }
    let read = |name: &str| -> io::Result<String> {
        let text = root.read(&format!("etc/{name}"), MAX_ACCOUNT_FILE)?;
        Ok(text.unwrap_or_default())
    };
    let has_bash = root.exists("bin/bash") || root.exists("usr/bin/bash");
    let shell = if has_bash { "/bin/bash" } else { "/bin/sh" };
    let found = Accounts {
        passwd: read("passwd")?,
        group: read("group")?,
        shadow: read("shadow")?,
        gshadow: read("gshadow")?,
    };
    let found = if found.passwd.is_empty() {
        account::from_host("", &found.group, shell)
    } else {
        account::with_user(&found, shell)
    };
    write_accounts(root, &found)?;
    if !root.exists("etc/hosts") {
        root.file("etc/hosts", Meta::root(0o644), HOSTS)?;
    }
    // Whoever made the system left its own there, or a link to a service that sandboxes have not.
    root.file("etc/resolv.conf", Meta::root(0o644), "")?;
    let has_sudo = || root.exists("usr/bin/sudo") || root.exists("bin/sudo");
    if let (Some(program), false) = (sudo, has_sudo()) {
        let mut file = std::fs::File::open(program)?;
        let extra = Extra::default();
        root.file_from("usr/bin/sudo", Meta::root(0o4755), &mut file, &extra)?;
    }
    if has_sudo() {
        root.dir("etc/sudoers.d", Meta::root(0o750))?;
        root.file("etc/sudoers.d/90-user", Meta::root(0o440), SUDOERS_USER)?;
    }
    home(root)
}

/// Writes the four account files, with the modes that keep shadows from other users.
pub(super) fn write_accounts(root: &Tree, accounts: &Accounts) -> io::Result<()> {
    let shadow = Meta {
        uid: 0,
        gid: account::gid(&accounts.group, "shadow").unwrap_or(0),
        mode: 0o640,
    };
    root.file("etc/passwd", Meta::root(0o644), &accounts.passwd)?;
    root.file("etc/group", Meta::root(0o644), &accounts.group)?;
    root.file("etc/shadow", shadow, &accounts.shadow)?;
    root.file("etc/gshadow", shadow, &accounts.gshadow)?;
    let (uid, gid) = account::ids(accounts).unwrap_or((account::USER_ID, account::USER_ID));
    root.dir(
        account::USER_HOME,
        Meta {
            uid,
            gid,
            mode: 0o755,
        },
    )
}

/// The home of `user`, with what a login shell reads.
fn home(root: &Tree) -> io::Result<()> {
    let text = root.read("etc/passwd", MAX_ACCOUNT_FILE)?;
    let accounts = Accounts {
        passwd: text.unwrap_or_default(),
        ..Accounts::default()
    };
    let (uid, gid) = account::ids(&accounts).unwrap_or((account::USER_ID, account::USER_ID));
    let mode = 0o644;
    let meta = Meta { uid, gid, mode };
    for (name, content) in [(".bashrc", BASHRC), (".profile", PROFILE)] {
        let path = format!("{}/{name}", account::USER_HOME.trim_start_matches('/'));
        if !root.exists(&path) {
            root.file(path, meta, content)?;
        }
    }
    Ok(())
}
