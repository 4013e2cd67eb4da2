"""How figures of the benchmarks are judged, and compared with those of an earlier report."""

import sys

import pytest

from benchmarks.figures import Figure, Report, as_json, machine, print_comparison, read_json


@pytest.mark.parametrize(
    ("figure", "is_far_off"),
    [
        ({"values": (1.3, 1.3), "most": 1.0}, False),
        ({"values": (1.4, 1.4), "most": 1.0}, True),
        ({"values": (0.65, 0.65), "least": 0.95}, False),
        ({"values": (0.6, 0.6), "least": 0.95}, True),
        ({"values": (0.6, 0.6), "least": 0.95, "reached": 0.7}, False),
        ({"values": (0.4, 0.4), "least": 0.95, "reached": 0.7}, True),
        ({"values": (99.0,), "most": 20.0, "unit": "ms"}, False),
        ({"values": (99.0,)}, False),
    ],
)
def test_a_figure_that_is_worse_than_its_goal_by_a_third_is_far_off(figure, is_far_off):
    """Or than what is possible, where the goal is missed. Times aren't judged."""
    assert Figure(what="x", **figure).is_far_off is is_far_off


@pytest.mark.parametrize(
    ("now", "is_worse"),
    [
        ({"values": (1.0, 1.1, 1.2)}, False),
        ({"values": (1.4, 1.5, 1.6)}, True),
        ({"values": (1.0, 1.5, 2.0)}, False),
        ({"values": (0.4, 0.5, 0.6)}, False),
        ({"values": (0.4, 0.5, 0.6), "rises": True}, True),
        ({"values": (0.4, 0.5, 0.6), "least": 1.0}, True),
    ],
)
def test_a_figure_is_worse_by_more_than_its_spread(now, is_worse):
    """A noisy one has to be much worse."""
    before = Figure(what="x", values=(1.0, 1.1, 1.2))
    assert Figure(what="x", **now).worse_than(before) is is_worse


@pytest.mark.parametrize(
    ("now", "before", "is_worse"),
    [
        ((104.0,) * 3, (100.0,) * 3, False),
        ((106.0,) * 3, (100.0,) * 3, True),
        ((109.0,), (100.0,), False),
        ((111.0,), (100.0,), True),
        ((109.0,), (100.0,) * 3, False),
        ((109.0,) * 3, (100.0,), False),
        ((111.0,) * 3, (100.0,), True),
        ((115.0,), (90.0, 100.0, 130.0), False),
        ((1,), (0,), True),
        ((0,), (0,), False),
    ],
)
def test_a_figure_is_worse_by_a_twentieth_or_with_one_value_by_a_tenth(now, before, is_worse):
    """A narrow middle half isn't enough, and a single value has none."""
    assert Figure(what="x", values=now).worse_than(Figure(what="x", values=before)) is is_worse


def test_times_in_milliseconds_are_never_worse():
    """They vary threefold from run to run."""
    before = Figure(what="x", values=(1.0, 1.0), unit="ms")
    assert not Figure(what="x", values=(99.0, 99.0), unit="ms").worse_than(before)


def compare(capsys, figures, before, **facts):
    """Return the exit code of a comparison, and the lines that it prints on standard output and standard error."""
    before = Report({one.what: one for one in before}, machine() | facts)
    code = print_comparison(figures, before, file=sys.stdout)
    found = capsys.readouterr()
    return code, found.out.splitlines(), found.err.splitlines()


GOOD, BAD = Figure(what="calls", values=(1.0,)), Figure(what="calls", values=(2.0,))
TIME, OTHER = Figure(what="turn", values=(1.0,), unit="ms"), Figure(what="other", values=(1.0,))


def test_figures_in_milliseconds_are_counted_and_not_judged(capsys):
    """The others are."""
    code, lines, _ = compare(capsys, [BAD, TIME], [GOOD, TIME])
    assert code == 1
    assert lines == [
        "figures in milliseconds, which aren't judged: 1",
        "worse: calls: 2, before 1",
        "1 of 1 figures are worse than before",
    ]


def test_figures_in_only_one_report_are_counted(capsys):
    """In either of them."""
    code, lines, _ = compare(capsys, [GOOD, TIME], [GOOD, OTHER])
    assert code == 0
    assert lines == ["figures in only one of the reports: 2", "0 of 1 figures are worse than before"]


def test_reports_without_a_common_figure_are_an_error(capsys):
    """Nothing was compared."""
    code, lines, errors = compare(capsys, [GOOD], [OTHER])
    assert code == 2
    assert not lines
    assert errors == ["no figure is in both reports: measure the same parts, with --quick in both or in none"]


def test_reports_of_milliseconds_alone_are_an_error(capsys):
    """They depend on the machine."""
    figure = Figure(what="longest turn", values=(1.0,), unit="ms")
    code, lines, errors = compare(capsys, [figure], [figure])
    assert code == 2
    assert not lines
    assert errors == ["every common figure is in milliseconds, and those aren't compared"]


def test_another_machine_is_named(capsys):
    """Its date and command may differ."""
    code, lines, _ = compare(capsys, [GOOD], [GOOD], python="3.9.1", aiohttp="3.1", date="2020-01-01", command="x")
    now = machine()
    assert code == 0
    assert lines == [
        f"the reports differ in python (3.9.1 before, {now['python']} now), aiohttp (3.1 before, {now['aiohttp']} now)",
        "0 of 1 figures are worse than before",
    ]


def test_a_report_is_read_as_it_was_written():
    """Its figures and its machine."""
    report = read_json(as_json([GOOD, TIME]))
    assert report == Report({"calls": GOOD, "turn": TIME}, machine())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "| figure |",
        "{}",
        "[]",
        "5",
        '{"figures": [{"what": "x", "values": [1]}]}',
        '{"machine": 5, "figures": [{"what": "x", "values": [1]}]}',
        '{"machine": {}, "figures": []}',
        '{"machine": {}, "figures": ["x"]}',
        '{"machine": {}, "figures": [{"what": "x"}]}',
        '{"machine": {}, "figures": [{"what": "x", "values": 1}]}',
        '{"machine": {}, "figures": [{"what": "x", "values": []}]}',
        '{"machine": {}, "figures": [{"what": "x", "values": ["1"]}]}',
    ],
)
def test_a_text_that_isnt_a_report_is_refused(text):
    """Each lacks a part, or has another type."""
    with pytest.raises(ValueError, match=r"^not a report that --json printed$"):
        read_json(text)
