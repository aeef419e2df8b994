"""Where extensions/ is built anew, and each instruction path that this machine runs."""

import pytest

from tests.extensions.kernel_cases import PATHS
from tests.missing import skip


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("extensions")


@pytest.fixture(params=PATHS)
def path(request, kernels):
    if request.param not in kernels.paths():
        skip("cpu", f"this CPU does not run {request.param}, only {', '.join(kernels.paths())}")
    return request.param
