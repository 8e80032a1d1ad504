"""The same inputs in each run of a test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed PyTorch's generator, from which many tests draw."""
    pytest.importorskip("torch", reason="needs PyTorch, which is no dependency").manual_seed(0)
