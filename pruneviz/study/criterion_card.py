"""Which criterion would have told what hurts: each beside the loss that was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups
from pruneviz.core.plan import Scores
from pruneviz.evidence.collect import collect
from pruneviz.evidence.evidence import Evidence
from pruneviz.model.batches import parts
from pruneviz.model.forward import one_example
from pruneviz.model.hooks import seeded
from pruneviz.pruning.rescale import rescaled_groups
from pruneviz.selection.criteria.registry import CRITERIA, EVIDENCE
from pruneviz.selection.criteria.registry import criterion as registered
from pruneviz.selection.score import score
from pruneviz.study.ablation import Loss, losses_without
from pruneviz.study.criterion_card_intervals import (
    WHOLE,
    ceiling,
    column,
    correlation,
    rank_correlations,
    rho,
)

if TYPE_CHECKING:
    import pandas as pd


RANDOM, TRUTH = "random", "ablation"
FACTOR = 10.0  # of the rescaling test
NOTICED = 0.99  # a rank correlation below: the criterion has changed its mind
COLUMNS = ("criterion", "spearman", "low", "high")
GRADIENTS = ("grad_sq", "fisher", "model")


@dataclass(frozen=True, eq=False, repr=False)
class Card:
    """What `criterion_card` found.

    Parameters
    ----------
    correlation : DataFrame
        One row a criterion and group, and one a criterion for the whole network: ``criterion``,
        ``group``, ``units``, ``spearman`` with the true ablation, and its spread ``low``, ``high``.
    agreement : DataFrame
        Rank correlation of every criterion, and of "ablation", with every other: rows and columns by
        name.
    rescaling : DataFrame
        ``criterion``, ``spearman`` of its scores before and after the network was rescaled,
        ``notices``: whether it has changed its mind. Empty where nothing can be rescaled.
    scores : mapping of str to Scores
        By each criterion, and the truth as "ablation".
    examples : int
        With which the loss was measured.
    ceiling : float
        What a perfect criterion could reach here, for the truth is measured on some examples only:
        √(2r ÷ (1 + r)), r the rank correlation of the truth on one half of the examples with that on
        the other.
    """

    correlation: pd.DataFrame
    agreement: pd.DataFrame
    rescaling: pd.DataFrame
    scores: Mapping[str, Scores]
    examples: int
    ceiling: float

    @property
    def truth(self) -> Scores:
        """The rise of the loss without each unit."""
        return self.scores[TRUTH]

    def values(self, criterion: str, group: str = WHOLE) -> np.ndarray:
        """Return the scores of a group's units, or of all units, by a criterion or as "ablation"."""
        checks.choice(criterion, "criterion", self.scores, what="criterion")
        checks.choice(group, "group", (WHOLE, *self.truth.values), what="group")
        return column(self.scores[criterion], None if group == WHOLE else group)

    def to_frame(self) -> pd.DataFrame:
        """Return what `plot_card` draws: the correlations, and of the rescaling ``notices``, ``rescaled``.

        ``rescaled`` is the rank correlation of the scores before and after.
        """
        if self.rescaling.empty:
            return self.correlation.copy()
        found = self.rescaling.rename(columns={"spearman": "rescaled"})
        return self.correlation.merge(found, on="criterion")

    def __repr__(self) -> str:
        whole = self.correlation[self.correlation["group"] == WHOLE]
        noticed = dict(zip(self.rescaling["criterion"], self.rescaling["notices"], strict=True))
        units = int(whole["units"].iloc[0])
        lines = [
            f"Card of {len(whole)} criteria: {units:,} units, the loss without each on "
            f"{self.examples:,} examples"
        ]
        words: dict[Any, str] = {
            True: "; notices a rescaling",
            False: "; does not notice a rescaling",
        }
        best_first = whole.sort_values("spearman", ascending=False)
        for name, found, low, high in zip(*(best_first[c] for c in COLUMNS), strict=True):
            value = "    –" if np.isnan(found) else f"{found:5.2f}"
            spread = "" if np.isnan(low) else f" ({low:.2f} to {high:.2f})"
            lines.append(f"  {name:12}  {value}{spread}{words.get(noticed.get(name), '')}")
        if not np.isnan(self.ceiling):
            lines.append(f"  a perfect one could reach {self.ceiling:.2f}: so noisy is the truth")
        return "\n".join(lines)


def criterion_card(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    groups: Groups,
    criteria: Iterable[str] | None = None,
    evidence: Evidence | None = None,
    learn: Iterable[Any] | None = None,
    loss: Loss = F.cross_entropy,
    reduction: str = "mean",
    factor: float = FACTOR,
    seeds: Iterable[int] = range(50),
    progress: bool = True,
) -> Card:
    """Rank the units of a model by every criterion, and by the loss measured without each of them.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    batches : iterable of (inputs, targets)
        On which the loss is measured, as for `ablate`. Read once.
    groups : Groups
        From `find_groups` on the same model.
    criteria : iterable of str, optional
        Names of `CRITERIA`; default: all that rank units, one's own as well. "random" is always there.
    evidence : Evidence, optional
        From `collect` on the same model, with `loss`. Where a criterion needs it and none is given,
        it is collected from `learn`.
    learn : iterable, optional
        Batches from which evidence is collected, for the criteria and for the rescaled network.
        Default: `batches`; then the criteria see the very examples on which they are judged.
    loss : callable
        As for `ablate`; for evidence as for `collect`.
    reduction : str
        As for `score`.
    factor : float
        Of the rescaling test: see `rescale`.
    seeds : iterable of int
        How often everything is repeated to see its spread: with each seed the examples of the
        measurement are drawn anew (bootstrap), and the criteria that draw, draw. The first one scores.
    progress : bool
        Show progress bars.

    Returns
    -------
    Card
        ``low`` and ``high`` of a criterion that does not draw: ± 1.96 standard errors by bootstrap over
        examples, what as many other examples could have given instead. Of one that draws, such as
        "random": between them lie 95 of 100 of its draws, and ``spearman`` is their mean. NaN where a
        rank correlation has no value: of scores that are all the same, and of a single unit.

    Notes
    -----
    The truth is noisy, and the more so the fewer the examples: no criterion gets near to 1. How far a
    perfect one could get is ``ceiling``. On examples on which the network was not trained the loss
    often *falls* when a unit goes, for it was too sure of itself: that is another question than what
    a unit does. Norms and activations are meant to be compared within a layer (see ``scope`` of
    `CRITERIA`): look at the groups.

    Raises
    ------
    ArgumentError
        If a criterion is unknown or ranks no units, there is no example or fewer than two seeds, or as
        `ablate`, `collect` and `score` do.

    References
    ----------
    Spearman 1904, "The Proof and Measurement of Association between Two Things". Against the true
    ablation: Molchanov et al. 2017, arXiv:1611.06440, §3.1, and 2019, arXiv:1906.10771, §4.
    The ceiling: Spearman 1910, Brown 1910, British Journal of Psychology 3; Spearman 1904: attenuation.
    A random baseline: Blalock, Gonzalez Ortiz, Frankle, Guttag 2020, arXiv:2003.03033, §6.
    Standard errors: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 6.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> x, labels = torch.randn(60, 4), torch.arange(60) % 3
    >>> groups = pv.find_groups(model, x)
    >>> card = pv.criterion_card(model, [(x, labels)], groups=groups, criteria=["l2", "taylor"], progress=False)
    >>> card.rescaling[["criterion", "notices"]]
      criterion  notices
    0        l2     True
    1    taylor    False
    2    random    False
    >>> card.agreement.index.tolist()
    ['ablation', 'l2', 'taylor', 'random']
    """
    import pandas as pd

    model = checks.unwrapped(model)
    checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    names = _names(criteria)
    repeats = [checks.count(s, "seeds") for s in seeds]
    if len(repeats) < 2:
        raise ArgumentError(
            f"`seeds` must be at least two, to see a spread, but {len(repeats)} was passed. "
            "Leave it out, or pass range(50)."
        )
    with seeded(None):  # a DataLoader that shuffles draws from the caller's random numbers
        data = list(parts(batches))
        source = data if learn is None else list(learn)
    truth = losses_without(model, data, groups=groups, loss=loss, progress=progress)
    needs = {n for c in names for n in registered(c, "unit").needs}

    def scored(
        of: nn.Module, seen: Evidence | None, seed: int, some: list[str]
    ) -> dict[str, Scores]:
        return {
            c: score(of, c, groups=groups, evidence=seen, reduction=reduction, seed=seed)
            for c in some
        }

    def collected(of: nn.Module) -> Evidence | None:
        if not needs & set(EVIDENCE):
            return None
        return collect(of, source, loss=loss if needs & set(GRADIENTS) else None,
                       comoment="model" in needs, progress=progress)  # fmt: skip

    seen = collected(model) if evidence is None else evidence
    scores = scored(model, seen, repeats[0], names)
    drawn = [c for c in names if "generator" in registered(c, "unit").needs]
    draws = [scored(model, seen, seed, drawn) for seed in repeats]
    rows = correlation(truth, scores, draws, repeats)
    args, kwargs = one_example(data[0][0])
    louder, done = rescaled_groups(model, kwargs or args, groups, factor, 0.5, repeats[0])
    after = scored(louder, collected(louder), repeats[0], names) if done else {}
    changed = [(c, rho(column(scores[c]), column(s))) for c, s in after.items()]
    rescaling = pd.DataFrame(changed, columns=["criterion", "spearman"])
    rescaling["notices"] = rescaling["spearman"] < NOTICED
    rise = {g: torch.from_numpy(v) for g, v in truth.rise().items()}
    scores = {TRUTH: Scores(rise, TRUTH, groups), **scores}
    agreement = rank_correlations(np.column_stack([column(s) for s in scores.values()]))
    frame = pd.DataFrame(agreement, index=list(scores), columns=list(scores))
    return Card(rows, frame, rescaling, scores, truth.examples, ceiling(truth, repeats))


def _names(criteria: Iterable[str] | None) -> list[str]:
    """Return the criteria to be compared; "random" is among them."""
    if criteria is None:
        criteria = sorted(n for n, c in CRITERIA.items() if "unit" in c.granularity)
    elif isinstance(criteria, str):
        criteria = [criteria]
    return [registered(c, "unit").name for c in dict.fromkeys([*criteria, RANDOM])]
