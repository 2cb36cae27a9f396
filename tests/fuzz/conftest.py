import os

import pytest


def pytest_addoption(parser):
    parser.addoption("--fuzz-seconds", type=float, default=None, help="how long atheris looks at each target")


@pytest.fixture
def fuzz_seconds(request):
    """Seconds for each target: the option, else FUZZ_SECONDS, else a few."""
    given = request.config.getoption("fuzz_seconds", None)  # unknown when pytest was not started on this folder
    return given if given is not None else float(os.environ.get("FUZZ_SECONDS", "5"))
