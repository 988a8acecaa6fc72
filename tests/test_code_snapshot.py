"""The code a trial was submitted with is what all its attempts run, whatever happens to the checkout meanwhile."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from runner import code_snapshot, launcher
from runner.cli import run as cli
from runner.code_changes import compare_code, summarize
from runner.code_snapshot import code_of, digest, read_package, shell_check, shell_words, take
from runner.code_store import YOUNG_SECONDS, delete, list_snapshots
from runner.doctor import check_code
from runner.errors import ConfigError
from runner.exactness import code_digest
from runner.files import read_json, write_json
from runner.job import python_command
from runner.recode import recode
from runner.retry import retry
from runner.rundir import RunDir, find_trials
from tests.checkouts import METHOD, break_the_package, double_the_loss, environment_of, make_checkout
from tests.experiments import fingerprint, prepare_run, run_cli, train_here, write_experiment
from tests.slurm_cluster import wait_for
from tests.slurm_trials import causes, ranks_of, wait_for_step, wait_until_done
from tests.trials import make_trial

PATIENCE_SECONDS = 120


@pytest.fixture
def root(tmp_path):
    (tmp_path / "runs").mkdir(mode=0o700)
    return tmp_path / "runs"


@pytest.fixture
def package(tmp_path):
    """A small package called runner, in a folder of its own."""
    folder = tmp_path / "checkout" / "runner"
    (folder / "methods" / "__pycache__").mkdir(parents=True)
    (folder / "__init__.py").write_text("name = 'kept'\n")
    (folder / "methods" / "__init__.py").write_text("")
    (folder / "methods" / "mine.py").write_text("a = 1\n")
    (folder / "methods" / "words.txt").write_text("a word\n")
    (folder / "methods" / "__pycache__" / "mine.cpython-311.pyc").write_bytes(b"x")
    (folder / ".hidden.swp").write_text("x")
    return folder


def test_a_snapshot_has_every_file_and_nothing_else(root, package):
    home = take(root, package)
    files = {str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()}
    assert files == {
        "runner/__init__.py": "name = 'kept'\n",
        "runner/methods/__init__.py": "",
        "runner/methods/mine.py": "a = 1\n",
        "runner/methods/words.txt": "a word\n",
    }
    assert (
        home == root / ".code" / digest(read_package(package)) == root / ".code" / digest(read_package(home / "runner"))
    )


def test_links_are_followed_as_python_does(package, tmp_path):
    lab, data = tmp_path / "lab", tmp_path / "data"
    lab.mkdir(), data.mkdir()
    for name in ("__init__.py", "own.py"):
        (lab / name).write_text("b = 2\n")
    (data / "set.bin").write_bytes(b"x")
    (package / "linked").symlink_to(lab)
    (package / "methods" / "again").symlink_to(lab)
    (package / "methods" / "data").symlink_to(data)
    (lab / "round").symlink_to(package)
    (package / "methods" / "gone.py").symlink_to(tmp_path / "nothing")
    files = read_package(package)
    assert files["linked/own.py"] == files["methods/again/own.py"] == b"b = 2\n"
    assert not any(word in name for name in files for word in ("round/linked", "gone", "set.bin"))


def test_its_name_is_that_of_the_code_in_the_facts_of_a_checkpoint(root):
    assert take(root).name == code_digest()


def test_the_same_code_has_one_snapshot_and_other_code_another(root, package):
    home = take(root, package)
    before = {path: path.stat().st_mtime_ns for path in (home / "runner").rglob("*")}
    shutil.copytree(package, package.parents[1] / "clone" / "runner")
    assert take(root, package.parents[1] / "clone" / "runner") == home
    assert {path: path.stat().st_mtime_ns for path in (home / "runner").rglob("*")} == before
    (package / "methods" / "mine.py").write_text("a = 2\n")
    other = take(root, package)
    assert other != home and (home / "runner" / "methods" / "mine.py").read_text() == "a = 1\n"
    assert {path.name for path in (root / ".code").iterdir()} == {home.name, other.name}, "and nothing half-written"


def test_many_at_once_leave_one_whole_snapshot(root):
    homes, files = [], read_package()
    threads = [threading.Thread(target=lambda: homes.append(take(root))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(homes) == 4 and len(set(homes)) == 1 and list((root / ".code").iterdir()) == homes[:1]
    assert read_package(homes[0] / "runner") == files


def test_what_a_power_loss_has_torn_is_written_again(root, package):
    home = take(root, package)
    (home / "runner" / "methods" / "mine.py").write_text("")
    assert take(root, package) == home
    assert (home / "runner" / "methods" / "mine.py").read_text() == "a = 1\n"
    (home / "runner" / "__init__.py").unlink()
    take(root, package)
    assert read_package(home / "runner") == read_package(package)


def test_samples_are_those_of_a_checkout_that_is_still_there(root, package):
    assert not (take(root, package) / "experiments").exists()
    (package.parent / "experiments").mkdir()
    home = take(root, package)
    assert (home / "experiments").resolve() == package.parent / "experiments"
    clone = package.parents[1] / "clone"
    package.parent.rename(clone)
    assert not (home / "experiments").exists()
    take(root, clone / "runner")
    assert (home / "experiments").resolve() == clone / "experiments"


def test_a_root_that_cannot_be_on_the_path_of_python_is_refused(tmp_path, package):
    (tmp_path / "a:b").mkdir()
    with pytest.raises(ConfigError, match=r"a:b: has ':' in it, .* snapshot: false"):
        take(tmp_path / "a:b", package)


def test_data_in_the_package_are_refused(root, package, monkeypatch):
    monkeypatch.setattr(code_snapshot, "LARGEST_FILE_BYTES", 2**20)
    (package / "data.bin").write_bytes(bytes(2**20 + 1))
    with pytest.raises(ConfigError, match=r"data\.bin: a file of the code has 1 MiB at most"):
        take(root, package)
    assert not (root / ".code").exists()


@pytest.mark.parametrize(("umask", "folders", "files"), [(0o077, 0o700, 0o600), (0o027, 0o750, 0o640)])
def test_it_is_as_readable_as_the_site_asks_also_when_python_has_compiled_it(root, package, umask, folders, files):
    before = os.umask(umask)
    try:
        home = take(root, package)
    finally:
        os.umask(before)
    program = "import os; os.umask(0); import runner.methods.mine"
    compiling = environment_with_snapshot(home) | {"PYTHONDONTWRITEBYTECODE": ""}
    subprocess.run([sys.executable, "-c", program], env=compiling, check=True)
    assert list(home.rglob("*.pyc"))
    found = {True: set(), False: set()}
    for path in [home.parent, home, *home.rglob("*")]:
        found[path.is_dir()].add(stat.S_IMODE(path.stat().st_mode))
    assert found == {True: {folders}, False: {files}}


def environment_with_snapshot(home: Path) -> dict[str, str]:
    return code_snapshot.environment_with(home, dict(os.environ))


WHERE = "import subprocess, sys; import runner; print(runner.name)"
"""Told by a process and by a child of it."""
CHILD = f"{WHERE}; subprocess.run([sys.executable, '-c', 'import runner; print(runner.name)'], check=True)"


def test_a_job_and_its_children_import_the_snapshot(root, package, tmp_path):
    """Also in the folder of a checkout, with another one on PYTHONPATH."""
    shutil.copy(launcher.__file__, package / "launcher.py")
    home = take(root, package)
    (package / "__init__.py").write_text("name = 'edited'\n")
    jobs = root / "exp" / ".submissions" / "1" / "jobs"
    jobs.mkdir(parents=True)

    def start(code: Path | None) -> subprocess.CompletedProcess[str]:
        command = f"{python_command(code)} -c {json.dumps(CHILD)} {jobs}"
        environment = environment_of(package.parent)
        return subprocess.run(command, shell=True, cwd=package.parent, env=environment, capture_output=True, text=True)

    done = start(home)
    assert done.stdout.split() == ["kept", "kept"], done.stderr
    assert start(None).stdout.split() == ["edited", "edited"], "the test can fail"
    (home / "runner").chmod(0o770)
    refused = start(home)
    assert refused.returncode == 2 and f"{home}/runner: has mode 0770" in refused.stderr and refused.stdout == ""


def test_the_questions_of_a_batch_script_go_to_the_snapshot(root, package):
    home = take(root, package)
    (package / "__init__.py").write_text("name = 'edited'\n")
    line = f"{shell_words(home)} {sys.executable} -c 'import runner; print(runner.name)'"
    for path in (str(package.parent), ""):
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(["bash", "-c", line], cwd=package.parent, env=environment, capture_output=True, text=True)
        assert done.stdout == "kept\n", done.stderr


@pytest.mark.parametrize("place", ["runner/methods", "runner/methods/mine.py", "runner", ".", "..", "../.."])
def test_a_batch_script_ends_where_others_could_change_the_code(root, package, place):
    home = take(root, package)
    script = "\n".join([*shell_check(home), "echo the code runs"])

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True)

    assert start().stdout == "the code runs\n"
    (home / place).chmod((home / place).stat().st_mode | 0o020)
    done = start()
    assert (done.returncode, done.stdout) == (2, "") and str((home / place).resolve()) in done.stderr
    (home / place).chmod(0o700)
    root.chmod(0o1777)
    assert start().returncode == 0, "a run root in a folder like /tmp"
    shutil.rmtree(home)
    assert start().returncode == 2


def test_nothing_is_submitted_with_code_that_others_could_change(root, tmp_path, capfd):
    home = take(root)
    (home / "runner").chmod(0o777)
    (tmp_path / "site.yaml").write_text("cluster: local")
    words = ["submit", str(write_experiment(tmp_path)), "--on", str(tmp_path / "site.yaml"), "--root", str(root)]
    assert cli(words) == 2
    assert f"{home}/runner: has mode 0777" in capfd.readouterr().err
    assert not find_trials(root / "tiny")


@pytest.mark.parametrize("wanted", [True, False])
def test_a_dry_run_names_the_snapshot_and_makes_none(root, tmp_path, capfd, wanted):
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"cluster": "slurm", "snapshot": wanted}))
    words = ["submit", str(write_experiment(tmp_path)), "--on", str(tmp_path / "site.yaml"), "--root", str(root)]
    assert cli([*words, "--dry-run"]) == 0
    home = root / ".code" / code_digest()
    assert (f"{home}/runner/launcher.py" in capfd.readouterr().out) is wanted
    assert not home.parent.exists()


def test_code_that_is_gone_or_has_no_such_name(root):
    run = make_trial(root, "aa11")
    assert code_of(run) is None
    write_json(run.provenance, {"snapshot": {"code": "0123456789ab"}})
    with pytest.raises(ConfigError, match=r"its code is gone .* runner retry aa11 --code current"):
        code_of(run)
    for name in ("../../../tmp", "", "0123456789abc"):
        write_json(run.provenance, {"snapshot": {"code": name}})
        with pytest.raises(ConfigError, match="must be 12 hex digits"):
            code_of(run)


def test_a_retry_with_the_code_of_today_says_what_changes_and_keeps_what_was(root, monkeypatch, package):
    run, same = make_trial(root, "aa11"), make_trial(root, "bb22")
    home = take(root, package)
    write_json(run.provenance, {"snapshot": {"code": home.name}, "command": "before", "nonce": "1a2b"})
    (run.path / "diff.patch").write_text("a patch")
    write_json(same.provenance, {"snapshot": {"code": code_digest()}, "command": "before"})
    (line,) = recode([run, same], root, ["runner", "retry"])
    assert line.startswith(f"1 trial: code {code_digest()} from now on, was {home.name}: ") and "__init__.py +" in line
    assert code_of(run) == code_of(same) == root / ".code" / code_digest()
    assert (read_json(run.path / "provenance.1.json") or {})["command"] == "before"
    assert (run.path / "diff.1.patch").read_text() == "a patch"
    now = read_json(run.provenance) or {}
    assert (now["command"], now["nonce"]) == ("runner retry", "1a2b"), "its run at W&B goes on"
    assert (read_json(same.provenance) or {})["command"] == "before"


def test_a_retry_of_code_that_is_gone_changes_nothing(root):
    run = make_trial(root, "aa11", job={"cluster": "local", "job_id": "x"}, failure={"cause": "user code"})
    write_json(run.provenance, {"snapshot": {"code": "0123456789ab"}})
    with pytest.raises(ConfigError, match="its code is gone"):
        retry([run], None)
    assert run.failure.exists()


def test_what_is_changed_between_two_codes():
    before = {"a.py": b"1\n2\n3\n", "b.py": b"x\n", "gone.py": b"y\n", "same.py": b"z\n"}
    after = {"a.py": b"1\n2\n4\n5\n", "b.py": b"x\n++\n", "new.py": b"y\n", "same.py": b"z\n"}
    changes = compare_code(before, after)
    assert summarize(changes) == "a.py +2 -1, b.py +1 -0, gone.py +0 -1, new.py +1 -0"
    assert changes[0].patch == "--- a/a.py\n+++ b/a.py\n@@ -1,3 +1,4 @@\n 1\n 2\n-3\n+4\n+5\n"
    assert summarize(compare_code({}, {f"{n}.py": b"x\n" for n in range(7)})).endswith("4.py +1 -0 and 2 more")


def test_only_what_no_trial_needs_is_deleted_and_only_with_consent(root, package, capfd):
    named, spare, young = (take_edited(root, package, text) for text in ("a = 2", "a = 3", "a = 4"))
    before, now = make_trial(root, "aa11"), make_trial(root, "bb22", "other")
    write_json(now.provenance, {"snapshot": {"code": take_edited(root, package, "a = 5").name}})
    write_json(before.path / "provenance.1.json", {"snapshot": {"code": named.name}})
    torn = root / ".code" / ".0123456789ab.cafe.torn"
    torn.mkdir()
    for home in (named, spare, torn):
        os.utime(home, (0, time.time() - YOUNG_SECONDS - 1))
    assert {each.home.name for each in list_snapshots(root) if each.is_spare} == {spare.name, torn.name}
    assert "2 that no trial needs" in str(next(check_code(root)))
    assert cli(["code", "--prune", "--root", str(root)]) == 2 and spare.exists(), "nobody said yes"
    assert cli(["code", "--prune", "--yes", "--root", str(root)]) == 0
    assert not spare.exists() and not torn.exists() and named.exists() and young.exists()
    (old,) = [each for each in list_snapshots(root) if each.home == young]
    os.utime(young, (0, time.time() + 1))
    assert delete([old]) == [] and young.exists(), "a submission has taken it meanwhile"
    now.provenance.write_text("torn")
    assert cli(["code", "--root", str(root)]) == 2
    assert "nobody knows what code it needs" in capfd.readouterr().err


def take_edited(root: Path, package: Path, text: str) -> Path:
    (package / "methods" / "mine.py").write_text(text)
    return take(root, package)


SMALL = {"train": {"steps": 16}, "tracking": {"every_steps": 4}}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The fingerprint of the same method, trained without a break by the package under test."""
    run = prepare_run(tmp_path_factory.mktemp("reference"), **SMALL)
    assert train_here(run) == 1
    return fingerprint(run)


@pytest.fixture
def checkout(tmp_path):
    return make_checkout(tmp_path / "checkout")


def run_in(checkout: Path, *words: object) -> str:
    """`runner WORDS` as somebody types it in a checkout; what it printed."""
    done = run_cli(*words, "--root", checkout.parent / "runs", cwd=checkout, env=environment_of(checkout))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def submit_from(checkout: Path, site: dict[str, object], **groups: dict) -> RunDir:
    path = write_experiment(checkout.parent, method={"name": METHOD}, **groups)
    (checkout.parent / "site.yaml").write_text(yaml.safe_dump(site))
    run_in(checkout, "submit", path, "--on", checkout.parent / "site.yaml")
    (run,) = find_trials(checkout.parent / "runs" / "tiny")
    return run


@pytest.mark.slow
def test_every_attempt_of_a_local_trial_runs_the_code_of_its_submission(root, checkout, reference):
    """An edit right after the submission changes what both attempts import, were it not for the snapshot."""
    run = submit_from(checkout, {"cluster": "local"}, rehearse={"at_step": 5}, **SMALL)
    double_the_loss(checkout)
    wait_for(run.result.exists, PATIENCE_SECONDS, "the result")
    assert causes(run) == ["preempted", "done"] and fingerprint(run) == reference
    starts = [row for row in run.attempt_rows() if row["event"] == "start"]
    home = code_of(run)
    assert home and {row["code"] for row in starts} == {home.name} and starts[1]["exact"] == "yes"
    last = run_in(checkout, "reproduce", run.trial[:6], "--run").splitlines()[-1]
    assert last == f"equal in every bit after 16 steps: {str(reference)[:12]}"


@pytest.mark.nightly
@pytest.mark.slow
def test_a_slurm_trial_needs_nothing_of_the_checkout_any_more(root, checkout, slurm, reference):
    """Killed: the decision whether it is requeued, and its second attempt, are made by the snapshot too."""
    site = {"cluster": "slurm", "partition": "low", "time_minutes": 30, "memory_gb": 1.5}
    run = submit_from(checkout, site, **{**SMALL, "tracking": {"every_steps": 1}, "checkpoint": {"every_steps": 2}})
    break_the_package(checkout)
    wait_for_step(run, 3)
    for rank in ranks_of(run):
        rank.send_signal(signal.SIGKILL)
    wait_until_done(run)
    assert causes(run)[-1] == "done" and len(causes(run)) == 2 and fingerprint(run) == reference
