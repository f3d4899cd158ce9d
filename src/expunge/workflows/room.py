"""What an audit will need of the memory, said before it starts, and the room that a bound leaves to its passes."""

from __future__ import annotations

from collections.abc import Mapping

from expunge.core.capabilities import SharedReading, offers
from expunge.core.errors import UserError
from expunge.engine import memory
from expunge.evaluation.audited_models import Progress
from expunge.evaluation.gradient_norms import positions
from expunge.evaluation.observe import Records
from expunge.evaluation.profiles.text import LENGTH, TIMES
from expunge.io.models import Opened
from expunge.report.words import size


def room_of(opened: Opened, sets: Mapping[str, Records], name: str, bound: int, progress: Progress) -> int:
    """The bytes that a pass over rows may take; 0 where memory is not bounded. What the passes will need is told to `progress`.

    Args:
        opened: the model, in memory.
        sets: the records that it is asked about, those to forget among them.
        name: of the model, for messages.
        bound: the most bytes in use at any time; 0: no bound.

    Raises:
        UserError: where the bound leaves no room for one row, or the passes of the model know no bound.
    """
    if not offers(opened.modality, SharedReading):
        if bound:
            raise UserError("--memory bounds the passes of language models, and there are none here: leave it out")
        return 0
    used, least = memory.in_use(opened.model), _passes(opened, sets, 1, 1)
    if bound and bound < used + least:
        raise UserError(
            f"an audit of the {name} needs at least {size(used + least)} of memory, of which {size(used)} are in use with the model: "
            f"give a larger --memory, or a smaller --dtype"
        )
    room = bound - used if bound else 0
    with memory.bounded(room):
        needed = used + largest_pass(opened, sets)
    progress(0, 0, f"{name}: about {size(needed)} of memory, {size(used)} of them in use now")
    return room


def largest_pass(opened: Opened, sets: Mapping[str, Records]) -> int:
    """The bytes that the largest pass of an audit takes beside the model, within the bound of the block that this is called in."""
    return _passes(opened, sets, positions(opened.model, opened.modality), memory.ANSWERS)


def _passes(opened: Opened, sets: Mapping[str, Records], most_positions: int, most_answers: int) -> int:
    """The larger of the pass with gradients and the pass that generates answers. It holds a row at least; those to forget stand for all."""
    model, modality = opened.model, opened.modality
    rows = modality.rows("forget", sets["forget"])
    counts = [modality.counts(rows.select([i])) for i in range(len(rows))]
    longest, labels = (int(max((c[kind] for c in counts), default=1)) for kind in ("tokens", "labels"))
    prompt = int(max((c["tokens"] - c["labels"] for c in counts), default=1))
    count, length = sum(map(len, sets.values())), min(LENGTH, TIMES * labels)
    with_gradients = memory.position_bytes(model, gradients=True) + memory.logits_bytes(model)
    at_once = max(longest, min(longest * count, most_positions))
    answers = min(count, most_answers, memory.answers(model, prompt, length))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())  # the norms of one row are compared with its gradient
    return max(at_once * with_gradients, longest * with_gradients + weights, answers * memory.answer_bytes(model, prompt, length))
