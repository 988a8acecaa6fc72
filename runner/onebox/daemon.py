"""One process of a one-machine Slurm: starting it, finding it again, asking it, ending it.

A process is ours only if it says so itself, by the SLURM_CONF of its environment or by the folder it works in: pids
are recycled and names are shared.
"""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from runner.errors import SubmissionError
from runner.onebox.cluster import Cluster, needs_other_name

POLL_SECONDS = 0.02


def pid(cluster: Cluster, name: str) -> int | None:
    """The pid of a daemon that lives."""
    process = find_daemon(cluster, name)
    return process.pid if process else None


def command(cluster: Cluster, *words: str, stdin: str = "", timeout_seconds: float = 60) -> str:
    """Run one of Slurm's commands on this cluster; its output, or SubmissionError with its error."""
    try:
        done = subprocess.run(
            words,
            env=_clean_environment(cluster),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SubmissionError(f"{words[0]}: {error}") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "nothing said").splitlines()
        # After what went wrong MariaDB says that it does.
        said = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise SubmissionError(f"{words[0]}: exit code {done.returncode}: {said}")
    return done.stdout


def ask(cluster: Cluster, *words: str) -> str | None:
    """The output of a command that may fail, None if it did."""
    try:
        return command(cluster, *words, timeout_seconds=5)
    except SubmissionError:
        return None


def _clean_environment(cluster: Cluster) -> dict[str, str]:
    """Nothing of the caller's: SLURM_..., SQUEUE_... and MYSQL_... variables change what Slurm does."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "USER") if name in os.environ}
    return kept | cluster.environment()


def start_daemon(cluster: Cluster, name: str, *arguments: str, cwd: Path | None = None) -> None:
    """Start a daemon in its foreground mode, as nobody's child, unless it runs."""
    if find_daemon(cluster, name):
        return
    tool = name.split("-")[0]
    # Old ones would tell of another death.
    _pid_file(cluster, name).unlink(missing_ok=True)
    for path in _logs(cluster, name):
        path.replace(path.with_name(f"{path.name}.before"))
    words = [*_renamed(), tool, *arguments] if tool.startswith("slurm") else [tool, *arguments]
    with (cluster.folder / "log" / f"{name}.out").open("a") as out:
        subprocess.run(
            ["setsid", "--fork", "sh", "-c", 'echo $$ > "$0" && exec "$@"', _pid_file(cluster, name), *words],
            env=_clean_environment(cluster),
            cwd=cwd or cluster.folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            umask=0o022,
            check=True,
        )


def _renamed() -> list[str]:
    """The words that run a command on a machine called localhost, where its own name will not do."""
    if not needs_other_name():
        return []
    if os.geteuid() == 0:
        return ["unshare", "--uts", "sh", "-c", 'hostname localhost && exec "$@"', "sh"]
    # The right to rename comes with a user namespace, and goes before the command runs.
    rename = 'hostname localhost && exec setpriv --ambient-caps=-all --inh-caps=-all "$@"'
    return ["unshare", "--user", "--map-current-user", "--keep-caps", "--uts", "sh", "-c", rename, "sh"]


def check_name() -> None:
    tried = subprocess.run([*_renamed(), "true"], capture_output=True, stdin=subprocess.DEVNULL)
    if tried.returncode:
        name = socket.gethostname()
        raise SubmissionError(f"this machine's name must lead to 127.0.0.1; put first in /etc/hosts: 127.0.0.1 {name}")


def wait_until(cluster: Cluster, name: str, seconds: float, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        died = _has_died(cluster, name)
        if died or time.monotonic() > deadline:
            what = "ended" if died else f"did not answer within {seconds} s"
            raise SubmissionError(f"{name} {what}{_last_error(cluster, name)}; see {cluster.folder}/log")
        time.sleep(POLL_SECONDS)


def _has_died(cluster: Cluster, name: str) -> bool:
    """Whether a daemon was started and is gone; before it is itself it is a shell of the same pid."""
    try:
        return is_gone(psutil.Process(int(_pid_file(cluster, name).read_text())))
    except psutil.NoSuchProcess:
        return True
    except (OSError, ValueError):  # the shell has not come so far
        return False


def _last_error(cluster: Cluster, name: str) -> str:
    """What a daemon named last as wrong since its start, as more words to a line; empty if it named nothing."""
    lines = [line for log in _logs(cluster, name) for line in log.read_text(errors="replace").splitlines()]
    for word in ("fatal", "error"):
        if wrong := [line for line in lines if re.search(rf"\b{word}\b", line, re.IGNORECASE)]:
            return f", and said: {wrong[-1].strip()}"
    return ""


def _logs(cluster: Cluster, name: str) -> list[Path]:
    """What a daemon prints, and its log, as far as they are there."""
    logs = [cluster.folder / "log" / f"{name}.out", cluster.folder / "log" / f"{name.replace('-', '.')}.log"]
    return [log for log in logs if log.exists()]


def end(processes: Iterable[psutil.Process], how: signal.Signals, patience_seconds: float = 0) -> None:
    """Signal the processes, kill -9 those still there after `patience_seconds`, wait until all are gone.

    Raises SubmissionError when one outlives that by half a minute.
    """
    left = list(processes)
    _send(left, how)
    killed = how == signal.SIGKILL
    deadline = time.monotonic() + patience_seconds
    while left := [process for process in left if not is_gone(process)]:
        if not killed and time.monotonic() > deadline:
            _send(left, signal.SIGKILL)
            killed = True
        if time.monotonic() > deadline + 30:
            raise SubmissionError(f"process {left[0].pid} does not end")
        time.sleep(POLL_SECONDS)


def _send(processes: Iterable[psutil.Process], how: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(how)


def find_daemon(cluster: Cluster, name: str) -> psutil.Process | None:
    """The process of a daemon's pid file, if it lives and is still that daemon of this cluster."""
    try:
        process = psutil.Process(int(_pid_file(cluster, name).read_text()))
        ours = process.name() == name.split("-")[0] and not is_gone(process)
    except (OSError, ValueError, psutil.Error):
        return None
    return process if ours and is_ours(cluster, environment_of(process)) else None


def is_ours(cluster: Cluster, variables: dict[str, str]) -> bool:
    return variables.get("SLURM_CONF") == str(cluster.slurm_conf)


def _pid_file(cluster: Cluster, name: str) -> Path:
    return cluster.folder / "run" / f"{name}.pid"


def environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:  # gone, or somebody else's
        return {}


def descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def is_gone(process: psutil.Process) -> bool:
    """Dead; a zombie is, though it stays where process 1 does not reap."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
