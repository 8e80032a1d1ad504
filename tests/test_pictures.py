"""The pictures of the documents: their data, their captions, and who holds which element."""

from __future__ import annotations

import functools
import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

from benchmarks import pictures  # noqa: E402
from benchmarks.drawings import data, holders, patterns  # noqa: E402
from benchmarks.drawings.holders import Holders, Seen  # noqa: E402
from cusoftmax.planning.plan import WARP  # noqa: E402
from tests.machine_code.cost_support import need_tools  # noqa: E402

FOLDER = pictures.FOLDER
MOST_BYTES = 150_000
WIDTH = 1400  # twice that of a page
SOFTMAX_BOUND, VJP_BOUND = 3, 15 * 2**-24  # README: Numbers


def caption_of(file: Path) -> str:
    """Return the caption that a picture carries, after a look at its size."""
    assert file.stat().st_size < MOST_BYTES
    with Image.open(file) as image:
        assert image.size[0] == WIDTH
        return image.info["Description"]


def committed(name: str) -> data.Data:
    return data.read(FOLDER / "data" / f"{name}.csv")


# ------------------------------------------------------------------------------------ what is shown


@pytest.mark.parametrize("name", pictures.NAMES)
def test_every_picture_is_there_and_says_where_it_is_from(name: str) -> None:
    said = caption_of(FOLDER / f"{name}.png")
    assert f"`python -m benchmarks.pictures {name}" in said
    assert re.search(r"Data: .+\.$", said)
    if name in pictures.MEASURED:
        assert said.endswith(f"Data: {committed(name).source}.")


def test_no_picture_is_left_from_before() -> None:
    assert {file.stem for file in FOLDER.glob("*.png")} == {*pictures.NAMES}
    assert {file.stem for file in (FOLDER / "data").iterdir()} == {*pictures.MEASURED}


@pytest.mark.parametrize("name", pictures.MEASURED)
def test_data_name_their_command_date_and_versions(name: str) -> None:
    source = committed(name).source
    command = (
        rf"made by `python -m benchmarks\.pictures {name} --measure` on \d+ [A-Z][a-z]+ 20\d\d"
    )
    assert re.match(command, source)
    peers = {row["who"].partition(" ")[0] for row in committed(name).rows if "who" in row}
    for who, package in (("SciPy", "scipy"), ("PyTorch", "torch"), ("Triton", "triton")):
        assert who not in peers or re.search(rf"\b{package} \d", source)


def test_titles_are_what_the_data_say() -> None:
    ours = committed("accuracy").series("spread", "ulp", who="cusoftmax")[1]
    assert max(ours) <= SOFTMAX_BOUND
    for peer in ("SciPy", "PyTorch"):
        assert max(committed("accuracy").series("spread", "ulp", who=peer)[1]) > 10 * max(ours)
    for dtype in pictures.DTYPES:
        after = committed("sectors").series("n", "sectors", dtype=dtype, when="after")
        assert max(after[1]) <= 1.05 and after[0] == [*map(float, pictures.WIDTHS)]
    for who in {row["who"] for row in committed("dominant").rows}:
        gaps, errors = committed("dominant").series("gap", "relative_error", who=who)
        ours_is_right = "PyTorch" not in who and "SciPy" not in who
        assert (max(errors) <= VJP_BOUND) == ours_is_right, who
        assert gaps == [*map(float, pictures.GAPS)]


def test_a_picture_is_drawn_anew_as_it_was(tmp_path: Path) -> None:
    assert pictures.draw("dominant", tmp_path, FOLDER / "data") == caption_of(
        FOLDER / "dominant.png"
    )
    with Image.open(tmp_path / "dominant.png") as new, Image.open(FOLDER / "dominant.png") as old:
        assert abs(new.size[1] - old.size[1]) <= 60  # fonts differ


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("accuracy", [{"who": "cusoftmax", "spread": s, "ulp": 1 + s} for s in (1, 10)], "spread"),
        (
            "sectors",
            [
                {"dtype": dtype, "n": 33, "when": when, "sectors": 1.5}
                for dtype in ("float16", "float32")
                for when in ("before", "after")
            ],
            "Sectors of 32 bytes",
        ),
        (
            "predicted",
            [
                {"who": "cusoftmax", "dtype": "float16", "chip": "H100", "n": n, "fraction": 0.9}
                for n in (32, 33)
            ],
            "Predicted, not measured: .*No other library was compiled",
        ),
        (
            "family",
            [
                {"call": call, "rows": 8, "n": 33, "dtype": "float32", "chip": chip, "aim": 0.9}
                | {"fraction": 0.8}
                for call in ("softmax_hvp", "sample")
                for chip in ("A100", "B200")
            ],
            "Predicted, not measured: .*what each call aims at",
        ),
        ("dominant", [{"who": "softmax_vjp", "gap": 1, "relative_error": 1e-7}], "largest class"),
    ],
)
def test_curves_are_drawn_of_small_data(
    name: str, rows: list[dict[str, object]], said: str, tmp_path: Path
) -> None:
    data.write(tmp_path / "data" / f"{name}.csv", rows, "a command", "a library 1.2")
    caption = pictures.draw(name, tmp_path)
    assert caption == caption_of(tmp_path / f"{name}.png")
    assert re.search(said, caption)
    assert re.search(r"Data: made by `a command` on .*, a library 1\.2\.$", caption)


def test_the_jacobian_is_computed_as_it_is_drawn(tmp_path: Path) -> None:
    assert "softmax_jacobian on the emulator" in pictures.draw("jacobian", tmp_path)
    assert caption_of(tmp_path / "jacobian.png") == caption_of(FOLDER / "jacobian.png")


def test_an_unknown_picture_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pictures", "jacobean"])
    with pytest.raises(SystemExit):
        pictures.main()
    assert "no picture 'jacobean': there are accuracy, sectors, " in capsys.readouterr().err


# ------------------------------------------------------------------------------- how it is measured


def test_errors_are_measured() -> None:
    rows = [*pictures.measure_accuracy((1, 10), (2, 64))]
    ours = [float(str(row["ulp"])) for row in rows if row["who"] == "cusoftmax"]
    assert len(ours) == 2 and 0 < max(ours) <= SOFTMAX_BOUND


def test_sectors_are_measured_as_they_are_committed() -> None:
    rows = [row for row in pictures.measure_sectors((33,)) if row["dtype"] == "float16"]
    before, after = (float(str(row["sectors"])) for row in rows)
    assert before > 8 and after <= 1.05
    found = committed("sectors").series("n", "sectors", dtype="float16", when="before")
    assert dict(zip(*found, strict=True))[33] == pytest.approx(before, rel=1e-3)


def test_errors_of_the_largest_class_are_measured() -> None:
    rows = [*pictures.measure_dominant((0, 20))]
    ours = [float(str(row["relative_error"])) for row in rows if row["who"] == "softmax_vjp"]
    assert len(ours) == 2 and max(ours) <= VJP_BOUND


def test_speed_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    need_tools()
    monkeypatch.setattr(pictures.model.peer_cost, "missing", lambda: "they are not here")
    rows = [*pictures.measure_predicted((4096,), ("H100",))]
    assert [(row["who"], row["dtype"], row["n"]) for row in rows] == [
        ("cusoftmax", dtype, 4096) for dtype in pictures.DTYPES
    ]
    assert all(0.5 < float(str(row["fraction"])) <= 1 for row in rows)


def test_the_family_is_predicted() -> None:
    need_tools()
    call = pictures.calls.Call("softmax", "softmax", 1 << 20, 128)
    rows = [*pictures.measure_family([call], ["float16"])]
    assert [(row["call"], row["rows"], row["chip"], row["aim"]) for row in rows] == [
        ("softmax", 1 << 20, chip, 0.85 if chip == "B200" else 0.95) for chip in pictures.CHIPS
    ]
    assert all(0.5 < float(str(row["fraction"])) <= 1 for row in rows)


# ----------------------------------------------------------------------------------- who holds what


@functools.cache
def seen(name: str) -> Seen:
    return holders.see(patterns.PICTURES[name][1])


def parts(held: Holders, elements: slice) -> set[tuple[int, int]]:
    """Return the blocks and threads that hold some elements."""
    return {*zip(held.block[elements].tolist(), held.thread[elements].tolist(), strict=True)}


@pytest.mark.parametrize("name", patterns.PICTURES)
def test_every_pattern_is_the_one_that_runs_and_holds_every_element(name: str) -> None:
    example = patterns.PICTURES[name][1]
    found = seen(name)
    word = name.removeprefix("pattern_")
    pattern = {"cluster": "block", "staged": "group", "topk": "topk_block"}.get(word, word)
    assert found.plan.pattern == pattern
    others = "others_" if word == "map" else ""  # 1 - y, which a first launch has summed
    assert f"csm_{example.op}_{others}{pattern}" in found.launched
    assert ("_c" in found.launched.partition(f"_{pattern}")[2]) == (word == "cluster")
    here = slice(None)
    if example.blocks:  # the first rows, or all that the first block has
        here = slice(128 * example.shape[1] if word == "staged" else example.shape[1])
    assert (found.holders.block[here] >= 0).all()
    assert (found.holders.block[here.stop or found.holders.block.size :] < 0).all()
    assert max(found.holders.thread) < max(launch.block for launch in found.plan.launches)


def test_lanes_of_a_group_have_a_row() -> None:
    found = seen("pattern_group")
    for row in range(4):
        lanes = {thread for _, thread in parts(found.holders, slice(128 * row, 128 * (row + 1)))}
        assert lanes == {*range(4 * row, 4 * row + 4)}


@pytest.mark.parametrize("name", ["pattern_block", "pattern_cluster", "pattern_topk"])
def test_a_chunk_is_of_one_warp(name: str) -> None:
    found = seen(name)
    chunk = found.plan.chunk
    warps = found.plan.launches[0].block // WARP
    for number in range(found.holders.block.size // chunk):
        here = slice(number * chunk, (number + 1) * chunk)
        assert {*found.holders.block[here]} == {number // warps}
        assert {*found.holders.warp[here]} == {number % warps}


def test_staged_rows_are_copied_by_vectors_and_held_by_rows() -> None:
    found = seen("pattern_staged")
    for start in range(0, 128, 8):  # 16 bytes, across rows of 33
        assert len(parts(found.readers, slice(start, start + 8))) == 1
    rows = [parts(found.holders, slice(33 * row, 33 * (row + 1))) for row in range(128)]
    assert rows == [{(0, thread)} for thread in range(128)]


def test_threads_of_a_column_share_it() -> None:
    found = seen("pattern_column")
    owners = found.holders.thread.reshape(128, 128)
    assert len({*owners[:, 0]}) == 8  # 16 elements each
    assert not {*owners[:, 0]} & {*owners[:, 4]}  # of another vector


def test_a_short_segment_is_held_by_one_lane_and_a_long_one_by_blocks() -> None:
    found = seen("pattern_segment")
    lengths = patterns.PICTURES["pattern_segment"][1].lengths
    starts = np.cumsum((0, *lengths))
    for start, length in zip(starts, lengths, strict=False):
        here = parts(found.holders, slice(start, start + length))
        assert length > 60 or len(here) == (length > 0)
        assert (len({block for block, _ in here}) > 1) == (length == max(lengths))


def test_pieces_become_the_subtrees_that_they_consist_of() -> None:
    found = seen("pattern_piece")
    levels = [array[:, 0, -1].tolist() for array in found.result]
    assert levels == [[2, 0], [0, 1, 2], [2]]  # 5, 7 and 4 chunks, from chunks 0, 5 and 12 on
    edges = patterns.PICTURES["pattern_piece"][1].edges
    for start, end in itertools.pairwise(edges):
        of_chunks = found.holders.warp[start:end].reshape(-1, found.plan.chunk)
        assert (of_chunks == of_chunks[:, :1]).all()


def test_the_elements_of_a_map_are_written_by_two_lanes_a_row() -> None:
    found = seen("pattern_map")
    for row in range(16):
        assert parts(found.holders, slice(16 * row, 16 * (row + 1))) == {
            (0, 2 * row),
            (0, 2 * row + 1),
        }


def test_boxes_are_named_where_they_have_room() -> None:
    figures = pytest.importorskip("matplotlib.figure")
    axis = figures.Figure().subplots()
    owners = np.array([[[0, 7]] * 6 + [[0, 8]] * 3 + [[-1, -1]], [[1, 9]] * 10])
    patterns.boxes(axis, owners, lambda o: f"{o[0]}.{o[1]}", lambda o: o[1])
    assert [(text.get_text(), *text.get_position()) for text in axis.texts] == [
        ("0.7", 3.0, 0), ("0.8", 7.5, 0), ("1.9", 5.0, 1),
    ]  # fmt: skip
    patterns.boxes(axis, owners, lambda o: "much too long a name for a box " * 5, lambda o: 0)
    assert len(axis.texts) == 3


@pytest.mark.parametrize(
    "name", ["pattern_group", "pattern_staged", "pattern_topk", "pattern_piece", "pattern_map"]
)
def test_patterns_are_drawn(name: str, tmp_path: Path) -> None:
    caption = pictures.draw(name, tmp_path)
    assert caption == caption_of(tmp_path / f"{name}.png") == caption_of(FOLDER / f"{name}.png")
    assert "accesses of these launches on the emulator" in caption
