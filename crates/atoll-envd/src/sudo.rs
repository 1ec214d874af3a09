//! `sudo` for root file systems that have none, as an applet of the agent's binary.
//!
//! Installed set-uid root under a name that ends in `sudo`, it runs a command as root, or as the
//! user of `-u`, without a password, for root, the user with id 1000 named `user`, and members of
//! the group `sudo`. In a sandbox root is nobody special, so this is a convenience for tools that
//! call `sudo`, not a border.
//!
//! It is safe in the small: the environment is made new (`-E` keeps it but for what the loader and
//! shells act upon), the program is looked for only in a fixed path, and it execs, so there is no
//! terminal or signal to pass on. It reads no configuration and knows no other options.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{getgid, getuid};

use crate::user::{self, User};

const SECURE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kept also without `-E`.
const KEPT: [&str; 8] = [
    "TERM",
    "LANG",
    "LC_ALL",
    "COLORTERM",
    "DISPLAY",
    "TZ",
    "DEBIAN_FRONTEND",
    "NO_COLOR",
];

/// Never kept: they change what a privileged program loads or runs.
const DROPPED: [&str; 9] = [
    "LD_",
    "BASH_ENV",
    "ENV",
    "SHELLOPTS",
    "PS4",
    "IFS",
    "PYTHON",
    "PERL",
    "GCONV_PATH",
];

/// The user that every template has.
const TEMPLATE_UID: u32 = 1000;

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("usage: sudo [-n] [-E] [-H] [-u USER] [--] COMMAND [ARGUMENT...]")]
    Usage,
    #[error(
        "effective uid is not 0: is the program set-uid root, and the file system not mounted \
         nosuid?"
    )]
    NotRoot,
    #[error("{0} may not run sudo")]
    Refused(String),
    #[error("unknown user {0}")]
    UnknownUser(String),
    #[error("become {name}")]
    Become { name: String, source: io::Error },
    #[error("{0}: command not found")]
    NotFound(String),
    #[error("run {command}")]
    Run { command: String, source: io::Error },
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    user: String,
    keep_environment: bool,
    command: Vec<OsString>,
}

/// Whether the program was called as `sudo`.
#[must_use]
pub fn is_sudo(name: &OsStr) -> bool {
    name.as_bytes().ends_with(b"sudo")
}

/// Becomes the command; returns only if that fails.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let error = match parse(arguments) {
        Ok(request) => execute(&request),
        Err(error) => error,
    };
    let _ = crate::complain(&error);
    ExitCode::from(if matches!(error, Error::NotFound(_)) {
        127
    } else {
        1
    })
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Request, Error> {
    let mut request = Request {
        user: "root".to_owned(),
        keep_environment: false,
        command: Vec::new(),
    };
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next_if(|argument| argument.as_bytes().starts_with(b"-")) {
        match argument.to_str() {
            Some("-n" | "-H" | "--non-interactive") => {}
            Some("-E" | "--preserve-env") => request.keep_environment = true,
            Some("-u" | "--user") => {
                request.user = arguments
                    .next()
                    .and_then(|name| name.into_string().ok())
                    .ok_or(Error::Usage)?;
            }
            Some("--") => break,
            _ => return Err(Error::Usage),
        }
    }
    request.command.extend(arguments);
    if request.command.is_empty() {
        return Err(Error::Usage);
    }
    Ok(request)
}

fn execute(request: &Request) -> Error {
    match prepare(request) {
        Ok((mut command, name)) => {
            let source = command.exec();
            if source.kind() == io::ErrorKind::NotFound {
                Error::NotFound(name)
            } else {
                Error::Run {
                    command: name,
                    source,
                }
            }
        }
        Err(error) => error,
    }
}

fn prepare(request: &Request) -> Result<(Command, String), Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let caller = check_caller()?;
    let target =
        User::by_name(&request.user).map_err(|_| Error::UnknownUser(request.user.clone()))?;
    let failed = |error: rustix::io::Errno| Error::Become {
        name: target.name.clone(),
        source: error.into(),
    };
    rustix::thread::set_thread_groups(&target.groups()).map_err(failed)?;
    rustix::thread::set_thread_res_gid(target.gid(), target.gid(), target.gid()).map_err(failed)?;
    rustix::thread::set_thread_res_uid(target.uid(), target.uid(), target.uid()).map_err(failed)?;
    let name = request.command[0].to_string_lossy().into_owned();
    let mut command = Command::new(&request.command[0]);
    command
        .args(&request.command[1..])
        .env_clear()
        .envs(environment(request, &caller, &target));
    Ok((command, name))
}

/// The caller, if allowed.
fn check_caller() -> Result<User, Error> {
    let uid = getuid().as_raw();
    let caller = match user::by_uid(uid) {
        Some(caller) => caller,
        None if uid == 0 => {
            User::by_name("root").map_err(|_| Error::UnknownUser("root".to_owned()))?
        }
        None => return Err(Error::Refused(format!("uid {uid}"))),
    };
    let is_template_user = uid == TEMPLATE_UID && caller.name == user::DEFAULT_USER;
    if uid == 0 || is_template_user || user::is_in_group(&caller, "sudo") {
        return Ok(caller);
    }
    Err(Error::Refused(caller.name))
}

fn environment(request: &Request, caller: &User, target: &User) -> BTreeMap<OsString, OsString> {
    let is_kept = |key: &OsStr| {
        let key = key.as_bytes();
        if request.keep_environment {
            !DROPPED
                .iter()
                .any(|dropped| key.starts_with(dropped.as_bytes()))
                && !key.starts_with(b"BASH_FUNC")
        } else {
            KEPT.iter().any(|kept| key == kept.as_bytes()) || key.starts_with(b"E2B_")
        }
    };
    let mut all: BTreeMap<OsString, OsString> = std::env::vars_os()
        .filter(|(key, _)| is_kept(key))
        .collect();
    let gid = getgid().as_raw().to_string();
    let uid = caller.uid.to_string();
    for (key, value) in [
        ("PATH", SECURE_PATH),
        ("HOME", &target.home),
        ("USER", &target.name),
        ("LOGNAME", &target.name),
        (
            "SHELL",
            if target.shell.is_empty() {
                "/bin/sh"
            } else {
                &target.shell
            },
        ),
        ("SUDO_USER", &caller.name),
        ("SUDO_UID", &uid),
        ("SUDO_GID", &gid),
    ] {
        all.insert(key.into(), value.into());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Request, Error> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn options_end_at_the_command() {
        let request = parsed(&["-n", "-E", "-u", "user", "ls", "-u", "x"]).unwrap();
        assert_eq!(
            (request.user.as_str(), request.keep_environment),
            ("user", true)
        );
        assert_eq!(request.command, ["ls", "-u", "x"].map(OsString::from));
        assert_eq!(
            parsed(&["--", "-x"]).unwrap().command,
            [OsString::from("-x")]
        );
        for wrong in [&[][..], &["-s"], &["-u"], &["-n"]] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn is_chosen_by_the_end_of_the_name() {
        assert!(is_sudo(OsStr::new("/usr/bin/sudo")));
        assert!(!is_sudo(OsStr::new("/sbin/atoll-envd")));
    }
}
