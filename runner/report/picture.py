"""A matplotlib figure as markup of the page, in the colours that the page has by day and by night."""

import io
import re
from typing import Any

from runner.report.html import Html, element, scroll

WIDTH_INCHES, HEIGHT_INCHES = 5.0, 3.4
"""Small, so that letters are large enough on a phone."""

WIDE_INCHES = 7.5
"""Of a picture that a phone shows a part of at a time."""

LETTERS = 10
"""Points of the smallest letters."""

KEY_INCHES, LETTER_INCHES = 0.5, 0.09
"""Of a legend: what stands before a label, with the gap behind it, and each letter of it."""

_COLORS = {
    "#000000": "currentColor",
    "#ffffff": "var(--page)",
    "#e6e6e6": "var(--grid)",
    "#999999": "var(--faint)",
    "#666666": "var(--faint)",
    "#4d4d4d": "var(--dim)",
    "#dddddd": "var(--wait)",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--red)",
    "#009e73": "var(--green)",
    "#cc79a7": "var(--pink)",
    "#56b4e9": "var(--sky)",
    "#e69f00": "var(--orange)",
    "#f0e442": "var(--yellow)",
}
"""What the pictures are drawn in, and what the page's style sheet calls it by day and by night."""

_DROPPED = re.compile(r"<metadata>.*?</metadata>|<style type=.*?</style>|<defs>\s*</defs>|<!--.*?-->", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_ID = re.compile(r' id="([^"]*)"')
_USE = re.compile(r'(?:href="#|url\(#)([^")]*)')
_COLOR = re.compile(r"#[0-9a-f]{6}\b")


def picture(figure: Any, caption: str, name: str, wide: bool = False) -> Html:
    """A figure with a caption; `name` tells its parts from those of the page's other pictures."""
    fit_to_page(figure, WIDE_INCHES if wide else WIDTH_INCHES)
    drawn = to_svg(figure, name, caption)
    if wide:
        return element("figure", scroll(caption, drawn), element("figcaption", caption), class_="wide")
    return element("figure", drawn, element("figcaption", caption))


def fit_to_page(figure: Any, width_inches: float) -> None:
    """No title, since the caption tells it; letters that can be read on a phone; the legend below."""
    figure.suptitle("")
    figure.set_size_inches(width_inches, max(HEIGHT_INCHES, figure.get_figheight()))
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
        axes.tick_params(labelsize=LETTERS)
        _move_legend(figure, axes)
    for text in figure.findobj(lambda artist: hasattr(artist, "get_fontsize")):
        text.set_fontsize(max(LETTERS, text.get_fontsize()))


def _move_legend(figure: Any, axes: Any) -> None:
    legends = [legend for legend in (axes.get_legend(), *figure.legends) if legend is not None]
    if not legends:
        return
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        handles, labels = legends[0].legend_handles, [text.get_text() for text in legends[0].get_texts()]
    for legend in legends:
        legend.remove()
    columns = max(1, int(figure.get_figwidth() / (KEY_INCHES + LETTER_INCHES * max(map(len, labels)))))
    lines = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.21 * lines)
    look = {"frameon": False, "fontsize": LETTERS, "markerscale": legends[0].markerscale}
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, **look)


def to_svg(figure: Any, name: str, label: str) -> Html:
    """A figure as an element of the page, in the page's colours; equal figures give equal markup."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = _DROPPED.sub("", text[text.index("<svg") :])
    used = set(_USE.findall(text))
    # Only within tags: what is between them is a name that may look like a colour.
    text = _TAG.sub(lambda tag: _adapt(tag[0], name, used), text)
    head = element("svg", viewBox=_view_box(text), role="img", aria_label=label)
    return Html(head.removesuffix("</svg>") + text[text.index(">") + 1 :].strip())


def _adapt(tag: str, name: str, used: set[str]) -> str:
    """A tag in the colours of the page, without an id that another picture may have, too."""
    tag = _ID.sub(lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", tag)
    tag = _USE.sub(lambda match: f"{match[0][: -len(match[1])]}{name}-{match[1]}", tag)
    return _COLOR.sub(lambda match: _COLORS.get(match[0], match[0]), tag)


def _view_box(text: str) -> str:
    found = re.search(r'viewBox="([^"]*)"', text)
    assert found is not None, "matplotlib gives every picture one"
    return found[1]
