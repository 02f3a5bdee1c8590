"""Run a changed model again, without what stands before the change."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.fx.node import map_arg

from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import evaluating

ROOM = 2**30  # bytes of values to keep, all batches together

State = tuple[int, dict[Node, Any]]  # how many steps have run, and what the others read of them


class Prefix:
    """What a model computes, batch by batch, before the first layer that a variant changes.

    The forward is followed once, by `torch.fx`: its steps are calls of layers, functions and
    methods. A variant starts from what is kept at the first step that is not its model's. Steps are
    run as the forward runs them; nevertheless the first batch of each shape is compared, to the last
    bit, with the variant's own forward, at each new place where variants start.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    inputs : list of Tensor
        The batches.
    room : int
        How many bytes to keep. Batches beyond start from the beginning.

    Raises
    ------
    Exception
        Of any kind, if the forward cannot be followed.
    """

    def __init__(self, model: nn.Module, inputs: list[Tensor], *, room: int = ROOM) -> None:
        self.model, self.room = model, room
        self.tensors = _tensors(model)
        device = next((t.device for t in self.tensors.values()), inputs[0].device)
        self.inputs = [x.to(device) for x in inputs]
        self.steps = _Steps(model)
        self.place = 0
        self.states = [self._start(i) for i in range(len(inputs))]
        self.kept = [0] * len(inputs)  # bytes
        self.right: dict[int, bool] = {}  # by place: whether the comparison held
        self.writes: set[int] = set()  # places after which a step writes into what is kept

    def after(self, variant: nn.Module) -> nn.Module | None:
        """Return what gives the variant's outputs when it is called with each batch in turn.

        None if it could not be proved to: use the variant itself.
        """
        tensors = _tensors(variant)
        changed = {n for n in {**tensors, **self.tensors}
                   if not _same(tensors.get(n), self.tensors.get(n))}  # fmt: skip
        place = self.steps.first(changed)
        try:
            if place != self.place:
                self._advance(place)
            if place not in self.right:
                self.right[place] = self._holds(variant)
        except Exception:  # if it is the variant's fault, its own forward will say so
            self.right[place] = False
        return _After(self, variant) if self.right[place] else None

    def run(self, i: int, variant: nn.Module) -> Any:
        """Return the outputs of a variant for batch i."""
        at, values = self.states[i]
        return self.steps.run((at, _copied(values) if at in self.writes else values), None, variant)

    def _start(self, i: int) -> State:
        return 0, {self.steps.x: self.inputs[i]}

    def _advance(self, place: int) -> None:
        self.place = place
        with evaluating(self.model):
            for i, state in enumerate(self.states):
                state = state if state[0] <= place else self._start(i)
                values = self.steps.run(state, place, self.model)
                own = [t for n, t in values.items() if n is not self.steps.x]
                self.kept[i] = sum(t.nbytes for t in own if isinstance(t, Tensor))
                self.states[i] = place, values
                if sum(self.kept) > self.room:
                    self.kept[i], self.states[i] = 0, self._start(i)

    def _holds(self, variant: nn.Module) -> bool:
        """Compare with the variant's own forward, and see what is written to."""
        first = {(x.shape, x.stride(), x.dtype): i for i, x in enumerate(self.inputs)}
        with evaluating(variant):
            for i in first.values():
                at, values = self.states[i]
                copies = _copied(values)
                outputs = self.steps.run((at, copies), None, variant)
                if any(t._version for t in copies.values() if isinstance(t, Tensor)):
                    self.writes.add(at)
                if not _same(outputs, variant(self.inputs[i])):
                    return False
        return True


class _After(nn.Module):
    """Gives the outputs of a variant, batch after batch."""

    def __init__(self, prefix: Prefix, variant: nn.Module) -> None:
        super().__init__()
        self.prefix, self.variant, self.i = prefix, variant, -1

    def forward(self, x: Tensor) -> Any:
        """Run what comes after the prefix; `x` is not looked at."""
        self.i += 1
        return self.prefix.run(self.i, self.variant)


class _Tracer(fx.Tracer):
    """Traces in its own thread only: fx patches what every thread runs, for as long as it traces."""

    alone = threading.Lock()  # two patches at a time would be taken off in the wrong order

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Take down a step; in another thread just do it."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Stand in for a parameter; in another thread give it as it is."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


class _Steps:
    """The steps of a forward, in their order."""

    def __init__(self, model: nn.Module) -> None:
        self.twin = twin = copy_of(model)  # a forward may write into its model, and so does fx
        given = list(inspect.signature(twin.forward).parameters.values())[1:]
        defaults = {p.name: p.default for p in given if p.default is not p.empty}
        with evaluating(twin), _Tracer.alone:
            nodes = list(_Tracer().trace(twin, defaults or None).nodes)
        self.x = next(n for n in nodes if n.op == "placeholder")
        self.nodes = [n for n in nodes if n.op not in ("placeholder", "output")]
        self.output = next(n for n in nodes if n.op == "output")
        self.last = {n: i for i, node in enumerate([*self.nodes, self.output])
                     for n in node.all_input_nodes}  # fmt: skip

    def first(self, names: set[str]) -> int:
        """Return the place of the first step that reads one of the tensors."""
        for i, node in enumerate(self.nodes):
            target = str(node.target)
            if node.op == "call_module" and any(n.startswith(f"{target}.") for n in names):
                return i
            if node.op == "get_attr" and any(f"{n}.".startswith(f"{target}.") for n in names):
                return i
        return len(self.nodes)

    def run(self, state: State, stop: int | None, model: nn.Module) -> Any:
        """Run steps up to a place and return what the others read; or, to the end, the output."""
        start, values = state
        env = dict(values)
        for i, node in enumerate(self.nodes[start:stop], start):
            args, kwargs = map_arg((node.args, node.kwargs), env.__getitem__)
            if node.op == "call_module":
                env[node] = model.get_submodule(str(node.target))(*args, **kwargs)
            elif node.op == "call_method":
                env[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            elif node.op == "get_attr":
                env[node] = _attribute(model, self.twin, str(node.target))
            else:
                env[node] = node.target(*args, **kwargs)
            for n in node.all_input_nodes:
                if self.last[n] == i:
                    env.pop(n, None)
        if stop is None:
            return map_arg(self.output.args[0], env.__getitem__)
        return {n: v for n, v in env.items() if self.last.get(n, -1) >= stop}


def _attribute(model: nn.Module, twin: nn.Module, path: str) -> Any:
    value: Any = twin if path.startswith("_tensor_constant") else model
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _copied(values: dict[Node, Any]) -> dict[Node, Any]:
    return {n: v.clone() if isinstance(v, Tensor) else v for n, v in values.items()}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by all their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _same(a: Any, b: Any) -> bool:
    """Whether two tensors hold the same numbers."""
    if a is b:
        return True
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return False
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
