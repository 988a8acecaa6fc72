"""The tiled losses against formulations that store N x N matrices: time, memory, agreement.

    python -m tests.benchmarks.bench_losses [--rows 4096] [--width 256] [--rounds 9] [--memory-rows 8192]

One thread, forward and backward with the normalisation of the rows. Both take turns in one process and are
timed by its CPU time; a ratio is the median over turns. What they are compared with is in loss_peers.py.
SCL's reference system computes the KL term whatever its weight, so that is the plain loss to compare with.
`lean` leaves it out at weight 0; there the tiled loss is four fifths matrix products and cannot get much
faster. Memory is the high-water mark of a process of its own for each, above what the inputs take.
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor

from tests.benchmarks.loss_peers import Loss, cases, make_inputs, open_clip_losses
from tests.losses.memory import peak_bytes, reset_peak


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
    print(f"forward + backward, N={rows}, d={width}, one thread, median of {rounds} turns, CPU seconds")
    print("CLIP and SigLIP: " + ("open_clip" if open_clip_losses() else "open_clip's formulas (it is not installed)"))
    print(f"{'':16} {'peer':>8} {'tiled':>8} {'ratio':>7} {'min':>6} {'max':>6}  {'target':12} difference")
    for case in cases():
        inputs = make_inputs(case, rows, width)
        losses = case.peer, case.tiled
        for loss in losses:
            run(loss, inputs)
        turns = [[run(loss, inputs) for loss in losses] for _ in range(rounds)]
        ratios = [slow[0] / fast[0] for slow, fast in turns]
        slow, fast = (statistics.median(turn[index][0] for turn in turns) for index in (0, 1))
        difference = max(abs(a - b) / abs(a) for a, b in zip(turns[0][0][1], turns[0][1][1], strict=True))
        assert difference < 1e-4, f"{case.name}: the two losses disagree by {difference}"
        print(
            f"{case.name:16} {slow:8.3f} {fast:8.3f} {statistics.median(ratios):7.2f} "
            f"{min(ratios):6.2f} {max(ratios):6.2f}  {case.target:12} {difference:.0e}"
        )


def compare_memory(rows: int, width: int) -> None:
    print(f"\nhigh-water memory above the inputs, N={rows}, d={width}, MB")
    print(f"{'':16} {'peer':>8} {'tiled':>8} {'ratio':>7}  target")
    for index, case in enumerate(cases()):
        if case.memory_target:
            peer_mb, tiled_mb = (_peak_elsewhere(index, side, rows, width) for side in ("peer", "tiled"))
            print(f"{case.name:16} {peer_mb:8.0f} {tiled_mb:8.0f} {peer_mb / tiled_mb:7.1f}  {case.memory_target}")


def _peak_elsewhere(case: int, side: str, rows: int, width: int) -> float:
    module = "tests.benchmarks.bench_losses"
    program = f"from {module} import print_peak; print_peak({case}, {side!r}, {rows}, {width})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(result.stdout)


def print_peak(index: int, side: str, rows: int, width: int) -> None:
    torch.set_num_threads(1)
    case = cases()[index]
    loss = case.peer if side == "peer" else case.tiled
    run(loss, make_inputs(case, 8, width))
    inputs = make_inputs(case, rows, width)
    before = reset_peak()
    run(loss, inputs)
    print((peak_bytes() - before) / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description="the tiled losses against N x N formulations")
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
