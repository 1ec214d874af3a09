"""One server for the whole run, one sandbox for each test."""

import os

import pytest
from server import DevServer, binary

SANDBOX_TIMEOUT_S = 120


def missing():
    """Why nothing here can run, if so."""
    if os.geteuid() != 0:
        return "sandboxes need root"
    if not binary().is_file():
        return f"no server at {binary()}: run `cargo build`"
    return None


def pytest_collection_modifyitems(items):
    reason = missing()
    if reason:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def server():
    running = DevServer()
    try:
        running.start()
        os.environ.update(running.env)
        yield running
        assert running.process.poll() is None, f"the server died:\n{running.log()}"
        code = running.interrupt()
        assert code == 0, f"Ctrl-C ended it with {code}:\n{running.log()}"
    finally:
        for name in list(os.environ):
            if name.startswith("E2B_"):
                del os.environ[name]
        running.stop()


@pytest.fixture
def sandbox(server):
    from e2b import Sandbox

    made = Sandbox.create(timeout=SANDBOX_TIMEOUT_S)
    yield made
    made.kill()
