"""Arrays of other libraries: the same results over the same memory, or one clear error.

The streams' order is for a GPU: ``tests/emulator/driver_cases.py``.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import cupy
import ml_dtypes
import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import emulator, reference
from cusoftmax.compat import scipy as compat
from cusoftmax.runtime import arrays
from tests.functions.foreign_libraries import ByCapsule, ByInterface, OfLibrary
from tests.functions.public_functions import OF_ARRAYS, parameters, required, values_of

X = np.random.default_rng(0).normal(0, 3, (4, 6)).astype(np.float32)


# ----------------------------------------------------------------------------- what a module passes


def over_numpy(array: np.ndarray) -> Any:
    """Return a CuPy array over the memory of one of NumPy's, as a torch module makes one."""
    return arrays.over(array.ctypes.data, array.shape, array.strides, array.dtype, array, 0)


def test_a_caller_gives_inputs_results_and_the_allocator(emulated: Any) -> None:
    """One row on many blocks needs a workspace: it and the results are the caller's memory."""
    x = np.random.default_rng(1).normal(size=(2, 1 << 17)).astype(np.float32)[:, ::2]
    y = np.empty((2, 1 << 16), np.float32)
    given: list[np.ndarray] = []

    def allocate(nbytes: int) -> Any:
        given.append(np.empty(nbytes, np.uint8))
        return arrays.memory(given[-1].ctypes.data, nbytes, given[-1], 0)

    with cupy.cuda.using_allocator(allocate):
        out = over_numpy(y)
        assert cs.softmax(over_numpy(x), out=out) is out
        assert len(given) == 1, "the workspace"
        again = cs.softmax(over_numpy(x))
    assert len(given) == 3, "the result and another workspace"
    assert again.data.ptr == given[1].ctypes.data
    np.testing.assert_array_equal(emulated.asnumpy(again), y)
    np.testing.assert_allclose(y, reference.softmax(x), rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_an_array_without_elements_may_lie_nowhere(emulated: Any, shape: tuple[int, ...]) -> None:
    nowhere = arrays.over(0, shape, (20, 4), np.dtype(np.float32), None, 0)
    assert cs.softmax(nowhere).shape == shape
    assert cs.softmax(nowhere, out=nowhere) is nowhere


# --------------------------------------------------------------------------------- every function


def own(value: Any) -> Any:
    """Return a result, or several, of a function that was given arrays of the emulator."""
    if isinstance(value, tuple):
        return tuple(map(own, value))
    return emulator.asnumpy(value)


def theirs(value: Any) -> Any:
    """Return a result, or several, which must be of the library."""
    if isinstance(value, tuple):
        return tuple(map(theirs, value))
    assert type(value) is OfLibrary
    return value.array


def cases(name: str) -> list[dict[str, Any]]:
    """Return NumPy arguments of a function: none but the required ones, and each optional array."""
    kinds = parameters(name)
    base = {
        each: values_of(name, each) if "Array" in kinds[each].annotation else value
        for each, value in required(name).items()
    }
    first = next(iter(base))
    if base[first].dtype == np.float32:
        base[first] = reference.softmax(X)
    found = [base]
    for each, kind in kinds.items():
        if kind.default is None and each in ("b", "mask", "bias", "weight"):
            value = np.ones(X.shape[1], np.float32) if each != "mask" else X > 0
            found.append(base | {each: value})
    if "causal" in kinds:
        found.append(base | {"causal": True})
    found += [base | {"return_sign": True}] * ("return_sign" in kinds)
    found += [base | {"grad": True}] * ("grad" in kinds)
    found += [base | {"temperature": 0}] * ("temperature" in kinds)
    found += [base | {"dtype": "float64"}] * ("dtype" in kinds)
    return found


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_every_function_and_option_takes_them(emulated: Any, name: str) -> None:
    """All arrays of another library; the first only; all but the first."""
    function = getattr(cs, name)
    for case in cases(name):
        mine = {k: emulator.asarray(v) if isinstance(v, np.ndarray) else v for k, v in case.items()}
        other = {k: OfLibrary(v) if isinstance(v, np.ndarray) else v for k, v in case.items()}
        first = next(iter(case))
        expected = own(function(**mine))
        for given, read in (
            (other, theirs),
            (mine | {first: other[first]}, theirs),
            (other | {first: mine[first]}, own),
        ):
            np.testing.assert_equal(read(function(**given)), expected, str(case))


@pytest.mark.parametrize("name", [name for name in OF_ARRAYS if "out" in parameters(name)])
def test_results_are_written_into_theirs(emulated: Any, name: str) -> None:
    function = getattr(cs, name)
    for case in cases(name):
        mine = {k: emulator.asarray(v) if isinstance(v, np.ndarray) else v for k, v in case.items()}
        expected = own(function(**mine))
        shapes = expected if isinstance(expected, tuple) else (expected,)
        out = tuple(OfLibrary(np.full_like(each, 7)) for each in shapes)
        given = out if isinstance(expected, tuple) else out[0]
        got = function(**mine, out=given)
        for one, each, want in zip(
            got if isinstance(got, tuple) else (got,), out, shapes, strict=True
        ):
            assert one is each
            np.testing.assert_array_equal(each.array, want)


def test_in_place(emulated: Any) -> None:
    x = OfLibrary(X.copy())
    assert cs.softmax(x, out=x) is x
    np.testing.assert_allclose(x.array, reference.softmax(X), rtol=1e-6)
    logits = OfLibrary(X.copy())
    loss, gradient = cs.cross_entropy(logits, OfLibrary(np.arange(4)), inplace=True)
    assert gradient is logits and type(loss) is OfLibrary and loss.array.shape == ()
    assert abs(gradient.array.sum()) < 1e-6 < abs(gradient.array).sum()


def test_the_functions_of_scipy(emulated: Any) -> None:
    a, b = OfLibrary(X), OfLibrary(X[:1])
    for name in ("softmax", "log_softmax", "logsumexp"):
        got = getattr(compat, name)(a)
        np.testing.assert_array_equal(got.array, own(getattr(compat, name)(emulator.asarray(X))))
    value, sign = compat.logsumexp(a, b=b, return_sign=True)
    assert type(value) is type(sign) is OfLibrary


def test_nothing_is_copied_and_all_is_given_back(emulated: Any) -> None:
    """A strided view is read where it lies; results live as long as a view of them does."""
    given = ByCapsule(X, version=(1, 0))
    y = cs.softmax(given)
    assert type(y) is cupy.ndarray, "of a library of which nothing is known"
    assert len(given.asked) == given.freed == 1
    made: list[weakref.ref[Any]] = []

    def allocate(nbytes: int) -> Any:
        made.append(weakref.ref(room := np.empty(nbytes, np.uint8)))
        return arrays.memory(room.ctypes.data, nbytes, room, 0)

    with cupy.cuda.using_allocator(allocate):
        view = cs.softmax(OfLibrary(X[::2, ::-1])).array[1:]
    gc.collect()
    (memory,) = made
    assert memory() is not None and view.__array_interface__["data"][0] != X.ctypes.data
    np.testing.assert_allclose(view, reference.softmax(X[::2, ::-1])[1:], rtol=1e-6)
    del view
    assert memory() is None


# ------------------------------------------------------------------------------ what capsules hold


@pytest.mark.parametrize("version", [None, (1, 0), (1, 7)])
def test_capsules_of_all_versions(emulated: Any, version: tuple[int, int] | None) -> None:
    fields = {} if version is None else {"version": version, "flags": 1}
    given = ByCapsule(X.T, **fields)
    np.testing.assert_allclose(own(cs.softmax(given, 0)), reference.softmax(X).T, rtol=1e-6)
    asked = {"stream": None, "max_version": (1, 0)}
    assert given.asked[0] == asked
    assert given.asked[1:] == ([{"stream": None}] if version is None else [])


def test_fields_of_a_capsule(emulated: Any) -> None:
    pinned = 3, 0
    for fields in (
        {"strides": None},
        {"device": pinned},
        {"byte_offset": 64},
        {"strides": None, "byte_offset": 4},
    ):
        np.testing.assert_allclose(
            own(cs.softmax(ByCapsule(X, **fields))), reference.softmax(X), rtol=1e-6
        )
    for shape in ((), (0, 3), (3, 0)):
        nowhere = ByCapsule(np.ones(shape, np.float32), **({} if not shape else {"data": 0}))
        assert cs.softmax(nowhere).shape == shape


CODES = [
    *(((0, 8 << i), f"i{1 << i}") for i in range(4)),
    *(((1, 8 << i), f"u{1 << i}") for i in range(4)),
    *(((2, 8 << i), f"f{1 << i}") for i in (1, 2, 3)),
    ((6, 8), "?"),
]


@pytest.mark.parametrize(("code", "dtype"), CODES)
def test_dtypes(emulated: Any, code: tuple[int, int], dtype: str) -> None:
    x = abs(X).astype(dtype)
    got = cs.softmax(ByCapsule(x, code))
    np.testing.assert_array_equal(own(got), own(cs.softmax(emulator.asarray(x))))


def test_bfloat16(emulated: Any) -> None:
    """By either protocol, which NumPy has no exporter of."""
    x = X.astype(ml_dtypes.bfloat16)
    expected = own(cs.softmax(emulator.asarray(x)))
    assert expected.dtype == ml_dtypes.bfloat16
    for given in (ByCapsule(x, (4, 16)), ByInterface(emulator.asarray(x), typestr="<V2")):
        np.testing.assert_array_equal(own(cs.softmax(given)), expected)


def test_results_of_bfloat16(emulated: Any) -> None:
    """They go out as integers, of which the library makes its own bfloat16."""

    class Library(ByCapsule):
        def __array_namespace__(self) -> Any:
            class Namespace:
                bfloat16 = ml_dtypes.bfloat16
                from_dlpack = staticmethod(np.from_dlpack)

            return Namespace

    x = X.astype(ml_dtypes.bfloat16)
    got = cs.softmax(Library(x, (4, 16)))
    assert type(got) is np.ndarray and got.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(got, own(cs.softmax(emulator.asarray(x))))
    without = OfLibrary(X)
    assert type(cs.softmax(without, dtype="bfloat16")) is cupy.ndarray


def test_the_interface(emulated: Any) -> None:
    memory = emulator.asarray(np.asfortranarray(X))
    for entries in ({}, {"stream": 1}, {"data": (memory.data.ptr, True)}, {"version": 2}):
        got = cs.softmax(ByInterface(memory, **entries))
        np.testing.assert_allclose(own(got), reference.softmax(X), rtol=1e-6)
    plain = emulator.asarray(X)
    for strides in (None, plain.strides):
        got = cs.softmax(ByInterface(plain, strides=strides))
        np.testing.assert_allclose(own(got), reference.softmax(X), rtol=1e-6)
    nowhere = ByInterface(emulator.asarray(np.ones((0, 3))), data=(0, False))
    assert cs.softmax(nowhere).shape == (0, 3)
    out = ByInterface(emulator.asarray(np.empty_like(X)))
    assert cs.softmax(plain, out=out) is out
    np.testing.assert_allclose(own(out.array), reference.softmax(X), rtol=1e-6)


# ------------------------------------------------------------------------------------------ errors


class Refusing:
    """An array that does not give its memory."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("sparse\nand more")


class Wanting(Refusing):
    """One that requires a gradient."""

    requires_grad = True


class Broken:
    """One whose interface raises."""

    @property
    def __cuda_array_interface__(self) -> Any:
        raise NotImplementedError("masked")


def faulty(**fields: Any) -> ByCapsule:
    return ByCapsule(X, fields.pop("code", (2, 32)), **fields)


def interface(**entries: Any) -> ByInterface:
    return ByInterface(emulator.asarray(X), **entries)


PLAIN = "give an array of plain, strided memory"
REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        Refusing,
        TypeError,
        rf"x is a .*\.Refusing that does not share its memory \(sparse\); {PLAIN}",
    ),
    (Wanting, TypeError, r"x requires a gradient, .*cusoftmax\.torch.*x\.detach\(\)"),
    (Broken, TypeError, rf"x is a .*\.Broken that does not share its memory \(masked\); {PLAIN}"),
    (lambda: faulty(data=0), TypeError, r"its memory \(its address is 0\)"),
    (lambda: interface(data=(0, False)), TypeError, r"its memory \(its address is 0\)"),
    (lambda: interface(data=None), TypeError, r"its memory \('data'\)"),
    (lambda: interface(data=7), TypeError, r"its memory \(cannot unpack non-iterable int"),
    (lambda: interface(shape=(-4, 6)), TypeError, r"its interface has shape \(-4, 6\)"),
    (lambda: interface(strides=(4,)), TypeError, r"and strides \(4,\)\); give"),
    (lambda: interface(typestr="none"), TypeError, r"its memory \(data type 'none' not"),
    (lambda: interface(typestr=">f4"), TypeError, r"x has dtype .*, which is not accepted"),
    (lambda: faulty(version=(2, 0)), TypeError, r"\(in a version of DLPack that is not known\)"),
    (
        lambda: faulty(code=(5, 64)),
        TypeError,
        r"x has dtype unknown, which is not accepted; the dt",
    ),
    (lambda: faulty(code=(10, 8)), TypeError, r"x has dtype unknown, which is not accepted"),
    (lambda: faulty(code=(2, 8)), TypeError, r"x has dtype unknown, which is not accepted"),
    (lambda: faulty(lanes=2), TypeError, r"x has dtype unknown, which is not accepted"),
    (
        lambda: faulty(device=(2, 0)),
        TypeError,
        r"on a GPU, and the emulator runs on the host; give",
    ),
    (lambda: faulty(device=(8, 0)), TypeError, r"on a device of another kind \(8 in DLPack\), and"),
    (lambda: interface(typestr="<V2"), TypeError, r"x has dtype float32, which is not accepted"),
    (lambda: interface(typestr="<c8"), TypeError, r"x has dtype complex64, which is not accepted"),
    (lambda: interface(mask=1), TypeError, r"x is a .*ByInterface with a mask of its own, which"),
    (lambda: X, TypeError, r"x is a numpy\.ndarray, .*; pass cusoftmax\.emulator\.asarray\(x\)"),
    (lambda: OfLibrary(X[0, 0]), TypeError, "x is a .*OfLibrary that does not share its memory"),
    (
        lambda: ByCapsule(X, byte_offset=2, strides=None, data=X.ctypes.data),
        ValueError,
        "misaligned",
    ),
]


@pytest.mark.parametrize(("made", "kind", "said"), REFUSED)
def test_what_cannot_be_lent_is_refused(
    emulated: Any, made: Callable[[], Any], kind: type[Exception], said: str
) -> None:
    for call in (
        lambda: cs.softmax(made()),
        lambda: cs.softmax(made(), scale=2.0, causal=True),
        lambda: cs.logsumexp(made(), b=made()),
        lambda: cs.gumbel_softmax(made(), seed=1, temperature=0),
    ):
        with emulator.trace(accesses=False) as report, pytest.raises(kind, match=said) as refused:
            call()
        assert type(refused.value) is kind
        assert refused.value.__context__ is refused.value.__cause__ is None
        assert not report.launches


def test_host_arrays_are_refused_without_the_emulator() -> None:
    torch = type("Tensor", (ByCapsule,), {"__module__": "torch"})
    for kind, how in ((ByCapsule, r"cupy\.asarray\(x\)"), (torch, r"x\.cuda\(\)")):
        said = rf"in host memory, and only arrays on the GPU are accepted; pass {how}"
        with pytest.raises(TypeError, match=said):
            cs.softmax(kind(X))


def test_results_that_must_not_be_written(emulated: Any) -> None:
    for flags in (1, 2):
        with pytest.raises(
            ValueError, match=r"^softmax: out is read-only, or its library gave a co"
        ):
            cs.softmax(emulator.asarray(X), out=ByCapsule(X, version=(1, 0), flags=flags))
    fixed = interface(data=(emulator.asarray(X).data.ptr, True))
    with pytest.raises(ValueError, match="out is read-only"):
        cs.softmax(fixed, out=fixed)
    jax = type("ArrayImpl", (OfLibrary,), {"__module__": "jaxlib._jax"})
    with pytest.raises(
        TypeError, match=r"out is a jaxlib\._jax\.ArrayImpl, which cannot be written"
    ):
        cs.softmax(jax(X), out=jax(X))
    for made, error in (
        (lambda: jax(X), TypeError),
        (lambda: ByCapsule(X, version=(1, 0), flags=1), ValueError),
    ):
        with pytest.raises(error, match="cross_entropy: logits is "):
            cs.cross_entropy(made(), emulator.asarray(np.arange(4)), inplace=True)
        cs.cross_entropy(made(), emulator.asarray(np.arange(4)), grad=True)
    tracer = type("Tracer", (), {"__module__": "jax.core"})
    with pytest.raises(
        TypeError, match=r"x is a jax\.core\.Tracer, .* call it outside of jax\.jit"
    ):
        cs.softmax(tracer())


def test_the_checks_of_a_call_name_their_arguments(emulated: Any) -> None:
    x, half = OfLibrary(X), OfLibrary(X[:2])
    for call, said in (
        (lambda: cs.softmax_vjp(x, half), r"softmax_vjp: dy has shape \(2, 6\) and y has \(4, 6\)"),
        (lambda: cs.softmax(x, mask=x), "softmax: mask has dtype float32"),
        (lambda: cs.softmax(x, out=OfLibrary(X[:, ::-1])), "softmax: out overlaps x"),
        (
            lambda: cs.softmax_vjp_vjp(x, x, x, out=x),
            "softmax_vjp_vjp: out is a OfLibrary; give a t",
        ),
        (lambda: cs.cross_entropy(x, half), r"cross_entropy: target has shape \(2, 6\)"),
        (lambda: cs.softmax(x, axis=2), "axis 2 is out of bounds"),
    ):
        with pytest.raises((TypeError, ValueError), match=said):
            call()


# -------------------------------------------------------------------------------------- libraries


def test_numba(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arrays are made by a function of its own; here a module stands for it."""
    import sys
    from types import ModuleType

    cuda = ModuleType("numba.cuda")
    cuda.as_cuda_array = ByInterface  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "numba.cuda", cuda)
    kind = type("DeviceNDArray", (ByInterface,), {"__module__": "numba.cuda.cudadrv.devicearray"})
    monkeypatch.setattr(emulator.EmulatorBackend, "shared", lambda self, array: array)
    got = cs.softmax(kind(emulator.asarray(X)))
    assert type(got) is ByInterface
    np.testing.assert_allclose(own(got.array), reference.softmax(X), rtol=1e-6)


def torch_tensor(torch: Any, device: Any, array: np.ndarray) -> Any:
    return torch.from_numpy(array.copy()).to("cpu" if device.name == "emulator" else "cuda")


@pytest.fixture
def torch(device: Any) -> Any:
    found = pytest.importorskip("torch", reason="needs PyTorch, which is no dependency")
    if device.name == "cuda" and not found.cuda.is_available():
        pytest.skip("this PyTorch sees no GPU")
    return found


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int32", "bool"])
def test_tensors_of_torch(device: Any, torch: Any, dtype: str) -> None:
    x = torch_tensor(torch, device, X).to(getattr(torch, dtype))
    wide = x.to(torch.float64)
    y = cs.softmax(x)
    assert type(y) is torch.Tensor and y.device == x.device
    assert y.dtype == (x.dtype if x.dtype.is_floating_point else torch.float64)
    torch.testing.assert_close(y.double(), torch.softmax(wide, -1), rtol=2**-8, atol=1e-3)
    strided = x.t()[::2]
    again = cs.softmax(strided, 0)
    torch.testing.assert_close(again, torch.softmax(strided.to(y.dtype), 0))


def test_torch_and_its_own_functions(device: Any, torch: Any) -> None:
    x = torch_tensor(torch, device, X)
    target = torch_tensor(torch, device, np.arange(4))
    loss, gradient = cs.cross_entropy(x, target, grad=True, label_smoothing=0.1)
    wanted = x.clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(wanted, target, label_smoothing=0.1)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, wanted.grad)
    out = torch.empty_like(x)
    mask = x > x.amin(-1, keepdim=True)
    assert cs.softmax(x, out=out, mask=mask) is out
    torch.testing.assert_close(out, torch.softmax(x.masked_fill(~mask, -torch.inf), -1))
    assert cs.softmax(x[:0]).shape == (0, 6) and cs.logsumexp(x[:, :0]).isneginf().all()
    assert type(cs.softmax_vjp(device.asarray(X), x)) is cupy.ndarray
    with pytest.raises(TypeError, match=r"softmax: x requires a gradient, .*cusoftmax\.torch"):
        cs.softmax(wanted)
    with pytest.raises(TypeError, match=r"x is a torch\.Tensor that does not share its memory"):
        cs.softmax(x.to_sparse())
    with pytest.raises(TypeError, match=r"x has dtype torch\.complex64, which is not accepted"):
        cs.softmax(x.to(torch.complex64))


def test_what_torch_knows_beside_the_memory(device: Any, torch: Any) -> None:
    """Negatives and tangents are refused; tensors that are written count as changed."""
    x = torch_tensor(torch, device, X)
    negative = torch.complex(x, x).conj().imag
    out = torch.zeros_like(x)
    for call in (lambda: cs.softmax(negative), lambda: cs.softmax(x, out=negative)):
        with pytest.raises(TypeError, match=r"negative of what its memory holds; .*resolve_neg"):
            call()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        with pytest.raises(TypeError, match=r"x has a tangent, .*cusoftmax\.torch"):
            cs.softmax(dual)
    leaf = x.clone().requires_grad_()
    kept = leaf * out  # its gradient needs `out`
    version = out._version
    cs.softmax(x, out=out)
    assert out._version == version + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()
    with torch.inference_mode():
        unversioned = torch.zeros_like(x)
        assert cs.softmax(x, out=unversioned) is unversioned


def test_jax(emulated: Any) -> None:
    jax = pytest.importorskip("jax", reason="needs JAX, which is no dependency")
    x = jax.numpy.asarray(X)
    for given in (x, x.astype("bfloat16")):
        y = cs.softmax(given)
        assert isinstance(y, jax.Array) and y.dtype == given.dtype
        np.testing.assert_allclose(
            np.asarray(y, np.float32), jax.nn.softmax(given.astype("float32")), rtol=2**-8
        )
    with pytest.raises(TypeError, match="which cannot be written"):
        cs.softmax(x, out=x)
    with pytest.raises(TypeError, match=r"call it outside of jax\.jit"):
        jax.jit(cs.softmax)(x)


def test_the_array_api(emulated: Any) -> None:
    xp = pytest.importorskip("array_api_strict", reason="needs array_api_strict")
    y = cs.softmax(xp.asarray(X))
    assert type(y) is type(xp.asarray(X))
    np.testing.assert_allclose(np.asarray(y), reference.softmax(X), rtol=1e-6)
