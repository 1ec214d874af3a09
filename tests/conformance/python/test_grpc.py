"""The orchestrator's service, called by an independent gRPC client through reflection."""

import urllib.parse
import uuid

import grpc
import pytest
from grpc import StatusCode
from grpc_client import SERVICE, Orchestrator
from server import DevServer, eventually

# What a create takes at most on a busy machine.
CREATE_LIMIT_S = 60
# Calls that a server with a node of its own, which takes in no others, has no use for.
FLEET_CALLS = {
    "RegisterNode": {"nodeId": "n", "incarnation": "1", "address": "http://127.0.0.1:1"},
    "Heartbeat": {
        "nodeId": "n",
        "incarnation": "1",
        "at": "2026-01-01T00:00:00Z",
        "total": {},
        "allocated": {},
    },
}
OPERATOR_CALLS = {
    "RegisterNode",
    "Heartbeat",
    "GetNodeStatus",
    "ListNodes",
    "DrainNode",
    "GetSystemMetrics",
    "GetHealth",
}
# SERVING and NOT_SERVING: a machine that is busy enough makes a server slow, and it says so.
HEALTHS = (b"\x08\x01", b"\x08\x02")
UNKNOWN_KEY = "e2b_" + "f" * 40


@pytest.fixture(scope="module")
def fresh():
    """A server that nothing was asked of before."""
    running = DevServer()
    try:
        running.start()
        yield running
        assert running.process.poll() is None, f"the server died:\n{running.log()}"
        code = running.interrupt()
        assert code == 0, f"Ctrl-C ended it with {code}:\n{running.log()}"
    finally:
        running.stop()


@pytest.fixture(scope="module")
def nobody(fresh):
    address = urllib.parse.urlsplit(fresh.ready["api_url"]).netloc
    client = Orchestrator(address)
    yield client
    client.close()


@pytest.fixture(scope="module")
def team(fresh, nobody):
    return nobody.acting_as(("x-api-key", fresh.ready["api_key"]))


@pytest.fixture(scope="module")
def operator(fresh, nobody):
    token = (fresh.data_dir / "admin-token").read_text().strip()
    return nobody.acting_as(("x-admin-token", token))


@pytest.fixture
def sandbox(team):
    made = team.call("CreateSandbox", {"template": "base", "timeout": "120s"})
    yield made.sandbox
    try:
        team.call("DeleteSandbox", {"sandboxId": made.sandbox.id})
    except Exception as error:
        assert getattr(error, "code", None) == StatusCode.NOT_FOUND, error


def number(client, enum, name):
    """The number of an enumeration's value."""
    described = client.pool.FindEnumTypeByName(f"atoll.orchestrator.v1.{enum}")
    return described.values_by_name[name].number


def test_reflection_tells_every_service(nobody):
    services = set(nobody.database.get_services())
    assert SERVICE in services
    assert len(nobody.methods()) == 20
    # What reflection tells is complete: every message can be made.
    for method in nobody.methods().values():
        nobody.message(method.input_type.full_name)
        nobody.message(method.output_type.full_name)


def test_the_standard_health_service(nobody):
    for service in ("", SERVICE):
        raw = nobody.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        request = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
        # Field 1 (status) is 1: SERVING.
        assert raw(request, timeout=10) == b"\x08\x01"


def test_a_sandbox_from_create_to_delete(team, fresh):
    wanted = {
        "template": "base",
        "timeout": "90s",
        "metadata": {"mark": uuid.uuid4().hex},
        "envVars": {"GREETING": "hello"},
        "network": {"denyOut": ["192.0.2.0/24"]},
    }
    made = team.call("CreateSandbox", wanted)
    sandbox = made.sandbox
    assert sandbox.id and made.access.envd_access_token
    assert sandbox.state == number(team, "SandboxState", "SANDBOX_STATE_RUNNING")
    assert sandbox.generation == 1 and sandbox.node_id and sandbox.team_id
    assert dict(sandbox.metadata) == wanted["metadata"]
    assert list(sandbox.network.deny_out) == ["192.0.2.0/24"]
    assert sandbox.resources.cpu_millicores >= 1000
    assert sandbox.resources.memory_bytes >= 64 << 20
    assert sandbox.created_at.seconds <= sandbox.started_at.seconds <= sandbox.deadline.seconds
    # Both doors show the same.
    answer = fresh.request("GET", f"/sandboxes/{sandbox.id}")
    assert answer.json()["metadata"] == wanted["metadata"]

    found = team.call("GetSandbox", {"sandboxId": sandbox.id})
    assert found.sandbox.id == sandbox.id
    listed = team.call("ListSandboxes", {"metadata": wanted["metadata"]})
    assert [one.id for one in listed.sandboxes] == [sandbox.id]
    assert listed.total_running >= 1 and not listed.next_page_token

    team.call("DeleteSandbox", {"sandboxId": sandbox.id})
    for name in ("GetSandbox", "DeleteSandbox"):
        refused = team.refusal(name, {"sandboxId": sandbox.id})
        assert refused.code == StatusCode.NOT_FOUND
    assert sandbox.id not in fresh.listed()


def test_a_sandbox_is_paused_resumed_and_restarted(team, sandbox):
    named = {"sandboxId": sandbox.id}
    for call, request in (
        ("PauseSandbox", named),
        ("PauseSandbox", {**named, "filesOnly": True}),
    ):
        paused = team.call(call, request).sandbox
        assert paused.state == number(team, "SandboxState", "SANDBOX_STATE_PAUSED")
        for refused in ("PauseSandbox", "RestartSandbox"):
            assert team.refusal(refused, named).code == StatusCode.FAILED_PRECONDITION, refused
        resumed = team.call("ResumeSandbox", {**named, "timeout": "90s"})
        assert resumed.sandbox.state == number(team, "SandboxState", "SANDBOX_STATE_RUNNING")
        assert resumed.sandbox.generation > paused.generation
        assert resumed.access.envd_access_token
    assert team.refusal("ResumeSandbox", named).code == StatusCode.FAILED_PRECONDITION
    restarted = team.call("RestartSandbox", named).sandbox
    assert restarted.id == sandbox.id
    assert restarted.generation > resumed.sandbox.generation
    for name in ("PauseSandbox", "ResumeSandbox", "RestartSandbox"):
        assert team.refusal(name, {"sandboxId": "inone"}).code == StatusCode.NOT_FOUND, name


def test_pages(team):
    mark = {"mark": uuid.uuid4().hex}
    made = [
        team.call("CreateSandbox", {"template": "base", "metadata": mark}).sandbox.id
        for _ in range(3)
    ]
    try:
        query = {"metadata": mark, "pageSize": 2, "order": "ORDER_OLDEST_FIRST"}
        first = team.call("ListSandboxes", query)
        assert [one.id for one in first.sandboxes] == made[:2]
        rest = team.call("ListSandboxes", {**query, "pageToken": first.next_page_token})
        assert [one.id for one in rest.sandboxes] == made[2:] and not rest.next_page_token
    finally:
        for sandbox_id in made:
            team.call("DeleteSandbox", {"sandboxId": sandbox_id})


def test_a_batch(team):
    mark = {"mark": uuid.uuid4().hex}
    good = {"template": "base", "metadata": mark}
    request = {"requestId": uuid.uuid4().hex, "requests": [good, {"template": "nowhere"}, good]}
    made = team.call("BatchCreateSandboxes", request)
    outcomes = [result.WhichOneof("outcome") for result in made.results]
    assert outcomes == ["created", "error", "created"]
    assert made.results[1].error.code == StatusCode.NOT_FOUND.value[0]
    again = team.call("BatchCreateSandboxes", request)
    for place in (0, 2):
        ours = made.results[place].created.sandbox.id
        assert again.results[place].created.sandbox.id == ours
        team.call("DeleteSandbox", {"sandboxId": ours})

    refused = team.refusal("BatchCreateSandboxes", {"requests": [good, {"template": ""}]})
    assert refused.code == StatusCode.INVALID_ARGUMENT
    violations = refused.details["google.rpc.BadRequest"].field_violations
    assert [violation.field for violation in violations] == ["requests[1].template"]
    assert not team.call("ListSandboxes", {"metadata": mark}).sandboxes


def test_every_wrong_field_is_named(team):
    wrong = {
        "requestId": "not a key",
        "timeout": "-1s",
        "metadata": {"": "x"},
        "envVars": {"A=B": "x"},
        "network": {"denyOut": ["example.org"]},
    }
    refused = team.refusal("CreateSandbox", wrong)
    assert refused.code == StatusCode.INVALID_ARGUMENT
    violations = refused.details["google.rpc.BadRequest"].field_violations
    fields = {violation.field for violation in violations}
    assert fields == {
        "template", "timeout", "metadata", "env_vars", "network.deny_out", "request_id",
    }
    assert all(violation.description for violation in violations)
    for name in team.methods():
        if name in OPERATOR_CALLS:
            continue
        fields = team.methods()[name].input_type.fields_by_name
        if "sandbox_id" in fields:
            refused = team.refusal(name, {"sandboxId": "NOT AN ID"})
            assert refused.code == StatusCode.INVALID_ARGUMENT, name
            violations = refused.details["google.rpc.BadRequest"].field_violations
            assert [violation.field for violation in violations] == ["sandbox_id"], name


def test_a_request_id_is_an_idempotency_key(team):
    request = {"requestId": uuid.uuid4().hex, "template": "base", "metadata": {"a": "1"}}
    first = team.call("CreateSandbox", request).sandbox
    assert team.call("CreateSandbox", request).sandbox.id == first.id
    refused = team.refusal("CreateSandbox", {**request, "metadata": {"a": "2"}})
    assert refused.code == StatusCode.ALREADY_EXISTS
    info = refused.details["google.rpc.ErrorInfo"]
    assert (info.domain, info.reason) == ("atoll", "IDEMPOTENCY_REQUEST_MISMATCH")

    team.call("DeleteSandbox", {"sandboxId": first.id})
    refused = team.refusal("CreateSandbox", request)
    assert refused.code == StatusCode.FAILED_PRECONDITION
    assert refused.details["google.rpc.ErrorInfo"].reason == "IDEMPOTENCY_OUTCOME_UNKNOWN"


def test_a_deadline_is_kept_and_the_work_goes_on(team):
    request = {"requestId": uuid.uuid4().hex, "template": "base"}
    refused = team.refusal("CreateSandbox", request, timeout=0.002)
    assert refused.code == StatusCode.DEADLINE_EXCEEDED
    # The caller's retry gives one sandbox, whatever the first attempt came to.
    ids = {team.call("CreateSandbox", request, timeout=CREATE_LIMIT_S).sandbox.id for _ in "ab"}
    assert len(ids) == 1
    team.call("DeleteSandbox", {"sandboxId": ids.pop()})


def test_strangers_and_credentials_that_are_not_enough(nobody, team, fresh):
    strangers = (
        nobody,
        nobody.acting_as(("x-api-key", UNKNOWN_KEY)),
        nobody.acting_as(("authorization", "Bearer nonsense")),
        nobody.acting_as(("x-admin-token", "wrong")),
        nobody.acting_as(("x-admin-token", "wrong"), ("x-team-id", "default")),
    )
    for name in nobody.methods():
        for stranger in strangers:
            assert stranger.refusal(name).code == StatusCode.UNAUTHENTICATED, name
    for name in OPERATOR_CALLS:
        assert team.refusal(name).code == StatusCode.PERMISSION_DENIED, name
    for scope in ({"fleet": {}}, {"nodeId": "x"}, {"teamId": "x"}):
        refused = team.refusal("GetResourceUsage", scope)
        assert refused.code == StatusCode.PERMISSION_DENIED, scope

    bearer = nobody.acting_as(("authorization", f"Bearer {fresh.ready['api_key']}"))
    bearer.call("ListSandboxes")


def test_a_sandbox_is_followed_to_its_end(team):
    made = team.call("CreateSandbox", {"template": "base", "timeout": "120s"}).sandbox
    watch = team.start("WatchSandbox", {"sandboxId": made.id})
    try:
        first = next(watch)
        assert first.WhichOneof("item") == "idle" and first.sandbox.id == made.id
        team.call("DeleteSandbox", {"sandboxId": made.id})
        events = [item.event for item in watch if item.WhichOneof("item") == "event"]
        assert events[-1].type == "sandbox.deleted"
        assert {event.sandbox_id for event in events} == {made.id}
        # It ended by itself, without an error.
        assert watch.code() == StatusCode.OK
    finally:
        watch.cancel()


def test_events_go_on_at_a_cursor(team, operator, sandbox):
    def read(client, request, last):
        """The events up to the first of type `last`."""
        watch = client.start("WatchEvents", request)
        try:
            events = []
            for item in watch:
                if item.WhichOneof("item") == "event":
                    events.append(item.event)
                    if item.event.type == last:
                        return events
        finally:
            watch.cancel()

    query = {"cursor": "0", "sandboxId": sandbox.id, "types": ["sandbox.*"]}
    events = read(team, query, "sandbox.running")
    assert events[0].type == "sandbox.created"
    assert {event.team_id for event in events} == {sandbox.team_id}
    assert [int(event.cursor) for event in events] == sorted({int(e.cursor) for e in events})
    rest = read(team, {**query, "cursor": events[0].cursor}, "sandbox.running")
    assert [event.cursor for event in rest] == [event.cursor for event in events[1:]]
    # The operator sees them without naming a team.
    seen = read(operator, query, "sandbox.running")
    assert [event.cursor for event in seen] == [event.cursor for event in events]

    # A deadline ends a quiet stream.
    quiet = team.start("WatchEvents", {"types": ["resource.exhausted"]}, timeout=0.5)
    with pytest.raises(grpc.RpcError) as error:
        next(quiet)
    assert error.value.code() == StatusCode.DEADLINE_EXCEEDED
    for wrong in ({"cursor": "x"}, {"types": ["pod.*"]}):
        assert team.refusal("WatchEvents", wrong).code == StatusCode.INVALID_ARGUMENT


def test_a_key_that_only_reads(nobody, team, fresh, sandbox):
    body = {"name": "reader", "readOnly": True}
    answer = fresh.request("POST", "/api-keys", body)
    assert answer.status == 201, answer
    reader = nobody.acting_as(("x-api-key", answer.json()["key"]))
    assert reader.call("GetSandbox", {"sandboxId": sandbox.id}).sandbox.id == sandbox.id
    for name, request in (
        ("CreateSandbox", {"template": "base"}),
        ("DeleteSandbox", {"sandboxId": sandbox.id}),
    ):
        assert reader.refusal(name, request).code == StatusCode.PERMISSION_DENIED, name
    team.call("GetSandbox", {"sandboxId": sandbox.id})


def test_the_operator_acts_for_a_team(operator, team, sandbox):
    acting = operator.acting_as(*operator.metadata, ("x-team-id", sandbox.team_id))
    assert acting.call("GetSandbox", {"sandboxId": sandbox.id}).sandbox.id == sandbox.id
    other = operator.acting_as(*operator.metadata, ("x-team-id", str(uuid.uuid4())))
    refused = other.refusal("GetSandbox", {"sandboxId": sandbox.id})
    assert refused.code == StatusCode.NOT_FOUND


def test_what_is_short_is_said_with_when_to_try_again(team, operator, fresh):
    token = dict(operator.metadata)["x-admin-token"]
    # More memory than any machine that runs this has.
    large = {"name": "large", "source": {"kind": "host"}, "memoryMB": 1 << 30, "public": True}
    headers = {"X-Admin-Token": token}
    started = fresh.request("POST", "/admin/v1/imports", large, headers, key=False)
    assert started.status == 202, started

    def is_imported():
        path = f"/admin/v1/imports/{started.json()['importID']}"
        done = fresh.request("GET", path, headers=headers, key=False).json()
        assert done["status"] != "error", done
        return done["status"] == "ready"

    eventually(is_imported, 60, "the import ends")
    refused = team.refusal("CreateSandbox", {"template": "large"})
    assert refused.code == StatusCode.RESOURCE_EXHAUSTED
    short = refused.details["google.rpc.QuotaFailure"].violations[0]
    assert short.subject in ("fleet", "team") and "memory" in short.description
    assert refused.details["google.rpc.RetryInfo"].retry_delay.seconds >= 1
    assert refused.details["google.rpc.ErrorInfo"].domain == "atoll"


def test_a_message_has_a_limit(team):
    refused = team.refusal("CreateSandbox", {"template": "x" * (5 << 20)})
    assert refused.code == StatusCode.RESOURCE_EXHAUSTED


def test_operators_see_nodes_usage_and_health(team, operator, sandbox):
    own = {"teamId": sandbox.team_id}
    nodes = operator.call("ListNodes").nodes
    assert [node.id for node in nodes] == [sandbox.node_id]
    assert nodes[0].state == number(operator, "NodeState", "NODE_STATE_READY")
    assert nodes[0].driver and nodes[0].HasField("last_heartbeat_at")
    for scope in ({"fleet": {}}, {"nodeId": sandbox.node_id}):
        usage = operator.call("GetResourceUsage", scope)
        capacity = usage.capacity
        assert usage.sandboxes >= 1
        for unit in ("cpu_millicores", "memory_bytes", "disk_bytes"):
            total, used = getattr(capacity.total, unit), getattr(capacity.used, unit)
            assert used >= getattr(sandbox.resources, unit), unit
            assert getattr(capacity.available, unit) == max(total - used, 0), unit
        assert usage.measured.total.HasField("network_bits_per_second")
    status = operator.call("GetNodeStatus", {"nodeId": sandbox.node_id})
    held = {one.sandbox_id: one.resources for one in status.allocations}
    assert held[sandbox.id] == sandbox.resources
    drained = operator.call("DrainNode", {"nodeId": sandbox.node_id}).node
    assert drained.state == number(operator, "NodeState", "NODE_STATE_DRAINING")
    refused = team.refusal("CreateSandbox", {"template": "base"})
    assert refused.code == StatusCode.RESOURCE_EXHAUSTED
    opened = operator.call("DrainNode", {"nodeId": sandbox.node_id, "undo": True}).node
    assert opened.state == number(operator, "NodeState", "NODE_STATE_READY")
    for client, scope in ((team, {}), (team, own), (operator, own)):
        usage = client.call("GetResourceUsage", scope)
        assert usage.sandboxes >= 1
        assert usage.capacity.used.memory_bytes >= sandbox.resources.memory_bytes
        assert usage.capacity.total.memory_bytes >= usage.capacity.used.memory_bytes
    for name in ("GetNodeStatus", "DrainNode"):
        assert operator.refusal(name, {"nodeId": "none"}).code == StatusCode.NOT_FOUND
        assert operator.refusal(name, {"nodeId": "NO"}).code == StatusCode.INVALID_ARGUMENT
    health = operator.call("GetHealth")
    components = {component.name: component.status for component in health.components}
    assert components["store"] == number(operator, "HealthStatus", "HEALTH_STATUS_HEALTHY")
    # A machine whose disk is nearly full is degraded, and that is no fault of this call.
    assert health.status == max(components.values())
    assert health.status != number(operator, "HealthStatus", "HEALTH_STATUS_UNHEALTHY")


def test_a_sandbox_is_explained_also_after_its_end(nobody, team, operator, fresh):
    wanted = {"template": "base", "timeout": "120s"}
    sandbox = team.call("CreateSandbox", wanted).sandbox
    named = {"sandboxId": sandbox.id}
    known = team.call("ExplainSandbox", named)
    assert known.sandbox.id == sandbox.id and known.sandbox.deadline == sandbox.deadline
    assert known.observed.state == number(team, "ObservedState", "OBSERVED_STATE_RUNNING")
    assert known.observed.generation == sandbox.generation
    assert known.observed.resources == sandbox.resources
    assert known.node_state == number(team, "NodeState", "NODE_STATE_READY")
    assert not known.plan and not known.in_progress
    decision = known.decisions[0]
    assert (decision.sandbox_id, decision.node_id) == (sandbox.id, sandbox.node_id)
    assert decision.reason and decision.score > 0 and decision.HasField("decided_at")
    assert known.history[0].type == "sandbox.created"
    # The other door tells the same.
    token = dict(operator.metadata)["x-admin-token"]
    headers = {"X-Admin-Token": token}
    path = f"/admin/v1/explain/sandboxes/{sandbox.id}"
    other = fresh.request("GET", path, headers=headers, key=False).json()
    assert [event.message for event in known.history] == [
        event["message"] for event in other["history"]
    ]
    assert other["intent"]["generation"] == known.sandbox.generation

    team.call("DeleteSandbox", named)
    for client in (team, operator):
        ended = client.call("ExplainSandbox", named)
        assert ended.history[-1].type == "sandbox.deleted"
        assert client.refusal("ExplainSandbox", {"sandboxId": "inone"}).code == StatusCode.NOT_FOUND
    stranger = operator.acting_as(*operator.metadata, ("x-team-id", str(uuid.uuid4())))
    assert stranger.refusal("ExplainSandbox", named).code == StatusCode.NOT_FOUND


def test_figures_are_those_of_the_metrics_page(operator, sandbox, fresh):
    headers = {"X-Admin-Token": dict(operator.metadata)["x-admin-token"]}
    page = fresh.request("GET", "/metrics", headers=headers, key=False).body.decode()
    read = operator.call("GetSystemMetrics")
    names = {metric.name for metric in read.metrics}
    on_page = {line.split("{")[0].split()[0] for line in page.splitlines() if line[:1] == "a"}
    assert on_page <= names
    assert any(metric.value > 0 for metric in read.metrics) and read.HasField("at")
    breaker = operator.call("GetSystemMetrics", {"namePrefix": "atoll_node_breaker"}).metrics
    by_state = {metric.labels["state"]: metric.value for metric in breaker}
    assert by_state == {"closed": 1.0, "open": 0.0, "half-open": 0.0}
    some = operator.call("GetSystemMetrics", {"namePrefix": "atoll_store_"}).metrics
    assert some and all(metric.name.startswith("atoll_store_") for metric in some)


def test_what_cannot_be_done_says_so(team, operator):
    for name, request in FLEET_CALLS.items():
        refused = operator.refusal(name, request)
        assert refused.code == StatusCode.UNIMPLEMENTED, name
        assert "not supported" in refused.message, name
    nothing = team.channel.unary_unary(f"/{SERVICE}/Nothing")
    with pytest.raises(grpc.RpcError) as error:
        nothing(b"", metadata=team.metadata, timeout=10)
    assert error.value.code() == StatusCode.UNIMPLEMENTED


def test_streams_have_a_limit_and_say_so(nobody, fresh):
    """More watchers than there are places: the last are refused, and the others are not harmed."""
    places = 1024
    clients = [Orchestrator(urllib.parse.urlsplit(fresh.ready["api_url"]).netloc) for _ in "abc"]
    calls = []
    try:
        refused = None
        for number in range(places + 2 * len(clients)):
            channel = clients[number % len(clients)].channel
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
            call = watch(b"", timeout=60)
            calls.append(call)
            try:
                assert next(iter(call)) in HEALTHS
            except grpc.RpcError as error:
                refused = nobody.refused("Watch", error)
                break
        assert refused is not None and refused.code == StatusCode.UNAVAILABLE
        assert refused.details["google.rpc.RetryInfo"].retry_delay.seconds >= 1
        assert len(calls) > places - 64, len(calls)
    finally:
        for call in calls:
            call.cancel()
        for client in clients:
            client.close()

    def is_free_again():
        watch = nobody.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=10)
        try:
            return next(iter(watch)) in HEALTHS
        except grpc.RpcError:
            return False
        finally:
            watch.cancel()

    eventually(is_free_again, 20, "places are given back")


def test_that_was_every_call_and_every_code(nobody):
    """Last: what the tests above have called and seen, against what the service describes."""
    called = {name for name in nobody.methods() if nobody.seen[name]}
    assert called == set(nobody.methods())
    codes = set().union(*nobody.seen.values())
    # INTERNAL would be a defect, and the server never answers the others.
    assert codes == {
        StatusCode.OK,
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.ALREADY_EXISTS,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNAUTHENTICATED,
        StatusCode.PERMISSION_DENIED,
        StatusCode.UNIMPLEMENTED,
    }
