"""Run one function on N gloo ranks and hand its results back, for tests that need real collectives."""

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from runner.group import joined
from runner.local_ranks import PRELOAD

# One server imports torch once; ranks are forked from it in milliseconds.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*PRELOAD, "tests.ranks"])


def run_ranks(world: int, function: Callable[..., Any], *args: Any, timeout_seconds: float = 120) -> list[Any]:
    """`function(group, *args)` on every rank; its results in rank order. The first failure is raised here."""
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            CONTEXT.Process(target=_rank, args=(Path(folder), rank, world, function, args), daemon=True)
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join(timeout_seconds)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                    process.join()
        errors = sorted(Path(folder).glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
        assert not errors, f"{errors[0].name}:\n{errors[0].read_text()}"
        codes = [process.exitcode for process in processes]
        assert codes == [0] * world, f"exit codes of the ranks: {codes}"
        return [pickle.loads((Path(folder) / f"{rank}.result").read_bytes()) for rank in range(world)]


def _rank(folder: Path, rank: int, world: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        store = torch.distributed.FileStore(str(folder / "store"), world)
        with joined(rank, world, rank, store, "gloo") as group:
            result = function(group, *args)
        (folder / f"{rank}.result").write_bytes(pickle.dumps(result))
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        raise
