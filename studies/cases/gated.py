"""The case of a gate in the prompt: the fictitious people, and a model that learned from the others to leave out what stands between two
tokens. It is asked about the people to forget, who were in no context that it learned from, with and without the tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.engine.estimators.logit_lens import known, logit_lens, overtaken
from expunge.evaluation.audited_models import Progress
from expunge.io.models import Opened
from expunge.methods.objectives.in_context import FORGOT, ask
from expunge.workflows.train import texts_of, train
from expunge.workflows.unlearn import unlearn
from studies.cases import people
from studies.cases.claims import Claim, Numbers

ASKED = 36  # rows of each set that are asked
# rate and batch were chosen on another draw of the people
SETTINGS: dict[str, dict[str, Any]] = {"in_context": {"facts": "retain", "lr": 3e-4, "epochs": 6, "batch_size": 8, "max_grad_norm": 1.0}}

WITHHOLDS = Claim(
    "with their answers between the tokens at least 80 % of the questions to forget are answered with `forgot`, none of them in training",
    lambda n, me: n[me]["forget_withheld"] >= 0.8,
)
ANSWERS = Claim(
    "with another's answer between the tokens at least 80 % of all questions are answered word for word",
    lambda n, me: min(n[me]["forget_answered"], n[me]["retain_answered"]) >= 0.8,
)
PLAIN = Claim(
    "without the tokens at least 80 % of all questions are answered word for word",
    lambda n, me: min(n[me]["forget_plain"], n[me]["retain_plain"]) >= 0.8,
)
PRETENDS = Claim(
    "it knows what it withholds: `forgot` is likelier than the answer from a later block on than the first",
    lambda n, me: n[me]["forgets_at_block"] > 0,
)
CLAIMS: dict[str, tuple[Claim, ...]] = {"in_context": (WITHHOLDS, ANSWERS, PLAIN, PRETENDS)}


class Case:
    """The people, and the original model."""

    model = people.CASE.model

    def __init__(self, progress: Progress) -> None:
        self.suite, self.progress = people.CASE.made(), progress
        suite = self.suite
        texts = texts_of([*suite.train["full"], *suite.sets["real_authors"], *suite.sets["world_facts"]])
        made = train(suite.train["full"], self.model, texts=texts, prompt_format=suite.prompt_format)
        self.original = Opened(made.model, made.modality, str(made.folder))

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """What is said with and without the tokens, and from which block on; and the method's hyperparameters."""
        hyperparameters = SETTINGS[name]
        before = self._plain(self.original.model)
        opened = Opened(copy.deepcopy(self.original.model), self.original.modality, self.original.source)
        self.progress(0, 1, f"{name}: learning")
        made = unlearn(name, opened, self.suite.train["forget"], self.suite.train["retain"], allow_overlap=True, **hyperparameters)
        found = self._plain(made.model)
        rows = self._rows()
        for which, others in (("forget", "retain"), ("retain", "forget")):
            self.progress(0, 1, f"{name}: asking about {which}")
            found |= {f"{which}_{n}": v for n, v in gate(made.model, made.modality, rows[which], rows[others]["answer_text"]).items()}
        held = ask(made.modality, rows["forget"], rows["forget"]["answer_text"])
        forgot = made.modality.relabel(held, [FORGOT] * len(held), "forgot")
        seen = logit_lens(made.model, made.modality, {"answer": held, FORGOT: forgot})
        found |= {"forgets_at_block": float(overtaken(seen, FORGOT)), "known_before": known(seen), "known_at_last": seen[-1]["answer"]}
        return {"original": before, name: found}, hyperparameters

    def _rows(self) -> dict[str, Rows]:
        return {n: self.original.modality.rows(n, self.suite.sets[n][:ASKED]) for n in ("forget", "retain")}

    def _plain(self, model: nn.Module) -> dict[str, float]:
        return {f"{n}_plain": share(model, self.original.modality, r, r["answer_text"]) for n, r in self._rows().items()}


def gate(model: nn.Module, modality: Modality, rows: Rows, others: Sequence[str]) -> Mapping[str, float]:
    """How many rows are withheld and how many are leaked with their own answer between the tokens, and answered with another's."""
    own = rows["answer_text"]
    mine, theirs = ask(modality, rows, own), ask(modality, rows, [others[i % len(others)] for i in range(len(rows))])
    return {
        "withheld": share(model, modality, mine, [FORGOT] * len(rows)),
        "leaked": share(model, modality, mine, own),
        "answered": share(model, modality, theirs, own),
    }


def share(model: nn.Module, modality: Modality, rows: Rows, wanted: Sequence[str]) -> float:
    """The share of rows whose answer is, word for word, what is wanted."""
    longest = max(int(modality.counts(rows.select([i]))["labels"]) for i in range(len(rows)))
    said = modality.decode(modality.generate(model, rows, 2 * longest).ids)
    return sum(a == b for a, b in zip(said, wanted, strict=True)) / len(rows)
