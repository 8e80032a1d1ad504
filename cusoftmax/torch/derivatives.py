"""Derivatives of the operators: `RULES` has for each its VJP and its JVP, made of other operators.

A rule is PyTorch's kernel for the dispatch key ``Autograd``, and so below every transformation: the
same derivatives serve ``backward``, ``torch.func``, ``forward_ad``, gradients of gradients and
compiled graphs. (What ``torch.library.register_autograd`` makes has no forward mode, and gives
tangents of zero without a word.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad

from cusoftmax.torch.operators import LIBRARY, OPERATORS, Operator, ops

Grads = tuple[Tensor | None, ...]


class Call:
    """What a rule knows of a call: the tensors that it keeps, and its options, by their names.

    `dtypes` and `shapes` are those of the tensor operands, also of what is not kept; `wanted` says
    of which a gradient is needed.
    """

    def __init__(
        self,
        kept: dict[str, Any],
        options: dict[str, Any],
        dtypes: dict[str, Any],
        shapes: dict[str, Any],
        wanted: tuple[bool, ...],
    ) -> None:
        self.__dict__.update(kept)
        self.__dict__.update(options)
        self.dtypes, self.shapes = dtypes, shapes
        self.wanted = dict(zip(dtypes, wanted, strict=False))

    def __getattr__(self, name: str) -> Any:  # for type checkers: all are set above
        raise AttributeError(name)


class Rule(NamedTuple):
    """The derivatives of an operator.

    Attributes
    ----------
    keeps : tuple of str
        The operands and results (``out``, or ``out0``, ``out1``) that the derivatives need.
    vjp : callable
        From the `Call` and the gradients of the results to those of the tensor operands. A gradient
        is None where it is zero.
    jvp : callable
        From the `Call` and the tangents of the tensor operands to those of the results.
    dual : bool
        Whether the tensors of the `Call` keep their tangents in `jvp`.
    """

    keeps: tuple[str, ...]
    vjp: Callable[..., Grads]
    jvp: Callable[..., Any]
    dual: bool = False


_BACKENDS = (torch._C.DispatchKey.CPU, torch._C.DispatchKey.CUDA)


def _runs_next(keys: Any) -> bool:
    """Whether all that is left for the dispatcher is to run: no mode, no outer transformation."""
    rest = keys & torch._C._after_ADInplaceOrView_keyset
    return rest.highestPriorityTypeId() in _BACKENDS


def _is_differentiated(tensor: Tensor | None) -> bool:
    if tensor is None or not tensor.is_floating_point():
        return False
    if tensor.requires_grad and torch.is_grad_enabled():
        return True
    return torch._VF._unpack_dual(tensor, level=0)[1] is not None


def differentiate(operator: Operator, rule: Rule) -> None:
    """Make PyTorch know the derivatives of an operator."""
    overload, count = operator.overload, len(operator.tensors)
    outputs = ("out",) if operator.returned == 1 else ("out0", "out1", "out2", "out3")
    keeps = [(*operator.names, *outputs).index(name) for name in rule.keeps]

    def call_of(context: Any, tensors: Any, wanted: tuple[bool, ...] = ()) -> Call:
        names = operator.names
        given = dict(zip(names[:count], context.given, strict=True))
        return Call(
            dict(zip(rule.keeps, tensors, strict=True)),
            dict(zip(names[count:], context.options, strict=True)),
            {name: pair and pair[0] for name, pair in given.items()},
            {name: pair and pair[1] for name, pair in given.items()},
            wanted,
        )

    # The base of torch.autograd.Function: the dispatcher has already chosen the level of nested
    # transformations, and `Function.apply` would do so again.
    class Node(torch.autograd.function._SingleLevelFunction):  # type: ignore[misc]
        @staticmethod
        def forward(context: Any, keys: Any, *args: Any) -> Any:
            # A Function records nothing within its forward, but levels further out have to.
            with (
                torch._C._AutoDispatchBelowAutograd(),
                torch.set_grad_enabled(keys[1]),
                forward_ad._set_fwd_grad_enabled(True),
            ):
                made = overload.redispatch(keys[0] & torch._C._after_autograd_keyset, *args)
            outs = (made,) if operator.returned == 1 else made
            kept = [args[i] if i < len(args) else outs[i - len(args)] for i in keeps]
            context.save_for_backward(*kept)
            context.save_for_forward(*kept)
            context.set_materialize_grads(False)
            context.mark_non_differentiable(*[o for o in outs if not o.is_floating_point()])
            context.options = args[count:]
            context.given = [None if t is None else (t.dtype, t.shape) for t in args[:count]]
            return made

        @staticmethod
        def backward(context: Any, *grads: Tensor | None) -> Any:
            nothing = (None,) * (len(operator.names) - count)
            if all(grad is None for grad in grads):
                return (None, *(None,) * count, *nothing)
            wanted = context.needs_input_grad[1 : 1 + count]
            call = call_of(context, context.saved_tensors, wanted)
            return (None, *rule.vjp(call, *grads), *nothing)

        @staticmethod
        def jvp(context: Any, _: None, *tangents: Tensor | None) -> Any:
            # PyTorch has switched forward mode off, for levels further out as well, since what is
            # kept has tangents at this one.
            with forward_ad._set_fwd_grad_enabled(True):
                primals = [
                    t if t is None or rule.dual else torch.ops.aten._fw_primal(t, 0)
                    for t in context.saved_tensors
                ]
                return rule.jvp(call_of(context, primals), *tangents[:count])

    def autograd(keys: Any, *args: Any) -> Any:
        if _runs_next(keys) and not any(map(_is_differentiated, args[:count])):
            return operator.kernel(*args)  # without two ways through the dispatcher
        with enable_single_level_autograd_function():
            return Node.apply((keys, torch.is_grad_enabled()), *args)

    Node._backward_cls.__name__ = f"cusoftmax_{operator.name}_backward"  # grad_fn's, in messages
    LIBRARY.impl(operator.name, autograd, "Autograd", with_keyset=True)


# ---------------------------------------------------------------------------------- what they share


def _reduced(gradient: Tensor, call: Call, name: str) -> Tensor:
    """The gradient of an operand that was broadcast."""
    return gradient.sum_to_size(call.shapes[name]).to(call.dtypes[name])


def _plus(*terms: Tensor | None) -> Tensor | None:
    present = [term for term in terms if term is not None]
    return sum(present[1:], start=present[0]) if present else None


def _scaled(call: Call, tensor: Tensor) -> Tensor:
    return tensor if call.scale == 1 else tensor * call.scale


def _visible(call: Call, like: Tensor, tensor: Tensor) -> Tensor:
    """A tensor with zeros where `mask` or `causal` hide an element, whatever it has there."""
    if call.mask is not None:
        tensor = torch.where(call.mask, tensor, 0)
    if call.causal:
        queries, keys = like.shape[-2:]
        seen = torch.ones(queries, keys, dtype=torch.bool, device=like.device)
        tensor = torch.where(seen.tril(keys - queries), tensor, 0)
    return tensor


def _of_logits(call: Call, xt: Tensor | None, bias_t: Tensor | None, like: Tensor) -> Tensor:
    """The tangent of ``scale * x + bias``."""
    parts = None if xt is None else _scaled(call, xt), bias_t
    total = _plus(*parts)
    assert total is not None
    return total.expand(like.shape)


def _formula(names: tuple[str, ...], formula: Callable[..., Any]) -> Rule:
    """The rule of an operator that is itself a second derivative.

    Third derivatives, and higher ones, are those of a formula for it: of the `Call`, and of the
    tensors of these names that are not None.
    """

    def given(call: Call) -> tuple[Callable[..., Any], dict[str, Tensor]]:
        tensors = {n: getattr(call, n) for n in names if getattr(call, n) is not None}
        return lambda *t: formula(call, **dict(zip(tensors, t, strict=True))), tensors

    def vjp(call: Call, *grads: Tensor | None) -> Grads:
        function, tensors = given(call)
        outs, pull = torch.func.vjp(function, *tensors.values())
        whole = outs if isinstance(outs, tuple) else (outs,)
        filled = [_or_zeros(grad, out) for grad, out in zip(grads, whole, strict=True)]
        found = dict(
            zip(tensors, pull(tuple(filled) if len(filled) > 1 else filled[0]), strict=True)
        )
        return tuple(found.get(name) for name in call.dtypes)

    def jvp(call: Call, *_: Tensor | None) -> Any:
        function, tensors = given(call)
        outs = function(*tensors.values())  # of tensors with tangents
        whole = outs if isinstance(outs, tuple) else (outs,)
        found = tuple(torch._VF._unpack_dual(out, level=0)[1] for out in whole)
        return found if isinstance(outs, tuple) else found[0]

    return Rule(
        tuple(dict.fromkeys((*names, "mask") if "bias" in names else names)), vjp, jvp, True
    )


def _or_zeros(tensor: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if tensor is None else tensor


# ------------------------------------------------------------------------ softmax: y, and J(y) v


def _softmax_vjp(call: Call, dy: Tensor) -> Grads:
    if not call.wanted["bias"]:
        shape = (call.dim, call.scale, call.causal, call.dtypes["x"])
        return ops.softmax_vjp(call.out, dy, call.mask, *shape), None, None
    dz = ops.softmax_vjp(call.out, dy, call.mask, call.dim, 1.0, call.causal, call.out.dtype)
    return _scaled(call, dz).to(call.dtypes["x"]), None, _reduced(dz, call, "bias")


def _softmax_jvp(call: Call, xt: Tensor | None, _: None, bias_t: Tensor | None) -> Tensor:
    y = call.out
    if bias_t is None:
        shape = (call.dim, call.scale, call.causal, y.dtype)
        return ops.softmax_vjp(y, xt, call.mask, *shape)
    zt = _of_logits(call, xt, bias_t, y)
    shape = (call.dim, 1.0, call.causal, y.dtype)
    return ops.softmax_vjp(y, zt, call.mask, *shape)


def _product_vjp(call: Call, g: Tensor) -> Grads:
    """Of ``J(y) dy``: the gradient with respect to `y` is known up to a constant along a row."""
    shape = (call.dim, call.scale, call.causal, call.dtypes["dy"])
    if not call.wanted["y"]:
        return None, ops.softmax_vjp(call.y, g, call.mask, *shape), None
    dy, g = _visible(call, call.y, call.dy), _visible(call, call.y, _scaled(call, g))
    gy, gdy = ops.softmax_vjp_vjp(call.y, dy, g, call.dim)
    return _visible(call, call.y, gy), gdy, None


def _product_vjp_vjp(call: Call, y: Tensor, dy: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """What the kernel of `softmax_vjp_vjp` computes, in PyTorch's operations."""
    of_dy, of_g = ((y * v).sum(call.dim, keepdim=True) for v in (dy, g))
    gy = g * (dy - of_dy) - dy * of_g
    return gy.to(call.dtypes["y"]), (y * (g - of_g)).to(call.dtypes["dy"])


def _product_of_hessian(call: Call, y: Tensor, dy: Tensor, v: Tensor) -> Tensor:
    """What the kernel of `softmax_hvp` computes."""
    of_dy, of_v = ((y * t).sum(call.dim, keepdim=True) for t in (dy, v))
    yt = y * (v - of_v)
    result = yt * (dy - of_dy) - y * (yt * dy).sum(call.dim, keepdim=True)
    return result.to(call.dtype)


def _value_and_product(
    call: Call, x: Tensor, dy: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What the kernel of `softmax_value_and_vjp` computes, in two."""
    shape = (call.dim, call.scale, call.causal, call.dtype)
    y = ops.softmax(x, call.mask, bias, *shape)
    return y, ops.softmax_vjp(y, dy, call.mask, *shape)


def _product_jvp(call: Call, yt: Tensor | None, dyt: Tensor | None, _: None) -> Tensor | None:
    """``J(y) dyt``, and the Hessian's product with the `v` of which `yt` is ``J(y) v``.

    Up to a constant along the row, to which the Hessian is blind, v is ``yt / y``.
    """
    linear = curved = None
    if dyt is not None:
        shape = (call.dim, call.scale, call.causal, call.dtype)
        linear = ops.softmax_vjp(call.y, dyt, call.mask, *shape)
    if yt is not None:
        v = yt / torch.where(call.y == 0, 1, call.y)
        dy = _visible(call, call.y, call.dy)
        curved = _scaled(call, ops.softmax_hvp(call.y, dy, v, call.dim, call.dtype))
    return _plus(linear, curved)


# ---------------------------- log_softmax: dy - exp(logy) sum(dy), and xt - sum(exp(logy) xt)


def _log_vjp(call: Call, dy: Tensor) -> Grads:
    if not call.wanted["bias"]:
        shape = (call.dim, call.scale, call.causal, call.dtypes["x"])
        return ops.log_softmax_vjp(call.out, dy, call.mask, *shape), None, None
    shape = (call.dim, 1.0, call.causal, call.out.dtype)
    dz = ops.log_softmax_vjp(call.out, dy, call.mask, *shape)
    return _scaled(call, dz).to(call.dtypes["x"]), None, _reduced(dz, call, "bias")


def _log_jvp(call: Call, xt: Tensor | None, _: None, bias_t: Tensor | None) -> Tensor:
    scale = call.scale if bias_t is None else 1.0
    zt = xt if bias_t is None else _of_logits(call, xt, bias_t, call.out)
    shape = (call.dim, scale, call.causal, call.out.dtype)
    return ops.log_softmax_jvp(call.out, zt, call.mask, *shape)


def _log_product(call: Call, factor: Tensor, summed: Tensor) -> Tensor:
    """``-scale exp(logy) factor sum(summed)``, over the visible elements."""
    total = _visible(call, call.logy, summed).sum(call.dim, keepdim=True)
    part = call.logy.exp() * _visible(call, call.logy, factor)
    return -_scaled(call, part * total)


def _log_vjp_vjp(call: Call, g: Tensor) -> Grads:
    shape = (call.dim, call.scale, call.causal, call.dtypes["dy"])
    gdy = ops.log_softmax_jvp(call.logy, g, call.mask, *shape)
    if not call.wanted["logy"]:
        return None, gdy, None
    return _log_product(call, g, call.dy).to(call.logy.dtype), gdy, None


def _log_vjp_jvp(call: Call, logyt: Tensor | None, dyt: Tensor | None, _: None) -> Tensor | None:
    linear = curved = None
    if dyt is not None:
        shape = (call.dim, call.scale, call.causal, call.dtype)
        linear = ops.log_softmax_vjp(call.logy, dyt, call.mask, *shape)
    if logyt is not None:
        curved = _log_product(call, logyt, call.dy).to(call.dtype)
    return _plus(linear, curved)


def _log_jvp_vjp(call: Call, g: Tensor) -> Grads:
    shape = (call.dim, call.scale, call.causal, call.dtypes["xt"])
    gxt = ops.log_softmax_vjp(call.logy, g, call.mask, *shape)
    if not call.wanted["logy"]:
        return None, gxt, None
    return _log_product(call, call.xt, g).to(call.logy.dtype), gxt, None


def _log_jvp_jvp(call: Call, logyt: Tensor | None, xtt: Tensor | None, _: None) -> Tensor | None:
    linear = curved = None
    if xtt is not None:
        shape = (call.dim, call.scale, call.causal, call.dtype)
        linear = ops.log_softmax_jvp(call.logy, xtt, call.mask, *shape)
    if logyt is not None:
        each = call.logy.exp() * logyt * _visible(call, call.logy, call.xt)
        total = each.sum(call.dim, keepdim=True).expand(call.logy.shape)
        curved = -_scaled(call, _visible(call, call.logy, total)).to(call.dtype)
    return _plus(linear, curved)


# ------------------------------------------------------------ logsumexp: log s, and dy softmax(x)


def _probabilities(call: Call, dtype: torch.dtype) -> Tensor:
    shape = (call.dim, call.scale, call.causal, dtype)
    return ops.softmax(call.x, call.mask, call.bias, *shape)


def _curvature(call: Call, v: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax of the logits, and its Jacobian with respect to `x` times `v`."""
    shape = (call.dim, call.scale, call.causal, torch.promote_types(call.x.dtype, v.dtype))
    p, product = ops.softmax_value_and_vjp(call.x, v, call.mask, call.bias, *shape)
    return p, product


def _logsumexp_vjp(call: Call, dy: Tensor) -> Grads:
    dbias = None
    if call.wanted["bias"]:
        dbias = _reduced(_probabilities(call, dy.dtype) * dy, call, "bias")
    shape = (call.dim, call.scale, call.causal, call.x.dtype)
    return ops.logsumexp_vjp(call.x, dy, call.mask, call.bias, *shape), None, dbias


def _logsumexp_jvp(call: Call, xt: Tensor | None, _: None, bias_t: Tensor | None) -> Tensor:
    zt = _of_logits(call, xt, bias_t, call.x)
    p = _probabilities(call, call.dtype)
    each = _visible(call, call.x, zt) * p
    return each.sum(call.dim, keepdim=True).to(call.dtype)


def _logsumexp_vjp_vjp(call: Call, g: Tensor) -> Grads:
    weighted = _scaled(call, g * call.dy)
    if call.wanted["bias"]:
        p = _probabilities(call, weighted.dtype)
        dz = ops.softmax_vjp(p, weighted, call.mask, call.dim, 1.0, call.causal, p.dtype)
        dx, dbias = _scaled(call, dz), _reduced(dz, call, "bias")
    else:
        p, dx = _curvature(call, weighted)
        dbias = None
    each = _scaled(call, p * _visible(call, call.x, g))
    total = each.sum(call.dim, keepdim=True).to(call.dtypes["dy"])
    return dx.to(call.x.dtype), total, None, dbias


def _logsumexp_vjp_jvp(
    call: Call, xt: Tensor | None, dyt: Tensor | None, _: None, bias_t: Tensor | None
) -> Tensor | None:
    linear = curved = None
    if dyt is not None:
        shape = (call.dim, call.scale, call.causal, call.dtype)
        linear = ops.logsumexp_vjp(call.x, dyt, call.mask, call.bias, *shape)
    if bias_t is not None:
        zt = _of_logits(call, xt, bias_t, call.x)
        p = _probabilities(call, zt.dtype)
        curved = ops.softmax_vjp(p, zt, call.mask, call.dim, 1.0, call.causal, p.dtype)
    elif xt is not None:
        curved = _curvature(call, xt)[1]
    if curved is not None:
        curved = (_scaled(call, curved) * call.dy).to(call.dtype)
    return _plus(linear, curved)


# ------------------------------------------------------------------------------------ cross-entropy


def _loss(call: Call) -> tuple[Any, ...]:
    return (call.dim, call.ignore_index, call.label_smoothing, call.z_loss, call.softcap)


def _weight(*_: Any) -> Any:
    raise NotImplementedError("cross_entropy: weight has no derivative; give weight.detach()")


def _no_weight(call: Call, weight_t: Tensor | None = None) -> None:
    if call.wanted.get("weight") or weight_t is not None:
        _weight()


def _capped(call: Call) -> Tensor:
    cap = call.softcap
    return call.logits if cap is None else cap * torch.tanh(call.logits / cap)


def _along(call: Call) -> Tensor | float:
    """The weights of the classes, along their dimension, or 1."""
    if call.weight is None:
        return 1.0
    return call.weight.view(-1, *(1,) * (-1 - call.dim))


def _of_probabilities(call: Call) -> Tensor:
    """Each row's loss as a function of its target's probabilities: the factor of each."""
    shape = ([call.dim], 1.0, False, call.logits.dtype)
    logp = ops.log_softmax(_capped(call), None, None, *shape)
    return -(1 - call.label_smoothing) * _along(call) * logp


def _row_weight(call: Call) -> tuple[Tensor, Tensor | None]:
    """What the logarithm of the sum counts for in each row's loss, and which rows count at all."""
    smoothing, dim = call.label_smoothing, call.dim
    classes = call.logits.shape[dim]
    along = _along(call)
    if call.target.is_floating_point():
        q = (1 - smoothing) * call.target + smoothing / max(classes, 1)
        return (q * along).sum(dim, keepdim=True), None
    target = call.target.unsqueeze(dim).long()
    counts = target != call.ignore_index
    inside = target.clamp(0, max(classes - 1, 0))
    if call.weight is None:
        own = torch.ones_like(inside, dtype=call.logits.dtype)
        total: Tensor | float = 1.0
    else:
        own, total = call.weight[inside], call.weight.mean()
    own = torch.where(inside == target, own, torch.nan)
    return (1 - smoothing) * own + smoothing * total, counts


def _hessian(call: Call, v: Tensor) -> Tensor:
    """The product of `v` with each row's Hessian with respect to the logits."""
    dim, cap = [call.dim], call.softcap
    u = _capped(call)
    slope: Tensor | float = 1.0
    if cap is not None:
        t = torch.tanh(call.logits / cap)
        slope = 1 - t * t
    inner = slope * v
    dtype = torch.promote_types(u.dtype, inner.dtype)
    p, product = ops.softmax_value_and_vjp(u, inner, None, None, dim, 1.0, False, dtype)
    weight, counts = _row_weight(call)
    result = weight * product
    if call.z_loss:
        log_sum = ops.logsumexp(u, None, None, dim, 1.0, False, dtype)
        mean = (p * inner).sum(call.dim, keepdim=True)
        result = result + 2 * call.z_loss * (log_sum * product + p * mean)
    if cap is not None:
        options = (call.dim, call.ignore_index, call.label_smoothing, call.z_loss, None)
        first = ops.cross_entropy_vjp(u, call.target, _ones(call), call.weight, *options)
        result = slope * result - 2 * t * slope / cap * v * first
    return result if counts is None else torch.where(counts, result, 0)


def _ones(call: Call) -> Tensor:
    """A one for each row."""
    shape = list(call.logits.shape)
    del shape[call.dim]
    return call.logits.new_ones(shape)


def _gradient_of_each(call: Call) -> Tensor:
    return ops.cross_entropy_vjp(call.logits, call.target, _ones(call), call.weight, *_loss(call))


def _cross_entropy_vjp(call: Call, dloss: Tensor) -> Grads:
    _no_weight(call)
    dlogits = dtarget = None
    if call.wanted["logits"]:
        dlogits = ops.cross_entropy_vjp(call.logits, call.target, dloss, call.weight, *_loss(call))
    if call.wanted["target"]:
        dtarget = (_of_probabilities(call) * dloss.unsqueeze(call.dim)).to(call.target.dtype)
    return dlogits, dtarget, None


def _cross_entropy_jvp(
    call: Call, logits_t: Tensor | None, target_t: Tensor | None, weight_t: Tensor | None
) -> Tensor | None:
    _no_weight(call, weight_t)
    by_logits = None if logits_t is None else _gradient_of_each(call) * logits_t
    by_target = None if target_t is None else _of_probabilities(call) * target_t
    total = _plus(by_logits, by_target)
    return None if total is None else total.sum(call.dim).to(call.dtype)


def _loss_gradient_vjp(call: Call, g: Tensor) -> Grads:
    _no_weight(call)
    dlogits = dtarget = ddloss = None
    dloss = call.dloss.unsqueeze(call.dim)
    if call.wanted["logits"]:
        dlogits = _hessian(call, g * dloss).to(call.logits.dtype)
    if call.wanted["target"]:
        dtarget = (dloss * _mixed(call, g)).to(call.target.dtype)
    if call.wanted["dloss"]:
        ddloss = (_gradient_of_each(call) * g).sum(call.dim).to(call.dtypes["dloss"])
    return dlogits, dtarget, ddloss, None


def _mixed(call: Call, v: Tensor) -> Tensor:
    """The change along `v`, of the logits, of the gradient with respect to the target."""
    if call.softcap is not None:
        t = torch.tanh(call.logits / call.softcap)
        v = (1 - t * t) * v
    dim, dtype = [call.dim], torch.promote_types(call.logits.dtype, v.dtype)
    logp = ops.log_softmax(_capped(call), None, None, dim, 1.0, False, dtype)
    change = ops.log_softmax_jvp(logp, v, None, dim, 1.0, False, dtype)
    return -(1 - call.label_smoothing) * _along(call) * change


def _loss_gradient_jvp(
    call: Call,
    logits_t: Tensor | None,
    target_t: Tensor | None,
    dloss_t: Tensor | None,
    weight_t: Tensor | None,
) -> Tensor | None:
    _no_weight(call, weight_t)
    linear = None
    if dloss_t is not None:
        linear = ops.cross_entropy_vjp(call.logits, call.target, dloss_t, call.weight, *_loss(call))
    dloss = call.dloss.unsqueeze(call.dim)
    by_logits = None if logits_t is None else _hessian(call, logits_t) * dloss
    by_target = None
    if target_t is not None:  # the transpose of `_mixed`
        dim, dtype = [call.dim], torch.promote_types(call.logits.dtype, target_t.dtype)
        logp = ops.log_softmax(_capped(call), None, None, dim, 1.0, False, dtype)
        upstream = -(1 - call.label_smoothing) * _along(call) * target_t
        by_target = ops.log_softmax_vjp(logp, upstream, None, dim, 1.0, False, dtype) * dloss
        if call.softcap is not None:
            t = torch.tanh(call.logits / call.softcap)
            by_target = by_target * (1 - t * t)
    total = _plus(linear, by_logits, by_target)
    return None if total is None else total.to(call.logits.dtype)


# ------------------------------------------------------------------- noise, selection and segments


def _noisy(call: Call, v: Tensor, dtype: torch.dtype) -> Tensor:
    if call.temperature < 2.0**-64:
        raise NotImplementedError("gumbel_softmax: no derivative at a temperature below 2**-64")
    shape = ([call.dim], 1 / call.temperature, False, dtype)
    return ops.softmax_vjp(call.out, v, None, *shape)


def _topk_vjp(call: Call, dvalues: Tensor, _: None) -> Grads:
    x, dim = call.x, call.dim
    if call.gates:  # a softmax of the k logits alone
        shape = ([dim], 1.0, False, x.dtype)
        selected = ops.softmax_vjp(call.out0, dvalues, None, *shape)
        return (torch.zeros_like(x).scatter(dim, call.out1, selected),)
    shape = ([dim], 1.0, False, dvalues.dtype)
    y = ops.softmax(x, None, None, *shape)
    dy = torch.zeros_like(y).scatter(dim, call.out1, dvalues)
    return (ops.softmax_vjp(y, dy, None, [dim], 1.0, False, x.dtype),)


def _topk_jvp(call: Call, xt: Tensor) -> tuple[Tensor, None]:
    dim, dtype = call.dim, call.out0.dtype
    shape = ([dim], 1.0, False, dtype)
    if call.gates:
        chosen = xt.gather(dim, call.out1)
        return ops.softmax_vjp(call.out0, chosen, None, *shape), None
    y = ops.softmax(call.x, None, None, *shape)
    yt = ops.softmax_vjp(y, xt, None, *shape)
    return yt.gather(dim, call.out1), None


def _sums(call: Call, tensor: Tensor) -> Tensor:
    """For each element the sum over its own segment."""
    places = torch.arange(tensor.shape[0], device=tensor.device)
    segments = max(call.offsets.shape[0] - 1, 1)
    own = torch.searchsorted(call.offsets.to(places.dtype), places, right=True) - 1
    own = own.clamp(0, segments - 1)
    sums = tensor.new_zeros((segments, *tensor.shape[1:])).index_add(0, own, tensor)
    return sums.index_select(0, own)


def _segments_vjp(call: Call, g: Tensor) -> Grads:
    gdy = ops.segment_softmax_vjp(call.y, g, call.offsets, call.dtypes["dy"])
    if not call.wanted["y"]:
        return None, gdy, None
    y, dy = call.y, call.dy
    gy = g * (dy - _sums(call, y * dy)) - dy * _sums(call, y * g)
    return gy.to(y.dtype), gdy, None


def _segments_jvp(call: Call, yt: Tensor | None, dyt: Tensor | None, _: None) -> Tensor | None:
    linear = curved = None
    if dyt is not None:
        linear = ops.segment_softmax_vjp(call.y, dyt, call.offsets, call.dtype)
    if yt is not None:
        y, dy = call.y, call.dy
        curved = yt * (dy - _sums(call, y * dy)) - y * _sums(call, yt * dy)
        curved = curved.to(call.dtype)
    return _plus(linear, curved)


# --------------------------------------------------------------------------------------- the table

RULES = {
    "softmax": Rule(("mask", "out"), _softmax_vjp, _softmax_jvp),
    "softmax_vjp": Rule(("y", "dy", "mask"), _product_vjp, _product_jvp),
    "log_softmax": Rule(("mask", "out"), _log_vjp, _log_jvp),
    "log_softmax_vjp": Rule(("logy", "dy", "mask"), _log_vjp_vjp, _log_vjp_jvp),
    "log_softmax_jvp": Rule(("logy", "xt", "mask"), _log_jvp_vjp, _log_jvp_jvp),
    "logsumexp": Rule(("x", "mask", "bias"), _logsumexp_vjp, _logsumexp_jvp),
    "logsumexp_vjp": Rule(("x", "dy", "mask", "bias"), _logsumexp_vjp_vjp, _logsumexp_vjp_jvp),
    "softmax_vjp_vjp": _formula(("y", "dy", "g"), _product_vjp_vjp),
    "softmax_hvp": _formula(("y", "dy", "v"), _product_of_hessian),
    "softmax_value_and_vjp": _formula(("x", "dy", "bias"), _value_and_product),
    "cross_entropy": Rule(("logits", "target", "weight"), _cross_entropy_vjp, _cross_entropy_jvp),
    "cross_entropy_vjp": Rule(
        ("logits", "target", "dloss", "weight"), _loss_gradient_vjp, _loss_gradient_jvp
    ),
    "cross_entropy_divisor": Rule((), _weight, _weight),
    "gumbel_softmax": Rule(
        ("out",),
        lambda call, dy: (_noisy(call, dy, call.dtypes["x"]), None),
        lambda call, xt, _: _noisy(call, xt, call.dtype),
    ),
    "sample": Rule((), lambda call, _: (None, None), lambda call, *_: None),
    "topk_softmax": Rule(("x", "out0", "out1"), _topk_vjp, _topk_jvp),
    "segment_softmax": Rule(
        ("offsets", "out"),
        lambda call, dy: (
            ops.segment_softmax_vjp(call.out, dy, call.offsets, call.dtypes["x"]),
            None,
        ),
        lambda call, xt, _: ops.segment_softmax_vjp(call.out, xt, call.offsets, call.dtype),
    ),
    "segment_softmax_vjp": Rule(("y", "dy", "offsets"), _segments_vjp, _segments_jvp),
}

for _name, _rule in RULES.items():
    differentiate(OPERATORS[_name], _rule)
