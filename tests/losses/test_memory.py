"""No pairwise loss stores N x N anything: the high-water mark of a process that computes one."""

import subprocess
import sys

import pytest

from tests.losses.memory import RESET

PROGRAM = """
import torch
from runner.group import Group
from runner.losses.info_nce import clip, info_nce
from runner.losses.nt_xent import nt_xent
from runner.losses.relic import relic
from runner.losses.sigmoid import scl
from runner.losses.soft_targets import soft_target_cross_entropy
from runner.losses.supcon import supcon
from tests.losses.memory import peak_bytes, reset_peak

torch.set_num_threads(1)
alone = Group()


def run(rows, width, target_gradient):
    x, y = torch.randn(2, rows, width)
    x.requires_grad_()
    y.requires_grad_(target_gradient)
    log_scale, bias = torch.tensor(1.0, requires_grad=True), torch.tensor(-3.0, requires_grad=True)
    labels = torch.arange(rows) % 100
    {loss}.backward()


run(8, {width}, {target_gradient})
before = reset_peak()
run({rows}, {width}, {target_gradient})
print(peak_bytes() - before)
"""
CASES = [
    ("scl(x, y, log_scale, bias, alone).loss", False),
    ("scl(x, y, log_scale, bias, alone, alpha=1.0).loss", True),
    ("relic(x, y, log_scale, alone).loss", True),
    ("clip(x, y, log_scale, alone)", True),
    ("info_nce(x, y, 0.1, alone, symmetric=False, queue_KD=y)", False),
    ("nt_xent(x, y, 0.1, alone)", True),
    ("supcon(x, labels, 0.1, alone)", False),
    ("soft_target_cross_entropy(x, y, 8.0, alone, second_direction='transposed')", True),
]


MARKED = [pytest.param(*case, marks=[pytest.mark.nightly] * (place % 3 > 0)) for place, case in enumerate(CASES)]
"""Each is a process of its own; every third of them each time."""


@pytest.mark.skipif(not RESET.exists(), reason="only Linux tells the high-water mark")
@pytest.mark.parametrize("loss, target_gradient", MARKED, ids=[loss.partition("(")[0] for loss, _ in CASES])
def test_memory_is_linear_in_the_rows(loss, target_gradient, width=64):
    """At most 16 N D bytes and 64 MB above the inputs, where one N x N matrix would take 268 MB."""
    rows = 8192
    program = PROGRAM.format(loss=loss, rows=rows, width=width, target_gradient=target_gradient)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    extra = int(result.stdout) - 8 * rows * width
    assert extra <= 16 * rows * width + 64 * 2**20, f"{extra / 2**20:.0f} MB"


@pytest.mark.slow
@pytest.mark.skipif(not RESET.exists(), reason="only Linux tells the high-water mark")
def test_memory_is_linear_in_the_width():
    test_memory_is_linear_in_the_rows("clip(x, y, log_scale, alone)", True, width=256)
