"""Printing on a thread that delays no caller."""

import contextlib
import os
import pty
import sys
import threading
import time

import pytest
from rich.text import Text

from signalwire_tokens.cli import output
from signalwire_tokens.cli.output import MAX_LINES, Printer
from support.waiting import HANG


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Give the thread all the time to print the last lines: a second is little on a slow machine."""
    monkeypatch.setattr(output, "CLOSE_SECONDS", HANG)


@pytest.fixture
def pipe(monkeypatch):
    """Yield a pipe whose writing end is the standard output."""
    reading, writing = os.pipe()
    monkeypatch.setattr(output, "STDOUT", writing)
    yield reading, writing
    for one in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(one)


def test_lines_are_printed_in_their_order(pipe):
    """They are printed as they are: without markup or emoji, and with escapes for what can't be encoded."""
    printer = Printer(live=True)
    for line in ("[bold]one[/nonsense]", ":warning: two", "\udcff three"):
        printer.print(line)
    printer.close()
    assert os.read(pipe[0], 1000).decode() == "[bold]one[/nonsense]\n:warning: two\n\\udcff three\n"


def test_a_pipe_is_not_live(pipe):
    """Only a terminal is."""
    printer = Printer(live=True)
    printer.close()
    assert not printer.is_live


def test_a_reader_that_does_not_read_delays_no_caller(pipe, monkeypatch):
    """A terminal that hangs, or a pager that isn't scrolled: neither printing nor closing waits for it."""
    monkeypatch.setattr(output, "CLOSE_SECONDS", 0.05)
    printer = Printer(live=False)
    for _ in range(3 * MAX_LINES):
        printer.print("x" * 100)
    printer.close()
    assert printer.thread.is_alive()  # it waits for a reader, and ends with the process
    os.close(pipe[0])
    while printer.thread.is_alive():  # or it would write to the next test's pipe
        printer.close()


def test_lines_are_lost_if_the_reader_is_gone(pipe):
    """The thread ends as usual."""
    printer = Printer(live=False)
    os.close(pipe[0])
    for line in ("one", "two"):
        printer.print(line)
    printer.close()
    assert not printer.thread.is_alive()


def test_a_line_that_cannot_be_printed_is_lost_and_the_next_one_is_not(pipe, monkeypatch):
    """A disk may have room again."""
    write, full = os.write, [True]

    def to_disk(descriptor, data):
        if full:
            full.clear()
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(output.os, "write", to_disk)
    printer = Printer(live=False)
    printer.print("one")
    while full:
        time.sleep(0.01)
    printer.print("two")
    printer.close()
    assert os.read(pipe[0], 100) == b"two\n"


def test_a_non_blocking_pipe_is_waited_for(pipe, monkeypatch):
    """Another process that shares the pipe may have made it non-blocking. Here it is full once, and then slow."""
    write, full = os.write, [True]

    def to_pipe(descriptor, data):
        if full:
            full.clear()
            raise BlockingIOError
        return write(descriptor, data[:2])

    monkeypatch.setattr(output.os, "write", to_pipe)
    printer = Printer(live=False)
    printer.print("one")
    printer.close()
    assert not full
    assert os.read(pipe[0], 100) == b"one\n"


def test_nothing_is_printed_if_standard_output_is_closed(pipe, monkeypatch):
    """Its number may be another file's by now."""
    monkeypatch.setattr(sys, "stdout", None)
    printer = Printer(live=True)
    printer.print("one")
    printer.close()
    assert not printer.thread.is_alive()
    os.close(pipe[1])
    assert os.read(pipe[0], 100) == b""


def read_all(terminal):
    """Return what is there, or nothing if no process writes to the terminal any more."""
    try:
        return os.read(terminal, 10_000)
    except OSError:  # the end of a terminal
        return b""


@pytest.fixture
def terminal(monkeypatch):
    """Yield a function that closes a terminal, which is the standard output, and returns what it has shown."""
    master, slave = pty.openpty()
    monkeypatch.setattr(output, "STDOUT", slave)

    def close():
        os.close(slave)
        return b"".join(iter(lambda: read_all(master), b"")).decode()

    yield close
    os.close(master)


def test_on_a_terminal_a_view_is_shown_below_the_lines(terminal):
    """A line's markup isn't obeyed there, either."""
    printer = Printer(live=True)
    assert printer.is_live
    printer.show(Text("a view"))
    printer.print("a [red]line[/]")
    printer.close()
    shown = terminal()
    assert "a [red]line[/]" in shown
    assert "a view" in shown


def test_a_view_is_dropped_while_lines_are_waiting(terminal, monkeypatch):
    """Otherwise, a terminal that hangs would show old views when it goes on."""
    write, has_begun, may_write = os.write, threading.Event(), threading.Event()

    def hang(descriptor, data):
        has_begun.set()
        may_write.wait(HANG)
        return write(descriptor, data)

    monkeypatch.setattr(output.os, "write", hang)
    printer = Printer(live=True)
    assert has_begun.wait(HANG)
    printer.print("a line")
    printer.show(Text("an old view"))
    may_write.set()
    printer.close()
    shown = terminal()
    assert "a line" in shown
    assert "an old view" not in shown
