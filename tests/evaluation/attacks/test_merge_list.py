"""The attack on lists of merges: tokenizers of known mixtures, in the list and in the ids, and what is left after both are gone."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from torch import nn

import toys
import worlds
from cases import Cases, expunge
from expunge.core.errors import UserError
from expunge.engine import loop
from expunge.evaluation.attack import intervene
from expunge.evaluation.attacks import merge_list
from expunge.evaluation.attacks.merge_list import merges_in, mixture
from expunge.modalities.text import schemes
from expunge.modalities.text.modality import Text
from expunge.modalities.text.models import llama
from expunge.workflows import build_plan

SHARES = {"one": 0.7, "two": 0.3}  # of the bytes


def texts() -> dict[str, list[str]]:
    """Texts of two languages with the same letters in other frequencies."""
    rng = random.Random(0)
    result = {}
    for name in SHARES:
        weights = [rng.random() ** 2 + 0.02 for _ in "abcdefgh"]
        words = ["".join(rng.choices("abcdefgh", weights, k=rng.randint(2, 6))) for _ in range(400)]
        result[name] = [" ".join(rng.choices(words, k=20)) for _ in range(200)]
    return result


def trained(samples: dict[str, list[str]]) -> Any:
    """A tokenizer that was trained on a mixture of these very texts."""
    used = []
    for name, share in SHARES.items():
        size, wanted = sum(len(t) for t in samples[name]), share * 20_000
        used += [t for t, _ in zip(samples[name], range(round(wanted / size * len(samples[name]))), strict=False)]
    return llama.tokenizer_for(used, 259 + 100, 64)


@pytest.fixture(scope="module")
def samples() -> dict[str, list[str]]:
    return texts()


def test_the_list_and_the_ids_tell_the_mixture(samples: dict[str, list[str]]) -> None:
    fast = trained(samples)
    assert merges_in(fast, "ids") == merges_in(fast, "merges") == schemes.read(fast).merges
    for way in ("merges", "ids"):
        shares = mixture(fast, samples, way)  # type: ignore[arg-type]
        assert shares.bytes["one"] == pytest.approx(0.7, abs=0.05)
        assert sum(shares.bytes.values()) == pytest.approx(1)
        assert shares.objective < 0.1, "the tokenizer was trained on some of the texts"


def test_without_list_and_order_nothing_is_told(samples: dict[str, list[str]]) -> None:
    world, fast = worlds.text(), trained(samples)
    before = mixture(fast, samples)
    for ids in ("kept", "sorted"):
        model, modality = world.model(), Text(copy.deepcopy(fast))
        plan = build_plan.plan("merge_free_tokenizer", {"measure": "nothing", "ids": ids})
        loop.run(plan, model, modality, {})
        with pytest.raises(UserError, match="is a Unigram and no BPE"):
            mixture(modality.tokenizer, samples)
        after = mixture(modality.tokenizer, samples, "ids")
        if ids == "kept":
            assert after.bytes == pytest.approx(before.bytes)
        else:
            assert after.objective > before.objective + 0.1


def test_shares_of_bytes_and_pairs_differ_by_the_length_of_words() -> None:
    """Worked out by hand: words of two letters have one pair in three bytes, words of five have four in six."""
    shares = mixture(llama.tokenizer_for(["ab ab", "cdcde"], 300, 64), {"short": ["ab ab ab ab"], "long": ["cdcde cdcde"]})
    pairs, sizes = {"short": 7, "long": 9}, {"short": 11, "long": 11}
    raw = {n: shares.pairs[n] * sizes[n] / pairs[n] for n in pairs}
    assert shares.bytes == pytest.approx({n: r / sum(raw.values()) for n, r in raw.items()})


def test_what_cannot_be_attacked_is_said(samples: dict[str, list[str]]) -> None:
    fast = trained(samples)
    with pytest.raises(UserError, match="at least two categories"):
        mixture(fast, {"one": samples["one"]})
    with pytest.raises(UserError, match="none of the tokenizer's merges"):
        mixture(fast, {"one": ["ZZ ZZ"], "two": ["QQ"]})
    outcome = intervene("merge_list", merge_list.plan(), nn.Linear(1, 1), toys.modality(3), {"forget": [{"label": 1}]})
    assert outcome.missing == {"": "the model has no tokenizer of texts"}


@pytest.mark.slow
def test_the_command_prints_the_shares_of_the_sets(cases: Cases, tmp_path: Any) -> None:
    sets = ("--forget", cases.forget, "--retain", cases.retain)
    done = expunge("attack", "merge_list", cases.model, *sets, "--out", tmp_path / "attack").fine()
    assert "list of merges, forget: share of bytes 0." in done.out + done.err
    assert "order of the ids, retain: share of bytes 0." in done.out + done.err
