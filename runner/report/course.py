"""The sections of what happened to the trials: how they failed, how often they began, where their time went."""

from collections import Counter
from collections.abc import Iterator

from runner.explain import counted
from runner.masking import mask_text
from runner.report.html import Content, Html, element, paragraph, table
from runner.report.material import Material
from runner.tables import describe, varying_keys
from runner.tracebacks import NAMED, explain_failures

MOST_NOTES = 30


def tell_failures(material: Material) -> Html:
    """The first traceback of each kind of failure, with the trials that had it; then what else needs a look."""
    groups = explain_failures(material.rows)
    keys = varying_keys([result.settings for result in material.results])
    words = [describe(result.settings, keys, result.known) for result in material.results]
    told = dict(zip(material.runs, words, strict=True))
    parts: list[Html] = []
    for group in groups:
        names = [f"{row.trial} ({told[row.run]})" if told[row.run] else row.trial for row in group.rows[:NAMED]]
        more = f" and {len(group.rows) - NAMED} more" if len(group.rows) > NAMED else ""
        parts.append(element("h3", f"{counted(len(group.rows), 'trial')}: {mask_text(group.cause)}"))
        parts.append(paragraph(f"{', '.join(names)}{more}", class_="note"))
        parts.append(element("pre", group.words or "It left no word.", tabindex="0"))
    noted = [row for row in material.rows if row.state not in ("done", "failed", "running") and row.note]
    noted = [row for row in noted if row.note != "not submitted yet"]
    if noted:
        parts.append(element("h3", "Not done, and why"))
        lines: list[list[Content]] = [[row.trial, row.state, _words(row.note)] for row in noted[:MOST_NOTES]]
        left = f"and {len(noted) - MOST_NOTES} more: runner status" if len(noted) > MOST_NOTES else ""
        parts.append(table(["trial", "state", "why"], lines, "trials that are not done, and why", note=left))
    return Html("".join(parts))


def tell_attempts(material: Material) -> Html:
    """How often the trials began, and how those attempts ended."""
    ends = [event for row in material.rows for event in row.record.attempts if event["event"] == "end"]
    attempts = sum(row.attempts for row in material.rows)
    if not attempts:
        return Html()
    begun = sum(row.attempts > 0 for row in material.rows)
    preempted = counted(sum(row.preemptions for row in material.rows), "preemption")
    words = f"{counted(begun, 'trial')} in {counted(attempts, 'attempt')}, with {preempted}."
    heads = ["attempt ended", "times", "requeued", "saved within"]
    return Html(paragraph(words) + table(heads, _ends(ends), "how attempts ended", (1, 2, 3)))


def _ends(ends: list[dict[str, object]]) -> Iterator[list[Content]]:
    for cause, count in Counter(str(event.get("cause")) for event in ends).most_common():
        own = [event for event in ends if str(event.get("cause")) == cause]
        saved = [each for event in own if isinstance(each := event.get("signal_to_saved_seconds"), int | float)]
        within = f"{max(saved):.1f} s" if saved else ""
        yield [cause, str(count), str(sum(bool(event.get("requeue")) for event in own)), within]


def _words(text: str) -> Html:
    """A sentence in a cell, which may take several lines."""
    return element("span", mask_text(text), class_="words")
