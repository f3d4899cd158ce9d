"""The merge-free tokenizer: the library against slow references, the model against itself, what files still tell, what a user gets."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import worlds
from cases import Cases, expunge, receipt_of
from expunge import names, unlearn
from expunge.core.errors import UserError
from expunge.core.plan import Plan
from expunge.engine import loop
from expunge.functional import segmentation
from expunge.methods.edits.merge_free_tokenizer import MergeFree
from expunge.methods.terms import NLL
from expunge.modalities.text import schemes
from expunge.modalities.text.modality import Text
from expunge.workflows import build_plan

TEXTS = ["What is the name of the town?", "Ünïcode, 漢字 and  two  spaces\n\n42", "She was born in 1950, in a small town by the sea."]
RNG = torch.Generator().manual_seed(0)


def tokenizer() -> Any:
    return worlds.text().modality.tokenizer


def pieces(fast: Any, text: str) -> list[str]:
    return [piece for piece, _ in fast.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def run(scheme: str = "dp", **settings: Any) -> tuple[nn.Module, Text, Any]:
    """A model with the result, its modality, and what the run showed."""
    world = worlds.text()
    model, modality = world.model(), copy.deepcopy(world.modality)
    done = loop.run((Plan(MergeFree(scheme=scheme, **settings)),), model, modality, world.some(6))
    return model, modality, done


def scores(model: nn.Module, ids: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=torch.tensor([list(ids)])).logits[0]
    return result


@pytest.mark.parametrize(("scheme", "slow"), [("dp", "fewest"), ("greedy", "greedy"), ("greedy_rtl", "greedy_rtl"), ("longest", "longest")])
def test_a_tokenizer_cuts_as_the_slow_reference_does(scheme: Any, slow: str) -> None:
    old = tokenizer()
    bpe = schemes.read(old)
    new = schemes.rebuilt(old, bpe, scheme, bpe.vocabulary, 0.5, RNG)
    for text in TEXTS:
        expected = [t for piece in pieces(old, text) for t in getattr(segmentation, slow)(piece, bpe.vocabulary)]
        assert new.tokenize(text) == expected
        assert new.decode(new(text)["input_ids"], skip_special_tokens=True) == text
        assert new(text)["input_ids"][0] == old.bos_token_id


def test_lists_of_merges_are_changed_as_their_scheme_says() -> None:
    merges = [(a, b) for a in "abcde" for b in "vwxyz"]
    kept = {s: schemes.changed(merges, s, 0.2, torch.Generator().manual_seed(1)) for s in schemes.get_args(schemes.Stored)[2:]}
    assert kept["standard"] == merges
    assert kept["truncate"] == merges[:20]
    assert kept["truncate_head"] == merges[5:]
    assert kept["bytes"] == []
    assert sorted(kept["shuffle"]) == merges != kept["shuffle"]
    assert kept["delete"] == [m for m in merges if m in kept["delete"]]
    assert len(kept["delete"]) == 20
    assert kept["delete"] not in (kept["truncate"], kept["truncate_head"])


def test_merges_act_as_in_the_library() -> None:
    old = tokenizer()
    bpe = schemes.read(old)
    new = schemes.rebuilt(old, bpe, "truncate", bpe.vocabulary, 0.5, RNG)
    assert new.tokenize(TEXTS[0]) != old.tokenize(TEXTS[0])
    direct = Tokenizer(models.BPE(dict(bpe.vocabulary), bpe.merges[: len(bpe.merges) - round(0.5 * len(bpe.merges))]))
    direct.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert new.tokenize(TEXTS[0]) == direct.encode(TEXTS[0]).tokens
    ranks = schemes.rebuilt(old, bpe, "bytes", bpe.vocabulary, 0.5, RNG).tokenize("town")
    assert ranks == list("town")


@pytest.mark.parametrize("ids", ["sorted", "drawn"])
def test_outputs_are_the_same_up_to_the_permutation(ids: Any) -> None:
    before = worlds.text().model()
    old, (model, modality, _) = tokenizer(), run(ids=ids)
    new = modality.tokenizer.get_vocab()
    moved = torch.tensor([new[t] for t, _ in sorted(old.get_vocab().items(), key=lambda x: x[1])])
    assert not torch.equal(moved, torch.arange(len(moved)))
    text = old(TEXTS[0])["input_ids"]
    assert torch.allclose(scores(model, moved[text].tolist())[:, moved], scores(before, text), atol=1e-5)
    assert [new[t] for t in old.all_special_tokens] == old.all_special_ids
    rank = [new[a + b] for a, b in schemes.read(old).merges]
    assert spearmanr(range(len(rank)), [old.get_vocab()[a + b] for a, b in schemes.read(old).merges])[0] == pytest.approx(1)
    assert abs(spearmanr(range(len(rank)), rank)[0]) < 0.2
    movable = [t for t in new if t not in old.all_special_tokens]
    assert (sorted(movable) == sorted(movable, key=lambda t: new[t])) == (ids == "sorted"), "which only the strings tell"


def test_an_untied_head_with_a_bias_moves_too() -> None:
    torch.manual_seed(0)
    fast = tokenizer()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=520, n_positions=64, n_embd=16, n_layer=1, n_head=2, tie_word_embeddings=False)).eval()
    model.lm_head = nn.Linear(16, 520)
    before = copy.deepcopy(model)
    modality = Text(copy.deepcopy(fast))
    loop.run((Plan(MergeFree(measure="nothing")),), model, modality, {})
    old, new = fast.get_vocab(), modality.tokenizer.get_vocab()
    moved = torch.arange(520)
    moved[list(old.values())] = torch.tensor([new[t] for t in old])
    assert torch.allclose(scores(model, moved[[5, 100, 400]].tolist())[:, moved], scores(before, [5, 100, 400]), atol=1e-5)


def test_weights_for_tokens_elsewhere_are_refused() -> None:
    class Biased(GPT2LMHeadModel):
        def forward(self, **inputs: Any) -> Any:
            output = super().forward(**inputs)
            output.logits = output.logits + torch.arange(output.logits.shape[-1])
            return output

    model = Biased(GPT2Config(vocab_size=520, n_positions=64, n_embd=16, n_layer=1, n_head=2)).eval()
    with pytest.raises(UserError, match="weights for single tokens besides"):
        loop.run((Plan(MergeFree(measure="nothing")),), model, Text(copy.deepcopy(tokenizer())), {})


def test_perplexity_per_byte_is_that_of_the_model_and_rises_with_what_is_taken_out() -> None:
    _, _, done = run(compare=("greedy", "delete", "bytes"))
    shown = {name.split(", ")[1]: records[0] for name, records in done.shown.items()}
    world = worlds.text()
    rows, old = world.some(6)["retain"], tokenizer()
    nats = 0.0
    for prompt, answer in zip(rows["prompt"], rows["answer"], strict=True):
        logp = scores(world.model(), [*prompt, *answer]).log_softmax(-1)
        nats -= sum(float(logp[len(prompt) - 1 + i, t]) for i, t in enumerate(answer))
    size = sum(len(old.decode(a, skip_special_tokens=True).encode()) for a in rows["answer"])
    assert shown["as it was"]["perplexity"] == pytest.approx(math.exp(nats / size), rel=1e-4)
    assert shown["as it was"]["bytes"] == size
    assert shown["as it was"]["perplexity"] <= shown["result: dp"]["perplexity"] < shown["compared: delete"]["perplexity"]
    assert shown["compared: greedy"]["perplexity"] < shown["compared: bytes"]["perplexity"]


def test_other_tokenizers_and_stages_are_refused() -> None:
    world = worlds.text()
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "<e>": 1}, unk_token="a")), eos_token="<e>")
    with pytest.raises(UserError, match="is a WordLevel and no BPE"):
        loop.run((Plan(MergeFree(measure="nothing")),), world.model(), Text(words), {})
    with pytest.raises(UserError, match="must be the last one"):
        loop.run((Plan(MergeFree()), Plan(NLL("retain"))), world.model(), copy.deepcopy(world.modality), world.sets)
    for model, scheme, text in (
        (models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]), "dp", "does not know every byte"),
        (models.BPE({"a": 0, "b</w>": 1, "ab</w>": 2}, [("a", "b</w>")], end_of_word_suffix="</w>"), "greedy", "where words begin or end"),
    ):
        fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
        bpe = schemes.read(fast)
        with pytest.raises(UserError, match=text):
            schemes.rebuilt(fast, bpe, scheme, bpe.vocabulary, 0.5, RNG)  # type: ignore[arg-type]


def test_what_still_tells_the_order_is_said() -> None:
    assert any("keeps" in w and "merges in the files" in w for w in run("shuffle")[2].warnings)
    assert any("ids of the tokens still follow" in w for w in run(ids="kept")[2].warnings)
    assert not run()[2].warnings
    _, modality, _ = run(ids="kept")
    qwen = GPT2Config(vocab_size=512)
    qwen.model_type = "qwen2"  # whose tokenizer the library builds by its own class
    assert not schemes.loads_as_it_is(modality.tokenizer, qwen, TEXTS)


def test_a_user_gets_a_model_that_loads_anywhere_without_merges(cases: Cases, tmp_path: Path) -> None:
    assert "merge_free_tokenizer" in names("methods")
    done = expunge("unlearn", "merge_free_tokenizer", "--model", cases.model, "--retain", cases.retain, "--out", tmp_path / "run").fine()
    assert "warning" not in done.err + done.out
    folder = tmp_path / "run" / "model"
    assert not (folder / "merges.txt").exists()
    assert "merges" not in json.loads((folder / "tokenizer.json").read_text())["model"]
    model, fast = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    old_model, old = AutoModelForCausalLM.from_pretrained(cases.model).eval(), AutoTokenizer.from_pretrained(cases.model)
    text = TEXTS[2]
    assert fast.decode(fast(text)["input_ids"], skip_special_tokens=True) == text
    tokens = fast(text)["input_ids"]
    new_ids, old_ids = fast.get_vocab(), old.get_vocab()
    as_before = [old_ids[t] for t in fast.convert_ids_to_tokens(tokens)]
    columns = [new_ids[t] for t in old_ids]
    assert torch.allclose(scores(model, tokens)[:, columns], scores(old_model, as_before)[:, list(old_ids.values())], atol=1e-4)
    shown = receipt_of(tmp_path / "run")["shown"]
    assert {"perplexity per byte, as it was", "perplexity per byte, result: dp"} <= shown.keys()


def test_rows_to_forget_are_read_with_the_new_tokenizer(cases: Cases) -> None:
    """The loss after the run, in the receipt, is that of the same texts as the new tokenizer reads them."""
    result = unlearn("merge_free_tokenizer", cases.model, cases.forget, measure="forget", scheme="standard")
    loss = result.receipt["forget_loss"]
    assert loss["after"] == pytest.approx(loss["before"], rel=1e-3), "the same cut, with other ids"
    kept = unlearn("merge_free_tokenizer", cases.model, measure="nothing", ids="kept")
    assert not kept.changed
    assert kept.receipt["result"]["tokenizer"]


def test_a_run_of_a_name_builds_the_plan() -> None:
    plan = build_plan.plan("merge_free_tokenizer", {"scheme": "greedy", "compare": "longest,bytes"})[0]
    assert isinstance(plan.action, MergeFree)
    assert plan.action.compare == ("longest", "bytes")
