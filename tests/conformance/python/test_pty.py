"""Terminals."""

import pytest
from e2b import CommandExitException
from e2b.sandbox.commands.command_handle import PtySize
from server import eventually


def run(handle, pty, text):
    """Sends a line, waits until the shell has ended, returns what the terminal showed."""
    pty.send_stdin(handle.pid, text.encode())
    shown = []
    try:
        handle.wait(on_pty=shown.append)
    except CommandExitException as ended:
        return b"".join(shown).decode(), ended.exit_code
    return b"".join(shown).decode(), 0


def test_a_shell_in_a_terminal(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    shown, code = run(handle, sandbox.pty, "tty; echo $TERM; stty size; exit 7\n")
    assert "/dev/pts/" in shown and "xterm-256color" in shown and "24 80" in shown
    assert code == 7


def test_environment_directory_and_user(sandbox):
    handle = sandbox.pty.create(
        PtySize(rows=24, cols=80), envs={"X": "from here"}, cwd="/tmp", user="root"
    )
    shown, code = run(handle, sandbox.pty, 'echo "<$X|$PWD|$(id -un)>"; exit\n')
    assert "<from here|/tmp|root>" in shown and code == 0


def test_resize(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    sandbox.pty.resize(handle.pid, PtySize(rows=50, cols=132))
    shown, _ = run(handle, sandbox.pty, "stty size; exit\n")
    assert "50 132" in shown


def test_kill(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    assert sandbox.pty.kill(handle.pid) is True
    with pytest.raises(CommandExitException):
        handle.wait()
    assert sandbox.pty.kill(handle.pid) is False


def test_connecting_again(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    handle.disconnect()
    again = sandbox.pty.connect(handle.pid)
    shown, code = run(again, sandbox.pty, "echo back$((1+1)); exit 4\n")
    assert "back2" in shown and code == 4


def test_ctrl_c_reaches_the_foreground(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    sandbox.pty.send_stdin(handle.pid, b"sleep 600\n")
    # A terminal drops what was typed before Ctrl-C, so the program must be in the foreground.
    sleeping = "grep -lsx sleep /proc/[0-9]*/comm || true"
    eventually(lambda: sandbox.commands.run(sleeping).stdout, 10, "the foreground program runs")
    sandbox.pty.send_stdin(handle.pid, b"\x03")
    shown, code = run(handle, sandbox.pty, "exit 5\n")
    assert code == 5, shown
