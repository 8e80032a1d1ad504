"""What is recorded of compiled kernels: their figures, and what stands for a binary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cusoftmax.machine_code import budget, catalog, gate, sass
from cusoftmax.machine_code.budget import Record
from cusoftmax.machine_code.sass import Compiled
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.planner import plan
from cusoftmax.runtime import nvrtc, source


def test_the_budget_sees_more_instructions(vector_kernel: Compiled) -> None:
    budget = gate.Budget({}).updated([vector_kernel])
    assert budget.faults(vector_kernel) == []
    assert vector_kernel.per_element is not None
    worse = replace(vector_kernel, per_element=vector_kernel.per_element * 1.1)
    assert "instructions an element" in budget.faults(worse)[0]


def test_to_record_one_figure_says_nothing_of_another(
    vector_kernel: Compiled, tmp_path: Path
) -> None:
    kernel, value = vector_kernel.kernel.name, vector_kernel.per_element
    assert value is not None
    recorded = Record("0.1", round(value / 1.1, 2))  # another compiler may differ by a quarter
    before = gate.Budget({kernel: {"sm_90": recorded}, "another": {"sm_75": recorded}})
    assert before.faults(vector_kernel) == []
    other = replace(vector_kernel, kernel=replace(vector_kernel.kernel, name="another"))
    path = tmp_path / "budget.json"
    before.updated([other]).save(path)
    after = gate.Budget.load(path)
    assert after.records[kernel] == {"sm_90": recorded}
    renewed = after.recorded(other.kernel, "sm_90")
    assert renewed and (renewed.nvrtc, renewed.per_element) == (nvrtc.version(), round(value, 2))
    assert after.records["another"]["sm_75"] == recorded
    assert after.faults(vector_kernel) == []
    assert after.faults(other) == []


# ------------------------------------------------------------------ records that stand for binaries


@pytest.fixture
def recorded(vector_kernel: Compiled, tmp_path: Path) -> gate.Budget:
    """A budget that holds one kernel, read from a file."""
    path = tmp_path / "budget.json"
    gate.Budget({}).updated([vector_kernel]).save(path)
    return gate.Budget.load(path)


def test_a_record_stands_for_a_binary(
    vector_kernel: Compiled, recorded: gate.Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = vector_kernel.kernel
    assert recorded.standing(kernel, "sm_90") == vector_kernel
    assert recorded.standing(kernel, "sm_100") is None
    monkeypatch.setattr(gate, "_COMPILED_OF", 1 << 64)
    monkeypatch.setattr(sass, "compile_or_error", lambda *_: "it is compiled")
    assert gate.check(90, [kernel], recorded, anew=False) == ([vector_kernel], {})
    assert gate.check(90, [kernel], recorded)[1] == {f"{kernel.name} sm_90": ["it is compiled"]}
    # What the gate asks of binaries today is asked of records too.
    monkeypatch.setattr(gate, "planned_accesses", lambda _: ({32: 1}, {}))
    _, wrong = gate.check(90, [kernel], recorded, anew=False)
    assert "loads: 8 × 16; planned: 1 × 32" in wrong[f"{kernel.name} sm_90"][0]


@pytest.mark.parametrize("broken", [{"registers": 1}, {"loads": {16: 1}}, {"main": 10**6}])
def test_a_wrong_record_is_found_where_its_kernel_is_compiled(
    vector_kernel: Compiled, recorded: gate.Budget, broken: dict[str, Any], monkeypatch: Any
) -> None:
    name = vector_kernel.kernel.name
    record = recorded.records[name]["sm_90"]
    wrong = replace(record, read={**record.read, **broken})
    budget = gate.Budget({name: {"sm_90": wrong}})
    monkeypatch.setattr(gate, "_COMPILED_OF", 1)
    monkeypatch.setattr(gate, "inspect_all", lambda *_: [vector_kernel])
    results, said = gate.check(90, [vector_kernel.kernel], budget, anew=False)
    assert results == [vector_kernel]
    assert "recorded otherwise" in said[f"{name} sm_90"][0]


def test_no_recorded_kernel_spills() -> None:
    """By default the tests compile a share of the kernels; the others are judged as recorded."""
    records = gate.Budget.load(gate.budget_path()).records
    read = [record.read for by_arch in records.values() for record in by_arch.values()]
    assert sum("registers" in each for each in read) > 2000  # of others only the figure is known
    spilled = {"spill_loads", "spill_stores", "stack", "local"}
    assert not any(each.keys() & spilled for each in read)


def test_a_share_of_the_records_is_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = catalog.planned_kernels(90, ["softmax"], ["float16", "float32"], ["rows", "few"])
    drawn = sum(gate._is_drawn(kernel, 90) for kernel in kernels)
    assert 0.05 * len(kernels) < drawn < 0.2 * len(kernels)


# A kernel of each pattern, and of several operations.
DIGESTED = [
    ("softmax", (64, 1000), -1),
    ("softmax_vjp", (3, 70000), -1),
    ("cross_entropy", (11, 70016), -1),
    ("log_softmax", (300, 40), 0),
    ("segment_softmax", (5000,), 0),
    ("topk_softmax", (7, 200), -1),
    ("sample", (1500, 19), 0),
    ("softmax_jacobian", (4, 60, 60), -1),
]


def copied(folder: Path, files: Iterable[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let kernels be compiled from a copy of some of the sources."""
    root = source.kernel_root()
    for path in files:
        to = folder / path.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())
    monkeypatch.setattr(source, "kernel_root", lambda: folder)
    return folder


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("op", "shape", "axis"), DIGESTED)
def test_the_digest_is_of_all_that_is_compiled(
    op: str, shape: tuple[int, ...], axis: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = plan(
        catalog.problem_of(op, "float32", shape, axis), DeviceSpec.known(90)
    ).launches[0].kernel  # fmt: skip
    files, before = source.included(kernel), budget.digest(kernel, "sm_90")
    assert len(files) > 5
    # The files alone are enough; their folder is of no matter.
    root = copied(tmp_path, files, monkeypatch)
    assert isinstance(sass.compile_or_error(kernel, 90), bytes)
    assert budget.digest(kernel, "sm_90") == before

    def changed() -> bool:
        source._digest_of.cache_clear()
        return budget.digest(kernel, "sm_90") != before

    for path in source.included(kernel):
        text = path.read_bytes()
        path.write_bytes(text + b"\n")
        assert changed(), path
        path.write_bytes(text)
    (root / "another.cuh").write_text("#error")  # of another kernel
    assert not changed()
    for i, (macro, value) in enumerate(kernel.macros):
        macros = (*kernel.macros[:i], (macro, value + " "), *kernel.macros[i + 1 :])
        if macro not in ("CSM_OP", "CSM_PATTERN"):  # which name files
            assert budget.digest(replace(kernel, macros=macros), "sm_90") != before, macro
    assert budget.digest(kernel, "sm_100") != before
    assert not changed()
    monkeypatch.setattr(nvrtc, "build", lambda: "another")
    assert changed()


def test_the_budget_file_is_as_it_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    gate.Budget.load(gate.budget_path()).save(path)
    assert path.read_text() == gate.budget_path().read_text()
