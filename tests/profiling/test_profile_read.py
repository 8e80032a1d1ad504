"""The readers of what profilers print, and what they make of it in words."""

from __future__ import annotations

import pytest

from cusoftmax.profiling import words
from cusoftmax.profiling.read import (
    NCU,
    NVPROF,
    Counters,
    number,
    read_ncu,
    read_nvprof,
    read_trace,
    summarise,
)
from tests.profiling.profile_samples import (
    DENIED,
    GPU_TRACE,
    IDENTITY,
    METRICS,
    NVPROF_TRACE,
    csv_line,
    raw_page,
)


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("1,048,576", "byte", 1048576),
        ("1.5", "Gbyte", 1.5e9),
        ("12.5", "usecond", 12.5e-6),
        ("400", "ns", 4e-7),
        ("(!) 3.25", "%", 3.25),
        ("1.2e-05", "second", 1.2e-5),
        ("High (8)", "", 8),
        ("n/a", "byte", None),
        ("nan", "%", None),
        ("", "", None),
    ],
)
def test_numbers(text: str, unit: str, value: float | None) -> None:
    assert number(text, unit) == (None if value is None else pytest.approx(value))


def test_ncu_raw_page() -> None:
    first, second = read_ncu(raw_page())
    assert (first.kernel, second.kernel) == (
        "csm_softmax_split0_f16_v8",
        "csm_softmax_split1_f16_v8",
    )
    assert first.dram_bytes == 1024300000
    assert first.get("seconds") == pytest.approx(400e-6)
    assert first.get("registers") == 56
    assert first.group("limit")["registers"] == 1
    assert first.group("busy") == {"DRAM": 61.25}
    assert list(first.group("stall")) == ["long_scoreboard", "barrier", "selected"]
    assert second.get("busy.DRAM") is None
    assert second.get("occupancy") is None
    assert second.get("sectors_read") == 0
    assert read_ncu(DENIED) == []


def test_ncu_details_page() -> None:
    """The other layout: a row for each metric, with units that grow."""
    header = csv_line(*IDENTITY, "Section Name", "Metric Name", "Metric Unit", "Metric Value")
    row = ["0", "71", "p", "h", "csm_a", "1", "7", "(1, 1, 1)", "(1, 1, 1)", "0", "12.0", "s"]
    text = "\n".join((
        header,
        csv_line(*row, "dram__bytes_op_read.sum", "Mbyte", "10.24"),
        csv_line(*row, "dram__bytes_op_write.sum", "Kbyte", "1,024"),
        csv_line(*row, "lts__t_bytes.sum", "byte", "3"),
        csv_line("1", *row[1:4], "csm_b", *row[5:], "dram__bytes_op_read.sum", "byte", "7"),
    ))  # fmt: skip
    first, second = read_ncu(text)
    assert first.dram_bytes == pytest.approx(10.24e6 + 1.024e6)
    assert (second.kernel, second.get("dram_read"), second.dram_bytes) == ("csm_b", 7, None)


def test_nvprof_metrics() -> None:
    (one,) = read_nvprof(METRICS)
    assert one.kernel == "csm_softmax_block_f16_v8"
    assert one.dram_bytes == 1024300000
    assert one.get("occupancy") == pytest.approx(85.0643)
    assert one.get("busy.DRAM") == 80
    assert one.get("stall.barrier") == 25.5


def test_timelines() -> None:
    spans = read_trace(GPU_TRACE)
    assert [span.seconds for span in spans] == pytest.approx([2e-6, 4e-6, 2.2e-6, 4e-6])
    shown = summarise(spans, 2)
    assert shown is not None
    assert shown.kernels == 4
    assert shown.seconds == pytest.approx(6.1e-6)
    assert shown.gap == pytest.approx(0.5e-6)
    (span,) = read_trace(NVPROF_TRACE)
    assert span.kernel == "csm_softmax_block_f16_v8"
    assert (span.start, span.seconds) == pytest.approx((0.3195, 4e-6))
    assert summarise([], 2) is None
    assert read_trace("==ERROR== nothing\n") == []


def test_keys_of_either_profiler_are_the_same() -> None:
    assert set(NVPROF) < set(NCU)
    names = [name for of in NCU.values() for name in of]
    assert len(names) == len(set(names))


# ---------------------------------------------------------------------------------------- the words


@pytest.mark.parametrize(
    ("values", "fraction", "over", "said", "unsaid"),
    [
        ({"busy.DRAM": 91}, 0.97, 1.0, "as fast as a copy", "latency"),
        ({"busy.DRAM": 91}, None, None, "DRAM, at 91 %", "latency"),
        # Bytes moved at the speed of a copy, but too many of them.
        ({"busy.DRAM": 91}, 0.65, 1.5, "moves 1.50 times", "latency"),
        # The copy shows that DRAM can do more than this.
        ({"busy.DRAM": 81, "stall.barrier": 3}, 0.85, 1.0, "at a barrier of the block", "DRAM,"),
        ({"busy.DRAM": 60, "busy.special functions": 88}, 0.7, 1.0,
         "special functions, at 88", "DRAM"),
        ({"busy.issue": 92, "busy.FMA": 85}, 0.7, 1.0, "instruction issue, at 92", "FMA"),
        (
            {"busy.DRAM": 50, "stall.long_scoreboard": 6, "stall.wait": 2, "stall.selected": 9},
            0.5, 1.0, "75 % of waiting warps wait for global memory; more bytes in", "too few",
        ),
        ({"waves": 0.25, "stall.membar": 1}, 0.2, 1.0, "25 % of what the GPU holds", "DRAM"),
        ({"waves": 1.2, "stall.drain": 1}, 0.6, 1.0, "1.2 waves of blocks: the last", "DRAM"),
        ({"waves": 62.1, "stall.drain": 1}, 0.6, 1.0, "last stores to drain", "waves"),
        ({}, 0.5, None, "unknown", "latency"),
    ],
)  # fmt: skip
def test_limiter(
    values: dict[str, float], fraction: float, over: float, said: str, unsaid: str
) -> None:
    text = words.limiter(Counters("k", dict(values)), fraction, over)
    assert said in text
    assert unsaid not in text


def test_every_stall_reason_has_words() -> None:
    reasons = {key.partition(".")[2] for key in NCU if key.startswith("stall.")}
    assert reasons == set(words.STALLS)


def test_occupancy_in_words() -> None:
    first, second = read_ncu(raw_page())
    assert words.occupancy(first) == (
        "48 % of the warps that fit, 50 % possible, 1 block on a multiprocessor "
        "(limited by registers)"
    )
    assert words.occupancy(second) is None
