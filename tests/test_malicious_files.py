"""Files that somebody made to run code, to read or write elsewhere, or to fill the memory: refused, in one line."""

import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import resource
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from runner import checkpoint, lineage
from runner.attempt import claim
from runner.cli import run as cli
from runner.code.triple import read_triples
from runner.data import _folder, cifar10, fashion_mnist
from runner.download import unpack
from runner.encoders import huggingface
from runner.errors import CheckpointError, ConfigError, DataError, UserError
from runner.export import read_export
from runner.files import read_rows, write_yaml
from runner.group import Group
from runner.manifest import seal
from runner.proteins.table import read_proteins
from runner.rundir import RunDir
from runner.schema import load_yaml
from runner.status import read_statuses
from runner.unpacking import LONGEST_LINE_BYTES, SMALL_BYTES, read_unpacked
from runner.weights import read_tensors
from tests.data import test_fashion_mnist, test_food101
from tests.trials import make_trial

STRANGER = 65534


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("executed").exists(), "something ran"


class Attack:
    """What runs as soon as it is unpickled."""

    def __init__(self, function=os.system, argument="touch executed"):
        self.function, self.argument = function, argument

    def __reduce__(self):
        return self.function, (self.argument,)


def test_an_attack_would_be_noticed(tmp_path):
    pickle.loads(pickle.dumps(Attack()))
    Path("executed").unlink()


def refused(error: type[UserError], read, *says: str) -> None:
    """Refused in one line that says all of this, without much memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(error) as caught:
        read()
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in says), str(caught.value)
    assert grown_mb < 900, f"{grown_mb:.0f} MB"


# Checkpoints. Whoever can write to the folder can write a manifest with the right sums, too.


@pytest.fixture
def run() -> RunDir:
    """A trial with checkpoints of steps 1 and 2."""
    folder = RunDir(Path("runs/tiny/aa11").absolute())
    folder.path.mkdir(parents=True)
    write_yaml(folder.config, {"name": "tiny"})
    attempt = claim(folder)
    attempt.record_start(job_id="1", launch="1.0", world=1, step=0, steps=10, resumed_from=None)
    for step in (1, 2):
        shared = {"method": {"weight": torch.zeros(3)}, "optimizer": {}, "step": step}
        checkpoint.save(folder, Group(), attempt, step, shared, {"rng": step}, {})
    return folder


def newest(run: RunDir) -> Path:
    return run.checkpoints / lineage.name_of(2, 1)


def claim_sums(folder: Path, **changes) -> None:
    """The manifest that goes with the files as they are."""
    manifest = json.loads((folder / "manifest.json").read_text())
    content = (folder / "rank_00000.pt").read_bytes()
    manifest["files"]["rank_00000.pt"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.pop("sha256")
    (folder / "manifest.json").write_bytes(seal(manifest | changes))


def torch_file(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def packed(content: bytes) -> bytes:
    """The same zip, with its parts packed: what could unpack to anything."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    return stream.getvalue()


def legacy(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


RANK_FILES = {
    "a pickle": (pickle.dumps(Attack()), "is not in torch's format"),
    "protocol 0": (b"cos\nsystem\n(S'touch executed'\ntR.", "is not in torch's format"),
    "torch's old format": (legacy(Attack()), "is not in torch's format"),
    "os.system": (torch_file(Attack()), "asks for posix.system, which no tensor needs"),
    "eval": (torch_file({"own": Attack(eval, "open('executed', 'w')")}), "asks for eval"),
    "a deep attack": (torch_file({"shared": {"method": [{"a": (Attack(),)}]}}), "asks for posix.system"),
    "open": (torch_file(Attack(open, "/etc/passwd")), "asks for "),
    "a bomb": (packed(torch_file({"own": {}, "shared": torch.zeros(20_000_000)})), "has packed parts"),
    "no mapping": (torch_file([1]), "holds list, no mapping"),
    "nothing in it": (torch_file({}), "holds no state of a trial"),
    "empty": (b"", "is not in torch's format"),
}


@pytest.mark.parametrize("name", RANK_FILES)
def test_a_rank_file_with_the_right_sum_runs_nothing(run, name):
    content, why = RANK_FILES[name]
    (newest(run) / "rank_00000.pt").write_bytes(content)
    claim_sums(newest(run))
    assert lineage.newest_valid(run) == (newest(run).name, []), "by its sums it is whole"
    refused(CheckpointError, lambda: checkpoint.load(run, Group(), newest(run).name, []), why)


@pytest.mark.parametrize("name", RANK_FILES)
def test_an_export_runs_nothing(run, capfd, name):
    Path("model.pt").write_bytes(RANK_FILES[name][0])
    refused(ConfigError, lambda: read_export(Path("model.pt")), "model.pt is no exported trial")


def outside(run: RunDir) -> Path:
    path = run.path / "outside"
    path.write_bytes((newest(run) / "rank_00000.pt").read_bytes())
    return path


def link_rank_file(run: RunDir) -> None:
    there = outside(run)
    (newest(run) / "rank_00000.pt").unlink()
    (newest(run) / "rank_00000.pt").symlink_to(there)


def link_manifest(run: RunDir) -> None:
    (newest(run) / "manifest.json").rename(run.path / "manifest.json")
    (newest(run) / "manifest.json").symlink_to(run.path / "manifest.json")


def link_folder(run: RunDir) -> None:
    newest(run).rename(run.path / "elsewhere")
    newest(run).symlink_to(run.path / "elsewhere")


def name_files(*names: str):
    return lambda run: claim_sums(
        newest(run), world_size=len(names), files={name: {"size": 0, "sha256": ""} for name in names}
    )


def write_manifest(content: bytes):
    return lambda run: (newest(run) / "manifest.json").write_bytes(content)


def grow_manifest(run: RunDir) -> None:
    """Four terabytes, of which nothing is on disk."""
    os.truncate(newest(run) / "manifest.json", 4 * 2**40)


def fifo(run: RunDir) -> None:
    """Reading it would wait for ever."""
    (newest(run) / "rank_00000.pt").unlink()
    os.mkfifo(newest(run) / "rank_00000.pt")


CHECKPOINTS = {
    "a linked rank file": (link_rank_file, "it is a link"),
    "a linked manifest": (link_manifest, "it is a link"),
    "a linked folder": (link_folder, "it is a link"),
    "a path out of the folder": (name_files("../../outside"), "its manifest names files that no rank writes"),
    "an absolute path": (name_files("/dev/zero"), "its manifest names files that no rank writes"),
    "one file too many": (name_files("rank_00000.pt", "/dev/zero"), "its manifest names files that no rank writes"),
    "a huge world": (
        lambda run: claim_sums(newest(run), world_size=10**9),
        "its manifest does not name a file for each",
    ),
    "a world of words": (
        lambda run: claim_sums(newest(run), world_size="1"),
        "its manifest does not name a file for each",
    ),
    "a format of words": (lambda run: claim_sums(newest(run), format="1"), "it says that its format is '1'"),
    "files that are a list": (lambda run: claim_sums(newest(run), files=["rank_00000.pt"]), "does not name a file"),
    "no sums": (lambda run: claim_sums(newest(run), files={"rank_00000.pt": None}), "has no sizes and checksums"),
    "a deep manifest": (write_manifest(b"[" * 200_000), "its manifest cannot be read"),
    "a manifest of numbers": (write_manifest(b"9" * 100_000), "its manifest cannot be read"),
    "a manifest without end": (grow_manifest, "its manifest has "),
    "a pipe": (fifo, "rank_00000.pt "),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_leads_elsewhere_is_passed_over(run, name):
    spoil, why = CHECKPOINTS[name]
    spoil(run)
    found, told = lineage.newest_valid(run)
    assert found == lineage.name_of(1, 1)
    (line,) = told
    assert why in line and "\n" not in line


# Data.


def jsonl(path: str, *rows: bytes) -> Path:
    Path(path).write_bytes(gzip.compress(b"\n".join(rows)))
    return Path(path)


def zeros(path: str, megabytes: int, line: bytes = b"\0" * 2**20) -> Path:
    """A small file that unpacks to so much."""
    content = line * megabytes
    Path(path).write_bytes(gzip.compress(content) if path.endswith(".gz") else lzma.compress(content, preset=0))
    return Path(path)


def test_a_line_without_end_is_no_row():
    path = zeros("a.jsonl.gz", LONGEST_LINE_BYTES // 2**20 + 50)
    refused(DataError, lambda: list(read_triples(path)), "a.jsonl.gz: has a line of more than 16 MB")


def test_lines_without_end_are_no_rows():
    path = zeros("a.jsonl.gz", SMALL_BYTES // 2**20 + 50, b"\n" * 2**20)
    refused(DataError, lambda: list(read_triples(path)), "a.jsonl.gz: unpacks to more than 200 times its ")


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "a.xz"])
def test_what_unpacks_to_far_more_than_data_do_is_refused(name):
    path = zeros(name, SMALL_BYTES // 2**20 + 50)
    refused(DataError, lambda: read_unpacked(path), f"{name}: unpacks to more than 200 times its ")


def test_a_deep_row_is_no_row():
    path = jsonl("a.jsonl.gz", b"[" * 200_000)
    refused(DataError, lambda: list(read_triples(path)), "a.jsonl.gz: row 1: not JSON")
    Path("metrics.jsonl").write_bytes(b"[" * 200_000 + b'\n{"step": 1}\n')
    assert read_rows(Path("metrics.jsonl")) == [{"step": 1}]


def test_a_bomb_of_proteins():
    path = zeros("proteins.csv.gz", SMALL_BYTES // 2**20 + 50)
    refused(DataError, lambda: read_proteins(path, ["A"]), "unpacks to more than")


def test_an_idx_file_that_claims_more_than_it_has():
    test_fashion_mnist.write(Path("data"), packed=False)
    Path("data/train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + b"\xff\xff\xff\xff" * 3)
    refused(
        DataError,
        lambda: fashion_mnist.build(fashion_mnist.Config(root="data"), "train"),
        "16 bytes for values of shape (4294967295, 4294967295, 4294967295)",
    )


BATCHES = {
    "runs": pickle.dumps(Attack()),
    "runs within": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [Attack()]}),
    "evaluates": pickle.dumps({"data": Attack(eval, "open('executed', 'w')"), "labels": [1]}),
    "objects": pickle.dumps({"data": np.array([Attack()], dtype=object), "labels": [1]}),
    "an array of nothing": b"\x80\x04cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.",
    "cut off": pickle.dumps({"data": np.zeros((9, 3072), np.uint8), "labels": [1] * 9})[:-50],
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_pickled_batch_runs_nothing(name):
    folder = Path("data", cifar10.PICKLED)
    folder.mkdir(parents=True)
    (folder / "test_batch").write_bytes(BATCHES[name])
    config = cifar10.Config(root="data")
    refused(DataError, lambda: cifar10.build(config, "test"), "test_batch: not a CIFAR-10 batch")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_pickled_arrays_are_no_data(kind):
    """No data set is made of them; as any other file they are no weights and no batch."""
    array = np.array([Attack()], dtype=object)
    save = {"npy": np.save, "npz": np.savez}[kind]
    save(f"a.{kind}", array, allow_pickle=True)
    refused(CheckpointError, lambda: read_tensors(Path(f"a.{kind}")), "not loaded")
    folder = Path("data", cifar10.PICKLED)
    folder.mkdir(parents=True)
    shutil.copy(f"a.{kind}", folder / "test_batch")
    refused(DataError, lambda: cifar10.build(cifar10.Config(root="data"), "test"), "not a CIFAR-10 batch")


def archive(kind: str, members: dict[str, bytes | str]) -> Path:
    """A tar or zip; a text is where a link leads."""
    Path("scratch").mkdir()
    path = Path("scratch", "download")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name, content in members.items():
                packed.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


ARCHIVES = [
    ("tar", {"../executed": b"x"}),
    ("tar", {"/executed": b"x", "../../executed": b"x"}),
    ("tar", {"link": "..", "link/executed": b"x"}),
    ("tar", {"link": str(Path("/"))}),
    ("zip", {"../executed": b"x"}),
]


@pytest.mark.parametrize(("kind", "members"), ARCHIVES)
def test_an_archive_stays_in_its_folder(kind, members):
    path = archive(kind, members)
    try:
        unpack(path, "https://host/data")
    except DataError as error:
        assert str(error).startswith("https://host/data: cannot be unpacked: ") and "\n" not in str(error)
    inside = {each.relative_to(Path().absolute()) for each in Path().absolute().rglob("*")}
    assert all(each.parts[0] == "scratch" for each in inside)
    assert not Path("/executed").exists()


def postscript(path: Path) -> None:
    """Pillow would hand it to Ghostscript."""
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(executed) (w) file closefile\n%%EOF\n")


def huge_png(path: Path) -> None:
    """The beginning of 40,000 x 40,000 pixels."""
    header = b"IHDR" + (40_000).to_bytes(4, "big") * 2 + b"\1\0\0\0\0"
    chunk = (len(header) - 4).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


@pytest.mark.parametrize("make", [postscript, huge_png])
def test_an_image_that_is_more_than_an_image(make):
    make(Path("a.jpg"))
    refused(DataError, lambda: _folder.decode("a.jpg", 32), "a.jpg: cannot be decoded")


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd"])
def test_a_listing_that_leads_out_of_its_data_set(name):
    folder = test_food101.write_tree(Path("data"))
    listing = _folder.Listing([name], [0])
    refused(
        DataError,
        lambda: _folder.read_images(test_food101.food101.Config(), folder, "train", listing, 16),
        "leads out of",
    )


def test_a_pretrained_model_with_a_pickle_or_code_of_its_own():
    from transformers import BertConfig

    folder = Path("model")
    BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    ).save_pretrained(folder)
    torch.save(Attack(), folder / "pytorch_model.bin")
    config = huggingface.Config(source=str(folder))
    with pytest.raises(Exception) as caught:
        huggingface.build(config, 10)
    assert isinstance(caught.value, ConfigError), repr(caught.value)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(settings | {"model_type": "mine", "auto_map": {"AutoModel": "code.Mine", "AutoConfig": "code.Mine"}})
    )
    (folder / "code.py").write_text("open('executed', 'w')")
    with pytest.raises(ConfigError):
        huggingface.build(config, 10)


# YAML of others: configs that are sent around, and run folders that others show.

BOMB = "a: &a [1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
YAML = {
    "aliases": BOMB,
    "a tag": "name: !!python/object/apply:os.system ['touch executed']\n",
    "a module": "name: !!python/module:os\n",
    "deep": "a: " + "[" * 400_000,
    "deep mappings": "{a: " * 200_000,
    "long": "a: " + "x" * 1_000_000,
    "a long key": "? " + "x" * 999_000 + "\n: 1\n",
    "many keys": "".join(f"k{number}: 1\n" for number in range(90_000)),
    "merge": "a: &a {b: 1}\nc: {<<: *a}\n",
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_of_others(name, capfd):
    Path("exp.yaml").write_text(YAML[name])
    assert cli(["debug", "exp.yaml", "--root", "runs"]) == 2
    err = capfd.readouterr().err
    assert err.startswith("runner: exp.yaml") and err.count("\n") == 1 and len(err) < 400
    assert not Path("runs").exists()


def test_a_run_folder_of_others_is_shown(capfd):
    run = make_trial(Path("runs").absolute(), "aa11", result={"test/knn_top1": 1.0})
    for path in (run.overrides, run.config):
        path.write_text(BOMB)
    assert read_statuses([run])[0].record.overrides == {}
    for verb in (["status"], ["show", "aa11"], ["results", "exp"]):
        assert cli([*verb, "--root", "runs"]) == 0


def test_the_bomb_is_one():
    with pytest.raises(ConfigError, match="anchors"):
        load_yaml(Path("exp.yaml")) if Path("exp.yaml").write_text(BOMB) else None
