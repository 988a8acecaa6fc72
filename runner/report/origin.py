"""The sections of what the trials were: their settings, their code, their machine, and how to run them again."""

import shlex
from collections import Counter
from collections.abc import Iterable
from typing import Any

from runner.differences import read_configs
from runner.explain import counted
from runner.masking import mask_text
from runner.plot.scene import is_coordinate
from runner.provenance import describe_commit
from runner.report.html import Content, Html, element, fold, join, paragraph, table
from runner.report.material import Material
from runner.results.order import sort_values
from runner.results.trials import setting_keys
from runner.rundir import is_closed
from runner.tables import format_value, same_text, varying_keys
from runner.trial_environment import read_environment
from runner.wandb_note import find_group_page

MOST_VALUES = 12
MOST_COMMANDS = 5


def tell_settings(material: Material) -> Html:
    """What varies over the trials, and folded away what does not."""
    settings = [result.settings for result in material.results]
    varying = varying_keys(settings)
    parts: list[Html] = []
    if varying:
        overrides = set(setting_keys([result.overrides for result in material.results]))
        lines: list[list[Content]] = []
        for key in varying:
            values = sort_values(own[key] for own in settings if key in own)
            by = "the sweep" if key in overrides else "the file or the command line"
            lines.append([element("code", key), str(len(values)), _values(values), by])
        parts.append(table(["setting", "values", "which", "set by"], lines, "settings that vary", (1,)))
    else:
        parts.append(paragraph("All trials have the same settings."))
    configs = [config for config in read_configs(material.runs) if config]
    constant = [
        key
        for key in (configs[0] if configs else {})
        if key not in varying and len({same_text(own.get(key, "")) for own in configs}) == 1
    ]
    same: list[list[Content]] = [[element("code", key), mask_text(format_value(configs[0][key]))] for key in constant]
    if same:
        label = "settings that are the same in all trials"
        parts.append(fold(f"The same in all trials ({len(same)})", table(["setting", "value"], same, label)))
    return Html("".join(parts))


def tell_origin(material: Material) -> Html:
    """Code, packages and machine of the trials; where they are not all the same, of how many."""
    origins = [origin for origin in material.origins if origin]
    entries: list[tuple[str, Content]] = []
    if commits := _counts(describe_commit(origin) for origin in origins):
        entries.append(("commit", commits))
    if kept := _counts((origin.get("snapshot") or {}).get("code") for origin in origins):
        entries.append(("kept code", kept))
    for key in ("python", "platform"):
        if told := _counts(origin.get(key) for origin in origins):
            entries.append((key, told))
    names = dict.fromkeys(name for origin in origins for name in origin.get("packages") or {})
    versions = [(name, _counts((origin.get("packages") or {}).get(name) for origin in origins)) for name in names]
    if versions:
        entries.append(("packages", ", ".join(f"{name} {told}" for name, told in versions)))
    run = material.best_run()
    if run is not None and (facts := _facts(read_environment(run), {*names, "python", "platform"})):
        entries.append((f"machine of {run.trial}", ", ".join(f"{key} {value}" for key, value in facts.items())))
    readable = [run for run in material.runs if not is_closed(run)]
    for experiment in dict.fromkeys(run.experiment for run in readable):
        page = find_group_page([run for run in readable if run.experiment == experiment])
        # Whoever can write to a run folder can write an address there that a browser would run.
        if page is not None and page.startswith(("https://", "http://")):
            entries.append(("W&B", element("a", page, href=page, rel="noreferrer")))
    if not entries:
        return paragraph("The run folders do not say.")
    return element("dl", [[element("dt", name), element("dd", told)] for name, told in entries])


def tell_commands(material: Material) -> Html:
    """The commands that submitted the trials, and those that repeat and show them."""
    typed = Counter(str(origin["command"]) for origin in material.origins if origin.get("command"))
    lines = ["# as submitted"] * bool(typed)
    lines += [mask_text(command) for command, _ in typed.most_common(MOST_COMMANDS)]
    if len(typed) > MOST_COMMANDS:
        lines.append(f"# and {counted(len(typed) - MOST_COMMANDS, 'other command')}: runner show TRIAL")
    sweeps = " ".join(shlex.quote(name) for name in dict.fromkeys(run.experiment for run in material.runs))
    run = material.best_run()
    if run is not None:
        lines += ["# the best trial again, from step 0 in its own code", f"runner reproduce {_name(run)} --run"]
    lines += ["# the numbers", f"runner results {sweeps} --csv results.csv"]
    lines += ["# this page", f"runner report {sweeps}"]
    return element("pre", "\n".join(lines), tabindex="0")


def _name(run: Any) -> str:
    return shlex.quote(f"{run.experiment}/{run.trial}")


def _values(values: list[Any]) -> Html:
    if len(values) > MOST_VALUES and all(map(is_coordinate, values)):
        return join(f"{format_value(values[0])} to {format_value(values[-1])}")
    words = [mask_text(format_value(value)) for value in values[:MOST_VALUES]]
    more = f" and {len(values) - MOST_VALUES} more" if len(values) > MOST_VALUES else ""
    return element("span", join(", ".join(words) + more), class_="words")


def _counts(values: Iterable[Any]) -> str:
    """The value that all have, or each with the number of trials that have it."""
    found = Counter(str(value) for value in values if value is not None)
    if len(found) == 1:
        return mask_text(next(iter(found)))
    return mask_text("; ".join(f"{value} ({counted(count, 'trial')})" for value, count in found.most_common()))


def _facts(environment: dict[str, Any], known: set[str]) -> dict[str, str]:
    return {key: mask_text(format_value(value)) for key, value in environment.items() if key not in known and value}
