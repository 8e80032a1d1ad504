"""Every planned kernel as compiled: how many there are, and that none spills or loses its vectors.

No GPU is needed: NVRTC compiles for all architectures. The kernels of one case are those that
`cusoftmax.machine_code.gate.telling` names; with ``--exhaustive``, all that `gate.selection` does,
as in ``cusoftmax kernels``. ``cusoftmax kernels --full`` compiles every planned kernel.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterable
from dataclasses import replace

import pytest

from cusoftmax.machine_code import catalog, gate, sass
from cusoftmax.machine_code.opcodes import Instruction
from cusoftmax.machine_code.sass import Compiled
from cusoftmax.operations.table import OPERATIONS
from cusoftmax.planning.device import ARCHITECTURES, DeviceSpec
from cusoftmax.planning.plan import Kernel
from cusoftmax.planning.planner import plan
from cusoftmax.runtime import nvrtc
from tests.support import exhaustive

MOST_BINARIES = 60  # "a few dozen" for an operation and dtype


def compiled_together(arch: int, op: str) -> list[tuple[str, ...]]:
    """Dtypes of one case: all, for to start nvdisasm takes 0.3 s, but where each has many kernels.

    Those are cases of their own, for the workers to share.
    """
    dtypes = tuple(d for d in catalog.DTYPES if gate.selected(arch, op, d))
    return [(d,) for d in dtypes] if arch == 90 and op in FIRST_OPS else [dtypes] * bool(dtypes)


# Patterns are planned alike for every operation: all of it for one without a second input and one
# with, and of the others what differs by their operands.
FIRST_OPS = ("softmax", "softmax_vjp")
CASES = [
    pytest.param(
        arch,
        op,
        dtypes,
        id=f"sm_{arch}-{op}-{'-'.join(dtypes)}",
        marks=() if any(gate.is_told(arch, op, d) for d in dtypes) else pytest.mark.exhaustive,
    )
    for arch in sorted(ARCHITECTURES, key=lambda arch: arch != 90)  # the longest first
    for op in OPERATIONS
    for dtypes in compiled_together(arch, op)
]


SELECTED = [
    (arch, op, dtype)
    for arch in ARCHITECTURES
    for op in OPERATIONS
    for dtype in catalog.DTYPES
    if gate.selected(arch, op, dtype)
]


def stages(kernels: Iterable[Kernel]) -> set[tuple[str, str]]:
    """Return the patterns, and the stages of each, that kernels have."""
    return {(kernel["CSM_PATTERN"], kernel["CSM_STAGE"]) for kernel in kernels}


def tell(wrong: dict[str, list[str]]) -> str:
    return "\n".join(f"{name}: {'; '.join(said)}" for name, said in wrong.items())


def oldest_nvrtc(extra: str) -> str:
    """Return the oldest compiler that an extra of the package allows, as in ``"12.8"``."""
    path = gate.budget_path().parents[1] / "pyproject.toml"
    extras = tomllib.loads(path.read_text())["project"]["optional-dependencies"]
    (found,) = [
        found for text in extras[extra] if (found := re.match(r".*nvrtc.*>=([\d.]+)", text))
    ]
    return found[1]


@pytest.mark.parametrize("extra", ["cuda12", "cuda13"])
def test_the_gate_was_tried_with_the_oldest_compiler_allowed(extra: str) -> None:
    assert oldest_nvrtc(extra) in gate.TRIED_NVRTC


def test_every_compiler_allowed_knows_every_architecture() -> None:
    first = {
        75: 10,
        80: 11.0,
        86: 11.1,
        89: 11.8,
        90: 11.8,
        100: 12.8,
        120: 12.8,
    }  # NVRTC's release
    needed = max(first[arch] for arch in ARCHITECTURES)
    assert all(float(oldest_nvrtc(extra)) >= needed for extra in ("cuda12", "cuda13"))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("extra", ["cuda12", "cuda13"])
def test_cupy_compiles_for_every_architecture_itself(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cupy.cuda import compiler

    def most() -> int:
        return int(compiler._get_max_compute_capability.__wrapped__())

    oldest = tuple(map(int, oldest_nvrtc(extra).split(".")))
    monkeypatch.setattr(compiler, "_get_nvrtc_version", lambda: oldest)
    assert most() >= max(ARCHITECTURES)
    monkeypatch.setattr(compiler, "_get_nvrtc_version", lambda: (12, 7))
    assert most() == 90  # whose binaries no later GPU loads


@pytest.mark.usefixtures("compiler")
def test_this_compiler_knows_every_architecture() -> None:
    from cupy.cuda import nvrtc as library

    assert set(ARCHITECTURES) <= set(library.getSupportedArchs())


PLANNED = [
    (arch, op, dtype)
    for arch in ARCHITECTURES
    for op in OPERATIONS
    for dtype in catalog.DTYPES
    if op in FIRST_OPS or (arch == 90 and dtype in ("float16", "float32"))
]


@pytest.mark.parametrize(("arch", "op", "dtype"), PLANNED)
def test_a_few_dozen_binaries_cover_contiguous_rows(arch: int, op: str, dtype: str) -> None:
    kernels = catalog.planned_kernels(arch, [op], [dtype], ["rows"])
    least = 3 if OPERATIONS[op].segmented else 12
    assert least <= len(kernels) <= MOST_BINARIES, [kernel.name for kernel in kernels]


# Plans depend on the sizes of dtypes alike for every operation: all of them for the first ones.
DRAWN = [
    *((arch, op, catalog.DTYPES) for arch in (75, 90) for op in FIRST_OPS),
    *((90, op, ("float32",)) for op in OPERATIONS if op not in FIRST_OPS),
    *exhaustive((90, op, ("float16",)) for op in OPERATIONS if op not in FIRST_OPS),
]


@pytest.mark.parametrize(("arch", "op", "dtypes"), DRAWN)
def test_the_catalogue_is_complete(arch: int, op: str, dtypes: tuple[str, ...]) -> None:
    device, rng = DeviceSpec.known(arch), random.Random(f"{arch} {op}")
    for dtype in dtypes:
        known = set(catalog.planned_kernels(arch, [op], [dtype]))
        assert len({kernel.name for kernel in known}) == len(known)
        for _ in range(400):
            n, rows, outer = (int(2 ** rng.uniform(0, top)) for top in (21, 20, 3))
            shape, axis = rng.choice(
                (
                    ((rows, n), -1),
                    ((rows % 200 + 1, n), -1),
                    ((outer, n, rows % 300 + 1), 1),
                    ((3, rows, n), (0, 2)),
                    ((outer, 2, n, rows % 300 + 1), (0, 2)),
                )
            )
            planned = plan(catalog.problem_of(op, dtype, shape, axis), device)
            for launch in planned.launches:
                assert launch.kernel in known, (launch.kernel.name, dtype, shape, axis)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("arch", "op", "dtypes"), CASES)
def test_compiled_kernels_pass_the_gate(
    request: pytest.FixtureRequest, arch: int, op: str, dtypes: tuple[str, ...]
) -> None:
    budget = gate.Budget.load(gate.budget_path())
    chosen = gate.selection if request.config.getoption("exhaustive") else gate.telling
    kernels = [k for dtype in dtypes for k in chosen(arch, op, dtype)]
    assert kernels
    selected = [k for dtype in dtypes for k in gate.selection(arch, op, dtype)]
    assert set(kernels) <= set(selected)
    if op in FIRST_OPS or "block" not in OPERATIONS[op].patterns:  # of others the longest code
        assert stages(kernels) == stages(selected)
    results, wrong = gate.check(arch, kernels, budget, anew=request.config.getoption("exhaustive"))
    assert not wrong, tell(wrong)
    unrecorded = [
        result.kernel.name
        for result in results
        if result.per_element is not None and budget.recorded(result.kernel, result.arch) is None
    ]
    assert not unrecorded, "no figures: run `cusoftmax kernels --record`"


def test_what_the_tests_compile_tells_of_all() -> None:
    """Each dtype and architecture is compiled, with all that the first operations have of it.

    Of patterns and stages the cases themselves say so.
    """
    assert {(arch, dtype) for arch, op, dtype in SELECTED if gate.is_told(arch, op, dtype)} == {
        (arch, dtype) for arch, _, dtype in SELECTED
    }
    assert all(gate.is_told(90, op, "float32") for op in OPERATIONS)
    for op in FIRST_OPS:
        told = gate.telling(90, op, "float64")
        assert {k["CSM_PARKS"] for k in told} == {"0", "1"}
        assert {k.cluster > 1 for k in told} == {False, True}
    # Narrow accesses of one dtype, and unevenly spaced rows of another.
    assert "1" in {kernel["CSM_VEC"] for kernel in gate.telling(90, "softmax", "float16")}
    uneven = [
        {(k["CSM_BATCH_DIMS"], k["CSM_ROW_DIMS"]) for k in of(90, "softmax_vjp", "float32")}
        for of in (gate.telling, gate.selection)
    ]
    assert uneven[0] == uneven[1] and len(uneven[0]) == 3


def test_what_is_read_of_a_binary(vector_kernel: Compiled) -> None:
    assert vector_kernel.kernel.name == "csm_softmax_group_f16_v8_l32i32"
    assert vector_kernel.arch == "sm_90"
    # 32 elements, 8 an access; whole chunks have their own code, and so has the end of a row.
    assert vector_kernel.loads == vector_kernel.stores == {16: 2 * 4}
    assert vector_kernel.exponentials >= 32  # one for each element
    assert vector_kernel.shuffles and not vector_kernel.barriers
    assert 16 < vector_kernel.registers <= 255
    assert 32 < vector_kernel.main <= vector_kernel.instructions
    assert vector_kernel.per_element == vector_kernel.main / 32


def test_runs_of_nops_are_not_counted(vector_kernel: Compiled) -> None:
    kernel = vector_kernel.kernel
    binary = sass.compile_or_error(kernel, 90)
    assert isinstance(binary, bytes)
    (code,) = sass.disassemble([sass.code_bytes(binary)], 90)

    def main_with_nops(count: int) -> int:
        nops = [Instruction(False, "NOP", " ;")] * count
        padded: list[Instruction] = []
        moved = []
        for x in code:
            moved.append(len(padded) * sass.INSTRUCTION_BYTES)
            padded += [x, *(nops if x.opcode == "FADD.FTZ" else ())]

        def target(found: re.Match[str]) -> str:
            return hex(moved[int(found[0], 16) // sass.INSTRUCTION_BYTES])

        for i, x in enumerate(padded):
            if x.stem in ("BRA", "BSSY"):
                padded[i] = x._replace(operands=re.sub("0x[0-9a-f]+", target, x.operands))
        return sass._read(kernel, 90, binary, 0, padded).main

    assert main_with_nops(0) == main_with_nops(4) == vector_kernel.main
    assert main_with_nops(1) > vector_kernel.main


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ({"spill_stores": 1}, "spills: 1 stores"),
        ({"stack": 8}, "8 bytes of stack"),
        ({"loads": {16: 3, 8: 2}}, "loads: 3 × 16, 2 × 8; planned: 4 × 16"),
        ({"loads": {16: 4, 2: 1}}, "loads"),
        ({"stores": {2: 32}}, "stores: 32 × 2; planned: 4 × 16"),
        ({"generic": 1}, "generic"),
        ({"cluster_waits": 1}, "cluster barriers: 0 arrivals, 1 waits; in the source: 0 and 0"),
        ({"registers": 2048}, "do not fit"),
    ],
)
def test_the_gate_sees(vector_kernel: Compiled, broken: dict[str, object], complaint: str) -> None:
    assert gate.faults(vector_kernel) == []
    (said,) = gate.faults(replace(vector_kernel, **broken))  # type: ignore[arg-type]
    assert complaint in said


def clustered(op: str, dtype: str) -> list[Kernel]:
    """Return a kernel for each pattern and size of clusters, and with parked chunks."""
    found = {
        (kernel["CSM_PATTERN"], kernel["CSM_PARKS"], kernel.cluster): kernel
        for kernel in catalog.planned_kernels(90, [op], [dtype], ["few", "column"])
        if kernel.cluster > 1
    }
    assert len({pattern for pattern, *_ in found}) == 2
    return list(found.values())


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("op", "dtype", "arch"),
    [("softmax", "float32", 90), ("softmax_vjp", "float64", 100), ("logsumexp", "float16", 120)],
)
def test_ptx_has_each_cluster_barrier_once(op: str, dtype: str, arch: int) -> None:
    for kernel in clustered(op, dtype):
        ptx = nvrtc.compile_ptx(kernel, arch, line_info=False)
        halves = [
            len(re.findall(rf"^\s*barrier\.cluster\.{half}\.aligned;", ptx, re.MULTILINE))
            for half in (r"arrive\.release", r"wait\.acquire")
        ]
        assert tuple(halves) == gate.cluster_barriers(kernel) == (2, 2), kernel.name
        assert ptx.count("barrier.cluster") == 4, kernel.name


def test_the_gate_sees_a_cluster_barrier_copied(vector_kernel: Compiled) -> None:
    for kernel in clustered("softmax", "float32"):
        at = replace(vector_kernel, kernel=kernel, cluster_arrivals=2, cluster_waits=2)
        copied = replace(at, cluster_waits=3)
        said = "cluster barriers: 2 arrivals, 3 waits; in the source: 2 and 2"
        assert set(gate.faults(copied)) - set(gate.faults(at)) == {said}


@pytest.mark.usefixtures("compiler")
def test_a_kernel_that_does_not_compile_is_reported(vector_kernel: Compiled) -> None:
    macros = tuple(
        (k, "csm::f17,csm::f17" if k == "CSM_TYPES" else v) for k, v in vector_kernel.kernel.macros
    )
    (result,) = gate.inspect_all([replace(vector_kernel.kernel, macros=macros)], 90)
    assert isinstance(result, str) and "does not compile for sm_90" in result and "f17" in result
