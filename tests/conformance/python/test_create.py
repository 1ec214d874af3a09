"""Creating, describing and killing sandboxes."""

import datetime
import re
import uuid

import pytest
from e2b import AuthenticationException, Sandbox, SandboxException
from e2b.exceptions import NotFoundException
from server import eventually


def test_create_answers_with_what_the_sdk_needs(server):
    made = Sandbox.create(timeout=60)
    try:
        assert re.fullmatch(r"i[a-z0-9]{20}", made.sandbox_id)
        assert made.is_running()
        assert made.commands.run("echo ready").stdout == "ready\n"
    finally:
        assert made.kill() is True


def test_create_by_the_older_path(server):
    answer = server.request("POST", "/sandboxes", {"templateID": "base", "timeout": 30})
    assert answer.status == 201, answer
    made = answer.json()
    assert {"templateID", "sandboxID", "clientID", "envdVersion"} <= made.keys()
    assert server.request("DELETE", f"/sandboxes/{made['sandboxID']}").status == 204


def test_create_by_the_newer_path_is_secured(server):
    answer = server.request("POST", "/v2/sandboxes", {"templateID": "base"})
    assert answer.status == 201, answer
    made = answer.json()
    try:
        assert made["envdAccessToken"]
        denied = server.traffic(made["sandboxID"], 49983, "/metrics")
        assert denied.status == 401, denied
        allowed = server.traffic(
            made["sandboxID"],
            49983,
            "/metrics",
            headers={"X-Access-Token": made["envdAccessToken"]},
        )
        assert allowed.status == 200, allowed
    finally:
        server.request("DELETE", f"/sandboxes/{made['sandboxID']}")


def test_info_tells_what_was_asked_for(server):
    before = datetime.datetime.now(datetime.timezone.utc)
    metadata = {"purpose": "info", "ключ": "значение & = ?"}
    made = Sandbox.create(timeout=90, metadata=metadata, envs={"A": "b"})
    try:
        info = made.get_info()
        assert info.sandbox_id == made.sandbox_id
        assert info.metadata == metadata
        assert info.name == "base"
        assert info.state.value == "running"
        assert info.cpu_count >= 1 and info.memory_mb >= 128
        assert abs((info.started_at - before).total_seconds()) < 10
        assert 80 <= (info.end_at - info.started_at).total_seconds() <= 100
        assert made.commands.run("echo $A").stdout == "b\n"
    finally:
        made.kill()


def test_kill_is_final_and_idempotent(server):
    made = Sandbox.create(timeout=60)
    assert Sandbox.kill(made.sandbox_id) is True
    assert made.is_running() is False
    assert made.sandbox_id not in server.listed()
    assert Sandbox.kill(made.sandbox_id) is False
    with pytest.raises(NotFoundException):
        made.get_info()


def test_kill_of_an_unknown_id_is_false(server):
    assert Sandbox.kill("i" + "0" * 20) is False


def test_a_wrong_key_is_refused(server):
    with pytest.raises(AuthenticationException):
        Sandbox.create(timeout=10, api_key="e2b_" + "0" * 40)


def test_an_unknown_template_is_refused(server):
    before = server.listed()
    with pytest.raises(SandboxException, match="(?i)template.*not found"):
        Sandbox.create("no-such-template", timeout=10)
    assert server.listed() == before


def test_the_deadline_kills_within_a_second(server):
    made = Sandbox.create(timeout=3)
    end_at = made.get_info().end_at

    def gone():
        return made.sandbox_id not in server.listed() and datetime.datetime.now(
            datetime.timezone.utc
        )

    when = eventually(gone, 10, "the sandbox leaves the list")
    late = (when - end_at).total_seconds()
    assert -0.1 <= late <= 1.0, f"{late:.2f} s after its deadline"
    assert made.is_running() is False


def test_the_timeout_can_be_moved_both_ways(server):
    made = Sandbox.create(timeout=300)
    try:
        made.set_timeout(600)
        info = made.get_info()
        now = datetime.datetime.now(datetime.timezone.utc)
        assert 590 <= (info.end_at - now).total_seconds() <= 601
        made.set_timeout(2)
        eventually(lambda: not made.is_running(), 5, "the shortened deadline kills")
    finally:
        made.kill()


def test_a_timeout_of_zero_ends_it(server):
    made = Sandbox.create(timeout=300)
    try:
        made.set_timeout(0)
        eventually(lambda: not made.is_running(), 5, "the sandbox ends")
        assert made.sandbox_id not in server.listed()
    finally:
        made.kill()


def test_refreshes_extend(server):
    made = Sandbox.create(timeout=10)
    try:
        path = f"/sandboxes/{made.sandbox_id}/refreshes"
        assert server.request("POST", path, {"duration": 100}).status == 204
        now = datetime.datetime.now(datetime.timezone.utc)
        assert (made.get_info().end_at - now).total_seconds() > 90
    finally:
        made.kill()


def test_connect_from_another_client(server):
    made = Sandbox.create(timeout=60)
    try:
        made.files.write("here.txt", "from the first")
        other = Sandbox.connect(made.sandbox_id)
        assert other.files.read("here.txt") == "from the first"
        assert other.is_running()
        # Connecting never shortens.
        long = Sandbox.create(timeout=600)
        try:
            Sandbox.connect(long.sandbox_id, timeout=10)
            now = datetime.datetime.now(datetime.timezone.utc)
            assert (long.get_info().end_at - now).total_seconds() > 500
        finally:
            long.kill()
    finally:
        made.kill()


def test_connect_by_the_older_path(server, sandbox):
    path = f"/sandboxes/{sandbox.sandbox_id}/connect"
    answer = server.request("POST", path, {"timeout": 30})
    assert answer.status == 200, answer
    assert answer.json()["sandboxID"] == sandbox.sandbox_id


def test_connect_to_nothing(server):
    with pytest.raises(NotFoundException):
        Sandbox.connect("i" + "z" * 20)


def test_the_same_idempotency_key_makes_one_sandbox(server):
    key = str(uuid.uuid4())
    first = Sandbox.create(timeout=60, idempotency_key=key)
    try:
        again = Sandbox.create(timeout=60, idempotency_key=key)
        assert again.sandbox_id == first.sandbox_id
    finally:
        first.kill()


def test_metrics_and_logs(server, sandbox):
    samples = eventually(sandbox.get_metrics, 20, "the first sample")
    sample = samples[0]
    assert sample.mem_total > 0 and 0 < sample.mem_used <= sample.mem_total
    assert sample.cpu_count >= 1
    answer = server.request("GET", f"/sandboxes/{sandbox.sandbox_id}/logs")
    assert answer.status == 200, answer
    assert isinstance(answer.json()["logs"], list)


def test_health_needs_no_key(server):
    answer = server.request("GET", "/health", key=False)
    assert (answer.status, answer.body) == (204, b"")


def test_templates_list_base(server):
    answer = server.request("GET", "/templates")
    assert answer.status == 200, answer
    names = [name for row in answer.json() for name in row["names"] + row["aliases"]]
    assert any(name.split("/")[-1].split(":")[0] == "base" for name in names), names


def test_sandboxes_do_not_see_each_other(server, sandbox):
    other = Sandbox.create(timeout=60)
    try:
        other.files.write("/tmp/secret", "mine")
        assert not sandbox.files.exists("/tmp/secret")
        other.commands.run("sleep 77", background=True)
        assert "sleep 77" not in sandbox.commands.run("ps -eo args || true").stdout
    finally:
        other.kill()
