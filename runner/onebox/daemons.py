"""Starting and ending the processes of a one-machine Slurm, and finding those of its jobs.

A process is ours only if it says so itself, by the SLURM_CONF of its environment or by the folder it works
in: pids are recycled and names are shared.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from runner.errors import SubmissionError
from runner.onebox.cluster import Cluster, needs_other_name, user

POLL_SECONDS = 0.02


def start(cluster: Cluster) -> None:
    """Start the daemons that do not run and wait until every node takes jobs."""
    _check_name()
    folder = cluster.folder
    run, log = folder / "run", folder / "log"
    munge_socket = f"--socket={run}/munge.socket"
    _start(
        cluster,
        "munged",
        "--foreground",
        "--force",  # it refuses sockets in folders that others may not enter
        munge_socket,
        f"--key-file={folder}/etc/munge.key",
        f"--pid-file={run}/munged.own.pid",
        f"--log-file={log}/munged.log",
        f"--seed-file={run}/munge.seed",
        "--num-threads=2",
    )
    _wait(cluster, "munged", 10, lambda: _ask(cluster, "munge", "--no-input", munge_socket) is not None)
    if cluster.settings.accounting:
        _start_accounting(cluster)
    _start(cluster, "slurmctld", "-D")
    _wait(cluster, "slurmctld", 20, lambda: "is UP" in (_ask(cluster, "scontrol", "ping") or ""))
    start_nodes(cluster, cluster.nodes)


def _start_accounting(cluster: Cluster) -> None:
    data, run = cluster.folder / "db", cluster.folder / "run"
    if not data.exists():
        _create_database(cluster, data)
    if not _daemon(cluster, "mariadbd"):
        (run / "db.sock").unlink(missing_ok=True)  # left by a crash, it would look like an answer
    _start(
        cluster,
        "mariadbd",
        "--no-defaults",
        f"--datadir={data}",
        f"--tmpdir={run}",
        f"--socket={run}/db.sock",
        "--skip-networking",
        "--skip-grant-tables",
        f"--user={user()}",
        f"--pid-file={run}/mariadbd.own.pid",
        f"--log-error={cluster.folder}/log/mariadbd.log",
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=8M",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-lock-wait-timeout=900",
    )
    _wait(cluster, "mariadbd", 20, (run / "db.sock").exists)
    _start(cluster, "slurmdbd", "-D")
    _wait(cluster, "slurmdbd", 30, lambda: _is_registered(cluster))


def _create_database(cluster: Cluster, data: Path) -> None:
    """The system tables alone: mariadb-install-db adds help texts and views that take four times as long."""
    tables = next(Path("/usr/share").glob("m*/m*_system_tables.sql"), None)
    if tables is None:
        raise SubmissionError("no mysql_system_tables.sql below /usr/share; MariaDB's server is not installed whole")
    # Beside and renamed: an interrupted installation is never taken for a database.
    new = data.with_name("db.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    command(
        cluster,
        "mariadbd",
        "--no-defaults",
        "--bootstrap",
        f"--datadir={new}",
        # One that starts removes the temporary tables of all others from a shared one.
        f"--tmpdir={new}",
        f"--user={user()}",
        "--enforce-storage-engine=",
        "--innodb-log-file-size=8M",
        stdin=f"create database mysql;\nuse mysql;\n{tables.read_text()}",
    )
    new.rename(data)


def _is_registered(cluster: Cluster) -> bool:
    """Whether slurmdbd answers and knows this cluster; makes it known if not."""
    known = _ask(cluster, "sacctmgr", "-n", "show", "cluster", "format=cluster")
    if known is not None and "onebox" not in known.split():
        command(cluster, "sacctmgr", "-Q", "-i", "add", "cluster", "onebox")
    return known is not None


def start_nodes(cluster: Cluster, nodes: list[str]) -> None:
    """Start the slurmd of each node that does not run and wait until the nodes take jobs."""
    for node in nodes:
        _start(cluster, f"slurmd-{node}", "-D", "-N", node, cwd=_spool(cluster, node))
    for node in nodes:
        _wait(cluster, f"slurmd-{node}", 30, partial(_takes_jobs, cluster, node))


def _takes_jobs(cluster: Cluster, node: str) -> bool:
    """Whether it does; a node that Slurm holds for lost is called back."""
    found = node_states(cluster).get(node, "")
    if found.rstrip("*").startswith(("down", "drain", "inval")):
        _ask(cluster, "scontrol", "update", f"nodename={node}", "state=resume")
    return bool(pid(cluster, f"slurmd-{node}")) and found in ("idle", "mixed", "allocated", "completing")


def stop(cluster: Cluster) -> None:
    """Cancel the jobs, then end the daemons, each as it wants to be ended."""
    if pid(cluster, "slurmctld"):
        account = f"--user={user()}"
        _ask(cluster, "scancel", account)
        _ask(cluster, "scancel", "--full", "--signal=KILL", account)
        deadline = time.monotonic() + 20
        while count_jobs(cluster) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    for tool in ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged"):
        _end(running(cluster, tool), signal.SIGTERM, patience_seconds=15)


def kill_all(cluster: Cluster) -> None:
    """kill -9 whatever is left of the daemons and the jobs."""
    _end(running(cluster, "slurmd"), signal.SIGKILL)  # first, so that nothing new starts
    while left := job_processes(cluster, cluster.nodes):
        _end(left, signal.SIGKILL)
    daemons = running(cluster)
    _end([member for daemon in daemons for member in [daemon, *_descendants(daemon)]], signal.SIGKILL)


def kill_node(cluster: Cluster, node: str) -> None:
    """kill -9 the slurmd of a node and all that runs there."""
    slurmd = _daemon(cluster, f"slurmd-{node}")
    _end([slurmd] if slurmd else [], signal.SIGKILL)
    while left := job_processes(cluster, [node]):
        _end(left, signal.SIGKILL)


def running(cluster: Cluster, tool: str | None = None) -> list[psutil.Process]:
    """The living daemons, or those of one tool."""
    names = [name for name in cluster.daemons if tool in (None, name.split("-")[0])]
    return [process for name in names if (process := _daemon(cluster, name))]


def pid(cluster: Cluster, name: str) -> int | None:
    """The pid of a daemon that lives."""
    process = _daemon(cluster, name)
    return process.pid if process else None


def node_states(cluster: Cluster) -> dict[str, str]:
    """Slurm's word for the state of each node; `*` after it: the node does not answer."""
    lines = (_ask(cluster, "sinfo", "-h", "-N", "-p", "low", "-o", "%N %T") or "").splitlines()
    return dict(line.split() for line in lines)


def count_jobs(cluster: Cluster) -> int:
    """How many jobs have not ended."""
    return len((_ask(cluster, "squeue", "-h", "-r", "-o", "%i") or "").split())


def job_processes(cluster: Cluster, nodes: list[str]) -> list[psutil.Process]:
    """slurmstepd and the tasks of all jobs on the nodes, with all descendants."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if _is_task(cluster, process, nodes) or _is_step(cluster, process, nodes):
            found |= {member.pid: member for member in [process, *_descendants(process)]}
    return [process for process in found.values() if not _gone(process)]


def _is_task(cluster: Cluster, process: psutil.Process, nodes: list[str]) -> bool:
    variables = _environment(process)
    return _is_ours(cluster, variables) and variables.get("SLURMD_NODENAME") in nodes


def _is_step(cluster: Cluster, process: psutil.Process, nodes: list[str]) -> bool:
    """slurmstepd writes its title over its environment, but stays in the folder its slurmd was started in.

    For a moment after the fork it still has the name of that slurmd.
    """
    try:
        if process.name() not in ("slurmstepd", "slurmd"):
            return False
        return Path(process.cwd()) in [_spool(cluster, node) for node in nodes]
    except psutil.Error:
        return False


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


def _ask(cluster: Cluster, *words: str) -> str | None:
    """The output of a command that may fail, None if it did."""
    try:
        return command(cluster, *words, timeout_seconds=5)
    except SubmissionError:
        return None


def _clean_environment(cluster: Cluster) -> dict[str, str]:
    """Nothing of the caller's: SLURM_..., SQUEUE_... and MYSQL_... variables change what Slurm does."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "USER") if name in os.environ}
    return kept | cluster.environment()


def _start(cluster: Cluster, name: str, *arguments: str, cwd: Path | None = None) -> None:
    """Start a daemon in its foreground mode, as nobody's child, unless it runs."""
    if _daemon(cluster, name):
        return
    tool = name.split("-")[0]
    _pid_file(cluster, name).unlink(missing_ok=True)  # an old one would tell of a death
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


def _check_name() -> None:
    tried = subprocess.run([*_renamed(), "true"], capture_output=True, stdin=subprocess.DEVNULL)
    if tried.returncode:
        name = socket.gethostname()
        raise SubmissionError(f"this machine's name must lead to 127.0.0.1; put first in /etc/hosts: 127.0.0.1 {name}")


def _wait(cluster: Cluster, name: str, seconds: float, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        died = _has_died(cluster, name)
        if died or time.monotonic() > deadline:
            what = "ended at once" if died else f"did not answer within {seconds} s"
            raise SubmissionError(f"{name} {what}; see {cluster.folder}/log{_last_error(cluster, name)}")
        time.sleep(POLL_SECONDS)


def _has_died(cluster: Cluster, name: str) -> bool:
    """Whether a daemon was started and is gone; before it is itself it is a shell of the same pid."""
    try:
        return _gone(psutil.Process(int(_pid_file(cluster, name).read_text())))
    except psutil.NoSuchProcess:
        return True
    except (OSError, ValueError):  # the shell has not come so far
        return False


def _last_error(cluster: Cluster, name: str) -> str:
    """What a daemon named last as wrong, as more words to a line; empty if it named nothing."""
    logs = [cluster.folder / "log" / f"{name}.out", cluster.folder / "log" / f"{name.replace('-', '.')}.log"]
    lines = [line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()]
    wrong = [line for line in lines if re.search(r"\b(error|fatal)\b", line, re.IGNORECASE)]
    return f": {wrong[-1].strip()}" if wrong else ""


def _end(processes: Iterable[psutil.Process], how: signal.Signals, patience_seconds: float = 0) -> None:
    """Signal the processes, kill -9 those still there after `patience_seconds`, wait until all are gone.

    Raises SubmissionError when one outlives that by half a minute.
    """
    left = list(processes)
    _send(left, how)
    killed = how == signal.SIGKILL
    deadline = time.monotonic() + patience_seconds
    while left := [process for process in left if not _gone(process)]:
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


def _daemon(cluster: Cluster, name: str) -> psutil.Process | None:
    """The process of a daemon's pid file, if it lives and is still that daemon of this cluster."""
    try:
        process = psutil.Process(int(_pid_file(cluster, name).read_text()))
        ours = process.name() == name.split("-")[0] and not _gone(process)
    except (OSError, ValueError, psutil.Error):
        return None
    return process if ours and _is_ours(cluster, _environment(process)) else None


def _is_ours(cluster: Cluster, variables: dict[str, str]) -> bool:
    return variables.get("SLURM_CONF") == str(cluster.slurm_conf)


def _spool(cluster: Cluster, node: str) -> Path:
    return cluster.folder / "spool" / node


def _pid_file(cluster: Cluster, name: str) -> Path:
    return cluster.folder / "run" / f"{name}.pid"


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:  # gone, or somebody else's
        return {}


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _gone(process: psutil.Process) -> bool:
    """Dead; a zombie is, though it stays where process 1 does not reap."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
