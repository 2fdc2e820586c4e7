"""Settings for all tests."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# Examples may take as long as a busy machine needs; what counts is what they find.
settings.register_profile("dissect", deadline=None)
settings.load_profile("dissect")


@pytest.fixture(autouse=True)
def processor_as_it_was() -> Iterator[None]:
    """A command that runs in this process flushes denormals and may take one thread; the next test should not."""
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)
