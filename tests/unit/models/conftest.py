"""What the tests of the torch side share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    """Restores torch's number of threads, because a command sets it for the whole process, here that of all tests."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
