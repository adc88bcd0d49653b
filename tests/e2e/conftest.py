"""One small dataset for all tests of the command line."""

import pytest

from tests.commands import data_options, prepare_small


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return prepare_small(tmp_path_factory.mktemp("small") / "data")


@pytest.fixture(scope="session")
def data(dataset):
    return data_options(dataset)
