"""SCL's loss in tiles against the plain formulation that stores N x N matrices: time, memory, agreement.

    python -m tests.benchmarks.bench_losses [--rows 4096] [--width 256] [--rounds 9] [--memory-rows 8192]

One thread, forward and backward, the target side without gradient as in training. Both take turns in one
process and are timed by its CPU time; a ratio is the median over turns. The reference system computes the
KL term whatever its weight, so that is the plain loss to compare with. `lean` leaves it out at weight 0; there
the tiled loss is four fifths matrix products and cannot get much faster. Memory is the high-water mark of a
process of its own for each, above what the inputs take.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from runner.group import Group
from runner.losses.sigmoid import scl
from tests.losses.memory import peak_bytes, reset_peak

CASES = [
    # name, gamma, alpha, the plain loss computes KL, target
    ("gamma 1", 1.0, 0.0, True, "at least 6"),
    ("gamma 1 + KL", 1.0, 1.0, True, "at least 4"),
    ("gamma 0.5", 0.5, 0.0, True, ""),
    ("gamma 0.5 + KL", 0.5, 1.0, True, ""),
    ("gamma 1, lean", 1.0, 0.0, False, ""),
]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def plain(x, y, log_scale, bias, *, gamma: float, alpha: float, with_kl: bool) -> Tensor:
    """The formula as it reads, by autograd."""
    logits = log_scale.exp().clamp(max=5.0) * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T + bias
    z = (2 * torch.eye(len(x)) - 1) * logits
    loss = -((1 - z.sigmoid()) ** gamma * F.logsigmoid(z)).sum() / len(x)
    if not with_kl:
        return loss
    rows, columns = logits.log_softmax(1), logits.T.log_softmax(1)
    return loss + alpha * F.kl_div(rows, columns, log_target=True, reduction="batchmean")


def pair(gamma: float, alpha: float, with_kl: bool) -> tuple[Loss, Loss]:
    """The plain and the tiled loss of one case."""
    alone = Group()
    return (
        lambda *inputs: plain(*inputs, gamma=gamma, alpha=alpha, with_kl=with_kl),
        lambda *inputs: scl(*inputs, alone, gamma=gamma, alpha=alpha).loss,
    )


def make_inputs(rows: int, width: int) -> list[Tensor]:
    """x, y without gradient, log_scale and bias; y resembles x."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator)
    y = x + torch.randn(rows, width, generator=generator)
    return [
        x.requires_grad_(),
        y,
        torch.tensor(1.5, requires_grad=True),
        torch.tensor(-5.0, requires_grad=True),
    ]


def run(loss: Loss, inputs: list[Tensor]) -> tuple[float, list[float]]:
    """CPU seconds of forward and backward; the loss and the norms of the gradients."""
    for tensor in inputs:
        tensor.grad = None
    start = time.process_time()
    value = loss(*inputs)
    value.backward()
    seconds = time.process_time() - start
    return seconds, [
        value.item(),
        *(tensor.grad.norm().item() for tensor in inputs if tensor.grad is not None),
    ]


def time_pairs(rows: int, width: int, rounds: int) -> None:
    inputs = make_inputs(rows, width)
    print(f"forward + backward, N={rows}, d={width}, one thread, median of {rounds} turns, CPU seconds")
    print(f"{'':16} {'plain':>8} {'tiled':>8} {'ratio':>7} {'min':>6} {'max':>6}  {'target':12} difference")
    for name, gamma, alpha, with_kl, target in CASES:
        losses = pair(gamma, alpha, with_kl)
        for loss in losses:
            run(loss, inputs)
        turns = [[run(loss, inputs) for loss in losses] for _ in range(rounds)]
        ratios = [slow[0] / fast[0] for slow, fast in turns]
        slow, fast = (statistics.median(turn[index][0] for turn in turns) for index in (0, 1))
        difference = max(abs(a - b) / abs(a) for a, b in zip(turns[0][0][1], turns[0][1][1], strict=True))
        assert difference < 1e-4, f"{name}: the two losses disagree by {difference}"
        print(
            f"{name:16} {slow:8.3f} {fast:8.3f} {statistics.median(ratios):7.2f} "
            f"{min(ratios):6.2f} {max(ratios):6.2f}  {target:12} {difference:.0e}"
        )


def compare_memory(rows: int, width: int) -> None:
    print(f"\nhigh-water memory above the inputs, N={rows}, d={width}, MB")
    print(f"{'':16} {'plain':>8} {'tiled':>8} {'ratio':>7}  target")
    for index in (0, 1):
        plain_mb, tiled_mb = (_peak_elsewhere(index, side, rows, width) for side in (0, 1))
        print(f"{CASES[index][0]:16} {plain_mb:8.0f} {tiled_mb:8.0f} {plain_mb / tiled_mb:7.1f}  at least 10")


def _peak_elsewhere(case: int, side: int, rows: int, width: int) -> float:
    module = "tests.benchmarks.bench_losses"
    program = f"from {module} import print_peak; print_peak({case}, {side}, {rows}, {width})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(result.stdout)


def print_peak(case: int, side: int, rows: int, width: int) -> None:
    torch.set_num_threads(1)
    _, gamma, alpha, with_kl, _ = CASES[case]
    loss = pair(gamma, alpha, with_kl)[side]
    run(loss, make_inputs(8, width))
    inputs = make_inputs(rows, width)
    before = reset_peak()
    run(loss, inputs)
    print((peak_bytes() - before) / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description="SCL's loss in tiles against the plain formulation")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory-rows", type=int, default=8192)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    time_pairs(arguments.rows, arguments.width, arguments.rounds)
    compare_memory(arguments.memory_rows, arguments.width)


if __name__ == "__main__":
    main()
