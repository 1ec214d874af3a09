//! How a process ended, in the words that SDKs and their tests know.

/// The end of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// -1 if a signal was the cause.
    pub(crate) code: i32,
    /// Whether the process ended by itself.
    pub(crate) exited: bool,
    /// `exit status N` or `signal: NAME`.
    pub(crate) text: String,
}

impl End {
    /// Reads a status as `waitpid` gives it.
    pub(crate) fn from_wait(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            let code = libc::WEXITSTATUS(status);
            return Self {
                code,
                exited: true,
                text: format!("exit status {code}"),
            };
        }
        let core = if libc::WCOREDUMP(status) {
            " (core dumped)"
        } else {
            ""
        };
        Self {
            code: -1,
            exited: false,
            text: format!("signal: {}{core}", signal_name(libc::WTERMSIG(status))),
        }
    }

    /// The same text, if this end is a failure.
    pub(crate) fn error(&self) -> Option<String> {
        (!self.exited || self.code != 0).then(|| self.text.clone())
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        libc::SIGSTKFLT => "stack fault",
        libc::SIGXCPU => "CPU time limit exceeded",
        libc::SIGXFSZ => "file size limit exceeded",
        libc::SIGVTALRM => "virtual timer expired",
        libc::SIGPROF => "profiling timer expired",
        libc::SIGIO => "I/O possible",
        libc::SIGPWR => "power failure",
        libc::SIGSYS => "bad system call",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_the_protocol() {
        let end = End::from_wait;
        assert_eq!(
            (end(0).text.as_str(), end(0).error()),
            ("exit status 0", None)
        );
        assert_eq!(end(127 << 8).error().as_deref(), Some("exit status 127"));
        assert_eq!(
            (end(9).code, end(9).exited, end(9).text.as_str()),
            (-1, false, "signal: killed")
        );
        assert_eq!(end(15).error().as_deref(), Some("signal: terminated"));
        assert_eq!(
            end(11 | 0x80).text,
            "signal: segmentation fault (core dumped)"
        );
        assert_eq!(end(40).text, "signal: signal 40");
    }
}
