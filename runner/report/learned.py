"""The section of what the best trial has learned; it needs torch, weights and data, so it is there if asked for."""

import base64

from runner.embed import embedding_map, neighbours
from runner.embed.learned import read_learned
from runner.embed.pictures import HEADS
from runner.report.html import Content, Html, element, paragraph, scroll, table
from runner.report.picture import picture
from runner.rundir import RunDir

SAMPLES, QUERIES, NEIGHBOURS = 1000, 8, 6


def tell_learned(run: RunDir) -> Html:
    """An embedding map of a trial's evaluation set, and the nearest neighbours of some of its samples.

    Raises: ConfigError for a trial without a checkpoint.
    """
    learned = read_learned(run, SAMPLES)
    samples = learned.evaluated
    caption = f"{len(samples)} samples of {samples.name}, coloured by class; {embedding_map.NOTES['tsne']}"
    sheet = neighbours.find_neighbours(learned, QUERIES, NEIGHBOURS)
    drawn = element("div", picture(embedding_map.draw_map(learned, "tsne"), caption, "map"), class_="pictures wide")
    shown = _images(sheet) if neighbours.has_images(sheet) else _words(sheet)
    words = f"Trial {run.trial} at step {learned.step}: frozen features of its newest checkpoint."
    title = sheet.title()
    return Html(paragraph(words, class_="note") + drawn + paragraph(f"{title[:1].upper()}{title[1:]}.") + shown)


def _images(sheet: neighbours.Sheet) -> Html:
    evaluated, known = sheet.learned.evaluated, sheet.learned.known
    lines = []
    for query, found in sheet.queries.items():
        label = evaluated.label(query)
        cells = [element("th", _image(neighbours.to_png(evaluated.data, query), label), label, scope="row")]
        for each in found:
            name = known.label(each.place)
            mark = {True: "✓ ", False: "✗ ", None: ""}[each.is_right]
            image = _image(neighbours.to_png(known.data, each.place), name)
            words = [f"{mark}{name}", element("br"), f"{each.cosine:.2f}"]
            cells.append(element("td", image, words, class_="wrong" if each.is_right is False else None))
        lines.append(element("tr", cells))
    count = max(map(len, sheet.queries.values()), default=0)
    heads = ["query", "nearest", *(str(place) for place in range(2, count + 1))]
    head = element("thead", element("tr", [element("th", words, scope="col") for words in heads]))
    return scroll("nearest neighbours", element("table", head, element("tbody", lines), class_="images"))


def _image(png: bytes, words: str) -> Html:
    return element("img", alt=words, src=f"data:image/png;base64,{base64.b64encode(png).decode()}")


def _words(sheet: neighbours.Sheet) -> Html:
    lines: list[list[Content]] = [
        [*(element("span", words, class_="words") for words in row[:2]), *row[2:]] for row in neighbours.table(sheet)
    ]
    return table(HEADS, lines, "nearest neighbours", (2,))
