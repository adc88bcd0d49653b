"""What all tests share."""

import signal
from collections.abc import Iterator

import pytest
import torch

# Who is started in the background of a shell ignores Ctrl-C, which some tests are about.
_HANDLERS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.getsignal(signal.SIGTERM),
}


@pytest.fixture(scope="module", autouse=True)
def signals() -> None:
    """TorchX's local scheduler takes a process's signals, and does not give them back."""
    for number, handler in _HANDLERS.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Of tiny tensors several threads make nothing but waiting, and add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
