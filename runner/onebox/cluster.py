"""What a one-machine Slurm is made of: its settings, its folder, its files."""

import json
import os
import pwd
import re
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template

from runner.errors import ConfigError, SubmissionError

TEMPLATES = Path(__file__).resolve().parents[2] / "slurm" / "onebox"
LONGEST_FOLDER = 60
"""Characters; the sockets of slurmstepd below it must stay under the 107 of a unix socket."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `up` was asked for; kept in the folder, so that a second `up` knows."""

    nodes: int = 4
    cpus: int = 8
    """Virtual CPUs of a node; may exceed the real ones."""
    memory_mb: int = 6000
    """Memory of a node that jobs may ask for; not enforced."""
    gpus: int = 4
    """Fake GPUs of a node: counted and put into CUDA_VISIBLE_DEVICES, never opened."""
    grace_seconds: int = 8
    """From the warning of a preempted job to its end."""
    kill_wait_seconds: int = 4
    """From SIGTERM to SIGKILL."""
    node_timeout_seconds: int = 10
    """A silent node counts as dead after one to two times this."""
    user_signal: bool = True
    """Preemption sends the signal of `sbatch --signal`; Slurm's own default is SIGTERM."""
    accounting: bool = True
    """Whether sacct answers."""
    enforce_limits: bool = False
    """Whether the limits of associations and QOS hold, with accounts; then every user needs an association."""
    array_size: int = 5001
    """MaxArraySize: every index of an array is below it."""
    port0: int | None = None
    """First of the 2 + nodes ports in a row: slurmctld, slurmdbd, each slurmd. None: any that are free."""

    def __post_init__(self) -> None:
        limits = {
            "nodes": (1, 254),
            "cpus": (1, 1024),
            "memory_mb": (200, 10**7),
            "gpus": (0, 64),
            "grace_seconds": (0, 3600),
            "kill_wait_seconds": (1, 3600),
            "node_timeout_seconds": (5, 3600),
            "array_size": (1, 4_000_001),
        }
        if self.port0 is not None:
            limits["port0"] = (1024, 65534 - self.nodes)
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"onebox {name}: must be {least} to {most}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Cluster:
    """A one-machine Slurm: where it lives and how to reach it."""

    folder: Path
    settings: Settings

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    @property
    def nodes(self) -> list[str]:
        """Names of the virtual nodes; loopback addresses, because those resolve everywhere."""
        return [f"127.0.0.{number}" for number in range(1, self.settings.nodes + 1)]

    @property
    def daemons(self) -> list[str]:
        """Names of the daemons, in the order of their start; `slurmd-NODE` is the slurmd of a node."""
        accounting = ["mariadbd", "slurmdbd"] if self.settings.accounting else []
        return ["munged", *accounting, "slurmctld", *(f"slurmd-{node}" for node in self.nodes)]

    def environment(self) -> dict[str, str]:
        """The variables by which Slurm's commands find this cluster, to be laid over os.environ."""
        path = os.environ.get("PATH", "/usr/bin:/bin")
        return {
            "SLURM_CONF": str(self.slurm_conf),
            "MYSQL_UNIX_PORT": str(self.folder / "run" / "db.sock"),
            "PATH": path if "/usr/sbin" in path.split(":") else f"{path}:/usr/sbin",
        }


def default_folder() -> Path:
    """$RUNNER_ONEBOX, else ~/.cache/runner/onebox."""
    return Path(os.environ.get("RUNNER_ONEBOX") or "~/.cache/runner/onebox").expanduser()


def onebox_hint() -> str:
    """How to use the onebox that was brought up here, as more words to a line; empty without one."""
    env = default_folder() / "env"
    return f"; to use the onebox: source {env}" if env.is_file() else ""


def make_private(folder: Path | None) -> Path:
    """The absolute path of a folder that exists; only its owner may enter it if it is new."""
    folder = (folder or default_folder()).expanduser().resolve()
    if not re.fullmatch(r"[\w./+-]+", str(folder), re.ASCII) or len(str(folder)) > LONGEST_FOLDER:
        raise ConfigError(f"onebox folder {folder}: must be at most {LONGEST_FOLDER} of letters, digits and ./+-_")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def load(folder: Path | None = None) -> Cluster:
    """The cluster of `folder`, running or not; raises SubmissionError unless the folder is one of ours."""
    folder = (folder or default_folder()).expanduser().resolve()
    try:
        owner = folder.stat().st_uid
        settings = Settings(**json.loads((folder / "settings.json").read_text()))
        exports = (folder / "env").read_text().splitlines()
    except FileNotFoundError:
        raise SubmissionError(f"{folder}: no onebox there; `runner onebox up` starts one") from None
    except (OSError, ValueError, TypeError) as error:
        told = getattr(error, "strerror", None) or error
        raise SubmissionError(f"{folder}: no onebox there that can be read: {told}") from error
    cluster = Cluster(folder, settings)
    if owner != os.geteuid():
        raise SubmissionError(f"{folder}: belongs to another user")
    if f"export SLURM_CONF={cluster.slurm_conf}" not in exports:
        raise SubmissionError(f"{folder}/env: SLURM_CONF does not point into this folder")
    return cluster


def needs_other_name() -> bool:
    """Whether this machine's name leads elsewhere than 127.0.0.1.

    slurm.conf says NoInAddrAny: then Slurm listens where the name of the machine leads. At 127.0.1.1, Debian's
    own choice, srun is not found by its tasks, which look for it at 127.0.0.1; at other addresses all could see
    it. In both cases the daemons are started under the name localhost.
    """
    try:
        return socket.gethostbyname(socket.gethostname()) != "127.0.0.1"
    except OSError:
        return True


def write_files(cluster: Cluster) -> None:
    """Write everything the daemons read; what makes the folder known as ours comes first."""
    folder, settings = cluster.folder, cluster.settings
    folder.chmod(0o700)
    _write(folder / "settings.json", json.dumps(asdict(settings)))
    _write(
        folder / "env",
        f"# `source` this and Slurm's commands talk to the cluster of this folder.\n"
        f"export SLURM_CONF={cluster.slurm_conf}\n"
        f"export MYSQL_UNIX_PORT={cluster.environment()['MYSQL_UNIX_PORT']}\n"
        'export PATH="$PATH:/usr/sbin"\n',
    )
    for name in ("etc", "gpu", "log", "run", "state", *(f"spool/{node}" for node in cluster.nodes)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(settings.gpus):
        with suppress(FileExistsError):
            (folder / "gpu" / str(number)).symlink_to("/dev/null")
    if not (folder / "etc" / "munge.key").exists():
        _write(folder / "etc" / "munge.key", os.urandom(32).hex())

    values = _values(cluster)
    texts = {path.name: Template(path.read_text()).substitute(values) for path in TEMPLATES.glob("*.conf")}
    accounting = texts.pop("accounting.conf")
    texts["slurm.conf"] += accounting * settings.accounting
    for name, text in texts.items():
        _write(folder / "etc" / name, text)


def _values(cluster: Cluster) -> dict[str, object]:
    """What stands for ${NAME} in the templates."""
    settings = cluster.settings
    assert settings.port0 is not None
    nodes = f"127.0.0.{_span(1, settings.nodes)}"
    gpu_files = f"{cluster.folder}/gpu/{_span(0, settings.gpus - 1)}"
    return {
        "FOLDER": cluster.folder,
        "HOSTNAME": "localhost" if needs_other_name() else socket.gethostname().split(".")[0],
        "USER": user(),
        "CONTROLLER_PORT": settings.port0,
        "ACCOUNTING_PORT": settings.port0 + 1,
        "NODE_PORTS": _span(settings.port0 + 2, settings.port0 + 1 + settings.nodes),
        "NODES": nodes,
        "CPUS": settings.cpus,
        "MEMORY_MB": settings.memory_mb,
        "GRES": f"Gres=gpu:{settings.gpus}" if settings.gpus else "",
        "GPUS": f"NodeName={nodes} Name=gpu File={gpu_files}" if settings.gpus else "",
        "GRACE_SECONDS": settings.grace_seconds,
        "KILL_WAIT_SECONDS": settings.kill_wait_seconds,
        "ARRAY_SIZE": settings.array_size,
        "ENFORCEMENT": "AccountingStorageEnforce=limits,qos" * settings.enforce_limits,
        "NODE_TIMEOUT_SECONDS": settings.node_timeout_seconds,
        "CONTROLLER_PARAMETERS": "idle_on_node_suspend" + ",preempt_send_user_signal" * settings.user_signal,
    }


def _span(first: int, last: int) -> str:
    """Slurm's way to write a range of numbers."""
    return str(first) if first == last else f"[{first}-{last}]"


def user() -> str:
    """The name of who runs this, by which Slurm knows them."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _write(path: Path, text: str) -> None:
    """Whole or not at all, for the owner alone: munge and slurmdbd refuse secrets that others may read."""
    beside = path.with_name(path.name + ".new")
    beside.touch(mode=0o600)
    beside.write_text(text)
    beside.replace(path)
