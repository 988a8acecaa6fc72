"""The one-machine Slurm: it starts, behaves as a preemptible cluster, stays on loopback, and leaves nothing."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from runner import onebox
from runner.errors import ConfigError, SubmissionError
from runner.onebox import debian
from runner.onebox.cluster import loopback_address
from runner.onebox.daemons import job_processes
from runner.slurm import cancel, show_job
from tests.slurm_cluster import environment_of, own_cluster, sbatch, skip_without_slurm, state, wait_for

COLD_START_LIMIT_SECONDS = 15


def srun(*words: str) -> list[str]:
    """Run a step now; the lines it printed."""
    done = subprocess.run(["srun", *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def processes_of(cluster: onebox.Cluster) -> dict[int, str]:
    """pid and name of all that belongs to the cluster by environment, working folder or open folder."""
    found = {}
    for process in psutil.process_iter():
        try:
            ours = str(cluster.slurm_conf) == process.environ().get("SLURM_CONF")
            if (ours or Path(process.cwd()).is_relative_to(cluster.folder)) and process.status() != "zombie":
                found[process.pid] = process.name()
        except psutil.Error:
            continue
    return found


def listening(pids: list[int]) -> dict[tuple[str, int], int]:
    """Address and port on which the processes listen or receive, and which process it is."""
    return {
        tuple(connection.laddr): connection.pid
        for connection in psutil.net_connections("inet")
        if connection.pid in pids and connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
    }


def test_cold_start_is_short(slurm, capsys):
    seconds = float((slurm.folder / "cold_start_seconds").read_text())
    with capsys.disabled():
        print(f"\ncold start of {slurm.settings.nodes} nodes with accounts: {seconds:.1f} s")
    assert seconds < COLD_START_LIMIT_SECONDS


def test_second_up_changes_nothing(slurm):
    before = onebox.status(slurm.folder)
    assert onebox.up(slurm.folder, nodes=slurm.settings.nodes) == slurm
    after = onebox.status(slurm.folder)
    assert after.running
    assert after.daemons == before.daemons
    assert set(after.nodes) == set(slurm.nodes)


def test_other_settings_need_a_restart(slurm):
    with pytest.raises(SubmissionError, match=r"runs with .*nodes=8.* runner onebox down"):
        onebox.up(slurm.folder, nodes=2)


def test_folder_is_private(slurm):
    assert stat.S_IMODE(slurm.folder.stat().st_mode) == 0o700


def test_nothing_listens_beyond_loopback(slurm):
    """While a batch job with a step and a step from outside run."""
    node = slurm.nodes[5]
    job = sbatch("-w", node, "-n2", "--wrap", "srun --overlap sleep 60")
    step = subprocess.Popen(["srun", "-w", node, "sleep", "60"], stderr=subprocess.DEVNULL)
    try:
        wait_for(
            lambda: sorted(process.name() for process in job_processes(slurm, [node])),
            15,
            "two steps of two and one tasks",
            until=lambda names: names.count("sleep") == 3 and names.count("slurmstepd") == 3,
        )
        steps = [process.pid for process in job_processes(slurm, [node])]
        daemons = [pid for pid in onebox.status(slurm.folder).daemons.values() if pid]
        found = listening([*processes_of(slurm), *steps, *daemons, step.pid])
        assert {address for address, _ in found} == {"127.0.0.1"}
        first = slurm.settings.port0
        assert {port for _, port in found} >= set(range(first, first + 2 + slurm.settings.nodes))
        assert step.pid in found.values()
    finally:
        cancel([job])
        step.terminate()
        step.wait(timeout=15)


def test_job_sees_its_node_and_its_gpus(slurm):
    node = slurm.nodes[4]
    place = ["-w", node, "--overcommit"]
    assert srun(*place, "-n3", "printenv", "SLURMD_NODENAME") == [node] * 3
    assert srun(*place, "-n1", "--gres=gpu:2", "printenv", "CUDA_VISIBLE_DEVICES") == ["0,1"]
    ranks = srun(*place, "-n2", "--gpus-per-task=1", "printenv", "CUDA_VISIBLE_DEVICES")
    assert sorted(ranks) == ["0", "1"]


def test_node_has_more_cpus_than_the_machine(slurm):
    node = slurm.nodes[4]
    assert srun("-w", node, "-c8", "printenv", "SLURM_CPUS_ON_NODE") == ["8"]
    refused = subprocess.run(["srun", "-w", node, "--gres=gpu:5", "true"], capture_output=True, text=True)
    assert "Requested node configuration is not available" in refused.stderr


def test_cancelled_job_is_told_then_ends(slurm, tmp_path):
    told = tmp_path / "told"
    job = sbatch("-w", slurm.nodes[5], "--wrap", f"srun {trap(told)}")
    wait_for(lambda: read(told), 15, "the start", until="ready".__eq__)
    cancel([job])
    wait_for(lambda: state(job), 15, "the end", until="CANCELLED".__eq__)
    assert read(told) == "ready TERM"


def trap(told: Path) -> str:
    """A command that writes down which of Slurm's signals reach it and goes on."""
    handlers = "".join(f"trap 'echo -n \" {name}\" >> {told}' {name}; " for name in ("TERM", "USR2"))
    return f'bash -c "{handlers} echo -n ready > {told}; for i in {{1..600}}; do sleep 0.1; done"'.replace(
        '\\"', '"'
    )


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
