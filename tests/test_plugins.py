"""Plug-ins of other packages: found without being imported, refused where they clash, and on record where used."""

import json
import subprocess
import sys

import pytest

from runner import named, plugins
from runner.config import Selection
from runner.errors import ConfigError
from runner.experiment import validate
from runner.files import read_json
from runner.json_schema import json_schema
from runner.provenance import package_versions
from tests.experiments import SETTINGS, prepare_run, train_here
from tests.packages import install, site, write_metadata

__all__ = ["site"]

HALF = '''"""Half of the learning rate, always."""

from runner.schema import Options


class Config(Options):
    factor: float = 0.5
    """Multiplier."""


def build(config, steps):
    return lambda step: config.factor
'''


def test_another_package_adds_to_a_family(site):
    install(site, "my-lab", {"schedules/half": HALF})
    assert "half" in named.names("schedules") and "half" not in named.names("methods")
    assert "my_lab" not in sys.modules, "names are read without importing anything"
    found = named.find("schedules", "half")
    assert (found.module, str(found)) == ("my_lab.half", "my-lab 0.1")
    assert plugins.summary_of(found) == "Half of the learning rate, always." and "my_lab" not in sys.modules
    options = named.resolve("schedules", Selection(name="half", options={"factor": 0.25}))
    assert named.load("schedules", "half").build(options, 10)(3) == 0.25


def test_mistakes_know_it(site):
    install(site, "my-lab", {"schedules/half": HALF})
    with pytest.raises(ConfigError, match=r'^schedule.name: "haf" is not allowed; did you mean "half"\?$'):
        named.load("schedules", "haf")
    with pytest.raises(ConfigError, match=r'^schedule.facto: unknown key; did you mean "factor"\?$'):
        named.resolve("schedules", Selection(name="half", options={"facto": 1}))


def test_a_name_that_two_packages_have_is_nobodys(site):
    install(site, "my-lab", {"schedules/cosine": HALF, "schedules/half": HALF})
    install(site, "their-lab", {"schedules/half": HALF}, version="2.0")
    with pytest.raises(ConfigError, match=r'"cosine" .* of both runner and my-lab 0.1: rename or uninstall one'):
        named.load("schedules", "cosine")
    with pytest.raises(ConfigError, match=r"of both (my-lab 0.1 and their-lab 2.0|their-lab 2.0 and my-lab 0.1)"):
        named.load("schedules", "half")
    assert named.load("schedules", "linear"), "the others go on working"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import nowhere_to_be_found", "of my-lab 0.1 cannot be imported: No module named 'nowhere_to_be_found'"),
        ("build = None", "of my-lab 0.1 has no Config"),
        ("", "of my-lab 0.1 has no Config and no build"),
    ],
)
def test_a_module_that_is_no_plug_in_is_one_line(site, source, problem):
    install(site, "my-lab", {"schedules/odd": source})
    with pytest.raises(ConfigError, match=rf'^schedule.name: "odd" is not allowed; my_lab.odd {problem}$'):
        named.load("schedules", "odd")


def test_an_entry_point_to_nothing_is_one_line(site):
    write_metadata(site, "my-lab", "0.1", {"schedules": ["gone = my_lab.gone"]})
    with pytest.raises(ConfigError, match="cannot be imported: No module named 'my_lab'"):
        named.load("schedules", "gone")
    assert plugins.summary_of(named.find("schedules", "gone")) == ""


def test_the_editors_schema_has_it(site):
    install(site, "my-lab", {"schedules/half": HALF})
    choices = {choice["title"]: choice for choice in json_schema()["properties"]["schedule"]["oneOf"]}
    assert choices["half"]["properties"]["factor"]["description"] == "Multiplier."


def test_versions_and_source_are_on_record(site, tmp_path):
    install(site, "my-lab", {"schedules/half": HALF, "schedules/third": HALF})
    assert package_versions()["my-lab"] == "0.1"
    run = prepare_run(tmp_path / "a", without=("schedule",), schedule={"name": "half"}, train={"steps": 2})
    train_here(run)
    manifest = read_json(next(run.checkpoints.glob("step_*")) / "manifest.json")
    before = manifest["facts"]["plug_ins"]
    assert before.startswith("my-lab 0.1 (")
    (site / "my_lab" / "third.py").write_text(HALF + "\n")
    plugins.digest_of.cache_clear()
    trial = validate({**SETTINGS, "schedule": {"name": "half"}})
    assert named.foreign_packages(trial) != before, "an edit anywhere in the package may count"
    assert named.foreign_packages(validate(SETTINGS)) == "", "what is not used is no fact of a trial"


def test_a_package_in_several_folders_is_recorded_whole(tmp_path, monkeypatch):
    parts = [tmp_path / name / "spread" for name in ("one", "two")]
    for part in parts:
        part.mkdir(parents=True)
        (part / f"{part.parent.name}.py").write_text("x = 1\n")
        monkeypatch.syspath_prepend(str(part.parent))
    found = []
    for text in ("x = 1\n", "x = 2\n"):
        for part in parts:
            (part / f"{part.parent.name}.py").write_text(text)
            plugins.digest_of.cache_clear()
            found.append(plugins.digest_of(plugins.PlugIn("half", "spread.one", "spread", "0.1")))
    assert len(set(found)) == 3, "an edit of either counts"


def test_other_processes_find_it_too(site):
    install(site, "my-lab", {"schedules/half": HALF})
    code = "import json; from runner import named; print(json.dumps(named.names('schedules')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "half" in json.loads(done.stdout), done.stderr
