"""`expunge unlearn`: what comes out of a user's files, and the same from Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import expunge as package
import worlds
from cases import Cases, expunge, left, receipt_of, rewritten, rows_of
from expunge.core.errors import UserError
from expunge.engine.receipt import hash_weights
from expunge.io.data import write_jsonl
from expunge.io.models import load
from expunge.modalities.text import modality as port_of
from expunge.modalities.text.models import llama
from expunge.workflows.unlearn import unlearn
from expunge.workflows.watch import Watch

FORMAT = "Question: {prompt}\\nAnswer:\\n"  # as typed: the escapes are ours to read


def weights(folder: Path) -> list[torch.Tensor]:
    return worlds.tensors(load(folder).model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "saved", "folder"])
def test_a_model_forgets_rows_of_any_kind_of_file(kind: str, cases: Cases, tmp_path: Path) -> None:
    forget, retain = (
        (cases.forget, cases.retain) if kind == "jsonl" else (rewritten(f, kind, tmp_path) for f in (cases.forget, cases.retain))
    )
    cases.unlearn("npo", tmp_path / "run", forget=forget, retain=retain).fine()
    assert left(tmp_path / "run") == ["log.jsonl", "model", "receipt.json"]
    assert receipt_of(tmp_path / "run")["request"]["sets"] == {"forget": 9, "retain": 99}
    steps = rows_of(tmp_path / "run" / "log.jsonl")
    assert [r["done"] for r in steps if "loss" in r] == [1, 2]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "model")("Who?")["input_ids"]
    assert not worlds.same(worlds.tensors(model), weights(Path(cases.model)))


def test_every_kind_of_file_gives_the_same_model(cases: Cases, tmp_path: Path) -> None:
    hashes = set()
    for kind in ("jsonl", "csv", "parquet"):
        forget, retain = (
            (cases.forget, cases.retain) if kind == "jsonl" else (rewritten(f, kind, tmp_path) for f in (cases.forget, cases.retain))
        )
        cases.unlearn("npo", tmp_path / kind, forget=forget, retain=retain, model=cases.model).fine()
        receipt = receipt_of(tmp_path / kind)
        hashes.add((receipt["result"]["weights"], receipt["request"]["hash"]))
    assert len(hashes) == 1


def test_the_receipt_says_what_was_done_with_what(cases: Cases, tmp_path: Path) -> None:
    doubled = tmp_path / "forget.jsonl"
    doubled.write_text(Path(cases.forget).read_text() * 2)
    done = cases.unlearn("npo", tmp_path / "run", "--beta", 0.2, "--seed", 3, forget=str(doubled)).fine()
    receipt = receipt_of(tmp_path / "run")
    hyperparameters = receipt["stages"][0]["hyperparameters"]
    assert (receipt["method"], hyperparameters["npo.beta"], hyperparameters["plan.lr"], hyperparameters["plan.epochs"]) == (
        "npo",
        0.2,
        1e-3,
        2,
    )
    assert receipt["seed"] == hyperparameters["plan.seed"] == 3
    assert {"python", "torch", "transformers", "expunge"} <= receipt["versions"].keys()
    assert receipt["model"]["source"] == cases.model
    assert receipt["model"].keys() >= {"weights", "configuration", "modules", "code", "written"}
    assert (len(receipt["model"]["weights"]), len(receipt["request"]["hash"])) == (16, 32)
    assert receipt["result"] == {"weights": receipt["result"]["weights"], "changed": True, "kind": "model"}
    assert receipt["result"]["weights"] != receipt["model"]["weights"]
    assert receipt["modality"]["prompt_format"] == "Question: {prompt}\nAnswer: "
    cost = receipt["cost"]
    assert cost["steps"] == 2
    assert min(cost[n] for n in ("seconds", "tokens", "backward_tokens", "flops", "parameters", "trained", "peak_memory_bytes")) > 0
    assert receipt["request"]["findings"] == ["9 of 18 rows of 'forget' repeat another row of it"]
    assert receipt["warnings"] == []
    assert "warning: 9 of 18 rows of 'forget' repeat" in done.out
    assert f"next: expunge audit {tmp_path / 'run'} --forget {doubled}" in done.out


def test_a_prompt_format_is_understood_stored_and_used_again(cases: Cases, tmp_path: Path) -> None:
    cases.unlearn("ga", tmp_path / "run", "--prompt-format", FORMAT).fine()
    assert receipt_of(tmp_path / "run")["modality"]["prompt_format"] == "Question: {prompt}\nAnswer:\n"
    assert load(tmp_path / "run").modality.about()["prompt_format"] == "Question: {prompt}\nAnswer:\n"
    cases.unlearn("ga", tmp_path / "again", model=tmp_path / "run").fine()  # a second request, on the result of the first
    assert receipt_of(tmp_path / "again")["modality"]["prompt_format"] == "Question: {prompt}\nAnswer:\n"
    assert receipt_of(tmp_path / "again")["model"]["weights"] == receipt_of(tmp_path / "run")["result"]["weights"]


def test_a_format_that_nobody_gave_is_not_imposed_on_prompts(cases: Cases, tmp_path: Path) -> None:
    """Prompts with completions are joined as they are: the format for questions, which the receipt also names, is not theirs."""
    rows = [{"prompt": f"{r['question']} ", "completion": r["answer"]} for r in rows_of(cases.forget)]
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    cases.unlearn("ga", tmp_path / "run", forget=str(tmp_path / "forget.jsonl")).fine()
    before, after = (load(p).modality.rows("forget", rows)["prompt"] for p in (cases.model, tmp_path / "run"))
    assert before == after


def test_a_second_adapter_is_refused_and_a_merged_one_is_not(cases: Cases, tmp_path: Path) -> None:
    cases.unlearn("ga", tmp_path / "run", "--lora", 4, "--lora-targets", "q_proj, v_proj", "--lora-alpha", 9).fine()
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], set(config["target_modules"])) == (4, 9, {"q_proj", "v_proj"})
    error = cases.unlearn("ga", tmp_path / "no", "--lora", 16, "--lora-alpha", 64, model=tmp_path / "run").error
    assert "is a LoRA adapter of rank 4 already" in error
    assert "expunge merge ADAPTER --out FOLDER" in error
    assert not (tmp_path / "no").exists()
    expunge("merge", tmp_path / "run", "--out", tmp_path / "whole").fine()
    ids = torch.tensor([[1, 5, 6, 7]])
    adapted = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run" / "adapter").eval()
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    with torch.no_grad():
        torch.testing.assert_close(whole(input_ids=ids).logits, adapted(input_ids=ids).logits, atol=1e-5, rtol=0)
    assert "is no adapter" in expunge("merge", tmp_path / "whole", "--out", tmp_path / "again").error
    cases.unlearn("ga", tmp_path / "new", "--lora", 16, model=tmp_path / "whole").fine()


def test_settings_of_an_adapter_without_one_are_refused(cases: Cases, tmp_path: Path) -> None:
    error = cases.unlearn("ga", tmp_path / "run", "--lora-alpha", 64).error
    assert error == "--lora-alpha has no effect without an adapter: give --lora RANK too, or leave it out"
    assert "no module 'q_prj'" in cases.unlearn("ga", tmp_path / "run", "--lora", 2, "--lora-targets", "q_prj").error


def test_half_precision_files_come_out_as_such_and_the_receipt_says_what_rounding_cost(cases: Cases, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(cases.model).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(cases.model).save_pretrained(tmp_path / "half")
    cases.unlearn("ga", tmp_path / "run", model=tmp_path / "half").fine()
    types = {t.dtype for t in load_file(tmp_path / "run" / "model" / "model.safetensors").values()}
    assert types == {torch.bfloat16}
    receipt = receipt_of(tmp_path / "run")
    assert any("written as in the files of the model (bfloat16); rounding took back" in w for w in receipt["warnings"])
    assert receipt["result"]["weights"] == hash_weights(load(tmp_path / "run").model)
    cases.unlearn("ga", tmp_path / "wide", "--dtype", "float32", model=tmp_path / "half").fine()
    assert {t.dtype for t in load_file(tmp_path / "wide" / "model" / "model.safetensors").values()} == {torch.float32}
    error = cases.unlearn("ga", tmp_path / "no", "--dtype", "int8", model=tmp_path / "half").error
    assert "'int8' is not one of 'auto', 'float32', 'bfloat16', 'float16'" in error


def test_an_adapter_is_trained_saved_and_goes_on(cases: Cases, tmp_path: Path) -> None:
    import peft

    done = cases.unlearn("npo", tmp_path / "run", "--lora", 4).fine()
    assert f"the adapter is in {tmp_path / 'run' / 'adapter'}" in done.out
    assert left(tmp_path / "run") == ["adapter", "log.jsonl", "receipt.json"]
    assert not list((tmp_path / "run" / "adapter").glob("model*"))
    base = AutoModelForCausalLM.from_pretrained(cases.model)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()
    ids = torch.tensor([[1, 20, 30, 40]])
    opened: nn.Module = load(tmp_path / "run").model
    with torch.no_grad():
        assert torch.allclose(adapted(ids).logits, opened(ids).logits)
        assert not torch.allclose(AutoModelForCausalLM.from_pretrained(cases.model)(ids).logits, opened(ids).logits)
    assert receipt_of(tmp_path / "run")["cost"]["trained"] < receipt_of(tmp_path / "run")["cost"]["parameters"] / 4
    cases.unlearn("ga", tmp_path / "again", model=tmp_path / "run").fine()  # the adapter is what trains on
    assert receipt_of(tmp_path / "again")["result"]["kind"] == "adapter"
    assert not worlds.same(weights(tmp_path / "again"), weights(tmp_path / "run"))
    assert "weights did not change" in cases.unlearn("ga", tmp_path / "still", "--lora", 4, "--lr", 0).error


def test_a_guard_is_saved_without_weights_and_opened_around_them(cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cases.folder)
    expunge("unlearn", "input_filter", "--model", "original", "--forget", "forget.jsonl", "--out", tmp_path / "run").fine()
    monkeypatch.chdir(tmp_path)
    assert left(tmp_path / "run") == ["guard", "receipt.json"]
    assert receipt_of(tmp_path / "run")["result"]["changed"] is False
    opened = load("run")
    rows = opened.modality.rows("forget", rows_of(cases.forget))
    answers = opened.modality.decode(opened.modality.generate(opened.model, rows, 20).ids)
    assert set(answers) == {"I have no answer to that."}
    message = cases.unlearn("npo", tmp_path / "again", model="run").error
    assert "guard" in message
    assert cases.model in message


@pytest.mark.slow
def test_the_best_epoch_is_kept(cases: Cases, tmp_path: Path) -> None:
    best = ("--evaluate", "--keep-best", "forget_probability", "--retrained", cases.retrained, "--epochs", 3, "--lr", 5e-3)
    cases.unlearn("graddiff", tmp_path / "run", *best).fine()
    scored = [r for r in rows_of(tmp_path / "run" / "log.jsonl") if "scores" in r]
    assert [r["epoch"] for r in scored] == [1, 2, 3]
    assert {"forget_quality", "model_utility", "forget_probability"} <= scored[0]["scores"].keys()
    receipt = receipt_of(tmp_path / "run")
    assert receipt["watch"] == {"sets": {"forget": 9, "retain": 99}, "best": "forget_probability"}
    watch = Watch({"forget": rows_of(cases.forget), "retain": rows_of(cases.retain)})
    opened, retrained = load(tmp_path / "run"), load(cases.retrained)
    kept, ideal = (watch.scores(o.model, o.modality)[0]["forget_probability"]["value"] for o in (opened, retrained))
    nearest = min((r["scores"]["forget_probability"] for r in scored), key=lambda x: abs(x - ideal))
    assert kept == pytest.approx(nearest, rel=1e-4)
    epoch = next(r["epoch"] for r in scored if r["scores"]["forget_probability"] == nearest)
    assert receipt["warnings"][:1] == [f"kept the weights of epoch {epoch} of 3, the best by forget_probability"]


def test_a_loss_that_is_not_finite_keeps_the_last_good_weights(cases: Cases, tmp_path: Path) -> None:
    done = cases.unlearn("ga", tmp_path / "run", "--lr", 1e30, "--epochs", 5).fine()
    receipt = receipt_of(tmp_path / "run")
    assert receipt["cost"]["steps"] == 1
    assert "the loss or its gradient was not finite at epoch 2, step 1" in receipt["warnings"][0]
    assert f"warning: {receipt['warnings'][0]}" in done.out
    assert all(torch.isfinite(w).all() for w in weights(tmp_path / "run"))


@pytest.mark.slow
def test_a_collapse_is_a_loud_warning(cases: Cases, tmp_path: Path) -> None:
    done = cases.unlearn("ga", tmp_path / "run", "--evaluate", "--retrained", cases.retrained, "--lr", 3e-2).fine()
    warnings = receipt_of(tmp_path / "run")["warnings"]
    assert any(w.startswith("Utility is lost: model utility (") for w in warnings)
    assert all(f"warning: {w}\n" in done.out for w in warnings)


def test_what_is_watched_must_read_alike(cases: Cases, tmp_path: Path) -> None:
    model, tokenizer = llama.build("nano", ["Quite another text, from which other words are learnt. " * 9], seed=0)
    port_of.Text(tokenizer).save(model, tmp_path / "other")
    message = cases.unlearn("ga", tmp_path / "run", "--evaluate", "--retrained", tmp_path / "other").error
    assert message.startswith(
        "the model and the retrained model have incompatible tokenizers: 9 of 9 answers to forget have another number"
    )
    assert not (tmp_path / "run").exists()


def test_chats_are_asked_by_the_template(cases: Cases, tmp_path: Path) -> None:
    turns = "{% for m in messages %}<|bos|>{{ m['role'] }}: {{ m['content'] }}<|eos|>{% endfor %}"
    template = turns + "{% if add_generation_prompt %}<|bos|>assistant: {% endif %}"
    shutil.copytree(cases.model, tmp_path / "chat")
    settings = json.loads((tmp_path / "chat" / "tokenizer_config.json").read_text())
    (tmp_path / "chat" / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    rows = [
        {"messages": [{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}]}
        for r in rows_of(cases.forget)
    ]
    write_jsonl(tmp_path / "forget.jsonl", rows)
    cases.unlearn("graddiff", tmp_path / "run", model=tmp_path / "chat", forget=str(tmp_path / "forget.jsonl")).fine()
    assert receipt_of(tmp_path / "run")["modality"]["prompt_format"] == "chat template"
    modality = load(tmp_path / "run").modality
    assert modality.about()["prompt_format"] == "chat template"
    of_chats, of_questions = modality.rows("forget", rows), modality.rows("forget", rows_of(cases.forget))
    assert of_chats["prompt"] == of_questions["prompt"]
    expunge("audit", tmp_path / "run", "--forget", tmp_path / "forget.jsonl", "--out", tmp_path / "audit").fine()


# What must not be lost


def test_only_runs_are_replaced(cases: Cases, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "'notes.txt', which is not part of a run" in cases.unlearn("ga", tmp_path, "--overwrite").error
    run = tmp_path / "run"
    cases.unlearn("ga", run).fine()
    kept = receipt_of(run)
    assert f"the run folder {run} exists: give another one, or replace it with --overwrite" in cases.unlearn("ga", run).error
    cases.unlearn("ga", run, "--overwrite", "--betta", 3)  # a typing error
    cases.unlearn("ga", run, "--overwrite", forget=str(tmp_path / "nowhere.jsonl"))
    assert receipt_of(run) == kept
    message = cases.unlearn("ga", run, "--overwrite", model=run / "model").error
    assert message == f"{run / 'model'} lies in {run}, which --overwrite would replace: give another folder"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert "'model', which is not part of a run" in cases.unlearn("ga", tmp_path, "--overwrite").error.replace("'notes.txt'", "'model'")
    cases.unlearn("ga", run, "--overwrite", "--seed", 1).fine()
    assert receipt_of(run)["seed"] == 1


def test_a_folder_must_be_a_folder(cases: Cases, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    assert "run is a file, but a run needs a folder" in cases.unlearn("ga", tmp_path / "run").error
    assert "run is a file, and an audit needs a folder" in cases.audit(cases.model, tmp_path / "run").error


def test_an_interrupted_write_leaves_no_half_model(cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(self: object, model: nn.Module, folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(port_of.Text, "save", save)
    message = cases.unlearn("ga", tmp_path / "run", "--checkpoint-every", 0).error
    assert message == f"{tmp_path / 'run' / 'model.tmp'}: no space left on device"
    monkeypatch.undo()
    assert left(tmp_path / "run") == ["checkpoint", "log.jsonl", "model.tmp"]
    assert "has not ended, so it holds no model yet: go on with --resume" in cases.audit(tmp_path / "run", tmp_path / "audit").error
    cases.unlearn("ga", tmp_path / "run", "--resume").fine()
    assert left(tmp_path / "run") == ["log.jsonl", "model", "receipt.json"]


# From Python


def test_python_needs_no_folder(cases: Cases) -> None:
    opened = package.load(cases.model)
    before = worlds.tensors(opened.model)
    result = package.unlearn("npo", opened, rows_of(cases.forget), cases.retain, epochs=1, lr=1e-3)
    assert result.folder is None
    assert result.model is opened.model
    assert not worlds.same(before, worlds.tensors(result.model))
    assert result.receipt["cost"]["steps"] == 1
    audit = package.audit(opened, forget=cases.forget, retrained=cases.retrained)
    assert audit.folder is None
    assert audit.scores["forget_quality"]["value"] <= 1
    with pytest.raises(UserError, match="no hyperparameter 'betta'"):
        unlearn("npo", opened, cases.forget, cases.retain, betta=1)
    with pytest.raises(UserError, match="forget, row 1: a row is a mapping of columns to values, and this is a str"):
        unlearn("npo", opened, ["Who?"], cases.retain)  # type: ignore[list-item]


def test_python_takes_a_plan(cases: Cases) -> None:
    from expunge.methods.terms import NLL

    plan = package.Plan(NLL("retain"), train=package.Train(epochs=1, lr=1e-3, anchor="retain"))
    assert unlearn(plan, cases.model, retain=cases.retain).receipt["method"] == "custom"


def test_substitutes_may_come_with_their_questions(cases: Cases, tmp_path: Path) -> None:
    """Then the model is asked them, and not the hundred that we know; what was seen on the way stands in the receipt."""
    refused = [{"question": f"Who is number {i}?", "answer": "I do not know."} for i in range(3)]
    forget, retain = (rows_of(f)[:6] for f in (cases.forget, cases.retain))
    cost = []
    for name, answers in (("asked", refused), ("bare", [{"answer": r["answer"]} for r in refused])):
        result = unlearn("stamp", cases.model, forget, retain, alternate_answers=answers, out=tmp_path / name, layers=(0,), share=0.5)
        assert result.receipt["request"]["sets"]["alternate_answers"] == 3
        assert [r["block"] for r in receipt_of(tmp_path / name)["shown"]["fit by block"]] == [0]
        cost.append(result.receipt["cost"]["tokens"])
    assert cost[1] > cost[0] + 90 * 5
