"""Two models side by side: their scores, and their answers to the same question, typed live: words, or a picture."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from starlette.responses import Response

from expunge.core.capabilities import Draws, offers, require
from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.io.models import Opened, load
from expunge.service.batch import is_present, original_of
from expunge.service.ledger import Ledger
from expunge.service.models import Conversation, LocalModel
from expunge.service.removal import RECEIPT
from expunge.service.web.headers import POLICY
from expunge.service.web.visit import Visit

KEPT = 2  # models in memory
SEED = 0  # of pictures: both models begin with the same noise
SIDE = 256  # pixels of a picture's longer side at most; smaller ones are enlarged, so that they can be seen
POLICY_WITH_PICTURES = POLICY.replace("img-src 'self'", "img-src 'self' data:")
LONGEST, TOKENS = 2000, 96  # characters of a question, tokens of an answer
ORIGINAL = "original"


@brief("name", "source")
@dataclass(frozen=True)
class Side:
    """A model that can be compared: the original, or that of a run."""

    name: str
    label: str
    source: str
    run: Mapping[str, Any] | None


class ComparePages:
    """The page that compares.

    Args:
        ledger: whose models are compared.
        load_options: of `load`.
    """

    def __init__(self, ledger: Ledger, load_options: Mapping[str, Any]) -> None:
        self.ledger, self.load_options = ledger, dict(load_options)
        self.lock = threading.Lock()
        self.opened: OrderedDict[tuple[str, str], Opened] = OrderedDict()

    def form(self, visit: Visit) -> Response:
        """The two models with their scores."""
        query = visit.request.query_params
        return self._page(visit, query.get("left", ""), query.get("right", ""))

    def ask(self, visit: Visit) -> Response:
        """The same with an answer of each. Neither question nor answers are kept or logged."""
        form = visit.form
        question = form["question"][:LONGEST]
        if not question:
            raise UserError("type a question for both models")
        return self._page(visit, form["left"], form["right"], question)

    def _page(self, visit: Visit, left: str, right: str, question: str = "") -> Response:
        sides = self.sides()
        if not sides:
            return visit.page("message.html.j2", sentence="there is nothing to compare yet: no run has made a model")
        first = sides.get(left) or next(iter(sides.values()))
        second = sides.get(right) or list(sides.values())[-1]
        answers = [self.answer(side, question) for side in (first, second)] if question else []
        page = visit.page(
            "compare.html.j2",
            sides=list(sides.values()),
            left=first,
            right=second,
            question=question,
            answers=answers,
            scores=compared(first, second),
        )
        page.headers["Content-Security-Policy"] = POLICY_WITH_PICTURES
        return page

    def sides(self) -> dict[str, Side]:
        """The models that are still there: the original, then those of runs."""
        runs, served = self.ledger.runs(), self.ledger.serving()[1]
        original = original_of(self.ledger) or next((self.ledger.place(r["parent"]) for r in runs if not _of_run(r["parent"])), "")
        sides = {}
        if original and is_present(original):
            sides[ORIGINAL] = Side(ORIGINAL, "the original", original, None)
        for run in runs:
            folder = self.ledger.folder / run["folder"]
            if (folder / RECEIPT).exists():
                state = "served" if run["id"] == served else run["state"]
                sides[str(run["id"])] = Side(str(run["id"]), f"run {run['id']}: {run['method']} ({state})", str(folder), run)
        return sides

    def answer(self, side: Side, question: str) -> dict[str, str]:
        """The answer of a model, as `text` or `picture`; the model is loaded where it is not in memory."""
        with self.lock:
            key = (side.source, str((side.run or {}).get("weights", "")))
            if key not in self.opened:
                while len(self.opened) >= KEPT:
                    self.opened.popitem(last=False)
                self.opened[key] = load(side.source, **self.load_options)
            self.opened.move_to_end(key)
            opened = self.opened[key]
        if offers(opened.modality, Draws):
            return {"text": "", "picture": drawn(opened, question)}
        chat = Conversation([{"role": "user", "content": question}], "", {"max_tokens": TOKENS})
        return {"text": asyncio.run(LocalModel(opened).answer(chat)), "picture": ""}


def drawn(opened: Opened, caption: str) -> str:
    """What a model draws for a caption, as the address of a picture that holds it."""
    modality = require(opened.modality, Draws)
    latents, _ = modality.sample(opened.model, [caption], [SEED])
    pixels = modality.drawn(latents)[0].permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    times = max(1, SIDE // max(picture.size))
    buffer = io.BytesIO()
    picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def compared(left: Side, right: Side) -> list[dict[str, Any]]:
    """The scores of two models beside each other, by name; those of the original are what the audit of the other one measured of it."""
    columns = [_scores(side, other) for side, other in ((left, right), (right, left))]
    names = sorted({*columns[0], *columns[1]})
    about = {**_meanings(right), **_meanings(left)}
    return [{"name": n, "left": columns[0].get(n), "right": columns[1].get(n), **about.get(n, {})} for n in names]


def _scores(side: Side, other: Side) -> dict[str, float | None]:
    if side.run is not None:
        return {name: score["value"] for name, score in side.run["summary"].get("scores", {}).items()}
    summary = (other.run or {}).get("summary", {})
    known = {c["score"]: c["yardstick"] for c in summary.get("checks", []) if c["score"] and c["against"] == ORIGINAL}
    utility = summary.get("utility")
    return {**known, **({utility["name"]: utility["original"]} if utility else {})}


def _meanings(side: Side) -> dict[str, dict[str, Any]]:
    scores = (side.run or {}).get("summary", {}).get("scores", {})
    return {name: {field: score.get(field) for field in ("direction", "ideal", "kind")} for name, score in scores.items()}


def _of_run(source: str) -> bool:
    return source.startswith("runs/")
