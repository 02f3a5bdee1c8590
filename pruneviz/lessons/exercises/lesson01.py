"""Which exercises lesson 01 has, on costs: checks, hints, solutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pruneviz.lessons.exercises.exercise import exercise
from pruneviz.lessons.recorded import curves
from pruneviz.metrics.latency import speed_text
from pruneviz.storage.packing import size_of
from pruneviz.study.crossover import speed_break_evens

WIDTH = 1024


@exercise(
    "01-bytes",
    hints=(
        "three lists: where each row begins (one number more than there are rows), and for each "
        "weight that is not 0 its column and its value.",
        "count what is not 0 first:\n"
        "    n = (weight != 0).sum().item()\n"
        "The values then take 4 * n bytes. How many columns are listed, and how many rows, and what "
        "does each of these take?",
    ),
    solution="""\
def csr_bytes(weight, index):
    n = (weight != 0).sum().item()
    return index * (len(weight) + 1) + index * n + 4 * n
""",
)
def csr_bytes(answer: Callable[[Tensor, int], Any]) -> str:
    """Check a function (matrix, bytes of an index) to the number of bytes in CSR."""
    weight = torch.zeros(5, 40)
    weight[1, 3:20:2], weight[4, 7] = -1.5, 2.0
    names = {2: "csr_int16", 4: "csr_int32", 8: "csr_int64"}
    for index in (4, 8, 2):
        got = answer(weight.clone(), index)
        n = int((weight != 0).sum())
        truth = size_of(names[index], (5, 40), n)
        got = float(got)
        if got == truth:
            continue
        asked = f"5 rows, 40 columns, {n} values, {index} bytes an index: {got:g} is wrong."
        positive = int((weight > 0).sum())
        if got == size_of(names[index], (5, 40), positive):
            return f"{asked} Negative weights count, too: all that are not 0."
        if got + index == truth:
            return f"{asked} Where does the last row end? One number more than there are rows."
        if got == 4 * n + index * n:
            return f"{asked} How does one know in which row a value stands?"
        if got == 4 * weight.numel():
            return f"{asked} That is the dense matrix: zeros are not stored."
        return f"{asked} Count the three lists one by one: rows, columns, values."
    return ""


@exercise(
    "01-crossover",
    hints=(
        f"keep the rows of the record with width {WIDTH}, the batch, and way 'csr_mm': in which of "
        "them is latency_speedup above 1, and in all that come after it?",
        "pv.speed_break_evens(record) does it for every width, batch and kernel: read the column 'above'.",
    ),
    solution=f"""\
table = pv.speed_break_evens(record)
table = table[(table["width"] == {WIDTH}) & (table["way"] == "csr_mm")].set_index("batch")
answer = {{batch: table["above"][batch] for batch in (1, 64)}}
""",
)
def crossing(answer: Any) -> str:
    """Check the recorded sparsity from which CSR is faster, at batch 1 and at batch 64."""
    if not isinstance(answer, Mapping) or not {1, 64} <= set(answer):
        return (
            "The answer is a dict with two sparsities, one for batch 1 and one for batch 64: "
            "{1: 0.5, 64: 0.5}."
        )
    record = curves("crossover")
    rows = record[(record["width"] == WIDTH) & (record["way"] == "csr_mm")]
    measured = sorted(set(rows["sparsity"]))
    table = speed_break_evens(rows).set_index("batch")["above"]
    for batch in (1, 64):  # other keys are ignored
        truth, given = table[batch], float(answer[batch])
        if given == truth or (given != given and truth != truth):
            continue
        if given not in measured:
            return (
                f"{given:g} was not measured. These were: {', '.join(f'{s:g}' for s in measured)}."
            )
        row = rows[(rows["batch"] == batch) & (rows["sparsity"] == given)].iloc[0]
        if row["latency_speedup"] <= 1:
            said = speed_text(row["latency_speedup"], row["low"], row["high"])
            return f"At batch {batch} and {given:g} it is not faster: {said}."
        return f"At batch {batch} and {given:g} it is faster, but that is not where it begins."
    return ""
