"""The server as a process: starting, stopping, dying, coming back; and `atoll run`."""

import json
import os
import socket
import subprocess
import time

import pytest
from e2b import Sandbox
from server import DevServer, binary, eventually

RUN_LIMIT_S = 150


@pytest.fixture
def own():
    """A server that this test alone may ill-treat."""
    made = DevServer()
    yield made
    made.stop()


def atoll(*arguments, env=None):
    """Runs the program to its end."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("E2B_", "ATOLL_"))}
    return subprocess.run(
        [binary(), *arguments],
        env={**clean, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
    )


def processes_of(data_dir):
    """Processes that name the data directory or hold it open: supervisors, above all."""
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                command = file.read()
            links = [command.decode(errors="replace")]
            for descriptor in os.listdir(f"/proc/{entry}/fd"):
                links.append(os.readlink(f"/proc/{entry}/fd/{descriptor}"))
        except OSError:
            continue
        if any(str(data_dir) in link for link in links):
            found.add(int(entry))
    return found


def mounts_of(data_dir):
    with open("/proc/self/mountinfo") as file:
        return [line for line in file if str(data_dir) in line]


def create(own, timeout=300):
    return Sandbox.create(timeout=timeout, **own.options())


def test_the_ready_line(own):
    own.start()
    assert {"api_url", "sandbox_url", "api_key", "domain", "pid"} <= own.ready.keys()
    assert own.ready["pid"] == own.process.pid
    assert own.ready["api_key"].startswith("e2b_") and len(own.ready["api_key"]) == 44
    assert set(own.ready["api_key"][4:]) <= set("0123456789abcdef")


def test_ctrl_c_ends_the_sandboxes_and_leaves_nothing(own):
    own.start()
    made = [create(own) for _ in range(3)]
    made[0].commands.run("sleep 600", background=True)
    assert own.interrupt() == 0, own.log()
    eventually(lambda: not processes_of(own.data_dir), 5, "every process of a sandbox ended")
    assert mounts_of(own.data_dir) == []
    own.start()
    assert own.listed() == set()


def test_the_next_start_is_quick_and_keeps_the_key(own):
    own.start()
    key = own.ready["api_key"]
    assert own.interrupt() == 0
    began = time.monotonic()
    own.start()
    assert own.ready["api_key"] == key
    assert time.monotonic() - began < 10, "the template was made again"


def test_sandboxes_outlive_a_kill_and_are_adopted(own):
    own.start()
    made = create(own)
    made.files.write("kept", "kept")
    handle = made.commands.run("sleep 600", background=True)
    before = made.get_info()
    own.kill()
    assert processes_of(own.data_dir), "the supervisor lives on"
    own.start()
    assert own.listed() == {made.sandbox_id}
    again = Sandbox.connect(made.sandbox_id, **own.options())
    assert again.files.read("kept") == "kept"
    assert handle.pid in [process.pid for process in again.commands.list()]
    info = again.get_info()
    assert (info.started_at, info.metadata) == (before.started_at, before.metadata)
    assert again.kill() is True
    eventually(lambda: own.listed() == set(), 5, "the adopted sandbox can be killed")


def test_a_deadline_that_passed_while_the_server_was_dead(own):
    own.start()
    made = create(own, timeout=3)
    own.kill()
    time.sleep(4)  # What is waited for is time itself: nobody is there to ask.
    own.start()
    eventually(lambda: made.sandbox_id not in own.listed(), 10, "the late sandbox is killed")
    held = f"*{made.sandbox_id}*"
    eventually(lambda: not list(own.data_dir.rglob(held)), 10, "and what it held is released")


def test_a_sandbox_killed_from_outside_is_noticed(own):
    own.start()
    made = create(own)
    made.commands.run("kill -9 -1 || true; kill -9 1 || true", user="root", background=True)
    supervisors = processes_of(own.data_dir) - {own.process.pid}
    for pid in supervisors:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass
    eventually(lambda: made.sandbox_id not in own.listed(), 10, "the dead sandbox leaves the list")


def test_a_chosen_key(own):
    key = "e2b_" + "ab" * 20
    own.start("--api-key", key)
    assert own.ready["api_key"] == key
    assert own.listed() == set()


def test_a_port_in_use_is_said_in_one_line(own):
    own.start()
    port = own.ready["api_url"].rsplit(":", 1)[1].strip("/")
    with_other = str(own.data_dir) + "-other"
    failed = atoll("dev", "--json", "--data-dir", with_other, "--listen", f"127.0.0.1:{port}")
    subprocess.run(["rm", "-rf", with_other], check=True)
    assert failed.returncode != 0
    (line,) = failed.stderr.splitlines()
    assert port in line and "in use" in line and "--listen" in line


def test_a_data_directory_that_cannot_be_written():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listen = f"127.0.0.1:{port}"
    failed = atoll("dev", "--json", "--data-dir", "/proc/nowhere", "--listen", listen)
    assert failed.returncode != 0
    assert "/proc/nowhere" in failed.stderr
    assert "panicked" not in failed.stderr


def test_two_servers_do_not_share_a_data_directory(own):
    own.start()
    failed = atoll("dev", "--json", "--data-dir", str(own.data_dir), "--listen", "127.0.0.1:0")
    assert failed.returncode != 0, failed.stdout
    assert own.listed() == set()


def test_run_with_a_server_of_its_own(tmp_path):
    done = atoll("run", "--data-dir", str(tmp_path / "d"), "--", "python3", "-c", "print(6*7)")
    assert (done.stdout, done.returncode) == ("42\n", 0), done.stderr
    assert not processes_of(tmp_path / "d")
    assert mounts_of(tmp_path / "d") == []


def test_run_against_a_running_server(own):
    own.start()
    script = "echo out; echo err >&2; exit 7"
    done = atoll("run", "--", "sh", "-c", script, env=own.env)
    assert (done.stdout, done.returncode) == ("out\n", 7), done.stderr
    assert "err\n" in done.stderr
    assert own.listed() == set()


def test_commands_for_sandboxes_and_keys(own):
    own.start()
    made = create(own)
    listed = atoll("sandbox", "list", "--json", env=own.env)
    assert listed.returncode == 0 and made.sandbox_id in listed.stdout, listed.stderr
    info = atoll("sandbox", "info", made.sandbox_id, "--json", env=own.env)
    assert json.loads(info.stdout)["sandboxID"] == made.sandbox_id, info
    command = ["sh", "-c", "echo hi; exit 3"]
    ran = atoll("sandbox", "exec", made.sandbox_id, "--", *command, env=own.env)
    assert (ran.stdout, ran.returncode) == ("hi\n", 3), ran.stderr
    killed = atoll("sandbox", "kill", made.sandbox_id, env=own.env)
    assert killed.returncode == 0, killed.stderr
    assert own.listed() == set()


def test_help_and_doctor():
    assert "dev" in atoll("--help").stdout
    report = atoll("doctor", "--json")
    assert report.stdout, report.stderr
    json.loads(report.stdout)
