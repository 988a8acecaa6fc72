"""Made results, and the text of tables, for the tests of what shows them."""

from runner.results import TrialResult
from runner.results.sheet import Sheet
from runner.results.terminal import sheet_lines

TOP1 = "test/linear_top1"


def sweep(gammas: tuple[float, ...] = (0.0, 1.0), seeds: tuple[int, ...] = (0, 1, 2)) -> list[TrialResult]:
    """Done trials, g<gamma>s<seed>, whose metrics are known in closed form."""
    return [
        TrialResult(
            f"g{gamma}s{seed}",
            {"method.gamma": gamma, "train.seed": seed},
            "done",
            {"train/loss": 2.0 - gamma, TOP1: 0.5 + gamma / 10 + seed**2 / 100},
        )
        for gamma in gammas
        for seed in seeds
    ]


def change(results: list[TrialResult], trial: str, state: str, metrics: dict[str, float] | None = None) -> None:
    """Give one of the trials another state and other metrics."""
    place = [result.trial for result in results].index(trial)
    results[place] = TrialResult(trial, results[place].settings, state, metrics or {})


def text_of(sheet: Sheet) -> str:
    return "".join(f"{line}\n" for line in sheet_lines(sheet))
