"""No pairwise loss stores N x N anything: the high-water mark of a process that computes one."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from runner.group import Group
from runner.losses.relic import relic
from runner.losses.sigmoid import scl

torch.set_num_threads(1)
loss, rows, width, target_gradient = "{loss}", {rows}, {width}, {target_gradient}


def run(rows):
    x, y = torch.randn(rows, width, requires_grad=True), torch.randn(rows, width, requires_grad=target_gradient)
    log_scale, bias = torch.tensor(1.0, requires_grad=True), torch.tensor(-3.0, requires_grad=True)
    if loss == "relic":
        relic(x, y, log_scale, Group()).loss.backward()
    else:
        scl(x, y, log_scale, bias, Group(), alpha=1.0 if loss == "scl with KL" else 0.0).loss.backward()


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


run(8)
inputs = torch.zeros(2, rows, width)
before = peak()
del inputs
run(rows)
print(peak() - before)
"""


@pytest.mark.parametrize(
    "loss, target_gradient", [("scl", False), ("scl", True), ("scl with KL", True), ("relic", True)]
)
def test_memory_is_linear_in_the_rows(loss, target_gradient):
    """At most 16 N D bytes and 64 MB above the inputs. One N x N float32 matrix alone would be 268 MB here."""
    rows, width = 8192, 64
    program = PROGRAM.format(loss=loss, rows=rows, width=width, target_gradient=target_gradient)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    extra = int(result.stdout)
    assert extra <= 16 * rows * width + 64 * 2**20, f"{extra / 2**20:.0f} MB"
