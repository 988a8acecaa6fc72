"""Profiles: what they may say, how ranks are laid out, and that nothing but our lines reaches sbatch."""

import inspect
import os
import re
import shlex
import subprocess
from pathlib import Path
from string import ascii_letters, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from submitit.slurm.slurm import _make_sbatch_string

from runner.config import ResourcesConfig
from runner.errors import ConfigError
from runner.layout import layout, submitit_parameters
from runner.profile import Profile, advice, lead_advice, load_profile
from runner.strict_yaml import dump_yaml

SITES = sorted((Path(__file__).parent.parent / "slurm").glob("*.yaml"))

SBATCH_FIELDS = ["partition", "account", "qos", "constraint", "nodelist", "exclude", "comment"]
SBATCH_FIELDS += ["mail_user", "mail_type"]


def write(folder: Path, text: str, name: str = "site.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def told(path: str | Path, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_profile(path, folder)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_the_profiles_that_come_along_are_valid(path):
    profile = load_profile(path)
    assert load_profile(path.stem) == profile
    if profile.cluster == "slurm":
        assert sbatch_lines(profile, ResourcesConfig(ranks=2))
        assert advice(profile) == []


def test_every_kind_of_site_has_an_example():
    assert {path.stem for path in SITES} >= {"local", "onebox", "a100", "preemptible"}


def test_names_are_looked_up_here_and_then_beside_the_package(tmp_path):
    write(tmp_path / "slurm", "cluster: local\nparallel: 7\n", "local.yaml")
    assert load_profile("local", tmp_path / "slurm").parallel == 7
    assert load_profile("onebox", tmp_path / "slurm").partition == "low"
    assert load_profile(str(tmp_path / "slurm" / "local.yaml")).parallel == 7
    line = told("onbox", tmp_path / "slurm")
    assert line == f'profile not found: {tmp_path}/slurm/onbox.yaml; did you mean "onebox"?'
    assert told("no/such.yaml", tmp_path) == "config not found: no/such.yaml"


def test_defaults(tmp_path):
    assert load_profile(write(tmp_path, "cluster: slurm\n")).parallel == 256
    profile = load_profile(write(tmp_path, "cluster: local\n"))
    assert (profile.parallel, profile.signal_lead_seconds, profile.max_failures) == (1, 120, 3)


def test_a_dumped_profile_loads_as_itself(tmp_path):
    for path in SITES:
        profile = load_profile(path)
        assert load_profile(write(tmp_path, dump_yaml(profile.model_dump(mode="json")))) == profile


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("partition: low\n", "site.yaml: cluster: is missing"),
        ("cluster: pbs\n", 'site.yaml:1: cluster: "pbs" is not allowed; must be "local" or "slurm"'),
        ("cluster: slurm\npartiton: low\n", 'site.yaml:2: partiton: unknown key; did you mean "partition"?'),
        (
            "cluster: slurm\ntime_minutes: 0\n",
            "site.yaml:2: time_minutes: 0 is not allowed; must be at least 1",
        ),
        (
            "cluster: slurm\ntime_minutes: 01:00:00\n",
            'time_minutes: "01:00:00" is not allowed; must be a whole',
        ),
        ("cluster: slurm\nmemory_gb: 0\n", "memory_gb: 0 is not allowed; must be greater than 0"),
        ("cluster: slurm\ngpus_per_node: 0\n", "gpus_per_node: 0 is not allowed; must be at least 1"),
        ("cluster: slurm\nparallel: 0\n", "parallel: 0 is not allowed"),
        (
            "cluster: slurm\naccount: 010\n",
            "account: 10 is not allowed; must be a string (quote what looks like",
        ),
        (
            "cluster: slurm\ntime_minutes: 2\nsignal_lead_seconds: 120\n",
            "site.yaml:3: signal_lead_seconds: 120 is not allowed; must be less than the time limit, 120",
        ),
        (
            'cluster: slurm\npartition: "a\\nb"\n',
            'site.yaml:2: partition: "a\\nb" is not allowed; must be 1 to 128',
        ),
        (
            'cluster: slurm\nsetup: ["a\\nb"]\n',
            'site.yaml:2: setup.0: "a\\nb" is not allowed; must be one line',
        ),
        ('cluster: slurm\n"par\\ntition": x\n', "site.yaml:2: a key must be a string of printable"),
        ("cluster: slurm\nsetup: module load x\n", 'setup: "module load x" is not allowed; must be a list'),
        ("cluster: local\ncontainer: run me\n", "site.yaml:2: container: is not allowed with cluster: local"),
        (
            "cluster: slurm\ntrials_per_job: 4\ncontainer: run me\n",
            "site.yaml:3: container: is not allowed with trials_per_job",
        ),
        ("cluster: slurm\ncontainer: run a; rm b\n", "must be one command that runs the command after it"),
        ("cluster: slurm\ncontainer: run 'a\n", "must be words of a shell: no closing quotation"),
        ("cluster: slurm\ncontainer_python: python3\n", "site.yaml:2: container_python: python3 is not allowed"),
        (
            "cluster: slurm\ncontainer: run me\ncontainer_python: a b\n",
            "must be 1 to 128 letters, digits and _ . + / -",
        ),
    ],
)
def test_mistakes_get_one_line(tmp_path, text, expected):
    assert expected in told(write(tmp_path, text), tmp_path)


def test_shell_lines_that_everybody_may_change_are_not_run(tmp_path):
    path = write(tmp_path, "cluster: slurm\nsetup: [module load x]\n")
    os.chmod(path, 0o646)
    assert "site.yaml:2: setup: everybody may write to this file" in told(path, tmp_path)
    os.chmod(path, 0o664)
    assert load_profile(path).setup == ("module load x",)


def test_shell_lines_set_no_secrets(tmp_path):
    line = told(write(tmp_path, "cluster: slurm\nsetup:\n  - export WANDB_API_KEY='abc123'\n"), tmp_path)
    assert "site.yaml:3: setup.0: sets a secret; read WANDB_API_KEY from a file" in line
    assert "abc123" not in line
    harmless = (
        "export HF_TOKEN=$(cat ~/.hf)",
        'export HF_TOKEN="$TOKEN"',
        "export TOKENIZERS_PARALLELISM=false",
    )
    assert Profile(cluster="slurm", setup=harmless).setup == harmless


def test_short_jobs_are_advised_against():
    assert "time_minutes: 10 is short" in advice(Profile(cluster="slurm", time_minutes=10))[0]
    assert advice(Profile(cluster="slurm", time_minutes=11)) == advice(Profile(cluster="local")) == []


@given(ranks=st.integers(1, 300), gpus=st.integers(1, 16))
def test_ranks_are_spread_evenly_over_as_few_nodes_as_possible(ranks, gpus):
    fewest = -(-ranks // gpus)
    try:
        nodes, each = layout(ranks, gpus)
    except ConfigError as error:
        assert ranks % fewest
        nearest = [int(number) for number in re.findall(r"\d+", str(error).partition("nearest: ")[2])]
        assert nearest[0] < ranks < nearest[1]
        for number in nearest:
            layout(number, gpus)
        for number in range(nearest[0] + 1, nearest[1]):
            with pytest.raises(ConfigError):
                layout(number, gpus)
    else:
        assert (nodes * each, nodes) == (ranks, fewest)
        assert each <= gpus


def test_without_gpus_all_ranks_are_on_one_node():
    assert layout(48, None) == (1, 48)


def sbatch_lines(profile: Profile, resources: ResourcesConfig, count: int | None = None) -> list[str]:
    parameters = submitit_parameters(profile, resources, "exp")
    text = _make_sbatch_string(command="true", folder=Path("/tmp/x"), map_count=count, **parameters)
    return text.splitlines()


def test_submitit_takes_every_parameter_and_writes_these_lines():
    profile = load_profile("a100")
    accepted = inspect.signature(_make_sbatch_string).parameters
    assert submitit_parameters(profile, ResourcesConfig()).keys() <= accepted.keys()
    lines = sbatch_lines(profile, ResourcesConfig(ranks=16), count=40)
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --")}
    assert options >= {
        "partition=a100",
        "account=my-project",
        "qos=normal",
        "nodes=2",
        "ntasks-per-node=8",
        "gpus-per-node=8",
        "cpus-per-task=12",
        "mem=491520MB",
        "time=1440",
        "signal=USR2@180",
        "array=0-39%16",
        "job-name=exp",
        "requeue",
        "open-mode=append",
    }
    assert "module load cuda/12.8" in lines
    [srun] = [line for line in lines if line.startswith("srun ")]
    assert shlex.split(srun)[-2:] == ["--kill-on-bad-exit=1", "true"]


def test_a_site_without_gpus_asks_for_none_and_takes_the_trials_cpus():
    lines = sbatch_lines(load_profile("onebox"), ResourcesConfig(ranks=2, cpus_per_rank=3))
    assert not [line for line in lines if "gpu" in line]
    assert {"#SBATCH --cpus-per-task=3", "#SBATCH --ntasks-per-node=2", "#SBATCH --mem=1536MB"} <= set(lines)


TAME_CHARACTERS = dict.fromkeys(SBATCH_FIELDS, ascii_letters + digits + "_.,:@+-")
TAME_CHARACTERS |= dict.fromkeys(["nodelist", "exclude"], ascii_letters + digits + "_.,[]-")
TAME_CHARACTERS |= {
    "constraint": ascii_letters + digits + "_.,:&|*()[]-",
    "comment": ascii_letters + digits + "_.,:@+/=[]-",
}
TAME = st.text(ascii_letters + digits + "_.,-", min_size=1, max_size=128)
PIECES = [
    "\n",
    "\r",
    "\0",
    "\u2028",
    "\x85",
    "#SBATCH --account=other",
    "$(touch x)",
    "`x`",
    ";",
    " ",
    "'",
    '"',
    "a",
    "%j",
]
HOSTILE = st.text(min_size=1) | st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)


def is_tame(field: str, value: str) -> bool:
    return value.isprintable() if field == "setup" else set(value) <= set(TAME_CHARACTERS[field]) and len(value) <= 128


@given(values=st.dictionaries(st.sampled_from(SBATCH_FIELDS), HOSTILE | TAME, min_size=1))
def test_no_string_adds_a_line_to_the_script(values):
    if not all(is_tame(*item) for item in values.items()):
        with pytest.raises(ValidationError):
            Profile(cluster="slurm", **values)
        return
    found = sbatch_lines(Profile(cluster="slurm", **values), ResourcesConfig())
    plain = sbatch_lines(Profile(cluster="slurm", **dict.fromkeys(values, "plain")), ResourcesConfig())
    assert [line.partition("=")[0] for line in found] == [line.partition("=")[0] for line in plain]
    for field, value in values.items():
        assert f"#SBATCH --{field.replace('_', '-')}={shlex.quote(value)}" in found


@given(line=HOSTILE)
def test_a_shell_line_is_one_line(line):
    if not is_tame("setup", line):
        with pytest.raises(ValidationError):
            Profile(cluster="slurm", setup=(line,))
        return
    found = sbatch_lines(Profile(cluster="slurm", setup=(line,)), ResourcesConfig())
    plain = sbatch_lines(Profile(cluster="slurm", setup=("true",)), ResourcesConfig())
    assert found == [line if one == "true" else one for one in plain]


def test_the_scripts_are_valid_shell(tmp_path):
    for path in SITES:
        profile = load_profile(path)
        if profile.cluster == "slurm":
            script = write(tmp_path, "\n".join(sbatch_lines(profile, ResourcesConfig(ranks=4), count=3)), "job.sh")
            assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize(
    ("lead", "stop", "expected"),
    [
        (60, None, None),
        (60, 0.4, None),
        (65, 4.9, None),
        (59, None, "59 is short: Slurm may be 60 s off; 60 is safe"),
        (
            90,
            40.3,
            "90 is short: Slurm may be 60 s off and earlier trials took up to 40.3 s to save; 100 is safe",
        ),
        # No signal is asked for: the trial goes by its own clock.
        (0, 40.0, None),
    ],
)
def test_a_lead_too_short_for_what_was_measured_is_told(lead, stop, expected):
    found = lead_advice(Profile(cluster="slurm", signal_lead_seconds=lead), stop)
    assert found == ([] if expected is None else [f"signal_lead_seconds: {expected}"])
    assert lead_advice(Profile(cluster="local", signal_lead_seconds=lead), stop) == []
