"""Checks of this machine or cluster, one line each: what stops trials, or makes a preemption cost more."""

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from runner import slurm
from runner.client import UnconfiguredError
from runner.code_store import list_snapshots
from runner.errors import ConfigError, SubmissionError
from runner.explain import counted
from runner.launcher import find_intruder
from runner.nodes import read_excluded
from runner.onebox import onebox_hint
from runner.profile import NODE_LOCAL, Profile, load_profile
from runner.slurm_text import parse_duration

TESTED = {"torch": ((2, 10), (2, 14)), "submitit": ((1, 5, 4), (1, 6))}
"""First version that the tests cover, and the first one that they do not."""

LITTLE_SPACE_GB, NO_SPACE_GB = 20, 1
SHORT_GRACE_SECONDS = 30
DEFAULT_CREDENTIAL_SECONDS = 120


@dataclass(frozen=True)
class Check:
    """One line of `runner doctor`."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:4}  {self.name:12} {self.text}"


def examine(root: Path, profile: str | None) -> Iterator[Check]:
    """All checks, in order, each as soon as its answer is known; `profile` is a name or path for --on."""
    site = None
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield from check_torch()
    yield check_version("submitit")
    yield from check_root(root)
    yield from check_code(root)
    yield check_wandb()
    if profile is not None:
        try:
            site = load_profile(profile)
        except ConfigError as error:
            yield Check("profile", "fail", str(error))
            return
        yield Check("profile", "ok", f"{profile}: cluster {site.cluster}")
    yield from check_slurm(site, root)


def check_version(package: str) -> Check:
    """Whether an installed package is one that the tests cover."""
    first, beyond = TESTED[package]
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return Check(package, "fail", f"not installed; pip install {package}")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])
    if first <= numbers < beyond:
        return Check(package, "ok", version)
    tested = f"{'.'.join(map(str, first))} to below {'.'.join(map(str, beyond))}"
    return Check(package, "warn", f"{version} is outside the tested range, {tested}")


def check_torch() -> Iterator[Check]:
    version = check_version("torch")
    yield version
    if version.verdict == "fail":
        return
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("devices", "fail", f"torch cannot be imported: {error}")
        return
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        has_nccl = torch.distributed.is_nccl_available()
        nccl = ".".join(map(str, torch.cuda.nccl.version())) if has_nccl else "missing"  # type: ignore[no-untyped-call]
        verdict: Literal["ok", "warn"] = "warn" if nccl == "missing" else "ok"
        about = f"CUDA {torch.version.cuda}, NCCL {nccl}"
        yield Check("devices", verdict, f"{torch.cuda.device_count()} x {', '.join(sorted(names))}, {about}")
    elif shutil.which("nvidia-smi"):
        yield Check("devices", "warn", f"nvidia-smi is there, but torch {torch.__version__} sees no GPU")
    else:
        yield Check("devices", "ok", f"no GPU here: ranks run on {os.cpu_count()} CPUs over gloo")


def check_root(root: Path) -> Iterator[Check]:
    """Whether run folders can be written, are private, and have space."""
    root = root.expanduser().absolute()
    there = next(path for path in (root, *root.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        yield Check("run root", "fail", f"{root}: cannot write to {there}: {error.strerror}")
        return
    yield _check_owner(root) if there == root else Check("run root", "ok", f"{root}, to be made in {there}")
    space = os.statvfs(there)
    free_gb, free_files = space.f_bavail * space.f_frsize / 1e9, space.f_favail
    text = f"{free_gb:.0f} GB free for {root}"
    # Some file systems do not count files, and report none at all.
    if free_gb < NO_SPACE_GB or (space.f_files and free_files < 1000):
        yield Check("disk", "fail", f"{text}, {free_files} more files; free some, or give another --root")
    elif free_gb < LITTLE_SPACE_GB:
        yield Check("disk", "warn", f"{text}: a few checkpoints of a large model")
    else:
        yield Check("disk", "ok", text)


def _check_owner(root: Path) -> Check:
    if problem := find_intruder(str(root), str(root)):
        return Check("run root", "fail", problem)
    mode = root.stat().st_mode & 0o7777
    return Check("run root", "ok", f"{root}: mode {mode:04o}{', others can read it' if mode & 0o077 else ''}")


def check_code(root: Path) -> Iterator[Check]:
    """How many snapshots of the code a run root has, and whether some are not needed."""
    try:
        snapshots = list_snapshots(root.expanduser())
    except (ConfigError, OSError) as error:
        yield Check("code", "warn", str(error))
        return
    if snapshots:
        spare = sum(each.is_spare for each in snapshots)
        megabytes = sum(each.size_bytes for each in snapshots) / 1e6
        told = f"; {spare} that no trial needs: runner code --prune" if spare else ""
        yield Check("code", "ok", f"{counted(len(snapshots), 'snapshot')}, {megabytes:.0f} MB{told}")


def check_wandb() -> Check:
    from runner.mirrors.wandb import is_logged_in

    if is_logged_in():
        return Check("wandb", "ok", "logged in")
    return Check("wandb", "ok", "not logged in: runs stay offline, `runner sync` sends them later")


def check_slurm(site: Profile | None, root: Path) -> Iterator[Check]:
    """What the cluster does to jobs, from the configuration of its controller."""
    wanted = site is not None and site.cluster == "slurm"
    if site is not None and not wanted:
        return
    if shutil.which("scontrol") is None:
        text = "not on this machine"
        yield Check("slurm", "fail" if wanted else "ok", f"{text}; use a login node" if wanted else text)
        return
    try:
        config = slurm.show_config()
    except UnconfiguredError as error:
        yield Check("slurm", "fail" if wanted else "ok", f"{error}{onebox_hint()}")
        return
    except SubmissionError as error:
        yield Check("slurm", "fail" if wanted else "warn", str(error))
        return
    yield Check("slurm", "ok", f"{config.get('SLURM_VERSION')}, cluster {config.get('ClusterName')}")
    yield _check_accounts(config)
    yield from check_cluster(config)
    yield from check_nodes(root, config.get("ClusterName", ""))
    if str(root.expanduser().absolute()).startswith(tuple(f"{folder}/" for folder in NODE_LOCAL)):
        yield Check("shared disk", "warn", f"{root} is likely on a disk of this node alone; other nodes need it too")
    if site is not None:
        for name in (site.partition or "").split(","):
            yield from _check_partition(name, site)


def check_cluster(config: dict[str, str]) -> Iterator[Check]:
    """What follows from `scontrol show config`."""
    if "preempt_send_user_signal" in config.get("SlurmctldParameters", ""):
        yield Check("preemption", "ok", f"sends USR2 before it ends a job ({_preemption(config)})")
    elif config.get("PreemptType", "").endswith("none"):
        yield Check("preemption", "ok", "off; a time limit sends USR2")
    else:
        reason = "SlurmctldParameters has no preempt_send_user_signal"
        yield Check("preemption", "warn", f"sends TERM only: {reason} ({_preemption(config)}); trials save on it too")
    delay = requeue_delay_seconds(config)
    verdict: Literal["ok", "warn"] = "ok" if config.get("JobRequeue", "1") == "1" else "warn"
    requeues = "on" if verdict == "ok" else "off by default; each job asks for it"
    text = f"{requeues}; a requeued job waits at least {delay:.0f} s"
    yield Check("requeue", verdict, text)
    kill_wait = parse_duration(config.get("KillWait", ""))
    if kill_wait is not None:
        yield Check("kill wait", "ok", f"{kill_wait:.0f} s from TERM to KILL")
    yield Check("arrays", "ok", f"up to {config.get('MaxArraySize', '?')} elements")


def check_nodes(root: Path, cluster: str) -> Iterator[Check]:
    """Nodes that trials of this run root stay away from, because they broke others."""
    for each in read_excluded(root.expanduser().absolute(), cluster):
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.until))
        yield Check(f"node {each.node}", "warn", f"left out until {until}: {each.why}")


def check_partition(name: str, facts: dict[str, str], site: Profile) -> Iterator[Check]:
    """What follows from `scontrol show partition` for jobs of a profile."""
    label = f"partition {name}"
    if facts.get("State", "UP") != "UP":
        yield Check(label, "fail", f"is {facts['State']}")
    longest = parse_duration(facts.get("MaxTime", ""))
    if longest is not None and site.time_minutes * 60 > longest:
        yield Check(label, "fail", f"time_minutes: {site.time_minutes} is above its limit of {longest / 60:.0f}")
    else:
        yield Check(label, "ok", f"time limit {facts.get('MaxTime')}, profile asks for {site.time_minutes} min")
    grace, mode = parse_duration(facts.get("GraceTime", "")) or 0, facts.get("PreemptMode", "OFF")
    if mode == "OFF":
        yield Check(label, "ok", "jobs are not preempted")
    elif grace < SHORT_GRACE_SECONDS:
        text = f"GraceTime {grace:.0f} s: a save that takes longer is lost, back to the last periodic checkpoint"
        yield Check(label, "warn", f"{text} (PreemptMode {mode})")
    else:
        yield Check(label, "ok", f"GraceTime {grace:.0f} s to save in (PreemptMode {mode})")
    if mode == "CANCEL":
        yield Check(label, "warn", "PreemptMode CANCEL: what could not requeue itself in time needs `runner retry`")


def requeue_delay_seconds(config: dict[str, str]) -> float:
    """How long Slurm holds a requeued job back, at least."""
    newer = re.search(r"\brequeue_delay=(\d+)", config.get("SchedulerParameters", ""))
    if newer:
        return float(newer[1])
    credential = re.search(r"\bcred_expire=(\d+)", config.get("AuthInfo", ""))
    return float(credential[1]) + 1 if credential else DEFAULT_CREDENTIAL_SECONDS + 1


def _preemption(config: dict[str, str]) -> str:
    return f"{config.get('PreemptType')}, mode {config.get('PreemptMode')}"


def _check_accounts(config: dict[str, str]) -> Check:
    if config.get("AccountingStorageType", "").endswith("none"):
        return Check("sacct", "warn", "no accounts: how a job ended is known for MinJobAge only")
    try:
        slurm.sacct(["1"])
    except SubmissionError as error:
        return Check("sacct", "warn", f"{error}; how a job ended is known for MinJobAge only")
    return Check("sacct", "ok", config.get("AccountingStorageType", ""))


def _check_partition(name: str, site: Profile) -> Iterator[Check]:
    if not name:
        yield Check("partition", "ok", "the cluster's default")
        return
    try:
        facts = slurm.show_partition(name)
    except SubmissionError as error:
        yield Check(f"partition {name}", "fail", str(error))
        return
    yield from check_partition(name, facts, site)
