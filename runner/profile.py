"""Where trials run: a profile is one site, and what its scheduler is told. Needs no torch or submitit."""

import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from runner.errors import ConfigError
from runner.explain import OptionError, did_you_mean
from runner.files import GROUP_READABLE, PRIVATE
from runner.schema import Options, build, load_yaml, refuse_secrets
from runner.strict_yaml import is_secret


def _one_of(more: str) -> AfterValidator:
    """Only letters, digits and these: submitit quotes for the shell, but a newline still ends an #SBATCH line."""
    pattern = re.compile(f"[A-Za-z0-9{re.escape(more)}]{{1,128}}")

    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"must be 1 to 128 letters, digits and {' '.join(more)}")
        return value

    return AfterValidator(check)


_SUFFIXES = (".yaml", ".yml")

NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm", "/run")
"""Folders that each machine has for itself."""


def _check_line(line: str) -> str:
    if not line.isprintable():
        raise ValueError("must be one line without control characters")
    for name in re.findall(r"""(\w+)=["']?[^\s"'$`]""", line):
        if is_secret(name):
            # Without the line itself: errors are printed and logged.
            problem = f"sets a secret; read {name} from a file of yours, as in export {name}=$(cat FILE)"
            raise OptionError("", problem)
    return line


def _check_command(line: str) -> str:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ValueError(f"must be words of a shell: {error}".replace("No closing", "no closing")) from None
    if not words or set(line) & set(";|&<>`#()"):
        raise ValueError("must be one command that runs the command after it, without ; | & < > ` # ( )")
    return line


SLACK_SECONDS = 60
"""Slurm keeps time limits, and the signals before them, to the minute."""

SiteName = Annotated[str, _one_of("_.,:@+-")]
Nodes = Annotated[str, _one_of("_.,[]-")]
Constraint = Annotated[str, _one_of("_.,:&|*()[]-")]
Comment = Annotated[str, _one_of("_.,:@+/=[]-")]
PythonPath = Annotated[str, _one_of("_.+/-")]
ShellLine = Annotated[str, AfterValidator(_check_line)]
Command = Annotated[ShellLine, AfterValidator(_check_command)]


class Profile(Options):
    """One site."""

    cluster: Literal["local", "slurm"]
    """local: this machine, without a scheduler. slurm: by way of submitit."""

    partition: SiteName | None = None
    """Partition, or several with commas; None: the site's default."""

    account: SiteName | None = None
    """Account that is charged."""

    qos: SiteName | None = None
    """Quality of service."""

    constraint: Constraint | None = None
    """Features that the nodes must have."""

    nodelist: Nodes | None = None
    """Only these nodes."""

    exclude: Nodes | None = None
    """Never these nodes."""

    gpus_per_node: int | None = Field(default=None, ge=1)
    """GPUs of a node; each rank gets one. None: the site has no GPUs, or none are wanted."""

    cpus_per_task: int | None = Field(default=None, ge=1)
    """CPUs of a rank; None: what the trial's resources say."""

    time_minutes: int = Field(default=60, ge=1)
    """Time limit of a job; a trial that needs more is requeued until it is done."""

    memory_gb: float | None = Field(default=None, gt=0)
    """Memory of a job on each of its nodes; None: the site's default."""

    signal_lead_seconds: int = Field(default=120, ge=0)
    """Seconds before the time limit at which the trial is told to save and requeue; 0: it goes by its own clock."""

    parallel: int = Field(default=1, ge=1)
    """Trials that run at the same time, %N of the job array; a file for a cluster has 256 unless it says."""

    trials_per_job: int = Field(default=1, ge=1)
    """Trials of equal resources that one job holds, on one node; each has its own log, checkpoints and requeues."""

    trials_at_once: int | None = Field(default=None, ge=1)
    """How many trials of a job run at a time; None: all of them."""

    gpus_per_job: int | None = Field(default=None, ge=1)
    """GPUs that the trials of a job are spread over; None: they share those of one trial, one for each of its ranks."""

    setup: tuple[ShellLine, ...] = ()
    """Lines of shell in the batch script before the trial starts, such as `module load`."""

    container: Command | None = None
    """Command that starts the ranks in a container, such as `apptainer exec --nv /images/torch.sif`; batch script and
    requeue stay outside. It has to see the run root and the data, and to pass the environment on."""

    container_python: PythonPath | None = None
    """Python in the container, with what runner depends on; None: the path of the one that submits."""

    max_failures: int = Field(default=3, ge=0)
    """Crashes after which a trial is given up."""

    group_readable: bool = False
    """Let the group of this user read run folders (0750, files 0640); else nobody else can (0700, 0600)."""

    notify: ShellLine | None = None
    """Command for /bin/sh, run once when a trial is done or has failed for good, and once when all of its sweep have.

    Its environment has RUNNER_EVENT (trial or sweep), RUNNER_EXPERIMENT, RUNNER_TRIAL, RUNNER_STATE, RUNNER_CAUSE and
    RUNNER_FOLDER."""

    snapshot: bool = True
    """Keep the code of a submission, and run it in every attempt; false: they run what is there when they start."""

    comment: Comment | None = None
    """Comment that the scheduler keeps with the job."""

    mail_user: SiteName | None = None
    """Whom the scheduler writes to."""

    mail_type: SiteName | None = None
    """About what, such as END,FAIL."""

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.signal_lead_seconds >= self.time_minutes * 60:
            problem = f"{self.signal_lead_seconds} is not allowed; must be less than the time limit"
            raise OptionError("signal_lead_seconds", f"{problem}, {self.time_minutes * 60} seconds")
        self._check_packing()
        self._check_container()
        return self

    @property
    def umask(self) -> int:
        """For what is written for trials of this site."""
        return GROUP_READABLE if self.group_readable else PRIVATE

    def _check_packing(self) -> None:
        if self.is_packed and self.cluster == "local":
            problem = "is not allowed; without a scheduler there are no jobs, and parallel trials run at a time"
            raise OptionError("trials_per_job", f"{self.trials_per_job} {problem}")
        if self.trials_at_once is not None and self.trials_at_once > self.trials_per_job:
            problem = f"is not allowed; must be at most trials_per_job, {self.trials_per_job}"
            raise OptionError("trials_at_once", f"{self.trials_at_once} {problem}")
        if self.gpus_per_job is not None and not (self.is_packed and self.gpus_per_job <= (self.gpus_per_node or 0)):
            problem = "is not allowed; must be at most gpus_per_node, and with trials_per_job of 2 or more"
            raise OptionError("gpus_per_job", f"{self.gpus_per_job} {problem}")

    def _check_container(self) -> None:
        if self.container is None and self.container_python is not None:
            problem = "is not allowed; there is no container: that it would be in"
            raise OptionError("container_python", f"{self.container_python} {problem}")
        if self.container is not None and (self.cluster == "local" or self.is_packed):
            key = "cluster: local" if self.cluster == "local" else "trials_per_job"
            raise OptionError("container", f"is not allowed with {key}; jobs of Slurm with one trial each have it")

    @property
    def is_packed(self) -> bool:
        """Whether a job holds several trials."""
        return self.trials_per_job > 1


def load_profile(path_or_name: str | Path, folder: str | Path = "slurm") -> Profile:
    """The profile in a file, or by name: NAME.yaml in `folder` here, then in that beside the package.

    Raises ConfigError, in one line, also for a profile with shell lines that everybody may write to.
    """
    document = load_yaml(find_profile(str(path_or_name), Path(folder)))
    refuse_secrets(document)
    try:
        defaults = {"parallel": 256} if document.mapping.get("cluster") == "slurm" else {}
        profile = build(Profile, defaults | document.mapping)
    except OptionError as error:
        raise document.locate(error) from None
    run = next((key for key in ("setup", "container", "notify") if getattr(profile, key)), None)
    if run and os.stat(document.path).st_mode & 0o002:
        problem = "everybody may write to this file, and its lines are run; chmod o-w it"
        raise document.locate(OptionError(run, problem))
    return profile


def locate(error: OptionError, path_or_name: str) -> ConfigError:
    """An error about a key of a profile, with its file and line."""
    return load_yaml(find_profile(path_or_name)).locate(error)


def find_profile(path_or_name: str, folder: Path = Path("slurm")) -> Path:
    """The file of a profile: by its path, the name of a file here or in the folders, or the same without `.yaml`.

    Raises: ConfigError for a name that there is none of.
    """
    if "/" in path_or_name:
        return Path(path_or_name).expanduser()
    folders = [folder, Path(__file__).parent.parent / "slurm"]
    is_file_name = path_or_name.endswith(_SUFFIXES)
    places = [place / path_or_name for place in (Path(), *folders)] if is_file_name else []
    places = places or [place / f"{path_or_name}.yaml" for place in folders]
    if found := next((path for path in places if path.is_file()), None):
        return found
    names = {path.stem for place in folders for path in place.glob("*.yaml")}
    if not path_or_name.strip() or Path(path_or_name).is_file():
        problem = "is no .yaml file" if path_or_name.strip() else "is empty"
        given = path_or_name or repr(path_or_name)
        raise ConfigError(f"profile {given}: {problem}; give one, or a name in {folder}: {', '.join(sorted(names))}")
    looked = f"{path_or_name}, here or in {folder}" if is_file_name else f"{folder / path_or_name}.yaml"
    name = path_or_name.removesuffix(".yaml").removesuffix(".yml")
    raise ConfigError(f"profile not found: {looked}; {did_you_mean(name, names)}")


def advice(profile: Profile) -> list[str]:
    """Advice in one line each: allowed, but rarely meant."""
    if profile.cluster == "slurm" and profile.time_minutes <= 10:
        return [f"time_minutes: {profile.time_minutes} is short: start-up and requeue take minutes themselves"]
    return []


def lead_advice(profile: Profile, stop_seconds: float | None) -> list[str]:
    """Whether the signal comes too late for what earlier trials needed from a signal to the saved state."""
    lead, stop = profile.signal_lead_seconds, int(stop_seconds or 0)
    if profile.cluster != "slurm" or lead == 0 or lead >= SLACK_SECONDS + stop:
        return []
    needed = f" and earlier trials took up to {stop_seconds:.1f} s to save" if stop else ""
    return [
        f"signal_lead_seconds: {lead} is short: Slurm may be {SLACK_SECONDS} s off{needed}; "
        f"{SLACK_SECONDS + stop} is safe"
    ]
