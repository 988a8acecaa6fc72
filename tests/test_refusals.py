"""What a site would refuse is one line with the profile's key, and costs no submission."""

import json
import os
from pathlib import Path

import pytest

from runner import named
from runner.acceptance import check_accepted, check_cluster, check_container, check_modules, check_nodes, list_modules
from runner.cli import run as cli
from runner.config import ResourcesConfig
from runner.errors import ConfigError, DataError
from runner.experiment import load_experiment
from runner.explain import OptionError
from runner.files import write_json
from runner.limits import Cluster
from runner.preflight import FILES_A_TRIAL, check_data, check_root, find_shortage, measure_kept
from runner.prepare import prepare
from runner.profile import Profile
from runner.refusals import blame, find_refusal, hint
from runner.rundir import RunDir
from runner.slurm_text import Node
from runner.sweep import trials
from tests.experiments import write_experiment

SITE = Profile(cluster="slurm", partition="gpu", qos="long", time_minutes=240, memory_gb=64)
UP = {"MaxTime": "1-00:00:00", "State": "UP"}
CLUSTER = Cluster({}, {"gpu": UP, "short": {**UP, "MaxTime": "02:00:00"}, "all": {**UP, "MaxTime": "UNLIMITED"}})


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes stand-ins that come first on PATH."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)

    return write


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("invalid partition specified: x; Invalid partition name specified", "partition"),
        ("Invalid account or account/partition combination specified", "partition"),  # there is no account
        ("Invalid qos specification", "qos"),
        ("Invalid feature specification", "constraint"),
        ("Invalid node name specified", "nodelist"),
        ("Invalid generic resource (gres) specification", "gpus_per_node"),
        ("Memory specification can not be satisfied; Requested node configuration is not available", "memory_gb"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "time_minutes"),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", "qos"),
    ],
)
def test_words_of_slurm_name_a_key(said, key):
    refusal = find_refusal(said)
    assert refusal is not None and blame(refusal, SITE)[0] == key


def test_only_what_cannot_change_by_itself_is_final():
    final = {said: find_refusal(said).is_final for said in ("Invalid qos specification", "QOSMaxSubmitJobPerUserLimit")}
    assert final == {"Invalid qos specification": True, "QOSMaxSubmitJobPerUserLimit": False}
    assert not find_refusal("Requested node configuration is not available").is_final, "nodes that are drained, too"
    assert (
        find_refusal("what a plug-in of the site says") is None and hint("what a plug-in of the site says", SITE) == ""
    )
    assert hint("Requested node configuration is not available", SITE) == (
        '; the profile has memory_gb: 64.0, partition: "gpu"'
    )


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"partition": "gpus"}, r'partition: "gpus" is not allowed; did you mean "gpu"\?'),
        ({"partition": "short"}, "time_minutes: 240 is not allowed; partition short has a limit of 120"),
    ],
)
def test_partitions_and_their_time_limits_are_looked_up(keys, problem):
    with pytest.raises(OptionError, match=problem):
        check_cluster(SITE.model_copy(update=keys), CLUSTER, {})


@pytest.mark.parametrize("partition", ["gpu", "all", "gpu,short", None])
def test_one_partition_that_fits_is_enough(partition):
    check_cluster(SITE.model_copy(update={"partition": partition}), CLUSTER, {})


def node(partition: str = "gpu", **changes: float) -> Node:
    return Node(**{"partition": partition, "cpus": 64, "memory_gb": 256, "gpus": 4, **changes})


@pytest.mark.parametrize(
    ("keys", "ranks", "problem"),
    [
        ({"cpus_per_task": 65}, 1, "cpus_per_task: 65 is not allowed; a trial takes 65 CPUs on a node, and the larg"),
        ({"cpus_per_task": 20, "gpus_per_node": 4}, 4, "cpus_per_task: 20 is .* takes 80 CPUs on a node, .* has 64"),
        ({"memory_gb": 257}, 1, "memory_gb: 257.* takes 257 GB on a node, and the largest has 256"),
        ({"gpus_per_node": 8}, 8, "gpus_per_node: 8 .* takes 8 GPUs on a node, and the largest has 4"),
        ({"gpus_per_node": 4}, 12, "resources.ranks: 12 .* 3 nodes with 4 CPUs, 64 GB, 4 GPUs, and there are 2 of"),
    ],
)
def test_what_no_node_is_large_enough_for_would_wait_for_ever(keys, ranks, problem):
    site, resources = SITE.model_copy(update=keys), ResourcesConfig(ranks=ranks)
    with pytest.raises(OptionError, match=problem):
        check_nodes(site, resources, [node(), node(), node(gpus=0, cpus=8)])
    large = {"cpus": 999, "memory_gb": 999, "gpus": 99}
    check_nodes(site, resources, [node(**large)] * 3)
    check_nodes(site, resources, [])


def test_the_nodes_of_other_partitions_do_not_count():
    with pytest.raises(OptionError, match="memory_gb"):
        nodes = (node(memory_gb=32), node("all", memory_gb=512))
        check_cluster(SITE, Cluster({}, CLUSTER.partitions, nodes), {ResourcesConfig(): ""})


def test_a_test_that_slurm_does_not_answer_stops_nothing(tools):
    tools("sbatch", 'echo "allocation failure: Invalid qos specification" >&2; exit 1')
    with pytest.raises(OptionError, match='qos: "long" is not allowed; Slurm says: Invalid qos specification'):
        check_accepted(SITE, "#!/bin/bash")
    for words in ("Socket timed out on send/recv operation", "Requested node configuration is not available", "Moon"):
        tools("sbatch", f'echo "sbatch: error: {words}" >&2; exit 1')
        check_accepted(SITE, "#!/bin/bash")


def test_modules_are_asked_for_in_order_by_a_login_shell(tools, tmp_path, monkeypatch):
    """A stand-in for `module`, in which cuda shows itself once gcc is loaded."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".bash_profile").write_text(
        'loaded=" "\nmodule() {\n  if [ "$1" = load ]; then loaded="$loaded$2 "; return; fi\n'
        '  case "$2" in gcc/12) ;; cuda/12) [[ "$loaded" == *" gcc/12 "* ]] ;; *) return 1 ;; esac\n}\n'
    )
    lines = ["export A=b", "module purge", "module load gcc/12 cuda/12", "ml load x || true", "module load $MINE"]
    assert list_modules(lines) == ["gcc/12", "cuda/12"]
    check_modules(SITE.model_copy(update={"setup": tuple(lines)}))
    check_modules(SITE.model_copy(update={"setup": ("module load cuda/12 || exit 1",)}))
    with pytest.raises(OptionError, match="setup: module load cuda/12 is not allowed; there is no such module"):
        check_modules(SITE.model_copy(update={"setup": ("module load cuda/12",)}))
    (tmp_path / ".bash_profile").write_text('module() { echo "Modules Release 3.2.10" >&2; return 1; }')
    check_modules(SITE.model_copy(update={"setup": ("module load anything",)}))
    (tmp_path / ".bash_profile").write_text("")
    check_modules(SITE.model_copy(update={"setup": ("module load anything",)}))


@pytest.mark.parametrize(
    ("free_bytes", "free_files", "trials", "kept", "problem"),
    [
        (2 * 10**9, 10**6, 1000, 0, None),
        (2 * 10**9, None, 1000, 0, None),
        (10**8, 10**6, 1, 0, "0.10 GB free, and the least there should be take 1.00 GB"),
        (10**12, 10**6, 1000, 10**9, None),
        (10**12, 10**6, 1001, 10**9, "1000.00 GB free, and 1001 trials of 1.00 GB take 1001.00 GB"),
        (10**12, 1000 * FILES_A_TRIAL - 1, 1000, 0, "room for 19999 more files, and 1000 trials take about 20000"),
    ],
)
def test_too_little_space_is_told_with_numbers(free_bytes, free_files, trials, kept, problem):
    assert find_shortage(free_bytes, free_files, trials, kept) == problem


def test_earlier_trials_tell_what_one_keeps(tmp_path):
    assert measure_kept(tmp_path, 3) == 0
    for trial, sizes in {"a": [10, 70], "b": [50], "c": []}.items():
        run = RunDir(tmp_path / trial)
        run.checkpoints.mkdir(parents=True)
        run.config.touch()
        for step, size in enumerate(sizes):
            folder = run.checkpoints / f"step_{step:08}.1"
            folder.mkdir()
            (folder / "rank_0.pt").write_bytes(bytes(size))
    assert measure_kept(tmp_path, 3) == 4 * 70


def test_data_that_are_not_here_are_told_unless_only_nodes_have_them(tmp_path, monkeypatch):
    monkeypatch.setattr("runner.preflight.NODE_LOCAL", ("/dev/shm",))
    here = [tmp_path, Path("/dev/shm/nowhere"), Path("/of_nodes_alone/images")]
    check_data({"data": here}, SITE)
    with pytest.raises(DataError, match=r"evaluate\.data\.x: .*/nowhere does not exist"):
        check_data({"data": here, "evaluate.data.x": [tmp_path / "nowhere"]}, SITE)
    with pytest.raises(DataError, match="data: /dev/shm/nowhere does not exist"):
        check_data({"data": here}, Profile(cluster="local"))


def test_every_data_set_says_what_it_reads(tmp_path):
    """Where that is not there, building it fails."""
    for name in named.names("data"):
        module = named.load("data", name)
        if not hasattr(module, "sources"):
            assert name == "synthetic"
            continue
        keys = {"root": tmp_path, "path": tmp_path / "x", "paths": [tmp_path / "x"]}
        told = {key: value for key, value in keys.items() if key in module.Config.model_fields}
        needed = {"test_packages": ["x"]} if name == "code_triples" else {}
        config = module.Config(**json.loads(json.dumps(told | needed, default=str)))
        assert all(path.is_relative_to(tmp_path) for path in module.sources(config)) and module.sources(config)
        with pytest.raises(DataError):
            module.build(config, "train")
        if "download" in module.Config.model_fields:
            assert module.sources(config.model_copy(update={"download": True})) == []


def test_a_root_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    check_root(tmp_path / "new" / "newer")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file: is no folder"):
        check_root(tmp_path / "file" / "runs")
    # What root may write to is everything, so the answer is a stand-in's.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=": cannot be written; give another --root"):
        check_root(tmp_path / "runs")


def test_data_matter_to_those_trials_alone_that_are_sent(tmp_path, capfd):
    """A finished sweep stays what it is when its data are gone."""
    site = tmp_path / "site.yaml"
    site.write_text("cluster: local")
    path = write_experiment(tmp_path, data={"name": "fashion_mnist", "root": str(tmp_path / "gone")}, without=("data",))
    command = ["submit", str(path), "--on", str(site), "--root", str(tmp_path / "runs")]
    told = f"data.root: {tmp_path}/gone does not exist; put the data there, or say where they are\n"
    assert cli(command) == 2 and capfd.readouterr().err == f"runner: {told}"
    assert cli([*command, "--dry-run"]) == 0 and capfd.readouterr().err == f"runner: would be refused: {told}"
    assert not (tmp_path / "runs").exists()
    ((variant, trial),) = trials(load_experiment(path))
    run = RunDir(tmp_path / "runs" / "tiny" / variant.trial_id)
    prepare(run, trial, variant.overrides, ({}, ""))
    write_json(run.result, {"state": "done", "step": 20, "metrics": {}})
    assert cli(command) == 0
    assert "1 trial, 0 to submit" in capfd.readouterr().out


def test_a_container_that_is_not_there(tools, tmp_path):
    def check(container: str, **more: object) -> None:
        check_container(SITE.model_copy(update={"container": container, **more}))

    with pytest.raises(OptionError, match="container: apptainer is not allowed; there is no such command on this mach"):
        check("apptainer exec /images/a.sif")
    check("apptainer exec a.sif", setup=("module load apptainer",))
    check("$SITE/run exec a.sif")
    tools("apptainer", "exit 0")
    (tmp_path / "a.sif").touch()
    for there in (tmp_path / "a.sif", "$IMAGES/a.sif", "/tmp/of_the_node.sif", "docker://torch"):
        check(f"apptainer exec {there}")
    with pytest.raises(OptionError, match=r"container: /images/a\.sif is not allowed; there is no such image"):
        check("apptainer exec --nv /images/a.sif")
