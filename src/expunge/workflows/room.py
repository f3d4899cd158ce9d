"""What an audit will need of the memory, said before it starts, and the room that a bound leaves to its passes."""

from __future__ import annotations

from expunge.core.capabilities import SharedReading, offers
from expunge.core.errors import UserError
from expunge.engine import memory
from expunge.evaluation.audited_models import Progress
from expunge.evaluation.gradient_norms import positions
from expunge.evaluation.observe import Records
from expunge.evaluation.profiles.text import LENGTH
from expunge.io.models import Opened
from expunge.report.words import size


def room_of(opened: Opened, forget: Records, name: str, bound: int, progress: Progress) -> int:
    """The bytes that a pass over rows may take; 0 where memory is not bounded. What the passes will need is told to `progress`.

    Args:
        opened: the model, in memory.
        forget: records whose answers are asked for, with gradients.
        name: of the model, for messages.
        bound: the most bytes in use at any time; 0: no bound.

    Raises:
        UserError: where the bound leaves no room for one row, or the passes of the model know no bound.
    """
    model, modality = opened.model, opened.modality
    if not offers(modality, SharedReading):
        if bound:
            raise UserError("--memory bounds the passes of language models, and there are none here: leave it out")
        return 0
    rows = modality.rows("forget", forget)
    tokens = [int(modality.counts(rows.select([i]))["tokens"]) for i in range(len(rows))]
    longest = max(tokens, default=1)
    with_gradients = memory.position_bytes(model, gradients=True) + memory.logits_bytes(model)
    one_answer = memory.answer_bytes(model, longest, LENGTH)
    used, least = memory.in_use(model), max(longest * with_gradients, one_answer)
    room = bound - used
    if bound and room < least:
        raise UserError(
            f"an audit of the {name} needs at least {size(used + least)} of memory, of which {size(used)} are in use with the model: "
            f"give a larger --memory, or a smaller --dtype"
        )
    with memory.bounded(room if bound else 0):
        at_once = max(longest, min(sum(tokens), positions(model, modality)))
        answers = min(len(rows), memory.answers(model, longest, LENGTH))
    needed = used + max(at_once * with_gradients, answers * one_answer)
    progress(0, 0, f"{name}: about {size(needed)} of memory, {size(used)} of them in use now")
    return room if bound else 0
