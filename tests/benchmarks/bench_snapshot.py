"""What keeping the code costs a submission: `python -m tests.benchmarks.bench_snapshot`. The best of five."""

import tempfile
from pathlib import Path

from runner.code_snapshot import read_package, take
from tests.benchmarks.bench_status import best_of


def main() -> None:
    files = read_package()
    with tempfile.TemporaryDirectory() as folder:
        roots = [Path(folder) / str(number) for number in range(5)]
        for root in roots:
            root.mkdir()
        empty = iter(roots)
        anew = best_of(5, lambda: take(next(empty)))
        again = best_of(5, lambda: take(roots[0]))
    size = sum(map(len, files.values())) / 1e6
    print(f"{len(files)} files, {size:.1f} MB: {1000 * anew:.0f} ms the first time, {1000 * again:.0f} ms afterwards")


if __name__ == "__main__":
    main()
