"""A bar on a terminal, plain lines in a log, and no trace of either in what is trained."""

import io
import random

from runner.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(steps=30):
    progress = Progress(steps, 0, shown=True)
    for step in range(1, steps + 1):
        progress.advance(step)
        if step % 10 == 0:
            progress.report(step, {"loss": 1.5})
    progress.close()


def test_a_bar_leaves_the_generator_of_the_trial_alone(monkeypatch):
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    before = random.getstate()
    show()
    assert random.getstate() == before
    assert "30/30" in terminal.getvalue() and "loss 1.5" in terminal.getvalue()


def test_a_log_gets_a_line_a_row(capsys):
    show()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [[f"step {n}/30", "loss 1.5"] for n in (10, 20, 30)]
