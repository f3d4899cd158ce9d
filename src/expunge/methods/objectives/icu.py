"""Iterative contrastive unlearning (ICU): ascend on rows that are still recited, learn from what is most like them, stop in time.

Each epoch begins with a look at what the model says by itself: a row that it no longer gives back rests, so nothing is pushed further than
it must be, and none of it by the whole retain set, but by one neighbour a row.

Equation: L = -NLL(forget) + 0.5 NLL(learn) - mean over the labels of learn of sum_v p_ref(v) log p(v);  learn: the nearest retain row of
  each row to forget. Of an epoch are the pairs with BLEU(what is said, row) >= 0.01 and F1(the same) >= 0.3. The end: no such pair, or
  MA < 0.5994 and EL_n < 0.0499
Source: Tang et al. 2024, arXiv 2407.20271; the scores MA and EL: Jang et al. 2022, arXiv 2210.01504
Needs: forget, retain (where neighbours are looked for), holdout where `unseen`; generation before each epoch; the reference's distributions
Cost: one forward and backward of forget and learn rows, and one reference forward of the latter a step; an answer to each row to forget an
  epoch, and one more from each of its starts that EL asks about and the model errs at
Differs: greedy answers instead of beams of two; BLEU of a reference of fewer than four words goes by as long n-grams as it has; rows are
  compared by their words (TF-IDF), and F1 is left out, where no `encoder` is given, whose own token vectors F1 goes by; of a row with a
  question the answer alone is trained on and asked for; Adam has its usual betas; an epoch limit
Status: reproduced
"""

import re
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from expunge.core.capabilities import Categorical, Generates, Prompted, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective, Selector, Stop
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import State, Step, View
from expunge.functional.memorization import extraction_likelihood
from expunge.methods.terms import NLL, Ascent, guessed

SPOKEN = 128  # starts that are gone on from together


@part
class Neighbours(Selector):
    """Beside each row to forget, at the same place of the set `learn`, the retain row that is most like it."""

    encoder: str = ""
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Categorical, Prompted})
    gives = frozenset({"learn"})

    def pick(self, sets: Sets, view: View) -> Sets:
        texts = [[f"{q} {a}".strip() for q, a in zip(*self._halves(rows, view), strict=True)] for rows in (view.forget, view.retain)]
        nearest = near(*texts, self.encoder)
        return {**sets, "learn": view.retain.select(nearest).rename("learn")}

    def _halves(self, rows: Rows, view: View) -> tuple[list[str], list[str]]:
        """Questions with their answers; of a text, its second half."""
        later = require(view.modality, Prompted).begun(rows, starts(rows, view, 0.5))
        return view.modality.questions(rows), view.modality.answer_texts(later)


@part
class Recited(Selector):
    """The pairs whose row to forget is still given back; the others rest in this epoch."""

    when: ClassVar[Literal["start", "epoch", "step"]] = "epoch"
    encoder: str = ""
    given: float = 0.75
    bleu: float = hp(0.01, "BLEU of what is said below which a row rests", ge=0)
    f1: float = hp(0.3, "BERTScore F1 of what is said below which a row rests, where there is an encoder", ge=0)
    both: bool = hp(False, "a row rests only where both are too low")
    reads = frozenset({"forget", "learn"})
    gives = frozenset({"forget", "learn"})
    requires = frozenset({Categorical, Generates, Prompted})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = require(view.modality, Prompted).begun(view.forget, starts(view.forget, view, self.given))
        sizes = [int(view.modality.counts(rows.select([i]))["labels"]) for i in range(len(rows))]
        said = view.modality.decode([a[:n] for a, n in zip(view.generate(rows, max(sizes)).ids, sizes, strict=True)])
        low = [[bleu(own, true) < self.bleu for own, true in zip(said, view.modality.answer_texts(rows), strict=True)]]
        if self.encoder:
            low.append([f1 < self.f1 for f1 in bert_score(said, view.modality.answer_texts(rows), self.encoder)])
        rests = [all(x) if self.both else any(x) for x in zip(*low, strict=True)]
        stay = [i for i, rest in enumerate(rests) if not rest]
        return {**sets, "forget": view.forget.select(stay), "learn": view.rows("learn").select(stay)}


@part
class Keep(Objective):
    """Cross-entropy of the model's distribution on learn rows under the reference's: their KL divergence, and a constant."""

    reads = frozenset({"learn"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE})
    role = "kl"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows("learn")
        old, new = step.reference(rows).log_probs, step.now(rows).log_probs
        return -step.mean(old.map(lambda o: (o.exp() * new.values).sum(-1)), rows)


@part
class IcuStop(Stop):
    """The end, once memorization accuracy (MA) and extraction likelihood (EL) of the rows to forget are below thresholds."""

    given: float = 0.75
    unseen: bool = False
    ma: float = hp(0.5994, "memorization accuracy below which rows are forgotten", ge=0)
    el: float = hp(0.0499, "extraction likelihood below which rows are forgotten", ge=0)
    n: int = hp(10, "length of the n-grams that EL counts; an answer that is shorter is one n-gram", ge=1)
    requires = frozenset({Categorical, Generates})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"forget", "holdout"}) if self.unseen else frozenset({"forget"})

    def begin(self, view: View) -> State:
        if not self.unseen:
            return {"ma": torch.tensor(self.ma), "el": torch.tensor(self.el)}
        ma, el = self.memory(view, "holdout")
        return {"ma": torch.tensor(ma), "el": torch.tensor(el)}

    def stop(self, view: View) -> str | None:
        ma, el = self.memory(view, "forget")
        done = ma < float(view.state["ma"]) and el < float(view.state["el"])
        return f"forgotten: MA {ma:.3f}, EL_{self.n} {el:.3f}" if done else None

    def memory(self, view: View, name: str) -> tuple[float, float]:
        """MA and EL of a set, each a mean over rows."""
        rows = view.rows(name)
        right = [hit.bool().tolist() for some in view.batches(name, 32) for hit in guessed(view.now(some)).split()]
        answers = [a[: len(a) - end] for a, end in zip(rows["answer"], view.modality.ended(rows), strict=True)]
        lengths = [min(self.n, len(a)) for a in answers]
        first = [min(s, len(a) - k) for s, a, k in zip(starts(rows, view, self.given), answers, lengths, strict=True)]
        asked = [range(s, len(a) - k + 1) for s, a, k in zip(first, answers, lengths, strict=True)]
        said = continuations(view, rows, answers, right, asked)
        found = [extraction_likelihood(*row) for row in zip(answers, said, lengths, first, strict=True)]
        return sum(sum(r) / len(r) for r in right) / len(right), sum(found) / len(found)


def continuations(
    view: View, rows: Rows, answers: Sequence[Sequence[int]], right: Sequence[Sequence[bool]], asked: Sequence[range]
) -> list[list[list[int]]]:
    """What the model says by itself from each start of each answer on that is asked about, at most as many tokens as are left of it.

    right: by row and label, whether it is the likeliest; there the model goes on as from the next start, so it is made to speak only where
    it errs.
    """
    ends = [next((t for t in range(r[-1], len(a)) if not hit[t]), len(a)) for a, hit, r in zip(answers, right, asked, strict=True)]
    errs = [(i, t) for i, r in enumerate(asked) for t in range(r[0], min(ends[i] + 1, len(answers[i]))) if not right[i][t]]
    errs.sort(key=lambda at: len(answers[at[0]]) - at[1])
    own: dict[tuple[int, int], list[int]] = {}
    for k in range(0, len(errs), SPOKEN):
        some = errs[k : k + SPOKEN]  # about as much is left of each
        begun = require(view.modality, Prompted).begun(rows.select([i for i, _ in some]), [t for _, t in some])
        left = [len(answers[i]) - t for i, t in some]
        own |= {at: said[:n] for at, n, said in zip(some, left, view.generate(begun, max(left)).ids, strict=True)}
    found = []
    for i, (answer, some_starts) in enumerate(zip(answers, asked, strict=True)):
        on: list[list[int]] = [[]]  # from the last start back
        for t in range(min(ends[i], len(answer) - 1), some_starts[0] - 1, -1):
            on.append([answer[t], *on[-1]] if right[i][t] else own[i, t])
        found.append(on[: -len(some_starts) - 1 : -1])
    return found


def starts(rows: Rows, view: View, share: float) -> list[int]:
    """How many labels of each row are given to begin with: a share of a text, none of the answer to a question."""
    return [0 if asked else int(share * len(a)) for asked, a in zip(view.modality.questions(rows), rows["answer"], strict=True)]


def near(texts: Sequence[str], pool: Sequence[str], encoder: str = "") -> list[int]:
    """The place in the pool of what is most like each text: by an encoder's vectors, or by words."""
    if encoder:
        made = [torch.as_tensor(encoder_of(encoder).encode(list(t), show_progress_bar=False)) for t in (texts, pool)]
    else:
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(token_pattern=r"\w+").fit([*texts, *pool])
        made = [torch.from_numpy(words.transform(t).toarray()) for t in (texts, pool)]
    mine, others = (normalize(x, dim=-1) for x in made)
    return (mine @ others.T).argmax(-1).tolist()


def bleu(said: str, true: str) -> float:
    """Sentence BLEU of the words of two texts, without case and without smoothing: 0 as soon as no n-gram of the longest kind is shared."""
    from nltk.translate.bleu_score import sentence_bleu

    own, reference = (re.findall(r"\w+|[^\w\s]", t.lower()) for t in (said, true))
    longest = max(1, min(4, len(reference)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a score is 0 is no news here
        return float(sentence_bleu([reference], own, weights=[1 / longest] * longest)) if own else 0.0


def bert_score(said: Sequence[str], true: Sequence[str], encoder: str) -> list[float]:
    """F1 of the best matches between the token vectors of two texts, pair by pair."""
    own, reference = (
        [normalize(torch.as_tensor(v), dim=-1) for v in encoder_of(encoder).encode(list(t), output_value="token_embeddings")]
        for t in (said, true)
    )
    found = []
    for a, b in zip(own, reference, strict=True):
        alike = a @ b.T
        precision, recall = float(alike.amax(1).mean()), float(alike.amax(0).mean())
        found.append(2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0)
    return found


@cache
def encoder_of(name: str) -> Any:
    """A sentence encoder, loaded once. Errors: UserError where the library is missing."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError("an encoder needs sentence-transformers: pip install 'expunge[similarity]', or leave encoder out") from None
    return SentenceTransformer(name)


def plan(
    encoder: Annotated[str, "sentence encoder (hub id or folder) that compares rows; empty: by their words"] = "",
    given: Annotated[float, "share of a text that is given before the model goes on by itself"] = 0.75,
    unseen: Annotated[bool, "take thresholds of MA and EL from the holdout rows, which the model never saw"] = False,
) -> Plan:
    return Plan(
        Ascent() + 0.5 * NLL("learn") + Keep(),
        train=Train(epochs=50, lr=5e-6, batch_size=8, optimizer="adam", schedule="constant", pairing="aligned"),
        selectors=(Neighbours(encoder), Recited(encoder, given)),
        stop_rules=(IcuStop(given, unseen),),
    )
