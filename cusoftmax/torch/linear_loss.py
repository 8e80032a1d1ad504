"""The loss of an output layer, without ever holding all of its logits.

Rows are taken in chunks. Each chunk's logits are computed into one buffer, `cross_entropy` writes
their gradient over them in the launch that computes the loss, and two products make of it the
gradients of the layer's input and weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor

from cusoftmax.torch import functional
from cusoftmax.torch.derivatives import Call, Grads, Rule, differentiate
from cusoftmax.torch.operators import Operator, define, ops, rows_of_losses
from cusoftmax.torch.tensors import as_array, check_tensor, launching


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    chunk: int | None = None,
    compensated: bool = True,
) -> Tensor:
    """``cross_entropy(linear(hidden, weight, bias), target)`` in the memory of one chunk of logits.

    Parameters
    ----------
    hidden : torch.Tensor, shape (..., H)
        The input of the layer; dtypes as for `softmax`.
    weight : torch.Tensor, shape (C, H)
        The layer's weights, in the dtype of `hidden`, as for `torch.nn.functional.linear`.
    target : torch.Tensor, shape (...) or (..., C)
        Integers, the class of each row, or floats, the probability of each class.
    bias : torch.Tensor, shape (C,), optional
        The layer's bias, in the dtype of `hidden`.
    class_weight : torch.Tensor, shape (C,), optional
        As `weight` for `cross_entropy`.
    ignore_index, reduction, label_smoothing, z_loss, softcap
        As for `cross_entropy`.
    chunk : int, optional
        How many rows of logits to hold. By default so many that they take as much memory as
        `hidden`, and at least 128.
    compensated : bool
        Whether the gradient of 16-bit weights is summed over the chunks in two such tensors, of
        which the second holds what the first has lost. It takes the memory of the weights, for the
        time of the call; without it each chunk rounds.

    Returns
    -------
    torch.Tensor
        The loss, or with ``reduction="none"`` that of each row, of shape ``(...)``, with
        the dtype as in `cross_entropy`.

    Raises
    ------
    TypeError
        As `cross_entropy`.
    ValueError
        If shapes do not fit, or an option is out of range.
    NotImplementedError
        For a second derivative.

    Notes
    -----
    With a sum or mean the gradients are computed with the loss, as long as one is needed. Without
    reduction the backward pass computes the logits again, chunk by chunk; so it does in float16,
    where the scale of a loss must come before the gradients of logits, which may vanish.

    Examples
    --------
    >>> import torch, cusoftmax.torch as ct
    >>> hidden = torch.tensor([[1.0, 2.0], [0.0, 1.0]], device="cuda")
    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], device="cuda")
    >>> ct.linear_cross_entropy(hidden, weight, torch.tensor([2, 0], device="cuda"))
    tensor(1.1348, device='cuda:0')
    """
    caller = "linear_cross_entropy"
    functional.check_reduction(caller, reduction)
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if tensor is not None or name != "bias":
            check_tensor(caller, name, tensor)
    functional.check_targets(caller, target, class_weight, ignore_index, "class_weight")
    if hidden.dim() < 1 or weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear_cross_entropy: hidden has shape {tuple(hidden.shape)} and weight "
            f"{tuple(weight.shape)}; give them shapes (..., H) and (C, H)"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"linear_cross_entropy: bias has shape {tuple(bias.shape)} and weight "
            f"{tuple(weight.shape)}; give bias shape ({weight.shape[0]},)"
        )
    if _is_autocast(hidden):  # as it makes of `linear`
        hidden, weight = _autocast(hidden), _autocast(weight)
        bias = None if bias is None else _autocast(bias)
    if any(other is not None and other.dtype != hidden.dtype for other in (weight, bias)):
        given = ("hidden", hidden), ("weight", weight), ("bias", bias)
        dtypes = ", ".join(f"{name} has {t.dtype}" for name, t in given if t is not None)
        raise TypeError(f"linear_cross_entropy: {dtypes}; give all one dtype")
    result = functional.result_dtype("cross_entropy", hidden, None)
    dtype = result if reduction == "none" else torch.promote_types(result, torch.float32)
    each, classes = tuple(hidden.shape[:-1]), weight.shape[0]
    rows = hidden.reshape(prod(each), hidden.shape[-1])
    soft = target.is_floating_point()
    if tuple(target.shape) != (*each, classes) if soft else tuple(target.shape) != each:
        raise ValueError(
            f"linear_cross_entropy: target has shape {tuple(target.shape)}; give it shape "
            f"{(*each, classes) if soft else each}, one {'probability' if soft else 'class'} for "
            f"each {'class' if soft else 'row'}"
        )
    targets = target.reshape(prod(each), classes) if soft else target.reshape(-1)
    if chunk is None:
        chunk = max(128, rows.numel() // max(classes, 1))
    elif isinstance(chunk, bool) or not isinstance(chunk, int):
        raise TypeError(f"linear_cross_entropy: chunk={chunk!r} is not accepted; give an int")
    elif chunk < 1:
        raise ValueError(f"linear_cross_entropy: chunk={chunk} is not accepted; give at least 1")
    if compensated is not True and compensated is not False:
        raise TypeError(
            f"linear_cross_entropy: compensated={compensated!r} is not accepted; give True or False"
        )
    loss = (ignore_index, float(label_smoothing), float(z_loss), softcap)
    options = (*loss, chunk, compensated, dtype)
    differentiable = [t for t in (hidden, weight, bias) if t is not None and t.requires_grad]
    at_once = reduction != "none" and torch.is_grad_enabled() and differentiable
    # A mean over no rows is NaN, which no sum of them times a factor gives.
    if at_once and hidden.dtype != torch.float16 and rows.shape[0]:
        upstream = torch.ones(rows.shape[0], dtype=dtype, device=rows.device)
        if reduction == "mean":
            options_of_mean = (targets, class_weight, ignore_index, classes)
            upstream = functional.share_of_a_row(upstream, *options_of_mean) * upstream
        total, *_ = ops.linear_cross_entropy_total(
            rows, weight, targets, upstream, bias, class_weight, *options
        )
        return total.to(result)
    losses = ops.linear_cross_entropy(rows, weight, targets, bias, class_weight, *options)
    if reduction == "none":
        return losses.view(each)
    total = functional.reduced(losses, targets, class_weight, ignore_index, classes, reduction)
    return total.to(result)


def _is_autocast(tensor: Tensor) -> bool:
    kind = tensor.device.type
    return bool(torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind))


def _autocast(tensor: Tensor) -> Tensor:
    wide = tensor.dtype == torch.float64
    return tensor if wide else tensor.to(torch.get_autocast_dtype(tensor.device.type))


_OPTIONS = (
    "int ignore_index, float label_smoothing, float z_loss, float? softcap, SymInt chunk, "
    "bool compensated, ScalarType dtype"
)


def _chunks(
    hidden: Tensor, linear: Tensor, bias: Tensor | None, chunk: int
) -> Iterator[tuple[slice, Tensor]]:
    """Yield each chunk's rows and their logits, all in the same memory."""
    count, classes = hidden.shape[0], linear.shape[0]
    buffer = hidden.new_empty(min(chunk, count), classes)
    for start in range(0, count, chunk):
        rows = slice(start, min(start + chunk, count))
        logits = buffer[: rows.stop - start]
        if bias is None:
            torch.mm(hidden[rows], linear.t(), out=logits)
        else:
            torch.addmm(bias, hidden[rows], linear.t(), out=logits)
        yield rows, logits


def _launch(
    losses: Tensor, logits: Tensor, target: Tensor, upstream: Tensor | None,
    weight: Tensor | None, options: tuple[Any, ...],
) -> None:  # fmt: skip
    """Compute losses and, with `upstream`, the gradient over the logits."""

    def array(name: str, tensor: Tensor | None) -> Any:
        return None if tensor is None else as_array("linear_cross_entropy", name, tensor)

    over, each = array("hidden", logits), array("out", losses)
    outs = (each,) if upstream is None else (over, each)
    operands = (array("target", target), array("upstream", upstream), array("weight", weight))
    with launching(logits.device):
        rows_of_losses(outs, over, *operands, -1, *options)


def _add_product(high: Tensor, low: Tensor | None, dlogits: Tensor, hidden: Tensor) -> None:
    """Add ``dlogits.T @ hidden`` to `high`, or to the sum of `high` and `low`, of 16 bits each.

    The second goes through float32, in parts that take no more memory than the logits.
    """
    if low is None:
        high.addmm_(dlogits.t(), hidden)
        return
    classes = max(1, dlogits.numel() // (5 * max(hidden.shape[1], 1)))
    for first in range(0, high.shape[0], classes):
        part = slice(first, first + classes)
        total = torch.mm(dlogits[:, part].t(), hidden).float()
        total += low[part]
        total += high[part]
        high[part] = total
        total -= high[part]
        low[part] = total


class _Chunked(Operator):
    """The losses of each row."""

    def kernel(self, *args: Any) -> Any:
        """Run the forward pass alone."""
        hidden, linear, target, bias, weight, *options, chunk, _, dtype = args
        losses = hidden.new_empty(hidden.shape[0], dtype=dtype)
        for rows, logits in _chunks(hidden, linear, bias, chunk):
            _launch(losses[rows], logits, target[rows], None, weight, tuple(options))
        return losses


class _ChunkedGradients(Operator):
    """The sum of losses, each times its upstream, and the gradients of the layer's tensors.

    These three become those of a backward pass, which overwrites them unless its graph is retained.
    """

    def kernel(self, *args: Any) -> Any:
        """Run forward and backward pass together."""
        hidden, linear, target, upstream, bias, weight, *options, chunk, compensated, dtype = args
        losses = hidden.new_empty(hidden.shape[0], dtype=dtype)
        dhidden = torch.empty_like(hidden, memory_format=torch.contiguous_format)
        dlinear = torch.zeros_like(linear, memory_format=torch.contiguous_format)
        low = None
        if compensated and linear.dtype.itemsize == 2 and hidden.shape[0] > chunk:
            low = torch.zeros_like(dlinear)
        wide = torch.promote_types(linear.dtype, torch.float32)
        dbias = dlinear.new_zeros(0 if bias is None else linear.shape[0], dtype=wide)
        for rows, logits in _chunks(hidden, linear, bias, chunk):
            _launch(losses[rows], logits, target[rows], upstream[rows], weight, tuple(options))
            torch.mm(logits, linear, out=dhidden[rows])
            _add_product(dlinear, low, logits, hidden[rows])
            if bias is not None:
                dbias += logits.sum(0, dtype=wide)
        total = torch.dot(losses, upstream)
        return total, dhidden, dlinear, dbias.to(linear.dtype)


def _fake_losses(hidden: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return (hidden.new_empty(hidden.shape[0], dtype=args[-1]),)


def _fake_gradients(
    hidden: Tensor, linear: Tensor, target: Tensor, upstream: Tensor, bias: Tensor | None,
    *args: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    dbias = linear.new_empty(0) if bias is None else torch.empty_like(bias)
    dhidden = torch.empty_like(hidden, memory_format=torch.contiguous_format)
    dlinear = torch.empty_like(linear, memory_format=torch.contiguous_format)
    return hidden.new_empty((), dtype=args[-1]), dhidden, dlinear, dbias


def _options(call: Call) -> tuple[Any, ...]:
    loss = (call.ignore_index, call.label_smoothing, call.z_loss, call.softcap)
    return (*loss, call.chunk, call.compensated, call.dtype)


def _fixed(call: Call, *tangents: Tensor | None) -> None:
    """Raise for a derivative with respect to the target or the weights of the classes."""
    names = ("target", "class_weight")
    if any(call.wanted.get(name) for name in names) or any(t is not None for t in tangents):
        raise NotImplementedError(
            "linear_cross_entropy: only hidden, weight and bias have derivatives; detach the "
            "others, or use cross_entropy(linear(hidden, weight, bias), target)"
        )


def _losses_vjp(call: Call, dlosses: Tensor) -> Grads:
    _fixed(call)
    _, dhidden, dlinear, dbias = ops.linear_cross_entropy_total(
        *(call.hidden, call.weight, call.target, dlosses, call.bias, call.class_weight),
        *_options(call),
    )
    return dhidden, dlinear, None, None if call.bias is None else dbias, None


def _losses_jvp(
    call: Call, hidden_t: Tensor | None, linear_t: Tensor | None, target_t: Tensor | None,
    bias_t: Tensor | None, weight_t: Tensor | None,
) -> Tensor:  # fmt: skip
    """Chunk by chunk, as the gradient of each loss times the change of its logits."""
    _fixed(call, target_t, weight_t)
    options = (-1, call.ignore_index, call.label_smoothing, call.z_loss, call.softcap)
    parts = []
    for start in range(0, max(call.hidden.shape[0], 1), call.chunk):
        rows = slice(start, start + call.chunk)
        hidden = call.hidden[rows]
        logits = torch.nn.functional.linear(hidden, call.weight, call.bias)
        ones = logits.new_ones(logits.shape[0])
        each = ops.cross_entropy_vjp(logits, call.target[rows], ones, call.class_weight, *options)
        change = torch.zeros_like(logits)
        if hidden_t is not None:
            change = change + hidden_t[rows] @ call.weight.t()
        if linear_t is not None:
            change = change + hidden @ linear_t.t()
        if bias_t is not None:
            change = change + bias_t
        parts.append((each * change).sum(-1))
    return torch.cat(parts).to(call.dtype)


def _total_vjp(call: Call, dtotal: Tensor | None, *others: Tensor | None) -> Grads:
    if any(other is not None for other in others) or call.wanted["upstream"]:
        _second()
    _fixed(call)
    assert dtotal is not None
    # What nobody will read again is multiplied in place: these tensors are the largest of all.
    last = not torch._C._autograd._get_current_graph_task_keep_graph()
    found = [
        None
        if not call.wanted[name]
        else gradient.detach().mul_(dtotal)
        if last
        else (gradient * dtotal).to(gradient.dtype)
        for name, gradient in (("hidden", call.out1), ("weight", call.out2), ("bias", call.out3))
    ]
    return found[0], found[1], None, None, found[2], None


def _total_jvp(*_: Any) -> Any:
    """Its gradients would have tangents, too, which are second derivatives."""
    raise NotImplementedError(
        "linear_cross_entropy: forward mode of a call whose gradients are computed with it; "
        "detach hidden, weight and bias, or use cross_entropy(linear(hidden, weight, bias), target)"
    )


def _second() -> None:
    raise NotImplementedError(
        "linear_cross_entropy has first derivatives only; for second ones use "
        "cross_entropy(linear(hidden, weight, bias), target)"
    )


_LOSSES = _Chunked(
    "linear_cross_entropy", ("hidden", "weight", "target", "bias?", "class_weight?"), _OPTIONS,
    _fake_losses, one_by_one=True,
)  # fmt: skip
_TOTAL = _ChunkedGradients(
    "linear_cross_entropy_total",
    ("hidden", "weight", "target", "upstream", "bias?", "class_weight?"), _OPTIONS,
    _fake_gradients, returned=4, one_by_one=True,
)  # fmt: skip
for _operator, _rule in (
    (
        _LOSSES,
        Rule(("hidden", "weight", "target", "bias", "class_weight"), _losses_vjp, _losses_jvp),
    ),
    (_TOTAL, Rule(("out1", "out2", "out3"), _total_vjp, _total_jvp)),
):
    define(_operator)
    differentiate(_operator, _rule)
