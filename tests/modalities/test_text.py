"""The modality of language models: rows, forward passes of every architecture, and independence of a row from the rest of its batch."""

from __future__ import annotations

import copy
import math
import zlib
from types import SimpleNamespace
from typing import Any

import makers
import pytest
import torch
from torch import Tensor, nn

import worlds
from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.weights import put, tensors_of, weights_of
from expunge.modalities.common.fingerprint import fingerprint
from expunge.modalities.text.forward import packed_head
from expunge.modalities.text.modality import Text

RECORDS = [
    {"question": "Who is Ana Belor?", "answer": "Ana Belor is a potter from Quillhaven."},
    {"question": "Where was Dovik born, and in what year was it that he was born there?", "answer": "Nessop"},
    {"prompt": "The violin ", "completion": "is played by Cindra Tvelde, and the piano too. 😀"},
    {"text": "Yes. No! Perhaps; I do not know that one."},
    {"question": "Who?", "answer": "I do not know."},
]
MODELS = {
    **{n: lambda n=n: makers.model(n) for n in makers.CONFIGS},
    "adapted": makers.adapted,
    "adapted-tied": lambda: makers.adapted("llama-tied"),
}


@pytest.fixture(scope="module")
def modality() -> Text:
    return Text(makers.tokenizer(), limit=128)


@pytest.fixture(scope="module")
def rows(modality: Text) -> Rows:
    return modality.rows("forget", RECORDS)


@torch.no_grad()
def log_probs_alone(model: nn.Module, rows: Rows) -> list[Tensor]:
    """Log-probabilities of the answer of each row, from the model's own logits, without padding."""
    log_probs = []
    for prompt, answer in zip(rows["prompt"], rows["answer"], strict=True):
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        log_probs.append(logits.float().log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0])
    return log_probs


# Forward passes


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_equal_those_without_padding(name: str, modality: Text, rows: Rows) -> None:
    model = MODELS[name]()
    with torch.no_grad():
        output = modality.forward(model, [rows])[0]
    for actual, expected in zip(output.target_logp.split(), log_probs_alone(model, rows), strict=True):
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_fused_sets_equal_separate_sets_in_value_and_gradient(name: str, modality: Text, rows: Rows) -> None:
    model = MODELS[name]()
    hook_points = ("block:1", "block:0")
    params = [p for p in model.parameters() if p.requires_grad]
    sets = [rows.select([1, 3]), rows.select([0]), rows.select([4, 2, 1])]

    def gradient(outputs: list[Any]) -> list[Tensor]:
        loss = sum(k * a.target_logp.mean().mean() + 0.01 * a.hidden("block:1").values.square().mean() for k, a in enumerate(outputs, 1))
        return list(torch.autograd.grad(loss, params))

    fused, separate = modality.forward(model, sets, hook_points), [modality.forward(model, [s], hook_points)[0] for s in sets]
    for a, b in zip(fused, separate, strict=True):
        torch.testing.assert_close(a.target_logp.values, b.target_logp.values, atol=1e-5, rtol=0)
        torch.testing.assert_close(a.logits.values, b.logits.values, atol=2e-5, rtol=0)
        for hook_point in hook_points:
            torch.testing.assert_close(a.hidden(hook_point).values, b.hidden(hook_point).values, atol=2e-5, rtol=0)
            torch.testing.assert_close(
                a.input(hook_point, answers=True).values, b.input(hook_point, answers=True).values, atol=2e-5, rtol=0
            )
        assert torch.equal(a.target_logp.row, b.target_logp.row)
        assert torch.equal(a.labels, b.labels)
    assert worlds.far(gradient(fused), gradient(separate)) < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_the_head_runs_on_predicting_positions_and_equals_the_full_head(
    name: str, modality: Text, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MODELS[name]()
    base = loop.adapters.base_of(model)
    modality.forward(model, [rows])  # the first pass of a model tries out whether it may pad
    head, head_positions = base.get_output_embeddings(), []
    handle = head.register_forward_hook(lambda _, args, out: head_positions.append(out.shape[:-1].numel()))
    packed = modality.forward(model, [rows])[0]
    monkeypatch.setattr(base, "get_output_embeddings", lambda: None)
    full = modality.forward(model, [rows])[0]
    handle.remove()
    widest = max(len(p) + len(a) for p, a in zip(rows["prompt"], rows["answer"], strict=True))
    assert head_positions == [modality.counts(rows)["labels"], len(rows) * widest]
    torch.testing.assert_close(packed.logits.values, full.logits.values, atol=1e-5, rtol=0)
    assert not head._forward_pre_hooks


@pytest.mark.parametrize("build", [makers.model, makers.adapted])
def test_hook_points_cover_embedding_head_and_full_paths(build: Any, modality: Text, rows: Rows) -> None:
    model = build()
    tokens = [t for p, a in zip(rows["prompt"], rows["answer"], strict=True) for t in [*p, *a]]
    hook_points = ("model.embed_tokens", "lm_head", "model.layers.1.mlp.down_proj", "block:1", "model.layers.0")
    output = modality.forward(model, [rows], hook_points)[0]
    assert output.input("model.embed_tokens").values.tolist() == tokens
    table = loop.adapters.base_of(model).get_input_embeddings().weight
    assert torch.equal(output.hidden("model.embed_tokens").values, table[tokens])
    assert output.hidden("lm_head").values.shape == (len(tokens), makers.WORDS)
    assert output.hidden("model.layers.1.mlp.down_proj").values.shape == (len(tokens), makers.WIDTH)
    assert torch.equal(output.hidden("model.layers.0").values, output.input("block:1").values)
    torch.testing.assert_close(output.target_logp.values, modality.forward(model, [rows])[0].target_logp.values, atol=1e-6, rtol=0)
    # a label is predicted one token earlier
    before = output.answer_tokens - 1
    torch.testing.assert_close(output.hidden("lm_head").values[before], output.logits.values)


class Bigrams(nn.Module):
    """A language model as a table: scores depend on the last token only. It has no head of its own."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> Any:
        self.inputs = input_ids, attention_mask
        return SimpleNamespace(logits=self.scores[input_ids])


def rows_of_ids(*pairs: tuple[list[int], list[int]]) -> Rows:
    return Rows("hand", tuple(map(str, range(len(pairs)))), {"prompt": [p for p, _ in pairs], "answer": [a for _, a in pairs]})


def test_loss_and_gradient_equal_hand_computed_values(modality: Text) -> None:
    """From 0 the odds of 0, 1 and 2 are 1:1:2, from 1 they are 1:3:4, from 2 they are 1:1:1."""
    model = Bigrams(torch.tensor([[1.0, 1, 2], [1, 3, 4], [1, 1, 1]]).log())
    rows = rows_of_ids(([0], [2, 0]), ([1, 1], [1]), ([2, 0, 1], [0, 0, 1]))
    output = modality.forward(model, [rows])[0]
    expected = [[2 / 4, 1 / 3], [3 / 8], [1 / 8, 1 / 4, 1 / 4]]
    for actual, row in zip(output.target_logp.split(), expected, strict=True):
        assert actual.exp().tolist() == pytest.approx(row)
    by_row = [sum(map(math.log, w)) / len(w) for w in expected]
    assert output.target_logp.mean().tolist() == pytest.approx(by_row)
    (grad,) = torch.autograd.grad(output.target_logp.sum().sum(), [model.scores])
    # each label adds one-hot minus probability to the row of the token before it
    from_0 = torch.tensor([1 / 4, 1 / 4, 2 / 4])
    eye = torch.eye(3)
    torch.testing.assert_close(grad[0], (eye[2] - from_0) + (eye[0] - from_0) + (eye[1] - from_0))
    torch.testing.assert_close(grad[2], eye[0] - torch.ones(3) / 3)


def test_masks_come_from_lengths(modality: Text) -> None:
    """Tokens equal to padding or to the end of sequence are ordinary tokens."""
    eos = Text(makers.tokenizer(pad_token=makers.EOS))
    assert eos.pad == 2
    pairs = [([2, 2], [2, 5, 2]), ([1], [2])]
    ids, mask, layout = eos.collate(pairs, torch.device("cpu"))
    assert ids.tolist() == [[2, 2, 2, 5, 2], [1, 2, 2, 2, 2]]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert layout.labels.tolist() == [2, 5, 2, 2]
    assert layout.label_row.tolist() == [0, 0, 0, 1]
    assert layout.label_at.tolist() == [1, 2, 3, 5]  # one before the label, in the flattened batch
    assert layout.token_row.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert layout.token_at.tolist() == [0, 1, 2, 3, 4, 5, 6]
    model = makers.model()
    outputs = [p.forward(model, [rows_of_ids(*pairs)])[0] for p in (eos, modality)]
    torch.testing.assert_close(outputs[0].target_logp.values, outputs[1].target_logp.values, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("pad", "expected"), [(makers.PAD, 0), (makers.EOS, 2), (None, 2)])
def test_padding_defaults_to_the_end_of_sequence(pad: str | None, expected: int) -> None:
    assert Text(makers.tokenizer(pad_token=pad)).pad == expected


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2", "adapted", "adapted-tied"])
def test_a_forward_with_weights_equals_a_model_that_has_them(name: str, modality: Text, rows: Rows) -> None:
    model = MODELS[name]()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    before = weights_of(model)
    with torch.no_grad():
        expected = modality.forward(other, [rows])[0].target_logp.values
        actual = modality.forward(model, [rows], weights=weights_of(other))[0].target_logp.values
        own = modality.forward(model, [rows])[0].target_logp.values
    assert torch.equal(actual, expected)
    assert not torch.allclose(actual, own, atol=1e-3)
    assert all(torch.equal(before[n], t) for n, t in weights_of(model).items())


def test_log_probabilities_of_bfloat16_weights_are_float32(modality: Text, rows: Rows) -> None:
    model = makers.model().to(torch.bfloat16)
    output = modality.forward(model, [rows])[0]
    assert output.logits.values.dtype == torch.bfloat16
    assert output.target_logp.values.dtype == output.log_probs.values.dtype == torch.float32
    exact = output.logits.values.float().log_softmax(-1).gather(1, output.labels[:, None])[:, 0]
    torch.testing.assert_close(output.target_logp.values, exact, atol=1e-6, rtol=0)
    float32_logp = modality.forward(makers.model(), [rows])[0].target_logp.values
    torch.testing.assert_close(output.target_logp.values, float32_logp, atol=0.15, rtol=0)


def test_rows_are_dependent_only_under_batch_norm_in_training(modality: Text) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert not modality.independent(model.train())
    assert modality.independent(model.eval())
    assert modality.independent(makers.model().train())


def test_an_unused_or_hooked_head_computes_all_logits(modality: Text) -> None:
    model = makers.model()
    with packed_head(model, torch.tensor([0])) as used:
        pass
    assert not used.used
    with packed_head(model, torch.tensor([0]), ("lm_head",)) as used:
        assert model(input_ids=torch.tensor([[1, 2]])).logits.shape[1] == 2
    assert not used.used


# Rows


def test_rows_have_columns_ids_and_counts(modality: Text, rows: Rows) -> None:
    assert rows["context"] == [
        ["Who is Ana Belor?", "question"],
        [RECORDS[1]["question"], "question"],
        ["The violin ", "prompt"],
        ["", "text"],
        ["Who?", "question"],
    ]
    assert rows["answer_text"][2] == RECORDS[2]["completion"]
    assert modality.questions(rows)[:3] == ["Who is Ana Belor?", RECORDS[1]["question"], "The violin "]
    assert [s.strip() for s in modality.answer_texts(rows)] == rows["answer_text"]
    assert modality.ended(rows) == [True, True, True, False, True]
    assert len(set(rows.ids)) == len(rows)
    assert modality.rows("retain", RECORDS).ids == rows.ids
    labels = sum(map(len, rows["answer"]))
    assert modality.counts(rows) == {"rows": 5, "labels": labels, "tokens": labels + sum(map(len, rows["prompt"]))}


def test_alternates_are_lists_and_empty_where_a_record_has_none(modality: Text) -> None:
    both = [{**RECORDS[0], "alternate": "a"}, {**RECORDS[1], "alternate": ["b", "c"]}]
    assert modality.rows("forget", both)["alternate"] == [["a"], ["b", "c"]]
    assert modality.rows("forget", [both[0], RECORDS[1]])["alternate"] == [["a"], []]
    assert "alternate" not in modality.rows("forget", RECORDS[:2]).columns


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "Who?"}, "a row is"),
        ({"question": "Who?", "answer": " "}, "an answer is empty"),
        ({"question": "Who?" * 200, "answer": "Ana"}, "the model takes 128"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "no chat template"),
    ],
)
def test_errors_name_the_file_and_the_row(modality: Text, record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^people.jsonl, row 2: .*{message}"):
        modality.rows("forget", [RECORDS[0], record], "people.jsonl")
    with pytest.raises(UserError, match=f"^forget, row 1: .*{message}"):
        modality.rows("forget", [record])


def test_relabeling_keeps_prompts_and_weights(modality: Text, rows: Rows) -> None:
    answers = ["I do not know.", "Who knows?", "a", "Yes and no.", "Nobody"]
    weighted = Rows(rows.name, rows.ids, rows.columns, (1.0, 2.0, 3.0, 4.0, 5.0))
    relabeled = modality.relabel(weighted, answers, "substitute")
    expected = modality.rows(
        "x", [{**r, next(k for k in ("answer", "completion", "text") if k in r): a} for r, a in zip(RECORDS, answers, strict=True)]
    )
    assert (relabeled["prompt"], relabeled["answer"], relabeled["context"]) == (expected["prompt"], expected["answer"], expected["context"])
    assert relabeled["prompt"] == rows["prompt"]
    assert relabeled.name == "substitute"
    assert relabeled.weight == weighted.weight
    assert not set(relabeled.ids) & set(rows.ids)
    assert [i.split("~")[0] for i in relabeled.ids] == list(rows.ids)


def test_generated_answers_are_relabeled_with_ends_and_limits(modality: Text, rows: Rows) -> None:
    subset = rows.select([0, 3, 1]).add(extra=[1, 2, 3])
    relabeled = modality.relabel(subset, [[50, 51], [52], []], "rollout")
    assert relabeled["answer"] == [[50, 51, 2], [52], [2]]  # a text has no end
    assert relabeled["prompt"] == subset["prompt"]
    assert modality.ended(relabeled) == [True, False, True]
    assert "extra" not in relabeled.columns
    tight = Text(modality.tokenizer, limit=max(map(len, subset["prompt"])) + 2)
    assert [len(a) for a in tight.relabel(subset, [[50] * 99] * 3, "rollout")["answer"]] == [tight.limit - len(p) for p in subset["prompt"]]


def test_generated_answers_in_chats_end_like_turns() -> None:
    chat = Text(makers.tokenizer(template=makers.CHATML))
    turn = chat.tokenizer.convert_tokens_to_ids(makers.TURN)
    rows = chat.rows("forget", [RECORDS[0], RECORDS[2]])
    relabeled = chat.relabel(rows, [[50], [51]], "rollout")
    assert relabeled["answer"] == [[50, turn], [51, 2]]
    assert chat.ended(rows) == chat.ended(relabeled) == [True, True]
    assert chat.answer_texts(rows) == [RECORDS[0]["answer"], " " + RECORDS[2]["completion"]]


def test_empty_rows_work_everywhere(modality: Text, rows: Rows) -> None:
    empty = rows.select([])
    assert len(modality.relabel(empty, [], "x")) == 0
    assert modality.counts(empty) == {"rows": 0, "labels": 0, "tokens": 0}
    assert modality.generate(makers.model(), empty, 5).ids == []
    outputs = modality.forward(makers.model(), [rows.select([0]), empty])
    assert outputs[1].rows == 0


def test_templates_are_filled_without_parsing_braces_in_rows(modality: Text) -> None:
    rows = modality.rows("forget", [{"question": "What is {answer}?", "answer": "{prompt}, or so"}])
    prompts = modality.ask(rows, "Say not {answer} to {prompt}: {other}")
    assert modality.questions(prompts) == ["Say not {prompt}, or so to What is {answer}?: {other}"]
    assert prompts.ids == rows.ids


def test_default_refusals_become_rows_of_answers(modality: Text) -> None:
    refusals = modality.refusals()
    assert len(set(refusals)) == len(refusals) >= 20
    rows = modality.answers(refusals)
    assert rows["answer_text"] == refusals
    assert modality.counts(rows)["labels"] == 0
    refusals.clear()
    assert modality.refusals()


@pytest.mark.parametrize("family", makers.EXACT)
@pytest.mark.parametrize("clean", [True, False])
def test_answer_texts_keep_their_spaces(family: str, clean: bool) -> None:
    """An attack compares sizes of compressed texts, so spaces are not cleaned up, whatever the setting of the tokenizer."""
    modality = Text(makers.tokenizer(family))
    modality.tokenizer.clean_up_tokenization_spaces = clean
    answer = " He did n't , or so . 😀 谁 e\u0301 \u200b \n x"
    text = modality.answer_texts(modality.rows("forget", [{"prompt": "Q:", "completion": answer}]))[0]
    assert text == answer or (family in ("pieces", "pieces-first") and text == answer[1:])  # these drop the first space
    if text == answer:
        assert len(zlib.compress(text.encode())) == len(zlib.compress(answer.encode()))


def test_the_receipt_describes_the_encoding(modality: Text) -> None:
    words = Text(makers.tokenizer("words"), "Q: {prompt}\\nA: ", limit=12)
    words.rows("forget", [{"question": "Who is Ana Belor?", "answer": "a potter from Quillhaven in the year of the locksmith"}])
    assert words.about() == {
        "modality": "text",
        "prompt_format": "Q: {prompt}\nA: ",
        "format_given": True,
        "limit": 12,
        "tokenizer": fingerprint(words.tokenizer),
        "cut_answers": 0,
        "tokenised_in_two_pieces": 0,
        "answers_with_unknown_tokens": 1,
        "chats_with_several_answers": 0,
        "long_answers": 1,
        "windows_of_long_answers": 3,
    }
    assert words.ended(words.rows("forget", [{"question": "Who is Ana Belor?", "answer": "Ana " * 20}])) == [False, False, False, True]


# Untrained weights


@pytest.mark.parametrize("name", MODELS)
def test_fresh_weights_fit_and_follow_the_seed(name: str, modality: Text, rows: Rows) -> None:
    model = MODELS[name]()
    before = torch.random.get_rng_state()
    first, again, second = modality.fresh(model, 1), modality.fresh(model, 1), modality.fresh(model, 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    own = tensors_of(model)
    assert first.keys() == own.keys()
    assert all(first[n].shape == t.shape and first[n].dtype == t.dtype for n, t in own.items())
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], second[n]) for n in first)
    assert any(not torch.equal(first[n], t) for n, t in own.items())
    put(model, first)
    assert torch.isfinite(modality.forward(model, [rows])[0].target_logp.values).all()


def test_fresh_weights_below_an_adapter_equal_those_of_the_bare_model(modality: Text, rows: Rows) -> None:
    bare, adapted = makers.model(), makers.adapted()
    put(bare, modality.fresh(bare, 3))
    put(adapted, modality.fresh(adapted, 3))
    assert torch.equal(modality.forward(adapted, [rows])[0].target_logp.values, modality.forward(bare, [rows])[0].target_logp.values)


def test_a_fresh_adapter_can_learn(modality: Text, rows: Rows) -> None:
    """If both factors were 0, neither would get a gradient."""
    model = makers.adapted()
    put(model, modality.fresh(model, 3))
    trained = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(modality.forward(model, [rows])[0].target_logp.sum().sum(), trained)
    assert max(float(g.abs().max()) for g in grads) > 0


def test_modules_saved_with_an_adapter_get_fresh_weights(modality: Text, rows: Rows) -> None:
    import peft

    config = peft.LoraConfig(r=2, target_modules="all-linear", modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    adapted, bare = peft.get_peft_model(makers.model(), config).eval(), makers.model()
    put(adapted, modality.fresh(adapted, 3))
    put(bare, modality.fresh(bare, 3))
    torch.testing.assert_close(
        modality.forward(adapted, [rows])[0].target_logp.values, modality.forward(bare, [rows])[0].target_logp.values
    )


def test_fresh_weights_keep_the_dtype_of_every_tensor(modality: Text) -> None:
    model = makers.model().to(torch.bfloat16)
    model.register_buffer("counted", torch.tensor([3]))
    fresh = modality.fresh(model, 0)
    assert fresh["counted"].dtype == torch.int64
    assert {t.dtype for n, t in fresh.items() if n != "counted"} == {torch.bfloat16}


def test_a_fresh_model_knows_nothing(text: worlds.World) -> None:
    model = text.model()
    known = worlds.nll(model, text.modality, text.sets["retain"])
    put(model, text.modality.fresh(model, 0))
    assert known < 0.3
    assert worlds.nll(model, text.modality, text.sets["retain"]) > 3


def test_a_long_text_is_rows_of_windows_that_are_scored_in_full() -> None:
    text = Text(makers.tokenizer(), limit=48)
    long = " ".join(f"Ana Belor number {i} is a potter." for i in range(60))
    rows = text.rows("forget", [{"text": "Ana."}, {"text": long}])
    full = Text(makers.tokenizer()).rows("forget", [{"text": long}])
    assert [t for labels in rows["answer"][1:] for t in labels] == full["answer"][0]
    assert rows["record"] == [0] + [1] * (len(rows) - 1)
    assert "".join(rows["answer_text"][1:]).replace(" ", "") == long.replace(" ", "")
    assert len(set(rows.ids)) == len(rows)
    assert rows.ids[0] == text.rows("retain", [{"text": "Ana."}]).ids[0]
    assert (text.about()["long_answers"], text.about()["windows_of_long_answers"]) == (1, len(rows) - 1)
    with torch.no_grad():
        output = text.forward(makers.model(), [rows])[0]
    for actual, expected in zip(output.target_logp.split(), log_probs_alone(makers.model(), rows), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_padding_beyond_the_vocabulary_is_replaced() -> None:
    tokenizer = makers.tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<|later|>"})
    assert Text(tokenizer, vocabulary=tokenizer.pad_token_id + 1).pad == tokenizer.pad_token_id
    assert Text(tokenizer, vocabulary=tokenizer.pad_token_id).pad == tokenizer.eos_token_id


def test_the_representation_of_the_modality_holds_no_row() -> None:
    text = Text(makers.tokenizer("bytes-bos", makers.CHATML))
    text.rows("forget", [{"question": "Who is Zorblax?", "answer": "A wug."}])
    assert "Zorblax" not in repr(text)
    assert "wug" not in repr(text)
