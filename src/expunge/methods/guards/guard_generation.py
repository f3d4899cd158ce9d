"""GUARD: a classifier finds the prompts that ask for something forgotten, and a beam search keeps its phrases out of their answers.

The guard works at once, without training of the model: all other prompts are answered by it as it is, token for token. It controls outputs
and removes nothing: whoever has the weights, or asks in words that the classifier does not know, gets the answers. The folder of the guard
holds the telling phrases of the forgotten answers in the clear: keep it as confidential as the rows.

Equation: x is flagged iff MLP(mean_j h_j(x)) > threshold, h: hidden states before the last block; a* = argmax_a cos(E(x), E(a)) over the
  forget answers, F = phrases of a*; beams maximize sum_t log p(y_t | x, y_<t) - P_tok - P_sem, P_tok = inf where the answer matches a share
  >= beta of a phrase's tokens, P_sem = inf where s = max_f cos(E(w), E(f)) >= delta at the end of a word w, else s
Source: Deng et al. 2025, arXiv 2505.13312
Needs: forget, retain (prompts only); a causal language model
Cost: once, a forward of all prompts and answers; then for each prompt a forward of its own tokens, and for a flagged one a search with
  `beams` beams and a vector of each new word
Differs: the mean hidden states are standardized before the classifier; without an `encoder`, E is the model's own mean hidden states
  (`encoder_layer`, the embeddings), standardized over the answers of all rows and their words; of a chat, each turn that is not the
  model's own is looked at too; a word costs nothing before it ends; a flagged prompt is answered by beam search also where answers are
  sampled; scores of true answers are those of p exp(-P), renormalized, with 100 nats for infinity. F is that of as many nearest answers
  as bring each prompt to forget its own one, since the truth passes where another row's is nearest (`nearest 1` is the paper's). The
  paper leaves open the negatives (here the retain prompts, with `general` other questions too), the sizes of the classifier (from a
  public re-implementation), and what follows where everything is forbidden (the likeliest token that begins no phrase, else the end)
Status: shown
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Displayable, Generates, OneSequence, Prompted, Samples, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.parts import Guard
from expunge.core.plan import Plan
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine import guarding
from expunge.engine.run_state import evaluating
from expunge.engine.writers import Writer, asking, first_json, understood
from expunge.methods import keywords, policies
from expunge.methods.detectors import Detector, PromptClassifier
from expunge.methods.sentences import Sentences, SentenceVectors, sentence_vectors
from expunge.modalities.text.beams import restricted_answers
from expunge.modalities.text.local_writer import writer_of
from expunge.modalities.text.pieces import Pieces
from expunge.modalities.text.records import asked_turns
from expunge.modalities.text.restriction import RestrictedLogits, Restriction, Spoken

INFINITE = 100.0  # nats, in scores of true answers
TIE = 1e-4  # similarities that are this near count as equal, because padding moves them a little
MANY = 5  # nearest answers above which the user is told
EXTRACTORS = {"words": keywords.content_words, "textrank": keywords.key_phrases}


@part
class GuardGeneration(Guard):
    """Flag prompts by a classifier, and keep the phrases of the nearest forget answer out of the answers to them."""

    detector: Detector = Detector()
    sentences: Sentences = Sentences()
    extractor: Literal["words", "textrank", "model"] = hp("words", "phrases of an answer: all but stop words, its keywords, or a model's")
    writer: str = hp("", "of the extractor model: a folder, a hub id or http://HOST/v1#MODEL, which reads the answers to forget")
    beams: int = hp(7, "beams of the search", ge=1)
    beta: float = hp(1.0, "share of a phrase's tokens that may not be matched; above 1: none is forbidden", gt=0)
    delta: float = hp(0.5, "similarity of a word to a phrase from which on it is forbidden; above 1: none is", ge=-1)
    soft: bool = hp(True, "words below that similarity cost the similarity, in nats")
    nearest: int = hp(0, "forget answers, the nearest ones, whose phrases are forbidden; 0: until each prompt has its own", ge=0)
    exclude_prompt_words: bool = hp(False, "allow phrases whose words stand in the prompt")
    length_penalty: float = hp(0.0, "exponent of the length that scores of whole answers are divided by", ge=0)
    trial: int = hp(2, "prompts of each set that are answered at the end, for what they cost; 0: none", ge=0)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Prompted, Generates, Displayable, OneSequence})

    def wrap(self, modality: Modality, view: View) -> Modality:
        with evaluating(view.model):
            classifier = self.detector.fit(view)
            answers = list(dict.fromkeys(view.forget["answer_text"]))
            vectors = self.sentences.fit(view.model, modality, [*answers, *view.retain["answer_text"]])
            answer_vectors = vectors(view.model, modality, answers)
            settings = {
                **{n: getattr(self.sentences, n) for n in ("encoder", "encoder_layer")},
                **{n: getattr(self.detector, n) for n in ("threshold", "layer")},
                **{n: getattr(self, n) for n in ("beams", "beta", "delta", "soft", "exclude_prompt_words", "length_penalty")},
                "nearest": self._nearest(view, vectors, answers, answer_vectors),
                "phrases": self._phrases(answers),
            }
            tensors = {
                **guarding.below("classifier", classifier.tensors()),
                **guarding.below("vectors", vectors.tensors()),
                "answers": answer_vectors,
            }
            guard = Restricted.fitted(modality, settings, tensors)
            guarding.trial(guard, view, {"forget": view.forget, "retain": view.retain}, self.trial)
        return guard

    def _nearest(self, view: View, vectors: SentenceVectors, answers: Sequence[str], answer_vectors: Tensor) -> int:
        """How many nearest answers count, and how far down its own one is for each prompt to forget.

        A prompt whose own answer is not among them may be answered with the truth, because other phrases are forbidden.
        """
        questions = require(view.modality, Displayable).questions(view.forget)
        similarity = vectors(view.model, view.modality, questions) @ answer_vectors.T
        own = torch.tensor([answers.index(answer) for answer in view.forget["answer_text"]])
        places = (similarity >= similarity.gather(1, own[:, None]) - TIE).sum(1)
        counts = sorted({1, 2, 5, 10, int(places.max())})
        view.show(
            "share of forget prompts whose own answer is among the nearest",
            [{"nearest": float(k), "prompts": float((places <= k).double().mean())} for k in counts if k <= len(answers)],
        )
        missed = int((places > self.nearest).sum()) if self.nearest else 0
        if missed:
            view.warn(
                f"{missed} of {len(questions)} prompts to forget do not have their own answer among the {self.nearest} nearest ones, so "
                "what it tells may be said: leave `nearest` at 0, or give a sentence encoder with --encoder"
            )
        elif int(places.max()) > MANY and not self.nearest:
            view.warn(
                f"the phrases of {int(places.max())} of {len(answers)} answers are forbidden in each flagged answer, because the vectors "
                "tell answers apart badly: a sentence encoder (--encoder) needs fewer"
            )
        return self.nearest or int(places.max())

    def _phrases(self, answers: Sequence[str]) -> list[list[str]]:
        """The phrases of each answer."""
        if self.extractor != "model":
            return [EXTRACTORS[self.extractor](answer) for answer in answers]
        if not self.writer:
            raise UserError("the extractor is a model, so say by --writer which one reads the answers to forget")
        return phrases_by(writer_of(self.writer), answers)


def phrases_by(writer: Writer, answers: Sequence[str]) -> list[list[str]]:
    """The telling phrases of each answer, as a model names them; what does not stand in the answer is left out.

    Raises:
        UserError: when the model does not name one that stands in it.
    """
    chosen = []
    for answer in answers:

        def read(reply: str, answer: str = answer) -> list[str] | None:
            named = first_json(reply)
            texts = [p.strip() for p in named if isinstance(p, str)] if isinstance(named, list) else []
            return [p for p in dict.fromkeys(texts) if p and p.lower() in answer.lower()] or None

        wanted = "a JSON list of phrases that stand in a text"
        chosen += understood(writer, [asking(policies.PHRASES.format(text=answer))], read, 128, wanted)
    return chosen


class Restricted(guarding.StoredGuard):
    """A modality that keeps phrases of forget answers out of the answers to flagged prompts.

    Its settings are hyperparameters and the `phrases` of each forget answer; its tensors are those of the classifier and of the sentence
    vectors, and the vectors of the forget `answers`.
    """

    method = "guard_generation"
    hidden = frozenset({"phrases"})

    def __init__(self, inner: Modality, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__(inner, settings, tensors)
        self.classifier = PromptClassifier.of(self.tensors_of("classifier"), settings["layer"])
        self.vectors = sentence_vectors(settings["encoder"], settings["encoder_layer"], self.tensors_of("vectors"))

    @cached_property
    def pieces(self) -> Pieces:
        """What the tokens of the vocabulary write."""
        inner: Any = self.unguarded
        return Pieces(inner.tokenizer)

    def flags(self, model: nn.Module, rows: Rows) -> list[bool]:
        return (self.classifier.probabilities(model, self.unguarded, rows) > self.settings["threshold"]).tolist()

    def forbidden(self, model: nn.Module, rows: Rows) -> list[list[str]]:
        """The phrases that must not stand in the answer to each prompt: those of the forget answers nearest to a turn."""
        turns = [asked_turns(context) for context in rows["context"]]
        texts = list(dict.fromkeys(t for row_turns in turns for t in row_turns))
        similarity = self.vectors(model, self.unguarded, texts) @ self.stored_tensors["answers"].T
        count = min(self.settings["nearest"], similarity.shape[1])
        nearest = dict(zip(texts, similarity.topk(count).indices.tolist(), strict=True))
        phrases = [dict.fromkeys(p for t in row for k in nearest[t] for p in self.settings["phrases"][k]) for row in turns]
        if self.settings["exclude_prompt_words"]:
            return [keywords.without(list(p), " ".join(row)) for p, row in zip(phrases, turns, strict=True)]
        return [list(p) for p in phrases]

    def restrictions(self, model: nn.Module, rows: Rows) -> list[Restriction]:
        """What must not be said in the answer to each prompt, flagged or not."""
        forbidden = self.forbidden(model, rows)
        distinct = list(dict.fromkeys(p for phrases in forbidden for p in phrases))
        known = dict(zip(distinct, self.vectors(model, self.unguarded, distinct), strict=True)) if distinct else {}
        return [self._restriction(model, {p: known[p] for p in phrases}) for phrases in forbidden]

    def _restriction(self, model: nn.Module, phrases: Mapping[str, Tensor]) -> Restriction:
        s, known = self.settings, list(phrases.values())

        def similarity(words: Sequence[str]) -> list[float]:
            return (self.vectors(model, self.unguarded, words) @ torch.stack(known).T).amax(1).tolist()

        return Restriction(self.pieces, list(phrases), s["beta"], similarity if known else None, s["delta"], s["soft"])

    def logits_processor(self, model: nn.Module, rows: Rows, prompt_length: int) -> RestrictedLogits:
        """The guard for the library's own `generate`.

        Args:
            rows: the prompts, in the order of the batch.
            prompt_length: tokens of the batch's `input_ids`, with padding.
        """
        flags = self.flags(model, rows)
        restrictions = [r if flag else None for r, flag in zip(self.restrictions(model, rows), flags, strict=True)]
        return RestrictedLogits(restrictions, prompt_length)

    def answer_flagged(
        self, model: nn.Module, rows: Rows, limit: int, generator: torch.Generator | None, temperature: float, with_logp: bool
    ) -> Samples:
        with evaluating(model):
            s = self.settings
            restrictions = self.restrictions(model, rows)
            return restricted_answers(self.unguarded, model, rows, limit, restrictions, s["beams"], s["length_penalty"])

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """Outputs whose logits are lowered by the penalties where a prompt is flagged."""
        outputs: list[Any] = [*self.unguarded.forward(model, groups, hook_points, patch, weights)]
        for k, rows in enumerate(groups):
            if not any(flags := self.flags(model, rows)):
                continue
            flagged = [i for i, flag in enumerate(flags) if flag]
            penalty, logits = torch.zeros_like(outputs[k].scores), outputs[k].logits
            for i, restriction in zip(flagged, self.restrictions(model, rows.select(flagged)), strict=True):
                spoken = Spoken()
                for place, token in zip((logits.row == i).nonzero()[:, 0].tolist(), rows["answer"][i], strict=True):
                    penalty[place] = restriction.penalties(spoken, penalty.shape[1]).clamp_max(INFINITE).to(penalty)
                    spoken = restriction.after(spoken, token)
            outputs[k] = outputs[k].with_scores(outputs[k].scores - penalty)
        return outputs

    @property
    def holds(self) -> str:
        count = len({p for phrases in self.settings["phrases"] for p in phrases})
        return (
            f"This guard holds {count} phrases of {len(self.settings['phrases'])} answers to forget in the clear, because it must know "
            "what not to say, and vectors of these answers. It holds no prompts."
        )


def restore(modality: Modality, folder: Path) -> Modality:
    """The guard that was saved in a folder, around a modality."""
    return Restricted.restored(modality, folder)


def plan() -> Plan:
    return Plan(GuardGeneration())
