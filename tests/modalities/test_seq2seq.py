"""Encoder-decoders: what they read, score, generate and learn equals direct calls of the library."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest import mock

import makers
import pytest
import seq2seq
import torch
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM

from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.committee import Committee, Voting
from expunge.methods.terms import NLL
from expunge.modalities.text.modality import Text
from expunge.modalities.text.pretrained import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seq2seq")


def direct(model: Any, tokenizer: Any, prompt: str, answer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of the library's own call, as its training code makes it, without the beginning of sequence among the labels."""
    labels = torch.tensor([tokenizer(text_target=answer)["input_ids"]])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokenizer(prompt)["input_ids"]]), labels=labels).logits[0]
    skip = int(labels[0, 0] == tokenizer.bos_token_id)
    return logits[skip:], labels[0, skip:]


def texts(record: dict[str, str]) -> tuple[str, str]:
    return (record["question"], record["answer"]) if "question" in record else (record["prompt"], record["completion"])


def expected(model: Any, tokenizer: Any) -> list[torch.Tensor]:
    """Log-probabilities of the labels of each record."""
    rows = [direct(model, tokenizer, *texts(r)) for r in seq2seq.RECORDS]
    return [logits.log_softmax(-1).gather(1, labels[:, None])[:, 0] for logits, labels in rows]


@pytest.mark.parametrize("name", seq2seq.CONFIGS)
def test_scores_equal_those_of_the_library(name: str, folder: Path) -> None:
    model, modality = seq2seq.opened(name, folder)
    rows, right = modality.rows("forget", seq2seq.RECORDS), expected(model, modality.tokenizer)
    with torch.no_grad():
        output = modality.forward(model, [rows.select([0, 1]), rows.select([2, 3, 4])])
    reading = modality.read(model, [rows.select([0, 1]), rows.select([2, 3, 4])], [True, False])
    assert reading.how == "answers share the encoding of their prompts"
    for i, (row, logp) in enumerate(zip([*output[0].target_logp.split(), *output[1].target_logp.split()], right, strict=True)):
        torch.testing.assert_close(row, logp, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.tensor(reading.of(i, False)["target_logp"]), logp, atol=1e-5, rtol=1e-5)
    logits, _ = direct(model, modality.tokenizer, *texts(seq2seq.RECORDS[0]))
    log_probs = logits.log_softmax(-1)
    torch.testing.assert_close(torch.tensor(reading.of(0, True)["mean"]), (log_probs.exp() * log_probs).sum(-1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_prompt_goes_through_the_encoder_once(name: str, folder: Path) -> None:
    model, modality = seq2seq.opened(name, folder)
    records = [{"question": f"Who is {who}?", "answer": f"{who} is {what}."} for who in ("Ana", "Dovik") for what in "abcde"]
    rows = modality.rows("forget", records)
    modality.read(model, [rows])  # tries the model out
    encoded: list[int] = []
    encode = type(model.get_encoder()).forward

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        if self is model.get_encoder():
            encoded.append(len(options["input_ids"]))
        return encode(self, *args, **options)

    with mock.patch.object(type(model.get_encoder()), "forward", counted):
        modality.read(model, [rows])
    assert encoded[-1] == 2, "two prompts with five answers each"


@pytest.mark.parametrize("name", seq2seq.CONFIGS)
def test_greedy_answers_equal_those_of_the_library(name: str, folder: Path) -> None:
    model, modality = seq2seq.opened(name, folder)
    rows = modality.rows("forget", seq2seq.RECORDS)
    start = rows["prompt"][0]
    right = []
    for source in rows["source"]:
        options = {"max_new_tokens": 13, "do_sample": False, "num_beams": 1, "forced_eos_token_id": None, "use_cache": False}
        ids = model.generate(torch.tensor([source]), decoder_input_ids=torch.tensor([start]), **options)[0, len(start) :].tolist()
        right.append(ids[: ids.index(2)] if 2 in ids else ids[:12])
    answers = modality.generate(model, rows, 12)
    assert answers.ids == [a[:12] for a in right]
    assert modality.decode(answers.ids) == [modality.tokenizer.decode(a[:12], skip_special_tokens=True).strip() for a in right]
    one_by_one = [modality.generate(model, rows.select([i]), 12).ids[0] for i in range(len(rows))]
    assert one_by_one == answers.ids
    begun = modality.begun(modality.relabel(rows, answers.ids, "own"), [min(3, len(a)) for a in answers.ids])
    assert [[*a[:3], *rest] for a, rest in zip(answers.ids, modality.generate(model, begun, 9).ids, strict=True)] == answers.ids
    own = modality.relabel(rows, answers.ids, "own")
    reading = modality.read(model, [own])
    recited, drafted = modality.recite(model, [rows], [12], reading)
    assert recited == [answers.ids]
    assert drafted > 0


def step_by_hand(model: Any, rows: Rows, lr: float) -> None:
    """A plain step of SGD on the mean over labels."""
    losses = []
    for source, prompt, answer in zip(rows["source"], rows["prompt"], rows["answer"], strict=True):
        decoder = torch.tensor([[*prompt, *answer[:-1]]])
        logits = model(input_ids=torch.tensor([source]), decoder_input_ids=decoder).logits[0, len(prompt) - 1 :]
        losses.append(F.cross_entropy(logits, torch.tensor(answer), reduction="none"))
    torch.cat(losses).mean().backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= lr * p.grad


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_step_equals_a_plain_loop(name: str, folder: Path) -> None:
    model, modality = seq2seq.opened(name, folder)
    model = without_dropout(model)
    rows, by_hand = modality.rows("retain", seq2seq.RECORDS), copy.deepcopy(model)
    train = Train(
        epochs=1, lr=0.1, batch_size=8, optimizer="sgd", schedule="constant", warmup=0, anchor="retain", weight_decay=0.0, momentum=0.0
    )
    loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": rows})
    step_by_hand(by_hand, rows, 0.1)
    for (path, p), q in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4, msg=path)


def without_dropout(model: Any) -> Any:
    for module in model.modules():
        for rate in ("p", "dropout", "attention_dropout", "activation_dropout", "dropout_rate"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
    return model


def test_files_are_read_by_the_library(folder: Path, tmp_path: Path) -> None:
    for name in ("t5", "t5-untied", "bart"):
        model, modality = seq2seq.opened(name, folder)
        modality.save(model, tmp_path / name)
        again, other = load(str(tmp_path / name))
        library = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name).eval()
        inputs = {"input_ids": torch.tensor([[5, 6, 7, 2]]), "decoder_input_ids": torch.tensor([[0, 9, 8]])}
        with torch.no_grad():
            assert torch.equal(library(**inputs).logits, model(**inputs).logits)
            assert torch.equal(again(**inputs).logits, model(**inputs).logits)
        assert other.about() == modality.about()
        assert other.about()["architecture"] == "encoder-decoder"


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_adapter_goes_to_files_and_back(name: str, folder: Path, tmp_path: Path) -> None:
    import peft

    model, modality = seq2seq.opened(name, folder)
    rows = modality.rows("retain", seq2seq.RECORDS)
    train = Train(epochs=1, lr=0.1, batch_size=8, schedule="constant", warmup=0, anchor="retain", lora=2)
    run = loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": rows})
    assert run.model.peft_config["default"].task_type == "SEQ_2_SEQ_LM"
    assert {n.split(".")[2 if name == "t5" else 3] for n, _ in run.model.named_parameters() if "lora_" in n} == {"encoder", "decoder"}
    modality.save(run.model, tmp_path / "adapter")
    library = peft.AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter").eval()
    again, other = load(str(tmp_path / "adapter"))
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 2]]), "decoder_input_ids": torch.tensor([[0, 9, 8]])}
    with torch.no_grad():
        right = run.model.eval()(**inputs).logits
        torch.testing.assert_close(library(**inputs).logits, right, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(again(**inputs).logits, right, atol=1e-5, rtol=1e-5)
    assert other.read(again, [rows]).how == "answers share the encoding of their prompts"
    assert len(other.generate(again, rows, 5).ids) == len(rows)


# Rows


def test_rows_hold_what_both_sides_read(folder: Path) -> None:
    for name, begin in (("t5", [0]), ("bart", [2, 1])):
        _, modality = seq2seq.opened(name, folder)
        row = modality.rows("forget", seq2seq.RECORDS[:1])
        whole, target = modality.tokenizer("Who is Ana Belor?")["input_ids"], modality.tokenizer("Ana Belor is a potter from Quillhaven.")
        assert row["source"] == [whole]
        assert row["prompt"] == [begin]
        assert row["answer"][0] == target["input_ids"][len(begin) - 1 :]
        counts = modality.counts(row)
        assert counts["encoder_tokens"] == len(whole)
        assert counts["decoder_tokens"] == len(begin) + len(row["answer"][0])
        assert counts["tokens"] == counts["encoder_tokens"] + counts["decoder_tokens"]


def test_a_prompt_format_is_filled_in(folder: Path) -> None:
    modality = load(seq2seq.path_of("t5", folder), "question: {prompt}")[1]
    assert modality.rows("forget", seq2seq.RECORDS[:1])["source"] == [modality.tokenizer("question: Who is Ana Belor?")["input_ids"]]
    assert modality.about()["prompt_format"] == "question: {prompt}"


def test_the_turns_before_an_answer_go_to_the_encoder(folder: Path) -> None:
    _, modality = seq2seq.opened("t5", folder)
    turns = [
        {"role": "user", "content": "Who is Ana?"},
        {"role": "assistant", "content": "A potter."},
        {"role": "user", "content": "Where?"},
    ]
    rows = modality.rows("forget", [{"messages": [*turns, {"role": "assistant", "content": "In Nessop."}]}])
    sources = ["Who is Ana?", "user: Who is Ana?\nassistant: A potter.\nuser: Where?"]
    assert rows["source"] == [modality.tokenizer(s)["input_ids"] for s in sources]
    assert rows["answer"] == [modality.tokenizer(a)["input_ids"] for a in ("A potter.", "In Nessop.")]
    assert rows.ids[0] == modality.rows("forget", [{"question": "Who is Ana?", "answer": "A potter."}]).ids[0]


def test_a_chat_template_writes_what_the_encoder_reads(folder: Path) -> None:
    tokenizer = seq2seq.tokenizer("t5")
    tokenizer.chat_template = makers.CHATML
    modality = Text(tokenizer, architecture=seq2seq.opened("t5", folder)[1].architecture)
    (source,) = modality.rows("forget", seq2seq.RECORDS[:1])["source"]
    turns = [{"role": "user", "content": "Who is Ana Belor?"}]
    assert source == tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]


def test_rows_that_cannot_be_read_are_refused(folder: Path) -> None:
    _, modality = seq2seq.opened("bart", folder)
    for record, message in (
        ({"text": "A text."}, r"data, row 2: this row is a text without a prompt.*give 'prompt' and 'completion'"),
        ({"prompt": "Why? " * 80, "completion": "So."}, r"data, row 2: a prompt has \d+ tokens, and the encoder takes 64"),
        ({"question": "Who?", "answer": f"Ana{makers.EOS} and Dovik"}, r"data, row 2: an answer goes on after an end-of-sequence token"),
    ):
        with pytest.raises(UserError, match=message):
            modality.rows("forget", [seq2seq.RECORDS[0], record], "data")


def test_a_long_answer_fills_windows(folder: Path) -> None:
    _, modality = seq2seq.opened("bart", folder)
    text = "Dovik was born in Nessop. " * 20
    rows = modality.rows("forget", [{"question": "Who?", "answer": text}])
    labels = [t for a in rows["answer"] for t in a]
    assert labels == modality.tokenizer(text_target=text)["input_ids"][1:]
    assert all(len(p) + len(a) <= 64 for p, a in zip(rows["prompt"], rows["answer"], strict=True))
    assert all(p[:2] == [2, 1] for p in rows["prompt"])
    assert len({tuple(s) for s in rows["source"]}) == 1
    assert modality.about()["long_answers"] == 1


def test_a_model_without_a_start_of_its_decoder_is_refused(folder: Path, tmp_path: Path) -> None:
    model, modality = seq2seq.opened("t5", folder)
    modality.save(model, tmp_path)
    for file in ("config.json", "generation_config.json"):
        content = (tmp_path / file).read_text()
        (tmp_path / file).write_text(content.replace('"decoder_start_token_id": 0,', ""))
    with pytest.raises(UserError, match="does not say which token its decoder starts with: set decoder_start_token_id"):
        load(str(tmp_path))


# Inside


@pytest.mark.parametrize("name", ["t5-untied", "bart"])
def test_blocks_are_those_of_both_sides_in_order(name: str, folder: Path) -> None:
    model, modality = seq2seq.opened(name, folder)
    base = model if name != "bart" else model.model
    lists = [base.encoder.block, base.decoder.block] if name != "bart" else [base.encoder.layers, base.decoder.layers]
    blocks = [b for side in lists for b in side]
    assert [modality.module(model, h) for h in modality.blocks(model)] == blocks
    assert modality.module(model, modality.head(model)) is model.lm_head
    with pytest.raises(UserError, match="no module"):
        modality.module(model, f"block:{len(blocks)}")


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_hidden_states_belong_to_their_side(name: str, folder: Path) -> None:
    model, modality = seq2seq.opened(name, folder)
    rows = modality.rows("forget", seq2seq.RECORDS[:4])
    with torch.no_grad():
        output = modality.forward(model, [rows.select([0]), rows.select([1, 2, 3])], ("block:1", "block:2"))[1]
        decoder = torch.tensor([[*rows["prompt"][2], *rows["answer"][2]]])
        library = model(input_ids=torch.tensor([rows["source"][2]]), decoder_input_ids=decoder, output_hidden_states=True)
    # the library normalizes the last states of an encoder of T5 and keeps those before the last block
    first = output.hidden("block:2")
    torch.testing.assert_close(first.split()[1], library.decoder_hidden_states[1][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.input("block:1").split()[1], library.encoder_hidden_states[1][0], atol=1e-5, rtol=1e-4)
    assert (first.kind, output.hidden("block:1").kind) == ("decoder_tokens", "encoder_tokens")
    answers = output.hidden("block:2", answers=True)
    torch.testing.assert_close(answers.split()[1], library.decoder_hidden_states[1][0, -len(rows["answer"][2]) :], atol=1e-5, rtol=1e-4)
    assert answers.kind == "labels"
    with pytest.raises(UserError, match="'block:1' is a module of the encoder, which reads prompts and no answers"):
        output.hidden("block:1", answers=True)


def test_a_committee_generates_by_the_mean_of_its_members_probabilities(tmp_path: Path) -> None:
    model, modality = seq2seq.opened("t5", tmp_path)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    both, voting = Committee([model, other]), Voting(modality)
    rows = modality.rows("forget", seq2seq.RECORDS)
    answers = voting.generate(both, rows, 6).ids
    assert any(len(answer) for answer in answers)
    with torch.no_grad():
        for source, begun, answer in zip(rows["source"], rows["prompt"], answers, strict=True):
            ids = list(begun)
            for token in answer:
                inputs = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([ids])}
                probabilities = torch.stack([m(**inputs).logits[0, -1].softmax(-1) for m in (model, other)]).mean(0)
                assert int(probabilities.argmax()) == token
                ids.append(token)
