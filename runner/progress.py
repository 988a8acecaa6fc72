"""Where a run is: a bar on a terminal, plain lines in a log."""

import random
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

REFRESH_SECONDS = 0.1
"""A bar is drawn anew this often at most."""


class Progress:
    """Shows steps and the last metrics; where it is not shown (ranks other than 0) it does nothing."""

    def __init__(self, steps: int, start: int, shown: bool) -> None:
        self.steps, self.start, self.shown = steps, start, shown
        self._began = self._drawn = time.monotonic()
        self._bar: Any = None
        if shown and sys.stdout.isatty():
            with _random_untouched():
                self._start_bar()

    def _start_bar(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            # No thread of its own: it would draw from the generator in the middle of a step.
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=self.steps, completed=self.start)
        self._bar.start()

    def advance(self, step: int) -> None:
        if self._bar is not None and time.monotonic() - self._drawn >= REFRESH_SECONDS:
            self._draw(completed=step)

    def _draw(self, **changes: Any) -> None:
        self._drawn = time.monotonic()
        with _random_untouched():
            self._bar.update(self._task, refresh=True, **changes)

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show a row of metrics."""
        if not self.shown:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._bar is not None:
            self._draw(completed=step, description=text[:100])
            return
        rate = (step - self.start) / max(time.monotonic() - self._began, 1e-9)
        print(f"step {step}/{self.steps}  {text}  {rate:.1f} steps/s", flush=True)

    def say(self, text: str) -> None:
        """One line for the reader of the log."""
        if self.shown:
            print(f"runner: {text}", flush=True)

    def close(self) -> None:
        if self._bar is not None:
            with _random_untouched():
                self._bar.stop()


@contextmanager
def _random_untouched() -> Iterator[None]:
    """rich draws from Python's global generator, which is part of a trial's state."""
    before = random.getstate()
    try:
        yield
    finally:
        random.setstate(before)
