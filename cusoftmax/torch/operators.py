"""The operators ``torch.ops.cusoftmax``: schema, kernel, results without a kernel, rule for vmap.

Each entry of `OPERATORS` is one launch of this package, or one public function. Operands are first
the tensors, then the numbers; dimensions are negative, so that a batch may come before them.
`derivatives` has the derivatives of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import cusoftmax as cs
from cusoftmax.functions import _losses
from cusoftmax.operations.dtypes import compute_dtype
from cusoftmax.planning.checks import Array
from cusoftmax.runtime import launch
from cusoftmax.torch.tensors import as_array, launching

Tensors = tuple[Tensor, ...]

LIBRARY = torch.library.Library("cusoftmax", "DEF")  # the operators live as long as it does
ops = torch.ops.cusoftmax


@dataclass(frozen=True)
class Operator:
    """What PyTorch is told of an operator.

    Attributes
    ----------
    name : str
        Its name in ``torch.ops.cusoftmax``.
    tensors : tuple of str
        Names of the tensor operands; one that may be None ends in ``?``.
    options : str
        The other operands, in the language of PyTorch's schemas.
    results : callable
        Makes the uninitialised results of a call from its arguments.
    launch : callable
        Runs a call: the results' arrays, the operands' arrays, then the options. None for an
        operator that has a `kernel` of its own.
    returned : int
        How many results there are.
    fixed : tuple of str
        Tensor operands that cannot have a batch: with one, `torch.vmap` runs the batch one by one.
    one_by_one : bool
        Whether it always does.
    batch_last : bool
        Whether a batch comes behind the other dimensions, rather than before them.
    on_host : tuple of str
        Tensor operands that are read by the host: a seed.
    """

    name: str
    tensors: tuple[str, ...]
    options: str
    results: Callable[..., Tensors]
    launch: Callable[..., Any] | None = None
    returned: int = 1
    fixed: tuple[str, ...] = ()
    one_by_one: bool = False
    batch_last: bool = False
    on_host: tuple[str, ...] = ()

    @property
    def schema(self) -> str:
        """The signature, in the language of PyTorch's schemas."""
        kinds = [
            f"Tensor? {name[:-1]}" if name.endswith("?") else f"Tensor {name}"
            for name in self.tensors
        ]
        operands = ", ".join([*kinds, *filter(None, [self.options])])
        returned = "Tensor" if self.returned == 1 else f"({', '.join(['Tensor'] * self.returned)})"
        return f"{self.name}({operands}) -> {returned}"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the tensor operands, then of the options."""
        options = [option.split()[-1] for option in self.options.split(", ") if option]
        return (*(name.rstrip("?") for name in self.tensors), *options)

    @cached_property
    def overload(self) -> Any:
        """The operator, as PyTorch calls it."""
        return getattr(ops, self.name).default

    def fake(self, *args: Any) -> Any:
        """Return results of the right shapes and dtypes, with no values."""
        if "dim" in self.names:
            dims, ndim = args[self.names.index("dim")], args[0].dim()
            for dim in (dims,) if isinstance(dims, int) else dims:
                if not -ndim <= dim < 0:
                    raise IndexError(
                        f"{self.name}: dim={dim} of a tensor with {ndim} dimensions; the operators "
                        f"take negative dimensions, from -{ndim} to -1"
                    )
        made = self.results(*args)
        return made[0] if self.returned == 1 else made

    def kernel(self, *args: Any) -> Any:
        """Make the results and launch."""
        assert self.launch is not None
        made = self.fake(*args)
        count = len(self.tensors)
        operands = [
            None if tensor is None
            else tensor.item() if name in self.on_host
            else as_array(self.name, name, tensor)
            for name, tensor in zip(self.names, args[:count], strict=False)
        ]  # fmt: skip
        outs = (made,) if self.returned == 1 else made
        arrays = tuple(as_array(self.name, "out", out) for out in outs)
        with launching(args[0].device):
            self.launch(arrays, *operands, *args[count:])
        return made

    def batched(self, info: Any, in_dims: Sequence[int | None], *args: Any) -> Any:
        """Run a batch of calls, as one where that is possible: the rule for `torch.vmap`."""
        count = len(self.tensors)
        dims = dict(zip(self.names[:count], in_dims, strict=False))
        if self.one_by_one or any(dims[name] is not None for name in self.fixed):
            return self._one_by_one(info.batch_size, in_dims, args)
        ndim = args[0].dim() - (in_dims[0] is not None)
        place = -1 if self.batch_last else 0
        operands = []
        for name, tensor, dim in zip(self.tensors, args, in_dims, strict=False):
            if tensor is None or name.rstrip("?") in self.fixed:
                operands.append(tensor)
            elif dim is not None:
                moved = tensor.movedim(dim, place)
                if name.endswith("?"):  # broadcast against the first, but for the batch
                    missing = (None,) * (ndim - moved.dim() + 1)
                    moved = moved[(slice(None), *missing)]
                operands.append(moved)
            elif name.endswith("?"):
                operands.append(tensor)
            else:
                whole = tensor.unsqueeze(place)
                shape = list(whole.shape)
                shape[place] = info.batch_size
                operands.append(whole.expand(shape))
        made = self.overload(*operands, *args[count:])
        outs = (made,) if self.returned == 1 else made
        out_dims = tuple(out.dim() - 1 if self.batch_last else 0 for out in outs)
        return made, out_dims[0] if self.returned == 1 else out_dims

    def _one_by_one(self, size: int, in_dims: Sequence[int | None], args: tuple[Any, ...]) -> Any:
        calls = [
            self.overload(
                *(
                    arg.select(dim, i) if isinstance(arg, Tensor) and dim is not None else arg
                    for arg, dim in zip(args, in_dims, strict=True)
                )
            )
            for i in range(size)
        ]
        if self.returned == 1:
            return torch.stack(calls), 0
        return tuple(map(torch.stack, zip(*calls, strict=True))), (0,) * self.returned


# ---------------------------------------------------------------------------- results and launches


def _like_first(*args: Any) -> Tensors:
    return (torch.empty_like(args[0], dtype=args[-1]),)


def _row_values(x: Tensor, *args: Any) -> Tensors:
    """A value for each row, the dimensions of the row kept with size 1."""
    dim, dtype = args[2], args[-1]
    ndim = x.dim()
    shape = [1 if d - ndim in dim else size for d, size in enumerate(x.shape)]
    return (x.new_empty(shape, dtype=dtype),)


def _without(x: Tensor, dim: int) -> list[int]:
    """The shape without one dimension."""
    shape = list(x.shape)
    del shape[dim]
    return shape


def _axis(dim: Sequence[int]) -> int | tuple[int, ...]:
    return dim[0] if len(dim) == 1 else tuple(dim)


def _of_logits(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    def run(
        outs: tuple[Array, ...], x: Array, mask: Array, bias: Array, dim: Sequence[int],
        scale: float, causal: bool, dtype: Any,
    ) -> None:  # fmt: skip
        factor = None if scale == 1 else scale
        function(
            *(x, _axis(dim)), out=outs[0], scale=factor, mask=mask, bias=bias, causal=causal,
            **options,
        )  # fmt: skip

    return run


def _of_results(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(
        outs: tuple[Array, ...], y: Array, v: Array, mask: Array, dim: Sequence[int],
        scale: float, causal: bool, dtype: Any,
    ) -> None:  # fmt: skip
        factor = None if scale == 1 else scale
        function(y, v, _axis(dim), outs[0], scale=factor, mask=mask, causal=causal)

    return run


def _of_logits_and(
    function: Callable[..., Any], pair: bool = False, **options: Any
) -> Callable[..., Any]:
    """The same of logits and one more tensor, with a pair of results or one."""

    def run(
        outs: tuple[Array, ...], x: Array, v: Array, mask: Array, bias: Array,
        dim: Sequence[int], scale: float, causal: bool, dtype: Any,
    ) -> None:  # fmt: skip
        factor = None if scale == 1 else scale
        function(
            *(x, v, _axis(dim)), out=outs if pair else outs[0], scale=factor, mask=mask, bias=bias,
            causal=causal, **options,
        )  # fmt: skip

    return run


def _rows_of_losses(
    outs: tuple[Array, ...], logits: Array, target: Array, weight: Array | None,
    dim: int, ignore_index: int, label_smoothing: float, z_loss: float, softcap: float | None,
    dtype: Any,
) -> None:  # fmt: skip
    options = (dim, ignore_index, label_smoothing, z_loss, softcap)
    rows_of_losses((outs[0],), logits, target, None, weight, *options)


def rows_of_losses(
    outs: tuple[Array, ...], logits: Array, target: Array, upstream: Array | None,
    weight: Array | None, dim: int, ignore_index: int, label_smoothing: float, z_loss: float,
    softcap: float | None,
) -> None:  # fmt: skip
    """``cross_entropy(reduction="none")`` whose losses have a dtype of their own.

    With `upstream`, the gradients with respect to each row's loss, the results are the gradient
    with respect to the logits, which may lie over them, and the losses.
    """
    rows = _losses._Rows("cross_entropy", logits, target, dim, weight)
    arithmetic = compute_dtype(rows.counted, outs[-1].dtype.name)
    options = _losses.Options.checked(
        "cross_entropy", arithmetic, ignore_index, label_smoothing, z_loss, softcap
    )
    if upstream is None:
        rows.run(options, "", (), 1.0, None, outs[0])
    else:
        rows.run(options, "grad_up", (upstream,), 1.0, None, outs, inplace=True)


def _loss_gradient(
    outs: tuple[Array, ...], logits: Array, target: Array, dloss: Array, weight: Array | None,
    dim: int, ignore_index: int, label_smoothing: float, z_loss: float, softcap: float | None,
) -> None:  # fmt: skip
    cs.cross_entropy_vjp(
        *(logits, target, dloss, dim, weight, ignore_index, label_smoothing, z_loss, softcap),
        out=outs[0],
    )


def _divisor(
    outs: tuple[Array, ...], target: Array, weight: Array | None, ignore_index: int, classes: int,
    dtype: Any,
) -> None:  # fmt: skip
    stride = 0 if weight is None else weight.strides[0]
    tables = () if weight is None else (weight,)
    launch.run(
        "cross_entropy_divisor" + "_weight" * bool(tables),
        *((target, *tables), None, None, outs[0], False, (ignore_index, stride, classes)),
    )


def _selected(x: Tensor, k: int, dim: int, gates: bool, dtype: Any) -> Tensors:
    shape = list(x.shape)
    shape[dim] = k
    return x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=torch.int64)


# --------------------------------------------------------------------------------------- the table

_SHAPE = "int[] dim, float scale, bool causal, ScalarType dtype"
_LOSS = "int dim, int ignore_index, float label_smoothing, float z_loss, float? softcap"
_LOGITS = ("x", "mask?", "bias?")

OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("softmax", _LOGITS, _SHAPE, _like_first, _of_logits(cs.softmax)),
        Operator("log_softmax", _LOGITS, _SHAPE, _like_first, _of_logits(cs.log_softmax)),
        Operator(
            "logsumexp", _LOGITS, _SHAPE, _row_values, _of_logits(cs.logsumexp, keepdims=True)
        ),
        # ---- first derivatives; softmax_vjp is the JVP too, as the Jacobian is symmetric ----
        Operator(
            "softmax_vjp", ("y", "dy", "mask?"), _SHAPE, _like_first, _of_results(cs.softmax_vjp)
        ),
        Operator(
            "log_softmax_vjp", ("logy", "dy", "mask?"), _SHAPE, _like_first,
            _of_results(cs.log_softmax_vjp),
        ),
        Operator(
            "log_softmax_jvp", ("logy", "xt", "mask?"), _SHAPE, _like_first,
            _of_results(cs.log_softmax_jvp),
        ),
        Operator(
            "logsumexp_vjp", ("x", "dy", "mask?", "bias?"), _SHAPE, _like_first,
            _of_logits_and(cs.logsumexp_vjp, keepdims=True),
        ),
        # ---- second derivatives ----
        Operator(
            "softmax_vjp_vjp", ("y", "dy", "g"), "int[] dim",
            lambda y, dy, g, dim: (torch.empty_like(y), torch.empty_like(dy)),
            lambda outs, y, dy, g, dim: cs.softmax_vjp_vjp(y, dy, g, _axis(dim), outs),
            returned=2,
        ),
        Operator(
            "softmax_hvp", ("y", "dy", "v"), "int[] dim, ScalarType dtype", _like_first,
            lambda outs, y, dy, v, dim, dtype: cs.softmax_hvp(y, dy, v, _axis(dim), outs[0]),
        ),
        Operator(
            "softmax_value_and_vjp", ("x", "dy", "mask?", "bias?"), _SHAPE,
            lambda *args: _like_first(*args) + _like_first(*args),
            _of_logits_and(cs.softmax_value_and_vjp, pair=True),
            returned=2,
        ),
        # ---- losses ----
        Operator(
            "cross_entropy", ("logits", "target", "weight?"), f"{_LOSS}, ScalarType dtype",
            lambda x, target, weight, dim, *options: (
                x.new_empty(_without(x, dim), dtype=options[-1]),
            ),
            _rows_of_losses,
            fixed=("weight",),
        ),
        Operator(
            "cross_entropy_vjp", ("logits", "target", "dloss", "weight?"), _LOSS,
            lambda logits, *_: (torch.empty_like(logits),),
            _loss_gradient,
            fixed=("weight",),
        ),
        Operator(
            "cross_entropy_divisor", ("target", "weight?"),
            "int ignore_index, SymInt classes, ScalarType dtype",
            lambda target, *options: (target.new_empty((), dtype=options[-1]),),
            _divisor,
            one_by_one=True,
        ),
        # ---- noise, selection, segments ----
        Operator(
            "gumbel_softmax", ("x", "seed"), "int dim, float temperature, ScalarType dtype",
            _like_first,
            lambda outs, x, seed, dim, temperature, dtype: cs.gumbel_softmax(
                x, dim, seed=seed, temperature=temperature, out=outs[0]
            ),
            one_by_one=True,
            on_host=("seed",),
        ),
        Operator(
            "sample", ("x", "seed"), "int dim, float temperature",
            lambda x, seed, dim, temperature: (x.new_empty(_without(x, dim), dtype=torch.int64),),
            lambda outs, x, seed, dim, temperature: cs.sample(
                x, dim, seed=seed, temperature=temperature, out=outs[0]
            ),
            one_by_one=True,
            on_host=("seed",),
        ),
        Operator(
            "topk_softmax", ("x",), "SymInt k, int dim, bool gates, ScalarType dtype", _selected,
            lambda outs, x, k, dim, gates, dtype: cs.topk_softmax(
                x, k, dim, "topk" if gates else "row", out=outs
            ),
            returned=2,
        ),
        Operator(
            "segment_softmax", ("x", "offsets"), "ScalarType dtype", _like_first,
            lambda outs, x, offsets, dtype: cs.segment_softmax(x, offsets, outs[0]),
            fixed=("offsets",),
            batch_last=True,
        ),
        Operator(
            "segment_softmax_vjp", ("y", "dy", "offsets"), "ScalarType dtype", _like_first,
            lambda outs, y, dy, offsets, dtype: cs.segment_softmax_vjp(y, dy, offsets, outs[0]),
            fixed=("offsets",),
            batch_last=True,
        ),
    )
}  # fmt: skip


def define(operator: Operator) -> None:
    """Make PyTorch know an operator."""
    LIBRARY.define(operator.schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(operator.name, operator.kernel, key)
    torch.library.register_fake(operator.overload, operator.fake, lib=LIBRARY)
    torch.library.register_vmap(operator.overload, operator.batched, lib=LIBRARY)


for _operator in OPERATORS.values():
    define(_operator)
