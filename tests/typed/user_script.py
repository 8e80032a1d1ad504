"""A user's script, which ``mypy --strict`` must accept; tests/test_typing.py runs it. Not executed.

CuPy has no type information: to a type checker, a CuPy array is `Any`. ``mypy.ini`` in this folder
has the two lines with which a project says so.
"""

from typing import Any, assert_type

import cupy

import cusoftmax as cs
from cusoftmax.compat import scipy

Pair = tuple[cupy.ndarray, cupy.ndarray]

x = cupy.zeros((4, 6), dtype="float32")
target = cupy.zeros(4, dtype="int64")
flag = bool(len(x.shape))

# One result or two, by flags that are known.
assert_type(cs.logsumexp(x), cupy.ndarray)
assert_type(cs.logsumexp(x, 0, True, x, dtype="float64", scale=2), cupy.ndarray)
assert_type(cs.logsumexp(x, return_sign=False, out=target), cupy.ndarray)
assert_type(cs.logsumexp(x, return_sign=True), Pair)
assert_type(cs.logsumexp(x, None, b=x, return_sign=True, out=(x, x), causal=True), Pair)
assert_type(cs.logsumexp(x, return_sign=flag), cupy.ndarray | Pair)
assert_type(scipy.logsumexp(x), cupy.ndarray)
assert_type(scipy.logsumexp(x, b=x, return_sign=True), Pair)
assert_type(scipy.logsumexp(x, return_sign=flag), cupy.ndarray | Pair)

assert_type(cs.cross_entropy(x, target), cupy.ndarray)
assert_type(cs.cross_entropy(x, target, -1, None, -100, 0.1, reduction="sum"), cupy.ndarray)
assert_type(cs.cross_entropy(x, target, grad=False, inplace=False, check=True), cupy.ndarray)
assert_type(cs.cross_entropy(x, target, grad=True), Pair)
assert_type(cs.cross_entropy(x, target, inplace=True, softcap=30.0), Pair)
assert_type(cs.cross_entropy(x, target, grad=False, inplace=True), Pair)
assert_type(cs.cross_entropy(x, target, grad=flag), cupy.ndarray | Pair)


class Tensor:
    """As another library's, which shares its memory by DLPack."""

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


class DeviceArray:
    """And one by ``__cuda_array_interface__``."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {}


# Results are of the type of the first array; others may be of any.
t, n = Tensor(), DeviceArray()
assert_type(cs.softmax(t), Tensor)
assert_type(cs.softmax(n, 0, "float32", scale=2.0, mask=x > 0, bias=t), DeviceArray)
assert_type(cs.softmax_vjp(t, x, out=n), Tensor)
assert_type(cs.softmax_vjp_vjp(t, t, n), tuple[Tensor, Tensor])
assert_type(cs.softmax_value_and_jvp(t, n, causal=True), tuple[Tensor, Tensor])
assert_type(cs.softmax_jacobian(t), Tensor)
assert_type(cs.logsumexp(t, b=n), Tensor)
assert_type(cs.logsumexp(t, return_sign=True, out=(t, x)), tuple[Tensor, Tensor])
assert_type(cs.logsumexp_vjp(n, t), DeviceArray)
assert_type(cs.cross_entropy(t, n, weight=x), Tensor)
assert_type(cs.cross_entropy(t, n, grad=True), tuple[Tensor, Tensor])
assert_type(cs.cross_entropy_vjp(t, t, t), Tensor)
assert_type(cs.topk_softmax(t, 2), tuple[Tensor, Tensor])
assert_type(cs.sample(t, seed=1), Tensor)
assert_type(cs.gumbel_softmax(t, seed=1), Tensor)
assert_type(cs.segment_softmax(t, n), Tensor)
assert_type(scipy.softmax(t), Tensor)
assert_type(scipy.logsumexp(t, b=x, return_sign=True), tuple[Tensor, Tensor])
with scipy.patch():
    pass

# What may be done with a result at once.
shapes: list[tuple[int, ...]] = [cs.logsumexp(x).shape, cs.cross_entropy(x, target).shape]
loss, gradient = cs.cross_entropy(x, target, grad=True, reduction="none")
values, indices = cs.topk_softmax(x, 2, normalise="topk", dtype="float32")
gy, gdy = cs.softmax_vjp_vjp(x, x, x, axis=(0, 1))

# Dtypes as NumPy's functions take them; one axis, several, or all.
for dtype in ("float16", cupy.float32, float):
    cs.softmax(x, axis=None, dtype=dtype)
cs.softmax(x, axis=(0, 1), out=x, scale=0.5, mask=x > 0, bias=x, causal=False)
cs.sample(x, seed=7, temperature=0.5)

plan = cs.explain("softmax", shape=x.shape, dtype=("float16",), arch="sm_90")
assert_type(plan.rows, int)
cs.warmup(["softmax"], shapes=[(4096, 32000)], dtypes=["float16"])
