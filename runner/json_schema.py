"""The JSON schema of an experiment file, for editors that complete and check YAML as it is typed."""

from typing import Any

from pydantic import BaseModel

from runner import named
from runner.config import Trial
from runner.sweep_config import Sweep


def json_schema() -> dict[str, Any]:
    """Schema of the whole file: every group, every plug-in with its own options, and the sweep.

    Imports every plug-in, and torch with them.
    """
    definitions: dict[str, Any] = {}
    schema = _describe(Trial, "", definitions)
    properties = schema["properties"]
    for family, key in named.FAMILIES.items():
        group, _, name = key.partition(".")
        if name == "name":
            choices = [_choice(family, plug_in, definitions) for plug_in in named.names(family)]
            properties[group] = {"description": properties[group]["description"], "oneOf": choices}
    evaluate = definitions["EvaluateConfig"]["properties"]
    probes = [_choice("evaluation", plug_in, definitions) for plug_in in named.names("evaluation")]
    evaluate["probes"]["items"] = {"oneOf": [{"enum": named.names("evaluation")}, *probes]}
    evaluate["data"]["additionalProperties"] = {"oneOf": properties["data"]["oneOf"]}
    tracking = definitions["TrackingConfig"]["properties"]
    del tracking["mirrors"]
    for plug_in in named.names("mirrors"):
        config = _describe(named.load("mirrors", plug_in).Config, f"mirrors.{plug_in}.", definitions)
        tracking[plug_in] = {"anyOf": [config, {"type": "null"}], "default": None}
    properties["sweep"] = _describe(Sweep, "", definitions)
    # Only configs of run folders have it.
    del properties["search"], definitions["SearchConfig"]
    # The sweep may give whatever else a trial needs.
    schema["required"] = ["name"]
    del definitions["Selection"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": definitions}


def _choice(family: str, plug_in: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """One plug-in as a mapping with its name and its options."""
    schema = _describe(named.load(family, plug_in).Config, f"{family}.{plug_in}.", definitions)
    schema["properties"] = {"name": {"const": plug_in}, **schema.get("properties", {})}
    schema["required"] = ["name", *schema.get("required", [])]
    return {**schema, "title": plug_in}


def _describe(model: type[BaseModel], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of one model; the models inside it join `definitions` under a prefix."""
    schema = model.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
    for name, inner in schema.pop("$defs", {}).items():
        definitions[f"{prefix}{name}"] = inner
    return schema
