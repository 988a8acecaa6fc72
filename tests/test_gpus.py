"""GPU use comes from nvidia-smi where there is one, by process; elsewhere nothing is asked."""

import os
import time

import pytest

from runner.attempt import Attempt
from runner.gpus import Gpu, GpuMeter, describe, join, ranks_here
from runner.heartbeat import Moment, write_beat
from runner.record import read_record
from tests.slurm_cluster import wait_for
from tests.trials import make_trial, start

GPUS = "GPU-aa, 87, 61440\nGPU-bb, [N/A], 2048\n"
PROCESSES = "12, GPU-aa\n13, GPU-aa\n13, GPU-bb\n14, GPU-zz\n[Not Found], GPU-aa\n"


def test_processes_and_gpus_are_joined():
    busy, idle = Gpu(87.0, 60.0), Gpu(None, 2.0)
    assert join(GPUS, PROCESSES) == {12: [busy], 13: [busy, idle]}
    assert join("", PROCESSES) == join(GPUS, "") == {}
    assert [describe(gpus) for gpus in ([], [busy], [busy, idle], [idle])] == [
        "",
        "87 % 60 GB",
        "2 x 87 % 62 GB",
        "2 GB",
    ]


def test_nvidia_smi_is_asked_in_the_background(tmp_path, monkeypatch):
    tool, asked = tmp_path / "nvidia-smi", tmp_path / "asked"
    wait = f"until [ -e {asked} ]; do sleep 0.02; done"
    tool.write_text(f'#!/bin/sh\n{wait}\ncase "$1" in *apps*) echo "{PROCESSES}";; *) echo "{GPUS}";; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    meter = GpuMeter()
    assert meter.is_there and meter.look_up([12]) == [], "nothing waits for an answer"
    asked.touch()
    wait_for(lambda: meter.look_up([12]), 30, "an answer", until=lambda gpus: gpus == [Gpu(87.0, 60.0)])
    assert meter.look_up([99]) == []


def test_without_nvidia_smi_nothing_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    meter = GpuMeter()
    assert not meter.is_there and meter.look_up([1]) == [] and meter._thread is None


@pytest.mark.parametrize("ended", [False, True])
def test_the_ranks_of_this_machine(tmp_path, ended):
    run = make_trial(tmp_path, "a", attempts=[] if ended else [start(1)])
    run.token(1).mkdir(parents=True)
    for rank in (0, 1):
        write_beat(Attempt(run, 1, rank), Moment(1, "step", 1, time.monotonic()), 60.0)
    beat = run.beat(1, 1)
    beat.write_text(beat.read_text().replace(os.uname().nodename, "elsewhere"))
    assert ranks_here(run, read_record(run)) == ([] if ended else [os.getpid()])
