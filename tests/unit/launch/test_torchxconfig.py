"""Each key of `.torchxconfig`, also of those in comments, is one that its scheduler knows."""

import configparser
import re

import pytest
from torchx.runner import config, get_runner
from torchx.schedulers import get_scheduler_factories

from tests.torchx_requests import ROOT, SCHEDULERS

TEXT = (ROOT / ".torchxconfig").read_text()
ALL = ["local_cwd", *SCHEDULERS]


def section_of(scheduler):
    """Lines of a section, commented keys taken as set."""
    (body,) = re.findall(rf"^\[{scheduler}\]\n(.*?)(?=^\[|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    keys = re.sub(r"^# (?=[a-z_-]+ = )", "", body, flags=re.MULTILINE)
    read = configparser.ConfigParser(interpolation=None)
    read.read_string(f"[{scheduler}]\n{keys}")
    return dict(read[scheduler])


def test_each_scheduler_has_a_section():
    read = configparser.ConfigParser()
    read.read_string(TEXT)
    assert set(read.sections()) == {"cli:run", *ALL}
    assert read["cli:run"]["scheduler"] in get_scheduler_factories()


@pytest.mark.parametrize("scheduler", ALL)
def test_a_section_shows_every_option_of_its_scheduler_and_no_other(scheduler):
    with get_runner("test") as runner:
        known = {name for name, _ in runner.scheduler_run_opts(scheduler)}
    assert set(section_of(scheduler)) == known


@pytest.mark.parametrize("scheduler", ALL)
def test_torchx_reads_a_section_without_complaint(scheduler, caplog):
    given = {}
    config.apply(scheduler=scheduler, cfg=given, dirs=[str(ROOT)])
    assert not caplog.records
    with get_runner("test") as runner:
        runner.scheduler_run_opts(scheduler).resolve(given)
