"""A checkpoint is whole or absent: kills, flipped bytes and late writers never lose or poison a trial."""

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import checkpoint, lineage
from runner.attempt import SupersededError, claim, read_parents
from runner.errors import CheckpointError, ConfigError
from runner.experiment import validate
from runner.export import export, load_weights
from runner.files import write_yaml
from runner.group import Group
from runner.rundir import RunDir
from runner.signs import classify
from runner.strict_yaml import dump_yaml
from tests.experiments import SETTINGS
from tests.ranks import run_ranks

CONFIG = validate(SETTINGS).model_dump(mode="json")
SHARED = {"method": {"weight": torch.arange(6.0)}, "optimizer": {}, "step": 0}


def make_run(path: Path) -> RunDir:
    path.mkdir(parents=True)
    return RunDir(path)


def save(run: RunDir, attempt, step: int, value: float = 0.0) -> str:
    shared = {**SHARED, "step": step, "method": {"weight": torch.full((6,), value)}}
    return checkpoint.save(run, Group(), attempt, step, shared, {"rng": step}, {"trial": run.trial})


def start(run: RunDir, resumed_from: str | None = None):
    attempt = claim(run)
    attempt.record_start(job_id="1", launch="1.0", world=1, step=0, steps=10, resumed_from=resumed_from)
    return attempt


def test_what_was_saved_comes_back(tmp_path):
    run = make_run(tmp_path / "trial")
    attempt = start(run)
    save(run, attempt, 3, 1.5)
    name, refused = lineage.newest_valid(run)
    assert (name, refused) == ("step_00000003.00001", [])
    found = checkpoint.load(run, Group(), name, refused)
    assert found.step == 3 and found.own == {"rng": 3}
    assert torch.equal(found.shared["method"]["weight"], torch.full((6,), 1.5))
    manifest = json.loads((run.checkpoints / name / "manifest.json").read_text())
    assert manifest["world_size"] == 1 and manifest["trial"] == "trial" and list(manifest["files"]) == ["rank_00000.pt"]
    assert not list(run.checkpoints.glob(".*"))


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest", "no manifest", "newer format"])
def test_a_damaged_checkpoint_is_refused_and_the_previous_one_used(tmp_path, damage):
    run = make_run(tmp_path / "trial")
    attempt = start(run)
    save(run, attempt, 1)
    newest = run.checkpoints / save(run, attempt, 2)
    file, manifest = newest / "rank_00000.pt", newest / "manifest.json"
    match damage:
        case "flip":
            data = bytearray(file.read_bytes())
            data[random.Random(0).randrange(len(data))] ^= 1
            file.write_bytes(data)
        case "truncate":
            os.truncate(file, file.stat().st_size - 1)
        case "delete":
            file.unlink()
        case "manifest":
            manifest.write_text(manifest.read_text()[:-20])
        case "no manifest":
            manifest.unlink()
        case "newer format":
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    name, refused = lineage.newest_valid(run)
    assert name == "step_00000001.00001"
    assert len(refused) == 1 and refused[0].startswith("step_00000002.00001: ")


def test_every_flipped_byte_is_found(tmp_path):
    run = make_run(tmp_path / "trial")
    name = save(run, start(run), 1)
    file = run.checkpoints / name / "rank_00000.pt"
    whole = file.read_bytes()
    for position in random.Random(0).sample(range(len(whole)), 200):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << random.Random(position).randrange(8)
        file.write_bytes(damaged)
        assert lineage.verify(run, name) is not None, f"byte {position}"
    file.write_bytes(whole)
    assert lineage.verify(run, name) is None


def test_a_trial_never_silently_restarts_from_zero(tmp_path):
    run = make_run(tmp_path / "trial")
    name = save(run, start(run), 1)
    (run.checkpoints / name / "manifest.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"no checkpoint can be trusted: step_00000001\.00001: it has no manifest"
    ):
        lineage.newest_valid(run)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("failures", [1, 3, 99])
def test_a_file_server_that_is_away_costs_no_checkpoint(tmp_path, monkeypatch, number, failures):
    """It is asked again; a file that cannot be read for longer is passed over, and without another one is no flaw."""
    run = make_run(tmp_path / "trial")
    older, newer = [save(run, attempt, step) for attempt in [start(run)] for step in (10, 20)]
    real, seen = hashlib.file_digest, []

    def digest(stream, name):
        if newer in stream.name or only:
            seen.append(name)
            if len(seen) <= failures:
                raise OSError(number, os.strerror(number))
        return real(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", digest)
    monkeypatch.setattr(lineage, "PAUSES_SECONDS", (0.0, 0.0, 0.0))
    only = False
    name, refused = lineage.newest_valid(run)
    assert name == (newer if failures < 4 else older) and len(refused) == (failures > 3)
    seen.clear()
    only = True
    if failures < 4:
        assert lineage.newest_valid(run)[0] == newer
        return
    with pytest.raises(OSError) as caught:
        lineage.newest_valid(run)
    assert caught.value.errno == number and classify(caught.value) == "I/O error", "it is requeued"


@pytest.mark.parametrize("known_by", ["the save", "the next attempt", "the end of the attempt"])
def test_checkpoints_that_are_gone_are_missed(tmp_path, known_by):
    run = make_run(tmp_path / "trial")
    attempt = start(run)
    name = save(run, attempt, 7)
    if known_by != "the save":
        run.saved(1).unlink()
    if known_by == "the next attempt":
        start(run, resumed_from=name)
    if known_by == "the end of the attempt":
        attempt.record_end(step=7, cause="preempted", requeue=True, signal_to_saved_seconds=0.1)
    shutil.rmtree(run.checkpoints)
    with pytest.raises(CheckpointError, match=rf"{run.checkpoints}: has no checkpoint, but one of step 7 was saved"):
        lineage.newest_valid(run)


def test_what_was_never_saved_is_not_missed(tmp_path):
    run = make_run(tmp_path / "trial")
    attempt = start(run)
    attempt.record_end(step=7, cause="killed", requeue=True, signal_to_saved_seconds=None)
    assert lineage.newest_valid(run) == (None, [])
    save(run, attempt, 3)
    start(run)
    shutil.rmtree(run.checkpoints)
    assert lineage.newest_valid(run) == (None, []), "the newest attempt did without"


def test_an_export_to_what_is_no_file_is_refused(tmp_path):
    run = make_run(tmp_path / "trial")
    write_yaml(run.config, CONFIG)
    save(run, start(run), 1)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=rf"{tmp_path}/folder: cannot be written: Is a directory"):
        export(run, tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "trial"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("\0" * 4096, "control character U\\+0000"),
        ("name: tiny\nmethod: {name: scl}\nencoder:\n", "is no whole config: it has no encoder, data, views"),
        (dump_yaml(CONFIG)[:-40], "is no whole config|not YAML"),
    ],
    ids=["empty", "nulls", "cut", "cut near its end"],
)
def test_weights_do_not_leave_with_a_damaged_config(tmp_path, text, why):
    run = make_run(tmp_path / "trial")
    run.config.write_text(text)
    save(run, start(run), 1)
    with pytest.raises(ConfigError, match=f"{run.config}.*{why}"):
        export(run, tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


def test_a_superseded_attempt_cannot_commit_and_its_late_commits_are_not_read(tmp_path):
    run = make_run(tmp_path / "trial")
    old = start(run)
    save(run, old, 10)
    new = start(run, resumed_from="step_00000010.00001")
    with pytest.raises(CheckpointError) as caught:
        save(run, old, 20)
    assert isinstance(caught.value.__cause__, SupersededError)
    # One commit slips past the check: as if the check had been made just before the new attempt started.
    os.rename(run.checkpoints / ".tmp-step_00000020.00001", run.checkpoints / "step_00000020.00001")
    assert lineage.newest_valid(run)[0] == "step_00000010.00001"
    save(run, new, 12)
    assert lineage.newest_valid(run)[0] == "step_00000012.00002"


def test_lineage_follows_the_newest_attempt_down():
    names = [lineage.name_of(step, attempt) for step, attempt in [(5, 1), (9, 1), (7, 2), (8, 2), (6, 3)]]
    parents = {1: None, 2: "step_00000005.00001", 3: "step_00000007.00002"}
    chain = lineage.follow(names, parents)
    assert chain == ["step_00000006.00003", "step_00000007.00002", "step_00000005.00001"]
    assert lineage.follow(names, {1: None}) == ["step_00000009.00001", "step_00000005.00001"]
    assert lineage.follow([], {}) == []


@settings(max_examples=100)
@given(
    st.sets(st.integers(0, 300), min_size=1, max_size=30),
    st.integers(1, 5),
    st.sampled_from([None, 10, 50]),
    st.sampled_from([None, 7, 20]),
)
def test_pruning_keeps_the_newest_the_best_and_every_nth(steps, keep, every, best):
    names = [lineage.name_of(step, 1) for step in steps]
    gone = set(checkpoint.which_to_prune(names, keep=keep, keep_every_steps=every, best_step=best))
    kept = {int(name[5:13]) for name in names if name not in gone}
    expected = set(sorted(steps)[-keep:]) | {s for s in steps if s == best or (every and s % every == 0)}
    assert kept == expected


def test_prune_waits_for_the_newest_to_verify(tmp_path):
    run = make_run(tmp_path / "trial")
    attempt = start(run)
    for step in range(1, 6):
        name = save(run, attempt, step)
    (run.checkpoints / name / "rank_00000.pt").write_bytes(b"torn")
    checkpoint.prune(run, keep=1, keep_every_steps=None, best_step=None)
    assert len(lineage.list_names(run)) == 5
    save(run, attempt, 6)
    checkpoint.prune(run, keep=2, keep_every_steps=None, best_step=1)
    assert [int(name[5:13]) for name in lineage.list_names(run)] == [1, 5, 6]


def test_files_and_folders_reach_the_disk_before_the_rename(tmp_path, monkeypatch):
    run = make_run(tmp_path / "trial")
    attempt = start(run)
    run.checkpoints.mkdir()
    events: list[tuple[str, str]] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        events.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        real_fsync(descriptor)

    def rename(old, new) -> None:
        events.append(("rename", Path(new).name))
        real_rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    name = save(run, attempt, 1)
    assert events[:5] == [
        ("fsync", "rank_00000.pt"),
        ("fsync", "manifest.json"),
        ("fsync", f".tmp-{name}"),
        ("rename", name),
        ("fsync", "checkpoints"),
    ]


@pytest.mark.parametrize("kills", [300, pytest.param(3000, marks=[pytest.mark.nightly, pytest.mark.timeout(900)])])
def test_no_kill_of_many_costs_an_acknowledged_checkpoint(memory_path, kills):
    command = [sys.executable, "-m", "tests.kill_fuzz", "--kills", str(kills), "--folder", str(memory_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    leftovers = found.pop("leftovers")
    bad = sum(found.values()) - found["good"]
    print(f"\n{kills} kills -9 of a writer, {leftovers} in the middle of a checkpoint: {bad} bad; {found}")
    assert found == {"good": kills}
    assert leftovers > kills / 10, "most are to be killed at work"


def save_on_ranks(group: Group, folder: str, fail: bool) -> str:
    run = RunDir(Path(folder))
    attempt = claim(run) if group.is_main else None
    group.barrier()
    attempt = attempt or type("", (), {"number": 1, "check_fence": lambda self: None})()
    if fail and group.rank == 1:
        # A file where this rank wants to write its own: as unwritable as a full disk.
        checkpoint._write = lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    try:
        return checkpoint.save(run, group, attempt, 4, {**SHARED, "step": 4}, {"rank": group.rank}, {})
    except CheckpointError as error:
        return f"error: {error}"


@pytest.mark.ddp
def test_each_rank_reads_its_own_part(tmp_path):
    run = make_run(tmp_path / "trial")
    names = run_ranks(2, save_on_ranks, str(run.path), False)
    assert names == ["step_00000004.00001"] * 2
    for rank in range(2):
        assert checkpoint.load(run, Group(rank=rank, world=2), names[0], []).own == {"rank": rank}
    with pytest.raises(CheckpointError, match=r"saved by 2 ranks, resumed on 1; set resources\.ranks=2"):
        checkpoint.load(run, Group(), names[0], [])


@pytest.mark.ddp
def test_a_rank_that_cannot_write_fails_the_save_on_all_ranks(tmp_path):
    run = make_run(tmp_path / "trial")
    results = run_ranks(2, save_on_ranks, str(run.path), True)
    assert all(result.startswith("error: step 4: rank 1 could not write its part") for result in results)
    assert "No space left" in results[1]
    assert lineage.list_names(run) == []


def test_export_and_init_from(tmp_path):
    run = make_run(tmp_path / "trial")
    write_yaml(run.config, CONFIG)
    with pytest.raises(ConfigError, match="has no checkpoint to export yet"):
        export(run, tmp_path / "model.pt")
    layer = torch.nn.Linear(3, 2)
    checkpoint.save(run, Group(), start(run), 7, {"step": 7, "method": layer.state_dict()}, {}, {})
    export(run, tmp_path / "model.pt")
    portable = torch.load(tmp_path / "model.pt", weights_only=True)
    assert set(portable) == {"state_dict", "config", "history"} and portable["config"] == CONFIG
    other = torch.nn.Linear(3, 2)
    load_weights(other, tmp_path / "model.pt")
    assert torch.equal(other.weight, layer.weight)
    with pytest.raises(ConfigError, match=r"weight is \(2, 3\), not \(2, 4\) \(1 in all\)"):
        load_weights(torch.nn.Linear(4, 2), tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="does not exist"):
        load_weights(other, tmp_path / "absent.pt")
    (tmp_path / "evil.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    torch.save({"state_dict": run}, tmp_path / "object.pt")
    torch.save({"weights": layer.state_dict()}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("name: tiny\n")
    (tmp_path / "torn.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:-100])
    for name, reason in {
        "evil.pt": "it is not in torch's format; `runner export TRIAL FILE` writes one",
        "text.pt": "it is not in torch's format; `runner export TRIAL FILE` writes one",
        "torn.pt": "it is not in torch's format; `runner export TRIAL FILE` writes one",
        "object.pt": "it asks for runner.rundir.RunDir, which no tensor needs",
        "other.pt": "it has no mapping state_dict",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load_weights(other, tmp_path / name)
        told = f"init_from: {tmp_path / name} is no exported trial: {reason}"
        assert str(caught.value) == told


def test_parents_of_attempts_that_never_restored_are_left_out(tmp_path):
    run = make_run(tmp_path / "trial")
    start(run)
    claim(run)
    assert read_parents(run) == {1: None}
