"""How units are removed: a smaller model, compared with the masked one before it is returned."""

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
from torch.fx import GraphModule

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError, sentence_of
from pruneviz.core.names import layer_name
from pruneviz.core.plan import Plan
from pruneviz.evidence.collect import gathered
from pruneviz.evidence.evidence import Evidence, check_evidence
from pruneviz.graph.find_groups import traced_walk
from pruneviz.graph.grouping import tensors_in_use_order
from pruneviz.graph.interpreter import run_graph, silenced
from pruneviz.graph.silence import roles_of
from pruneviz.graph.state import Walk
from pruneviz.graph.trace import trace
from pruneviz.graph.walk import walk
from pruneviz.model.batches import read_all
from pruneviz.model.forward import arguments, copied_inputs, copy_of, quiet
from pruneviz.model.hooks import evaluating, plain_torch
from pruneviz.model.layers import weight_shapes
from pruneviz.model.tensors import check_fit, check_keep, tensors_by_name, tensors_of
from pruneviz.pruning.repair.data_free import twins_of
from pruneviz.pruning.repair.distil import Distillation, distil, rung_of
from pruneviz.pruning.repair.ladder import RIDGE, check_repair_data
from pruneviz.pruning.repair.said import Said
from pruneviz.pruning.repair.sites import sites
from pruneviz.pruning.repair.units import merge_without_data, repair_layers
from pruneviz.pruning.surgery.constants import Folds, add_folds, fold_watcher
from pruneviz.pruning.surgery.cut import Cut, cut, record_cut
from pruneviz.pruning.surgery.program import make_model_of
from pruneviz.pruning.surgery.proof import Proof, Reference, reference
from pruneviz.pruning.surgery.removal import kept_places, removed_classes
from pruneviz.pruning.surgery.sizes import attribute_choices, bare_norm_sizes, resized_arguments

HOW_TO_MAKE = "Make it: pv.select(pv.score(model, 'l2', groups=groups), sparsity=0.5)."


@plain_torch()
def shrink(
    model: nn.Module,
    plan: Plan,
    *,
    example_input: Any,
    repair: str | Distillation = "none",
    evidence: Evidence | None = None,
    batches: Iterable[Any] | None = None,
    ridge: float = RIDGE,
    as_program: bool = False,
) -> nn.Module:
    """Return a smaller model without the units that the plan drops, checked against the masked one.

    Parameters, buffers and the sizes stored in the layers are cut. Where a silenced unit reaches
    its consumer as a constant (a sigmoid gives 0.5), the constant is added to the consumer's bias.
    Then the new model is compared with ``mask(model, plan)``, in float64, on at least eight
    examples: ``max|Δ| ÷ max|output| ≤ 1e-10``. For this comparison a norm over removed units is
    evaluated over the kept units.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    plan : Plan
        For units: from `select` on scores of groups, or from `drop`.
    example_input : Tensor, tuple or dict
        Arguments of the forward, as for `find_groups`.
    repair : str or Distillation
        How layers that lose inputs are repaired, after the comparison. ``"none"``: not at all.
        ``"fold"``: the mean of each removed unit is added to their biases, or to the running mean
        of a batch norm behind them. ``"merge"``: the weights of a removed unit are added to those
        of the most similar kept unit; without evidence and batches only if the incoming weights of
        one are a multiple of the other's. ``"lstsq"``: the weights are re-fitted by least squares,
        without a gradient step. ``"distil"``: after that, all remaining weights learn the answers of the
        whole model by gradient steps, without a label; see `Distillation` for settings.
        Linear layers and convolutions are repaired, also transposed ones and inside attention. A
        layer that cannot be (a shared weight, no data, rows that a gate sends elsewhere in the
        smaller model) stays as it is, and a warning names it. So does one that is clearly better with
        a lower rung on every tenth example of `batches`.
    evidence : Evidence, optional
        From `collect` on this model, for a repair.
    batches : iterable, optional
        As for `collect`; ``"distil"`` needs them. With ``"lstsq"`` the layers are re-fitted one after the other, each from
        its inputs in the smaller model to its outputs in the old model; padded tokens are left out.
        Every tenth example is held out: where the fit is clearly worse on these than the rung
        below, that is taken, and a warning says so. Otherwise, without `evidence`, the evidence is
        collected from these batches.
    ridge : float
        For ``"lstsq"``: how strongly the fit is pulled towards the old weights, as a share of the
        mean variance of the inputs. With less than four rows a column up to a thousand times as much
        is tried, and taken if it is better on the held-out examples.
    as_program : bool
        Return the shrunken graph of `torch.export` instead of a copy of the model. It also runs
        where literal sizes in the model's own Python code, such as ``x.view(-1, 400)``, prevent
        that. It computes what the model computes in eval mode: `train` and `eval` set the flags of its
        modules, but no dropout or batch norm follows them. Batch size and sequence length may
        vary where export allows it; the size of images may not.

    Returns
    -------
    nn.Module
        A new model with the keys, dtypes, device, ``requires_grad`` and training flags of the old.
        What was removed is attached to it as plain data: it can be pickled, and unpickled where
        there is no pruneviz (but for `nn.MultiheadAttention` that lost heads, which runs by our code).

    Raises
    ------
    ArgumentError
        If the plan drops single weights or is of another model, the input does not fit, or a repair
        has no data.
    GraphError
        If a unit is frozen, the smaller model cannot run, or its outputs differ from those of the
        masked model. The message names the layers and the difference, or the line of the model's
        code.

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
    rung = rung_of(repair)
    ridge = checks.number(ridge, "ridge", low=0)
    if rung != "none":
        check_repair_data(rung, evidence, batches)
    shrinker = Shrinker(model, example_input)
    new = shrinker.compared(plan, as_program=as_program)
    if rung != "none":
        shrinker.repair(new, plan, repair, evidence, batches, ridge)
    return new


class Shrinker:
    """Cut one model, traced once, by many plans.

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
        self.walk = traced_walk(model, example_input) if w is None else w
        self._roles = roles_of(self.walk)
        with torch.inference_mode(False):
            self._example = copied_inputs(arguments(example_input), self.walk.traced.model)
        # for each set of groups that lose units: the number of the sizes that `compared` found
        self._sizes: dict[frozenset[str], int] = {frozenset(): 0}

    def quick(self, plan: Plan) -> nn.Module:
        """Return the smaller model; it is compared only if these groups are cut for the first time.

        For sliders and searches, which cut the same groups many times. That a cut model runs does
        not show that it is right: attention with a stale number of heads runs, too. The comparison
        in `compared` finds which size attributes must be set. They are the same for other numbers of
        units of the same groups.
        """
        w = self.walk
        removed = self._removed(plan)
        cut = _cut_groups(plan)
        if cut not in self._sizes:
            return self.compared(plan)
        number = self._sizes[cut]
        with torch.inference_mode(False), torch.no_grad():
            folds: Folds = {}
            if w.constants:
                tensors = silenced(w, tensors_of(w.traced.model), removed, self._roles)
                with quiet(), evaluating(w.traced.model):
                    run_graph(
                        w,
                        tensors,
                        w.traced.inputs,
                        removed=removed,
                        watch=fold_watcher(w, removed, folds),
                    )
            norms = bare_norm_sizes(w, self.model, removed)
            choices = [(), *attribute_choices(w, self.model, removed)]
            for attributes in [*choices[number:], *choices[:number]]:
                new = self._cut(Cut(kept_places(w, removed), (*norms, *attributes)), folds, removed)
                try:
                    with quiet(), evaluating(new):
                        new(*self._example[0], **self._example[1])
                except Exception as e:
                    error = e
                    continue
                return new
        raise _forward_failed(error) from error

    def compared(self, plan: Plan, *, as_program: bool = False) -> nn.Module:
        """Return the smaller model if it equals the masked one; else raise."""
        w = self.walk
        removed = self._removed(plan)
        folds: Folds = {}
        with torch.inference_mode(False), torch.no_grad():
            ref = reference(w, self._example, removed, self._roles, fold_watcher(w, removed, folds))
            if as_program:
                return self._program(plan, ref, folds)
            first = Cut(kept_places(w, removed), bare_norm_sizes(w, self.model, removed))
            what, number = self._find_sizes(first, folds, ref, removed)
            new = self._cut(what, folds, removed)
        self._sizes[_cut_groups(plan)] = number
        record_cut(new, what, self.model)
        return new

    def repair(
        self,
        new: nn.Module,
        plan: Plan,
        repair: str | Distillation,
        evidence: Evidence | None,
        batches: Iterable[Any] | None,
        ridge: float = RIDGE,
    ) -> None:
        """Repair a model that was cut by a plan, in place."""
        rung = rung_of(repair)
        if rung == "distil":
            check_repair_data(rung, evidence, batches)
            assert batches is not None
            batches = read_all(batches, "learn from")
            if not isinstance(new, GraphModule):  # a program has no layers to re-fit
                self._repair_layers(new, plan, "lstsq", None, batches, ridge, silent=True)
            distil(self.model, new, batches, repair)
        else:
            self._repair_layers(new, plan, rung, evidence, batches, ridge)

    def _repair_layers(
        self, new: nn.Module, plan: Plan, rung: str, evidence: Evidence | None,
        batches: Iterable[Any] | None, ridge: float, *, silent: bool = False,
    ) -> None:  # fmt: skip
        """Give the layers that lost inputs new weights, one by one."""
        assert plan.groups is not None
        removed = removed_classes(self.walk, plan)
        affected, refused = sites(self.walk, self.model, removed, plan.groups)
        if evidence is None and batches is None:
            twins = twins_of(self.model, plan, self.example_input)
            merge_without_data(self.model, new, affected, twins)
            return
        if evidence is not None:
            check_evidence(evidence, weight_shapes(self.model))
        elif rung != "lstsq" and affected:
            assert batches is not None
            names, batches = [s.layer for s in affected], read_all(batches, "collect")
            evidence = gathered(self.model, batches, names)
        said = Said(rung, silent=silent)
        for layer, reason in refused.items():
            said.left(layer, reason)
        repair_layers(
            self.model, new, affected, rung, said, evidence=evidence, batches=batches, ridge=ridge
        )
        said.tell()

    def _removed(self, plan: Plan) -> np.ndarray:
        groups = checks.kind(plan, "plan", Plan, HOW_TO_MAKE).groups
        if groups is None:
            raise ArgumentError(
                "`shrink` removes whole units, but this plan drops single weights: these can only "
                "be set to zero, with pv.mask. Score units instead: pv.score(model, 'l2', "
                "groups=groups)."
            )
        for name, keep in plan.keep.items():
            check_keep(name, keep, (groups[name].size,))
        chosen = [groups[name] for name, keep in plan.keep.items() if not bool(keep.all())]
        check_fit(groups, chosen, tensors_by_name(self.model), "plan")
        return removed_classes(self.walk, plan)

    def _cut(
        self, what: Cut, folds: Folds, removed: np.ndarray, in_float64: bool = False
    ) -> nn.Module:
        new = copy_of(self.model)
        new = new.double() if in_float64 else new
        cut(new, what)
        add_folds(self.walk, new, folds, removed)
        return new

    def _find_sizes(
        self, first: Cut, folds: Folds, ref: Reference, removed: np.ndarray
    ) -> tuple[Cut, int]:
        """Return the cut whose sizes make the model run and equal the masked one, and its number.

        If none does, the error of the first choice is raised.
        """
        w, error = self.walk, None
        for i, attributes in enumerate(
            itertools.chain([()], attribute_choices(w, self.model, removed))
        ):
            what = Cut(first.keep, (*first.attributes, *attributes))
            new = self._cut(what, folds, removed, ref.in_float64)
            try:
                proof = ref.compare(new)
            except Exception as e:
                error = error or _forward_failed(e)
                error.__cause__ = error.__cause__ or e
                continue
            if proof.holds:
                return what, i
            error = error or _outputs_differ(w, removed, proof)
        assert error is not None
        raise error

    def _program(self, plan: Plan, ref: Reference, folds: Folds) -> nn.Module:
        """Return the exported graph with its literal sizes replaced by the new ones."""
        w = walk(trace(self.model, self.example_input, program=True))
        removed = removed_classes(w, plan)
        for node, args in [(n, resized_arguments(w, n, removed)) for n in w.traced.nodes]:
            node.args = args
        new = w.traced.program()
        compared = w.traced.program().double() if ref.in_float64 else w.traced.program()
        for module in (new, compared):
            cut(module, Cut(kept_places(w, removed)))
            add_folds(w, module, folds, removed)
            make_model_of(module, self.model)
        try:
            with redirect_stderr(io.StringIO()):  # if a graph fails, torch prints its code
                proof = ref.compare(compared)
        except Exception as e:
            raise GraphError(
                f"the shrunken graph of `model` does not run: {sentence_of(e)} Leave units of "
                f"these layers out of the plan: {_layer_names(w, removed)}."
            ) from e
        if not proof.holds:
            raise _outputs_differ(w, removed, proof)
        record_cut(new, Cut(kept_places(w, removed)), self.model)
        return new


def check_numbers(model: nn.Module) -> None:
    """Raise if a weight holds NaN, infinity or complex numbers: outputs could not be compared."""
    weights = dict(model.named_parameters())
    for name, t in {**weights, **dict(model.named_buffers())}.items():
        if name in weights and t.is_complex():
            raise ArgumentError(
                f"{name!r} holds complex numbers, and torch does not convert such a layer to higher "
                "precision, so no removal could be checked. Silence units instead: pv.mask(model, "
                "plan)."
            )
        # a buffer may hold infinities, such as an attention mask
        bad = ~torch.isfinite(t.detach()) if name in weights else torch.isnan(t)
        if bad.any():
            raise ArgumentError(
                f"{name!r} contains NaN or infinity. Train the model anew, or load a sound checkpoint."
            )


def _cut_groups(plan: Plan) -> frozenset[str]:
    """Return the groups that lose units."""
    return frozenset(n for n, keep in plan.keep.items() if not bool(keep.all()))


def _layer_names(w: Walk, removed: np.ndarray) -> str:
    names = dict.fromkeys(
        layer_name(key[0]) or key[0]
        for key in tensors_in_use_order(w)
        if removed[w.atoms.roots(w.tensors[key])].any()
    )
    return ", ".join(repr(n) for n in list(names)[:4]) + (", …" if len(names) > 4 else "")


def _outputs_differ(w: Walk, removed: np.ndarray, proof: Proof) -> GraphError:
    return _refused(
        "it would not compute what the masked model does",
        f"the model without these units of {_layer_names(w, removed)} would not compute what the "
        f"masked one does: outputs differ by {proof.error:.1e} (of at most {proof.scale:.1e}; the "
        f"mask itself changes {proof.effect:.1e}). Its Python code probably uses an old size: "
        "shrink(..., as_program=True) returns the graph with the new sizes, or leave these layers "
        "out of the plan.",
    )


def _refused(reason: str, message: str) -> GraphError:
    error = GraphError(message)
    error.reason = reason
    return error


def _forward_failed(e: Exception) -> GraphError:
    """Return an error that names the line of the user's code that fails with the new sizes."""
    frames = traceback.extract_tb(e.__traceback__)
    libraries = str(Path(__file__).parents[1]), str(Path(torch.__file__).parent)  # ours, torch
    own = [f for f in frames if not f.filename.startswith(libraries)]
    where = f"{own[-1].filename}:{own[-1].lineno}: `{own[-1].line}`" if own else "a layer of torch"
    return _refused(
        f"an old size is used at {where}" if own else "a layer of torch keeps an old size",
        f"the forward of the smaller model fails at {where} ({sentence_of(e)}) The code there uses "
        "an old size: compute it from a shape (x.flatten(1), x.shape[1]), or take the graph with "
        "the new sizes: shrink(..., as_program=True).",
    )
