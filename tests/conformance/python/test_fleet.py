"""A server and a node in processes of their own: how nodes join, and traces that reach them."""

import collections
import http.server
import json
import threading
import urllib.parse
import uuid

import pytest
from grpc import StatusCode
from grpc_client import Orchestrator
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from server import FleetNode, FleetServer, eventually

TOKEN = "a-token-of-the-conformance-tests"
NODE = "n1"


class Collector:
    """An OpenTelemetry collector that keeps what it is told, by trace."""

    def __init__(self):
        self.traces = collections.defaultdict(list)
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                collector.take(ExportTraceServiceRequest.FromString(body))

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = "http://127.0.0.1:%d" % self.server.server_address[1]

    def take(self, request):
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.traces[span.trace_id.hex()].append(span)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def collector():
    running = Collector()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def fleet(collector):
    """A server with one node."""
    env = {
        "ATOLL_JOIN_TOKEN": TOKEN,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    server, node = FleetServer(env=env), FleetNode(env=env)
    try:
        server.start()
        node.start("--name", NODE, "--server", server.ready["api_url"], "--tag", "zone=a")
        yield server, node
        for sandbox in server.listed():
            server.request("DELETE", f"/sandboxes/{sandbox}")
    finally:
        node.stop()
        server.stop()


@pytest.fixture(scope="module")
def agent(fleet):
    """Speaks as a node agent does."""
    address = urllib.parse.urlsplit(fleet[0].ready["api_url"]).netloc
    client = Orchestrator(address, [("authorization", f"Bearer {TOKEN}")])
    yield client
    client.close()


def beat(incarnation):
    return {
        "nodeId": NODE,
        "incarnation": incarnation,
        "at": "2026-01-01T00:00:00Z",
        "total": {"cpuMillicores": 1000, "memoryBytes": 1 << 30, "diskBytes": 1 << 30},
        "allocated": {},
        "driver": "jail",
    }


def test_a_node_registers_and_beats(fleet, agent):
    server, node = fleet
    address = node.ready["address"]
    # Another machine does not get a name that is in use.
    other = {"nodeId": NODE, "incarnation": "x", "address": "http://127.0.0.1:1"}
    assert agent.refusal("RegisterNode", other).code == StatusCode.ALREADY_EXISTS
    # One that nobody reaches does not join.
    nowhere = {**other, "nodeId": "n2"}
    assert agent.refusal("RegisterNode", nowhere).code == StatusCode.FAILED_PRECONDITION
    wrong = agent.refusal("RegisterNode", {"nodeId": "NO", "address": "x"})
    assert wrong.code == StatusCode.INVALID_ARGUMENT
    fields = wrong.details["google.rpc.BadRequest"].field_violations
    assert {field.field for field in fields} == {"node_id", "incarnation"}
    # A new start of the node's agent takes its place, and the one before learns of it.
    ours = uuid.uuid4().hex
    full = {**other, "incarnation": ours, "address": address}
    joined = agent.call("RegisterNode", {**full, "name": "first", "tags": {"zone": "b"}})
    assert joined.node.id == NODE and joined.node.address.rstrip("/") == address.rstrip("/")
    assert joined.node.name == "first" and dict(joined.node.tags) == {"zone": "b"}
    assert joined.heartbeat_interval.seconds == 2
    assert (joined.suspect_after.seconds, joined.lost_after.seconds) == (10, 30)
    assert agent.call("Heartbeat", beat(ours)).is_member
    assert not agent.call("Heartbeat", beat("another")).is_member
    # The real agent finds out with its next heartbeat, and joins again.
    eventually(lambda: not agent.call("Heartbeat", beat(ours)).is_member, 20, "the node is back")
    stranger = agent.acting_as(("authorization", "Bearer another-token-of-some-length"))
    for name in ("RegisterNode", "Heartbeat"):
        assert stranger.refusal(name).code == StatusCode.UNAUTHENTICATED, name
    token = (server.data_dir / "admin-token").read_text().strip()
    operator = agent.acting_as(("x-admin-token", token))

    def is_described_anew():
        shown = operator.call("GetNodeStatus", {"nodeId": NODE}).node
        return shown.address == joined.node.address and dict(shown.tags) == {"zone": "a"}

    # It is a member as soon as it asks, and described once it was reached.
    eventually(is_described_anew, 20, "what the node says of itself is shown again")
    # The token opens nothing else.
    assert agent.refusal("ListNodes").code == StatusCode.UNAUTHENTICATED


def test_a_create_is_one_trace_from_the_request_to_the_guest_agent(fleet, collector):
    server, _ = fleet
    trace, client = uuid.uuid4().hex, uuid.uuid4().hex[:16]
    headers = {"traceparent": f"00-{trace}-{client}-01"}
    made = server.request("POST", "/v2/sandboxes", {"templateID": "base"}, headers)
    assert made.status == 201, made
    assert made.headers["x-e2b-trace-id"] == trace
    wanted = {
        "POST /v2/sandboxes", "request", "create", "schedule", "store.insert", "reconcile",
        "order Ensure", "node.start", "driver.create", "guest.init",
    }

    def is_complete():
        return wanted <= {span.name for span in collector.traces[trace]}

    eventually(is_complete, 20, f"the spans {wanted}")
    spans = {span.span_id.hex(): span for span in collector.traces[trace]}
    by_name = {span.name: span for span in spans.values()}

    def above(name):
        """The spans above one, up to the client's."""
        names, parent = [], by_name[name].parent_span_id.hex()
        while parent != client:
            names.append(spans[parent].name)
            parent = spans[parent].parent_span_id.hex()
        return names

    assert above("POST /v2/sandboxes") == []
    for name in ("schedule", "store.insert"):
        assert above(name) == ["create", "request", "POST /v2/sandboxes"]
    for name in ("driver.create", "guest.init"):
        assert above(name) == [
            "node.start", "order Ensure", "reconcile", "create", "request", "POST /v2/sandboxes",
        ]


def test_json_logs_name_trace_sandbox_node_and_generation():
    env = {
        "ATOLL_JOIN_TOKEN": TOKEN,
        "ATOLL_LOG_FORMAT": "json",
        "ATOLL_LOG": "info,atoll_control=debug,atoll_api=debug",
    }
    server, node = FleetServer(env=env), FleetNode(env=env)
    try:
        server.start()
        node.start("--name", NODE, "--server", server.ready["api_url"])
        trace = uuid.uuid4().hex
        headers = {"traceparent": f"00-{trace}-{uuid.uuid4().hex[:16]}-00"}
        made = server.request("POST", "/v2/sandboxes", {"templateID": "base"}, headers)
        assert made.status == 201, made
        sandbox = made.json()["sandboxID"]
        assert server.request("DELETE", f"/sandboxes/{sandbox}").status == 204

        def fields(process):
            """What each line says together with its spans, the inner ones first."""
            for line in process.log_path.read_text().splitlines():
                line = json.loads(line)
                assert {"timestamp", "level", "message", "target"} <= line.keys(), line
                yield dict(collections.ChainMap(line, *reversed(line.get("spans", []))))

        def says(process, message):
            wanted = (message, trace, sandbox, NODE, "1")
            names = ("message", "trace", "sandbox", "node", "generation")
            found = [tuple(str(line.get(name)) for name in names) for line in fields(process)]
            return wanted in found

        eventually(lambda: says(server, "state committed"), 20, "the server's line of the commit")
        eventually(lambda: says(node, "sandbox runs"), 20, "the node's line of the start")
    finally:
        node.stop()
        server.stop()
