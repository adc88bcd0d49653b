"""Long loops tell how far they are, and change nothing of what they hand on."""

import io
import logging
import sys

import trainer.analysis.progress
from trainer.analysis.progress import told


def test_a_log_line_tells_how_many_are_done(monkeypatch, caplog):
    monkeypatch.setattr(trainer.analysis.progress, "_QUIET_S", -1.0)
    with caplog.at_level(logging.INFO, logger="trainer.analysis.progress"):
        assert list(told("abc", "letters", 3)) == ["a", "b", "c"]
        assert list(told(iter([7]), "numbers")) == [7]
    assert caplog.messages == ["0 of 3 letters", "1 of 3 letters", "2 of 3 letters", "0 numbers"]


def test_short_loops_say_nothing(caplog):
    with caplog.at_level(logging.INFO, logger="trainer.analysis.progress"):
        assert list(told(range(5), "numbers")) == [0, 1, 2, 3, 4]
    assert caplog.messages == []


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(told([1, 2], "numbers", 2)) == [1, 2]
    assert "numbers" in terminal.getvalue()
