"""Which units can never be active? Bounds of every unit, for all inputs in a box."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups
from pruneviz.core.imports import imported
from pruneviz.graph.find_groups import traced_walk
from pruneviz.graph.grouping import build_groups
from pruneviz.graph.interpreter import call, interpret, promoted, promoted_types
from pruneviz.graph.silence import value_range
from pruneviz.graph.state import Walk
from pruneviz.graph.values import args_of, draws_random_numbers, name_of, schema_of, sizes
from pruneviz.model.forward import arguments, quiet
from pruneviz.model.hooks import evaluating, plain_torch
from pruneviz.model.tensors import check_fit, tensors_by_name, tensors_of
from pruneviz.redundancy.interval_rules import RULES, Call
from pruneviz.redundancy.intervals import Interval, has_interval

if TYPE_CHECKING:
    import pandas as pd


CONSTANT = 1e-6  # a unit is constant if it varies by at most this share of its largest value


@plain_torch()
def bounds(
    model: nn.Module,
    example_input: Any,
    *,
    low: float | Tensor,
    high: float | Tensor,
    groups: Groups | None = None,
) -> pd.DataFrame:
    """Bound every unit at the input of its consumers, for all inputs in a box: *proved*.

    Intervals are propagated through the graph of the model, operator by operator. The bounds are
    always true, but they get wider with depth: a unit may be dead although they do not prove it.

    Parameters
    ----------
    model : nn.Module
        Bounded in eval mode. Not changed.
    example_input : Tensor, tuple or dict
        Arguments of the forward. The box replaces its first floating-point tensor; all other
        values, such as ids or masks, are used as they are.
    low, high : float or Tensor
        The box: every number of that tensor lies between them. Tensors broadcast to one example.
    groups : Groups, optional
        From `find_groups`. Default: they are found here.

    Returns
    -------
    DataFrame
        One row per unit that can be cut: ``group``, ``unit``, ``low`` and ``high`` over all
        positions, consumers and examples (in exact arithmetic, computed in float64; infinite after
        an operator without a rule), and ``kind``:

        * ``"dead"``: it is 0 for every input in the box, whatever the rounding;
        * ``"constant"``: it is the same number, up to 1e-6 of itself, and not 0;
        * ``"always on"``: it is above 0 for every input in the box, whatever the rounding;
        * ``""``: nothing is proved.

    Raises
    ------
    ArgumentError
        If `low` is above `high` anywhere, or they contain NaN or do not broadcast to one example;
        if the example has no floating-point tensor; if `groups` belong to another model.
    GraphError
        If `torch.export` cannot follow the model.

    Notes
    -----
    A ReLU gives exactly 0 if its input is not positive, but a forward in float32
    computes that input with rounding errors. So the intervals are propagated twice: in exact
    arithmetic, for ``low`` and ``high``; and widened at every operator by the possible rounding
    errors of the forward, such as (n + 2) · eps · (|W| |x| + |b|) for sums of n products in any
    order, for "dead" and "always on". A row of zeros with a bias ≤ 0 has no rounding error, and is
    still dead. A unit with ``high`` 0 and no kind is too close to 0 to decide. Not covered is
    arithmetic that is coarser than the type of the tensors: TF32, or autocast outside the model.

    References
    ----------
    Gowal et al. 2018, "On the Effectiveness of Interval Bound Propagation for Training Verifiably
    Robust Models", arXiv:1810.12715: the bounds. Serra, Yu, Kumar, Ramalingam 2021, "Scaling Up
    Exact Neural Network Compression by ReLU Stability", arXiv:2102.07804: units that can be removed
    without loss because they are stable over a domain.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> from pruneviz.redundancy.bounds import bounds
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> with torch.no_grad():
    ...     _ = model[0].weight.copy_(torch.tensor([[1.0, -2.0], [1.0, 1.0], [0.0, 0.0]]))
    ...     _ = model[0].bias.copy_(torch.tensor([0.5, -2.5, 0.5]))
    >>> bounds(model, torch.zeros(1, 2), low=0, high=1)
      group  unit  low  high      kind
    0     0     0  0.0   1.5
    1     0     1  0.0   0.0      dead
    2     0     2  0.5   0.5  constant
    """
    pd = imported("pandas")

    model = checks.unwrapped(model)
    boxed, box = _box(example_input, low, high)
    w = traced_walk(model, example_input)
    if groups is None:
        groups = build_groups(w, approximate=False)
    checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    cut = groups.cuttable
    check_fit(groups, cut, tensors_by_name(model), "groups")
    with quiet(), evaluating(w.traced.model):
        exact, rounded = (_by_root(w, boxed, box, rounded=r) for r in (False, True))
    rows: list[tuple[Any, ...]] = []
    for g in cut:
        # bound a unit over all places where it is produced or read
        roots = [w.atoms.roots(_ids(w, s.tensor, s.dim, s.blocks)[s.index]) for s in g.slices]
        places = np.concatenate(roots, 1)  # (units, places)
        lo, hi = exact[0][places].min(1), exact[1][places].max(1)
        rounded_lo, rounded_hi = rounded[0][places].min(1), rounded[1][places].max(1)
        unread = ~(lo <= hi)  # or not a number
        lo[unread], hi[unread] = -math.inf, math.inf
        scale = np.maximum(np.abs(lo), np.abs(hi))
        constant = np.isfinite(scale) & (scale > 0)
        constant[constant] = (hi - lo)[constant] <= CONSTANT * scale[constant]
        kinds = np.select(
            [(rounded_lo == 0) & (rounded_hi == 0), constant, (rounded_lo > 0) & ~unread],
            ["dead", "constant", "always on"],
            "",
        )
        rows += zip([g.name] * g.size, range(g.size), lo, hi, kinds.tolist(), strict=True)
    return pd.DataFrame(rows, columns=["group", "unit", "low", "high", "kind"])


def _box(example_input: Any, low: Any, high: Any) -> tuple[int, Interval]:
    """Return the number of the value that the box replaces, and the box."""
    leaves = tree_leaves(arguments(example_input))
    floats = [i for i, v in enumerate(leaves) if isinstance(v, Tensor) and v.is_floating_point()]
    if not floats:
        kinds = ", ".join(str(v.dtype) for v in leaves if isinstance(v, Tensor))
        raise ArgumentError(
            "`example_input` must hold a floating-point tensor, which the box replaces, but its "
            f"tensors are {kinds}. Bound a model that takes embeddings instead of ids."
        )
    shape = tuple(leaves[floats[0]].shape)
    box = Interval(_side(low, "low", shape), _side(high, "high", shape))
    above = (box.lo > box.hi).flatten()
    if above.any():
        i = int(above.nonzero()[0])
        raise ArgumentError(
            "`low` must not be above `high` anywhere, but "
            f"{box.lo.flatten()[i]:g} and {box.hi.flatten()[i]:g} were passed. Are they swapped?"
        )
    return floats[0], box


def _side(value: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """Return one side of the box in the shape of the example, float64 on the CPU."""
    message = f"`{name}` must be a number, or a tensor that broadcasts to one example, shape "
    message += f"{shape[1:]}, but"
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number and not isinstance(value, (Tensor, np.ndarray)):
        raise ArgumentError(f"{message} {value!r} was passed.")
    side = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()
    if side.isnan().any():
        raise ArgumentError(
            f"`{name}` must be numbers, but it contains NaN. Replace it by a bound."
        )
    try:
        return side.broadcast_to(shape)
    except RuntimeError as e:
        raise ArgumentError(f"{message} shape {tuple(side.shape)} was passed.") from e


def _ids(w: Walk, name: str, dim: int, blocks: int) -> np.ndarray:
    """Return the atoms of the places along a dimension of a tensor."""
    if (name, dim, blocks) not in w.tensors:
        raise ArgumentError(
            f"`groups` is of another model: here no units lie along dimension {dim} of {name!r}."
        )
    return w.tensors[name, dim, blocks]


def _by_root(w: Walk, boxed: int, box: Interval, *, rounded: bool) -> tuple[np.ndarray, np.ndarray]:
    """Propagate intervals through the graph; return the bounds of each root where it ends."""
    low, high = np.full(w.atoms.size, math.inf), np.full(w.atoms.size, -math.inf)
    inputs: list[Any] = list(w.traced.inputs)
    inputs[boxed] = Interval(*(t.to(inputs[boxed].device) for t in (box.lo, box.hi)))
    shared = _shared(w)

    def run(node: Node, env: dict[Node, Any]) -> Any:
        for end in (e for e in w.ends if e.node is node):
            for operand, dim in ((end.value, end.dim), (end.other, end.weight_dim)):
                if operand is not None:
                    v, roots = env[operand], w.atoms.roots(end.ids)
                    lo, hi = (v.lo, v.hi) if isinstance(v, Interval) else (v, v)
                    np.minimum.at(low, roots, value_range(lo, dim, np.arange(roots.size))[0])
                    np.maximum.at(high, roots, value_range(hi, dim, np.arange(roots.size))[1])
        return _result(node, env, shared, rounded)

    interpret(w, tensors_of(w.traced.model), inputs, run, lambda value: value)
    return low, high


def _result(node: Node, env: dict[Node, Any], shared: dict[Node, int], rounded: bool) -> Any:
    """Run one operator: itself if all arguments are known, else its rule on intervals."""
    op = call(node)
    args, kwargs = map_arg((args_of(node), node.kwargs), env.__getitem__)
    if op is operator.getitem and isinstance(args[0], (list, tuple)):
        return args[0][args[1]]
    schema = schema_of(node).arguments if isinstance(op, torch._ops.OpOverload) else []
    names = [arg.name for arg in schema]
    a = {arg.name: arg.default_value for arg in schema if arg.has_default_value()}
    a |= dict(zip(names, args, strict=False)) | kwargs
    known = not has_interval((args, kwargs))
    random = draws_random_numbers(node) or "empty" in name_of(node)
    if known and not random:  # as the forward does, in the forward's own type
        return op(*args, **kwargs)
    written = {arg.name for arg in schema if arg.alias_info and arg.alias_info.is_write}

    def out_of_place(**given: Any) -> Any:
        return op(**{k: v.clone() if k in written else v for k, v in given.items()})

    val, name = node.meta.get("val"), name_of(node)
    tensors = [v for v in tree_leaves(val) if isinstance(v, Tensor)]
    floats = [v.dtype for v in tensors if v.is_floating_point()]
    f = torch.finfo(floats[0]) if rounded and floats else None
    value = None
    if name in RULES and not known and (floats or not tensors):
        a = promoted_types(tree_map(promoted, a))
        value = RULES[name](Call(name, out_of_place, a, f))
    value = _checked(value, val, f)
    operands = dict(zip(names, args_of(node), strict=False)) | node.kwargs
    for x in (n for k in written for n in tree_leaves(operands.get(k)) if isinstance(n, Node)):
        for n in [n for n in env if n in shared and shared[n] == shared.get(x)]:
            env[n] = _checked(None, n.meta["val"], None)  # overwritten in part: nothing is known
    return value


def _checked(value: Any, val: Any, f: torch.finfo | None) -> Any:
    """Return a rule's result, widened by rounding errors; infinite where it is not usable."""
    if isinstance(val, (list, tuple)):
        parts = value if isinstance(value, (list, tuple)) else [None] * len(val)
        return [_checked(part, v, f) for part, v in zip(parts, val, strict=True)]
    if val is None or (value is not None and not isinstance(value, Interval)):
        return value
    shape = sizes(val.shape) if isinstance(val, Tensor) else ()
    real = isinstance(val, Tensor) and val.is_floating_point()
    if value is None or not real or value.lo.shape != shape:
        device = val.device if isinstance(val, Tensor) else None
        infinite = torch.full(shape, math.inf, dtype=torch.float64, device=device)
        return Interval(-infinite, infinite)
    lo, hi = value.lo, value.hi
    bad = lo.isnan() | hi.isnan() | (lo > hi)
    if f is not None:
        lo = lo - (lo.abs() * 4 * f.eps + f.tiny * (lo != 0))
        hi = hi + (hi.abs() * 4 * f.eps + f.tiny * (hi != 0))
        bad |= value.mag > f.max  # the forward may overflow
    return Interval(lo.masked_fill(bad, -math.inf), hi.masked_fill(bad, math.inf))


def _shared(w: Walk) -> dict[Node, int]:
    """Return a number for every tensor of a graph, equal for those that may share memory."""
    number_of: dict[int, int] = {}
    found: dict[Node, int] = {}
    for node in w.traced.nodes:
        val = next((v for v in tree_leaves(node.meta.get("val")) if isinstance(v, Tensor)), None)
        if val is None:
            continue
        memory = val.untyped_storage()._cdata  # parts of a split have one
        source = next((n for n in node.all_input_nodes if n in found), None)
        may_alias = torch.Tag.maybe_aliasing_or_mutating in getattr(node.target, "tags", ())
        number_of.setdefault(memory, found[source] if may_alias and source is not None else memory)
        found[node] = number_of[memory]
    return found


WIDE_BOX = 1e6  # a box from -FAR to FAR holds any sensible input
