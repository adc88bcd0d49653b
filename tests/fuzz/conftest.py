"""Tells how many inputs were tried."""

from typing import Any

from tests.fuzz.harness import tried


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for name, count in sorted(tried.items()):
        terminalreporter.write_line(f"fuzz: {count:>8,} {name}")
