"""Calls that are refused: one clear error, in the name of the function called, and no launch.

The cases come from the signatures: every argument of every public function gets values of every
wrong kind. Kernels are recorded and not run, so that no GPU or compiler is needed.
"""

from __future__ import annotations

import itertools
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import cupy
import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax.emulator import _memory
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.runtime import backend, launch
from tests.functions.public_functions import (
    NAMES,
    OF_ARRAYS,
    SHAPE,
    Arguments,
    on_host,
    parameters,
    required,
    values_of,
)


class Recorder:
    """A machine that records launches; device 0 is current."""

    device = DeviceSpec.known("sm_90")
    key = "recorder"
    on_host = True

    def __init__(self) -> None:
        self.launched: list[str] = []

    def check_place(self, caller: str, array: Any) -> None:
        if array.data.device_id:
            raise ValueError(f"{caller}: the arrays are on device {array.data.device_id}")

    def load(self, kernel: Any) -> Callable[..., None]:
        return lambda *_: self.launched.append(kernel.name)

    def by_value(self, struct: Any) -> Any:
        return struct

    def to_host(self, array: Any) -> Any:
        return _memory.asnumpy(array)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    machine = Recorder()
    with cupy.cuda.using_allocator(_memory.allocate):
        backend.push_backend(machine)
        try:
            yield machine
        finally:
            backend.pop_backend(machine)
            launch._calls.clear()


class Unread(cupy.ndarray):  # type: ignore[misc]
    """An array of the device that must be neither printed, read nor compared."""

    def _refuse(self, *_: Any) -> Any:
        raise AssertionError("a device array was read")

    __repr__ = __str__ = __format__ = __bool__ = __int__ = __float__ = __index__ = _refuse
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __iter__ = __array__ = __hash__ = _refuse
    item = get = tolist = _refuse


# ------------------------------------------------------------------------------------- valid calls


def bases(name: str) -> list[Arguments]:
    """Return options that are accepted: none, each flag, and each number as 0."""
    kinds: Arguments = {"bool": True, "float": 0.0}
    found: list[Arguments] = [{}]
    found += [
        {p.name: kinds[p.annotation]}
        for p in parameters(name).values()
        if p.annotation in kinds and (name, p.name) != ("logsumexp_vjp", "keepdims")  # needs dy so
    ]
    return found


def call(name: str, arguments: Arguments) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return getattr(cs, name)(**arguments)


@pytest.mark.parametrize("name", NAMES)
def test_the_calls_without_a_mistake_run(recorder: Recorder, name: str) -> None:
    for base in bases(name):
        call(name, required(name) | base)
    assert name not in OF_ARRAYS or recorder.launched


# ------------------------------------------------------------------------------------- wrong kinds

WRONG: Arguments = {
    "nothing": None,
    "text": "no",
    "text of a number": "0.1",
    "bytes": b"1",
    "true": True,
    "one": 1,
    "minus one": -1,
    "half": 0.5,
    "not a number": float("nan"),
    "infinite": float("-inf"),
    "complex": 1j,
    "beyond a float": 10**400,
    "beyond print": -(10**5000),
    "list": [1],
    "list of itself": [[]],
    "list of text": ["softmax"],
    "empty tuple": (),
    "tuple of dtypes": (np.float32, np.float32),
    "set": {1},
    "object": object(),
    "class": int,
    "long text": "x" * 10**6,
    "numpy scalar": np.float32(1),
    "numpy bool": np.True_,
    "numpy array": np.zeros(SHAPE, np.float32),
    "numpy array of one": np.ones((), np.int64),
    "device array": on_host(np.zeros(SHAPE, np.float32), kind=Unread),
    "device array of one": on_host(np.ones((), np.int64), kind=Unread),
    "list of device arrays": [on_host(np.ones(2), kind=Unread)] * 3,
    "tuple of device arrays": (on_host(np.ones((), np.int64), kind=Unread),) * 2,
}
WRONG["list of itself"].append(WRONG["list of itself"])


def refusal(name: str, arguments: Arguments, machine: Recorder) -> Exception | None:
    """Return the error of a call, or None; assert that it is clear and nothing was launched."""
    machine.launched.clear()
    try:
        call(name, arguments)
    except (TypeError, ValueError) as raised:
        error = raised
    else:
        return None
    assert str(error).startswith(f"{name}: "), error
    assert len(str(error)) < 1500, error
    assert error.__cause__ is None and error.__context__ is None, error
    assert not machine.launched, error
    return error


# What may be given for each kind of argument, by its annotation; all else is a TypeError.
ACCEPTED: dict[str, tuple[str, ...]] = {
    "bool": ("true", "numpy bool"),
    "int": ("one", "minus one", "beyond a float", "beyond print"),
    "float": (
        *("one", "minus one", "half", "not a number", "infinite", "beyond a float"),
        *("beyond print", "numpy scalar"),
    ),
    "str": ("text", "text of a number", "long text"),
    "dtype": ("class",),
    "array": ("device array", "device array of one"),
}


def kind_of(annotation: str) -> str:
    """Return which kind of `ACCEPTED` an annotation means, or nothing."""
    plain = annotation.removesuffix(" | None")
    named = {"DTypeLike": "dtype", "ArrayT": "array", "AnyArray": "array"}
    if annotation.startswith("Literal["):
        return "str"
    return named.get(plain, plain if plain in ACCEPTED else "")


@pytest.mark.parametrize("name", NAMES)
def test_arguments_of_the_wrong_kind(recorder: Recorder, name: str) -> None:
    for base, p, wrong in itertools.product(bases(name), parameters(name).values(), WRONG):
        error = refusal(name, required(name) | base | {p.name: WRONG[wrong]}, recorder)
        kind = kind_of(p.annotation)
        optional = p.default is None and wrong == "nothing"
        if kind and wrong not in ACCEPTED[kind] and not optional:
            assert type(error) is TypeError, (p.name, wrong, error)
            assert p.name in str(error) or p.name == "out", error
        elif kind == "str" and not optional:
            assert type(error) is ValueError, (p.name, wrong, error)


def test_every_kind_of_argument_is_met() -> None:
    met = {kind_of(p.annotation) for name in NAMES for p in parameters(name).values()}
    assert met >= {*ACCEPTED}


FLAGS = ("no", [], [False], None, 0, 1, np.zeros(()))


@pytest.mark.parametrize("flag", ["grad", "inplace", "check"])
def test_flags_of_cross_entropy(recorder: Recorder, flag: str) -> None:
    for value in FLAGS:
        error = refusal("cross_entropy", required("cross_entropy") | {flag: value}, recorder)
        assert type(error) is TypeError and str(error).endswith("give True or False")
    for value in (np.True_, np.False_):
        call("cross_entropy", required("cross_entropy") | {flag: value})


def test_numbers_of_numpy_are_numbers(recorder: Recorder) -> None:
    import ml_dtypes

    given = required("softmax")
    for scale in (np.float16(2), np.int8(2), ml_dtypes.bfloat16(2), 2):
        cs.softmax(**given, scale=scale)
    assert len(launch._calls) == 1


UNREAD = f"<{Unread.__module__}.Unread>"
MESSAGES: list[tuple[str, Arguments, str]] = [
    ("softmax", {"axis": True}, "axis=True is not accepted; give an int, a tuple of ints, or None"),
    ("softmax", {"axis": [0, 1]}, "axis=[0, 1] is not accepted; give an int, a tuple"),
    ("softmax", {"axis": -(10**5000)}, "axis <int of 16610 bits> is out of bounds"),
    ("softmax", {"dtype": ()}, "dtype=() is not a dtype; give one of float16, bfloat16"),
    ("softmax", {"dtype": (np.float32,)}, "dtype=(<type>,) is not a dtype"),
    ("softmax", {"scale": "2"}, "scale='2' is not accepted; give a number"),
    ("softmax", {"causal": "no"}, "causal='no' is not accepted; give True or False"),
    ("logsumexp", {"return_sign": 1}, "return_sign=1 is not accepted; give True or False"),
    (
        "logsumexp",
        {"axis": WRONG["device array"]},
        f"axis={UNREAD} is not",
    ),
    ("softmax", {"mask": np.zeros(SHAPE, bool), "axis": 0.5}, "mask is a numpy.ndarray, and only"),
    ("logsumexp", {"return_sign": True, "axis": 0.5}, "axis=0.5 is not accepted"),
    ("topk_softmax", {"normalise": "topk", "axis": 0.5}, "axis=0.5 is not accepted; give an int"),
    ("topk_softmax", {"k": True}, "k=True is not accepted; give an int"),
    ("topk_softmax", {"k": 10**5000}, "k=<int of 16610 bits> is not accepted; give a number from"),
    ("sample", {"seed": 10**5000}, "seed=<int of 16610 bits> is not accepted; give a number"),
    (
        "cross_entropy",
        {"reduction": WRONG["device array"]},
        f"reduction={UNREAD} is not",
    ),
    ("cross_entropy", {"reduction": ["sum"]}, "reduction=['sum'] is not accepted; give 'none', "),
    ("cross_entropy", {"z_loss": 10**400}, "z_loss=inf is not accepted"),
    ("cross_entropy", {"softcap": b"1"}, "softcap=b'1' is not accepted; give a number"),
    ("cross_entropy", {"ignore_index": 10**5000}, "ignore_index=<int of 16610 bits> does not fit"),
    ("cross_entropy_vjp", {"dloss": None}, "dloss is a NoneType, and only CuPy arrays"),
    ("cross_entropy_vjp", {"logits": [1]}, "logits is a list, and only CuPy arrays"),
    ("cross_entropy_vjp", {"weight": [1]}, "weight is a list, and only CuPy arrays"),
    ("explain", {"shape": 5}, "shape=5 is not accepted; give a tuple of ints"),
    ("explain", {"shape": (3.0, 2)}, "shape=(3.0, 2) is not accepted; give a tuple of ints"),
    ("explain", {"shape": "46"}, "shape='46' is not accepted"),
    ("explain", {"shape": (3, 10**5000)}, "shape (3, <int of 16610 bits>) has a size beyond an"),
    ("explain", {"op": "topk_softmax", "shape": ()}, "x has no dimensions; give it at least one"),
    (
        "explain",
        {"op": "segment_softmax", "shape": ()},
        "an array of no dimensions has no segments",
    ),
    ("explain", {"op": "softmax_jacobian", "shape": (6,)}, "shape (6,) is that of no matrices"),
    ("explain", {"op": ["softmax"]}, "op=['softmax'] is not accepted; give the name of a function"),
    ("explain", {"op": "softmin"}, "there is no operation 'softmin'; the operations are softmax, "),
    ("explain", {"k": 2.5}, "k=2.5 is not accepted; give an int"),
    ("explain", {"arch": 9.0}, "arch=9.0 is not accepted; give a name such as 'sm_90', or"),
    ("explain", {"arch": "sm_" + "9" * 5000}, "there is no architecture 'sm_9999"),
    ("explain", {"dtype": None}, "dtype=None is not a dtype"),
    (
        "explain",
        {"op": "topk_softmax", "axis": None},
        "axis=None is not accepted; give an int, the",
    ),
    ("explain", {"op": "segment_softmax", "axis": 0.5}, "axis=0.5 is not accepted"),
    ("warmup", {"ops": "softmax"}, "ops='softmax' is not accepted; give a list of names, such as"),
    ("warmup", {"ops": ["softmin"]}, "there is no operation 'softmin'; the operations are"),
    ("warmup", {"shapes": (3, 5)}, "shapes=(3, 5) is not accepted; give a list of shapes, such as"),
    ("warmup", {"shapes": [(3, -5)]}, "shape (3, -5) has a negative size"),
    ("warmup", {"dtypes": "float32"}, "dtypes='float32' is not accepted; give a list of dtypes"),
]


@pytest.mark.parametrize(("name", "wrong", "said"), MESSAGES)
def test_what_messages_say(recorder: Recorder, name: str, wrong: Arguments, said: str) -> None:
    error = refusal(name, required(name) | wrong, recorder)
    assert str(error).startswith(f"{name}: {said}"), error


def test_warmup_checks_all_before_it_compiles(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(Recorder, "load", lambda self, kernel: loaded.append(kernel))
    assert refusal("warmup", {"shapes": [SHAPE, (3, -1)]}, recorder)
    assert not loaded
    cs.warmup(shapes=[SHAPE])
    assert loaded


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_an_array_of_numpy_gives_one_traceback(recorder: Recorder, name: str) -> None:
    for argument in required(name):
        if "Array" in parameters(name)[argument].annotation:
            wrong = required(name) | {argument: values_of(name, argument)}
            error = refusal(name, wrong, recorder)
            assert f"{argument} is a numpy.ndarray, and only CuPy arrays" in str(error)
            text = "".join(traceback.format_exception(error))
            assert text.count("Traceback") == 1, text


def test_a_refused_call_keeps_no_array(recorder: Recorder) -> None:
    """An error in a circle with its traceback would keep device memory until a collection."""
    import gc
    import weakref

    gc.disable()
    try:
        x = on_host(np.zeros(SHAPE, np.float32), kind=type("Watched", (cupy.ndarray,), {}))
        alive = weakref.ref(x)
        with pytest.raises(TypeError):
            cs.softmax_vjp(x, np.zeros(SHAPE))
        del x
        assert alive() is None
    finally:
        gc.enable()


# ------------------------------------------------------------------------------------------- arrays


def array_arguments(name: str, recorder: Recorder) -> dict[str, np.ndarray]:
    """Return values for every array argument, with those for results."""
    found = {}
    for p in parameters(name).values():
        if p.name == "out":
            made = call(name, required(name))
            first = made[0] if isinstance(made, tuple) else made
            found["out"] = np.zeros(first.shape, first.dtype)
        elif "ndarray" in p.annotation:
            found[p.name] = values_of(name, p.name)
    return found


def with_array(name: str, argument: str, array: Any) -> Arguments:
    """Return arguments with one array replaced; of several results the first."""
    arguments = required(name)
    if argument == "out" and "tuple" in parameters(name)["out"].annotation.partition("|")[0]:
        others = call(name, arguments)[1:]
        return arguments | {"out": (array, *others)}
    return arguments | {argument: array}


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_misaligned_arrays(recorder: Recorder, name: str) -> None:
    for argument, values in array_arguments(name, recorder).items():
        size = values.itemsize
        if size == 1:
            continue
        moved = np.zeros(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
        wide = np.zeros((*values.shape, size + 1), np.uint8)
        odd = wide[..., :size].view(values.dtype)[..., 0]
        for wrong in (moved, odd):
            error = refusal(name, with_array(name, argument, on_host(wrong)), recorder)
            assert type(error) is ValueError and "is misaligned" in str(error), (argument, error)


def test_arrays_that_only_look_misaligned(recorder: Recorder) -> None:
    """Strides of dimensions of one element, and arrays of none, address nothing."""
    row = np.lib.stride_tricks.as_strided(np.zeros(6, np.float32), (1, 6), (5, 4))
    cs.softmax(on_host(row))
    assert recorder.launched
    none = np.zeros(5, np.uint8)[1:].view(np.float32)[:0]
    cs.softmax(on_host(none))


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_arrays_on_another_device(recorder: Recorder, name: str) -> None:
    for argument, values in array_arguments(name, recorder).items():
        far = on_host(values, device=1)
        error = refusal(name, with_array(name, argument, far), recorder)
        assert type(error) is ValueError and "device 1" in str(error), (argument, error)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_in_place(recorder: Recorder, reduction: str, weighted: bool) -> None:
    """What cannot be written over is told as the logits, which the user gave."""
    memory = np.zeros(4096, np.uint8)
    target = memory[:32].view(np.int64)
    logits = memory[16 : 16 + 96].view(np.float32).reshape(SHAPE)
    near = memory[4 : 4 + 96].view(np.float32).reshape(SHAPE)
    broadcast = np.broadcast_to(np.zeros(6, np.float32), SHAPE)
    cases: list[tuple[np.ndarray, np.ndarray, type[Exception], str]] = [
        (np.zeros(SHAPE, np.int64), target, TypeError, "logits (inplace=True) has dtype int64"),
        (broadcast, target, ValueError, "elements of logits (inplace=True) share memory"),
        (logits, target, ValueError, "logits (inplace=True) overlaps target"),
        (logits, near, ValueError, "logits (inplace=True) overlaps target"),
    ]
    for x, t, kind, said in cases:
        arguments: Arguments = {"logits": on_host(x), "target": on_host(t), "inplace": True}
        if weighted:
            arguments["weight"] = on_host(np.ones(6, np.float32))
        error = refusal("cross_entropy", arguments | {"reduction": reduction}, recorder)
        assert type(error) is kind and said in str(error), error
        assert "dlogits" not in str(error)


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_memory_that_runs_out_does_so_before_a_launch(recorder: Recorder, name: str) -> None:
    """Also that of a workspace: rows are long and few."""
    arguments = required(name)
    if name in ("cross_entropy", "gumbel_softmax"):
        first = next(iter(arguments))
        arguments[first] = on_host(np.zeros((4, 1 << 17), np.float32))
    for base in bases(name):
        for allowed in itertools.count():
            sizes: list[int] = []

            def allocate(size: int, allowed: int = allowed, sizes: list[int] = sizes) -> Any:
                if len(sizes) == allowed:
                    raise MemoryError
                sizes.append(size)
                return _memory.allocate(size)

            recorder.launched.clear()
            try:
                with cupy.cuda.using_allocator(allocate):
                    call(name, arguments | base)
            except MemoryError:
                assert not recorder.launched
            else:
                break


def test_check_comes_after_the_checks_that_do_not_wait(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, array: Any) -> Any:
        raise AssertionError("the targets were read")

    wrong = {"check": True, "inplace": True, "logits": on_host(np.zeros(SHAPE, np.int64))}
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "to_host", refuse)
        assert refusal("cross_entropy", required("cross_entropy") | wrong, recorder)
    target = on_host(np.array([0, 1, 2, 9]))
    given = required("cross_entropy") | {"check": True, "target": target}
    error = refusal("cross_entropy", given, recorder)
    assert "target[3] is 9, which is none of the 6 classes" in str(error)


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i4", "i8", "u8"])
def test_checked_targets_are_reported_as_they_are(recorder: Recorder, kind: str) -> None:
    largest = int(np.iinfo(kind).max)
    target = np.array([0, 5, largest, 1], kind)
    for ignored in (-100, 2**63 - 1 if largest > 2**63 else -1):
        given = {"check": True, "ignore_index": ignored, "target": on_host(target)}
        for name in ("cross_entropy", "cross_entropy_vjp"):
            error = refusal(name, required(name) | given, recorder)
            assert f"target[2] is {largest}, which is none of the 6 classes" in str(error)
    if largest < 2**63:
        given["ignore_index"] = largest
        call("cross_entropy", required("cross_entropy") | given)


def test_shapes_of_results(recorder: Recorder) -> None:
    x = on_host(np.zeros(SHAPE, np.float32))
    values, indices = (on_host(np.zeros((4, 3), kind)) for kind in (np.float32, np.int64))
    vector = on_host(np.zeros(5, np.int64))
    cases: list[tuple[str, Arguments, str]] = [
        (
            "topk_softmax",
            {"x": x, "k": 2, "out": (values, indices)},
            r"values has shape \(4, 3\); with x of shape \(4, 6\) it has the 2 selected values of "
            r"each row, so give it shape \(4, 2\)",
        ),
        (
            "softmax_jacobian",
            {"y": x, "out": x},
            r"out has shape \(4, 6\); with y of shape \(4, 6\) it has a matrix for each row, so "
            r"give it shape \(4, 6, 6\)",
        ),
        (
            "sample",
            {"x": x, "seed": 1, "out": vector},
            r"out has shape \(5,\); with x of shape \(4, 6\) it has one value for each row, so "
            r"give it shape \(4,\)",
        ),
    ]
    for name, arguments, said in cases:
        error = refusal(name, arguments, recorder)
        assert type(error) is ValueError and re.fullmatch(f"{name}: {said}", str(error)), error


def test_results_in_a_named_tuple(recorder: Recorder) -> None:
    from collections import namedtuple

    x = on_host(np.zeros(SHAPE, np.float32))
    pair = namedtuple("pair", "values indices")
    out = pair(on_host(np.zeros((4, 2), np.float32)), on_host(np.zeros((4, 2), np.int64)))
    assert cs.topk_softmax(x, 2, out=out)[0] is out.values
    error = refusal("softmax", {"x": x, "out": out}, recorder)
    assert "out is a tuple of 2; give an array" in str(error)
