"""Who's Harry Potter: train on what a model would say that never read the text, as told by a model that read it once too often.

A reinforced copy is fine-tuned on the rows to forget. A token that it raises above the original belongs to the text; with these tokens
lowered, the original's likeliest one is a generic continuation, and the original is fine-tuned on such tokens. Made for long texts;
`whp_decoding` lowers them while the model answers, without training.

Equation: v = z_0(x') - strength relu(z_r(x) - z_0(x')), label_t = argmax v_t; L = -mean_t log p(label_t | x_<t);  z_0, z_r: logits of the
  original and of the reinforced model, x': the text x with its own names replaced by generic ones
Source: Eldan and Russinovich 2023, arXiv 2310.02238; without x' as in Shi et al. 2024, arXiv 2407.06460
Needs: forget; a copy of the weights
Cost: three epochs of fine-tuning on the rows to forget, and once a forward of them by both models; then a forward and backward a step
Differs: reconstructed: strength and training settings are those that the paper is known for, and were not checked against code.
  Replacements come from a file that the user gives (`anchors`), where the paper has them written by GPT-4; without a file x' is x. Places
  inside a replaced name have no label, and neither have tokens that do not begin at the same character in both texts; all mentions of a
  name are replaced alike, and the paper's lowering of repeated names is left out
Status: case invalid
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from expunge.core.capabilities import Displayable, Generates, Prompted, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective, Selector
from expunge.core.plan import Plan, Plans, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import Step, View
from expunge.methods.terms import NLL

BATCH_SIZE = 16  # rows in one forward
REINFORCED = "reinforced"


def generic_logits(original: Tensor, reinforced: Tensor, strength: float) -> Tensor:
    """Logits without what a text taught: the original's, lowered where the reinforced model's are higher; the same shape."""
    return original - strength * (reinforced - original).relu()


@part
class GenericLabels(Selector):
    """Give each label of the rows to forget a generic one, before the first step."""

    strength: float = hp(5.0, "how much a token is lowered that the reinforced model raises; 0: labels are the original's own", ge=0)
    anchors: str = hp("", "JSON file of names and what replaces them, {name: generic}; empty: the text stays as it is")
    reads = frozenset({"forget"})
    requires = frozenset({Prompted, Generates, Displayable})
    needs = frozenset({REINFORCED})
    gives = frozenset({"forget"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows, anchors, labels = view.forget, anchors_in(self.anchors), list[list[int]]()
        for k in range(0, len(rows), BATCH_SIZE):
            batch = rows.select(range(k, min(k + BATCH_SIZE, len(rows))))
            reinforced = view.other(REINFORCED)(batch).logits.split()
            replaced, places = self._replaced(batch, anchors, view) if anchors else (batch, [list(range(len(z))) for z in reinforced])
            for own, z, row_places in zip(view.now(replaced).logits.split(), reinforced, places, strict=True):
                at = torch.tensor([p for p in row_places if p >= 0], dtype=torch.long, device=z.device)
                known = torch.tensor([i for i, p in enumerate(row_places) if p >= 0], dtype=torch.long, device=z.device)
                row_labels = torch.full((len(z),), -1, device=z.device)
                row_labels[known] = generic_logits(own[at].float(), z[known].float(), self.strength).argmax(-1)
                labels.append(row_labels.tolist())
        return {**sets, "forget": rows.add(generic=labels)}

    def _replaced(self, rows: Rows, anchors: Mapping[str, str], view: View) -> tuple[Rows, list[list[int]]]:
        """Rows with other names, and the place among their labels that each label of the rows has; -1: none."""
        display, prompted = require(view.modality, Displayable), require(view.modality, Prompted)
        pattern = re.compile(rf"(?<!\w)(?:{'|'.join(re.escape(a) for a in sorted(anchors, key=len, reverse=True))})(?!\w)")

        def renamed(text: str) -> str:
            return pattern.sub(lambda match: anchors[match[0]], text)

        questions = [renamed(q) for q in display.questions(rows)]
        asked = prompted.reask(rows, questions, "renamed") if any(questions) else rows
        texts = display.answer_texts(rows)
        others = view.modality.relabel(asked, [renamed(text) for text in rows["answer_text"]], "renamed")  # type: ignore[attr-defined]
        places = []
        for i, text in enumerate(texts):
            starts, other_starts = (_starts(display, r.select([i])) for r in (rows, others))
            moved, at, shift = dict[int, int](), 0, 0
            for match in [*pattern.finditer(text), None]:
                moved |= {c: c + shift for c in range(at, (match.start() if match else len(text)) + 1)}
                if match:
                    shift += len(anchors[match[0]]) - len(match[0])
                    at = match.end()
            place_of = {start: k for k, start in reversed(list(enumerate(other_starts)))}
            places.append([place_of.get(moved.get(start, -1), -1) for start in starts])
        return others, places


def _starts(display: Displayable, row: Rows) -> list[int]:
    """The character of its answer at which each label of a row begins."""
    (ids,) = row["answer"]
    beginnings = Rows(row.name, row.ids * len(ids), {"answer": [ids[:k] for k in range(len(ids))]})
    return [len(text) for text in display.answer_texts(beginnings)]


def anchors_in(path: str) -> dict[str, str]:
    """The replacements in a file. Raises: UserError where it is no JSON object of texts."""
    if not path:
        return {}
    try:
        anchors = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"`anchors` is a JSON file of names and what replaces them, and {path} cannot be read: {error}") from None
    if not isinstance(anchors, dict) or not anchors or not all(isinstance(v, str) and k.strip() and v.strip() for k, v in anchors.items()):
        raise UserError(f'{path} must hold one JSON object of names and what replaces them, such as {{"Hogwarts": "the school"}}')
    return anchors


@part
class Generic(Objective):
    """Mean negative log-likelihood of the generic labels; places without one count as 0."""

    reads = frozenset({"forget"})
    requires = frozenset({Generates})
    needs = frozenset({Need.SAME_LABELS})

    def loss(self, step: Step) -> Tensor:
        rows = step.forget
        log_probs = step.now(rows).log_probs
        labels = torch.tensor([label for row in rows["generic"] for label in row], device=log_probs.values.device)
        chosen = log_probs.map(lambda p: p.gather(-1, labels.clamp_min(0)[:, None])[:, 0] * (labels >= 0))
        return -step.mean(chosen, rows)


def plan() -> Plans:
    return (
        Plan(NLL("forget"), train=Train(epochs=3, lr=3e-6, batch_size=128), name=REINFORCED),
        Plan(Generic(), train=Train(epochs=2, lr=1e-6, batch_size=128), selectors=(GenericLabels(),), name="generic", start="original"),
    )
