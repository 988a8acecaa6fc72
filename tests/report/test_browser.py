"""The page in a real browser: alone, without complaints, on a phone and a desk, by day and by night."""

from itertools import pairwise

import pytest

from runner.report import write_report
from tests.browser import LEAST_CONTRAST, look_at
from tests.report.sweeps import HOSTILE, make_hostile, make_sweep
from tests.trials import SUBMITTED, make_trial

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def looks(tmp_path_factory):
    """(Each page at both widths, light and dark; what the console says)."""
    root = tmp_path_factory.mktemp("runs")
    make_trial(root, "a" * 60, "fresh", overrides={"data.path": "/a/very/long/path" * 12})
    folders = [make_sweep(root), make_hostile(root), root / "fresh"]
    pages = {}
    for folder in folders:
        write_report(root / "page.html", [folder], SUBMITTED + 1000)
        pages[folder.name] = (root / "page.html").read_text()
    # All that is folded away is looked at, too.
    pages["unfolded"] = pages["sweep"].replace("<details>", "<details open>")
    return look_at(root, pages)


def test_pages_are_alone_and_without_complaint(looks):
    sights, console = looks
    assert console == [] and len(sights) == 16
    for sight in sights:
        assert sight.asked == [] and sight.scripts == 0 and sight.images
        assert sight.lang == "en" and sight.title == ("sweep" if sight.page == "unfolded" else sight.page)


def test_no_page_is_wider_than_the_screen(looks):
    for sight in looks[0]:
        assert sight.scroll <= sight.width and sight.wide == [], (sight.page, sight.width)
        assert sight.smallest >= (9 if sight.width < 500 else 11)


def test_text_has_contrast_by_day_and_by_night(looks):
    for sight in looks[0]:
        assert sight.texts > 20 and sight.low == [], (sight.page, LEAST_CONTRAST)
        assert (sum(sight.background) < 100) == sight.dark
    assert {(sight.width, sight.dark) for sight in looks[0]} == {
        (w, dark) for w in (390, 1280) for dark in (False, True)
    }


def test_pages_can_be_heard(looks):
    for sight in looks[0]:
        assert sight.unnamed == 0 and sight.dead == 0 and sight.repeated == []
        assert sight.heads[0] == "H1" and sight.heads.count("H1") == 1
        assert ("H1", "H3") not in pairwise(sight.heads)


def test_hostile_words_are_read_and_not_obeyed(looks):
    for sight in looks[0]:
        if sight.page in ("hostile", "sweep"):
            assert HOSTILE in sight.text


def test_the_look_finds_what_is_wrong(tmp_path):
    bad = """<!doctype html><html><body style="background:#fff"><p style="color:#999">pale</p>
    <div style="width:2000px">wide</div><img src="http://127.0.0.1:9/x.png"><a href="#gone">dead</a>
    <script>nobody()</script></body></html>"""
    (sight, *_), console = look_at(tmp_path, {"bad": bad}, widths=(390,))
    assert [words[0] for words in sight.low] == ["pale"] and sight.scroll > 390 and len(sight.wide) == 1
    assert sight.asked == ["http://127.0.0.1:9/x.png"] and sight.unnamed == 1 and sight.dead == 1 and not sight.images
    assert "nobody is not defined" in console[0] and sight.scripts == 1
