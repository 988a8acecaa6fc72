"""What keeping the code costs a submission: `python -m tests.benchmarks.bench_snapshot`. The best of five."""

import tempfile
import timeit
from pathlib import Path

from runner.code_snapshot import read_package, take

TIMES = 5


def main() -> None:
    files = read_package()
    with tempfile.TemporaryDirectory() as folder:
        roots = [Path(folder) / str(number) for number in range(TIMES)]
        for root in roots:
            root.mkdir()
        empty = iter(roots)
        anew = min(timeit.repeat(lambda: take(next(empty)), number=1, repeat=TIMES))
        again = min(timeit.repeat(lambda: take(roots[0]), number=1, repeat=TIMES))
    size = sum(map(len, files.values())) / 1e6
    print(f"{len(files)} files, {size:.1f} MB: {1000 * anew:.0f} ms the first time, {1000 * again:.0f} ms afterwards")


if __name__ == "__main__":
    main()
