"""The files of `runner embed`."""

from pathlib import Path

from runner.embed import embedding_map, neighbours
from runner.embed.learned import read_learned
from runner.explain import counted
from runner.plot.figure import save
from runner.results.markup import markdown
from runner.results.records import write_file
from runner.results.sheet import Cell, Sheet
from runner.rundir import RunDir

HEADS = ["query", "neighbour", "cosine", "same class", "class of the query", "class of the neighbour"]


def write_pictures(
    run: RunDir, folder: Path, kind: embedding_map.Kind = "tsne", samples: int = 2000, queries: int = 10, count: int = 8
) -> list[Path]:
    """Draw what a trial has learned into a folder; the paths of the files.

    Images are shown as images, records in a table. Raises: ConfigError for a trial without a checkpoint.
    """
    learned = read_learned(run, samples)
    drawn = embedding_map.draw_map(learned, kind)
    sheet = neighbours.find_neighbours(learned, queries, count)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "map.png", folder / "map.svg"]
    for path in paths:
        save(drawn, path)
    if neighbours.has_images(sheet):
        paths.append(folder / "neighbours.png")
        save(neighbours.draw_images(sheet), paths[-1])
    else:
        paths.append(folder / "neighbours.md")
        title = f"{run.experiment}/{run.trial} at {counted(learned.step, 'step')}: {sheet.title()}"
        rows: list[list[Cell]] = [[*row] for row in neighbours.table(sheet)]
        write_file(paths[-1], markdown(Sheet(HEADS, rows, title=title)).encode())
    return paths
