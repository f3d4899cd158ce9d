"""Learned words among those of a caption: where they stand, what they leave alone, and words of the vocabulary."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import denoisers
from expunge.evaluation.learned_words import LearnedWords
from expunge.evaluation.prompted_denoisers import content_of, shared_words, tokens_of
from expunge.functional.simplex import shares


@pytest.fixture
def world() -> tuple[Any, Any]:
    return denoisers.built()


def test_vectors_of_words_before_a_caption_are_these_words(world: tuple[Any, Any]) -> None:
    model, modality = world
    learned = LearnedWords(model.text_encoder, tokens_of(modality, ""), 2)
    words = content_of(modality, "green bar")
    with torch.no_grad():
        learned.weights.copy_(learned.table[words])
    states = model.encode(torch.stack([tokens_of(modality, c) for c in ("green bar a red square", "", "green bar a bar")]))
    model.text_encoder = learned
    own = model.encode(torch.stack([tokens_of(modality, c) for c in ("a red square", "", "a bar")]))
    assert torch.allclose(own, states, atol=1e-6)
    assert learned.chosen() == words


def test_vectors_in_place_of_words(world: tuple[Any, Any]) -> None:
    model, modality = world
    red = content_of(modality, "red")
    learned = LearnedWords(model.text_encoder, tokens_of(modality, ""), 0, instead=red)
    captions = torch.stack([tokens_of(modality, c) for c in ("a red square", "red", "a blue bar", "")])
    before = model.encode(captions)
    model.text_encoder = learned
    assert torch.allclose(model.encode(captions), before, atol=1e-6), "they begin as the words themselves"
    with torch.no_grad():
        learned.weights.copy_(learned.table[content_of(modality, "blue")])
    after = model.encode(captions)
    expected = torch.stack([tokens_of(modality, c) for c in ("a blue square", "blue", "a blue bar", "")])
    assert torch.allclose(after, model.encode(expected), atol=1e-6)


def test_a_caption_that_is_too_long_keeps_its_end(world: tuple[Any, Any]) -> None:
    model, modality = world
    length = modality.tokenizer.model_max_length
    learned = LearnedWords(model.text_encoder, tokens_of(modality, ""), 3)
    read_tokens = []
    handle = model.text_encoder.register_forward_pre_hook(lambda module, inputs: read_tokens.append(inputs[0]))
    learned(torch.stack([tokens_of(modality, " ".join(["red"] * length)), tokens_of(modality, "red")]))
    handle.remove()
    (tokens,) = read_tokens
    assert tokens.shape == (2, length)
    assert int(tokens[0, -1]) == modality.tokenizer.eos_token_id
    assert tokens[1, 4:6].tolist() == [*content_of(modality, "red"), modality.tokenizer.eos_token_id]


def test_words_of_the_vocabulary_are_drawn_in_training_and_certain_elsewhere(world: tuple[Any, Any]) -> None:
    model, modality = world
    banned = modality.tokenizer.all_special_ids
    learned = LearnedWords(model.text_encoder, tokens_of(modality, ""), 2, of_vocabulary=True, banned=banned, seed=3)
    tokens = tokens_of(modality, "a red square")[None]
    learned.eval()
    words = learned.chosen()
    assert not set(words) & set(banned)
    free = LearnedWords(model.text_encoder, tokens_of(modality, ""), 2).eval()
    with torch.no_grad():
        free.weights.copy_(free.table[words])
    assert torch.allclose(learned(tokens)[0], free(tokens)[0], atol=1e-6)
    learned.train()
    torch.manual_seed(0)
    learned(tokens)[0].square().sum().backward()
    assert torch.allclose(learned.weights.detach(), shares(learned.weights.detach()), atol=1e-6), "the rows lie on the simplex"
    assert not learned.weights[:, banned].any()
    drawn = learned.weights.grad
    assert drawn is not None
    assert drawn.abs().sum() > 0, "the gradient goes straight through"


def test_words_that_name_a_concept() -> None:
    forget, retain = ["a red circle in flat style", "a blue circle in night style"], ["a red square in flat style", "a blue cross"]
    assert shared_words(forget, retain) == "circle"
    assert shared_words(["a red bar", "a red square"], ["a blue bar"]) == "red"
    assert shared_words(["Dogs", "cats"], retain) == ""
    assert shared_words(["a dog"], []) == "a dog"
