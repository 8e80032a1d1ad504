"""`python -m benchmarks.streamed` counts what is copied, with kernels and without."""

from __future__ import annotations

import re

import pytest

from benchmarks import streamed


@pytest.mark.parametrize(
    ("arguments", "copied"),
    [
        ("--mib 4 --length 4096", "8.0 MiB, 1.000"),
        ("--mib 2 --length 4096 --run", "4.0 MiB, 1.000"),
        ("--mib 1 --length 262144 --run", "3.0 MiB, 1.500"),  # rows that are read twice
    ],
)
def test_every_byte_is_copied_once_or_rows_are_read_twice(
    capsys: pytest.CaptureFixture[str], arguments: str, copied: str
) -> None:
    assert streamed.main([*arguments.split(), "--device-mib", "1"]) == 0
    said = capsys.readouterr().out
    assert f"copied {copied} of the least\n" in said
    assert ("bits of whole rows" in said) == ("--run" in arguments)
    assert re.search(r"anonymous memory rose by \d+\.\d MiB", said)


def test_results_with_other_bits_are_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed.streaming, "softmax", lambda *given, **options: None)
    with pytest.raises(SystemExit, match="other bits"):
        streamed.main(["--mib", "1", "--length", "4096", "--run"])
