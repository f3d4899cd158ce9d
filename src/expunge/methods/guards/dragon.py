"""DRAGON: prompts that ask for something forgotten get a policy and a reasoning instruction around them, and the model declines by itself.

The method works on a model that can only be asked. All other prompts are answered as before, token for token. The store grows with every
request, without any training of the model: `--earlier RUN` keeps what an earlier guard holds. It never holds answers; of prompts it holds
vectors, and with `kind concept` the text of their paraphrases. Whoever has the weights, or asks without the guard, gets the answers.

Equation: flag x iff a listed name stands in x, or max_u cos(e_u, e(x)) >= tau, or p(forget | x) > tau_1 (with `combine sum` iff the sum of
  the three exceeds tau, flags counting 1; of a concept ROUGE-L joins them); then ask: policy, profile, "Here is the question" x, "Final
  Instruction" c, with c written by a guard model G(x, policy)
Source: Wang et al. 2025, arXiv 2511.05784
Needs: forget (prompts only), retain where `classifier`; questions in words, and a model that follows instructions
Cost: a vector of each question and a forward for the classifier; for a flagged one an instruction of the guard model (some 200 tokens), and
  a longer prompt
Differs: the classifier is a small one on the mean of the model's own hidden states (`layer`, the embeddings) with a `threshold` of 0.9,
  where the paper trains RoBERTa and flags above 0.9999, which this one hardly gives a prompt in other words; without an `encoder` vectors
  are the model's own, where the authors take MiniLM, and stand for BERTScore too: at `tau` 0.9 they hardly know a prompt in other words
  again, and take a question that differs in a name alone for a known one; G is any model that `writer` names, not trained here, and without
  one the instruction is a fixed long one as in the paper's ablation, in our words, as are policies and profiles; without a `paraphraser`
  vectors are those of the prompts themselves; names count as whole words (the authors' code: any part of a word; with `name_parts` any word
  of a name); a profile depends on the question alone; an instruction that makes no sense is refused, where the authors' code writes None
Status: shown
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Displayable, Generates, OneSequence, Prompted, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.parts import Guard
from expunge.core.plan import Plan
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine import guarding
from expunge.engine.run_state import evaluating
from expunge.engine.writers import Writer, asking, first_json, understood
from expunge.functional import light_rouge
from expunge.methods import policies
from expunge.methods.detectors import Detector, PromptClassifier, check_prompts
from expunge.methods.guards.input_filter import hashed, words
from expunge.methods.rewording import Rewording, warn_of_cuts
from expunge.methods.sentences import Sentences, SentenceVectors, sentence_vectors
from expunge.modalities.text.local_writer import writer_of
from expunge.modalities.text.records import asked_turns

Kind = Literal["privacy", "concept"]
TAUS = (0.6, 0.7, 0.8, 0.9)


@part
class Dragon(Guard):
    """Detect prompts that ask for something forgotten, and reason about them in their own context."""

    detector: Detector = Detector(threshold=0.9, layer=0)  # names tell most, and deeper states mix them with how a question is put
    sentences: Sentences = Sentences()
    kind: Kind = hp("privacy", "privacy: names and vectors alone; concept: also the text of the prompts, compared by ROUGE-L")
    combine: Literal["any", "sum"] = hp("any", "flag by any of the tests, as the authors' code does, or by their sum, as the paper writes")
    tau: float = hp(0.9, "similarity from which on a prompt is flagged; of a sum, above which")
    names: str = hp("", "file of names to forget, one in a line; the guard holds hashes of them")
    name_parts: bool = hp(False, "any single word of a name counts as the name")
    classifier: bool = hp(True, "train a classifier on the prompts to forget and to retain")
    policy: str = hp("", "the policy in words; empty: a built-in one for the kind")
    profile: bool = hp(True, "tell the model of an invented person to answer about, for privacy")
    writer: str = hp("", "guard model that writes instructions: a folder, a hub id or http://HOST/v1#MODEL; empty: a fixed instruction")
    paraphraser: str = hp("", "model that rewords prompts for the store, likewise; empty: the store has vectors of the prompts themselves")
    paraphrases: int = hp(4, "rewordings of a prompt, of which the one that is nearest to it is kept", ge=1)
    instruction: str = hp("", "the instruction where no model writes one; empty: a built-in one")
    length: int = hp(256, "tokens of an instruction at most", ge=1)
    earlier: str = hp("", "folder of a run of this method, whose store the new one continues")
    trial: int = hp(2, "prompts of each set that are answered at the end, for what they cost; 0: none", ge=0)
    requires = frozenset({Prompted, Generates, Displayable, OneSequence})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"forget", "retain"}) if self.classifier else frozenset({"forget"})

    def wrap(self, modality: Modality, view: View) -> Modality:
        with evaluating(view.model):
            questions = list(dict.fromkeys(check_prompts(modality, view.forget, "forget")))
            retain = check_prompts(modality, view.retain, "retain") if self.classifier else []
            before, tensors = _earlier(self.earlier, modality) if self.earlier else ({}, {})
            kept = {n: before.get(n, getattr(self.sentences, n)) for n in ("encoder", "encoder_layer")}
            vectors = self.vectors(view, [*questions, *retain], kept, tensors)
            own = [normalized(q) for q in questions]
            texts = self._paraphrased(view, own, vectors) if self.paraphraser else own
            request = max(before.get("requests", [0])) + 1
            salt = before.get("name_salt") or secrets.token_hex(16)
            settings = {
                **kept,
                **{n: getattr(self.detector, n) for n in ("threshold", "layer")},
                **{n: getattr(self, n) for n in ("kind", "combine", "tau", "profile", "writer", "length")},
                "instruction": self.instruction or policies.INSTRUCTION,
                "policy": self.policy or policies.POLICIES[self.kind],
                "texts": [*before.get("texts", []), *(texts if self.kind == "concept" else [])],
                "requests": [*before.get("requests", []), *[request] * len(texts)],
                "names": [*before.get("names", []), *hashed_names(names_in(self.names), self.name_parts, salt, request)],
                "name_salt": salt,
            }
            store = vectors(view.model, modality, texts)
            classifier = self.detector.fit(view).tensors() if self.classifier else {}
            tensors = {
                **{n: t for n, t in tensors.items() if n != "store"},
                **guarding.below(f"classifier{request}", classifier),
                **guarding.below("vectors", vectors.tensors()),
                "store": torch.cat([tensors["store"], store]) if "store" in tensors else store,
            }
            if self.writer:
                writer_of(self.writer)  # a model that does not load is refused now, and not at the first question
            guard = Reasoned.fitted(modality, settings, tensors)
            sets = {"forget": view.forget, "retain": view.retain} if self.classifier else {"forget": view.forget}
            _show_similar(view, guard, sets)
            if not self.writer:  # how long its instructions are is not known yet
                warn_of_cuts(guard, view, view.forget)
            guarding.trial(guard, view, sets, self.trial)
        return guard

    def vectors(self, view: View, texts: Sequence[str], kept: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SentenceVectors:
        """Those of the earlier guard, since vectors of two kinds cannot be compared; new ones where there is none."""
        earlier_tensors = {n.removeprefix("vectors."): t for n, t in tensors.items() if n.startswith("vectors.")}
        if self.earlier:
            return sentence_vectors(kept["encoder"], kept["encoder_layer"], earlier_tensors)
        return self.sentences.fit(view.model, view.modality, texts)

    def _paraphrased(self, view: View, texts: Sequence[str], vectors: SentenceVectors) -> list[str]:
        """Each text in other words: of several paraphrases the one nearest to it."""

        def read(reply: str) -> list[str] | None:
            parsed = first_json(reply)
            usable = [p.strip() for p in parsed if isinstance(p, str) and p.strip()] if isinstance(parsed, list) else []
            return usable or None

        chats = [asking(policies.PARAPHRASE.format(count=self.paraphrases, question=text)) for text in texts]
        wanted = f"a JSON list of {self.paraphrases} paraphrases"
        nearest = []
        for text, several in zip(texts, understood(writer_of(self.paraphraser), chats, read, 64 * self.paraphrases, wanted), strict=True):
            others = [normalized(p) for p in several if normalized(p) != text][: self.paraphrases]
            if not others:
                raise UserError(f"the model {self.paraphraser} repeats a prompt to forget instead of rewording it: take another one")
            similarity = vectors(view.model, view.modality, others) @ vectors(view.model, view.modality, [text])[0]
            nearest.append(others[int(similarity.argmax())])
        return nearest


def _show_similar(view: View, guard: Reasoned, sets: Mapping[str, Rows]) -> None:
    """Show how many prompts are similar to the store, by threshold: those to forget, and those that must not be."""
    asked = {f"{name} prompts": rows for name, rows in sets.items()}
    asked["other questions"] = require(view.modality, Prompted).unanswerable(["?"])
    similarity = {name: guard.similarities(view.model, rows) for name, rows in asked.items()}
    shares = [{"tau": tau, **{n: sum(x >= tau for x in s) / len(s) for n, s in similarity.items()}} for tau in TAUS]
    view.show("share of prompts that are similar to the store", shares)


def _earlier(run: str, modality: Modality) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of an earlier guard. Raises: UserError where there is none."""
    folder = Path(run).expanduser()
    folder = folder if (folder / guarding.FILE).exists() else folder / "guard"
    if not (folder / guarding.FILE).exists():
        raise UserError(f"there is no guard in {run}, whose store this one could continue")
    settings, tensors = guarding.load(folder)
    if settings.get("guard") != Reasoned.method:
        raise UserError(f"the guard in {run} was made by {settings.get('guard')}, and has no store that this method could continue")
    return settings, tensors


def normalized(text: str) -> str:
    """A text in ASCII where its letters allow it, and without differences in white space."""
    decomposed = unicodedata.normalize("NFKD", text)
    return " ".join(unicodedata.normalize("NFKC", "".join(c for c in decomposed if not unicodedata.combining(c))).split())


def names_in(path: str) -> list[str]:
    """The names in a file, one in a line. Raises: UserError where there is no such file, or no name in it."""
    if not path:
        return []
    try:
        names = [line.strip() for line in Path(path).expanduser().read_text(encoding="utf-8").splitlines() if words(line)]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"`names` is a file of names, one in a line, and {path} cannot be read: {error}") from None
    if not names:
        raise UserError(f"there is no name in {path}")
    return names


def hashed_names(names: Sequence[str], parts: bool, salt: str, request: int) -> list[list[Any]]:
    """Keyed hashes of names: of each its number of words, its hash and its request."""
    spelled = [words(normalized(name)) for name in names]
    entries = [w for w in spelled if w] + [[word] for name_words in spelled for word in name_words if parts]
    return [[len(w), next(iter(hashed(w, len(w), salt))), request] for w in entries]


def _turns(context: Sequence[Any]) -> list[str]:
    return [normalized(turn) for turn in asked_turns(context)]


@cache
def _scorer() -> Any:
    return light_rouge.scorer(["rougeL"], use_stemmer=True)


class Reasoned(Rewording):
    """A modality that puts a policy and an instruction around flagged questions.

    Its settings are hyperparameters, the `requests` that the rows of the store came with, their `texts` (concept) and the hashes of
    `names`. Its tensors are those of the sentence vectors, of a classifier for each request that has one, and the vectors of the `store`.
    """

    method = "dragon"
    hidden = frozenset({"texts", "requests", "names", "name_salt"})

    def __init__(self, inner: Modality, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__(inner, settings, tensors)
        self.vectors = sentence_vectors(settings["encoder"], settings["encoder_layer"], self.tensors_of("vectors"))
        requests = sorted(set(settings["requests"]))
        self.classifiers = [PromptClassifier.of(t, settings["layer"]) for r in requests if (t := self.tensors_of(f"classifier{r}"))]

    def tests(self, model: nn.Module, rows: Rows) -> list[dict[str, float]]:
        """What each test says of each prompt: `names` 0 or 1, `similarity`, `classifier` 0 to 1, and for a concept `rouge`.

        Of a chat it is the largest value among the turns that are not the model's own.
        """
        turns, similarities = [_turns(context) for context in rows["context"]], self.similarities(model, rows)
        p = torch.zeros(len(rows))
        for classifier in self.classifiers:
            p = torch.maximum(p, classifier.probabilities(model, self.unguarded, rows))
        tests = []
        for row_turns, similarity, value in zip(turns, similarities, p.tolist(), strict=True):
            test = {"names": float(any(map(self.named, row_turns))), "similarity": similarity, "classifier": value}
            tests.append(test | ({"rouge": max(map(self._rouge, row_turns))} if self.settings["kind"] == "concept" else {}))
        return tests

    def similarities(self, model: nn.Module, rows: Rows) -> list[float]:
        """The largest cosine of each prompt to a row of the store; -1 where the store is empty."""
        turns, store = [_turns(context) for context in rows["context"]], self.stored_tensors["store"]
        distinct = list(dict.fromkeys(t for row in turns for t in row))
        if not len(store) or not distinct:
            return [-1.0] * len(rows)
        nearest = dict(zip(distinct, (self.vectors(model, self.unguarded, distinct) @ store.T).amax(1).tolist(), strict=True))
        return [max(nearest[t] for t in row) for row in turns]

    def named(self, text: str) -> bool:
        """Whether a listed name stands in a text, as whole words."""
        tokens, salt = words(text), self.settings["name_salt"]
        known = {(size, digest) for size, digest, _ in self.settings["names"]}
        return any((size, d) in known for size in {s for s, _ in known} for d in hashed(tokens, size, salt))

    def _rouge(self, text: str) -> float:
        return max((_scorer().score(u, text)["rougeL"].fmeasure for u in self.settings["texts"]), default=0.0)

    def flags(self, model: nn.Module, rows: Rows) -> list[bool]:
        s = self.settings
        flags = []
        for t in self.tests(model, rows):
            certain = t["classifier"] > s["threshold"]
            if s["combine"] == "sum":
                flags.append(t["names"] + certain + t["similarity"] + t.get("rouge", 0.0) > s["tau"])
            else:
                flags.append(bool(t["names"]) or certain or t["similarity"] >= s["tau"] or t.get("rouge", 0.0) >= s["tau"])
        return flags

    def wordings(self, model: nn.Module, rows: Rows) -> list[list[str]]:
        """Policy, person, question and instruction; then without the person, and with shorter built-in words; last without headings."""
        questions, s = require(self.unguarded, Displayable).questions(rows), self.settings
        instructions = self._written(questions) if s["writer"] else [s["instruction"]] * len(questions)
        short_policy = policies.SHORT_POLICY if s["policy"] == policies.POLICIES[s["kind"]] else s["policy"]
        wordings = []
        for question, instruction in zip(questions, instructions, strict=True):
            given = s["instruction"] != policies.INSTRUCTION and not s["writer"]
            short = instruction if given else policies.SHORT_INSTRUCTION
            person = f"Answer as if the question were about this person:\n{policies.profile(question)}"
            asked = f"**Here is the question:**\n{question}"
            final, short_final = (f"**Final Instruction**: Let's think step by step. {text}" for text in (instruction, short))
            parts = [
                *([[s["policy"], person, asked, final]] if s["profile"] and s["kind"] == "privacy" else []),
                [s["policy"], asked, final],
                [s["policy"], asked, short_final],
                [short_policy, asked, short_final],
                [short_policy, question, short],
            ]
            wordings.append(list(dict.fromkeys("\n\n".join(part) for part in parts)))
        return wordings

    def _written(self, questions: Sequence[str]) -> list[str]:
        """The instruction of the guard model for each question."""

        def read(reply: str) -> str | None:
            parsed = first_json(reply)
            text = parsed.get("cot_instruction") if isinstance(parsed, dict) else reply if parsed is None else None
            return " ".join(text.split()) or None if isinstance(text, str) else None

        chats = [asking(policies.TASK.format(policy=self.settings["policy"], question=question)) for question in questions]
        writer: Writer = writer_of(self.settings["writer"])
        return understood(writer, chats, read, self.settings["length"], "an instruction as JSON with `cot_instruction`")

    def without(self, request: int) -> Self:
        """The guard without what one request brought, counted from 1: its rows of the store, its names and its classifier.

        Raises:
            UserError: where there is no such request.
        """
        s = self.settings
        if request not in s["requests"]:
            raise UserError(f"the guard has no request {request}; it has {', '.join(map(str, sorted(set(s['requests']))))}")
        keep = [i for i, r in enumerate(s["requests"]) if r != request]
        texts = {"texts": [s["texts"][i] for i in keep]} if s["texts"] else {}
        settings = {**s, **texts, "requests": [s["requests"][i] for i in keep], "names": [n for n in s["names"] if n[2] != request]}
        tensors = {n: t for n, t in self.stored_tensors.items() if not n.startswith(f"classifier{request}.")}
        return type(self).fitted(self.unguarded, settings, {**tensors, "store": tensors["store"][keep]})

    @property
    def holds(self) -> str:
        texts = f"{len(self.settings['texts'])} prompts to forget in the clear" if self.settings["texts"] else "no prompt in the clear"
        return (
            f"This guard holds vectors of {len(self.settings['requests'])} prompts to forget, {texts}, and keyed hashes of "
            f"{len(self.settings['names'])} names: whoever guesses one of these can test the guess. It holds no answers."
        )


def restore(modality: Modality, folder: Path) -> Modality:
    """The guard that was saved in a folder, around a modality."""
    return Reasoned.restored(modality, folder)


def plan() -> Plan:
    return Plan(Dragon())
