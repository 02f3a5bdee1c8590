"""Which criterion ranks units as the measured loss without each of them does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups
from pruneviz.core.imports import imported
from pruneviz.core.plan import Scores
from pruneviz.evidence.collect import collect
from pruneviz.evidence.evidence import Evidence
from pruneviz.evidence.losses import ignored_label
from pruneviz.model.batches import one_example, read_all
from pruneviz.model.hooks import plain_torch
from pruneviz.pruning.rescale import rescaled_groups
from pruneviz.selection.criteria.registry import CRITERIA, Criterion
from pruneviz.selection.criteria.registry import criterion as registered
from pruneviz.selection.score import score
from pruneviz.study.ablation import Loss, losses_without
from pruneviz.study.criterion_card_intervals import (
    WHOLE_NETWORK,
    ceiling,
    correlation,
    rank_correlation,
    rank_correlations,
    score_column,
)

if TYPE_CHECKING:
    import pandas as pd


RANDOM, TRUTH = "random", "ablation"
FACTOR = 10.0  # by which units are rescaled in the rescaling test
NOTICED = 0.99  # with a rank correlation below this, a rescaling has changed the ranking
COLUMNS = ("criterion", "spearman", "low", "high")


@dataclass(frozen=True, eq=False, repr=False)
class Card:
    """Result of `criterion_card`.

    Parameters
    ----------
    correlation : DataFrame
        One row a criterion and group, and one a criterion for the whole network: ``criterion``,
        ``group``, ``units``, ``spearman`` with the ablation, and its interval ``low``, ``high``.
    agreement : DataFrame
        Rank correlations of all criteria and "ablation" with each other; rows and columns by name.
    rescaling : DataFrame
        ``criterion``, ``spearman`` of its scores before and after a rescaling of the network (see
        `rescale`), ``notices``: whether the ranking changed. Empty if nothing can be rescaled.
    scores : mapping of str to Scores
        For each criterion, and as "ablation" the measured rise of the loss.
    examples : int
        Number of examples on which the loss was measured.
    ceiling : float
        The rank correlation that a perfect criterion could reach. It is below 1 because the
        ablation is measured on a limited number of examples: √(2r ÷ (1 + r)), where r is the rank
        correlation of the ablation on one half of the examples with that on the other half.
    """

    correlation: pd.DataFrame
    agreement: pd.DataFrame
    rescaling: pd.DataFrame
    scores: Mapping[str, Scores]
    examples: int
    ceiling: float

    @property
    def truth(self) -> Scores:
        """The measured rise of the loss without each unit."""
        return self.scores[TRUTH]

    def values(self, criterion: str, group: str = WHOLE_NETWORK) -> np.ndarray:
        """Return the scores of a group, or of all units, by a criterion or by "ablation"."""
        checks.choice(criterion, "criterion", self.scores, what="criterion")
        checks.choice(group, "group", (WHOLE_NETWORK, *self.truth.values), what="group")
        return score_column(self.scores[criterion], None if group == WHOLE_NETWORK else group)

    def to_frame(self) -> pd.DataFrame:
        """Return the frame that `plot_card` draws: the correlations, ``rescaled`` and ``notices``.

        ``rescaled`` is the rank correlation of the scores before and after the rescaling.
        """
        if self.rescaling.empty:
            return self.correlation.copy()
        found = self.rescaling.rename(columns={"spearman": "rescaled"})
        return self.correlation.merge(found, on="criterion")

    def __repr__(self) -> str:
        network = self.correlation[self.correlation["group"] == WHOLE_NETWORK]
        noticed = dict(zip(self.rescaling["criterion"], self.rescaling["notices"], strict=True))
        units = int(network["units"].iloc[0])
        lines = [
            f"Card of {len(network)} criteria: {units:,} units, the loss without each on "
            f"{self.examples:,} examples"
        ]
        words: dict[Any, str] = {
            True: "; notices a rescaling",
            False: "; does not notice a rescaling",
        }
        best_first = network.sort_values("spearman", ascending=False)
        for name, found, low, high in zip(*(best_first[c] for c in COLUMNS), strict=True):
            value = "    –" if np.isnan(found) else f"{found:5.2f}"
            interval = "" if np.isnan(low) else f" ({low:.2f} to {high:.2f})"
            lines.append(f"  {name:12}  {value}{interval}{words.get(noticed.get(name), '')}")
        if not np.isnan(self.ceiling):
            lines.append(f"  a perfect one could reach {self.ceiling:.2f}: so noisy is the truth")
        return "\n".join(lines)


@plain_torch()
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
        Examples on which the loss is measured, as for `ablate`. Read once.
    groups : Groups
        From `find_groups` on the same model.
    criteria : iterable of str, optional
        Names of `CRITERIA`; default: all that rank units, also those registered by the user.
        "random" is always added.
    evidence : Evidence, optional
        From `collect` on the same model, with `loss`. If a criterion needs evidence and none is
        passed, it is collected from `learn`.
    learn : iterable, optional
        Batches from which evidence is collected, for the network and for the rescaled network.
        Default: `batches`; then the criteria see the same examples on which they are judged.
    loss : callable
        As for `ablate`, and for evidence as for `collect`.
    reduction : str
        As for `score`.
    factor : float
        For the rescaling test; see `rescale`.
    seeds : iterable of int
        For the intervals: with each seed the examples of the ablation are drawn again with
        replacement (bootstrap), and criteria that draw random numbers are computed again. The first
        seed gives `Card.scores`.
    progress : bool
        Show progress bars.

    Returns
    -------
    Card
        ``low`` and ``high``: ± 1.96 standard errors, by a bootstrap over examples. For a criterion
        that draws random numbers, such as "random": the interval that contains 95 % of its draws,
        and ``spearman`` is their mean. NaN where a rank correlation is undefined: for equal scores,
        and for a single unit.

    Notes
    -----
    The ablation is noisy, more so with fewer examples, so no criterion comes near 1; ``ceiling`` is
    what a perfect one could reach. On examples on which the network was not trained the loss often
    *falls* without a unit, because the network was overconfident. That answers another question
    than what the unit computes. Norms and activations are meant to be compared within a layer (see
    ``scope`` of `CRITERIA`): read the rows of the groups.

    Raises
    ------
    ArgumentError
        If a criterion is unknown or ranks no units, or there is no example or fewer than two seeds;
        also as `ablate`, `collect` and `score` do.

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
    pd = imported("pandas")

    model = checks.unwrapped(model)
    checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    names = _names(criteria)
    repeats = [checks.count(s, "seeds") for s in checks.names(seeds, "seeds")]
    if len(repeats) < 2:
        raise ArgumentError(
            f"`seeds` must hold at least two seeds, for an interval, but {len(repeats)} was "
            "passed. Leave it out, or pass range(50)."
        )
    purpose = "measure the loss on"
    data = read_all(batches, purpose, targets=True, ignore_index=ignored_label(loss))
    source = data if learn is None else read_all(learn, "learn from", name="learn")
    truth = losses_without(model, data, groups=groups, loss=loss, progress=progress)
    compared = [registered(c, "unit") for c in names]

    def scores_of(
        of: nn.Module, known: Evidence | None, seed: int, chosen: list[str]
    ) -> dict[str, Scores]:
        return {
            c: score(of, c, groups=groups, evidence=known, reduction=reduction, seed=seed)
            for c in chosen
        }

    evidence_of = partial(_evidence_of, compared, source, loss, progress)
    known = evidence_of(model) if evidence is None else evidence
    scores = scores_of(model, known, repeats[0], names)
    random = [c.name for c in compared if "generator" in c.needs]
    draws = [scores_of(model, known, seed, random) for seed in repeats]
    rows = correlation(truth, scores, draws, repeats)
    args, kwargs = one_example(data[0].inputs)
    new, rescaled = rescaled_groups(model, kwargs or args, groups, factor, 0.5, repeats[0])
    after = scores_of(new, evidence_of(new), repeats[0], names) if rescaled else {}
    changed = [
        (c, rank_correlation(score_column(scores[c]), score_column(s))) for c, s in after.items()
    ]
    rescaling = pd.DataFrame(changed, columns=["criterion", "spearman"])
    rescaling["notices"] = rescaling["spearman"] < NOTICED
    rise = {g: torch.from_numpy(v) for g, v in truth.rise().items()}
    scores = {TRUTH: Scores(rise, TRUTH, groups), **scores}
    agreement = rank_correlations(np.column_stack([score_column(s) for s in scores.values()]))
    frame = pd.DataFrame(agreement, index=list(scores), columns=list(scores))
    return Card(rows, frame, rescaling, scores, truth.examples, ceiling(truth, repeats))


def _evidence_of(
    criteria: list[Criterion], source: Any, loss: Callable[..., Any], progress: bool, of: nn.Module
) -> Evidence | None:
    """Collect what the criteria need from a model; None if they need nothing."""
    if not any(c.evidence for c in criteria):
        return None
    gradients = any(c.needs_gradients for c in criteria)
    whole = any("model" in c.needs for c in criteria)
    return collect(of, source, loss=loss if gradients else None, comoment=whole, progress=progress)


def _names(criteria: Iterable[str] | None) -> list[str]:
    """Return the names of the compared criteria, "random" included."""
    if criteria is None:
        criteria = sorted(n for n, c in CRITERIA.items() if "unit" in c.granularity)
    chosen = checks.names(criteria, "criteria")
    return [registered(c, "unit").name for c in dict.fromkeys([*chosen, RANDOM])]
