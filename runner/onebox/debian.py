"""The programs of the one-machine Slurm and how to get them."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.errors import SubmissionError

PACKAGES = ["slurm-wlm", "slurmdbd", "munge", "mariadb-server"]
TOOLS = ["munged", "munge", "slurmctld", "slurmd", "scontrol", "sinfo", "squeue", "scancel"]
ACCOUNTING_TOOLS = ["mariadbd", "slurmdbd", "sacctmgr"]
POLICY = Path("/usr/sbin/policy-rc.d")


def missing_tools(accounting: bool = True) -> list[str]:
    """The programs `up` needs that are not installed."""
    search = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin"
    return [tool for tool in TOOLS + ACCOUNTING_TOOLS * accounting if not shutil.which(tool, path=search)]


def install() -> None:
    """Install Slurm, munge and MariaDB from the archive of Debian without starting any of their services.

    Raises SubmissionError, which says what to run, for anybody but root and on other systems.
    """
    command = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    if not shutil.which("apt-get"):
        raise SubmissionError(f"apt-get not found; install {' '.join(PACKAGES)} with the tool of this system")
    if os.geteuid() != 0:
        raise SubmissionError(f"installing needs root; run: sudo {shlex.join(command)}")
    with _no_service_starts(POLICY):
        for step in (["apt-get", "update"], command):
            print(f"$ {shlex.join(step)}", flush=True)
            if code := subprocess.run(step, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}).returncode:
                raise SubmissionError(f"{shlex.join(step)}: exit code {code}")


@contextmanager
def _no_service_starts(policy: Path) -> Iterator[None]:
    """Debian asks the script `policy` before a package starts its daemon; 101 means no."""
    aside = policy.with_suffix(".before-onebox")
    if policy.exists():
        policy.rename(aside)
    try:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        yield
    finally:
        policy.unlink(missing_ok=True)
        if aside.exists():
            aside.rename(policy)
