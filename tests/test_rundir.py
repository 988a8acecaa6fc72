"""Files of a run folder are whole or absent, and two writers never mix."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from runner.attempt import claim
from runner.cancel import mark_cancelled
from runner.errors import ConfigError
from runner.files import append_row, read_rows, replacing, write_json
from runner.goodput import read_accounts
from runner.lock import bury, find_stale, in_use, locked, token_of
from runner.report.material import read_material
from runner.report.origin import tell_origin
from runner.results import read_results
from runner.rundir import (
    RunDir,
    find_configured,
    find_experiments,
    find_sweep,
    find_target,
    find_trial,
    find_trials,
)
from runner.status import read_statuses
from tests.clients import in_child
from tests.slurm_cluster import wait_for

FORK = multiprocessing.get_context("fork")


def make_trial(root: Path, experiment: str, trial: str) -> RunDir:
    run = RunDir(root / experiment / trial)
    run.path.mkdir(parents=True)
    run.config.write_text("name: x\n")
    return run


def test_trials_are_found_by_prefix_path_and_experiment(tmp_path):
    a, b = make_trial(tmp_path, "one", "abc123"), make_trial(tmp_path, "one", "abd456")
    c = make_trial(tmp_path, "two", "abc999")
    (tmp_path / "one" / ".submissions").mkdir()
    (tmp_path / "empty").mkdir()
    assert find_trials(tmp_path / "one") == [a, b]
    assert find_experiments(tmp_path) == [tmp_path / "one", tmp_path / "two"]
    assert find_trial(tmp_path, "abd") == b
    assert find_trial(tmp_path, "two/abc") == c
    assert find_trial(tmp_path, str(a.path)) == a
    with pytest.raises(ConfigError, match=r"2 trials start with it: one/abc123, two/abc999"):
        find_trial(tmp_path, "abc")
    d = make_trial(tmp_path, "two", "abd456")
    with pytest.raises(ConfigError, match=r"2 trials start with it: one/abd456, two/abd456; write EXPERIMENT/ID$"):
        find_trial(tmp_path, "abd456")
    assert find_trial(tmp_path, "two/abd456") == d
    for name in ("zzz", "one/zz"):
        with pytest.raises(ConfigError, match=f"^'{name}': neither an experiment nor the start of a trial's id"):
            find_target(tmp_path, name)
    for absent in ("zzz", "", "one/"):
        with pytest.raises(ConfigError, match=r"no trial under|is empty"):
            find_trial(tmp_path, absent)
    assert find_sweep(tmp_path, "one") == tmp_path / "one"
    with pytest.raises(ConfigError, match=r"'three': no trials of that name under .* there is: one, two"):
        find_sweep(tmp_path, "three")


def test_a_torn_line_is_left_out_and_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, {"step": 1})
    with path.open("ab") as file:
        file.write(b'{"step": 2, "los')
    append_row(path, {"step": 3})
    assert read_rows(path) == [{"step": 1}, {"step": 3}]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def claim_many(run: RunDir, queue) -> None:
    queue.put([claim(run).number for _ in range(25)])


def test_no_attempt_number_is_given_twice(tmp_path):
    queue = FORK.Queue()
    racers = [FORK.Process(target=claim_many, args=(RunDir(tmp_path), queue)) for _ in range(4)]
    for racer in racers:
        racer.start()
    numbers = [number for _ in racers for number in queue.get(timeout=60)]
    for racer in racers:
        racer.join()
    assert sorted(numbers) == list(range(1, 101))


def test_no_number_comes_back_when_its_folder_is_gone(tmp_path):
    run = RunDir(tmp_path)
    append_row(run.attempts, {"event": "start", "attempt": 4})
    (run.checkpoints / "step_00000030.00006").mkdir(parents=True)
    assert claim(run).number == 7
    shutil.rmtree(tmp_path / "tokens")
    assert claim(run).number == 7


def test_a_folder_in_use_is_refused_until_its_process_has_ended(tmp_path):
    folder = tmp_path / "trial"
    told = f"{folder}: in use by process {os.getpid()}; wait for it"
    with in_use(folder), pytest.raises(ConfigError, match=told), in_use(folder):
        pytest.fail("two at once")
    place = tmp_path / ".trial.owner.json"
    place.write_text(json.dumps({"host": os.uname().nodename, "pid": os.getpid(), "created": 1.0}))
    with in_use(folder):
        assert place.exists(), "another process had this number once"
    assert not place.exists()


def count_up(folder: Path, times: int) -> None:
    for _ in range(times):
        with locked(folder):
            path = folder / "count"
            value = int(path.read_text()) if path.exists() else 0
            path.write_text(str(value + 1))


def test_the_lock_lets_one_in_at_a_time(tmp_path):
    racers = [FORK.Process(target=count_up, args=(tmp_path, 10)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert (tmp_path / "count").read_text() == "40"
    assert not (tmp_path / ".lock").exists()


def test_a_dead_holders_lock_is_taken_over_and_a_live_ones_is_not(tmp_path):
    code = "import os, sys; from pathlib import Path; from runner.lock import locked\n"
    code += "with locked(Path(sys.argv[1])): os._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert (tmp_path / ".lock").exists()
    with (
        locked(tmp_path),
        pytest.raises(ConfigError, match=rf"\.lock: held by process {os.getpid()} on {os.uname().nodename} for"),
        locked(tmp_path, timeout_seconds=0.2),
    ):
        pass


def age(lock: Path) -> None:
    long_ago = time.time() - 10_000
    os.utime(lock, (long_ago, long_ago))


def test_the_lock_of_a_living_holder_is_never_taken_and_that_of_a_silent_one_elsewhere_is(tmp_path, monkeypatch):
    lock = tmp_path / ".lock"
    with locked(tmp_path):
        age(lock)
        with pytest.raises(ConfigError, match="held by process"), locked(tmp_path, timeout_seconds=0):
            pytest.fail("two at once")
    monkeypatch.setattr("runner.lock.SIGN_SECONDS", 0.01)
    with locked(tmp_path):
        age(lock)
        wait_for(lambda: time.time() - lock.stat().st_mtime, 10, "a sign of life", until=lambda age: age < 100)
    monkeypatch.undo()
    # Its number is another's by now; or it is on another host.
    for change in ({"created": 1.0}, {"host": "elsewhere"}):
        with locked(tmp_path):
            holder = json.loads((lock / "holder.json").read_text()) | change
            (lock / "holder.json").write_text(json.dumps(holder))
            age(lock)
            with locked(tmp_path, timeout_seconds=0):
                assert token_of(lock) != holder["token"]
        assert not lock.exists()


def test_whoever_leaves_late_leaves_the_lock_of_another_alone(tmp_path):
    lock, mine = tmp_path / ".lock", locked(tmp_path)
    mine.__enter__()
    shutil.rmtree(lock)
    with locked(tmp_path):
        theirs = token_of(lock)
        assert theirs is not None
        mine.__exit__(None, None, None)
        assert token_of(lock) == theirs
        shutil.rmtree(lock)
    assert list(tmp_path.iterdir()) == []


def test_of_two_who_find_a_stale_lock_one_breaks_it_and_the_other_leaves_what_came_after(tmp_path):
    code = "import os, sys; from pathlib import Path; from runner.lock import locked\n"
    code += "with locked(Path(sys.argv[1])): os._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    lock = tmp_path / ".lock"
    stale = find_stale(lock)
    assert stale is not None and stale == token_of(lock)
    with locked(tmp_path, timeout_seconds=0):
        mine = token_of(lock)
        assert not bury(lock, stale)
        assert token_of(lock) == mine != stale


def test_what_leads_elsewhere_is_written_to_and_stays_what_it_is(tmp_path):
    """As root a rename would put a file in the place of /dev/null, for everybody."""
    place = tmp_path / "pipe"
    os.mkfifo(place)
    reader = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
    with replacing(place) as file:
        file.write(b"x")
    assert os.read(reader, 10) == b"x" and place.is_fifo() and list(tmp_path.iterdir()) == [place]
    os.close(reader)
    with replacing(Path("/dev/null")) as file:
        file.write(b"x")
    assert Path("/dev/null").is_char_device()


def test_a_trial_whose_config_is_gone_is_found_and_a_half_made_one_is_not(tmp_path):
    run, half_made = make_trial(tmp_path, "one", "abc123"), make_trial(tmp_path, "one", "abd456")
    for each in (run, half_made):
        each.config.unlink()
        each.overrides.write_text("{}")
    for name in ("attempts.jsonl", "jobs.jsonl", "result.json", "checkpoints"):
        assert not find_experiments(tmp_path)
        (run.path / name).touch()
        assert find_trials(tmp_path / "one") == [run] and find_target(tmp_path, "one") == [run]
        assert find_configured(tmp_path / "one") == [], "a submission makes it anew"
        (run.path / name).unlink()


def test_a_folder_that_is_closed_is_still_a_trial():
    """Also to root, who is somebody else here."""
    with TemporaryDirectory() as place:
        root = Path(place)
        root.chmod(0o755)
        run, other = (make_trial(root, "one", trial) for trial in ("0123456789", "notes"))
        run.path.parent.chmod(0o755)
        for each in (run, other):
            each.path.chmod(0)

        def work() -> None:
            if os.getuid() == 0:
                os.setresuid(65534, 65534, 65534)
            assert find_trials(root / "one") == [run] and find_configured(root / "one") == []
            (row,) = read_statuses([run])
            assert (row.state, row.note) == ("unknown", f"{run.path} cannot be read: Permission denied")
            assert mark_cancelled([run]) == ([], []) and read_accounts([row], 1.0)[0].ledger.wall_seconds == 0
            assert read_results([row])[0].state == "unknown"
            assert "do not say" in tell_origin(read_material([root / "one"], 1.0))

        code = in_child(work)
        for each in (run, other):
            each.path.chmod(0o700)
        assert code == 0
