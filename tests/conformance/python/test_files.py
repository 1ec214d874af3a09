"""Files: every method of the SDK's file system module."""

import gzip
import hashlib
import io

import pytest
from e2b import Sandbox
from e2b.exceptions import (
    AuthenticationException,
    FileNotFoundException,
    InvalidArgumentException,
)
from e2b.sandbox.filesystem.filesystem import FileType

MIB = 1024 * 1024
LARGE = 100 * MIB


def test_write_then_read(sandbox):
    info = sandbox.files.write("dir/with/parents/a.txt", "hello ж")
    assert info.path == "/home/user/dir/with/parents/a.txt"
    assert (info.name, info.type) == ("a.txt", FileType.FILE)
    assert sandbox.files.read("dir/with/parents/a.txt") == "hello ж"
    assert sandbox.files.read("~/dir/with/parents/a.txt") == "hello ж"


def test_formats(sandbox):
    data = bytes(range(256)) * 100
    sandbox.files.write("a.bin", data)
    assert bytes(sandbox.files.read("a.bin", format="bytes")) == data
    assert b"".join(sandbox.files.read("a.bin", format="stream")) == data
    assert bytes(sandbox.files.read("a.bin", format="bytes", gzip=True)) == data


def test_ways_to_write(sandbox):
    sandbox.files.write("a", io.BytesIO(b"from a file object"))
    assert sandbox.files.read("a") == "from a file object"
    sandbox.files.write("a", "as octets", use_octet_stream=True)
    assert sandbox.files.read("a") == "as octets"
    sandbox.files.write("a", "squeezed " * 1000, gzip=True)
    assert sandbox.files.read("a") == "squeezed " * 1000
    sandbox.files.write("a", "")
    assert sandbox.files.read("a") == ""


def test_writing_replaces_and_truncates(sandbox):
    sandbox.files.write("a", "a long first text")
    sandbox.files.write("a", "short")
    assert sandbox.files.read("a") == "short"


def test_writing_many_files(sandbox):
    files = [{"path": f"many/{number}", "data": str(number)} for number in range(20)]
    infos = sandbox.files.write_files(files)
    assert [info.path for info in infos] == [f"/home/user/many/{n}" for n in range(20)]
    assert [sandbox.files.read(f"many/{n}") for n in range(20)] == [str(n) for n in range(20)]


def test_names_with_anything_in_them(sandbox):
    for name in ("sp ace", "ж€😀", "a'b\"c", "per%20cent", "plus+and&", "new\nline", "#?;"):
        sandbox.files.write(f"names/{name}", name)
        assert sandbox.files.read(f"names/{name}") == name
    assert len(sandbox.files.list("names")) == 7


def test_a_large_file_both_ways(sandbox):
    block = hashlib.sha256(b"block").digest() * (MIB // 32)
    written = hashlib.sha256()

    def blocks():
        for number in range(LARGE // MIB):
            piece = number.to_bytes(4, "big") + block[4:]
            written.update(piece)
            yield piece

    sandbox.files.write("large", blocks())
    inside = sandbox.commands.run("sha256sum large; stat -c %s large").stdout.split()
    assert inside[0] == written.hexdigest() and inside[2] == str(LARGE)
    read = hashlib.sha256()
    for piece in sandbox.files.read("large", format="stream"):
        read.update(piece)
    assert read.hexdigest() == written.hexdigest()


def test_owners(sandbox):
    sandbox.files.write("mine", "x")
    sandbox.files.write("/root/its", "x", user="root")
    owners = sandbox.commands.run("stat -c %U mine; sudo stat -c %U /root/its").stdout
    assert owners == "user\nroot\n"
    assert sandbox.files.read("/root/its", user="root") == "x"


def test_metadata(sandbox):
    info = sandbox.files.write("a", "x", metadata={"origin": "test", "n": "1"})
    assert info.metadata == {"origin": "test", "n": "1"}
    assert sandbox.files.get_info("a").metadata == {"origin": "test", "n": "1"}
    sandbox.files.write("a", "y", metadata={"other": "2"})
    assert sandbox.files.get_info("a").metadata == {"other": "2"}
    assert sandbox.files.write("b", "x").metadata is None


def test_info(sandbox):
    sandbox.files.write("a", "12345")
    sandbox.commands.run("chmod 640 a; ln -s a link; mkdir d")
    info = sandbox.files.get_info("a")
    assert (info.name, info.path, info.size) == ("a", "/home/user/a", 5)
    assert (info.type, info.owner, info.group) == (FileType.FILE, "user", "user")
    assert info.mode & 0o777 == 0o640 and info.permissions == "-rw-r-----"
    assert sandbox.files.get_info("d").type is FileType.DIR
    link = sandbox.files.get_info("link")
    assert link.symlink_target == "/home/user/a" and link.name == "link"


def test_exists(sandbox):
    sandbox.files.write("a", "x")
    assert sandbox.files.exists("a") is True
    assert sandbox.files.exists("/home/user") is True
    assert sandbox.files.exists("b") is False


def test_list(sandbox):
    for path in ("top", "d1/a", "d1/b", "d1/d2/c"):
        sandbox.files.write(f"tree/{path}", "x")
    assert [entry.name for entry in sandbox.files.list("tree")] == ["d1", "top"]
    deep = sandbox.files.list("tree", depth=3)
    root = "/home/user/tree/"
    paths = {entry.path.removeprefix(root) for entry in deep}
    assert paths == {"d1", "d1/a", "d1/b", "d1/d2", "d1/d2/c", "top"}
    sandbox.files.make_dir("empty")
    assert sandbox.files.list("empty") == []


def test_make_dir(sandbox):
    assert sandbox.files.make_dir("a/b/c") is True
    assert sandbox.files.make_dir("a/b/c") is False
    assert sandbox.commands.run("stat -c '%U %a' a/b").stdout == "user 755\n"
    sandbox.files.write("file", "x")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.make_dir("file")


def test_rename(sandbox):
    sandbox.files.write("a", "x")
    info = sandbox.files.rename("a", "new/place/b")
    assert info.path == "/home/user/new/place/b"
    assert not sandbox.files.exists("a")
    assert sandbox.files.read("new/place/b") == "x"
    with pytest.raises(FileNotFoundException):
        sandbox.files.rename("a", "c")


def test_remove(sandbox):
    sandbox.files.write("d/e/f", "x")
    sandbox.files.remove("d")
    assert not sandbox.files.exists("d")
    sandbox.files.remove("d")


def test_what_does_not_exist(sandbox):
    with pytest.raises(FileNotFoundException, match="does not exist"):
        sandbox.files.read("no/such")
    with pytest.raises(FileNotFoundException):
        sandbox.files.get_info("no/such")
    with pytest.raises(FileNotFoundException):
        sandbox.files.list("no/such")


def test_directories_are_not_files(sandbox):
    with pytest.raises(InvalidArgumentException, match="directory"):
        sandbox.files.write("/home/user", "x")
    with pytest.raises(InvalidArgumentException, match="directory"):
        sandbox.files.read("/home/user")
    sandbox.files.write("file", "x")
    with pytest.raises(InvalidArgumentException, match="directory"):
        sandbox.files.list("file")


def test_an_unknown_user(sandbox):
    with pytest.raises(AuthenticationException, match="nobody-here"):
        sandbox.files.write("a", "x", user="nobody-here")
    with pytest.raises(AuthenticationException, match="nobody-here"):
        sandbox.files.list(".", user="nobody-here")


def test_a_full_disk_says_so_and_heals(sandbox):
    fill = "head -c 999G /dev/zero > fill 2>&1; ls -l fill | awk '{print $5}'"
    size = int(sandbox.commands.run(fill, timeout=80).stdout.split()[-1])
    assert size > MIB
    from e2b import NotEnoughSpaceException

    with pytest.raises(NotEnoughSpaceException):
        sandbox.files.write("more", b"x" * (8 * MIB))
    sandbox.files.remove("fill")
    sandbox.files.write("more", "fits again")
    assert sandbox.files.read("more") == "fits again"


def test_files_of_proc(sandbox):
    # Their size is said to be zero and is not.
    assert sandbox.files.read("/proc/self/status").startswith("Name:")


def test_ranges_and_encodings_on_the_wire(server, sandbox):
    sandbox.files.write("a", "0123456789" * 1000)
    token = {"X-Access-Token": sandbox._envd_access_token}
    path = "/files?path=a"

    def get(**headers):
        return server.traffic(sandbox.sandbox_id, 49983, path, headers={**token, **headers})

    part = get(Range="bytes=3-6")
    assert (part.status, part.body) == (206, b"3456")
    assert part.headers["content-range"] == "bytes 3-6/10000"
    squeezed = get(**{"Accept-Encoding": "gzip"})
    assert squeezed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(squeezed.body) == b"0123456789" * 1000
    assert get(**{"Accept-Encoding": "br, identity;q=0"}).status == 406


def test_signed_urls(server):
    made = Sandbox.create(timeout=60)
    try:
        made.files.write("a", "signed")
        url = made.download_url("a", use_signature_expiration=60)
        query = url.partition("?")[2]
        assert "signature=" in query
        answer = server.traffic(made.sandbox_id, 49983, f"/files?{query}")
        assert (answer.status, answer.body) == (200, b"signed")
        forged = query.replace("path=a", "path=%2Fetc%2Fpasswd")
        answer = server.traffic(made.sandbox_id, 49983, f"/files?{forged}")
        assert answer.status == 401, answer
        old = made.download_url("a", use_signature_expiration=-60).partition("?")[2]
        answer = server.traffic(made.sandbox_id, 49983, f"/files?{old}")
        assert answer.status == 401, answer
        assert answer.json()["message"] == "signature is already expired"
    finally:
        made.kill()
