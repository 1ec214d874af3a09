"""What `deploy` ships is what its tools accept, and names nothing that there is not."""

import http.server
import json
import os
import re
import shutil
import signal
import socketserver
import subprocess
import threading
import time
from pathlib import Path

import hcl2
import kubernetes_validate
import pytest
import yaml
from server import binary

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
LIMIT_S = 30

# Which releases of Kubernetes the manifests are for: the oldest and the newest whose schemas the
# validator brings.
KUBERNETES = ["1.29.0", kubernetes_validate.latest_version()]


def program(name, variable=None):
    """The program, named by a variable, unpacked beside the build, or installed."""
    named = os.environ.get(variable or "")
    beside = ROOT / "target" / name / "usr/bin" / name
    found = named or (str(beside) if beside.is_file() else shutil.which(name))
    if not found:
        reason = f"no `{name}` in the path" + (f" or in {variable}" if variable else "")
        print(f"skipped: {reason}")
        pytest.skip(reason)
    return found


def help_of(*command):
    shown = subprocess.run([binary(), *command, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def check_flags(role, words):
    """Whether the role has all the flags among the words."""
    known = set(re.findall(r"--[a-z0-9-]+", help_of(*role.split())))
    flags = {word.split("=")[0] for word in words if word.startswith("--")}
    assert flags and flags <= known, (role, flags - known)


def manifests():
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.name, document


def unquoted(value):
    """What the parser of HCL answers, without the quotes it keeps and the comments it adds."""
    if isinstance(value, dict):
        pairs = ((key, item) for key, item in value.items() if not key.startswith("__"))
        return {key.strip('"'): unquoted(item) for key, item in pairs}
    if isinstance(value, list):
        return [unquoted(item) for item in value]
    return value.strip('"') if isinstance(value, str) else value


def job(name):
    with open(DEPLOY / "nomad" / f"{name}.nomad.hcl") as file:
        document = unquoted(hcl2.load(file))
    [(_, body)] = document["job"][0].items()
    [(_, group)] = body["group"][0].items()
    [(_, task)] = group["task"][0].items()
    return body, group, task


@pytest.mark.parametrize("unit", ["atoll-server", "atoll-node"])
def test_systemd_accepts_the_units(unit, tmp_path):
    analyze = program("systemd-analyze")
    text = (DEPLOY / "systemd" / f"{unit}.service").read_text()
    [command] = re.findall(r"^ExecStart=(.*)$", text, re.M)
    path, role, *words = command.split()
    check_flags(role, words)
    copy = tmp_path / f"{unit}.service"
    # It wants the program to be there.
    copy.write_text(text.replace(path, str(binary())))
    verified = subprocess.run(
        [analyze, "verify", "--man=no", copy], capture_output=True, text=True
    )
    ours = [line for line in verified.stderr.splitlines() if unit in line]
    assert verified.returncode == 0 and not ours, verified.stderr


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_accepts_the_manifests(version):
    kinds = []
    for _, document in manifests():
        kubernetes_validate.validate(document, version, strict=True)
        kinds.append(document["kind"])
    assert {"DaemonSet", "Deployment", "Service", "ServiceAccount"} <= set(kinds)


def test_manifests_start_roles_and_ask_the_cluster_nothing():
    pods = 0
    for name, document in manifests():
        assert document["kind"] not in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
        template = document.get("spec", {}).get("template")
        if document["kind"] == "ServiceAccount" or template:
            token = (template or {}).get("spec", document)["automountServiceAccountToken"]
            assert token is False, name
        if template:
            pods += 1
            [container] = template["spec"]["containers"]
            role, *words = container["args"]
            check_flags(role, words)
            selected = document["spec"]["selector"]["matchLabels"].items()
            assert selected <= template["metadata"]["labels"].items()
            volumes = {volume["name"] for volume in template["spec"]["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert pods == 2


def test_nomad_jobs_say_how_they_stop():
    body, group, task = job("server")
    assert body["type"] == "service" and group["shutdown_delay"]
    assert task["kill_signal"] == "SIGTERM" and task["kill_timeout"] == "60s"
    role, *words = task["config"][0]["args"]
    check_flags(role, words)

    body, _, task = job("node")
    assert body["type"] == "system" and task["driver"] == "raw_exec"
    assert task["kill_timeout"] == "1h"
    env = task["env"][0]
    # The drain ends before Nomad does it.
    assert int(env["ATOLL_DRAIN_WAIT_S"]) < 3600
    known = help_of("node")
    own = {"ATOLL_VERSION", "ATOLL_DRAIN_FLAGS", "ATOLL_DRAIN_WAIT_S"}
    for name in env:
        assert not name.startswith("ATOLL_") or name in own or f"[env: {name}=" in known, name
    check_flags("nodes drain", ["--evict", "--wait-s"])


@pytest.mark.parametrize("name", ["server", "node"])
def test_nomad_accepts_the_jobs(name):
    nomad = program("nomad", "ATOLL_TEST_NOMAD")
    valid = subprocess.run(
        [nomad, "job", "validate", f"{name}.nomad.hcl"],
        cwd=DEPLOY / "nomad",
        capture_output=True,
        text=True,
    )
    assert valid.returncode == 0, valid.stdout + valid.stderr


def metric_names():
    listed = re.findall(r"^\| `(atoll_\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.M)
    assert len(listed) > 20
    return set(listed)


def check_metrics(expression):
    for name in re.findall(r"\batoll_\w+", expression):
        assert re.sub(r"_(bucket|sum|count)$", "", name) in metric_names(), expression


def test_alerts_and_dashboard_name_metrics_that_there_are():
    guide = (ROOT / "docs/deploy.md").read_text()
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    for rule in rules:
        check_metrics(rule["expr"])
        assert f"| `{rule['alert']}` |" in guide
    panels = json.loads((DEPLOY / "grafana/atoll.json").read_text())["panels"]
    assert len(panels) > 10
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        for target in panel["targets"]:
            check_metrics(target["expr"])


def test_prometheus_accepts_the_alerts(tmp_path):
    promtool = program("promtool")
    rules = [str(DEPLOY / "prometheus/alerts.yml")]
    panels = json.loads((DEPLOY / "grafana/atoll.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    # The dashboard's expressions as rules, for the one parser that counts.
    as_rules = [
        {"record": f"panel:{number}", "expr": text.replace("$__rate_interval", "1m")}
        for number, text in enumerate(expressions)
    ]
    dashboard = tmp_path / "dashboard.yml"
    dashboard.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": as_rules}]}))
    checked = subprocess.run(
        [promtool, "check", "rules", *rules, dashboard], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


ATOLL = """#!/bin/sh
echo "$@" >> "$LOG"
case "$1 ${2:-}" in
"node ") trap 'echo "node ended" >> "$LOG"; exit 0' TERM; while :; do sleep 0.05; done ;;
esac
"""


class Nomad(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Nomad's API of a task, which says how the client stands."""

    daemon_threads = True
    eligibility = "eligible"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        assert self.path == "/v1/node/client-1"
        assert self.headers["authorization"] == "Bearer task-token"
        body = json.dumps({"SchedulingEligibility": self.server.eligibility}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return "task"

    def log_message(self, *_):
        pass


@pytest.fixture
def task(tmp_path):
    """Starts the script of the node's task, beside an `atoll` that writes down what it is told."""
    fake = tmp_path / "bin/atoll"
    fake.parent.mkdir()
    fake.write_text(ATOLL)
    fake.chmod(0o755)
    nomad = Nomad(str(tmp_path / "api.sock"), Handler)
    threading.Thread(target=nomad.serve_forever, daemon=True).start()
    log = tmp_path / "log"
    log.touch()
    started = []

    class Task:
        @staticmethod
        def start():
            environment = {
                **os.environ,
                "PATH": f"{fake.parent}:{os.environ['PATH']}",
                "LOG": str(log),
                "ATOLL_DATA_DIR": str(tmp_path / "data"),
                "ATOLL_NODE_NAME": "n1",
                "ATOLL_DRAIN_FLAGS": "--evict",
                "ATOLL_DRAIN_WAIT_S": "7",
                "NOMAD_SECRETS_DIR": str(tmp_path),
                "NOMAD_NODE": "client-1",
                "NOMAD_TOKEN": "task-token",
            }
            child = subprocess.Popen(["sh", DEPLOY / "nomad/node.sh"], env=environment)
            started.append(child)
            Task.until(lambda: "node" in Task.log())
            return child

        @staticmethod
        def log():
            return log.read_text().splitlines()

        @staticmethod
        def forget():
            log.write_text("")

        @staticmethod
        def until(condition):
            deadline = time.monotonic() + LIMIT_S
            while not condition():
                assert time.monotonic() < deadline, Task.log()
                time.sleep(0.02)

        @staticmethod
        def stop(child):
            child.send_signal(signal.SIGTERM)
            assert child.wait(timeout=LIMIT_S) == 0

        @staticmethod
        def client_is(eligibility):
            nomad.eligibility = eligibility

    yield Task
    for child in started:
        child.kill()
    nomad.shutdown()
    nomad.server_close()


def test_a_new_version_under_nomad_is_no_drain(task):
    task.stop(task.start())
    assert task.log() == ["node", "node ended"]


def test_a_drain_of_nomads_is_ours_and_is_taken_back(task):
    child = task.start()
    task.client_is("ineligible")
    task.stop(child)
    assert task.log() == ["node", "nodes drain n1 --evict --wait-s 7", "node ended"]

    task.forget()
    task.client_is("eligible")
    child = task.start()
    task.until(lambda: "nodes undrain n1" in task.log())
    task.stop(child)
    # What an operator drained afterwards stays drained.
    task.forget()
    task.stop(task.start())
    assert task.log() == ["node", "node ended"]
