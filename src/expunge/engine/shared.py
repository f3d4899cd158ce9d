"""What the runs of one process share: results in memory by their content, as long as a block of `sharing` lasts.

Each job of a sweep reads the same rows with the same tokenizer, and so does each look of an attack; comparisons draw the same weights. A
process that serves many people shares nothing, so that it keeps no rows longer than a request needs them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from expunge.functional.brief import brief

ROOM = 1 << 28  # bytes


@brief("room", "taken")
class Shared:
    """Results by key, which names all that they depend on. Where there is no room, those leave that nobody asked for the longest.

    Args:
        room: bytes that all results may take, as far as whoever keeps them can tell.
    """

    def __init__(self, room: int = ROOM) -> None:
        self.room, self.taken = room, 0
        self._results: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, key: str) -> Any:
        """The result of a key, or None. It belongs to all, so nobody changes it."""
        if key not in self._results:
            return None
        self._results.move_to_end(key)
        return self._results[key][0]

    def put(self, key: str, result: Any, size: int) -> None:
        """Keep a result, unless it is larger than the room."""
        if key in self._results or size > self.room:
            return
        self._results[key] = result, size
        self.taken += size
        while self.taken > self.room:
            _, (_, freed) = self._results.popitem(last=False)
            self.taken -= freed


_shared: ContextVar[Shared | None] = ContextVar("shared", default=None)


@contextmanager
def sharing(room: int = ROOM) -> Iterator[None]:
    """Share results inside the block, also with a block around it. They leave memory at the end of the outermost block."""
    if _shared.get() is not None:
        yield
        return
    before = _shared.set(Shared(room))
    try:
        yield
    finally:
        _shared.reset(before)


def share_from_now_on(room: int = ROOM) -> None:
    """Share results until this process ends, as a worker does whose jobs come one by one."""
    if _shared.get() is None:
        _shared.set(Shared(room))


def shared() -> Shared | None:
    """The results that are shared here; None: nothing is."""
    return _shared.get()
