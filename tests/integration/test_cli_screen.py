"""Printing that never waits and never fails."""

import contextlib
import os
import pty
import time

import pytest
from rich.text import Text

from signalwire_tokens.cli import screen as screen_module
from signalwire_tokens.cli.screen import MOST_LINES, Screen
from support.waiting import HANG


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Give what waits all the time to be printed in the end: a second is little on a slow machine."""
    monkeypatch.setattr(screen_module, "LAST_WORD", HANG)


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    for one in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(one)


def test_lines_are_printed_in_their_order(pipe):
    """Whatever is in them: no markup, no emoji, nothing that cannot be written."""
    reading, writing = pipe
    screen = Screen(writing, live=True)
    assert not screen.is_live  # it is no terminal
    for line in ("[bold]one[/nonsense]", ":warning: two", "\udcff three"):
        screen.say(line)
    screen.close()
    assert os.read(reading, 1000).decode() == "[bold]one[/nonsense]\n:warning: two\n\\udcff three\n"


def test_nobody_who_does_not_read_is_waited_for(pipe, monkeypatch):
    """A terminal that hangs, a pager that is not scrolled: the newest lines wait, and the end does not."""
    monkeypatch.setattr(screen_module, "LAST_WORD", 0.05)
    reading, writing = pipe
    screen = Screen(writing)
    for _ in range(3 * MOST_LINES):
        screen.say("x" * 100)
    assert len(screen._lines) <= MOST_LINES
    screen.close()
    assert screen.thread.is_alive()  # it waits for a reader, and nothing waits for it
    os.close(reading)
    screen.thread.join(HANG)


def test_nobody_who_has_gone_is_told(pipe):
    """There is nobody to tell."""
    reading, writing = pipe
    screen = Screen(writing)
    os.close(reading)
    screen.say("one")
    screen.thread.join(HANG)
    assert not screen.thread.is_alive()
    screen.say("two")
    screen.close()


def test_what_cannot_be_printed_for_now_is_lost_and_the_rest_is_not(pipe, monkeypatch):
    """A disk may have room again."""
    reading, writing = pipe
    write, full = os.write, [True]

    def to_disk(descriptor, data):
        if full:
            full.clear()
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(screen_module.os, "write", to_disk)
    screen = Screen(writing)
    screen.say("one")
    while full:
        time.sleep(0.01)
    screen.say("two")
    screen.close()
    assert os.read(reading, 100) == b"two\n"


def test_a_pipe_that_others_made_so_is_waited_for(pipe, monkeypatch):
    """Not to block is a property of the pipe's, and not of whoever writes: here it is found full, once."""
    reading, writing = pipe
    write, full = os.write, [True]

    def to_pipe(descriptor, data):
        if full:
            full.clear()
            raise BlockingIOError
        return write(descriptor, data[:2])

    monkeypatch.setattr(screen_module.os, "write", to_pipe)
    screen = Screen(writing)
    screen.say("one")
    screen.close()
    assert not full
    assert os.read(reading, 100) == b"one\n"


def test_a_closed_output_is_none():
    """And its number may be another file's by now."""
    screen = Screen(None, live=True)
    screen.say("one")
    screen.close()
    assert not screen.thread.is_alive()


def read_all(terminal):
    """Read what is there, until nobody writes any more."""
    try:
        return os.read(terminal, 10_000)
    except OSError:  # which is how a terminal says so
        return b""


def test_on_a_terminal_a_view_is_drawn_below_the_lines():
    """What a line says is not markup there, either."""
    master, slave = pty.openpty()
    try:
        screen = Screen(slave, live=True)
        assert screen.is_live
        screen.show(Text("the first view"))
        screen.say("a [red]line[/]")
        screen.show(Text("the next view"))
        screen.close()
        os.close(slave)
        shown = b"".join(iter(lambda: read_all(master), b"")).decode()
    finally:
        os.close(master)
    assert "a [red]line[/]" in shown
    assert "the next view" in shown
