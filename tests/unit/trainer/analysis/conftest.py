"""Runs that are built but not trained, over one small dataset."""

from collections.abc import Callable, Iterator

import pytest

from tests.commands import data_options, prepare_small
from trainer.analysis.scoring import OpenedRun
from trainer.arguments import parse_config
from trainer.distributed import run_context
from trainer.loop import Trainer


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> list[str]:
    """Options of a run that read a small synthetic dataset."""
    return data_options(prepare_small(tmp_path_factory.mktemp("analysed") / "data"))


@pytest.fixture
def open_fresh(small_data, tmp_path) -> Iterator[Callable[..., OpenedRun]]:
    """Builds runs with starting values wide enough to tell behaviours apart."""
    with run_context() as context:

        def build(*options: str) -> OpenedRun:
            given = [*small_data, f"--out_dir={tmp_path}", "--model.init.std=0.3", *options]
            config, text = parse_config(given)
            return OpenedRun(Trainer(config, context, text), "none", 0)

        yield build
