//! The supervisor's life: two orders from the node, then a wait for the end of pid 1.
//!
//! It is the only process of a sandbox outside the sandbox's limits, so it does little and keeps
//! little: after the start it holds two descriptors of processes, one of the disk, a lock, the
//! control socket and a pipe, and the capabilities to kill the sandbox and remove its cgroups.
//! Nothing from the guest is interpreted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open, openat, renameat, syncfs};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use atoll_jail::channel;
use atoll_jail::spec::{
    EXIT_FILE, Exit, LOCK_FILE, Order, Prepare, Report, Request, Start, Status,
};

use crate::cell::Cell;
use crate::clock::Stopwatch;
use crate::control::Control;
use crate::error::{Context, Result, failure};
use crate::privileges;

/// How much of the guest agent's last output is kept for the exit file.
const TAIL_BYTES: usize = 4096;

/// How much of it is read before a pause, and the pause: a guest that floods the pipe blocks
/// itself, not the host's cpu.
const OUTPUT_BURST_BYTES: usize = 64 * 1024;
const OUTPUT_PAUSE: Duration = Duration::from_millis(250);

/// A sandbox that runs.
#[derive(Debug)]
struct Running {
    cell: Cell,
    control: Control,
    directory: OwnedFd,
    /// The root of the sandbox's disk, which it also keeps mounted until the end.
    disk: OwnedFd,
    /// Held as long as this process lives.
    _lock: OwnedFd,
    status: Status,
    own_handle: OwnedFd,
    tail: Vec<u8>,
    is_ordered: bool,
}

/// Runs one sandbox from preparation to end. Failures are reported to the node, if it still
/// listens.
pub(crate) fn supervise(node: OwnedFd) -> Result<()> {
    let outcome = start(&node);
    let mut running = match outcome {
        Ok(Some(running)) => running,
        Ok(None) => return Ok(()),
        Err(error) => {
            let message = error.to_string();
            let _ = channel::send(&node, &Report::Failed { message }, &[]);
            return Err(error);
        }
    };
    drop(node);
    privileges::drop_supervisor().context("drop capabilities")?;
    running.serve()?;
    running.finish()
}

/// Carries out both orders; none if the node went away in between.
fn start(node: &OwnedFd) -> Result<Option<Running>> {
    let Some((order, fds)) = channel::receive(node).context("receive order")? else {
        return Ok(None);
    };
    let Order::Prepare(order) = order else {
        return Err(failure("receive order", "out of order"));
    };
    let [net, agent] = take_fds(fds)?;
    let cell = Cell::prepare(&order, &net, agent)?;
    drop(net);
    let mut guard = Guard(Some(cell));
    let pid = guard.cell().pid.as_raw_nonzero().get();
    channel::send(node, &Report::Prepared { pid }, &[]).context("report")?;
    if !await_order(node, guard.cell())? {
        return Ok(None);
    }
    let Some((Order::Start(start), fds)) = channel::receive(node).context("receive order")? else {
        return Ok(None);
    };
    let [disk] = take_fds(fds)?;
    run(node, &order, &start, &disk, &mut guard).map(Some)
}

fn run(
    node: &OwnedFd,
    prepared: &Prepare,
    order: &Start,
    disk: &OwnedFd,
    guard: &mut Guard,
) -> Result<Running> {
    let mut watch = Stopwatch::start();
    let directory = open_directory(&order.directory)?;
    let lock = take_lock(&directory)?;
    let control = Control::bind(&directory)?;
    // A mount's own descriptor cannot be synced.
    let root = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let disk_root = openat(disk, ".", root, Mode::empty()).context("open disk")?;
    watch.lap("control");
    guard.cell().start(order, disk)?;
    watch.lap("start");
    let own_handle = pidfd_open(getpid(), PidfdFlags::empty()).context("open own handle")?;
    let cell = guard.0.take().expect("taken once, here");
    let status = Status {
        sandbox: order.sandbox.clone(),
        generation: order.generation,
        cell: prepared.cell,
        pid: cell.pid.as_raw_nonzero().get(),
    };
    let steps = watch.into_laps();
    let handles = [own_handle.as_fd(), cell.pidfd.as_fd()];
    // From here on the sandbox lives on its own: a node that is gone by now will find it.
    let _ = channel::send(node, &Report::Started { steps }, &handles);
    Ok(Running {
        cell,
        control,
        directory,
        disk: disk_root,
        _lock: lock,
        status,
        own_handle,
        tail: Vec::new(),
        is_ordered: false,
    })
}

/// Ends a cell that did not become a sandbox.
#[derive(Debug)]
struct Guard(Option<Cell>);

impl Guard {
    fn cell(&mut self) -> &mut Cell {
        self.0
            .as_mut()
            .expect("taken only when the start succeeded")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(cell) = &self.0 {
            cell.kill();
            // What cannot be removed now is found by the node's sweep.
            let _ = cell.wait();
            let _ = cell.release();
        }
    }
}

/// Waits for the next order; `false` if the node or pid 1 ended first.
fn await_order(node: &OwnedFd, cell: &Cell) -> Result<bool> {
    loop {
        let mut sources = [
            PollFd::new(node, PollFlags::IN),
            PollFd::new(&cell.pidfd, PollFlags::IN),
        ];
        match poll(&mut sources, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.context("wait for order")?,
        };
        if !sources[1].revents().is_empty() {
            return Err(failure("wait for order", "pid 1 ended"));
        }
        if sources[0].revents().contains(PollFlags::IN) {
            return Ok(true);
        }
        if !sources[0].revents().is_empty() {
            return Ok(false);
        }
    }
}

impl Running {
    /// Serves the control socket and the output pipe until pid 1 is gone.
    fn serve(&mut self) -> Result<()> {
        let mut budget = OUTPUT_BURST_BYTES;
        let mut has_output = true;
        loop {
            let is_reading = has_output && budget > 0;
            let timeout = (has_output && budget == 0).then_some(OUTPUT_PAUSE);
            let ready = self.wait_ready(is_reading, timeout)?;
            budget = if timeout.is_some() {
                OUTPUT_BURST_BYTES
            } else {
                budget
            };
            if ready.is_ended {
                return Ok(());
            }
            if ready.has_output {
                match self.read_output() {
                    0 => has_output = false,
                    read => budget = budget.saturating_sub(read),
                }
            }
            // The last first: serving may remove a client.
            for index in ready.clients.into_iter().rev() {
                self.serve_client(index);
            }
            if ready.has_client {
                self.control.accept();
            }
        }
    }

    fn serve_client(&mut self, index: usize) {
        let handles = [&self.own_handle, &self.cell.pidfd];
        let disk = &self.disk;
        let act = |request| request != Request::Sync || syncfs(disk).is_ok();
        if self.control.serve(index, &self.status, handles, act) == Some(Request::Stop) {
            self.is_ordered = true;
            self.cell.kill();
        }
    }

    fn wait_ready(&self, is_reading: bool, timeout: Option<Duration>) -> Result<Ready> {
        let none = PollFlags::empty();
        let output = if is_reading { PollFlags::IN } else { none };
        let mut sources = vec![PollFd::new(&self.cell.pidfd, PollFlags::IN)];
        // A pipe without a writer reports that even when nothing is asked: leave it out then.
        if is_reading {
            sources.push(PollFd::new(&self.cell.output, output));
        }
        let fixed = sources.len();
        sources.extend(
            self.control
                .sources()
                .map(|fd| PollFd::new(fd, PollFlags::IN)),
        );
        let timeout = timeout.map(|pause| Timespec {
            tv_sec: 0,
            tv_nsec: pause.subsec_nanos().into(),
        });
        match poll(&mut sources, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            other => other.context("wait")?,
        };
        let is_ready = |index: usize| !sources[index].revents().is_empty();
        Ok(Ready {
            is_ended: is_ready(0),
            has_output: is_reading && is_ready(1),
            has_client: is_ready(fixed),
            clients: (fixed + 1..sources.len())
                .filter(|index| is_ready(*index))
                .map(|index| index - fixed - 1)
                .collect(),
        })
    }

    /// Reads a piece of output and keeps its end; zero when there will be none any more.
    fn read_output(&mut self) -> usize {
        let mut piece = [0; TAIL_BYTES];
        match rustix::io::read(&self.cell.output, &mut piece) {
            Ok(read) => {
                self.tail.extend_from_slice(&piece[..read]);
                let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
                self.tail.drain(..surplus);
                read
            }
            // A wake-up for nothing costs one byte of the budget.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 1,
            Err(_) => 0,
        }
    }

    /// Writes how it ended and releases what the end of the processes does not.
    fn finish(mut self) -> Result<()> {
        let status = self.cell.wait().context("wait for pid 1")?;
        self.read_output();
        let exit = Exit {
            code: status.as_ref().and_then(|status| status.exit_status()),
            signal: status
                .as_ref()
                .and_then(|status| status.terminating_signal()),
            is_ordered: self.is_ordered,
            tail: String::from_utf8_lossy(&self.tail).into_owned(),
        };
        // The directory is gone if the node removed it already: then nobody asks.
        let _ = write_exit(self.directory.as_fd(), &exit);
        self.cell.release()
    }
}

/// What a wait found.
#[derive(Debug, Default)]
struct Ready {
    is_ended: bool,
    has_output: bool,
    has_client: bool,
    clients: Vec<usize>,
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).context("open sandbox directory")
}

fn take_lock(directory: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let lock =
        openat(directory, LOCK_FILE, flags, Mode::from_raw_mode(0o600)).context("open lock")?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).context("take lock")?;
    Ok(lock)
}

fn write_exit(directory: BorrowedFd<'_>, exit: &Exit) -> std::io::Result<()> {
    let temporary = format!("{EXIT_FILE}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = openat(directory, &*temporary, flags, Mode::from_raw_mode(0o600))?;
    serde_json::to_writer(std::fs::File::from(file), exit)?;
    renameat(directory, &*temporary, directory, EXIT_FILE)?;
    Ok(())
}

fn take_fds<const N: usize>(fds: Vec<OwnedFd>) -> Result<[OwnedFd; N]> {
    fds.try_into()
        .map_err(|_| failure("receive order", "wrong number of descriptors"))
}
