"""Bad input: the documented status, body and message, and nothing changes."""

import json
import socket
import urllib.parse

import pytest

NOBODY = "i" + "0" * 20
VALIDATION = "validation error: "

# What a JSON body may be wrong in; each must be refused before anything is touched.
WRONG_BODIES = {
    "no template": {},
    "template is a number": {"templateID": 5},
    "timeout is a text": {"templateID": "base", "timeout": "10"},
    "timeout is a fraction": {"templateID": "base", "timeout": 1.5},
    "metadata is a list": {"templateID": "base", "metadata": ["a"]},
    "metadata of numbers": {"templateID": "base", "metadata": {"a": 1}},
    "envs of objects": {"templateID": "base", "envVars": {"A": {}}},
    "network is a text": {"templateID": "base", "network": "none"},
    "a list": [],
}


@pytest.fixture(autouse=True)
def nothing_changes(server):
    before = server.listed()
    yield
    assert server.listed() == before


def refused(answer, status, message=None):
    """Asserts the error body every client relies on."""
    assert answer.status == status, answer
    assert "application/json" in answer.headers["content-type"], answer.headers
    body = answer.json()
    assert body["code"] == status, body
    assert isinstance(body["message"], str) and body["message"], body
    if message is not None:
        assert message in body["message"], body
    return body["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "e2b_" + "0" * 40},
        {"X-API-Key": "e2b_"},
        {"X-API-Key": "not a key"},
        {"X-API-Key": "e2b_" + "g" * 40},
        {"X-API-Key": "e2b_" + "a" * 100_00},
        {"Authorization": "Bearer sk_e2b_" + "0" * 40},
    ],
    ids=["none", "unknown", "empty", "shapeless", "not hex", "long", "bearer"],
)
def test_keys(server, headers):
    for method, path in (
        ("POST", "/v2/sandboxes"),
        ("GET", "/v2/sandboxes"),
        ("GET", f"/sandboxes/{NOBODY}"),
        ("DELETE", f"/sandboxes/{NOBODY}"),
        ("GET", "/templates"),
    ):
        body = {"templateID": "base"} if method == "POST" else None
        refused(server.request(method, path, body, headers, key=False), 401)


@pytest.mark.parametrize("path", ["/sandboxes", "/v2/sandboxes"])
@pytest.mark.parametrize("text", ["{", "", "nonsense", '{"templateID": "base"', "\x00", "\xff"])
def test_malformed_json(server, path, text):
    headers = {"Content-Type": "application/json"}
    answer = server.request("POST", path, text.encode("latin-1"), headers)
    assert refused(answer, 400)


@pytest.mark.parametrize("path", ["/sandboxes", "/v2/sandboxes"])
@pytest.mark.parametrize("body", WRONG_BODIES.values(), ids=WRONG_BODIES)
def test_wrong_types(server, path, body):
    message = refused(server.request("POST", path, body), 400)
    assert message.startswith(VALIDATION), message


def test_deeply_nested_json(server):
    text = '{"templateID": "base", "metadata": ' + "[" * 100_000 + "]" * 100_000 + "}"
    headers = {"Content-Type": "application/json"}
    refused(server.request("POST", "/v2/sandboxes", text, headers), 400)


@pytest.mark.parametrize("path", ["/sandboxes", "/v2/sandboxes"])
def test_unknown_template(server, path):
    answer = server.request("POST", path, {"templateID": "no-such-template"})
    refused(answer, 404, "template 'no-such-template' not found")


@pytest.mark.parametrize("name", ["", "a b", "../base", "base:", "a/b/c", "x" * 5000, "ba\x00se"])
def test_template_names_that_are_no_names(server, name):
    answer = server.request("POST", "/v2/sandboxes", {"templateID": name})
    assert answer.status in (400, 404), answer
    refused(answer, answer.status)


@pytest.mark.parametrize("timeout", [-1, 0, -(2**31), -(2**63)])
def test_timeouts_that_are_too_small(server, timeout):
    body = {"templateID": "base", "timeout": timeout}
    message = refused(server.request("POST", "/v2/sandboxes", body), 400)
    assert message.startswith(VALIDATION) or "Timeout must be greater than 0" in message


@pytest.mark.parametrize("timeout", [100 * 365 * 24 * 3600, 2**31 - 1, 2**31, 2**63, 2**80])
def test_timeouts_that_are_too_large(server, timeout):
    body = {"templateID": "base", "timeout": timeout}
    message = refused(server.request("POST", "/v2/sandboxes", body), 400)
    assert message.startswith(VALIDATION) or "Timeout cannot be greater than" in message


def test_timeouts_of_a_running_one(server, sandbox):
    end_at = sandbox.get_info().end_at
    for timeout in (-1, 2**31, "10", None):
        path = f"/sandboxes/{sandbox.sandbox_id}/timeout"
        refused(server.request("POST", path, {"timeout": timeout}), 400)
    assert sandbox.get_info().end_at == end_at


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/timeout", {"timeout": 10}),
        ("POST", "/connect", {"timeout": 10}),
        ("POST", "/refreshes", {"duration": 10}),
        ("GET", "/metrics", None),
        ("GET", "/logs", None),
    ],
)
def test_ids_of_nobody(server, method, path, body):
    refused(server.request(method, f"/sandboxes/{NOBODY}{path}", body), 404)


def test_the_text_for_an_unknown_sandbox(server):
    answer = server.request("GET", f"/sandboxes/{NOBODY}")
    text = f"Sandbox \"{NOBODY}\" doesn't exist or you don't have access to it"
    assert refused(answer, 404) == text


@pytest.mark.parametrize("id_", ["UPPER", "a.b", "a%2Fb", "%00", "..", "x" * 1000, "%F0%9F"])
def test_ids_that_are_no_ids(server, id_):
    answer = server.request("GET", f"/sandboxes/{id_}")
    assert answer.status in (400, 404), answer
    refused(answer, answer.status)


def test_an_id_with_a_client_part(server, sandbox):
    answer = server.request("GET", f"/sandboxes/{sandbox.sandbox_id}-6532622b")
    assert answer.status == 200 and answer.json()["sandboxID"] == sandbox.sandbox_id


def test_an_oversized_body(server):
    body = json.dumps({"templateID": "base", "metadata": {"a": "x" * (17 * 1024 * 1024)}})
    headers = {"Content-Type": "application/json"}
    try:
        answer = server.request("POST", "/v2/sandboxes", body, headers)
    except (BrokenPipeError, ConnectionResetError):
        return  # It need not read to the end what it refuses.
    assert answer.status in (400, 413), answer


def test_a_body_that_never_ends(server):
    parsed = urllib.parse.urlsplit(server.ready["api_url"])
    with socket.create_connection((parsed.hostname, parsed.port), timeout=60) as wire:
        head = (
            f"POST /v2/sandboxes HTTP/1.1\r\nHost: {parsed.netloc}\r\n"
            f"X-API-Key: {server.ready['api_key']}\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        )
        wire.sendall(head.encode())
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        try:
            for _ in range(1024):
                wire.sendall(piece)
        except OSError:
            return  # It hung up, which is the right thing to do.
        assert wire.recv(12)[9:] in (b"400", b"413")


def test_unknown_routes_and_methods(server):
    for path in ("/no/such/route", "/sandboxes/x/y/z", "/v2"):
        refused(server.request("GET", path), 404)
    answer = server.request("PATCH", "/v2/sandboxes")
    assert answer.status in (404, 405), answer


@pytest.mark.parametrize("query", ["order=up", "state=asleep", "startedAfter=soon"])
def test_list_filters(server, query):
    refused(server.request("GET", f"/v2/sandboxes?{query}"), 400)


@pytest.mark.parametrize(
    "network",
    [
        {"denyOut": ["example.org"]},
        {"denyOut": ["300.0.0.1"]},
        {"allowOut": ["example.org"]},
        {"allowOut": ["10.0.0.0/33"]},
    ],
    ids=["domain denied", "no address", "domain without deny all", "no prefix"],
)
def test_networks(server, network):
    body = {"templateID": "base", "network": network}
    refused(server.request("POST", "/v2/sandboxes", body), 400)


def agent(server, sandbox, method, path, body=None, **headers):
    """A raw request to the guest agent, with its token."""
    headers.setdefault("X-Access-Token", sandbox._envd_access_token)
    return server.traffic(sandbox.sandbox_id, 49983, path, method, body, headers)


def rpc(server, sandbox, name, body):
    headers = {"Content-Type": "application/json", "Connect-Protocol-Version": "1"}
    return agent(server, sandbox, "POST", f"/{name}", json.dumps(body), **headers)


def test_paths_with_a_nul(server, sandbox):
    read = agent(server, sandbox, "GET", "/files?path=a%00b")
    assert read.status in (400, 404), read
    write = agent(
        server,
        sandbox,
        "POST",
        "/files?path=a%00b",
        b"x",
        **{"Content-Type": "application/octet-stream"},
    )
    assert write.status == 400, write
    answer = rpc(server, sandbox, "filesystem.Filesystem/MakeDir", {"path": "a\0b"})
    assert (answer.status, answer.json()["code"]) == (400, "invalid_argument"), answer
    assert sandbox.files.list(".", depth=1) == sandbox.files.list("/home/user")


def test_dots_stay_inside_the_sandbox(server, sandbox):
    up = "../" * 30
    assert sandbox.files.read(up + "etc/hostname") == sandbox.files.read("/etc/hostname")
    sandbox.files.write(up + "tmp/up", "x")
    assert sandbox.files.read("/tmp/up") == "x"


def test_a_file_written_to_a_directory(server, sandbox):
    headers = {"Content-Type": "application/octet-stream"}
    answer = agent(server, sandbox, "POST", "/files?path=/home/user", b"x", **headers)
    refused(answer, 400, "path is a directory: /home/user")


def test_reading_what_is_not_there(server, sandbox):
    refused(agent(server, sandbox, "GET", "/files?path=/no/such"), 404, "path '/no/such' does not")


def test_an_unknown_user_of_files(server, sandbox):
    refused(agent(server, sandbox, "GET", "/files?path=a&username=nobody-here"), 401, "nobody-here")


def test_the_agent_without_its_token(server, sandbox):
    for token in ("", "wrong"):
        answer = agent(server, sandbox, "GET", "/envs", **{"X-Access-Token": token})
        refused(answer, 401)


def test_a_program_that_does_not_exist(server, sandbox):
    body = json.dumps({"process": {"cmd": "/no/such/program", "args": []}}).encode()
    headers = {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}
    frame = b"\0" + len(body).to_bytes(4, "big") + body
    answer = agent(server, sandbox, "POST", "/process.Process/Start", frame, **headers)
    assert answer.status == 200, answer
    assert answer.body[0] == 2, "the only frame is the end of the stream"
    assert json.loads(answer.body[5:])["error"]["code"] == "invalid_argument", answer


def test_signals_nobody_knows(server, sandbox):
    process = {"process": {"pid": 1}, "signal": 99}
    answer = rpc(server, sandbox, "process.Process/SendSignal", process)
    assert answer.status >= 400, answer
    assert sandbox.commands.run("echo alive").stdout == "alive\n"


def test_malformed_rpc(server, sandbox):
    headers = {"Content-Type": "application/json", "Connect-Protocol-Version": "1"}
    path = "/filesystem.Filesystem/Stat"
    answer = agent(server, sandbox, "POST", path, b"{", **headers)
    assert (answer.status, answer.json()["code"]) == (400, "invalid_argument"), answer


def test_ports_that_are_no_ports(server, sandbox):
    for port in ("0", "65536", "-1", "http", ""):
        answer = server.traffic(sandbox.sandbox_id, port)
        assert answer.status == 400, f"{port}: {answer}"
    host = f"99999-{sandbox.sandbox_id}.{server.ready['domain']}"
    answer = server.request("GET", "/", headers={"Host": host}, key=False)
    assert answer.status == 400, answer


def test_a_killed_sandbox(server):
    from e2b import Sandbox

    made = Sandbox.create(timeout=60)
    made.kill()
    path = f"/sandboxes/{made.sandbox_id}"
    refused(server.request("GET", path), 404)
    refused(server.request("DELETE", path), 404)
    refused(server.request("POST", f"{path}/timeout", {"timeout": 10}), 404)
    refused(server.request("POST", f"/v2{path}/connect", {}), 404)
    assert server.traffic(made.sandbox_id, 49983, "/health").status == 502


def test_headers_of_any_size(server):
    answer = server.request("GET", "/v2/sandboxes", headers={"X-Filler": "x" * 30_000})
    assert answer.status in (200, 431), answer
    assert server.request("GET", "/health").status == 204
