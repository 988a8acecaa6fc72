"""Names of plug-ins, their options, and the schema that editors read."""

import json
from pathlib import Path
from typing import Any

import pytest

import runner.data
import runner.methods
from runner import named
from runner.config import Selection
from runner.errors import ConfigError
from runner.experiment import Experiment, load_experiment, validate
from runner.json_schema import json_schema
from runner.schema import Options
from runner.sweep import trials

PLUG_IN = '''
from pydantic import Field
from runner.schema import Options

IN_BATCH_NEGATIVES = {negatives}


class Config(Options):
    gamma: float = Field(default=1.0, ge=0)
    """How sure."""

    temperature: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    sizes: tuple[int, ...] = (128, 64)


def build(config, encoder, group, steps):
    return None
'''

TRIAL: dict[str, Any] = {
    "name": "x",
    "method": {"name": "made_up", "gamma": 2},
    "encoder": {"name": "resnet9"},
    "data": {"name": "made_up_too"},
    "schedule": {"name": "cosine", "warmup_steps": 5},
    "optimizer": {"lr": 1e-3},
    "train": {"steps": 10, "batch_size": 8},
    "evaluate": {"probes": ["knn"]},
}


@pytest.fixture(autouse=True, scope="module")
def plug_ins(tmp_path_factory):
    """Two methods and a data set of our own, found as files, like all others."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, negatives in (
        ("made_up", True),
        ("made_up_two", False),
        ("made_up_too", True),
        ("_hidden", True),
    ):
        (folder / f"{name}.py").write_text(PLUG_IN.format(negatives=negatives))
    for package in (runner.methods, runner.data):
        package.__path__.append(str(folder))
    yield
    for package in (runner.methods, runner.data):
        package.__path__.remove(str(folder))


def refused(overrides: list[str], folder: Path, **more: Any) -> str:
    path = folder / "exp.yaml"
    path.write_text(json.dumps(TRIAL | more))
    experiment: Experiment = load_experiment(path, overrides)
    with pytest.raises(ConfigError) as caught:
        named.resolve_trials(trials(experiment), experiment.document)
    assert str(caught.value).isprintable()
    return str(caught.value).replace(f"{folder}/", "")


def test_a_name_is_a_file_and_underscores_are_private():
    assert {"cosine", "constant", "linear"} <= set(named.names("schedules"))
    assert {"knn", "linear"} <= set(named.names("evaluation"))
    assert not [name for family in named.FAMILIES for name in named.names(family) if name.startswith("_")]
    assert {"made_up", "made_up_two"} <= set(named.names("methods"))
    assert named.load("schedules", "cosine").__name__ == "runner.schedules.cosine"


@pytest.mark.parametrize("family", named.FAMILIES)
def test_every_plug_in_has_a_config_with_a_text_for_each_option(family):
    for name in named.names(family):
        config = named.load(family, name).Config
        assert issubclass(config, Options)
        bare = [key for key, field in config.model_fields.items() if not field.description]
        assert not bare or name.startswith("made_up"), f"{family}/{name}: no docstring under {bare}"


@pytest.mark.parametrize("name", ["_hidden", "../profile", "cosin.e", "os", "", "cosine.Config"])
def test_only_files_of_the_family_can_be_named(name):
    with pytest.raises(ConfigError, match=r'^schedule\.name: ".*" is not allowed; '):
        named.load("schedules", name)


def test_a_trial_is_resolved_to_the_plug_ins_own_options():
    resolved = named.resolve_trial(validate(TRIAL))
    assert resolved.method == named.load("methods", "made_up").Config(gamma=2.0)
    assert resolved.schedule.model_dump() == {"warmup_steps": 5, "warmup_from_zero": False, "end_factor": 0.0}
    assert list(resolved.probes) == ["knn"]
    assert named.resolve("methods", Selection(name="made_up", options={"sizes": [3]})).sizes == (3,)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method.gama=1", 'override method.gama=1: method.gama: unknown key; did you mean "gamma"?'),
        ("method.gamma=-1", "override method.gamma=-1: method.gamma: -1 is not allowed; must be at least 0"),
        ("method.temperature=0", "method.temperature: 0 is not allowed; must be greater than 0"),
        ("method.momentum=1.0", "method.momentum: 1 is not allowed; must be less than 1"),
        ("method.sizes=3", "method.sizes: 3 is not allowed; must be a list"),
        ("method.name=mad_up", 'method.name: "mad_up" is not allowed; did you mean "made_up"?'),
        ("encoder.name=resnt9", 'encoder.name: "resnt9" is not allowed; did you mean "resnet9"?'),
        ("schedule.name=xyz", 'schedule.name: "xyz" is not allowed; there is constant, cosine, '),
        ("evaluate.probes=[kn]", 'evaluate.probes: "kn" is not allowed; did you mean "knn"?'),
        ("schedule.warmup_steps=11", "schedule.warmup_steps: 11 is not allowed; must be at most 10"),
        (
            "train.batch_size=1",
            "train.batch_size: 1 is not allowed; with one sample in each pass of a rank the loss",
        ),
        (
            "sweep={grid: {method.gamma: [0, -2]}}",
            "-2 is not allowed; must be at least 0 (set by sweep.grid.method.",
        ),
    ],
)
def test_mistakes_get_one_line_with_the_dotted_key(tmp_path, override, expected):
    assert expected in refused([override], tmp_path)


def test_a_method_without_negatives_may_see_single_samples():
    single = TRIAL | {"train": {"steps": 10, "batch_size": 1}}
    named.resolve_trial(validate(single | {"method": {"name": "made_up_two"}}))
    with pytest.raises(ConfigError, match="no negatives"):
        named.resolve_trial(validate(single))


def test_all_trials_of_a_sweep_are_resolved(tmp_path):
    path = tmp_path / "exp.yaml"
    path.write_text(json.dumps(TRIAL | {"sweep": {"grid": {"method.gamma": [0, 1]}, "seeds": [1, 2]}}))
    experiment = load_experiment(path)
    resolved = named.resolve_trials(trials(experiment), experiment.document)
    assert [one.method.gamma for one in resolved] == [0, 0, 1, 1]  # type: ignore[attr-defined]
    assert resolved[0].encoder is resolved[3].encoder


def test_the_editors_schema_describes_every_plug_in_and_points_nowhere_else():
    schema = json_schema()
    assert {"method", "views", "train", "sweep"} <= schema["properties"].keys()
    for family, group in (("methods", "method"), ("schedules", "schedule")):
        names = [choice["properties"]["name"]["const"] for choice in schema["properties"][group]["oneOf"]]
        assert names == named.names(family)
    assert {"every_steps", *named.names("mirrors")} == schema["$defs"]["TrackingConfig"]["properties"].keys()
    gamma = schema["properties"]["method"]["oneOf"][named.names("methods").index("made_up")]["properties"]["gamma"]
    assert (gamma["description"], gamma["minimum"]) == ("How sure.", 0)
    references = json.dumps(schema).split('"$ref": "#/$defs/')[1:]
    assert references
    assert all(reference.partition('"')[0] in schema["$defs"] for reference in references)
