"""How a changed model is run again without the steps before its first change."""

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
from pruneviz.model.tensors import tensors_of

MAX_BYTES = 2**30  # most bytes of stored values, for all batches together

State = tuple[int, dict[Node, Any]]  # number of steps done, and the values that later steps read


class Prefix:
    """Store what a model computes, batch by batch, before the first step that a variant changes.

    `torch.fx` traces the forward once; its steps are calls of layers, functions and methods. A
    variant starts at the first step that differs from the model, with the stored values. For each
    new start the first batch of each shape is compared, bit by bit, with the variant's own forward,
    because a trace may miss something.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    inputs : list of Tensor
        The batches.
    room : int
        Most bytes to store. Batches that do not fit are run from the beginning.

    Raises
    ------
    Exception
        Of any kind, if `torch.fx` cannot trace the forward.
    """

    def __init__(self, model: nn.Module, inputs: list[Tensor], *, room: int = MAX_BYTES) -> None:
        self.model, self.room = model, room
        self.tensors = tensors_of(model)
        device = next((t.device for t in self.tensors.values()), inputs[0].device)
        self.inputs = [x.to(device) for x in inputs]
        self.steps = _Steps(model)
        self.place = 0  # number of steps whose results are stored
        self.states = [self._start(i) for i in range(len(inputs))]
        self.kept = [0] * len(inputs)  # bytes
        self.right: dict[int, bool] = {}  # place -> whether the outputs were equal
        self.writes: set[int] = set()  # places after which a step writes into a stored tensor

    def after(self, variant: nn.Module) -> nn.Module | None:
        """Return a module with the variant's outputs; call it with each batch in turn.

        None if its outputs are not equal: then use the variant itself.
        """
        tensors = tensors_of(variant)
        changed = {n for n in {**tensors, **self.tensors}
                   if not _same(tensors.get(n), self.tensors.get(n))}  # fmt: skip
        place = self.steps.first(changed)
        try:
            if place != self.place:
                self._advance(place)
            if place not in self.right:
                self.right[place] = self._holds(variant)
        except Exception:  # if the variant itself fails, its full forward raises the error again
            self.right[place] = False
        return _After(self, variant) if self.right[place] else None

    def run(self, i: int, variant: nn.Module) -> Any:
        """Return the outputs of a variant for batch i."""
        place, values = self.states[i]
        values = _copied(values) if place in self.writes else values
        return self.steps.run((place, values), None, variant)

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
        """Whether outputs equal the variant's own forward; note if a step writes into its input."""
        first = {(x.shape, x.stride(), x.dtype): i for i, x in enumerate(self.inputs)}
        with evaluating(variant):
            for i in first.values():
                place, values = self.states[i]
                copies = _copied(values)
                outputs = self.steps.run((place, copies), None, variant)
                if any(t._version for t in copies.values() if isinstance(t, Tensor)):
                    self.writes.add(place)
                if not _same(outputs, variant(self.inputs[i])):
                    return False
        return True


class _After(nn.Module):
    """Returns the outputs of a variant for the stored batches, one a call."""

    def __init__(self, prefix: Prefix, variant: nn.Module) -> None:
        super().__init__()
        self.prefix, self.variant, self.i = prefix, variant, -1

    def forward(self, x: Tensor) -> Any:
        """Run the steps after the prefix on the next stored batch; `x` is not read."""
        self.i += 1
        return self.prefix.run(self.i, self.variant)


class _Tracer(fx.Tracer):
    """Traces in its own thread only: fx patches `nn.Module` for all threads while it traces."""

    lock = threading.Lock()  # two traces at a time would undo their patches in the wrong order

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Record a step; in another thread only run it."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return a proxy of a parameter; in another thread the parameter itself."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


class _Steps:
    """The steps of a forward, in order."""

    def __init__(self, model: nn.Module) -> None:
        # traced is a copy, because a forward, or fx, may write into the model
        self.model = model = copy_of(model)
        given = list(inspect.signature(model.forward).parameters.values())[1:]
        defaults = {p.name: p.default for p in given if p.default is not p.empty}
        with evaluating(model), _Tracer.lock:
            nodes = list(_Tracer().trace(model, defaults or None).nodes)
        self.x = next(n for n in nodes if n.op == "placeholder")
        self.nodes = [n for n in nodes if n.op not in ("placeholder", "output")]
        self.output = next(n for n in nodes if n.op == "output")
        # node -> number of the last step that reads it; afterwards its value is deleted
        self.last = {n: i for i, node in enumerate([*self.nodes, self.output])
                     for n in node.all_input_nodes}  # fmt: skip

    def first(self, names: set[str]) -> int:
        """Return the number of the first step that reads one of these tensors."""
        for i, node in enumerate(self.nodes):
            target = str(node.target)
            if node.op == "call_module" and any(n.startswith(f"{target}.") for n in names):
                return i
            if node.op == "get_attr" and any(f"{n}.".startswith(f"{target}.") for n in names):
                return i
        return len(self.nodes)

    def run(self, state: State, stop: int | None, model: nn.Module) -> Any:
        """Run steps up to `stop` and return what later steps read; None: return the output."""
        start, values = state
        env = dict(values)
        for i, node in enumerate(self.nodes[start:stop], start):
            args, kwargs = map_arg((node.args, node.kwargs), env.__getitem__)
            if node.op == "call_module":
                env[node] = model.get_submodule(str(node.target))(*args, **kwargs)
            elif node.op == "call_method":
                env[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            elif node.op == "get_attr":
                env[node] = _attribute(model, self.model, str(node.target))
            else:
                env[node] = node.target(*args, **kwargs)
            for n in node.all_input_nodes:
                if self.last[n] == i:
                    env.pop(n, None)
        if stop is None:
            return map_arg(self.output.args[0], env.__getitem__)
        return {n: v for n, v in env.items() if self.last.get(n, -1) >= stop}


def _attribute(model: nn.Module, traced: nn.Module, path: str) -> Any:
    """Return an attribute of a model; constants that fx added are attributes of the traced copy."""
    value: Any = traced if path.startswith("_tensor_constant") else model
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _copied(values: dict[Node, Any]) -> dict[Node, Any]:
    return {n: v.clone() if isinstance(v, Tensor) else v for n, v in values.items()}


def _same(a: Any, b: Any) -> bool:
    """Whether two tensors are equal, also in type and device."""
    if a is b:
        return True
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return False
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
