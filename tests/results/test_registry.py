"""The registry changes how long reading takes, and nothing of what is read."""

import json
import os
import random
import shutil

import pytest

from runner.results import registry
from runner.results.registry import NAME, read_entries, read_registry
from runner.rundir import find_trials
from tests.trials import make_trial

LONG_AGO = 1_700_000_000


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Fifteen trials, every fifth of them not done, all written long ago."""
    root = tmp_path_factory.mktemp("written")
    for n in range(15):
        metrics = {"test/knn_top1": n / 7, "train/loss": float("nan") if n == 3 else -n / 3}
        logged = [{"step": 1, "time": 0.0, "attempt": 1, "train/loss": 1.0}]
        overrides = {"train.seed": n, "data.name": f"d{n % 2}"}
        make_trial(root, f"t{n:02}", overrides=overrides, metrics=logged, result=metrics if n % 5 else None)
    for path in root.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    return root / "exp"


@pytest.fixture
def folder(written, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "FEWEST_TRIALS", 10)
    return shutil.copytree(written, tmp_path / "exp")


def text_of(entries) -> str:
    """Everything that was read, as text: a nan equals itself there."""
    return repr([(entry.run, entry.state, entry.overrides, entry.metrics, entry.groups) for entry in entries])


def read(folder) -> str:
    return text_of(read_entries(find_trials(folder)))


def straight(folder) -> str:
    """The same, without a registry."""
    return text_of(registry._scan(find_trials(folder), None))


@pytest.fixture
def scanned(monkeypatch):
    """Trials whose files were read, of each time that any were."""
    calls = []
    scan = registry._scan

    def watched(runs, ask):
        calls.append([run.trial for run in runs])
        return scan(runs, ask)

    monkeypatch.setattr(registry, "_scan", watched)
    return calls


NOT_DONE = [f"t{n:02}" for n in range(0, 15, 5)]


def test_what_is_done_is_read_once(folder, scanned):
    before = straight(folder)
    scanned.clear()
    assert read(folder) == before and len(scanned[-1]) == 15
    written = (folder / NAME).stat().st_mtime_ns
    assert read(folder) == before and scanned[-1] == NOT_DONE
    assert (folder / NAME).stat().st_mtime_ns == written, "nothing new, nothing written"


@pytest.mark.parametrize("name", ["config.yaml", "overrides.yaml", "result.json"])
def test_a_changed_file_is_read_again(folder, scanned, name):
    read(folder)
    path = folder / "t07" / name
    path.write_text(path.read_text().replace("7", "8"))
    os.utime(path, (LONG_AGO + 1, LONG_AGO + 1))
    assert read(folder) == straight(folder) and "t07" in scanned[-2]
    assert read(folder) == straight(folder) and scanned[-2] == NOT_DONE


def test_a_damaged_trial_is_not_shown_as_it_was(folder):
    read(folder)
    (folder / "t07" / "failure.json").write_text("{")
    (folder / "t09" / "result.json").write_text("{")
    entries = {entry.run.trial: entry for entry in read_entries(find_trials(folder))}
    assert entries["t07"].state == "done" and "failure.json: holds no JSON" in entries["t07"].flaw
    assert entries["t08"].state == "done" and not entries["t08"].flaw and entries["t09"].state == "unknown"


def test_trials_come_and_go(folder, scanned):
    read(folder)
    shutil.rmtree(folder / "t07")
    make_trial(folder.parent, "t99", result={"test/knn_top1": 1.0})
    assert read(folder) == straight(folder)
    assert set(read_registry(folder)) == {f"t{n:02}" for n in range(15) if n % 5 and n != 7}
    assert read(folder) == straight(folder) and "t99" in scanned[-2], "too young to be sure of its time"
    for path in (folder / "t99").iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    read(folder)
    assert "t99" in read_registry(folder)


def test_deleting_it_loses_nothing(folder):
    before = read(folder)
    (folder / NAME).unlink()
    assert read(folder) == before and (folder / NAME).exists()


def test_no_damage_to_it_changes_a_result(folder):
    before = read(folder)
    whole = (folder / NAME).read_bytes()
    generator = random.Random(0)
    damaged = [b"", b"\n", b"{}", whole[:-1], whole[: len(whole) // 2], whole + b"x", b"\x00" * len(whole)]
    for _ in range(30):
        at = generator.randrange(len(whole))
        damaged.append(whole[:at] + bytes([whole[at] ^ (1 << generator.randrange(8))]) + whole[at + 1 :])
    for content in damaged:
        (folder / NAME).write_bytes(content)
        assert read_registry(folder) == {} and read(folder) == before
        assert (folder / NAME).read_bytes() == whole, "and it is whole again"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"trials": [], "names": [], "texts": []},
        {"trials": {"t01": ["", {}, 0, [], []]}, "names": [], "texts": []},
        {"trials": {"t01": 1}, "names": [], "texts": []},
        {"trials": {"t01": ["", {}, 0, [1.0], [7]]}, "names": [["m"]], "texts": []},
    ],
)
def test_a_registry_of_another_shape_is_none(folder, body):
    before = read(folder)
    text = json.dumps(body).encode()
    (folder / NAME).write_bytes(registry._head(text) + b"\n" + text)
    assert read_registry(folder) == {} and read(folder) == before


def test_deep_nesting_in_it_is_no_way_to_stop_results(folder):
    before = read(folder)
    text = b"[" * 100_000
    (folder / NAME).write_bytes(registry._head(text) + b"\n" + text)
    assert read(folder) == before


def test_a_folder_that_cannot_be_written_gives_the_same(folder, monkeypatch):
    """Permissions do not stop root, so the write itself is refused."""

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(registry, "write_registry", refuse)
    assert read(folder) == straight(folder) and not (folder / NAME).exists()


def test_small_sweeps_have_none(folder, monkeypatch):
    monkeypatch.setattr(registry, "FEWEST_TRIALS", 16)
    assert read(folder) == straight(folder) and not (folder / NAME).exists()


def test_it_is_as_readable_as_its_trials(folder):
    for mode, expected in ((0o700, 0o600), (0o750, 0o640)):
        for path in folder.iterdir():
            if path.is_dir():
                path.chmod(mode)
        (folder / NAME).unlink(missing_ok=True)
        read(folder)
        assert (folder / NAME).stat().st_mode & 0o777 == expected
