//! Starting a program: environment, user, directory, pipes or a terminal.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::sys::{self, Becoming};
use crate::user::User;

/// Where programs are looked for if the agent has no `PATH` of its own.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Children die before the agent when memory is short.
const CHILD_OOM_SCORE: &[u8] = b"100";

/// A program to start.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) command: String,
    pub(crate) arguments: Vec<String>,
    /// Everything but what [`environment`] adds.
    pub(crate) variables: BTreeMap<String, String>,
    /// Absolute.
    pub(crate) cwd: String,
    pub(crate) user: User,
    pub(crate) wiring: Wiring,
}

/// What standard input and output are connected to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wiring {
    /// Pipes; without `stdin` the input is `/dev/null`.
    Pipes { stdin: bool },
    /// A terminal of this size.
    Terminal(Size),
}

/// In characters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

/// The agent's ends of the wires of a started program.
#[derive(Debug)]
pub(crate) enum Ends {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal(OwnedFd),
}

/// A program that was started. Only the reaper may wait for it.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) ends: Ends,
}

impl Program {
    /// Starts the program. It sees the user's rights already when entering its directory.
    ///
    /// # Errors
    /// Whatever kept the program from starting, as the operating system says it.
    pub(crate) fn start(&self) -> io::Result<Spawned> {
        let mut command = Command::new(&self.command);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment());
        let terminal = match self.wiring {
            Wiring::Terminal(size) => Some(Terminal::open(size, &self.user)?),
            Wiring::Pipes { .. } => None,
        };
        match (&terminal, self.wiring) {
            (Some(terminal), _) => {
                command
                    .stdin(terminal.program_end()?)
                    .stdout(terminal.program_end()?)
                    .stderr(terminal.program_end()?);
            }
            (None, wiring) => {
                let stdin = matches!(wiring, Wiring::Pipes { stdin: true });
                command.stdin(if stdin { Stdio::piped() } else { Stdio::null() });
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
        }
        sys::become_before_exec(
            &mut command,
            Becoming {
                uid: self.user.uid(),
                gid: self.user.gid(),
                groups: self.user.groups(),
                cwd: CString::new(self.cwd.as_str())?,
                terminal: terminal.is_some(),
                oom_score: CHILD_OOM_SCORE,
            },
        );
        let mut child = command.spawn()?;
        let ends = match terminal {
            Some(terminal) => Ends::Terminal(terminal.controller),
            None => Ends::Pipes {
                stdin: child.stdin.take().map(OwnedFd::from),
                stdout: child
                    .stdout
                    .take()
                    .map(OwnedFd::from)
                    .ok_or(io::ErrorKind::BrokenPipe)?,
                stderr: child
                    .stderr
                    .take()
                    .map(OwnedFd::from)
                    .ok_or(io::ErrorKind::BrokenPipe)?,
            },
        };
        Ok(Spawned {
            pid: child.id(),
            ends,
        })
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let path = std::env::var("PATH").ok().filter(|path| !path.is_empty());
        let mut all = BTreeMap::from([
            (
                "PATH".to_owned(),
                path.unwrap_or_else(|| DEFAULT_PATH.to_owned()),
            ),
            ("HOME".to_owned(), self.user.home.clone()),
            ("USER".to_owned(), self.user.name.clone()),
            ("LOGNAME".to_owned(), self.user.name.clone()),
        ]);
        all.extend(
            self.variables
                .iter()
                .map(|(key, value)| (key.clone(), value.clone())),
        );
        all
    }
}

struct Terminal {
    controller: OwnedFd,
    program: OwnedFd,
}

impl Terminal {
    fn open(size: Size, user: &User) -> io::Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let program = ioctl_tiocgptpeer(
            &controller,
            OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
        )?;
        // Best effort: programs that open their terminal again by name must be allowed to.
        let _ = rustix::fs::fchown(&program, Some(user.uid()), None);
        resize(controller.as_fd(), size)?;
        Ok(Self {
            controller,
            program,
        })
    }

    fn program_end(&self) -> io::Result<Stdio> {
        Ok(Stdio::from(self.program.try_clone()?))
    }
}

/// Tells a terminal its size.
pub(crate) fn resize(terminal: BorrowedFd<'_>, size: Size) -> io::Result<()> {
    let window = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, window)?)
}
