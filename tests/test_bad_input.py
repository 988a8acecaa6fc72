"""Every kind of bad input gets one line that names the key or file, the value and what is allowed, and exit code 2.

Nothing is written: the run root is as it was. The kinds are numbered from 1 to 55; where one cannot occur here, its
nearest relative stands in its place and a comment says why.
"""

import gzip
import hashlib
import itertools
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from runner import lineage
from runner.cli import run as cli
from runner.data import cifar10
from runner.errors import ConfigError, UserError
from runner.experiment import load_experiment, load_trial
from runner.files import read_json
from runner.group import Group
from runner.manifest import seal
from runner.prepare import prepare as prepare_folder
from runner.rank import check_alike, run_rank
from runner.rendezvous import Place
from runner.requeue import judge
from runner.rundir import RunDir
from runner.sweep import trials
from tests.data import test_fashion_mnist, test_food101, test_stl10
from tests.ranks import run_ranks

CONTRABIN = str(Path(__file__).parents[1] / "experiments" / "contrabin" / "debug.yaml")
FILE = """\
name: tiny
method: {name: scl, projector_hidden: 8, projector_width: 4}
encoder: {name: small_convnet, widths: [4]}
data: {name: fashion_mnist_sample, limit: 64}
optimizer: {name: adamw, lr: 1e-3}
schedule: {name: cosine, warmup_steps: 0}
train: {steps: 4, batch_size: 8}
"""
RUNS = Path("runs")
ROOT_USER = os.geteuid() == 0
STRANGER = 65534
"""A user who is not us."""

Prepare = Callable[[pytest.MonkeyPatch], Any]


@dataclass(frozen=True)
class BadInput:
    """A command line in a folder with `exp.yaml`, `site.yaml` and nothing else, unless `prepare` makes it so."""

    number: int
    what: str
    says: tuple[str, ...]
    """Key or file, value, what is allowed: parts of the line."""

    words: tuple[str, ...] = ()
    file: str | bytes = FILE
    site: str = "cluster: local\n"
    verb: str = "submit"
    """Or the whole command line, words in between blanks."""

    experiment: str = "exp.yaml"
    prepare: Prepare | None = None
    needs_root: bool = field(default=False)

    @property
    def command(self) -> list[str]:
        if " " in self.verb:
            return [*self.verb.split(), *self.words]
        place = ["--on", "site.yaml"] if self.verb == "submit" else []
        return [self.verb, self.experiment, *self.words, *place]


def fails_on(number: int, override: str, *says: str, verb: str = "submit", **more: Any) -> BadInput:
    """What an override alone makes wrong."""
    return BadInput(number, override, (f"override {override}: ", *says), (override,), verb=verb, **more)


def in_data(
    number: int, what: str, options: str, prepare: Prepare, *says: str, words: tuple[str, ...] = ()
) -> BadInput:
    """What is found in the data; only a trial that runs reads them."""
    return BadInput(number, what, says, (f"data={options}", *words), verb="debug", prepare=prepare)


def put(path: str, content: bytes | str = b"") -> Prepare:
    def prepare(_: pytest.MonkeyPatch) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def another_trial(_: pytest.MonkeyPatch) -> None:
    """The run folder of the trial, with a config that somebody changed."""
    run = first_trial()
    run.config.write_text(run.config.read_text().replace("lr: 0.001", "lr: 0.1").replace("steps: 4", "steps: 9"))


def first_trial(where: str = "exp.yaml") -> RunDir:
    (variant, trial), *_ = trials(load_experiment(where))
    run = RunDir(RUNS.absolute() / trial.name / variant.trial_id)
    prepare_folder(run, trial, variant.overrides, ({}, ""))
    return run


def without_checkpoint(_: pytest.MonkeyPatch) -> None:
    first_trial()


def open_root(_: pytest.MonkeyPatch) -> None:
    RUNS.mkdir()
    RUNS.chmod(0o777)


def foreign_experiment(_: pytest.MonkeyPatch) -> None:
    (RUNS / "tiny").mkdir(parents=True)
    os.chown(RUNS / "tiny", STRANGER, STRANGER)


def linked_experiment(_: pytest.MonkeyPatch) -> None:
    Path("elsewhere").mkdir()
    RUNS.mkdir()
    (RUNS / "tiny").symlink_to(Path("elsewhere").absolute())


def without_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")


def refusing_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster whose sbatch has something against the job."""
    Path("bin").mkdir()
    for tool in ("sbatch", "srun"):
        Path("bin", tool).write_text("#!/bin/sh\necho 'sbatch: error: Requested time limit is invalid' >&2\nexit 1\n")
        Path("bin", tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:{os.environ['PATH']}")


def two_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that is more than this machine, whatever folder this test runs in."""
    refusing_sbatch(monkeypatch)
    Path("bin/sinfo").write_text("#!/bin/sh\necho node1\necho node2\n")
    Path("bin/sinfo").chmod(0o755)
    monkeypatch.setattr("runner.preflight.NODE_LOCAL", ("/",))


def held_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiment's folder in the hands of a process that lives, and a minute that passes at once."""
    (RUNS / "tiny" / ".lock").mkdir(parents=True)
    holder = {"host": os.uname().nodename, "pid": os.getpid(), "time": time.time()}
    (RUNS / "tiny" / ".lock" / "holder.json").write_text(json.dumps(holder))
    clock = itertools.count(0, 30)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))


def cut_image(_: pytest.MonkeyPatch) -> None:
    test_food101.write_tree(Path("data"))
    image = sorted(Path("data").rglob("*.jpg"))[0]
    image.write_bytes(image.read_bytes()[:-300])


def fewer_labels(_: pytest.MonkeyPatch) -> None:
    test_fashion_mnist.write(Path("data"))
    for path in Path("data").glob("train-labels*"):
        path.unlink()
    Path("data/train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\1\0")


def floating_images(_: pytest.MonkeyPatch) -> None:
    test_fashion_mnist.write(Path("data"))
    for path in Path("data").glob("train-images*"):
        path.unlink()
    Path("data/train-images-idx3-ubyte").write_bytes(b"\0\0\x0d\x01\0\0\0\1\x7f\xc0\0\0")


class Attack:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def pickled_batch(_: pytest.MonkeyPatch) -> None:
    Path("data", cifar10.PICKLED).mkdir(parents=True)
    for name in ("data_batch_1", "test_batch"):
        Path("data", cifar10.PICKLED, name).write_bytes(pickle.dumps({"data": Attack(), "labels": [1]}))


def stl10_files(_: pytest.MonkeyPatch) -> None:
    test_stl10.write_tree(Path("data"))


def secret_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_PASSWORD", "correct-horse-battery")


NAMES = ["a/b", "..", "../x", "a\nb", "-x", "%j", "x" * 65, "", "a b"]
SIMCLR, BYOL = "method={name: simclr, temperature: %s}", "method={name: byol, momentum: %s}"
SLURM = "cluster: slurm\n"
BOMB = "a: &a [1, 1]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))

BAD_INPUTS = [
    BadInput(1, "no such file", ("config not found: nowhere.yaml",), experiment="nowhere.yaml"),
    BadInput(2, "not UTF-8", ("exp.yaml:2: is not UTF-8; save it as UTF-8",), file=b"name: x\nmethod: \xff\n"),
    BadInput(2, "empty", ("exp.yaml: is empty; a config is a mapping",), file=""),
    BadInput(3, "no YAML", ("exp.yaml:3: not YAML: ", "at column 1"), file="name: x\nmethod: [1, 2\n"),
    BadInput(4, "a list", ("exp.yaml: is a list; a config is a mapping",), file="- name: x\n"),
    fails_on(5, "train.epoch=1", 'train.epoch: unknown key; did you mean "epochs"?'),
    fails_on(5, "optimizer.leaning_rate=1", "optimizer.leaning_rate: unknown key; there is betas, groups, lr"),
    BadInput(6, "a key twice", ("exp.yaml:8: name: duplicate key; it is on line 1",), file=FILE + "name: y\n"),
    fails_on(7, "optimizer.lr='1e-3'", 'optimizer.lr: "1e-3" is not allowed; must be a number without quotes'),
    fails_on(8, "optimizer.lr=-1", "optimizer.lr: -1 is not allowed; must be greater than 0"),
    fails_on(8, "optimizer.lr=0", "optimizer.lr: 0 is not allowed; must be greater than 0"),
    fails_on(8, "optimizer.lr=.nan", 'optimizer.lr: ".nan" is not allowed; must be a finite number'),
    fails_on(8, "optimizer.lr=inf", 'optimizer.lr: "inf" is not allowed; must be a finite number'),
    fails_on(9, "train.steps=yes", 'train.steps: "yes" is not allowed; must be a whole number'),
    fails_on(9, "train.steps=true", "train.steps: true is not allowed; must be a whole number"),
    fails_on(10, SIMCLR % 0, "method.temperature: 0 is not allowed; must be greater than 0"),
    fails_on(10, SIMCLR % -0.5, "method.temperature: -0.5 is not allowed; must be greater than 0"),
    fails_on(
        11,
        "train.batch_size=9",
        "9 is not allowed",
        "2 ranks x 1 passes, such as 8 or 10",
        file=FILE + "resources: {ranks: 2}",
    ),
    BadInput(
        12,
        "one sample a rank",
        ("exp.yaml:7: train.batch_size: 8 is not allowed", "the loss has no negatives; must be at least 16"),
        ("resources.ranks=8",),
    ),
    fails_on(13, "schedule.warmup_steps=5", "schedule.warmup_steps: 5 is not allowed; must be at most 4"),
    fails_on(
        14,
        "method.curriculum={naive: 0, linear: 0, nonlinear: 0}",
        "method.curriculum: naive, linear and nonlinear are all 0",
        experiment=CONTRABIN,
    ),
    fails_on(
        14,
        "method.curriculum={naive: -1}",
        "method.curriculum.naive: -1 is not allowed; must be at least 0",
        experiment=CONTRABIN,
    ),
    fails_on(15, "method.name=sclr", 'method.name: "sclr" is not allowed; did you mean "scl"?'),
    fails_on(
        15, "optimizer.name=adamx", 'optimizer.name: "adamx" is not allowed; must be "adamw", "adam", "sgd" or "lars"'
    ),
    fails_on(15, "encoder.name=zzz", 'encoder.name: "zzz" is not allowed; there is bag_of_tokens, '),
    # fp16 on a CPU works and is advised against only; this is what a machine without a GPU cannot do.
    fails_on(
        16,
        "train.sync_batch_norm=true",
        "train.sync_batch_norm: true is not allowed without a GPU",
        verb="debug",
        file=FILE + "resources: {ranks: 2}",
    ),
    fails_on(16, "train.precision=fp8", 'train.precision: "fp8" is not allowed; must be "no", "fp16" or "bf16"'),
    fails_on(
        17, "train.backend=nccl", 'train.backend: "nccl" is not allowed without a GPU; use auto or gloo', verb="debug"
    ),
    BadInput(
        18,
        "a tag",
        ("exp.yaml:1: name: tag", "is not allowed"),
        file="name: !!python/object/apply:os.system [touch executed]\n",
    ),
    BadInput(18, "an alias bomb", ("exp.yaml:1: a: anchors (&) and aliases (*) are not allowed",), file=BOMB),
    BadInput(
        18,
        "over 1 MB",
        ("exp.yaml: is 1000007 bytes long; a config has at most 1000000",),
        file="name: " + "x" * 10**6 + "\n",
    ),
    BadInput(18, "deep", ("exp.yaml:1: not YAML: exceeded maximum nesting depth",), file="a: " + "[" * 400_000),
    BadInput(18, "deep mappings", ("exp.yaml:1: ", "nested more than 20 levels deep"), file="{a: " * 100_000),
    BadInput(
        19,
        "a key that is secret",
        ("override data.api_key=...: data.api_key: looks like a secret",),
        ("data.api_key=abc",),
    ),
    BadInput(
        19,
        "a value that is",
        ("exp.yaml:8: tracking.wandb.entity: holds a secret; configs hold none",),
        file=FILE + "tracking: {wandb: {entity: correct-horse-battery}}",
        prepare=secret_in_environment,
    ),
    fails_on(20, BYOL % "1.0", "method.momentum: 1 is not allowed; must be less than 1"),
    fails_on(20, BYOL % -0.1, "method.momentum: -0.1 is not allowed; must be at least 0"),
    fails_on(21, "checkpoint.every_steps=0", "checkpoint.every_steps: 0 is not allowed; must be at least 1"),
    fails_on(
        21,
        "checkpoint.every_minutes=-1",
        'checkpoint.every_minutes: -1 is not allowed; must be "auto" or greater than 0',
    ),
    fails_on(22, "train.seed=-1", "train.seed: -1 is not allowed; must be at least 0"),
    fails_on(22, f"train.seed={2**63}", f"train.seed: {2**63} is not allowed; must be at most"),
    fails_on(23, "metod.gamma=1", 'metod: unknown key; did you mean "method"?'),
    fails_on(24, "train.seed", "has no `=`; write KEY=VALUE, such as train.seed=1"),
    *(
        BadInput(
            25,
            f"name {name[:5]!r}",
            ("exp.yaml:1: name: ", "is not allowed; must be 1 to 64 letters, digits"),
            file=FILE.replace("tiny", json.dumps(name)),
        )
        for name in NAMES
    ),
    # A trial is called by the hash of its config: another config has another folder, unless somebody edits it.
    BadInput(
        26,
        "another trial's folder",
        ("config.yaml: is of another trial: optimizer.lr was 0.1, is 0.001; train.steps was 9, is 4",),
        prepare=another_trial,
    ),
    # Resuming is no option, it is what every start does; what can be asked for and not be there is an export.
    BadInput(
        27,
        "nothing to export",
        ("tiny/", ": has no checkpoint to export yet"),
        verb="export TRIAL out.pt",
        prepare=without_checkpoint,
    ),
    BadInput(28, "a root below a file", ("runs: is no folder",), prepare=put("runs")),
    BadInput(
        28, "an open root", ("runs: has mode 0777, so others could change your jobs; chmod go-w it",), prepare=open_root
    ),
    BadInput(
        28,
        "a foreign folder",
        (f"runs/tiny: belongs to user {STRANGER}, not to you",),
        prepare=foreign_experiment,
        needs_root=True,
    ),
    BadInput(
        28,
        "a linked folder",
        ("runs/tiny: is a link; jobs are kept in folders of their own",),
        prepare=linked_experiment,
    ),
    BadInput(
        29,
        "a newline in a partition",
        ('site.yaml:2: partition: "a\\nb" is not allowed; must be 1 to 128 letters',),
        site=SLURM + 'partition: "a\\nb"',
    ),
    BadInput(
        29,
        "a directive in a comment",
        ("site.yaml:2: comment: ", "is not allowed; must be 1 to 128 letters"),
        site=SLURM + 'comment: "x\\n#SBATCH --account=other"',
    ),
    BadInput(
        29,
        "a newline in a key",
        ("site.yaml:2: a key must be a string of printable characters",),
        site=SLURM + '"par\\ntition": x',
    ),
    BadInput(
        29,
        "two lines of setup",
        ("site.yaml:2: setup.0: ", "must be one line without control characters"),
        site=SLURM + 'setup: ["a\\nb"]',
    ),
    # Ten minutes are allowed: submitit's own count of time-outs, for which all short jobs time out, is out of play.
    BadInput(
        30,
        "no time",
        ("site.yaml:2: time_minutes: 0 is not allowed; must be at least 1",),
        site=SLURM + "time_minutes: 0",
    ),
    # How long a save takes is known when the trial runs, which then goes by its own clock; this no site can mean.
    BadInput(
        31,
        "no grace",
        ("site.yaml:2: signal_lead_seconds: -1 is not allowed; must be at least 0",),
        site=SLURM + "signal_lead_seconds: -1",
    ),
    BadInput(
        31,
        "all grace",
        ("site.yaml:3: signal_lead_seconds: 120 is not allowed; must be less than the time limit, 120 seconds",),
        site=SLURM + "time_minutes: 2\nsignal_lead_seconds: 120",
    ),
    BadInput(32, "no Slurm", ("sbatch is not on PATH; use --on slurm/local.yaml",), site=SLURM, prepare=without_tools),
    BadInput(
        33,
        "a root that nodes do not share",
        ("is in /", "which each node has for itself, and a trial takes 2 nodes; give a --root that they share"),
        ("resources.ranks=2",),
        site=SLURM + "gpus_per_node: 1",
        prepare=two_machines,
    ),
    BadInput(
        34,
        "no GPUs",
        ("site.yaml:2: gpus_per_node: 0 is not allowed; must be at least 1",),
        site=SLURM + "gpus_per_node: 0",
    ),
    fails_on(34, "resources.ranks=0", "resources.ranks: 0 is not allowed; must be at least 1"),
    BadInput(
        34,
        "over the limit",
        ("site.yaml:", "time_minutes: 60 is not allowed; Slurm says: Requested time limit is invalid"),
        site=SLURM,
        prepare=refusing_sbatch,
    ),
    in_data(
        35,
        "no data",
        "{name: fashion_mnist, root: nowhere}",
        put("other"),
        "no train-images-idx3-ubyte[.gz] in nowhere; set data.download=true",
    ),
    in_data(
        35,
        "an empty folder",
        "{name: fashion_mnist, root: data}",
        put("data/other"),
        "no train-images-idx3-ubyte[.gz] in data; set data.download=true",
    ),
    BadInput(
        36,
        "more in a batch than there is",
        ("train.batch_size: 65 is not allowed", "more than the 64 samples", "no step fits into an epoch"),
        ("train.batch_size=65",),
        verb="debug",
    ),
    in_data(
        37,
        "a cut image",
        "{name: food101, root: data, size: 16}",
        cut_image,
        "data/food-101/images/",
        ".jpg: cannot be decoded: ",
    ),
    in_data(
        38,
        "no labels",
        "{name: stl10, root: data}",
        stl10_files,
        "method.name: supervised needs labelled data, and these samples have no labels",
        words=("method={name: supervised}", "train.batch_size=4"),
    ),
    in_data(
        39,
        "labels of other samples",
        "{name: fashion_mnist, root: data}",
        fewer_labels,
        "train-images-idx3-ubyte.gz of shape ",
        "does not go with data/train-labels-idx1-ubyte",
    ),
    # Images are bytes, and so never nan: numbers of another type are refused as such.
    in_data(
        39,
        "floating nan",
        "{name: fashion_mnist, root: data}",
        floating_images,
        "data/train-images-idx3-ubyte: not an IDX file of bytes: it starts with 00 00 0d 01",
    ),
    # Nothing reads .npy; the one format with pickled arrays is CIFAR-10's.
    in_data(
        40,
        "a pickle that runs",
        "{name: cifar10, root: data, batches: [1]}",
        pickled_batch,
        "data_batch_1: not a CIFAR-10 batch: it asks for posix.system, which no array needs",
    ),
    # Ports are the kernel's to give, so none is ever in use; what another process can hold is an experiment's folder.
    BadInput(
        53,
        "a folder in use",
        ("runs/tiny/.lock: held by process ", " on ", "remove it if none is running"),
        prepare=held_lock,
    ),
]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below, with its content."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of one's own; trials that run in this process change what is global in it."""
    monkeypatch.chdir(tmp_path)
    threads, umask = torch.get_num_threads(), os.umask(0o077)
    yield tmp_path
    os.umask(umask)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: f"{bad.number:02} {bad.what[:60]}")
def test_one_line_exit_2_and_nothing_written(here, monkeypatch, capfd, bad):
    if bad.needs_root and not ROOT_USER:
        pytest.skip("only root can give a folder to somebody else")
    Path("exp.yaml").write_bytes(bad.file if isinstance(bad.file, bytes) else bad.file.encode())
    Path("site.yaml").write_text(bad.site)
    if bad.prepare is not None:
        bad.prepare(monkeypatch)
    before = tree(here)
    trial = next((path.parent.name for path in Path().glob("runs/tiny/*/config.yaml")), "")
    code = cli([*(trial if word == "TRIAL" else word for word in bad.command), "--root", "runs"])
    err = capfd.readouterr().err
    assert code == 2 and err.startswith("runner: ") and err.count("\n") == 1, err
    assert all(part in err for part in bad.says), err
    after = tree(here)
    # What decoding leaves beside a data set is the data set's, and goes on where it was.
    assert {path: content for path, content in after.items() if not path.endswith(".pixels.partial")} == before
    assert not Path("executed").exists()


# Checkpoints: a trial with two of them, as a job left it.


def write_data(count: int) -> None:
    """Fashion-MNIST with so many training images."""
    test_fashion_mnist.write(Path("data"))
    random = np.random.default_rng(0)
    for name, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
        content = test_fashion_mnist.idx(random.integers(0, 10, shape, np.uint8))
        Path(f"data/train-{name}-ubyte.gz").write_bytes(gzip.compress(content))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with data, and the run root of a trial that stopped at step 4, with checkpoints of steps 2 and 4."""
    folder, before = tmp_path_factory.mktemp("saved"), Path.cwd()
    os.chdir(folder)
    try:
        write_data(32)
        file = FILE.replace("{name: fashion_mnist_sample, limit: 64}", "{name: fashion_mnist, root: data}")
        Path("exp.yaml").write_text(file.replace("steps: 4", "steps: 6") + "checkpoint: {every_steps: 2}\n")
        run_rank(first_trial(), Place(), stop_after=4, redirect=False)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def run(saved, here) -> RunDir:
    """A copy of it, in the working directory."""
    shutil.copytree(saved, here, dirs_exist_ok=True)
    (run,) = [RunDir(path.parent.absolute()) for path in here.glob("runs/tiny/*/config.yaml")]
    run.result.unlink(missing_ok=True)
    return run


def rewrite(run: RunDir, change: Callable[[dict[str, Any]], Any], steps: tuple[int, ...] = (2, 4)) -> None:
    """Change what a rank saved, and the manifest with it: the sums are right, whoever did it."""
    for step in steps:
        folder = run.checkpoints / lineage.name_of(step, 1)
        file = folder / "rank_00000.pt"
        content = torch.load(file, weights_only=True)
        changed = change(content)
        torch.save(content if changed is None else changed, file)
        remake(folder, lambda manifest: None)


def remake(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A manifest with the sums of the files as they are, and a change."""
    manifest = read_json(folder / "manifest.json")
    assert manifest is not None
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change(manifest)
    manifest.pop("sha256", None)
    (folder / "manifest.json").write_bytes(seal(manifest))


def cut(run: RunDir, step: int) -> None:
    file = run.checkpoints / lineage.name_of(step, 1) / "rank_00000.pt"
    os.truncate(file, file.stat().st_size - 1)


def flip(run: RunDir, step: int) -> None:
    file = run.checkpoints / lineage.name_of(step, 1) / "rank_00000.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def age(run: RunDir, step: int) -> None:
    remake(run.checkpoints / lineage.name_of(step, 1), lambda manifest: manifest.update(format=99))


def give_away(run: RunDir, step: int) -> None:
    os.chown(run.checkpoints / lineage.name_of(step, 1) / "rank_00000.pt", STRANGER, STRANGER)


DAMAGES = {
    "42 cut": (cut, "rank_00000.pt has "),
    "43 flipped": (flip, "rank_00000.pt does not have the sha256 that was written"),
    "45 of a newer version": (age, "it was written in format 99; this version reads up to 2"),
    "51 of somebody else": (give_away, f"rank_00000.pt cannot be read: it belongs to user {STRANGER}; copy it"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_checkpoint_is_passed_over_and_44_all_bad_ones_are_listed(run, capfd, damage):
    if damage.startswith("51") and not ROOT_USER:
        pytest.skip("only root can give a file to somebody else")
    spoil, why = DAMAGES[damage]
    spoil(run, 4)
    assert cli(["export", run.trial, "out.pt", "--root", "runs"]) == 0
    err = capfd.readouterr().err
    assert err.startswith(f"runner: refused step_00000004.00001: {why}") and err.count("\n") == 1
    spoil(run, 2)
    Path("out.pt").unlink()
    before = tree(Path())
    assert cli(["export", run.trial, "out.pt", "--root", "runs"]) == 2
    err = capfd.readouterr().err
    assert "no checkpoint can be trusted: step_00000004.00001: " in err and "; step_00000002.00001: " in err
    assert err.count("\n") == 1 and err.count(why) == 2
    assert tree(Path()) == before


def two_ranks(run: RunDir) -> None:
    for step in (2, 4):
        folder = run.checkpoints / lineage.name_of(step, 1)
        shutil.copy(folder / "rank_00000.pt", folder / "rank_00001.pt")
        remake(
            folder,
            lambda manifest: manifest.update(
                world_size=2, files=dict(manifest["files"], **{"rank_00001.pt": manifest["files"]["rank_00000.pt"]})
            ),
        )


def set_key(run: RunDir, group: str, key: str, value: Any) -> None:
    config = yaml.safe_load(run.config.read_text())
    config[group][key] = value
    run.config.write_text(yaml.safe_dump(config))


def misfit(content: dict[str, Any]) -> None:
    tensors = content["shared"]["method"]
    names = list(tensors)
    del tensors[names[0]]
    tensors["extra"] = torch.zeros(1)
    tensors[names[1]] = torch.zeros(7)


def other_data(run: RunDir) -> None:
    write_data(16)


RESUMES = {
    # A change of the data between two attempts.
    "41 other data": (other_data, "the data had 32 samples, have 16; put back what it was"),
    "46 other world size": (two_ranks, "saved by 2 ranks, resumed on 1; set resources.ranks=2"),
    "47 tensors that do not fit": (lambda run: rewrite(run, misfit), "the checkpoint does not fit this model: "),
    "48 another learning rate": (
        lambda run: set_key(run, "optimizer", "lr", 0.1),
        "optimizer.lr was 0.001, is 0.1; put",
    ),
    "49 another optimizer": (
        lambda run: set_key(run, "optimizer", "name", "adam"),
        "optimizer.name was adamw, is adam",
    ),
    "50 content of another step": (
        lambda run: rewrite(run, lambda content: content["shared"].update(step=3)),
        "holds step 3, its manifest says 4",
    ),
    "52 a pickle that runs": (
        lambda run: rewrite(run, lambda content: Attack()),
        "asks for posix.system, which no tensor needs",
    ),
    # What submitit takes from SLURM_NTASKS is the world of a `Place`.
    "54 other number of tasks": (
        lambda run: set_key(run, "resources", "ranks", 2),
        "resources.ranks: 2 is not allowed; this launch has 1, as SLURM_NTASKS says",
    ),
}


@pytest.mark.parametrize("mistake", RESUMES)
def test_a_job_that_cannot_resume_says_so_in_one_line(run, capfd, mistake):
    """The job is where it is found; the command line shows what it said, and the checkpoints are as they were."""
    change, says = RESUMES[mistake]
    change(run)
    before = tree(run.checkpoints)
    with pytest.raises(UserError) as caught:
        run_rank(run, Place(launch="2"), redirect=False)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert tree(run.checkpoints) == before and not Path("executed").exists()
    assert judge(run, "2", 1, "LOCAL", 3).action == "fail", "it would only come again"
    capfd.readouterr()
    assert cli(["show", run.trial, "--json", "--root", "runs"]) == 0
    assert says in json.loads(capfd.readouterr().out)["failure"]["error"]


def test_47_misfits_are_five_and_counted(run):
    rewrite(run, misfit)
    with pytest.raises(UserError, match=r"is missing; extra is not expected; .* is \(7,\), not .* \(3 in all\)$"):
        run_rank(run, Place(), redirect=False)


@pytest.mark.parametrize(("group", "key", "value"), [("tracking", "every_steps", 1), ("checkpoint", "keep", 9)])
def test_48_what_computes_the_same_may_change(run, group, key, value):
    set_key(run, group, key, value)
    assert run_rank(run, Place(), redirect=False)[0].step == 6


def disagree(group: Group, config: str) -> str:
    trial = load_trial(config)
    if group.rank == 1:
        trial = trial.model_copy(update={"train": trial.train.model_copy(update={"seed": 5})})
    try:
        check_alike(trial, group)
    except ConfigError as error:
        return str(error)
    return "alike"


@pytest.mark.ddp
def test_55_ranks_that_disagree_all_leave(run):
    said = run_ranks(2, disagree, str(run.config))
    assert said == ["config.yaml or the installed packages of ranks 1 are not those of rank 0; make them so"] * 2


def test_all_are_here():
    numbers = {bad.number for bad in BAD_INPUTS} | {int(name[:2]) for name in [*DAMAGES, *RESUMES]} | {44, 55}
    assert numbers == set(range(1, 56))
