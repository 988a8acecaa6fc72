"""What `runner init` makes of a cluster: as data, with typed answers, and on a real Slurm."""

import os
import subprocess
import sys

import pytest

from runner import site
from runner.cli import run
from runner.doctor import examine
from runner.errors import ConfigError
from runner.profile import load_profile
from runner.site import (
    Answers,
    Cluster,
    NodeKind,
    Partition,
    choose,
    parse_accounts,
    parse_gpus,
    parse_minutes,
    parse_nodes,
    parse_partition,
    render,
    suggest_minutes,
    suggest_partition,
)

CPU = Partition("cpu", is_default=True, max_seconds=172800, nodes=(NodeKind(100, 0, 64, 256_000),))
A100 = Partition("a100", max_seconds=86400, nodes=(NodeKind(8, 4, 64, 512_000), NodeKind(2, 8, 128, 1_024_000)))
SPARE = Partition("spare", grace_seconds=180, preempt_mode="REQUEUE", nodes=(NodeKind(3, 4, 64, 512_000),))
CLUSTER = Cluster("big", (CPU, A100, SPARE), ("vision/high", "other"), counts_memory=True)


def values(cluster, answers):
    return {line.key: line.value for line in choose(cluster, answers)}


def test_a_partition_with_gpus_is_suggested_and_why():
    assert suggest_partition(CLUSTER) == ("a100", "most GPUs; cpu, the default, has none")
    assert suggest_partition(Cluster("c", (CPU,))) == ("cpu", "the default of the cluster")
    down = Partition("a100", is_up=False, nodes=A100.nodes)
    assert suggest_partition(Cluster("c", (down, CPU)))[0] == "cpu"
    with pytest.raises(ConfigError, match="cluster c: no partition is up"):
        suggest_partition(Cluster("c", (down,)))


def test_where_jobs_make_way_they_are_short_and_saved_in_time():
    assert [suggest_minutes(partition) for partition in (CPU, A100, SPARE)] == [1440, 1440, 240]
    assert suggest_minutes(Partition("debug", max_seconds=1800)) == 30
    found = values(CLUSTER, Answers("spare", "vision/high", 4, 240))
    assert found["signal_lead_seconds"] == 180 and found["qos"] == "high" and found["account"] == "vision"
    lines = choose(CLUSTER, Answers("spare", "", 4, 240))
    assert "GraceTime 180 s" in next(line.why for line in lines if line.key == "signal_lead_seconds")
    assert "account" not in {line.key for line in lines}
    cancel = Cluster("c", (Partition("p", preempt_mode="CANCEL"),))
    assert "runner retry" in choose(cancel, Answers("p", "", 0, 60))[1].why


def test_each_gpu_has_its_share_of_the_node():
    found = values(CLUSTER, Answers("a100", "other", 4, 1440))
    assert (found["gpus_per_node"], found["cpus_per_task"], found["memory_gb"]) == (4, 16, 118)
    found = values(CLUSTER, Answers("a100", "other", 8, 1440))
    assert (found["gpus_per_node"], found["cpus_per_task"], found["memory_gb"]) == (8, 16, 118)
    assert "memory_gb" not in values(Cluster("c", (A100,)), Answers("a100", "", 4, 60))
    assert not {"gpus_per_node", "memory_gb"} & set(values(CLUSTER, Answers("cpu", "", 0, 60)))


@pytest.mark.parametrize("minutes", [1, 2, 60, 1440])
@pytest.mark.parametrize("partition", ["cpu", "a100", "spare"])
def test_whatever_is_chosen_is_a_profile(partition, minutes, tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(render(choose(CLUSTER, Answers(partition, "vision/high", 0, minutes)), "Title."))
    profile = load_profile(path)
    assert (profile.partition, profile.time_minutes) == (partition, minutes)
    comments = [line for line in path.read_text().splitlines() if "#" not in line]
    assert comments == [], "each line says why"


def test_answers_are_checked():
    assert parse_minutes("90", CPU) == 90 and parse_minutes("1-00:00:00", CPU) == 1440
    for text in ("", "0", "-1", "1.5", "soon", "0:0:30", "12345678"):
        with pytest.raises(ConfigError, match=r"^time limit: .*give minutes, or hours"):
            parse_minutes(text, CPU)
    with pytest.raises(ConfigError, match="at most 1440 min on a100"):
        parse_minutes("1441", A100)
    assert parse_gpus("8", A100) == 8
    for text in ("9", "-1", "two", ""):
        with pytest.raises(ConfigError, match="nodes of a100 have up to 8"):
            parse_gpus(text, A100)
    with pytest.raises(ConfigError, match=r'"a10" is not allowed; did you mean "a100"\?'):
        CLUSTER.partition("a10")


def test_what_slurm_prints_is_read():
    lines = ["low*|gpu:a100:4(S:0-1)|64+|512000+|3", "low*|gpu:h100.80gb:2,gpu:4|64|512000|1", "cpu|(null)|32|1000|7"]
    lines += ["old|gpu:3090:4(S:0-1)|16|1000|2", "old|gpu:2080ti:5,shard:40|16|1000|1", "old|gpu:1g.10gb:7|16|1000|1"]
    assert parse_nodes(lines) == {
        "low": (NodeKind(3, 4, 64, 512000), NodeKind(1, 6, 64, 512000)),
        "cpu": (NodeKind(7, 0, 32, 1000),),
        "old": (NodeKind(2, 4, 16, 1000), NodeKind(1, 5, 16, 1000), NodeKind(1, 7, 16, 1000)),
    }
    assert parse_accounts("b", ["a|normal", "b|", "b|high", "a|normal"]) == ("b", "b/high", "a/normal")
    record = {"PartitionName": "p", "MaxTime": "2-00:00:00", "GraceTime": "60", "PreemptMode": "REQUEUE"}
    config = {"PreemptType": "preempt/qos", "DefMemPerCPU": "UNLIMITED", "DefMemPerNode": "4000"}
    found = parse_partition(record, config, {})
    assert (found.max_seconds, found.grace_seconds, found.preempt_mode) == (172800, 60, "REQUEUE")
    assert found.default_memory == "DefMemPerNode=4000"
    assert parse_partition(record, {**config, "PreemptType": "preempt/none"}, {}).preempt_mode == "OFF"
    assert parse_partition({**record, "DefMemPerCPU": "7"}, config, {}).default_memory == "DefMemPerCPU=7"


def init(folder, *words, answers=""):
    command = [sys.executable, "-m", "runner", "init", *words]
    return subprocess.run(command, cwd=folder, input=answers, capture_output=True, text=True, timeout=60)


def test_a_real_cluster_is_asked_and_the_doctor_accepts_it(slurm, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run(["init", "--yes"]) == 0
    out = capfd.readouterr().out
    assert "wrote slurm/onebox.yaml\nnext: runner doctor --on slurm/onebox.yaml" in out
    profile = load_profile("slurm/onebox.yaml")
    assert (profile.partition, profile.gpus_per_node, profile.time_minutes) == ("low", slurm.settings.gpus, 240)
    assert "GraceTime 8 s" in out
    assert [check for check in examine(tmp_path / "runs", "slurm/onebox.yaml") if check.verdict == "fail"] == []
    assert run(["init", "--yes"]) == 2
    assert "slurm/onebox.yaml: is there already; give another with --out" in capfd.readouterr().err


def test_answers_are_typed(slurm, tmp_path):
    done = init(tmp_path, "--out", "typed.yaml", answers="high\n-\n1\n1:30:00\n")
    assert done.returncode == 0, done.stderr
    assert "partition (low, high)" in done.stderr and "GPUs per node" in done.stderr
    profile = load_profile(tmp_path / "typed.yaml")
    assert (profile.partition, profile.account, profile.gpus_per_node, profile.time_minutes) == ("high", None, 1, 90)
    for answers, problem in (("hih\n", 'did you mean "high"?'), ("high\n\n99\n", "nodes of high have up to")):
        done = init(tmp_path, "--out", "other.yaml", answers=answers)
        assert done.returncode == 2 and problem in done.stderr
    done = init(tmp_path, "--out", "other.yaml", answers="high\n")
    assert done.returncode == 130 and not (tmp_path / "other.yaml").exists()


def test_a_machine_without_slurm(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run(["init", "--yes"]) == 0
    assert "no scontrol on PATH" in capfd.readouterr().out
    assert load_profile("local").cluster == "local"
    assert os.listdir(tmp_path / "slurm") == ["local.yaml"]


def test_a_slurm_without_accounts(bare_slurm):
    assert site.read_cluster().accounts == ()
