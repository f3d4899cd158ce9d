"""Iterative contrastive unlearning (ICU): ascend on rows that the model still recites, learn from the rows most like them, stop in time.

Each epoch begins with a check of what the model generates by itself. A row that the model no longer recites rests, so the ascent pushes
no row further than necessary. One neighbor per row balances the ascent, not the whole retain set.

Equation: L = -NLL(forget) + 0.5 NLL(learn) - mean over the labels of learn of sum_v p_ref(v) log p(v);  learn: the nearest retain row of
  each row to forget. An epoch trains on the pairs with BLEU(generated text, row) >= 0.01 and F1(the same) >= 0.3. The end: no such pair, or
  MA < 0.5994 and EL_n < 0.0499
Source: Tang et al. 2024, arXiv 2407.20271; the scores MA and EL: Jang et al. 2022, arXiv 2210.01504
Needs: forget, retain (the source of neighbors), holdout where `unseen`; generation before each epoch; the reference's distributions
Cost: one forward and backward of forget and learn rows, and one reference forward of the learn rows a step; one generated answer per row to
  forget and epoch, and one more from each of its starts that EL needs and where the model errs
Differs: greedy answers instead of beams of two; BLEU of a reference of fewer than four words uses n-grams up to the length of the
  reference; without an `encoder`, rows are compared by their words (TF-IDF) and F1 is left out; with one, F1 uses its token vectors; of a
  row with a question only the answer is trained on and generated; Adam has its usual betas; an epoch limit; nothing is added inside the
  logarithm, where the authors add 1e-12; padding does not count
Status: undecided
"""

import re
import warnings
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from expunge.core.capabilities import Categorical, Generates, Prompted, require
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective, Selector, Stop
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import State, Step, View
from expunge.functional.memorization import extraction_likelihood
from expunge.methods.sentences import encoder_of
from expunge.methods.terms import NLL, Ascent, guessed

BATCH_SIZE = 128  # starts that one generation continues together


@part
class Neighbors(Selector):
    """Pair each row to forget with its most similar retain row, at the same place of the set `learn`."""

    encoder: str = ""
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Categorical, Prompted})
    gives = frozenset({"learn"})

    def pick(self, sets: Sets, view: View) -> Sets:
        forget, retain = self._texts(view.forget, view), self._texts(view.retain, view)
        return {**sets, "learn": view.retain.select(most_similar(forget, retain, self.encoder)).rename("learn")}

    def _texts(self, rows: Rows, view: View) -> list[str]:
        """Each question with its answer; of a text, its second half."""
        second_half = require(view.modality, Prompted).begun(rows, starts(rows, view, 0.5))
        pairs = zip(view.modality.questions(rows), view.modality.answer_texts(second_half), strict=True)
        return [f"{question} {answer}".strip() for question, answer in pairs]


@part
class Recited(Selector):
    """Keep the pairs whose row to forget the model still recites; the other pairs rest in this epoch."""

    when: ClassVar[Literal["start", "epoch", "step"]] = "epoch"
    encoder: str = ""
    given: float = 0.75
    bleu: float = hp(0.01, "BLEU of the generated text below which a row rests", ge=0)
    f1: float = hp(0.3, "BERTScore F1 of the generated text below which a row rests, where there is an encoder", ge=0)
    both: bool = hp(False, "a row rests only where both BLEU and F1 are too low")
    reads = frozenset({"forget", "learn"})
    gives = frozenset({"forget", "learn"})
    requires = frozenset({Categorical, Generates, Prompted})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = require(view.modality, Prompted).begun(view.forget, starts(view.forget, view, self.given))
        lengths = [int(view.modality.counts(rows.select([i]))["labels"]) for i in range(len(rows))]
        generated = view.modality.decode([ids[:n] for ids, n in zip(view.generate(rows, max(lengths)).ids, lengths, strict=True)])
        truth = view.modality.answer_texts(rows)
        too_low = [[bleu(text, true) < self.bleu for text, true in zip(generated, truth, strict=True)]]
        if self.encoder:
            too_low.append([f1 < self.f1 for f1 in bert_score(generated, truth, self.encoder)])
        rests = [all(flags) if self.both else any(flags) for flags in zip(*too_low, strict=True)]
        active = [i for i, rest in enumerate(rests) if not rest]
        return {**sets, "forget": view.forget.select(active), "learn": view.rows("learn").select(active)}


@part
class Keep(Objective):
    """Cross-entropy of the model's distribution on learn rows under the reference's: KL divergence plus a constant."""

    reads = frozenset({"learn"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE})
    role = "kl"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows("learn")
        reference, current = step.reference(rows).log_probs, step.now(rows).log_probs
        return -step.mean(reference.map(lambda logp: (logp.exp() * current.values).sum(-1)), rows)


@part
class IcuStop(Stop):
    """Stop once memorization accuracy (MA) and extraction likelihood (EL) of the rows to forget are below thresholds."""

    given: float = 0.75
    unseen: bool = False
    ma: float = hp(0.5994, "memorization accuracy below which rows count as forgotten", ge=0)
    el: float = hp(0.0499, "extraction likelihood below which rows count as forgotten", ge=0)
    n: int = hp(10, "length of the n-grams that EL counts; a shorter answer is one n-gram", ge=1)
    requires = frozenset({Categorical, Generates})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"forget", "holdout"}) if self.unseen else frozenset({"forget"})

    def begin(self, view: View) -> State:
        if not self.unseen:
            return {"ma": torch.tensor(self.ma), "el": torch.tensor(self.el)}
        ma, el = self.memorization(view, "holdout")
        return {"ma": torch.tensor(ma), "el": torch.tensor(el)}

    def stop(self, view: View) -> str | None:
        ma, el = self.memorization(view, "forget")
        forgotten = ma < float(view.state["ma"]) and el < float(view.state["el"])
        return f"forgotten: MA {ma:.3f}, EL_{self.n} {el:.3f}" if forgotten else None

    def memorization(self, view: View, name: str) -> tuple[float, float]:
        """MA and EL of a set, each a mean over rows."""
        rows = view.rows(name)
        correct = [hits.bool().tolist() for batch in view.batches(name, 32) for hits in guessed(view.now(batch)).split()]
        answers = [a[: len(a) - end] for a, end in zip(rows["answer"], view.modality.ended(rows), strict=True)]
        lengths = [min(self.n, len(a)) for a in answers]
        first = [min(s, len(a) - k) for s, a, k in zip(starts(rows, view, self.given), answers, lengths, strict=True)]
        row_starts = [range(s, len(a) - k + 1) for s, a, k in zip(first, answers, lengths, strict=True)]
        texts = continuations(view, rows, answers, correct, row_starts)
        likelihoods = [extraction_likelihood(*row) for row in zip(answers, texts, lengths, first, strict=True)]
        return sum(sum(hits) / len(hits) for hits in correct) / len(correct), sum(likelihoods) / len(likelihoods)


def continuations(
    view: View, rows: Rows, answers: Sequence[Sequence[int]], correct: Sequence[Sequence[bool]], row_starts: Sequence[range]
) -> list[list[list[int]]]:
    """Greedy continuation of each answer from each of its starts, at most as long as the rest of the answer.

    Where the model predicts a label correctly, its continuation is this label and the continuation from the next start. The model therefore
    generates only from labels that it gets wrong.

    Args:
        answers: the labels of each row, without the end of the answer.
        correct: by row and label, whether the label is the likeliest class.
        row_starts: the starts of each row, as positions in its answer.

    Returns:
        By row and start, the labels of the continuation.
    """
    # by row, the first wrong label at or after the last start: continuations are built backwards from there
    ends = [next((t for t in range(r[-1], len(a)) if not hits[t]), len(a)) for a, hits, r in zip(answers, correct, row_starts, strict=True)]
    errors = [(i, t) for i, r in enumerate(row_starts) for t in range(r[0], min(ends[i] + 1, len(answers[i]))) if not correct[i][t]]
    errors.sort(key=lambda error: len(answers[error[0]]) - error[1])  # batches of similar length
    generated: dict[tuple[int, int], list[int]] = {}
    for k in range(0, len(errors), BATCH_SIZE):
        batch = errors[k : k + BATCH_SIZE]
        begun = require(view.modality, Prompted).begun(rows.select([i for i, _ in batch]), [t for _, t in batch])
        limits = [len(answers[i]) - t for i, t in batch]
        generated |= {error: ids[:n] for error, n, ids in zip(batch, limits, view.generate(begun, max(limits)).ids, strict=True)}
    continuations_by_row = []
    for i, (answer, positions) in enumerate(zip(answers, row_starts, strict=True)):
        backwards: list[list[int]] = [[]]
        for t in range(min(ends[i], len(answer) - 1), positions[0] - 1, -1):
            backwards.append([answer[t], *backwards[-1]] if correct[i][t] else generated[i, t])
        continuations_by_row.append(backwards[: -len(positions) - 1 : -1])
    return continuations_by_row


def starts(rows: Rows, view: View, share: float) -> list[int]:
    """Number of labels of each row that the model is given: a share of a text, none of the answer to a question."""
    return [0 if question else int(share * len(a)) for question, a in zip(view.modality.questions(rows), rows["answer"], strict=True)]


def most_similar(texts: Sequence[str], pool: Sequence[str], encoder: str = "") -> list[int]:
    """Index of the text in the pool that is most similar to each text, by cosine.

    Args:
        encoder: sentence encoder (hub id or folder); empty: TF-IDF vectors of the words.

    Raises:
        UserError: when an encoder is named but the library is missing.
    """
    if encoder:
        vectors = [torch.as_tensor(encoder_of(encoder).encode(list(t), show_progress_bar=False)) for t in (texts, pool)]
    else:
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(token_pattern=r"\w+").fit([*texts, *pool])
        vectors = [torch.from_numpy(vectorizer.transform(t).toarray()) for t in (texts, pool)]
    text_units, pool_units = (normalize(v, dim=-1) for v in vectors)
    return (text_units @ pool_units.T).argmax(-1).tolist()


def bleu(text: str, true: str) -> float:
    """Sentence BLEU of a text against the true one, by words, without case and without smoothing.

    The score is 0 as soon as the texts share no n-gram of the longest kind.
    """
    from nltk.translate.bleu_score import sentence_bleu

    words, reference = (re.findall(r"\w+|[^\w\s]", t.lower()) for t in (text, true))
    longest = max(1, min(4, len(reference)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns of scores that are 0, which are common here
        return float(sentence_bleu([reference], words, weights=[1 / longest] * longest)) if words else 0.0


def bert_score(texts: Sequence[str], truth: Sequence[str], encoder: str) -> list[float]:
    """F1 of the best matches between the token vectors of each text and the true one.

    Raises:
        UserError: when the library of the encoder is missing.
    """
    text_vectors, true_vectors = (
        [normalize(torch.as_tensor(v), dim=-1) for v in encoder_of(encoder).encode(list(t), output_value="token_embeddings")]
        for t in (texts, truth)
    )
    scores = []
    for a, b in zip(text_vectors, true_vectors, strict=True):
        similarity = a @ b.T
        precision, recall = float(similarity.amax(1).mean()), float(similarity.amax(0).mean())
        scores.append(2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0)
    return scores


def plan(
    encoder: Annotated[str, "sentence encoder (hub id or folder) that compares rows; empty: compare their words"] = "",
    given: Annotated[float, "share of a text that the model is given before it continues by itself"] = 0.75,
    unseen: Annotated[bool, "take the thresholds of MA and EL from the holdout rows, which the model has never seen"] = False,
) -> Plan:
    return Plan(
        Ascent() + 0.5 * NLL("learn") + Keep(),
        train=Train(epochs=50, lr=5e-6, batch_size=8, optimizer="adam", schedule="constant", pairing="aligned"),
        selectors=(Neighbors(encoder), Recited(encoder, given)),
        stop_rules=(IcuStop(given, unseen),),
    )
