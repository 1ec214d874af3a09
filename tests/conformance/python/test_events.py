"""Events and webhooks as a user has them: pages by cursor, a stream, and signed deliveries."""

import base64
import hashlib
import hmac
import http.client
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse

import pytest
from server import CHECKOUT, eventually

# What the life of one sandbox tells, in its order.
LIFE = ["sandbox.created", "sandbox.placed", "sandbox.running", "sandbox.deleted"]
SECRET = "a secret of the tests"
LIMIT_S = 20


def live(server):
    """A sandbox that comes and goes; its id."""
    made = server.request("POST", "/v2/sandboxes", {"templateID": "base"})
    assert made.status == 201, made
    name = made.json()["sandboxID"]
    assert server.request("DELETE", f"/sandboxes/{name}").status == 204
    return name


def page(server, cursor, **query):
    text = urllib.parse.urlencode({"cursor": cursor, **query})
    answer = server.request("GET", f"/events?{text}")
    assert answer.status == 200, answer
    return answer.json()


def test_pages_by_cursor_tell_all_once_and_in_order(server):
    name = live(server)
    cursor, seen = 0, []

    def is_told():
        nonlocal cursor
        while True:
            told = page(server, cursor, sandbox=name, limit=1)
            seen.extend(told["events"])
            cursor = told["cursor"]
            if told["isLast"]:
                return len(seen) >= len(LIFE)

    eventually(is_told, LIMIT_S, "the whole life is told")
    assert [event["kind"] for event in seen] == LIFE
    cursors = [event["cursor"] for event in seen]
    assert cursors == sorted(set(cursors))
    assert {event["sandboxID"] for event in seen} == {name}
    only = page(server, 0, sandbox=name, kind="sandbox.deleted")["events"]
    assert [event["kind"] for event in only] == LIFE[-1:]
    newest = server.request("GET", f"/events/sandboxes/{name}").json()
    assert [event["type"] for event in newest][0] == "sandbox.lifecycle.killed"


class Stream:
    """Server-sent events, read line by line."""

    def __init__(self, server, query, headers=None):
        address = urllib.parse.urlsplit(server.ready["api_url"])
        self.connection = http.client.HTTPConnection(
            address.hostname, address.port, timeout=LIMIT_S
        )
        sent = {"X-API-Key": server.ready["api_key"], **(headers or {})}
        self.connection.request("GET", f"/events/stream?{query}", headers=sent)
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200
        assert self.answer.headers["content-type"].startswith("text/event-stream")

    def next(self):
        """The cursor and the event; lines that keep the connection alive are passed over."""
        found = {}
        while True:
            line = self.answer.readline().decode().rstrip("\n")
            if not line and "data" in found:
                return int(found["id"]), json.loads(found["data"])
            name, _, value = line.partition(":")
            found[name] = value.strip()

    def close(self):
        self.connection.close()


def test_a_stream_follows_and_goes_on_where_it_broke(server):
    stream = Stream(server, "from=now&kind=" + ",".join(LIFE))
    name = live(server)
    cursor, first = stream.next()
    assert (first["kind"], first["sandboxID"]) == (LIFE[0], name)
    stream.close()
    # As a browser does it.
    query = f"from=now&sandbox={name}"
    again = Stream(server, query, {"Last-Event-ID": str(cursor)})
    rest = [again.next()[1]["kind"] for _ in LIFE[1:]]
    again.close()
    assert rest == LIFE[1:]


class Receiver:
    """Whom a webhook calls. Fails the first delivery of each kind."""

    def __init__(self):
        self.accepted, self.failed = [], set()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(receiver.take(dict(self.headers), body))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = "http://127.0.0.1:%d/hook" % self.server.server_address[1]

    def take(self, headers, body):
        event = json.loads(body)
        if event["type"] not in self.failed:
            self.failed.add(event["type"])
            return 500
        headers = {name.lower(): value for name, value in headers.items()}
        self.accepted.append((headers, body, event))
        return 200

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def deliveries(server):
    """What a webhook of this team was sent of one sandbox's life, after one failure each."""
    receiver = Receiver()
    wanted = ["sandbox.lifecycle.created", "sandbox.lifecycle.killed"]
    hook = {"name": "test", "url": receiver.url, "signatureSecret": SECRET, "events": wanted}
    made = server.request("POST", "/events/webhooks", {**hook, "enabled": True})
    assert made.status == 201, made
    name = live(server)
    try:
        eventually(lambda: len(receiver.accepted) >= 2, LIMIT_S, "both are delivered")
    finally:
        path = f"/events/webhooks/{made.json()['id']}"
        assert server.request("DELETE", path).status in (200, 204)
        receiver.stop()
    accepted = receiver.accepted
    assert [event["type"] for _, _, event in accepted] == wanted
    assert {event["sandboxId"] for _, _, event in accepted} == {name}
    return accepted


def test_deliveries_are_signed_as_both_documents_say(deliveries):
    for headers, body, _ in deliveries:
        digest = hashlib.sha256(SECRET.encode() + body).digest()
        theirs = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        assert headers["e2b-signature"] == theirs
        seconds, signature = headers["atoll-signature"].removeprefix("t=").split(",v1=")
        signed = f"{seconds}.".encode() + body
        ours = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(signature, ours)
        assert abs(time.time() - int(seconds)) < 300


def snippet(language):
    """What docs/events.md tells users to check a delivery with."""
    text = (CHECKOUT / "docs" / "events.md").read_text()
    (found,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return found


def test_the_documented_check_in_python(deliveries):
    names = {}
    exec(snippet("python"), names)
    headers, body, _ = deliveries[0]
    assert names["is_genuine"](SECRET, body, headers["atoll-signature"])
    assert not names["is_genuine"](SECRET, body + b" ", headers["atoll-signature"])
    assert not names["is_genuine"]("another", body, headers["atoll-signature"])


def test_the_documented_check_in_javascript(deliveries, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node")
    headers, body, _ = deliveries[0]
    (tmp_path / "check.mjs").write_text(snippet("js"))
    (tmp_path / "run.mjs").write_text(
        "import { isGenuine } from './check.mjs'\n"
        "const [secret, body, header] = JSON.parse(process.argv[2])\n"
        "const bytes = Buffer.from(body, 'base64')\n"
        "const cut = bytes.subarray(1)\n"
        "console.log(isGenuine(secret, bytes, header), isGenuine(secret, cut, header),\n"
        "  isGenuine('another', bytes, header), isGenuine(secret, bytes, 'none'))\n"
    )
    given = json.dumps([SECRET, base64.b64encode(body).decode(), headers["atoll-signature"]])
    ran = subprocess.run(
        [node, tmp_path / "run.mjs", given], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert ran.stdout.split() == ["true", "false", "false", "false"], ran.stderr
