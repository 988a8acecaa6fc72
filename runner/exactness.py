"""What must be the same for a resumed run to be the same in every bit, and what is to be said where it is not.

Facts are recorded in every checkpoint; a resume compares them and says `exact: yes`, or `no, because`.
"""

import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info
from torch import nn

from runner.code_snapshot import digest, read_package
from runner.group import Group


def gather_facts(group: Group, deterministic: bool) -> dict[str, Any]:
    """Everything outside of the training state that its next bits depend on, as far as it can be asked for."""
    facts: dict[str, Any] = {
        "code": code_digest(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "world_size": group.world,
        "device": "cpu",
        "processor": f"{_processor()} {torch.backends.cpu.get_cpu_capability()}",
        "blas": _blas(),
        "threads": torch.get_num_threads(),
        "deterministic": deterministic,
    }
    if group.device.type == "cuda":
        facts |= {
            "device": torch.cuda.get_device_name(group.device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "nccl": _nccl_version() if group.world > 1 else None,
            "matmul_precision": torch.get_float32_matmul_precision(),
        }
    return facts


def library_versions(model: nn.Module) -> dict[str, str]:
    """The versions of the libraries that the parts of a model are from, beside torch and this package."""
    names = {type(part).__module__.partition(".")[0] for part in model.modules()} - {"torch", "runner"}
    versions = {name: getattr(sys.modules.get(name), "__version__", None) for name in sorted(names)}
    return {name: str(version) for name, version in versions.items() if version is not None}


def why_inexact(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Why a run with facts `now` may not go on bit for bit from a checkpoint with facts `saved`; empty if it does."""
    reasons = []
    for key, value in now.items():
        before = saved.get(key, "not recorded")
        if key in ("processor", "blas", "threads") and now["device"] != "cpu":
            continue
        if before != value:
            reasons.append(f"{key} was {before}, is {value}")
    if now["device"] != "cpu" and not now["deterministic"]:
        reasons.append("kernels of this GPU may sum in any order; train.deterministic: true forbids that")
    return reasons


@cache
def code_digest() -> str:
    """A digest of the package's own source, the name of its snapshot; it changes with every edit."""
    return digest(read_package())


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _blas() -> str:
    """The kernels that numpy's BLAS has chosen, which a variable such as OPENBLAS_CORETYPE may change."""
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return " ".join(sorted({str(library.get("architecture", library["prefix"])) for library in libraries})) or "none"


def _nccl_version() -> str:
    version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return ".".join(map(str, version))
