"""The section of where the time went: its ledger, its interruptions, its timeline, and what would make more of it."""

from collections.abc import Iterator, Sequence

from runner.advice import advise, read_site
from runner.explain import counted
from runner.goodput import COST_HEADS, LEDGER_HEADS, Account, cost_rows, format_seconds, ledger_cells, read_accounts
from runner.ledger import KINDS, QUEUE, USEFUL, Ledger, add_up, lay_out
from runner.report.html import Content, Html, element, fold, paragraph, table
from runner.report.material import Material
from runner.report.picture import picture
from runner.timeline import make_timeline

MOST_BARS = 40
"""Trials of the timeline."""

MEANINGS = {
    "useful": "training whose steps were kept",
    "redone": "training that was lost and done again",
    "saving": "training stood still for a checkpoint",
    "restoring": "reading a checkpoint back",
    "start_up": "from the launch of a job to its first step",
    "evaluation": "probes and validation",
    "queue": "waiting for a job to start",
    "idle": "nothing: from the last word of a job that died to when somebody noticed",
}
assert tuple(MEANINGS) == KINDS


def tell_goodput(material: Material) -> Html:
    """Every second of the trials by what it went into; empty before one was submitted."""
    accounts = [each for each in read_accounts(material.rows, material.now) if lay_out(each.history)]
    total = add_up(account.ledger for account in accounts)
    if not total.wall_seconds:
        return Html()
    parts = [_sentence(total), _bar(total), _ledger(total)]
    if total.interruptions:
        parts.append(element("h3", "What interruptions cost"))
        rows: list[list[Content]] = [[*row] for row in cost_rows(total.interruptions)]
        parts.append(table([*COST_HEADS], rows, "what interruptions cost on average", range(1, len(COST_HEADS))))
    parts += [paragraph(line) for line in advise(total, read_site(accounts), len(accounts))]
    parts.append(element("div", _timeline(material.name, accounts), class_="pictures wide"))
    lines: list[list[Content]] = [[each.row.trial, each.row.state, *ledger_cells(each.ledger)] for each in accounts]
    heads = ["trial", "state", *LEDGER_HEADS]
    everything = table(heads, lines, "the ledger of every trial", range(2, len(heads)))
    return Html("".join([*parts, fold(f"The ledger of every trial ({len(accounts)})", everything)]))


def _sentence(total: Ledger) -> Html:
    useful, held = format_seconds(total.seconds[USEFUL]), format_seconds(total.held_seconds)
    ratio = total.ratio()
    words = f"Of {held} with nodes {useful} were useful training"
    words += "" if ratio is None else f": an effective training time ratio of {ratio:.3f}"
    return paragraph(f"{words}; {counted(len(total.interruptions), 'interruption')}.")


def _bar(total: Ledger) -> Html:
    there = [kind for kind in KINDS if total.seconds[kind] > 0]
    spans = [element("span", class_=f"kind-{kind}", style=f"flex:{total.seconds[kind]:.3f}") for kind in there]
    words = ", ".join(f"{kind.replace('_', '-')} {total.seconds[kind] / total.wall_seconds:.1%}" for kind in there)
    return element("div", spans, class_="bar thick", role="img", aria_label=words)


def _ledger(total: Ledger) -> Html:
    lines: list[list[Content]] = []
    for kind in KINDS:
        seconds = total.seconds[kind]
        name = [element("i", class_=f"kind-{kind}", aria_hidden="true"), kind.replace("_", "-")]
        share = "" if kind == QUEUE or not total.held_seconds else f"{seconds / total.held_seconds:.1%}"
        lines.append([name, format_seconds(seconds), share, MEANINGS[kind]])
    lines.append(["all", format_seconds(total.wall_seconds), "", "sum over the trials, from submission to end"])
    heads = ["went into", "time", "of the time with nodes", "which is"]
    return table(heads, lines, "where the time went", (1, 2))


def _timeline(name: str, accounts: Sequence[Account]) -> Iterator[Html]:
    def lost(account: Account) -> float:
        return account.ledger.wall_seconds - account.ledger.seconds[USEFUL]

    chosen = {id(each) for each in sorted(accounts, key=lost, reverse=True)[:MOST_BARS]}
    shown = [each for each in accounts if id(each) in chosen]
    words = "When each trial did what; beside its name the effective training time ratio"
    if len(shown) < len(accounts):
        words += f"; the {len(shown)} of {len(accounts)} trials that lost the most time"
    yield picture(make_timeline(name, shown), words, "timeline", wide=True)
