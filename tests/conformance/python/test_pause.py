"""Pausing and resuming, through the SDK and the REST API it speaks."""

import json
import os
import time
import urllib.error
import urllib.request

import pytest
from e2b import Sandbox, SandboxQuery, SandboxState
from server import eventually

LIMIT_S = 20


def rest(method, path, body=None):
    """Status and document of one REST call."""
    request = urllib.request.Request(
        os.environ["E2B_API_URL"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"X-API-Key": os.environ["E2B_API_KEY"], "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def pause(sandbox, **body):
    status, answer = rest("POST", f"/sandboxes/{sandbox.sandbox_id}/pause", body or None)
    assert status == 204, answer


def detail(sandbox_id):
    status, answer = rest("GET", f"/sandboxes/{sandbox_id}")
    assert status == 200, answer
    return answer


def traffic(sandbox_id, port):
    """Status and body of one request to a port of a sandbox."""
    request = urllib.request.Request(
        os.environ["E2B_SANDBOX_URL"] + "/",
        headers={"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(port)},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture
def automatic(server):
    """Makes sandboxes that pause at their deadline, and removes them."""
    made = []

    def make(**options):
        body = {"templateID": "base", "autoPause": True, **options}
        status, answer = rest("POST", "/v2/sandboxes", body)
        assert status == 201, answer
        made.append(answer["sandboxID"])
        return answer["sandboxID"]

    yield make
    for sandbox_id in made:
        Sandbox.kill(sandbox_id)


def test_files_and_processes_survive_a_pause(sandbox):
    sandbox.files.write("/home/user/kept.txt", "kept")
    sleeper = sandbox.commands.run("sleep 1000", background=True)
    pause(sandbox)
    assert detail(sandbox.sandbox_id)["state"] == "paused"
    again = Sandbox.connect(sandbox.sandbox_id, timeout=120)
    assert again.sandbox_id == sandbox.sandbox_id
    assert again.files.read("/home/user/kept.txt") == "kept"
    assert sleeper.pid in [process.pid for process in again.commands.list()]
    assert detail(sandbox.sandbox_id)["state"] == "running"


def test_without_memory_only_files_survive(sandbox):
    sandbox.files.write("/home/user/kept.txt", "kept")
    sleeper = sandbox.commands.run("sleep 1000", background=True)
    pause(sandbox, memory=False)
    assert detail(sandbox.sandbox_id)["pauseMode"] == "filesystem"
    again = Sandbox.connect(sandbox.sandbox_id, timeout=120)
    assert again.files.read("/home/user/kept.txt") == "kept"
    assert sleeper.pid not in [process.pid for process in again.commands.list()]


def test_paused_sandboxes_are_listed_and_can_be_killed(server):
    made = Sandbox.create(timeout=60)
    pause(made)
    status, _ = rest("POST", f"/sandboxes/{made.sandbox_id}/pause")
    assert status == 409
    listed = Sandbox.list(SandboxQuery(state=[SandboxState.PAUSED])).next_items()
    assert made.sandbox_id in [info.sandbox_id for info in listed]
    assert Sandbox.kill(made.sandbox_id)
    assert not Sandbox.kill(made.sandbox_id)
    status, _ = rest("POST", f"/v2/sandboxes/{made.sandbox_id}/connect")
    assert status == 404


def test_a_deadline_pauses_and_paused_time_does_not_count(automatic):
    sandbox_id = automatic(timeout=2)
    eventually(lambda: detail(sandbox_id)["state"] == "paused", LIMIT_S, "the pause")
    before = time.time()
    status, _ = rest("POST", f"/v2/sandboxes/{sandbox_id}/connect", {"timeout": 60})
    assert status == 201
    shown = detail(sandbox_id)
    assert shown["state"] == "running"
    end = time.mktime(time.strptime(shown["endAt"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert end >= before + 55


def test_traffic_resumes_only_what_was_made_so(automatic):
    awake = automatic(timeout=120, autoResume={"enabled": True})
    asleep = automatic(timeout=120)
    for sandbox_id in (awake, asleep):
        sandbox = Sandbox.connect(sandbox_id, timeout=120)
        sandbox.commands.run("python3 -m http.server 8000", background=True)
        eventually(lambda: traffic(sandbox_id, 8000)[0] == 200, LIMIT_S, "the server")
        pause(sandbox)
    assert traffic(awake, 8000)[0] == 200
    assert detail(awake)["state"] == "running"
    status, body = traffic(asleep, 8000)
    assert (status, json.loads(body)["message"]) == (502, "The sandbox was not found")
    assert detail(asleep)["state"] == "paused"


def test_a_restart_keeps_the_id_and_begins_anew(sandbox):
    sandbox.files.write("/home/user/lost.txt", "lost")
    status, answer = rest("POST", f"/sandboxes/{sandbox.sandbox_id}/restart")
    assert (status, answer["sandboxID"]) == (200, sandbox.sandbox_id)
    again = Sandbox.connect(sandbox.sandbox_id, timeout=120)
    assert not again.files.exists("/home/user/lost.txt")
