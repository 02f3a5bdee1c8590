"""What does `collect` return? Moments of the layers' inputs, and gradients of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Group
from pruneviz.core.imports import imported
from pruneviz.core.strict_json import whole
from pruneviz.core.tensor_file import DAMAGED, damage, opened, write_tensors
from pruneviz.core.whole_file import checked_path
from pruneviz.evidence.believable import FIELDS, GRADIENTS, MOMENTS, parts_of
from pruneviz.evidence.moments import Moments

if TYPE_CHECKING:
    import pandas as pd


VERSION_OF_FILES = 2  # 1 has no checksum


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """The statistics that `collect` gathered over all batches.

    Parameters
    ----------
    inputs : mapping of str to Moments
        Name of a layer to the moments of its input, one column for each input of its weight:
        features of a Linear, channels of a convolution (over all examples, positions and pixels).
    patches : mapping of str to Moments
        Name of a convolution to the moments of the patches that it reads, padding included, one
        column for each weight of a filter, in the order of ``weight.flatten(1)``; with groups,
        shapes (groups, n). Missing if they equal the `inputs`, or are too wide.
    grad_sq : mapping of str to Tensor
        Name of a weight to E[g²], in its shape: the mean, over examples, of the squared gradient of
        one example's loss, with the given labels. Only with a loss.
    fisher : mapping of str to Tensor
        The same with labels drawn from the model's own predictions: the diagonal of the Fisher
        information.
    output_grad : mapping of str to Tensor
        Name of a layer to E[g gᵀ], shape (outputs, outputs), of the gradient at its outputs, summed
        over positions, with drawn labels; only its diagonal, shape (outputs,), if it is too wide.
    examples : int
        Number of examples.
    shapes : mapping of str to tuple of int
        Shapes of the layers' weights.
    """

    inputs: Mapping[str, Moments]
    patches: Mapping[str, Moments] = field(default_factory=dict)
    grad_sq: Mapping[str, Tensor] = field(default_factory=dict)
    fisher: Mapping[str, Tensor] = field(default_factory=dict)
    output_grad: Mapping[str, Tensor] = field(default_factory=dict)
    examples: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        n = len(self.inputs)
        text = f"Evidence from {self.examples:,} examples on {n} layer{'s' * (n != 1)}"
        text += ", with gradients" if self.output_grad else ""
        idle = [layer for layer in self.shapes if layer not in self.inputs]
        return text + (f"; never ran: {', '.join(idle)}" if idle else "")

    def columns(self, layer: str) -> Moments:
        """Return the moments of the numbers that a layer's weights multiply, in their order."""
        layer = checks.layer(layer, self.inputs)
        return self.patches.get(layer, self.inputs[layer])

    def of_units(self, group: Group) -> tuple[str, Moments]:
        """Return the first layer that reads a group, and the moments of its units there.

        Returns
        -------
        layer : str
        moments : Moments
            Of shape (units, k), for the k inputs of each unit; only the diagonal.

        Raises
        ------
        ArgumentError
            If the evidence has no layer that reads the group.
        """
        for s in group.reads:
            if s.reader in self.inputs:
                m = self.inputs[s.reader].diagonal()
                if int(s.index.max()) < m.mean.shape[-1]:
                    at = torch.from_numpy(s.index.astype("int64"))
                    return s.reader, m.each(itemgetter(at))
        raise ArgumentError(
            f"`evidence` has no layer that reads group {group.name!r} "
            f"({', '.join(group.consumers) or 'no layer does'}). Collect it from all layers: "
            "pv.collect(model, batches)."
        )

    def merge(self, other: Evidence) -> Evidence:
        """Return the evidence of both together, as if it came from one pass over all examples.

        Raises
        ------
        ArgumentError
            If the layers differ, or only one has gradients.
        """
        checks.kind(other, "other", Evidence, "Collect it: pv.collect(model, batches).")
        both = set(self.inputs) & set(other.inputs)  # a layer may have run in one pass only
        for name in ("inputs", "patches", *GRADIENTS):
            mine, theirs = set(getattr(self, name)), set(getattr(other, name))
            differ = (mine ^ theirs) & both if name == "patches" else set()
            if differ or bool(mine) != bool(theirs) or self.shapes != other.shapes:
                only = ", ".join(sorted(mine ^ theirs)[:4]) or "other shapes"
                raise ArgumentError(
                    f"evidence of different layers cannot be merged: `{name}` differs ({only}). Collect "
                    "both from the same model, with the same arguments."
                )
        n, m = self.examples, other.examples
        merged: dict[str, Any] = {}
        for part in ("inputs", "patches"):
            mine, theirs = getattr(self, part), getattr(other, part)
            merged[part] = {
                k: mine[k].merge(theirs[k]) if k in mine and k in theirs else {**theirs, **mine}[k]
                for k in {**mine, **theirs}
            }
        for part in GRADIENTS:  # of a layer that did not run they are 0
            mine, theirs = getattr(self, part), getattr(other, part)
            merged[part] = {
                k: (mine.get(k, 0) * n + theirs.get(k, 0) * m) / (n + m) for k in {**mine, **theirs}
            }
        return replace(self, examples=n + m, **merged)

    def reduce(self, group: Any = None) -> Evidence:
        """Return the evidence of all processes together; each process gets the same.

        Parameters
        ----------
        group : torch.distributed.ProcessGroup, optional
            Default: all processes. Any backend that reduces CPU tensors, such as gloo.

        Raises
        ------
        ArgumentError
            If `torch.distributed` was not initialised, or the layers differ between processes.
        """
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            raise ArgumentError(
                "`reduce` joins the evidence of several processes, but torch.distributed is not "
                "initialised. Call torch.distributed.init_process_group first, or use merge."
            )

        mine: dict[str, Any] = {
            p: sorted(getattr(self, p)) for p in ("inputs", "patches", *GRADIENTS)
        }
        mine["shapes"] = {n: self.shapes[n] for n in sorted(self.shapes)}
        mine["full"] = [[m.full for _, m in sorted(p.items())] for p in (self.inputs, self.patches)]
        gathered: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(gathered, mine, group=group)
        if any(theirs != mine for theirs in gathered):
            raise ArgumentError(
                "evidence of different layers cannot be reduced: the processes' evidence differs. Collect "
                "all from the same model, with the same arguments."
            )

        def total(t: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
            t = t.clone()
            dist.all_reduce(t, op=op, group=group)
            return t

        def joined(m: Moments) -> Moments:
            count = int(total(torch.tensor(m.count)))
            mean = total(m.mean * m.count) / count
            step = m.mean - mean  # from the mean of all to the mean of this part
            outer = step.unsqueeze(-1) * step.unsqueeze(-2) if m.full else step * step
            low, high = total(m.low, dist.ReduceOp.MIN), total(m.high, dist.ReduceOp.MAX)
            return Moments(
                count, mean, total(m.comoment + m.count * outer), total(m.zeros), low, high
            )

        examples = int(total(torch.tensor(self.examples)))
        parts: dict[str, Any] = {
            part: {k: joined(values[k]) for k in sorted(values)}  # in the same order everywhere
            for part, values in (("inputs", self.inputs), ("patches", self.patches))
        }
        for part in GRADIENTS:
            values = getattr(self, part)
            parts[part] = {k: total(values[k] * self.examples) / examples for k in sorted(values)}
        for part, joined_part in parts.items():
            parts[part] = {k: joined_part[k] for k in getattr(self, part)}
        return replace(self, examples=examples, **parts)

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each input of each layer.

        Returns
        -------
        DataFrame
            ``layer``, ``input``, ``mean``, ``std``, ``zeros`` (fraction), ``low``, ``high``.
        """
        pd = imported("pandas")

        parts = [
            pd.DataFrame(
                {
                    "layer": name,
                    "input": range(m.mean.shape[-1]),
                    "mean": m.mean.numpy(),
                    "std": m.variance.sqrt().numpy(),
                    "zeros": m.zero_fraction.numpy(),
                    "low": m.low.numpy(),
                    "high": m.high.numpy(),
                }
            )
            for name, m in self.inputs.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def save(self, path: str | Path) -> None:
        """Write the evidence to one file in the format of safetensors, completely or not at all."""
        tensors: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for part in MOMENTS:
            for layer, m in getattr(self, part).items():
                counts[f"{part}/{layer}"] = m.count
                tensors |= {f"{part}/{layer}/{f}": getattr(m, f).contiguous() for f in FIELDS}
        for part in GRADIENTS:
            # clone: without labels, E[g²] and the Fisher information share their tensors
            tensors |= {
                f"{part}/{k}": v.contiguous().clone() for k, v in getattr(self, part).items()
            }
        head = {"version": VERSION_OF_FILES, "examples": self.examples, "counts": counts,
                "shapes": self.shapes}  # fmt: skip
        write_tensors(checked_path(path, "evidence.safetensors"), tensors, head, "head")

    @classmethod
    def load(cls, path: str | Path) -> Evidence:
        """Read evidence that `save` wrote.

        A file may come from anybody: numbers that `collect` cannot have counted are refused. Files
        of early versions of pruneviz have no checksum; they are read with all other checks.

        Raises
        ------
        ArgumentError
            If the file is not evidence, or is damaged.
        """
        path = checked_path(path, "evidence.safetensors")
        try:
            if path.exists() and not path.is_file():
                raise ValueError("it is no file")
            with opened(path, "head", VERSION_OF_FILES) as file:
                if file.head is None:
                    raise ValueError("it holds something else")
                if whole(file.head["version"], 1) > VERSION_OF_FILES:
                    raise ValueError("it was written by a newer pruneviz: update this one")
                return cls(**parts_of(file))
        except FileNotFoundError:
            raise
        except DAMAGED as e:
            raise ArgumentError(
                f"{str(path)!r} could not be read as evidence ({damage(e)}). Write it with "
                "evidence.save(path)."
            ) from e


def check_evidence(evidence: Any, shapes: Mapping[str, tuple[int, ...]]) -> Evidence:
    """Return the evidence if it belongs to a model whose weights have these shapes; or raise."""
    hint = "Collect it: pv.collect(model, batches)."
    found: Evidence = checks.kind(evidence, "evidence", Evidence, hint)
    for layer, shape in found.shapes.items():
        if shapes.get(layer) != shape:
            here = f"has the shape {shapes[layer]}" if layer in shapes else "is not there"
            raise ArgumentError(
                f"`evidence` is of another model: it has a weight of shape {shape} in layer "
                f"{layer!r}, which {here} here. {hint}"
            )
    return found
