"""The pictures of the pages are those that their programs draw."""

import re
import runpy

import pytest

from support.paths import ROOT

FOLDER = ROOT / "docs/pictures"
SCRIPT = "docs/pictures/draw.py"
DRAW = runpy.run_path(str(ROOT / SCRIPT))
DRAWN = DRAW["files"]()
SMALLEST = 12  # pixels, of letters, at the width at which hosts show a README


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_the_one_that_is_drawn(name):
    """The file has what the script draws."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == DRAWN[name], f"run `python {SCRIPT}`, or change the picture there"


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_readable_at_the_width_of_a_readme(name):
    """It is 850 pixels wide, and no letter is smaller than twelve."""
    assert 'viewBox="0 0 850 ' in DRAWN[name]
    assert min(int(size) for size in re.findall(r'font-size="(\d+)"', DRAWN[name])) >= SMALLEST


def test_the_life_of_a_pair_is_to_scale():
    """The bars of two hours and of two hours and five minutes are as 120 to 125, and renewals begin at 60 to 80 %."""
    bars = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="(\d+)"', DRAWN["life-of-a-pair.svg"])
    due, *pairs = [(float(x), float(width), int(height)) for x, width, height in bars]
    (access, refresh, next_access, next_refresh) = pairs
    minute = access[1] / 120
    assert refresh[1] == pytest.approx(125 * minute)
    assert (next_access[1], next_refresh[1]) == (access[1], refresh[1])
    assert due[0] - access[0] == pytest.approx(0.6 * 120 * minute)
    assert due[1] == pytest.approx(0.2 * 120 * minute)
    assert due[0] <= next_access[0] == next_refresh[0] <= due[0] + due[1]
