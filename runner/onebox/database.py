"""The accounts of a one-machine Slurm, for sacct: MariaDB and slurmdbd."""

import shutil
from pathlib import Path

from runner.errors import SubmissionError
from runner.onebox.cluster import Cluster, user
from runner.onebox.daemon import ask, command, find_daemon, start_daemon, wait_until


def start_accounting(cluster: Cluster) -> None:
    data, run = cluster.folder / "db", cluster.folder / "run"
    if not data.exists():
        _create_database(cluster, data)
    if not find_daemon(cluster, "mariadbd"):
        (run / "db.sock").unlink(missing_ok=True)  # left by a crash, it would look like an answer
    start_daemon(
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
    wait_until(cluster, "mariadbd", 20, (run / "db.sock").exists)
    start_daemon(cluster, "slurmdbd", "-D")
    wait_until(cluster, "slurmdbd", 30, lambda: _is_registered(cluster))


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
    known = ask(cluster, "sacctmgr", "-n", "show", "cluster", "format=cluster")
    if known is not None and "onebox" not in known.split():
        command(cluster, "sacctmgr", "-Q", "-i", "add", "cluster", "onebox")
    return known is not None
