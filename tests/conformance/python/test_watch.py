"""Watching directories."""

import pytest
from e2b import SandboxException
from e2b.exceptions import FileNotFoundException
from e2b.sandbox.filesystem.watch_handle import FilesystemEventType as Type
from server import eventually


class Seen:
    """What a watcher reported so far."""

    def __init__(self, handle):
        self.handle = handle
        self.events = []

    def wait_for(self, type_, name):
        def there():
            self.events += self.handle.get_new_events()
            return next((e for e in self.events if (e.type, e.name) == (type_, name)), None)

        return eventually(there, 10, f"{type_} {name} in {self.events}")


def test_each_kind_of_event(sandbox):
    sandbox.files.make_dir("w")
    seen = Seen(sandbox.files.watch_dir("w"))
    sandbox.files.write("w/a", "1")
    seen.wait_for(Type.CREATE, "a")
    seen.wait_for(Type.WRITE, "a")
    sandbox.commands.run("chmod 600 w/a")
    seen.wait_for(Type.CHMOD, "a")
    sandbox.files.rename("w/a", "w/b")
    seen.wait_for(Type.RENAME, "a")
    seen.wait_for(Type.CREATE, "b")
    sandbox.files.remove("w/b")
    seen.wait_for(Type.REMOVE, "b")
    seen.handle.stop()


def test_a_new_file_makes_exactly_three_events(sandbox):
    sandbox.files.make_dir("w")
    seen = Seen(sandbox.files.watch_dir("w"))
    sandbox.files.write("w/a", "1")
    sandbox.files.make_dir("w/last")
    seen.wait_for(Type.CREATE, "last")
    kinds = [event.type for event in seen.events if event.name == "a"]
    assert sorted(kind.value for kind in kinds) == ["chmod", "create", "write"]


def test_below_only_when_asked(sandbox):
    sandbox.files.make_dir("w/sub")
    flat = Seen(sandbox.files.watch_dir("w"))
    deep = Seen(sandbox.files.watch_dir("w", recursive=True))
    sandbox.files.write("w/sub/a", "1")
    deep.wait_for(Type.CREATE, "sub/a")
    sandbox.files.write("w/sub/new/b", "1")
    deep.wait_for(Type.CREATE, "sub/new")
    sandbox.files.write("w/sub/new/c", "1")
    deep.wait_for(Type.CREATE, "sub/new/c")
    sandbox.files.write("w/top", "1")
    flat.wait_for(Type.CREATE, "top")
    assert not [event for event in flat.events if event.name.startswith("sub/")]


def test_entries_with_the_events(sandbox):
    sandbox.files.make_dir("w")
    seen = Seen(sandbox.files.watch_dir("w", include_entry=True))
    sandbox.files.write("w/a", "12345")
    event = seen.wait_for(Type.WRITE, "a")
    assert event.entry.path == "/home/user/w/a"
    sandbox.files.remove("w/a")
    assert seen.wait_for(Type.REMOVE, "a").entry is None


def test_what_cannot_be_watched(sandbox):
    with pytest.raises(FileNotFoundException):
        sandbox.files.watch_dir("no/such")
    sandbox.files.write("file", "x")
    with pytest.raises(SandboxException, match="directory"):
        sandbox.files.watch_dir("file")


def test_a_stopped_watcher_is_gone(sandbox):
    sandbox.files.make_dir("w")
    handle = sandbox.files.watch_dir("w")
    handle.stop()
    with pytest.raises(SandboxException):
        handle.get_new_events()
