"""What takes too long for every run: FOLDRANK_NIGHTLY=1 runs it too."""

import os

import pytest

AT_NIGHT = os.environ.get("FOLDRANK_NIGHTLY") == "1"
NIGHTLY = pytest.mark.skipif(not AT_NIGHT, reason="takes long: FOLDRANK_NIGHTLY=1")
