"""Reaching servers inside a sandbox."""

import base64
import http.client
import time
import urllib.parse

import pytest
from e2b import Sandbox
from server import eventually
from websockets.sync.client import connect

# A server of the standard library alone: a page, an echo, a slow stream, a WebSocket echo.
SERVER = r'''
import base64, hashlib, http.server, struct, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.headers.get("Upgrade", "").lower() == "websocket":
            return self.websocket()
        if self.path == "/stream":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number in range(3):
                piece = b"piece %d\n" % number
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
                time.sleep(0.5)
            self.wfile.write(b"0\r\n\r\n")
            return
        self.answer(200, f"{self.path} {self.headers['Host']}".encode())
    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        self.answer(201, self.rfile.read(length))
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Inside", "yes")
        self.end_headers()
        self.wfile.write(body)
    def websocket(self):
        guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        key = hashlib.sha1((self.headers["Sec-WebSocket-Key"] + guid).encode()).digest()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(key).decode())
        self.end_headers()
        while True:
            first, second = self.rfile.read(2)
            length = second & 127
            if length == 126:
                length, = struct.unpack(">H", self.rfile.read(2))
            elif length == 127:
                length, = struct.unpack(">Q", self.rfile.read(8))
            mask = self.rfile.read(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(length)))
            if first & 15 == 8:
                self.close_connection = True
                return
            size = bytes([length]) if length < 126 else struct.pack(">BH", 126, length)
            self.wfile.write(bytes([first]) + size + data)
            self.wfile.flush()
    def log_message(self, *args):
        pass

address, port = sys.argv[1], int(sys.argv[2])
http.server.ThreadingHTTPServer((address, port), Handler).serve_forever()
'''


@pytest.fixture
def inside(server, sandbox):
    """A sandbox whose port 8000 answers on its loopback address."""
    start(server, sandbox, "127.0.0.1", 8000)
    return sandbox


def start(server, sandbox, address, port):
    sandbox.files.write("server.py", SERVER)
    command = f"python3 server.py {address} {port}"
    sandbox.commands.run(command, background=True, timeout=0)
    eventually(
        lambda: server.traffic(sandbox.sandbox_id, port).status == 200,
        10,
        f"the server inside listens on {address}:{port}",
    )


def test_by_headers(server, inside):
    answer = server.traffic(inside.sandbox_id, 8000, "/a/b?c=d%20e")
    assert answer.status == 200 and answer.body.startswith(b"/a/b?c=d%20e ")
    assert answer.headers["x-inside"] == "yes"
    answer = server.traffic(inside.sandbox_id, 8000, method="POST", body=b"x" * 100_000)
    assert (answer.status, answer.body) == (201, b"x" * 100_000)


def test_by_host_name(server, inside):
    host = inside.get_host(8000)
    assert host.startswith(f"8000-{inside.sandbox_id}.")
    answer = server.request("GET", "/by/host", headers={"Host": host}, key=False)
    assert answer.status == 200 and answer.body.startswith(b"/by/host ")


def test_servers_on_every_address(server, sandbox):
    start(server, sandbox, "0.0.0.0", 8001)


def test_streams_are_not_held_back(server, inside):
    parsed = urllib.parse.urlsplit(server.ready["sandbox_url"])
    connection = http.client.HTTPConnection(parsed.hostname, parsed.port, timeout=30)
    headers = {"E2b-Sandbox-Id": inside.sandbox_id, "E2b-Sandbox-Port": "8000"}
    began = time.monotonic()
    connection.request("GET", "/stream", headers=headers)
    response = connection.getresponse()
    assert response.readline() == b"piece 0\n"
    assert time.monotonic() - began < 0.45, "the first piece waited for the last"
    assert response.read() == b"piece 1\npiece 2\n"
    connection.close()


def test_a_websocket(server, inside):
    parsed = urllib.parse.urlsplit(server.ready["sandbox_url"])
    headers = {"E2b-Sandbox-Id": inside.sandbox_id, "E2b-Sandbox-Port": "8000"}
    url = f"ws://{parsed.netloc}/socket"
    with connect(url, additional_headers=headers, proxy=None) as socket:
        for text in ("hello", "ж" * 20_000):
            socket.send(text)
            assert socket.recv(timeout=10) == text
        socket.send(b"\x00\xff")
        assert socket.recv(timeout=10) == b"\x00\xff"


def test_a_port_with_nobody_listening(server, sandbox):
    answer = server.traffic(sandbox.sandbox_id, 8999)
    assert answer.status == 502, answer
    assert answer.json() == {
        "sandboxId": sandbox.sandbox_id,
        "message": "The sandbox is running but port is not open",
        "port": 8999,
        "code": 502,
    }


def test_a_killed_sandbox(server):
    made = Sandbox.create(timeout=60)
    made.kill()
    for headers in ({}, {"Host": made.get_host(80)}):
        answer = server.traffic(made.sandbox_id, 80, headers=headers)
        assert answer.status == 502, answer
        assert answer.json() == {
            "sandboxId": made.sandbox_id,
            "message": "The sandbox was not found",
            "code": 502,
        }


def test_internal_routes_of_the_guest_agent_are_closed(server, sandbox):
    answer = server.traffic(sandbox.sandbox_id, 49983, "/init", method="POST", body=b"{}")
    assert answer.status == 404, answer
    assert answer.json()["code"] == 404
    assert sandbox.commands.run("echo fine").stdout == "fine\n"


def test_traffic_can_need_a_token(server):
    made = Sandbox.create(timeout=60, network={"allow_public_traffic": False})
    try:
        made.files.write("server.py", SERVER)
        made.commands.run("python3 server.py 127.0.0.1 8000", background=True, timeout=0)
        token = {"e2b-traffic-access-token": made.traffic_access_token}
        eventually(
            lambda: server.traffic(made.sandbox_id, 8000, headers=token).status == 200,
            10,
            "the server answers with the token",
        )
        assert server.traffic(made.sandbox_id, 8000).status == 403
        wrong = {"e2b-traffic-access-token": base64.b64encode(b"wrong").decode()}
        assert server.traffic(made.sandbox_id, 8000, headers=wrong).status == 403
    finally:
        made.kill()
