"""Where a run is: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Mapping
from typing import Any


class Progress:
    """Shows steps and the last metrics; where it is not shown (ranks other than 0) it does nothing."""

    def __init__(self, steps: int, start: int, shown: bool) -> None:
        self.steps, self.start, self.shown = steps, start, shown
        self._began = time.monotonic()
        self._bar: Any = None
        if shown and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self._task = self._bar.add_task("", total=steps, completed=start)
            self._bar.start()

    def advance(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show a row of metrics."""
        if not self.shown:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text[:100])
            return
        rate = (step - self.start) / max(time.monotonic() - self._began, 1e-9)
        print(f"step {step}/{self.steps}  {text}  {rate:.1f} steps/s", flush=True)

    def say(self, text: str) -> None:
        """One line for the reader of the log."""
        if self.shown:
            print(f"runner: {text}", flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
