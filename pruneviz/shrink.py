"""Remove units for real: a smaller dense model, which is compared with the masked one."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from pruneviz import _check
from pruneviz._copy import copy_of
from pruneviz._inputs import arguments
from pruneviz.groups import walked
from pruneviz.groups.build import by_use
from pruneviz.groups.silence import roles_of, watcher
from pruneviz.groups.trace import plain, unwrapped
from pruneviz.groups.walk import End, Walk
from pruneviz.proof import Proof, Reference, reference
from pruneviz.sizes import blamed
from pruneviz.surgery import Cut, cut, holders_of
from pruneviz.tensors import plain as plain_name
from pruneviz.types import ArgumentError, GraphError, Plan

RECORD = "_pruneviz_cuts"  # on a shrunken model: what was cut, for `save`


def shrink(
    model: nn.Module, plan: Plan, *, example_input: Any, as_program: bool = False
) -> nn.Module:
    """Return a smaller model without the units that the plan drops, proved equal to the masked one."""
    _check.kind(plan, "plan", Plan, "Make it: pv.select(pv.score(model, 'l2', groups=groups), sparsity=0.5).")
    if plan.groups is None:
        raise ArgumentError(
            "`shrink` removes whole units, but this plan drops single weights: those can only be "
            "zeroed, with pv.mask. Score units instead: pv.score(model, 'l2', groups=groups)."
        )
    model = unwrapped(_check.model(model))
    w = walked(model, example_input)
    gone = lost(w, plan)
    keeps = kept(w, gone)
    with torch.inference_mode(False), torch.no_grad():
        example = plain(arguments(example_input), w.traced.model)
        folds: dict[tuple[Node, Node], Tensor] = {}
        roles = roles_of(w)
        ref = reference(w, example, gone, roles, _folder(w, gone, folds))
        what = _proved(w, model, Cut(keeps), folds, ref, gone)
        new = copy_of(model)
        cut(new, what)
        _fold(w, new, folds, gone)
    record = (*getattr(model, RECORD, ()), what)
    new.__dict__[RECORD] = record
    return new


def lost(w: Walk, plan: Plan) -> np.ndarray:
    """Mark, by root, the classes that the plan drops; raise if it is of another model."""
    gone = np.zeros(w.atoms.size, bool)
    counted: dict[tuple[str, int, int], int] = {}
    assert plan.groups is not None
    # a mask moves a weight into its parametrization: the same tensor by another name
    known = {(plain_name(name), dim, blocks): (name, dim, blocks) for name, dim, blocks in w.tensors}
    for name, keep in plan.keep.items():
        group = plan.groups[name]
        drop = ~keep.cpu().numpy()
        if not drop.any():
            continue
        if drop.all():
            raise GraphError(f"group {name!r} would lose all its {drop.size} units: keep at least one.")
        for s in group.slices:
            key = known.get((plain_name(s.tensor), s.dim, s.blocks), ("", 0, 0))
            ids = w.tensors.get(key)
            if ids is None or s.index.max() >= ids.size:
                raise _other(f"this one has no dimension {s.dim} of {s.tensor!r} like that")
            gone[w.atoms.roots(ids[s.index[drop].ravel()])] = True
            counted[key] = counted.get(key, 0) + s.index[drop].size
    frozen, _, reasons = w.atoms.reasons()
    for key in by_use(w):
        roots = w.atoms.roots(w.tensors[key])
        stuck = gone[roots] & (frozen[roots] > 0)
        if stuck.any():
            layer = key[0].rpartition(".")[0] or key[0]
            raise GraphError(
                f"layer {layer!r} cannot be shrunk: {reasons[frozen[roots][stuck][0]]}. "
                "Protect it, or leave it out of the plan."
            )
        if key in counted and int(gone[roots].sum()) != counted[key]:
            raise _other(f"units of {key[0]!r} are coupled otherwise here")
    return gone


def _other(why: str) -> ArgumentError:
    return ArgumentError(f"`plan` is of another model: {why}. Make it with find_groups(model, ...).")


def kept(w: Walk, gone: np.ndarray) -> tuple[tuple[str, int, int, np.ndarray], ...]:
    """What stays along each dimension that loses something."""
    keeps = [(*key, ~gone[w.atoms.roots(w.tensors[key])]) for key in by_use(w)]
    return tuple(k for k in keeps if not k[3].all())


def _folder(
    w: Walk, gone: np.ndarray, folds: dict[tuple[Node, Node], Tensor]
) -> Callable[[Node, Callable[[Node], Any]], None]:
    """Watch a masked run, and work out what constants add to which bias."""

    def bad(end: End, at: np.ndarray, why: str) -> None:
        raise GraphError(f"operator {end.node.target} cannot lose these units: {why}.")

    def constant(end: End, at: np.ndarray, c: Tensor, env: Callable[[Node], Any]) -> None:
        assert end.weight is not None and end.bias is not None
        weight = env(end.weight).detach().double()
        c = c.to(weight.device)
        index = torch.from_numpy(at).to(weight.device)
        if end.blocks > 1:
            each = weight.shape[1]
            rows = weight.reshape(end.blocks, -1, *weight.shape[1:]).flatten(3).sum(-1)
            full = torch.zeros(end.blocks * each, dtype=c.dtype, device=c.device)
            full[index] = c
            extra = torch.einsum("bok,bk->bo", rows, full.reshape(end.blocks, each)).reshape(-1)
        else:
            columns = weight.movedim(end.weight_dim, 0)[index]  # (removed, out, kernel)
            extra = torch.tensordot(c, columns.flatten(2).sum(-1) if columns.ndim > 2 else columns, 1)
        key = (end.bias, end.node)
        folds[key] = folds[key] + extra if key in folds else extra

    return watcher(w, gone, bad, constant)


def _fold(w: Walk, new: nn.Module, folds: dict[tuple[Node, Node], Tensor], gone: np.ndarray) -> None:
    """Add to each bias what its silenced inputs contribute."""
    by_bias: dict[str, list[Tensor]] = {}
    for (bias, _), extra in folds.items():
        by_bias.setdefault(w.traced.sources[bias][1], []).append(extra)
    holders = holders_of(new)
    for name, extras in by_bias.items():
        ids = w.tensors.get((name, 0, 1))
        stays = slice(None) if ids is None else torch.from_numpy(~gone[w.atoms.roots(ids)])
        first = extras[0][stays]
        if any(not torch.allclose(first, e[stays], rtol=1e-9, atol=1e-12) for e in extras[1:]):
            raise GraphError(
                f"{name!r} is used in several places, where different constants arrive: they cannot "
                "all be folded into one bias."
            )
        tensor = holders[name][0]
        tensor.data += first.to(tensor)


def _proved(
    w: Walk,
    model: nn.Module,
    plain_cut: Cut,
    folds: dict[tuple[Node, Node], Tensor],
    ref: Reference,
    gone: np.ndarray,
) -> Cut:
    """Find the sizes with which the cut model runs, and equals the masked one; or raise."""
    trouble: list[GraphError] = []
    for attributes in itertools.chain([()], blamed(w, model, gone)):
        what = Cut(plain_cut.keep, attributes)
        new = copy_of(model)
        if ref.exact:
            new = new.double()
        cut(new, what)
        _fold(w, new, folds, gone)
        try:
            proof = ref.compare(new)
        except Exception as e:
            trouble.append(_failed(model, e))
            trouble[-1].__cause__ = e
            continue
        if proof.holds:
            return what
        trouble.append(_differs(w, gone, proof))
    raise trouble[0]


def _differs(w: Walk, gone: np.ndarray, proof: Proof) -> GraphError:
    layers = dict.fromkeys(
        (key[0].rpartition(".")[0] or key[0])
        for key in by_use(w) if gone[w.atoms.roots(w.tensors[key])].any()
    )  # fmt: skip
    some = ", ".join(repr(n) for n in list(layers)[:4]) + (", …" if len(layers) > 4 else "")
    return GraphError(
        f"the model without these units of {some} would not compute what the masked one does: "
        f"outputs differ by {proof.error:.1e} (of at most {proof.scale:.1e}; the mask itself changes "
        f"{proof.effect:.1e}). Its Python probably holds a size that is now another one: shrink(..., "
        "as_program=True) returns the graph with its sizes mended, or leave these layers out."
    )


def _failed(model: nn.Module, e: Exception) -> GraphError:
    """Name the user's own line of code that could not run with the new sizes."""
    frames = traceback.extract_tb(e.__traceback__)
    here, theirs = str(Path(__file__).parent), str(Path(torch.__file__).parent)
    own = [f for f in frames if not f.filename.startswith((here, theirs))]
    where = f"{own[-1].filename}:{own[-1].lineno}: `{own[-1].line}`" if own else "inside torch"
    text = str(e).splitlines()[0] if str(e) else type(e).__name__
    return GraphError(
        f"the forward of the smaller model fails at {where} ({text}). A size is written into the "
        "code there: let it follow from a shape (x.flatten(1), x.shape[1]), or take the shrunk "
        "graph, in which it is mended: shrink(..., as_program=True)."
    )
