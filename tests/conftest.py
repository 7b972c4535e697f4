"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# On CI the same examples every time, so that a landing fails for its own change alone; elsewhere new ones are sought.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

REPOSITORY = Path(__file__).resolve().parents[1]


def _real_data_folder() -> Path | None:
    for candidate in (os.environ.get("GLINT_REAL_DATA"), REPOSITORY.parent / "shared" / "data"):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    return None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real, public test files; the test is skipped where it is absent."""
    folder = _real_data_folder()
    if folder is None:
        pytest.skip("real test data absent: set GLINT_REAL_DATA to its folder")
    return folder
