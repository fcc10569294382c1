"""The folder of fetched packages, for every contract test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contracts.folder import contracts_folder


@pytest.fixture(scope="session")
def contracts() -> Path:
    """The folder that prepare.sh filled."""
    folder = contracts_folder()
    if not (folder / "rtx").is_dir():  # what prepare.sh makes last
        pytest.skip("the packages are not here; tests/lanes.sh contracts fetches them")
    return folder
