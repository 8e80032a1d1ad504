"""The ranks of a call: who has which slice of the rows, and how they agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cusoftmax.distributed.communicators import Gather, Messages, Mpi, Nccl, transport_of
from cusoftmax.functions.selection import selection_of
from cusoftmax.nodes import OPERATIONS
from cusoftmax.operations.dtypes import INPUTS
from cusoftmax.operations.lookup import find
from cusoftmax.operations.options import cross_entropy_name, logits_name, piece_of
from cusoftmax.planning.checks import (
    Array,
    accepted_name,
    as_dtype,
    check_selection,
    described,
    plain_bool,
    plain_choice,
    plain_count,
    plain_list,
)
from cusoftmax.planning.pieces import checked_piece, node_dtype, node_words

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_UNIT = 1024  # a multiple of every chunk
_DIGEST = 16  # bytes that a rank says of a call; zeros if it failed
_TEXT = 512  # bytes that it says where not all is well

_Made = TypeVar("_Made")


class RankError(RuntimeError):
    """Another rank failed, so that a call was carried out on none.

    Attributes
    ----------
    rank : int
        The first rank that failed, which raises its own error.
    """

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message)
        self.rank = rank


class Ranks:
    """A communicator, and the slice of the rows that each of its ranks has.

    The slices follow one another in the order of the ranks. All ranks make one of these together;
    it serves any number of calls.

    Parameters
    ----------
    communicator : communicator or None
        One of mpi4py; CuPy's of NCCL (a `cupy.cuda.nccl.NcclCommunicator`, or what
        `cupyx.distributed.init_process_group` returns); None for a single rank.
    size : int
        The number of elements of each row that this rank has; it may be 0. Slices begin at
        multiples of the operation's chunk, which 1024 always is. Rows of at most a chunk are not
        divided: one rank has all of them. `slices` divides rows.
    control : communicator of mpi4py, optional
        Of the same ranks in the same order, beside NCCL: by which the hosts agree on each call, as
        they always do with MPI. No host waits for a device.
    cuda_aware : bool
        Whether MPI reads and writes the memory of devices. By default nodes go by way of the host.

    Attributes
    ----------
    rank, count : int
        The number of this rank, and how many there are.
    sizes : tuple of int
        The elements of a row that each rank has.
    offset, size, length : int
        The first element of this rank's slice, its number of elements, and that of whole rows.

    Raises
    ------
    TypeError
        If `communicator` or `control` is none, `size` no int, or `cuda_aware` no bool.
    ValueError
        If `size` is negative or no int64, if no rank has an element, or if `control` has other
        ranks.
    RankError
        If another rank raises one of these.

    Notes
    -----
    Before nodes are gathered, 16 bytes of each rank say what was called, or that its part failed.
    If a rank failed or two differ, every rank raises an error, and none waits for another. With
    NCCL this takes `control`: without, the host would have to wait for the device. There a rank
    that fails leaves the others waiting, as in any use of NCCL. What cannot be compared are values,
    such as those of `target` and `weight`, which all ranks give whole.

    With NCCL alone, the host waits for the device once, when this object is made.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import distributed
    >>> ranks = distributed.Ranks(None, 4)  # or mpi4py's MPI.COMM_WORLD in place of None
    >>> ranks.sizes, ranks.offset, ranks.length
    ((4,), 0, 4)
    """

    def __init__(
        self, communicator: Any, size: int, *, control: Any = None, cuda_aware: bool = False
    ) -> None:
        caller = "Ranks"
        transport = transport_of("communicator", communicator, cuda_aware is True)
        messages: Messages = transport
        if control is not None:
            messages = transport_of("control", control, False)
        self._transport = transport
        self.rank, self.count = transport.rank, transport.size

        def own() -> tuple[int, str]:
            plain_bool(caller, "cuda_aware", cuda_aware)
            if control is not None and not isinstance(messages, Mpi):
                raise TypeError(f"{caller}: control={described(control)} is none of mpi4py's")
            if (messages.rank, messages.size) != (self.rank, self.count):
                raise ValueError(
                    f"{caller}: control has this as rank {messages.rank} of {messages.size}, and "
                    f"communicator as {self.rank} of {self.count}; give one of the same ranks"
                )
            own_size = plain_count(caller, "size", size)
            if not 0 <= own_size < 1 << 63:
                raise ValueError(
                    f"{caller}: size={described(own_size)} is no size of a slice; give 0 for none"
                )
            return own_size, "the slices of rows"

        self.size = agreed(caller, messages, own)
        # NCCL's own messages would let the host wait for the device in every call.
        alone = control is None and isinstance(transport, Nccl)
        self._messages = None if alone else messages
        said = messages.exchange(self.size.to_bytes(8, "little"))
        self.sizes = tuple(int.from_bytes(each, "little") for each in said)
        *starts, self.length = accumulate(self.sizes, initial=0)
        self.offset = starts[self.rank]
        if not self.length:
            raise ValueError(f"{caller}: no rank has an element; give one of them a size")

    def agreed(self, caller: str, own: Callable[[], tuple[_Made, str]]) -> _Made:
        """Return what `own` makes of this rank's part, if all ranks make theirs of the same call.

        `own` returns what it made and what was called.
        """
        if self._messages is None:
            return own()[0]
        return agreed(caller, self._messages, own)

    def prepared(self, kernel: str, dtypes: tuple[str, ...], array: Array) -> Gather:
        """Return what gathers the nodes of all slices, of which `array` are this rank's."""
        counts = subtrees(kernel, dtypes, self.sizes, "Ranks")
        return self._transport.prepared(array, counts)


def agreed(caller: str, messages: Messages, own: Callable[[], tuple[_Made, str]]) -> _Made:
    """Return what `own` makes, once all ranks have said that they made theirs of the same call."""
    failed: BaseException | None = None
    try:
        made, text = own()
        mine = blake2b(text.encode(), digest_size=_DIGEST).digest()
    except BaseException as error:  # an interrupt too: others would wait
        failed, text, mine = error, f"{type(error).__name__}: {error}", bytes(_DIGEST)
    said = messages.exchange(mine)
    if failed is None and all(each == mine for each in said):
        return made
    # As all ranks know that not all is well, all of them say more.
    texts = messages.exchange(text.encode()[:_TEXT].ljust(_TEXT, b"\0"))
    if failed is not None:
        raise failed
    words = [each.rstrip(b"\0").decode(errors="replace") for each in texts]
    for rank, each in enumerate(said):
        if not any(each):
            raise RankError(
                f"{caller}: rank {rank} failed, so nothing was computed on any rank: {words[rank]}",
                rank,
            )
    other = next(rank for rank, each in enumerate(said) if each != said[0])
    raise ValueError(
        f"{caller}: the calls of the ranks differ: {words[0]} on rank 0, and {words[other]} on "
        f"rank {other}; make the same call on all ranks"
    )


def subtrees(
    kernel: str, dtypes: tuple[str, ...], sizes: Sequence[int], caller: str
) -> tuple[int, ...]:
    """Return the number of nodes of each slice of a row."""
    *starts, length = accumulate(sizes, initial=0)
    slices_of = zip(starts, sizes, strict=True)
    return tuple(
        checked_piece(kernel, dtypes, *each, length, caller).subtrees for each in slices_of
    )


def slices(length: int, ranks: int) -> tuple[int, ...]:
    """Divide rows among ranks: the sizes of slices that every function accepts.

    ``size = ceil(length / (1024 * ranks)) * 1024``, until the last slice takes what is left; ranks
    for which nothing is left have none. 1024 elements are a multiple of every chunk of
    ``cusoftmax.nodes``.

    Parameters
    ----------
    length : int
        The elements of a row.
    ranks : int
        How many ranks there are.

    Returns
    -------
    tuple of int
        The size of each rank's slice.

    Raises
    ------
    TypeError
        If an argument is no int.
    ValueError
        If `length` is negative, or there is no rank.

    Notes
    -----
    A slice has a single node a row if its blocks are a power of two, and at most two for each
    halving of them if not.

    Examples
    --------
    >>> from cusoftmax import distributed
    >>> distributed.slices(128256, 4)
    (32768, 32768, 32768, 29952)
    """
    caller = "slices"
    length, ranks = plain_count(caller, "length", length), plain_count(caller, "ranks", ranks)
    if length < 0 or ranks < 1:
        raise ValueError(
            f"{caller}: length={described(length)}, ranks={described(ranks)}; give a length of 0 "
            f"or more, and one rank or more"
        )
    each = -(-length // (_UNIT * ranks)) * _UNIT
    return tuple(min(each, max(0, length - rank * each)) for rank in range(ranks))


def gathered_bytes(
    op: str,
    rows: int,
    sizes: Sequence[int],
    dtype: DTypeLike,
    *,
    soft: bool = False,
    weight: bool = False,
    smooth: bool = False,
    k: int | None = None,
    normalise: Literal["row", "topk"] = "row",
    scaled: bool = False,
    biased: bool = False,
    padded: bool = False,
) -> int:
    """Return the bytes of the nodes that every rank has after a call's all-gather.

    ``bytes = rows * words * nodes * itemsize``: the words of a node, at most 13 and 3 for each
    element that is selected, the nodes of all slices of a row, and 4 bytes, or 8 for float64.
    ``cusoftmax.nodes`` says what nodes are. No communicator is needed.

    Parameters
    ----------
    op : str
        One of ``cusoftmax.nodes.OPERATIONS``.
    rows : int
        The number of rows.
    sizes : sequence of int
        The elements of a row that each rank has.
    dtype : dtype
        That of the inputs and results. Targets that are classes are integers.
    soft, weight, smooth : bool
        Of cross_entropy: whether targets are probabilities, whether classes have weights, and
        whether labels are smoothed.
    k, normalise
        Of topk_softmax, which `k` is required for.
    scaled, biased : bool
        Whether the call has a `scale` other than 1, and a `bias`.
    padded : bool
        Whether each rank sends as many nodes as the one with the most, as with NCCL.

    Returns
    -------
    int
        The bytes. Each rank receives all but its own part of them.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or `dtype` not one of inputs.
    ValueError
        If `op` is not known, a slice begins or ends within a chunk, or `k` or `normalise` is not
        one that `topk_softmax` accepts.

    Examples
    --------
    >>> from cusoftmax import distributed
    >>> distributed.gathered_bytes("softmax", 1000, distributed.slices(131072, 8), "float16")
    128000
    """
    caller = "gathered_bytes"
    plain_choice(caller, "op", op, OPERATIONS)
    rows = plain_count(caller, "rows", rows)
    slice_sizes = [
        plain_count(caller, "sizes", size)
        for size in plain_list(caller, "sizes", sizes, "an int for each rank")
    ]
    name = accepted_name(caller, "dtype is", as_dtype(caller, dtype), INPUTS)
    kernel = op
    if op in ("cross_entropy", "cross_entropy_vjp"):
        chosen = {"soft": soft, "weight": weight, "smooth": smooth}
        checked = {key: plain_bool(caller, key, value) for key, value in chosen.items()}
        checked["smooth"] &= not checked["soft"]  # of probabilities that takes no other kernel
        result = "vjp" if op == "cross_entropy_vjp" else ""
        kernel = cross_entropy_name(capped=False, result=result, **checked)
    selected = int(op == "sample")
    if op == "topk_softmax":
        kernel, (selected,) = selection_of(caller, k, normalise)
        check_selection(caller, selected, (sum(slice_sizes),), (0,))
    chosen = {"scaled": scaled, "biased": biased}
    features = [key for key, value in chosen.items() if plain_bool(caller, key, value)]
    kernel = piece_of(logits_name(kernel, features))
    operation = find(kernel)
    operands = operation.read + operation.written
    dtypes = tuple(
        operation.fixed_dtype(i) or ("int64" if each in operation.indices else name)
        for i, each in enumerate(operands)
    )
    counts = subtrees(kernel, dtypes, slice_sizes, caller)
    nodes = len(counts) * max(counts) if plain_bool(caller, "padded", padded) else sum(counts)
    words = node_words(kernel, dtypes, selected)
    return rows * words * nodes * node_dtype(kernel, dtypes).itemsize
