"""Real Atolls in processes of their own, and what tests need to look at them from outside."""

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path

# The first start of a data directory makes the template `base`.
READY_LIMIT_S = 120
# Ends its sandboxes first; each of them has a bounded end.
STOP_LIMIT_S = 30

CHECKOUT = Path(__file__).resolve().parents[3]


def binary():
    """The program under test: `ATOLL_BIN`, or what `cargo build` left."""
    chosen = os.environ.get("ATOLL_BIN")
    if chosen:
        return Path(chosen)
    target = Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target"))
    return target / "debug" / "atoll"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(check, limit_s, what):
    """Waits until `check()` is true and returns its value."""
    deadline = time.monotonic() + limit_s
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s} s: {what}; last: {value!r}")
        time.sleep(0.02)


class Answer:
    """Status, headers and body of one raw HTTP exchange."""

    def __init__(self, response):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.body[:300]!r}"


class DevServer:
    """`atoll dev` with a data directory of its own, on a port of its own."""

    COMMAND = "dev"

    def __init__(self, data_dir=None, env=None):
        self._env = env or {}
        self._made = None
        if data_dir is None:
            self._made = data_dir = Path(tempfile.mkdtemp(prefix="atoll-conformance-"))
        self.data_dir = Path(data_dir)
        self.log_path = self.data_dir.with_name(self.data_dir.name + ".log")
        self.process = None
        self.ready = None

    def start(self, *extra):
        command = [binary(), self.COMMAND, "--json", "--data-dir", self.data_dir]
        command += ["--listen", f"127.0.0.1:{free_port()}", *extra]
        # Nothing of the caller's configuration may leak in.
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("E2B_", "ATOLL_"))}
        log = self.log_path.open("ab")
        self.process = subprocess.Popen(
            command,
            env={**keep, **self._env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self.ready = self._read_ready()
        return self

    def _read_ready(self):
        deadline = time.monotonic() + READY_LIMIT_S
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self.process.stdout], [], [], max(left, 0))
            chunk = os.read(self.process.stdout.fileno(), 4096) if readable else b""
            if not chunk:
                self.process.kill()
                code = self.process.wait()
                said = self.log()
                raise AssertionError(f"no ready line; exit code {code}, log:\n{said}")
            line += chunk
        return json.loads(line)

    def log(self):
        return self.log_path.read_text(errors="replace")[-8000:]

    @property
    def env(self):
        return {
            "E2B_API_KEY": self.ready["api_key"],
            "E2B_API_URL": self.ready["api_url"],
            "E2B_SANDBOX_URL": self.ready["sandbox_url"],
            "E2B_DOMAIN": self.ready["domain"],
        }

    def options(self):
        """The same as keyword arguments of the SDK."""
        return {
            "api_key": self.ready["api_key"],
            "api_url": self.ready["api_url"],
            "sandbox_url": self.ready["sandbox_url"],
            "domain": self.ready["domain"],
        }

    def interrupt(self):
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_LIMIT_S)

    def kill(self):
        """`kill -9`: the server has no say."""
        self.process.kill()
        self.process.wait(STOP_LIMIT_S)

    def stop(self):
        """Ends it whatever state it is in, and removes what it made."""
        if self.process and self.process.poll() is None:
            try:
                self.interrupt()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process:
            self.process.stdout.close()
        if self._made:
            shutil.rmtree(self._made, ignore_errors=True)
            self.log_path.unlink(missing_ok=True)

    def request(self, method, path, body=None, headers=None, key=True, url=None):
        """One raw request, with the path put on the wire as it is."""
        parsed = urllib.parse.urlsplit(url or self.ready["api_url"])
        sent = {"X-API-Key": self.ready["api_key"]} if key else {}
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        connection = http.client.HTTPConnection(parsed.hostname, parsed.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=sent)
            return Answer(connection.getresponse())

    def traffic(self, sandbox_id, port, path="/", method="GET", body=None, headers=None):
        """One raw request to a port inside a sandbox, routed by headers."""
        routed = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(port), **(headers or {})}
        url = self.ready["sandbox_url"]
        return self.request(method, path, body=body, headers=routed, key=False, url=url)

    def listed(self):
        """The ids the control API lists."""
        answer = self.request("GET", "/v2/sandboxes?limit=100")
        assert answer.status == 200, answer
        return {row["sandboxID"] for row in answer.json()}


class FleetServer(DevServer):
    """`atoll server`: the same, with nodes in processes of their own."""

    COMMAND = "server"


class FleetNode(DevServer):
    """`atoll node`. It is ready when it joined; its sandboxes outlive it."""

    COMMAND = "node"
