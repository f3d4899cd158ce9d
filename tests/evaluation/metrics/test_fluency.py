"""Fluency is the probability of clean text under the classifier that was named, as the library itself gives it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from expunge.core.errors import UserError
from expunge.evaluation.judging import cleanness_of
from expunge.evaluation.measure import Evidence, Measure, Missing
from expunge.evaluation.metrics import fluency
from expunge.evaluation.observation import Observation, SetObservation
from expunge.evaluation.scoring import with_variants

ANSWERS = ("She lives in Rome .", "in in in Rome " * 20)


def classifier(folder: Path, labels: tuple[str, ...]) -> str:
    """A small classifier of texts with weights of a seed."""
    torch.manual_seed(0)
    words = {w: i for i, w in enumerate(("[PAD]", "[UNK]", "She", "lives", "in", "Rome", "."))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=64,
        initializer_range=1.0,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def by_library(folder: str, text: str, place: int) -> float:
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    ids = PreTrainedTokenizerFast.from_pretrained(folder)(text)["input_ids"][:32]
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids])).logits.double().softmax(-1)[0, place])


def evidence(answers: tuple[str, ...], **variants: str) -> Evidence:
    ids = tuple(map(str, range(2)))
    return Evidence(Observation({"forget": SetObservation(ids, ids, ids, {}, answers)}), variants=variants)


@pytest.mark.parametrize(
    ("labels", "place"), [(("clean", "mild", "salad", "noise"), 0), (("noise", "Clean"), 1), (("LABEL_0", "LABEL_1"), 0)]
)
def test_the_value_is_that_of_the_library(tmp_path: Path, labels: tuple[str, ...], place: int) -> None:
    folder = classifier(tmp_path, labels)
    measure = fluency.scores(evidence(ANSWERS, forget_fluency=folder))["forget_fluency"]
    assert isinstance(measure, Measure)
    wanted = [by_library(folder, text, place) for text in ANSWERS]
    assert np.allclose(measure.items[0], wanted, atol=1e-5), "also beside a longer text, and cut at 32 tokens"
    assert abs(wanted[0] - wanted[1]) > 1e-3


def test_without_a_classifier_there_is_no_score() -> None:
    assert "--variant forget_fluency=FOLDER" in str(fluency.scores(evidence(ANSWERS))["forget_fluency"])


def test_a_set_without_answers_is_missing(tmp_path: Path) -> None:
    folder = classifier(tmp_path, ("clean", "noise"))
    assert isinstance(fluency.scores(evidence((), forget_fluency=folder))["forget_fluency"], Missing)


def test_a_classifier_that_does_not_exist_is_refused_before_anything_is_observed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no classifier .*nowhere': give a folder or hub id of a classifier of texts"):
        with_variants({}, {"forget_fluency": str(tmp_path / "nowhere")})
    folder = classifier(tmp_path, ("clean", "noise"))
    assert with_variants({}, {"forget_fluency": folder})["forget"].variants == {"forget_fluency": folder}
    cleanness_of.cache_clear()
