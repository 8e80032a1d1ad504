"""What of `cusoftmax.torch` needs a GPU, on an emulated one: streams, devices, captures."""

from __future__ import annotations

import pytest

from tests.emulator.driver_process import on_the_driver

pytest.importorskip("torch", reason="needs PyTorch, which is no dependency")


def test_on_the_driver() -> None:
    said = on_the_driver("sm_90", "torch/driver_cases.py")
    assert "passed" in said and "skipped" not in said
