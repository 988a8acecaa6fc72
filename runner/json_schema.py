"""The JSON schema of an experiment file, for editors that complete and check YAML as it is typed."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from runner import named
from runner.config import Trial
from runner.sweep_config import Sweep


def json_schema() -> dict[str, Any]:
    """Schema of the whole file: every group, every plug-in with its own options, and the sweep.

    Imports every plug-in, and torch with them.
    """
    members = {
        (family, name): named.load(family, name).Config
        for family in named.FAMILIES
        for name in named.names(family)
    }
    models: list[type[BaseModel]] = [Trial, Sweep, *members.values()]
    places, schema = models_json_schema([(model, "validation") for model in models])
    definitions = schema["$defs"]

    def lookup(model: type[BaseModel]) -> dict[str, Any]:
        found: dict[str, Any] = definitions[places[model, "validation"]["$ref"].rpartition("/")[2]]
        return found

    trial = dict(lookup(Trial))
    properties = dict(trial["properties"])
    for family, key in named.FAMILIES.items():
        choices = {name: lookup(config) for (other, name), config in members.items() if other == family}
        group = key.partition(".")[0]
        if group in properties and key.endswith(".name"):
            properties[group] = {"oneOf": [_selection(name, config) for name, config in choices.items()]}
    evaluate = dict(lookup_by_name(definitions, "EvaluateConfig"))
    return evaluate
