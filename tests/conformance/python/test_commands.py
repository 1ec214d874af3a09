"""Running commands."""

import threading
import time

import pytest
from e2b import CommandExitException, Sandbox, TimeoutException
from e2b.exceptions import (
    AuthenticationException,
    InvalidArgumentException,
    NotFoundException,
)
from server import eventually


def test_streams_are_kept_apart(sandbox):
    done = sandbox.commands.run("echo out; echo err >&2")
    assert (done.stdout, done.stderr, done.exit_code) == ("out\n", "err\n", 0)


def test_output_comes_as_it_is_made(sandbox):
    seen = []
    start = time.monotonic()
    command = "for i in 1 2 3; do echo $i; sleep 0.4; done"
    sandbox.commands.run(command, on_stdout=lambda out: seen.append((time.monotonic(), out)))
    assert "".join(out for _, out in seen) == "1\n2\n3\n"
    assert seen[0][0] - start < 0.7, "the first line waited for the last"


def test_many_megabytes_of_output_arrive_whole(sandbox):
    done = sandbox.commands.run("head -c 8000000 /dev/zero | tr '\\0' x; echo end >&2")
    assert len(done.stdout) == 8_000_000 and set(done.stdout) == {"x"}
    assert done.stderr == "end\n"


def test_text_that_is_split_between_chunks(sandbox):
    done = sandbox.commands.run("python3 -c 'print(\"ж€😀\" * 50000, end=\"\")'")
    assert done.stdout == "ж€😀" * 50000


def test_exit_codes(sandbox):
    for code in (1, 2, 127, 255):
        with pytest.raises(CommandExitException) as raised:
            sandbox.commands.run(f"exit {code}")
        assert raised.value.exit_code == code


def test_a_command_that_does_not_exist(sandbox):
    with pytest.raises(CommandExitException) as raised:
        sandbox.commands.run("no-such-command-here")
    assert raised.value.exit_code == 127
    assert "command not found" in raised.value.stderr


def test_a_command_killed_by_a_signal(sandbox):
    with pytest.raises(CommandExitException) as raised:
        sandbox.commands.run("kill -9 $$")
    assert raised.value.exit_code == -1
    assert "signal: killed" in raised.value.error


def test_background_then_wait(sandbox):
    handle = sandbox.commands.run("sleep 0.3; echo later", background=True)
    assert handle.pid > 0
    assert handle.wait().stdout == "later\n"


def test_background_then_kill(sandbox):
    handle = sandbox.commands.run("sleep 600", background=True)
    assert handle.pid in [process.pid for process in sandbox.commands.list()]
    assert handle.kill() is True
    with pytest.raises(CommandExitException):
        handle.wait()
    eventually(
        lambda: handle.pid not in [process.pid for process in sandbox.commands.list()],
        5,
        "the process leaves the list",
    )
    assert sandbox.commands.kill(handle.pid) is False


def test_disconnecting_leaves_it_running(sandbox):
    handle = sandbox.commands.run("sleep 1; echo still > /tmp/still; sleep 600", background=True)
    handle.disconnect()
    eventually(lambda: sandbox.files.exists("/tmp/still"), 10, "it goes on")
    assert sandbox.commands.kill(handle.pid) is True


def test_connecting_to_a_running_command(sandbox):
    handle = sandbox.commands.run("sleep 0.8; echo seen; exit 3", background=True)
    handle.disconnect()
    again = Sandbox.connect(sandbox.sandbox_id).commands.connect(handle.pid)
    with pytest.raises(CommandExitException) as raised:
        again.wait()
    assert raised.value.exit_code == 3
    assert raised.value.stdout == "seen\n"


def test_connecting_to_an_unknown_pid(sandbox):
    with pytest.raises(NotFoundException, match="999999"):
        sandbox.commands.connect(999999)


def test_stdin(sandbox):
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.send_stdin(handle.pid, "first\n")
    handle.send_stdin(b"second\n")
    handle.close_stdin()
    assert handle.wait().stdout == "first\nsecond\n"


def test_stdin_as_a_stream(sandbox):
    handle = sandbox.commands.run("wc -c", background=True, stdin=True)
    sandbox.commands.stream_input(handle.pid, ("x" * 1000 for _ in range(50)))
    handle.close_stdin()
    assert handle.wait().stdout.strip() == "50000"


def test_without_stdin_it_is_empty(sandbox):
    assert sandbox.commands.run("cat; echo end", timeout=5).stdout == "end\n"


def test_environment_and_directory(sandbox):
    done = sandbox.commands.run('echo "$X|$PWD"', envs={"X": "a b$c"}, cwd="/tmp")
    assert done.stdout == "a b$c|/tmp\n"
    done = sandbox.commands.run('echo "$HOME $USER $E2B_SANDBOX $E2B_SANDBOX_ID"')
    assert done.stdout == f"/home/user user true {sandbox.sandbox_id}\n"


def test_a_directory_that_does_not_exist(sandbox):
    with pytest.raises(InvalidArgumentException, match="/no/such"):
        sandbox.commands.run("true", cwd="/no/such")


def test_users(sandbox):
    assert sandbox.commands.run("id -un; id -u").stdout == "user\n1000\n"
    assert sandbox.commands.run("id -un; echo $HOME", user="root").stdout == "root\n/root\n"
    assert sandbox.commands.run("sudo -n id -u").stdout == "0\n"


def test_an_unknown_user(sandbox):
    with pytest.raises(AuthenticationException, match="invalid username: 'nobody-here'"):
        sandbox.commands.run("true", user="nobody-here")


def test_the_timeout_kills_the_process(sandbox):
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 600.25", timeout=1)
    eventually(
        lambda: not any("600.25" in " ".join(p.args) for p in sandbox.commands.list()),
        5,
        "the timed-out process is gone",
    )


def test_no_timeout(sandbox):
    assert sandbox.commands.run("sleep 1; echo done", timeout=0).stdout == "done\n"


def test_list_describes(sandbox):
    handle = sandbox.commands.run("sleep 60", background=True, envs={"A": "1"}, cwd="/tmp")
    (found,) = [process for process in sandbox.commands.list() if process.pid == handle.pid]
    assert found.cmd == "/bin/bash" and found.args == ["-l", "-c", "sleep 60"]
    assert found.cwd == "/tmp" and found.envs["A"] == "1"
    handle.kill()


def test_many_at_once(sandbox):
    results = {}

    def run(number):
        results[number] = sandbox.commands.run(f"sleep 0.2; echo {number}").stdout

    threads = [threading.Thread(target=run, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"{number}\n" for number in range(20)}


def test_the_sandbox_killed_under_a_command(server):
    made = Sandbox.create(timeout=60)
    handle = made.commands.run("sleep 600", background=True)
    made.kill()
    with pytest.raises(TimeoutException):
        handle.wait()
    with pytest.raises(TimeoutException, match="(?i)sandbox"):
        made.commands.run("true")


def test_python_is_there_under_both_names(sandbox):
    assert sandbox.commands.run("python3 -c 'print(6*7)'").stdout == "42\n"
    assert sandbox.commands.run("python -c 'print(6*7)'").stdout == "42\n"


def test_background_children_are_reaped(sandbox):
    sandbox.commands.run("for i in 1 2 3 4 5; do (setsid sleep 0.1 &) ; done")
    zombies = "grep -ls '^State:.Z' /proc/[0-9]*/status || true"
    eventually(lambda: sandbox.commands.run(zombies).stdout == "", 5, "no zombie is left")
