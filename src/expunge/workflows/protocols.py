"""Protocols of benchmarks that take several runs: the checkpoint to report, folds of requests, relearning from texts, fluency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expunge.benchmarks.suite import Specs
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.engine.run_state import evaluating
from expunge.evaluation.audited_models import examine
from expunge.evaluation.measure import labeled
from expunge.evaluation.metrics.memorization import content
from expunge.evaluation.observation import Observation, SetObservation
from expunge.evaluation.observation_spec import QUICK, ObservationSpec
from expunge.evaluation.observe import Records, observe
from expunge.evaluation.teacher_forced import batches
from expunge.functional.brief import brief
from expunge.functional.recovery_rates import first_at_most, recovered_share
from expunge.functional.token_ranks import ranks_of
from expunge.io.models import Opened, load
from expunge.workflows.unlearn import unlearn

Scores = dict[str, float]
PLAIN = ObservationSpec(gradient_norms=False)


@brief("specs")
@dataclass(frozen=True, eq=False)
class Questions:
    """What models are asked in a protocol, and beside which other models they are scored."""

    sets: Mapping[str, Records]
    specs: Specs
    original: Observation | None = None
    retrained: Observation | None = None

    def scores(self, opened: Opened, wants: ObservationSpec = PLAIN) -> Scores:
        """All scores of a model, by name."""
        beside: dict[str, Any] = {"original": self.original, "retrained": self.retrained, "specs": self.specs, "wants": wants}
        audited = examine(opened.model, opened.modality, self.sets, name="model", **beside)
        return {name: float(record["value"]) for name, record in audited.scores.items()}


@brief("value", "scores", "looked_at")
@dataclass(frozen=True, eq=False)
class Chosen:
    """The run that a protocol reports: the value of the hyperparameter, its scores and model, and the score of each value tried."""

    value: Any
    scores: Scores
    opened: Opened
    looked_at: Mapping[Any, float]


def first_forgotten(
    method: str,
    model: str | Path,
    forget: Records,
    kept: Records,
    questions: Questions,
    score: str,
    target: float,
    *,
    hyperparameter: str = "epochs",
    values: Iterable[Any] = range(1, 11),
    prompt_format: str = "",
    **hyperparameters: Any,
) -> Chosen:
    """The first run whose score is at most the target, as MUSE chooses checkpoints: of epochs 1 to 10, or of strengths 1, 2, 4 and so on.

    The runs share their seed. With a constant learning rate, epochs are the checkpoints of one run; all are done again for each value.

    Args:
        method: a name of the catalog.
        model: folder or hub id of the model to start from.
        forget, kept: rows to forget, and rows to keep that the method may use.
        questions: what the models are asked.
        score: by which the run is chosen; lower means less known.
        target: the retrained model's value.
        hyperparameter: which one to raise.
        values: of the hyperparameter, in order.
        prompt_format: how a question becomes a prompt.
        hyperparameters: others of the method.

    Raises:
        UserError: for an unknown score, and where there are no values.
    """
    tried: dict[Any, float] = {}
    last: tuple[Scores, Opened] | None = None
    for value in values:
        opened = load(str(model), prompt_format)
        result = unlearn(method, opened, forget, kept, allow_overlap=True, **{**hyperparameters, hyperparameter: value})
        opened = Opened(result.model, result.modality, "")
        scores = questions.scores(opened)
        tried[value], last = _value(scores, score), (scores, opened)
        if tried[value] <= target:
            break
    if last is None:
        raise UserError(f"there is no value of {hyperparameter} to try")
    place = first_at_most([*tried.values()], target)
    return Chosen([*tried][place], *last, tried)


def over_folds(
    method: str,
    model: str | Path,
    folds: Sequence[Records],
    kept: Records,
    questions: Questions,
    *,
    in_sequence: bool = False,
    prompt_format: str = "",
    **hyperparameters: Any,
) -> list[Scores]:
    """The scores after each of several requests, which all are made of one model, or of what the request before it left.

    MUSE calls the first scalability, with folds that grow, and the second sustainability, with folds that share nothing. The model that a
    request is made of is the reference of methods that compare with one.

    Args:
        method: a name of the catalog.
        model: folder or hub id of the model to start from.
        folds: rows to forget of each request.
        kept: rows to keep that the method may use.
        questions: what the models are asked.
        in_sequence: each request is made of the model that the one before it left.
        prompt_format: how a question becomes a prompt.
        hyperparameters: of the method.

    Raises:
        UserError: without folds.
    """
    if not folds:
        raise UserError("there is no fold of rows to forget")
    scores: list[Scores] = []
    opened = load(str(model), prompt_format)
    for number, fold in enumerate(folds):
        if number and not in_sequence:
            opened = load(str(model), prompt_format)
        result = unlearn(method, opened, fold, kept, allow_overlap=True, **hyperparameters)
        opened = Opened(result.model, result.modality, "")
        scores.append(questions.scores(opened))
    return scores


@dataclass(frozen=True)
class Relearning:
    """A score before and after fine-tuning on texts; `share` is 0 where nothing came back, and 1 at the base value."""

    before: float
    after: float
    share: float

    @property
    def recovery(self) -> float:
        """How far the score moved."""
        return self.after - self.before


def relearned(
    model: str | Path, texts: Records, questions: Questions, base: Mapping[str, float], *, prompt_format: str = "", **training: Any
) -> dict[str, Relearning]:
    """Fine-tune a model on texts, and compare its scores with those before and with those of the model before unlearning.

    Args:
        model: folder or hub id of the unlearned model.
        texts: rows to fine-tune on.
        questions: what the model is asked before and after.
        base: scores of the model before unlearning.
        prompt_format: how a question becomes a prompt.
        training: hyperparameters of `finetune`; BLUR has one epoch, learning rate 1e-5, batches of 8.

    Returns:
        The change of each score that both looks and `base` have.
    """
    opened = load(str(model), prompt_format)
    before = questions.scores(opened)
    result = unlearn("finetune", opened, retain=texts, **{"epochs": 1, "lr": 1e-5, "batch_size": 8, **training})
    after = questions.scores(Opened(result.model, result.modality, ""))
    known = [name for name in before if name in after and name in base]
    return {n: Relearning(before[n], after[n], recovered_share(after[n], before[n], base[n])) for n in known}


def perplexity_under(judge: Opened, answered: SetObservation) -> float:
    """Perplexity of generated answers under another model, such as the original: high where a model that has forgotten talks nonsense.

    Args:
        judge: the model that reads the answers, each after its prompt.
        answered: a set whose prompts were given as they stand, with generated answers. Empty answers do not count.

    Returns:
        The mean over answers of exp(-mean log-probability of a token), end of sequence left out.

    Raises:
        UserError: where no answer has a word.
    """
    pairs = zip(answered.question, answered.generations, strict=True)
    rows = [{"prompt": prompt, "completion": f" {answer.strip()}"} for prompt, answer in pairs if answer.strip()]
    if not rows:
        raise UserError("the model generated no answer, so there is no perplexity of its answers")
    observation = observe(judge.model, judge.modality, {"generated": rows}, wants=QUICK).sets["generated"]
    scored = labeled(observation, "answer")
    means = [np.mean(tokens) for k in range(len(scored)) if len(tokens := content(scored, k, scored.target_logp.astype(np.float64)))]
    return float(np.mean(np.exp(-np.array(means))))


def ranked(opened: Opened, records: Records, most: int = 100) -> Scores:
    """How far up true tokens stand in what the model would say at each step of its own greedy answers, as LUNAR asks on PISTOL.

    Args:
        opened: the model.
        records: rows with an answer.
        most: the rank up to which a token counts as hit.

    Returns:
        mrr: the mean reciprocal rank of true tokens; hit_rate: the share of true tokens among the first `most`. Both are means over the
        tokens of an answer, then over rows; true tokens behind the end of the model's answer are left out.

    Raises:
        UserError: where no answer of the model has a token beside a true one.
    """
    modality: Any = opened.modality
    rows = modality.rows("ranked", list(records))
    reciprocal, hits = list[float](), list[float]()
    with evaluating(opened.model), torch.no_grad():
        limit = max(map(len, rows["answer"]))
        spoken = modality.generate(opened.model, rows, limit).ids
        asked = [i for i, ids in enumerate(spoken) if ids]
        if not asked:
            raise UserError("the model says nothing to any of the rows, so no true token has a rank")
        own = modality.relabel(rows.select(asked), [spoken[i] for i in asked], "own")
        for places in batches(modality, own):
            (output,) = modality.forward(opened.model, [own.select(places)])
            for place, log_probs in zip(places, output.log_probs.split(), strict=True):
                ranks = ranks_of(log_probs.float().cpu().numpy(), rows["answer"][asked[place]])
                reciprocal.append(float(np.mean(1 / ranks)))
                hits.append(float(np.mean(ranks <= most)))
    return {"mrr": float(np.mean(reciprocal)), "hit_rate": float(np.mean(hits))}


def probed(opened: Opened, records: Records, layer: int, seed: int = 0) -> float:
    """Accuracy of a linear probe that reads the right choice from a hidden state: about one in four where the knowledge is gone.

    A logistic regression learns from half of the questions, and answers the others; WMDP probes the model after each block so.

    Args:
        opened: the model.
        records: questions with choices that are letters, at least four.
        layer: the block whose output at the last token of the prompt is read, counted from 0.
        seed: of the division in halves.

    Raises:
        UserError: for too few questions, and for a layer that the model does not have.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(records) < 4:
        raise UserError(f"a probe needs at least 4 questions, and there are {len(records)}")
    blocks = len(opened.modality.blocks(opened.model))
    if not 0 <= layer < blocks:
        raise UserError(f"the model has the layers 0 to {blocks - 1}, and no layer {layer}")
    rows = opened.modality.rows("probed", list(records))
    states = []
    with evaluating(opened.model), torch.no_grad():
        for places in batches(opened.modality, rows):
            hidden = opened.modality.forward(opened.model, [rows.select(places)], (f"block:{layer}",))[0].hidden(
                f"block:{layer}", answers=True
            )
            first = hidden.lengths.cumsum(0) - hidden.lengths
            states += zip(places, hidden.values[first].float().cpu().numpy(), strict=True)
    features = np.stack([state for _, state in sorted(states, key=lambda pair: pair[0])])
    right = np.array([list(r["choices"]).index(r.get("completion", r.get("answer"))) for r in records])
    order = np.random.default_rng(seed).permutation(len(right))
    learned, asked = order[: len(order) // 2], order[len(order) // 2 :]
    if len(set(right[learned])) < 2:
        raise UserError("all questions that the probe would learn from have the same letter as their answer")
    scaler = StandardScaler().fit(features[learned])
    probe = LogisticRegression(max_iter=1000).fit(scaler.transform(features[learned]), right[learned])
    return float(probe.score(scaler.transform(features[asked]), right[asked]))


def _value(scores: Mapping[str, float], name: str) -> float:
    if name not in scores:
        raise UserError(f"the models have no score '{name}'{did_you_mean(name, scores)}; they have {', '.join(scores)}")
    return scores[name]
