"""Remove units for real: a smaller dense model, compared with the masked one before it is returned."""

from __future__ import annotations

import io
import itertools
import traceback
from collections.abc import Iterable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.names import layer_name
from pruneviz.core.plan import Plan
from pruneviz.evidence.collect import collect
from pruneviz.evidence.evidence import Evidence, check_evidence
from pruneviz.graph.find_groups import walked
from pruneviz.graph.grouping import by_use
from pruneviz.graph.interpreter import run_graph, silenced
from pruneviz.graph.silence import roles_of
from pruneviz.graph.state import Walk
from pruneviz.graph.trace import trace
from pruneviz.graph.walk import walk
from pruneviz.model.forward import arguments, copied_inputs, copy_of, quiet
from pruneviz.model.hooks import evaluating
from pruneviz.model.layers import weight_shapes
from pruneviz.model.tensors import check_fit, check_keep, held, tensors_of
from pruneviz.pruning.repair.data_free import twins_of
from pruneviz.pruning.repair.ladder import RIDGE, RUNGS, check_source
from pruneviz.pruning.repair.sites import sites
from pruneviz.pruning.repair.units import merged_blind, repaired
from pruneviz.pruning.surgery.constants import Folds, fold, folder
from pruneviz.pruning.surgery.cut import Cut, cut
from pruneviz.pruning.surgery.proof import Proof, Reference, reference
from pruneviz.pruning.surgery.removal import kept, lost
from pruneviz.pruning.surgery.sizes import bare_norms, blamed, mended

MAKE = "Make it: pv.select(pv.score(model, 'l2', groups=groups), sparsity=0.5)."
RECORD = "_pruneviz_cuts"  # on a shrunken model: what was cut, for `save`


def shrink(
    model: nn.Module,
    plan: Plan,
    *,
    example_input: Any,
    repair: str = "none",
    evidence: Evidence | None = None,
    batches: Iterable[Any] | None = None,
    ridge: float = RIDGE,
    as_program: bool = False,
) -> nn.Module:
    """Return a smaller model without the units that the plan drops, proved equal to the masked one.

    Parameters and buffers are cut, and so are the sizes that the layers hold. Where a silenced unit
    arrives as a constant (a sigmoid gives 0.5), the constant goes into the consumer's bias. Then
    the new model is compared with ``mask(model, plan)``, in float64, on at least eight examples:
    ``max|Δ| ÷ max|output| ≤ 1e-10``. A norm over units that are cut is evaluated over those that
    stay.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    plan : Plan
        For units: from `select` on scores of groups, or from `drop`.
    example_input : Tensor, tuple or dict
        Arguments of the forward, as for `find_groups`.
    repair : str
        What is done for the layers that lose inputs, after the comparison. ``"none"``; ``"fold"``:
        the mean of what is gone goes into their biases (or the running mean of a batch norm behind
        them); ``"merge"``: the weights for a unit go to the kept one most like it (without evidence and
        batches only if that one's incoming weights are a multiple of its own); ``"lstsq"``: the
        weights are re-fitted by least squares. Repaired are Linear and Conv layers, also those inside
        attention; where a weight is shared, and where nothing was collected, nothing is done.
    evidence : Evidence, optional
        From `collect` on this model, for a repair.
    batches : iterable, optional
        As for `collect`: with ``"lstsq"`` the layers are re-fitted one after the other, each on what
        it reads in the smaller model, to give what it gave in the whole one. Else, without
        `evidence`, it is collected from these.
    ridge : float
        Of ``"lstsq"``: how strongly the old weights are held, as a share of the mean variance.
    as_program : bool
        Return the shrunk graph of `torch.export` instead of a copy of the model. It runs where the
        model's own Python cannot, because sizes are written into it, such as ``x.view(-1, 400)``.
        It computes what eval mode computes. The batch stays free, and the length of sequences, where
        export can keep them; images keep their size.

    Returns
    -------
    nn.Module
        A new model with the keys, dtypes, device, ``requires_grad`` and training flags of the old.

    Raises
    ------
    ArgumentError
        If the plan drops single weights, or is of another model, or the input does not fit; if a
        repair has nothing to learn from.
    GraphError
        If a unit is frozen, or the smaller model cannot run or would compute something else. The
        message names the layers and the size of the difference, or the line of the model's code.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(3, 4)
    >>> plan = pv.drop(pv.find_groups(model, x), {"0": [1, 6]})
    >>> small = pv.shrink(model, plan, example_input=x)
    >>> small[0], small[2]
    (Linear(in_features=4, out_features=6, bias=True), Linear(in_features=6, out_features=2, bias=True))
    >>> bool(torch.allclose(small(x), pv.mask(model, plan)(x), atol=1e-6))
    True
    """
    checks.choice(repair, "repair", RUNGS)
    ridge = checks.number(ridge, "ridge", low=0)
    if repair != "none":
        check_source(repair, evidence, batches)
    shrinker = Shrinker(model, example_input)
    new = shrinker.proved(plan, as_program=as_program)
    if repair != "none":
        shrinker.repair(new, plan, repair, evidence, batches, ridge)
    return new


class Shrinker:
    """One model, traced once, to be cut along many plans.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    example_input : Tensor, tuple or dict
    """

    def __init__(self, model: nn.Module, example_input: Any, w: Walk | None = None) -> None:
        self.model = checks.unwrapped(model)
        check_numbers(self.model)
        self.example_input = example_input
        self.walk = walked(model, example_input) if w is None else w
        self._roles = roles_of(self.walk)
        with torch.inference_mode(False):
            self._example = copied_inputs(arguments(example_input), self.walk.traced.model)
        # which sizes were right for the groups that lose units, proved once for each set of them
        self._sizes: dict[frozenset[str], int] = {frozenset(): 0}

    def quick(self, plan: Plan) -> nn.Module:
        """Return the smaller model, compared only if these groups are cut for the first time.

        For a slider, or to try sizes. Not every cut that runs is right: an attention that believes it
        still has all of its heads runs, too. What of a model's sizes has to be set is found by the
        proof; for other counts of the same groups it is the same.
        """
        w = self.walk
        gone = self._gone(plan)
        cut = _cut_groups(plan)
        if cut not in self._sizes:
            return self.proved(plan)
        at = self._sizes[cut]
        with torch.inference_mode(False), torch.no_grad():
            folds: Folds = {}
            if w.constants:
                tensors = silenced(w, tensors_of(w.traced.model), gone, self._roles)
                with quiet(), evaluating(w.traced.model):
                    run_graph(w, tensors, w.traced.inputs, gone=gone, watch=folder(w, gone, folds))
            norms = bare_norms(w, self.model, gone)
            choices = [(), *blamed(w, self.model, gone)]
            for attributes in [*choices[at:], *choices[:at]]:
                new = self._cut(Cut(kept(w, gone), (*norms, *attributes)), folds, gone)
                try:
                    with quiet(), evaluating(new):
                        new(*self._example[0], **self._example[1])
                except Exception as e:
                    trouble = e
                    continue
                return new
        raise _failed(trouble) from trouble

    def proved(self, plan: Plan, *, as_program: bool = False) -> nn.Module:
        """Return the smaller model, compared with the masked one; or raise."""
        w = self.walk
        gone = self._gone(plan)
        folds: Folds = {}
        with torch.inference_mode(False), torch.no_grad():
            ref = reference(w, self._example, gone, self._roles, folder(w, gone, folds))
            if as_program:
                return self._program(plan, ref, folds)
            first = Cut(kept(w, gone), bare_norms(w, self.model, gone))
            what, at = self._right(first, folds, ref, gone)
            new = self._cut(what, folds, gone)
        self._sizes[_cut_groups(plan)] = at
        new.__dict__[RECORD] = (*getattr(self.model, RECORD, ()), what)
        return new

    def repair(
        self,
        new: nn.Module,
        plan: Plan,
        rung: str,
        evidence: Evidence | None,
        batches: Iterable[Any] | None,
        ridge: float = RIDGE,
    ) -> None:
        """Repair what was cut along a plan, in place."""
        assert plan.groups is not None
        where = sites(self.walk, self.model, lost(self.walk, plan), plan.groups)
        if evidence is None and batches is None:
            twins = twins_of(self.model, plan, self.example_input)
            merged_blind(self.model, new, where, twins)
            return
        if evidence is not None:
            check_evidence(evidence, weight_shapes(self.model))
        elif rung != "lstsq" and where:
            assert batches is not None
            names = [s.layer for s in where]
            evidence = collect(self.model, batches, layers=names, progress=False)
        repaired(self.model, new, where, rung, evidence=evidence, batches=batches, ridge=ridge)

    def _gone(self, plan: Plan) -> np.ndarray:
        groups = checks.kind(plan, "plan", Plan, MAKE).groups
        if groups is None:
            raise ArgumentError(
                "`shrink` removes whole units, but this plan drops single weights: those can only be "
                "zeroed, with pv.mask. Score units instead: pv.score(model, 'l2', groups=groups)."
            )
        for name, keep in plan.keep.items():
            check_keep(name, keep, (groups[name].size,))
        chosen = [groups[name] for name, keep in plan.keep.items() if not bool(keep.all())]
        check_fit(groups, chosen, held(self.model), "plan")
        return lost(self.walk, plan)

    def _cut(self, what: Cut, folds: Folds, gone: np.ndarray, exact: bool = False) -> nn.Module:
        new = copy_of(self.model)
        new = new.double() if exact else new
        cut(new, what)
        fold(self.walk, new, folds, gone)
        return new

    def _right(self, first: Cut, folds: Folds, ref: Reference, gone: np.ndarray) -> tuple[Cut, int]:
        """Find the sizes with which the cut model runs and equals the masked one, or raise.

        The second is the number of the choice.
        """
        w, trouble = self.walk, None
        for i, attributes in enumerate(itertools.chain([()], blamed(w, self.model, gone))):
            what = Cut(first.keep, (*first.attributes, *attributes))
            new = self._cut(what, folds, gone, ref.exact)
            try:
                proof = ref.compare(new)
            except Exception as e:
                trouble = trouble or _failed(e)
                trouble.__cause__ = trouble.__cause__ or e
                continue
            if proof.holds:
                return what, i
            trouble = trouble or _differs(w, gone, proof)
        assert trouble is not None
        raise trouble

    def _program(self, plan: Plan, ref: Reference, folds: Folds) -> nn.Module:
        """Return the graph with its written-down sizes set to the new ones."""
        w = walk(trace(self.model, self.example_input, program=True))
        gone = lost(w, plan)
        for node, args in [(n, mended(w, n, gone)) for n in w.traced.nodes]:
            node.args = args
        new = w.traced.program()
        exact = w.traced.program().double() if ref.exact else w.traced.program()
        for module in (new, exact):
            cut(module, Cut(kept(w, gone)))
            fold(w, module, folds, gone)
        try:
            with redirect_stderr(io.StringIO()):  # where a graph fails, torch prints its code
                proof = ref.compare(exact)
        except Exception as e:
            raise GraphError(
                f"the shrunk graph of `model` does not run: {_line(e)} Leave these units out: "
                f"{_layers(w, gone)}."
            ) from e
        if not proof.holds:
            raise _differs(w, gone, proof)
        return new


def check_numbers(model: nn.Module) -> None:
    """Raise if a weight holds NaN or infinity: nothing could be compared then."""
    weights = dict(model.named_parameters())
    for name, t in {**weights, **dict(model.named_buffers())}.items():
        # a buffer may hold infinities: they are masks
        bad = ~torch.isfinite(t.detach()) if name in weights else torch.isnan(t)
        if bad.any():
            raise ArgumentError(
                f"{name!r} contains NaN or infinity. Train the model anew, or load a sound checkpoint."
            )


def _cut_groups(plan: Plan) -> frozenset[str]:
    """Return the groups that lose units."""
    return frozenset(n for n, keep in plan.keep.items() if not bool(keep.all()))


def _layers(w: Walk, gone: np.ndarray) -> str:
    names = dict.fromkeys(
        layer_name(key[0]) or key[0]
        for key in by_use(w)
        if gone[w.atoms.roots(w.tensors[key])].any()
    )
    return ", ".join(repr(n) for n in list(names)[:4]) + (", …" if len(names) > 4 else "")


def _differs(w: Walk, gone: np.ndarray, proof: Proof) -> GraphError:
    return GraphError(
        f"the model without these units of {_layers(w, gone)} would not compute what the masked one "
        f"does: outputs differ by {proof.error:.1e} (of at most {proof.scale:.1e}; the mask itself "
        f"changes {proof.effect:.1e}). Its Python probably holds a size that is now another one: "
        "shrink(..., as_program=True) returns the graph with its sizes mended, or leave these layers "
        "out of the plan."
    )


def _failed(e: Exception) -> GraphError:
    """Name the user's own line of code that could not run with the new sizes."""
    frames = traceback.extract_tb(e.__traceback__)
    here, theirs = str(Path(__file__).parent), str(Path(torch.__file__).parent)
    own = [f for f in frames if not f.filename.startswith((here, theirs))]
    where = f"{own[-1].filename}:{own[-1].lineno}: `{own[-1].line}`" if own else "a layer of torch"
    return GraphError(
        f"the forward of the smaller model fails at {where} ({_line(e)}) A size is written into the "
        "code there: let it follow from a shape (x.flatten(1), x.shape[1]), or take the shrunk "
        "graph, in which it is mended: shrink(..., as_program=True)."
    )


def _line(e: Exception) -> str:
    lines = str(e).strip().splitlines()
    return f"{(lines[0] if lines else type(e).__name__).rstrip('.')}."
