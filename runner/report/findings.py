"""What a sweep has found, in sentences."""

from runner.explain import counted
from runner.report.material import Material
from runner.results import Setting
from runner.results.best import best_group
from runner.results.sheet import Number
from runner.results.statistics import Paired, measure_pairs
from runner.tables import same_text


def tell_findings(material: Material) -> list[str]:
    """The best setting with its spread and n, the one after it, and whether the two can be told apart."""
    goal = material.goal
    if goal is None:
        return ["No trial has metrics yet."]
    choice = best_group(material.groups, goal)
    if choice is None:
        return [f"No trial is done yet that has {goal.metric}."]
    best = material.groups[choice.place]
    value = f"{goal.metric} is {_value(best, goal.metric)}"
    if len(material.groups) == 1:
        return [f"{value}."]
    seeds = " with all their seeds" if choice.is_whole else " with the most trials done"
    among = counted(choice.among, "setting") + (seeds if choice.among < len(material.groups) else "")
    told = [f"Best of {among}: {material.label(best)}. {value}; {goal.way} is better."]
    measured = [group for group in material.groups if group is not best and group.values(goal.metric)]
    if measured:
        told.append(_against_next(material, best, measured))
    if left := len(material.groups) - 1 - len(measured):
        told.append(f"{counted(left, 'setting')} {'has' if left == 1 else 'have'} no trial yet that is done.")
    return told


def compare_groups(better: Setting, other: Setting, metric: str) -> Paired | None:
    """How much higher the trials of a group are than those of another with the same seed; None without such pairs."""
    if better.over is None or better.over != other.over:
        return None
    first, second = (
        {
            same_text(trial.settings.get(better.over)): trial.metrics[metric]
            for trial in group.done
            if metric in trial.metrics
        }
        for group in (better, other)
    )
    return measure_pairs([value - second[seed] for seed, value in first.items() if seed in second])


def _against_next(material: Material, best: Setting, others: list[Setting]) -> str:
    """The setting that comes closest by its mean, or is beyond the best with fewer trials, in pairs of seeds."""
    goal = material.goal
    assert goal is not None
    metric = goal.metric
    means = {id(group): spread.mean for group in [best, *others] if (spread := group.spread(metric)) is not None}
    other = min(others, key=lambda group: goal.rank(means[id(group)]))
    is_beyond = goal.rank(means[id(other)]) < goal.rank(means[id(best)])
    words = "Beyond it, with fewer trials done" if is_beyond else "Next"
    told = f"{words}: {material.label(other)}, {_value(other, metric)}."
    paired = compare_groups(other, best, metric) if is_beyond else compare_groups(best, other, metric)
    half = None if paired is None else paired.difference.half_width
    if paired is None or half is None:
        return f"{told} They have fewer than two seeds in common, so nothing says whether that is chance."
    difference = paired.difference
    value, around = Number(abs(difference.mean), half).words()
    side = "higher" if difference.mean > 0 else "lower"
    zero = "leaves out 0" if abs(difference.mean) > half else "holds 0"
    seeds = f"over the {difference.n} seeds that both have done"
    which = "It" if is_beyond else "The best"
    return f"{told} {which} is {side} by {value} ± {around} {seeds}; that 95 % interval {zero}."


def _value(group: Setting, metric: str) -> str:
    """`0.595 ± 0.013 (standard deviation, n=3)`."""
    spread = group.spread(metric)
    assert spread is not None
    value, half = Number(spread.mean, spread.std).words()
    missing = "" if spread.n == group.expected else f" of {group.expected}"
    return (
        f"{value} ± {half} (standard deviation, n={spread.n}{missing})" if half else f"{value} (n={spread.n}{missing})"
    )
