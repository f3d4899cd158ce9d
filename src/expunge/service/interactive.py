"""Forgetting that somebody asks for in a chat, after RePAIR (Rachapudi et al. 2026, arXiv 2604.12820), with what a person in charge needs.

A watchdog notices the wish; it becomes a request of the ledger, and a guard hides the rows from then on. Somebody with authority
confirms it. Then a surgeon's repairs are tried on copies, each is audited (this request, all earlier ones, utility), and the first good
one is served.
Differs from the paper: no generated code is run, nobody forgets for somebody else, and nothing is swapped unaudited.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.io.models import load
from expunge.io.requested import requested_records
from expunge.modalities.common.records import Records
from expunge.service import intake, removal
from expunge.service.asked_data import AskedData
from expunge.service.batch import parent_of
from expunge.service.ledger import Ledger
from expunge.service.lookalikes import letters
from expunge.service.removal import RunResult
from expunge.service.states import CLOSED
from expunge.service.surgeon import Surgeon, settings_of
from expunge.service.text_guards import REFUSAL, NameGuard
from expunge.service.watchdog import Turn, Watchdog, Wish

BASIS = "asked in a chat"
SHORTEST = 3  # words of a text that is hidden: a single word, such as a country, stands in other answers too
NOTED = "Your wish is noted as request {number}. What it is about is not talked about from now on; somebody will look at it until {due}."
NOT_YOURS = "You can ask only for what this model knows of yourself, and nothing of that kind is known."


@brief("request", "reply")
@dataclass(frozen=True)
class Heard:
    """What became of a turn: the number of a request, None where nothing was asked or allowed; and what is answered, '' for nothing."""

    request: int | None
    reply: str


@brief("data", "authorized")
@dataclass(kw_only=True)
class Interactive:
    """Chats in which users can ask to be forgotten.

    Args:
        ledger: that gets the requests.
        data: the rows of all users; its column says whose a row is.
        watchdog: notices wishes.
        surgeon: says what is tried.
        authorized: names of those who may confirm.
        model: to begin with, where the ledger serves none.
        options: of every run, such as `utility_budget` or `load_options` (see `Removing`).
    """

    ledger: Ledger
    data: AskedData
    watchdog: Watchdog
    surgeon: Surgeon
    authorized: frozenset[str]
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def hear(self, user: str, dialogue: Sequence[Turn]) -> Heard:
        """Listen to a turn.

        Args:
            user: who speaks, as the server that calls this has authenticated them; nothing in the dialogue changes it.
            dialogue: the conversation, whose last turn is by the user.
        """
        wish = self.watchdog(dialogue)
        if wish.intent == "none":
            return Heard(None, "")
        rows = self._own(user, wish)
        if rows is None:
            return Heard(None, NOT_YOURS)
        subject = f"{self.data.column}={user}"
        number = self._open_request(rows, subject) or intake.add(
            self.ledger, rows, retain=self.data.path, map=self.data.map, subject=subject, basis=BASIS, by=f"chat of {user}"
        )
        return Heard(number, NOTED.format(number=number, due=self.ledger.request(number)["due"]))

    def confirm(self, request: int, by: str) -> list[RunResult]:
        """Confirm a request, and repair the model: repairs are tried in order until a run is done.

        Args:
            request: its number.
            by: who confirms.

        Returns:
            The runs that were tried. The last one is done, and its model served; or none is, and the guard stays.

        Raises:
            UserError: for somebody without authority, also where they asked themselves.
        """
        self._check_authority(request, by)
        if self.ledger.request(request)["state"] == "received":
            intake.accept(self.ledger, request, by)
        source = parent_of(self.ledger, self.model)
        opened = load(source, **self.options.get("load_options", {}))
        blocks = len(opened.modality.blocks(opened.model))
        del opened
        results, failures = list[RunResult](), list[str]()
        for repair in self.surgeon(blocks, int(self.ledger.request(request)["rows"])):
            try:
                result = removal.run(
                    self.ledger,
                    [request],
                    method=repair.method,
                    hyperparameters=settings_of(repair),
                    model=self.model if not self.ledger.serving()[0] else "",
                    fall_back="none",
                    by=by,
                    **self.options,
                )
            except UserError as error:  # a repair that cannot be made here, which the ledger notes as a failed run
                failures.append(f"{repair.method}: {error}")
                continue
            results.append(result)
            if result.state == "done":
                return results
        if not results and failures:
            raise UserError(f"no repair could be made: {'; '.join(failures)}")
        return results

    def decline(self, request: int, by: str, why: str) -> None:
        """Refuse a request, with the reason; the guard of its rows goes. Raises: UserError, as `confirm`."""
        self._check_authority(request, by)
        intake.refuse(self.ledger, request, why, by)

    def guard(self) -> PendingGuard:
        """The guard that hides the rows of all open requests."""
        return PendingGuard(self.ledger)

    def _check_authority(self, request: int, by: str) -> None:
        if by not in self.authorized:
            raise UserError(f"{by} may not decide on requests")
        if self.ledger.request(request)["basis"] != BASIS:
            raise UserError(f"request {request} did not come by a chat: it is carried out with expunge request run {request}")
        if self.ledger.events(request)[0].by == f"chat of {by}":
            raise UserError(f"request {request} was asked for by {by}, so somebody else decides on it")

    def _open_request(self, rows: Records, subject: str) -> int | None:
        """The open request for the same rows: who says it twice has one."""
        for known in self.ledger.requests():
            if known["basis"] == BASIS and known["state"] not in CLOSED and known["key"]:
                content = self.ledger.vault.get(known["id"])
                if content["subject"] == subject and content["rows"] == [dict(row) for row in rows]:
                    return int(known["id"])
        return None

    def _own(self, user: str, wish: Wish) -> Records | None:
        """The rows of the user that a wish is about; None where there are none. Pairs count only as they stand among the user's own."""
        known = requested_records(self.data.path, "data", (), self.data.map)
        own = known.pick(i for i, row in enumerate(known) if str(row.get(self.data.column)) == user)
        if wish.pairs:
            asked = [letters(text) for pair in wish.pairs for text in (pair.prompt, pair.answer)]
            own = own.pick(i for i, row in enumerate(own) if any(letters(text) in asked for text in texts_of(row, self.data.column)))
        return own if len(own) and len(own) < len(known) else None


@brief("refusal")
class PendingGuard:
    """Neither asked nor said: the questions and answers of open requests, read anew from the ledger whenever it changed.

    It holds from the moment of the wish, in every process that serves with it, and goes with the removal, a refusal or a withdrawal.
    It knows the rows' own words, from three words on: other words for the same, and a name alone, pass it.

    Args:
        ledger: whose requests count.
        refusal: what is said instead.
    """

    def __init__(self, ledger: Ledger, refusal: str = REFUSAL) -> None:
        self.ledger, self.refusal = ledger, refusal
        self.lock, self.head = threading.Lock(), ""
        self.inner: NameGuard | None = None

    def asked(self, text: str) -> str | None:
        """The refusal, where the text holds a question or answer of an open request."""
        with self.lock:
            if (head := self.ledger.head) != self.head:
                self.inner, self.head = self._anew(), head
            inner = self.inner
        return inner.asked(text) if inner else None

    answered = asked

    def _anew(self) -> NameGuard | None:
        phrases = set[str]()
        for row in self.ledger.requests():
            if row["state"] not in CLOSED and row["key"]:
                for record in self.ledger.vault.get(row["id"])["rows"]:
                    phrases.update(text for text in texts_of(record) if len(text.split()) >= SHORTEST and len(letters(text)) >= 6)
        return NameGuard(sorted(phrases), self.refusal) if phrases else None


def texts_of(row: Mapping[str, Any], without: str = "") -> list[str]:
    """The texts of a row. without: a column that is left out."""
    return [value for name, value in row.items() if isinstance(value, str) and name != without and value.strip()]
