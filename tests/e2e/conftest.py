"""One small dataset for all tests of the command line."""

import pytest
import torch

from tests.commands import data_options, prepare_small


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return prepare_small(tmp_path_factory.mktemp("small") / "data")


@pytest.fixture(scope="session")
def data(dataset):
    return data_options(dataset)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """With several, MKL adds up in another order from call to call, and losses differ in bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
