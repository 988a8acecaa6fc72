"""Downloads from a real server on the loopback interface."""

import hashlib
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from runner.data import cifar10, fashion_mnist, food101, stl10, tiny_imagenet
from runner.download import fetch_archive, fetch_file, fetch_tree
from runner.errors import DataError
from tests.data import test_cifar10, test_fashion_mnist, test_food101, test_stl10, test_tiny_imagenet


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Server:
    """Serves `files` (bytes by path) and counts the requests; a file in `cut_short` breaks off half-way."""

    def __init__(self):
        self.files, self.cut_short, self.requests = {}, set(), []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests.append(self.path)
                content = server.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if self.path in server.cut_short else content)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def serve(self, path, content):
        self.files[path] = content
        return f"http://127.0.0.1:{self.http.server_port}{path}"

    def stop(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.stop()


def pack(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pack_zip(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def list_all(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_is_fetched_once(server, tmp_path):
    url = server.serve("/a", b"x" * 3_000_000)
    target = tmp_path / "new" / "a.bin"
    fetch_file(url, md5(b"x" * 3_000_000), target)
    fetch_file(url, "not looked at", target)
    assert target.read_bytes() == b"x" * 3_000_000
    assert server.requests == ["/a"]
    assert list_all(tmp_path / "new") == ["a.bin"]


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    url = server.serve("/a", b"altered")
    with pytest.raises(DataError, match=f"{url}: md5 is {md5(b'altered')}, should be {md5(b'genuine')}"):
        fetch_file(url, md5(b"genuine"), tmp_path / "a.bin")
    assert list_all(tmp_path) == []


def test_a_transfer_that_breaks_off_leaves_nothing(server, tmp_path):
    url = server.serve("/a", b"y" * 1000)
    server.cut_short.add("/a")
    with pytest.raises(DataError, match=url):
        fetch_file(url, md5(b"y" * 1000), tmp_path / "a.bin")
    assert list_all(tmp_path) == []


def test_what_the_server_lacks_is_named(server, tmp_path):
    url = server.serve("/a", b"") + "bc"
    with pytest.raises(DataError, match=f"{url}: cannot be fetched: HTTP Error 404"):
        fetch_file(url, md5(b""), tmp_path / "a.bin")


def test_a_server_that_is_not_there_is_named(server, tmp_path):
    url = server.serve("/a", b"")
    server.stop()
    with pytest.raises(DataError, match=f"{url}: cannot be fetched: .*refused"):
        fetch_file(url, md5(b""), tmp_path / "a.bin")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=f"{tmp_path / 'file' / 'data'}: cannot download into it"):
        fetch_file("http://127.0.0.1:1/a", "", tmp_path / "file" / "data" / "a.bin")


def test_an_archive_fills_in_what_is_missing(server, tmp_path):
    archive = pack({"set/a": b"A", "set/b": b"B", "set/readme": b"unasked"})
    url = server.serve("/set.tar.gz", archive)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").write_bytes(b"A")
    fetch_archive(url, md5(archive), tmp_path / "set", ["a", "b"])
    fetch_archive(url, md5(archive), tmp_path / "set", ["a", "b"])
    assert list_all(tmp_path) == ["set", "set/a", "set/b"]
    assert server.requests == ["/set.tar.gz"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"set/a": b"A"}, "has no set/b"),
        ({"set/a": b"A", "set/b": b"B", "../../c": b"evil"}, "cannot be unpacked"),
    ],
)
def test_a_strange_archive_is_refused(server, tmp_path, members, message):
    archive = pack(members)
    url = server.serve("/set.tar.gz", archive)
    with pytest.raises(DataError, match=f"{url}: {message}"):
        fetch_archive(url, md5(archive), tmp_path / "x" / "set", ["a", "b"])
    assert not (tmp_path / "c").exists() and not (tmp_path / "x" / "c").exists()


def test_what_is_no_archive_is_refused(server, tmp_path):
    url = server.serve("/set.tar.gz", b"<html>moved</html>")
    with pytest.raises(DataError, match=f"{url}: cannot be unpacked"):
        fetch_archive(url, md5(b"<html>moved</html>"), tmp_path / "set", ["a"])


@pytest.mark.parametrize("pack_members", [pack, pack_zip])
def test_a_tree_is_fetched_once_and_as_a_whole(server, tmp_path, pack_members):
    archive = pack_members({"set/a": b"A", "set/deep/b": b"B", "beside": b"unasked"})
    url = server.serve("/archive", archive)
    folder = tmp_path / "new" / "set"
    for _ in range(2):
        fetch_tree(url, md5(archive), folder)
    assert list_all(tmp_path / "new") == ["set", "set/a", "set/deep", "set/deep/b"]
    assert (folder / "deep" / "b").read_bytes() == b"B"
    assert server.requests == ["/archive"]


@pytest.mark.parametrize("pack_members", [pack, pack_zip])
def test_an_archive_without_the_tree_is_refused(server, tmp_path, pack_members):
    archive = pack_members({"other/a": b"A"})
    url = server.serve("/archive", archive)
    with pytest.raises(DataError, match=f"{url}: has no set"):
        fetch_tree(url, md5(archive), tmp_path / "set")
    assert list_all(tmp_path) == []


def test_a_damaged_zip_is_refused(server, tmp_path):
    archive = bytearray(pack_zip({"set/a": b"A" * 100}))
    archive[50] ^= 1
    url = server.serve("/archive", bytes(archive))
    with pytest.raises(DataError, match=f"{url}: cannot be unpacked"):
        fetch_tree(url, md5(archive), tmp_path / "set")
    assert list_all(tmp_path) == []


def test_a_zip_does_not_leave_its_folder(server, tmp_path):
    archive = pack_zip({"set/a": b"A", "../../c": b"evil", "/c": b"evil"})
    fetch_tree(server.serve("/archive", archive), md5(archive), tmp_path / "x" / "y" / "set")
    assert list_all(tmp_path) == ["x", "x/y", "x/y/set", "x/y/set/a"]


def test_processes_at_once_fetch_one_copy(server, tmp_path):
    names = [f"part_{i}" for i in range(20)]
    archive = pack({f"set/{name}": name.encode() * 50_000 for name in names})
    url = server.serve("/set.tar.gz", archive)
    code = "import sys, pathlib; from runner.download import fetch_archive; "
    code += "fetch_archive(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), sys.argv[4:])"
    command = [sys.executable, "-c", code, url, md5(archive), str(tmp_path / "set"), *names]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert server.requests == ["/set.tar.gz"]
    assert list_all(tmp_path / "set") == sorted(names)
    assert all((tmp_path / "set" / name).read_bytes() == name.encode() * 50_000 for name in names)


def test_cifar10_downloads_itself(server, tmp_path, monkeypatch):
    test_cifar10.write_binary(tmp_path / "there")
    folder = tmp_path / "there" / cifar10.BINARY
    archive = pack({f"{cifar10.BINARY}/{path.name}": path.read_bytes() for path in folder.iterdir()})
    monkeypatch.setattr(cifar10, "URL", server.serve("/cifar.tar.gz", archive))
    monkeypatch.setattr(cifar10, "MD5", md5(archive))
    for split in ("train", "test"):
        fetched = test_cifar10.build(tmp_path / "here", split, download=True)
        assert fetched.images.equal(test_cifar10.build(tmp_path / "there", split).images)
    assert server.requests == ["/cifar.tar.gz"]


def test_fashion_mnist_downloads_itself(server, tmp_path, monkeypatch):
    test_fashion_mnist.write(tmp_path / "there")
    sums = {}
    for path in (tmp_path / "there").iterdir():
        url = server.serve(f"/{path.name}", path.read_bytes())
        sums[path.name.removesuffix(".gz")] = md5(path.read_bytes())
    monkeypatch.setattr(fashion_mnist, "URL", url.rpartition("/")[0])
    monkeypatch.setattr(fashion_mnist, "MD5", sums)
    for split in ("train", "test"):
        fetched = test_fashion_mnist.build(tmp_path / "here", split, download=True)
        assert fetched.images.equal(test_fashion_mnist.build(tmp_path / "there", split).images)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("data", "tests", "pack_members"),
    [
        (stl10, test_stl10, pack),
        (tiny_imagenet, test_tiny_imagenet, pack_zip),
        (food101, test_food101, pack),
    ],
)
def test_data_sets_of_one_archive_download_themselves(server, tmp_path, monkeypatch, data, tests, pack_members):
    there = tmp_path / "there"
    tests.write_tree(there)
    files = [path for path in there.rglob("*") if path.is_file()]
    archive = pack_members({str(path.relative_to(there)): path.read_bytes() for path in files})
    monkeypatch.setattr(data, "URL", server.serve("/archive", archive))
    monkeypatch.setattr(data, "MD5", md5(archive))
    for split in ("train", "test"):
        fetched = tests.build(tmp_path / "here", split, download=True)
        assert fetched.images.equal(tests.build(there, split).images)
    assert server.requests == ["/archive"]
