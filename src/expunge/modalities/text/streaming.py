"""An answer piece by piece, as its tokens are generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from expunge.modalities.text.generate import Beginnings

CUT = "\ufffd"  # stands for the beginning of a character whose other bytes are in later tokens


def stream(
    beginnings: Beginnings,
    limit: int,
    ends: frozenset[int],
    choose: Callable[[Tensor], Tensor],
    decode: Callable[[Sequence[int]], str],
) -> Iterator[str]:
    """Generate the answer to one prompt.

    Args:
        beginnings: of one row.
        limit: most tokens of the answer.
        ends: token ids that end it.
        choose: from the logits of the next token, (1, classes), to that token, (1,).
        decode: from all tokens so far to their text.

    Yields:
        Pieces that together are the text of the whole answer. A character of several tokens comes when it is complete.
    """
    ids, spoken = list[int](), ""
    growing = None
    while len(ids) < limit:
        with torch.no_grad():
            growing = beginnings.begin([0]) if growing is None else growing
            token = choose(growing.logits())
            if int(token) in ends:
                break
            growing.append(token)
        ids.append(int(token))
        text = decode(ids)
        if not text.endswith(CUT) and text.startswith(spoken) and text != spoken:
            yield text[len(spoken) :]
            spoken = text
    if (text := decode(ids)) != spoken:
        yield text[len(spoken) :]
