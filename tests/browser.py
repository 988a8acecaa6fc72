"""Pages in a real browser, Debian's chromium: what they ask for and complain of, how wide and how legible they are.

All looks at a page are frames of one document, so that the browser starts once: a frame has the width of a phone or of
a desk, and its color-scheme is what the page in it takes for the user's choice.
"""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LEAST_CONTRAST = 4.5
"""Of text, by WCAG 2.2 AA."""

_PROBE = """
const parse = color => {
  const parts = color.match(/[\\d.]+/g).map(Number);
  return parts.length > 3 ? parts : [...parts, 1];
};
const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
const light = c => c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const luminance = c => { const [r, g, b] = light(c); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const look = frame => {
  const view = frame.contentWindow, page = frame.contentDocument, root = page.documentElement;
  const behind = element => {
    let chain = [];
    for (let e = element; e; e = e.parentElement) chain.unshift(parse(view.getComputedStyle(e).backgroundColor));
    return chain.reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const low = [], sizes = [], wide = [];
  let texts = 0;
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement, text = node.textContent.trim();
    if (!text || !element.checkVisibility()) continue;
    const style = view.getComputedStyle(element), background = behind(element), drawn = element.closest("svg");
    const color = over(parse(drawn ? style.fill : style.color), background);
    const [high, dim] = [luminance(color), luminance(background)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (dim + 0.05);
    texts += 1;
    if (ratio < LEAST) low.push([text.slice(0, 40), style.color, background.map(Math.round).join(), ratio.toFixed(2)]);
    const scale = drawn ? drawn.getBoundingClientRect().width / drawn.viewBox.baseVal.width : 1;
    sizes.push(parseFloat(style.fontSize) * scale);
  }
  for (const element of page.body.querySelectorAll("*")) {
    if (!element.closest(".scroll, pre, .spoken, svg, details:not([open])")
        && element.getBoundingClientRect().right > view.innerWidth + 0.5)
      wide.push(element.outerHTML.slice(0, 80));
  }
  const ids = [...page.querySelectorAll("[id]")].map(e => e.id);
  return {
    width: view.innerWidth, dark: view.matchMedia("(prefers-color-scheme: dark)").matches, scroll: root.scrollWidth,
    wide, low, texts, smallest: Math.min(...sizes), background: behind(page.body).map(Math.round),
    scripts: page.scripts.length, images: [...page.images].every(i => i.complete && i.naturalWidth > 0),
    unnamed: [...page.querySelectorAll("svg, img")].filter(e => !(e.getAttribute("aria-label") || e.alt)).length,
    repeated: ids.filter((id, place) => ids.indexOf(id) !== place),
    dead: [...page.querySelectorAll("a[href^='#']")].filter(a => !page.getElementById(a.hash.slice(1))).length,
    asked: view.performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("data:")),
    heads: [...page.querySelectorAll("h1, h2, h3")].map(e => e.tagName), lang: root.lang, title: page.title,
    text: page.body.innerText,
  };
};
onload = () => {
  const found = document.createElement("pre");
  found.id = "found";
  found.textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(look));
  document.body.append(found);
};
"""


@dataclass(frozen=True)
class Sight:
    """What the browser shows of one page at one width, by day or by night; the keys are those of the probe."""

    facts: dict[str, Any]
    page: str

    def __getattr__(self, name: str) -> Any:
        return self.facts[name]


def look_at(
    folder: Path, pages: dict[str, str], widths: tuple[int, ...] = (390, 1280)
) -> tuple[list[Sight], list[str]]:
    """(every page at every width, light and dark; what the console says)."""
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("chromium not found; get it with: apt-get install chromium")
    asked = [(name, width, scheme) for name in pages for width in widths for scheme in ("light", "dark")]
    frames = [
        f'<iframe style="border:0;height:900px;width:{width}px;color-scheme:{scheme}" '
        f'srcdoc="{html.escape(pages[name])}"></iframe>'
        for name, width, scheme in asked
    ]
    document = folder / "looks.html"
    probe = _PROBE.replace("LEAST", str(LEAST_CONTRAST))
    document.write_text(f'<!doctype html><meta charset="utf-8"><body>{"".join(frames)}<script>{probe}</script>')
    words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    words += [f"--user-data-dir={folder / 'chromium'}", "--host-resolver-rules=MAP * ~NOTFOUND", document.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    facts = json.loads(html.unescape(found[1]))
    console = [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]
    return [Sight(each, name) for each, (name, _, _) in zip(facts, asked, strict=True)], console
