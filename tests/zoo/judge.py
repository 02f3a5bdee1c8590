"""Judge what pruneviz does to a case: by a comparison of our own, not by its proof.

The masked model runs eagerly, in float64 where that is possible, on inputs that are not the
example's and in another batch size; the shrunken one must give the same numbers. Where a norm runs
over the units, it runs over those that stay, by a forward put in its place here.
"""

from __future__ import annotations

import copy
import functools
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from helpers import assert_untouched, snapshot, storages
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

import pruneviz as pv
from pruneviz.pruning.shrink import Shrinker

from .case import Case

SHARE = 1 / 3
MANY = 8
PROGRAM = ", as a program"
SMALL = {torch.float32, torch.float16, torch.bfloat16}


@dataclass
class Verdict:
    """What became of the groups of one case."""

    name: str
    exported: bool = True
    cut: dict[str, str] = field(default_factory=dict)  # group -> how it was judged
    refused: dict[str, str] = field(default_factory=dict)  # group -> reason
    frozen: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)  # what must not be
    missed: list[str] = field(default_factory=list)  # what should have been cut
    groups: int = 0  # that were cut, alone or with others
    seconds: float = 0.0

    @property
    def trouble(self) -> str:
        return "\n".join([*self.wrong, *self.missed])


# -- running a model -----------------------------------------------------------------------------


class _Double(TorchFunctionMode):
    """Float64 also where a forward asks for less."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("float", "half", "bfloat16") and args and isinstance(args[0], Tensor):
            return args[0].double()

        def wide(a: Any) -> Any:
            return torch.float64 if isinstance(a, torch.dtype) and a in SMALL else a

        args, kwargs = pytree.tree_map(wide, (tuple(args), dict(kwargs or {})))
        return func(*args, **kwargs)


def wide(values: Any) -> Any:
    def one(v: Any) -> Any:
        return v.double() if isinstance(v, Tensor) and v.dtype in SMALL else v

    return pytree.tree_map(one, values)


def unwidened(values: Any) -> Any:
    def one(v: Any) -> Any:
        return v.float() if isinstance(v, Tensor) and v.dtype == torch.float64 else v

    return pytree.tree_map(one, values)


def outputs(value: Any) -> list[Tensor]:
    """All tensors in what a forward returned, whatever holds them."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in outputs(v)]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in outputs(v)]
    return (
        [t for v in vars(value).values() for t in outputs(v)] if hasattr(value, "__dict__") else []
    )


def call(model: nn.Module, inputs: Any, *, forced: bool = False, fast: bool = True) -> list[Tensor]:
    """Run a copy of the inputs through the model; `forced`: everything in float64.

    Without `fast`, an encoder calls its layers, and not one operator for all that they do.
    """
    inputs = pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, inputs)
    args = (
        inputs
        if isinstance(inputs, (tuple, list))
        else ()
        if isinstance(inputs, dict)
        else (inputs,)
    )
    kwargs = inputs if isinstance(inputs, dict) else {}
    before = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        try:
            torch.backends.mha.set_fastpath_enabled(fast)
            if not forced:
                return outputs(model(*args, **kwargs))
            torch.set_default_dtype(torch.float64)
            with _Double():
                return outputs(model(*args, **kwargs))
        finally:
            torch.set_default_dtype(before[0])
            torch.backends.mha.set_fastpath_enabled(before[1])


def fresh(inputs: Any, seed: int, *, batch: int | None = None, shuffle: bool = False) -> Any:
    """Inputs like the example's, drawn anew; whole numbers lie in the example's range, or are shuffled.

    Masks stay; `batch` is the new size of the first dimension of every tensor that has the first's.
    """
    noise = torch.Generator().manual_seed(1000 + seed)
    tensors = [t for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)]
    size = tensors[0].shape[0] if tensors and tensors[0].ndim else None

    def one(t: Any) -> Any:
        if not isinstance(t, Tensor):
            return t
        if batch is not None and t.ndim and t.shape[0] == size:
            t = t[torch.arange(batch) % size]
        if t.dtype == torch.bool or t.is_complex() or not t.numel():
            return t
        if t.is_floating_point():
            finite = t[torch.isfinite(t)].double()
            if finite.numel() < t.numel() or finite.unique().numel() < 3:
                return t  # a mask, or a scalar
            spread = float(finite.std())
            low, high = float(finite.min()), float(finite.max())
            drawn = torch.randn(t.shape, generator=noise, dtype=torch.float64)
            drawn = finite.mean() + spread * drawn
            if low >= 0:  # probabilities, images, coordinates
                drawn = low + (high - low) * torch.rand(
                    t.shape, generator=noise, dtype=torch.float64
                )
            return drawn.to(t)
        low, high = int(t.min()), int(t.max())
        if low >= 0 and high <= 1:
            return t
        if shuffle:
            rows = t.reshape(-1, t.shape[-1]) if t.ndim else t.reshape(1, 1)
            order = torch.rand(rows.shape, generator=noise).argsort(1)
            return rows.gather(1, order).reshape(t.shape)
        return torch.randint(low, high + 1, t.shape, generator=noise).to(t)

    return pytree.tree_map(one, inputs)


def unlike(model: nn.Module, inputs: Any, *, forced: bool = False, batch: int = 3) -> list[Any]:
    """Up to three inputs that the model takes: two drawn anew, and one of another batch size."""

    def runs(x: Any) -> bool:
        try:
            found = call(model, x, forced=forced)
        except Exception:
            return False
        return all(bool(torch.isfinite(t).all()) for t in found if t.is_floating_point())

    usable = []
    for seed, many in ((1, None), (2, None), (3, batch)):
        for shuffle in (False, True):
            x = fresh(inputs, seed, batch=many, shuffle=shuffle)
            if runs(x):
                usable.append(x)
                break
    return usable or [inputs]


def apart(got: list[Tensor], want: list[Tensor]) -> float:
    """max|got − want|; infinite for other shapes."""
    if [t.shape for t in got] != [t.shape for t in want]:
        return float("inf")
    worst = 0.0
    for a, b in zip(got, want, strict=True):
        if a.numel() == 0:
            continue
        same = (a == b) | (a.isnan() & b.isnan()) if a.is_floating_point() else a == b
        wider = torch.complex128 if a.is_complex() else torch.float64
        gap = (a.to(wider) - b.to(wider)).abs()
        gap = torch.where(same, torch.zeros_like(gap), gap)
        worst = max(worst, float(gap.max()) if not gap.isnan().any() else float("inf"))
    return worst


def top(found: list[Tensor]) -> float:
    tops = [
        t[torch.isfinite(t)].abs().double() for t in found if t.is_floating_point() and t.numel()
    ]
    return max([float(t.max()) for t in tops if t.numel()], default=1.0) or 1.0


# -- the reference -------------------------------------------------------------------------------


def reference(model: nn.Module, plan: pv.Plan) -> tuple[nn.Module, bool]:
    """The masked model, with its norms over units running over those that stay; and whether any do."""
    masked = pv.bake(pv.mask(model, plan))
    modules = dict(masked.named_modules())
    lost: dict[str, dict[int, np.ndarray]] = {}
    assert plan.groups is not None
    for name, keep in plan.keep.items():
        gone = ~keep.numpy()
        for s in plan.groups[name].slices if gone.any() else ():
            layer = modules.get(s.layer)
            if layer is None or not over_units(layer):
                continue
            n = layer.get_parameter(s.tensor.rpartition(".")[2]).shape[s.dim]
            at = lost.setdefault(s.layer, {}).setdefault(s.dim, np.zeros(n, bool))
            at[s.index[gone].ravel()] = True
    for layer_name, dims in lost.items():
        kept = {d: torch.from_numpy(np.flatnonzero(~at)) for d, at in dims.items()}
        few(modules[layer_name], kept)
    # a norm without weights cannot be told over which units it runs
    bare = any(over_units(m) and not [*m.parameters()] for m in modules.values())
    return masked, bool(lost) and not bare


def over_units(layer: nn.Module) -> bool:
    kind = type(layer).__name__
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups < layer.num_channels
    return "Norm" in kind and "Batch" not in kind and "Instance" not in kind


def few(norm: nn.Module, kept: dict[int, Tensor]) -> None:
    """Let a norm run over what stays along dimensions of its weight; it gives 0 for the others."""
    small = copy.copy(norm)
    sizes = next(p.shape for p in norm.parameters())
    small._parameters = dict(norm._parameters)
    for name, p in norm._parameters.items():
        if p is not None and p.shape == sizes:
            small._parameters[name] = nn.Parameter(picked(p.detach(), kept))
    shape = next(p.shape for p in small.parameters())
    for attribute, value in vars(norm).items():  # "num_channels", "group_size", …
        if attribute == "normalized_shape":
            small.normalized_shape = tuple(shape)
        elif attribute == "group_size":  # as many go from each group
            small.group_size = value * shape[0] // sizes[0]
        elif attribute == "groups" and 0 in kept:  # whole ones go, or as many from each
            small.groups = len({int(i) // (sizes[0] // value) for i in kept[0]})
        elif type(value) is int and value == sizes[0] and attribute != "num_groups":
            setattr(small, attribute, shape[0])
    whole = type(norm).forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # the weight's dimensions are the last ones of x; or the one of channels
        lead = x.ndim - len(sizes)
        of_channels = isinstance(norm, nn.GroupNorm) or "2d" in type(norm).__name__
        if of_channels or x.shape[lead:] != sizes:
            lead = 1
        shape = x.shape
        cut = pytree.tree_map(  # a gate, too
            lambda a: picked(a, kept, lead) if isinstance(a, Tensor) and a.shape == shape else a,
            (x, args, kwargs),
        )
        y = whole(small, cut[0], *cut[1], **cut[2])
        for d, keep in kept.items():
            full = y.new_zeros([x.shape[i] if i == d + lead else n for i, n in enumerate(y.shape)])
            y = full.index_copy(d + lead, keep, y)
        return y

    norm.forward = forward  # type: ignore[method-assign]


def picked(t: Tensor, kept: dict[int, Tensor], lead: int = 0) -> Tensor:
    for d, keep in kept.items():
        t = t.index_select(d + lead, keep)
    return t


# -- plans ---------------------------------------------------------------------------------------


def third(groups: pv.Groups, names: Iterable[str], seed: int = 0) -> pv.Plan:
    """Drop about a third of the units of some groups, as many from each part that must stay equal."""
    rng = np.random.default_rng(seed)
    keep = {}
    for name in names:
        group = groups[name]
        parts = np.zeros(group.size, int) if group.even is None else group.even
        least = np.unique(parts, return_counts=True)[1].min()
        count = min(max(1, round(SHARE * least)), least - 1)
        kept = np.ones(group.size, bool)
        for part in np.unique(parts):
            kept[rng.choice(np.flatnonzero(parts == part), count, replace=False)] = False
        keep[name] = torch.from_numpy(kept)
    return pv.Plan(keep, groups)


# -- the judge -----------------------------------------------------------------------------------


def judge(case: Case, *, approximate: bool = True, programs: bool = False) -> Verdict:
    """Cut all groups of a case at once, then each on its own; of many, those that are not done yet.

    `programs`: all at once, as an exported program.
    """
    began = time.perf_counter()
    v = Verdict(case.name)
    torch.manual_seed(zlib.crc32(case.name.encode()))
    model, inputs = case.build(), case.inputs()
    forced: bool | None = False
    doubled = copy.deepcopy(model).double().eval()
    try:  # a fold is as exact as the model's numbers: cut it in float64 if it runs so
        found = call(doubled, wide(inputs))
        whole = all(t.dtype == torch.float64 for t in found if t.is_floating_point())
        assert whole and "float32" not in case.tags
        model, inputs = doubled, wide(inputs)
    except Exception:
        forced = True
        try:
            call(doubled, wide(inputs), forced=True)
        except Exception:
            forced = None  # no kernel in float64: compare in float32
    model.train()
    before = snapshot(model)
    groups = attempt(
        v,
        "find_groups",
        lambda: pv.find_groups(model, inputs, approximate=approximate),
        lists="nested-input" in case.tags,
    )
    assert_untouched(model, before)
    if groups is None:
        v.exported = False
        if not {"no-export", "nested-input"} & set(case.tags):
            v.missed.append(v.refused.get("find_groups", ""))
        return v
    v.frozen = {g.name: g.frozen for g in groups if g.frozen}
    free = [g.name for g in groups if not g.frozen]
    bench = Bench(case, model, inputs, groups, forced, v, programs)
    if programs:
        plan = third(groups, free)
        if free:
            bench.cut("all", plan, functools.partial(pv.shrink, model, example_input=inputs))
        return v
    done: set[str] = set()
    if len(free) > 1:
        plan = pv.select(pv.score(model, "l2", groups=groups), sparsity=0.3)
        bench.cut("all", plan, functools.partial(pv.shrink, model, example_input=inputs))
        if "all" in v.cut:
            done = {name for name, keep in plan.keep.items() if not keep.all()}
    singles = free
    if len(free) > MANY and "all" in v.cut:
        singles = [name for name in free if name not in done]
        singles += free[:: -(-len(free) // MANY)]
    one = attempt(v, "shrink", lambda: Shrinker(model, inputs)) if singles else None
    for name in dict.fromkeys(singles) if one is not None else ():
        bench.cut(name, third(groups, [name]), one.compared)
    expect(case, groups, v, done, approximate=approximate)
    v.groups = len({*done, *(n.removesuffix(PROGRAM) for n in v.cut)} - {"all"})
    v.seconds = time.perf_counter() - began
    return v


def attempt(v: Verdict, what: str, act: Callable[[], Any], *, lists: bool = False) -> Any:
    """Do something that may be refused, but not otherwise fail."""
    try:
        return act()
    except pv.GraphError as e:
        v.refused[what] = str(e)
    except pv.ArgumentError as e:  # the arguments are all right, but for some that hold a list
        v.refused[what] = str(e)
        if not lists:
            v.wrong.append(f"{what}: ArgumentError: {e}")
    except Exception as e:
        v.wrong.append(f"{what}: raised {type(e).__name__}: {str(e)[:300]}")
    return None


@dataclass
class Bench:
    """A model whose groups are cut one after the other."""

    case: Case
    model: nn.Module
    inputs: Any
    groups: pv.Groups
    forced: bool | None  # None: no float64 at all
    v: Verdict
    programs: bool = False  # only as programs

    def __post_init__(self) -> None:
        self.dense = self.ready(self.model)
        self.unlike = unlike(self.dense, self.widened(self.inputs), forced=bool(self.forced))

    def ready(self, model: nn.Module) -> nn.Module:
        model = copy.deepcopy(model).eval()
        return model if self.forced is None else model.double()

    def widened(self, inputs: Any) -> Any:
        return inputs if self.forced is None else wide(inputs)

    def cut(self, what: str, plan: pv.Plan, shrink: Callable[..., nn.Module]) -> None:
        """Cut along a plan; where the model's own Python cannot run what is left, take the graph."""
        for as_program in (False, True) if not self.programs else (True,):
            name = what + PROGRAM if as_program else what
            before = snapshot(self.model)
            new = attempt(self.v, name, lambda: shrink(plan, as_program=as_program))  # noqa: B023
            assert_untouched(self.model, before)
            if new is None:
                continue
            if storages(self.model) & storages(new):
                self.v.wrong.append(f"{name}: the result shares storage with the model")
            if not as_program:
                self.same_kind(name, new)
            self.compare(name, plan, new, as_program)
            return

    def same_kind(self, what: str, new: nn.Module) -> None:
        """Keys, dtypes, flags are as before; and something is smaller."""
        old, now = self.model.state_dict(), new.state_dict()
        flags = {n: m.training for n, m in self.model.named_modules()}
        asks = {n: p.requires_grad for n, p in self.model.named_parameters()}
        checks = {
            "other keys": list(old) == list(now),
            "other dtypes": all(old[k].dtype == now[k].dtype for k in old if k in now),
            "other training flags": flags == {n: m.training for n, m in new.named_modules()},
            "other requires_grad": asks == {n: p.requires_grad for n, p in new.named_parameters()},
            "nothing smaller": size(new) < size(self.model),
        }
        self.v.wrong += [f"{what}: {bad}" for bad, good in checks.items() if not good]

    def compare(self, what: str, plan: pv.Plan, new: nn.Module, as_program: bool) -> None:
        masked, norms = reference(self.dense, plan)
        new = new if as_program else self.ready(new)
        approximate = any(self.groups[n].approximate and not k.all() for n, k in plan.keep.items())
        worst, effect, scale = 0.0, 0.0, 0.0
        forced = bool(self.forced)
        precise = self.forced
        for k, x in enumerate(self.unlike):
            given = x
            if as_program and forced:  # its float32 is written down: nothing of ours to widen it
                given, precise = unwidened(x), None
            want = call(masked, x, forced=forced, fast=False)
            try:
                got = call(new, given, forced=forced and not as_program)
            except Exception as e:
                if as_program and k:  # other shapes it takes only where export can leave them free
                    continue
                self.v.wrong.append(f"{what}: the result raises {type(e).__name__}: {str(e)[:200]}")
                return
            dense = call(self.dense, x, forced=forced)
            if not all(bool(torch.isfinite(t).all()) for t in got if t.is_floating_point()) and all(
                bool(torch.isfinite(t).all()) for t in want if t.is_floating_point()
            ):
                self.v.wrong.append(f"{what}: the result is not finite")
                return
            worst, scale = max(worst, apart(got, want)), max(scale, top(dense))
            effect = max(effect, apart(want, dense))
        if approximate and not norms:
            self.v.cut[what] = (
                "by its proof alone"  # a norm written out: nothing of ours to compare
            )
            return
        limit = {False: 1e-10, True: 1e-6, None: 1e-4}[precise] * scale
        floor = {False: 1e-12, True: 1e-7, None: 1e-6}[precise] * scale
        if worst <= max(floor, min(limit, 1e-3 * effect)):
            self.v.cut[what] = (
                "vacuous" if effect == 0 else "approximate" if approximate else "exact"
            )
        else:
            self.v.wrong.append(
                f"{what}: WRONG by {worst:.1e} (scale {scale:.1e}, effect of the mask {effect:.1e})"
                + (" approximate" if approximate else "")
            )


def size(model: nn.Module) -> int:
    return sum(t.numel() for t in (*model.parameters(), *model.buffers()))


def expect(case: Case, groups: pv.Groups, v: Verdict, done: set[str], *, approximate: bool) -> None:
    """Hold what was cut, `done` with all others, against what the case says of its layers."""
    own = {n for n in v.cut if not n.endswith(PROGRAM)}
    done |= {n.removesuffix(PROGRAM) for n in v.cut} if case.program else own
    producers = {g.name: set(g.producers) for g in groups}
    cut = set().union(*(producers[n] for n in done if n in producers))
    exact = set().union(
        *(producers[g.name] for g in groups if g.name in done and not g.approximate)
    )
    free = set().union(*(producers[g.name] for g in groups if not g.frozen))
    v.wrong += [f"{n!r} must be frozen, but was cut" for n in case.frozen if n in cut]
    if not approximate:
        v.wrong += [f"{n!r} was cut without approximate=True" for n in case.approximate if n in cut]
    why = {n: w for g, w in {**v.frozen, **v.refused}.items() for n in producers.get(g, ())}
    lenient = {"hard", "unseen"} & set(case.tags)
    if not lenient:
        v.missed += [f"{n!r} was not cut: {why.get(n)}" for n in case.cuts if n not in exact]
    if approximate and not (lenient or "may-refuse" in case.tags):
        v.missed += [f"{n!r} was not cut: {why.get(n)}" for n in case.approximate if n not in cut]
    # a hard one may be refused, or cut along another dimension
    v.wrong += [
        f"{sorted(names)} are not in one group"
        for names in case.together
        if not any(names <= part for part in producers.values())
        and not ("hard" in case.tags and names - free)
    ]
