"""Settings for all tests."""

import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import torch
from click.testing import CliRunner
from hypothesis import settings

from dissect.cli import main
from dissect.data import planted

# Examples may take as long as a busy machine needs; what counts is what they find.
settings.register_profile("dissect", deadline=None)
settings.load_profile("dissect")


gc.disable()  # what is imported from here on is no garbage


def pytest_collection_finish() -> None:
    """What was imported stays: looking through it for garbage again and again took a tenth of the time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def nothing_waits_for_the_disk() -> Iterator[None]:
    """No test cuts the power. A flush to the disk takes milliseconds, and a training makes dozens of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which also refuses a file that is closed
        yield


@pytest.fixture(autouse=True, scope="session")
def a_smaller_demo() -> Iterator[None]:
    """Most trainings here are of `demo`, and ranking its test part takes longer than their few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(planted.BUILT_IN, "demo", replace(planted.BUILT_IN["demo"], n_train=800, n_test=240))
        yield


@pytest.fixture(autouse=True, scope="session")
def state_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Which model files were named is kept in a folder of the tests, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISSECT_STATE", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def processor_as_it_was() -> Iterator[None]:
    """A command that runs in this process flushes denormals and may take one thread; the next test should not."""
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only servers on this machine answer: no test fetches data from elsewhere."""
    ask = requests.Session.request

    def request(self: requests.Session, method: str, url: str, **more: object) -> requests.Response:
        if urlsplit(url).hostname != "127.0.0.1":
            raise requests.exceptions.ConnectionError(f"tests do not ask {urlsplit(url).hostname}")
        return ask(self, method, url, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(requests.Session, "request", request)


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in an empty folder; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISSECT_DATA", str(tmp_path / "data"))

    def run(*words: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(main, words, prog_name="dissect")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run
