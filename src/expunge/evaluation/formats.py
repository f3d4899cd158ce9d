"""Whether the original knows its own rows in the format in which it is asked: likely formats are tried on a few rows."""

from __future__ import annotations

import torch
from torch import nn

from expunge.core.capabilities import Prompted, offers, require
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.engine.guarding import unguarded
from expunge.engine.run_state import evaluating
from expunge.evaluation.observation import few
from expunge.evaluation.observe import Records

ROWS = 8  # that are tried
GAIN = 0.1  # of the mean probability of an answer, at least, for a format to count as better
TIMES = 1.5  # and so many times the present one


def better_format(model: nn.Module, modality: Modality, records: Records, whose: str = "original") -> str:
    """A sentence that names the format in which a model knows rows that it was trained on much better; '' where there is none."""
    bare = unguarded(modality)
    if not offers(bare, Prompted) or not len(records):
        return ""
    some = [records[i] for i in few(len(records), ROWS)]
    present = _probability(model, bare, some)
    values = {f: v for f, other in require(bare, Prompted).formats().items() if (v := _probability(model, other, some)) is not None}
    if present is None or not values:
        return ""
    best = max(values, key=lambda f: values[f])
    if values[best] < max(present + GAIN, TIMES * present):
        return ""
    return (
        f"the {whose} knows its own rows far better in another prompt format: an answer has probability {values[best]:.3g} in {best!r} "
        f"and {present:.3g} in the format of this audit. Give the format in which it was trained: --prompt-format {best!r}."
    )


def _probability(model: nn.Module, modality: Modality, records: Records) -> float | None:
    """Mean over rows of the geometric mean probability of a label; None where a format does not fit."""
    try:
        rows = modality.rows("forget", records)
    except UserError:  # a longer prompt may leave no room for the answer
        return None
    with evaluating(model), torch.no_grad():
        return float(modality.forward(model, [rows])[0].target_logp.mean().exp().mean())
