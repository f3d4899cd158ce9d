"""An epoch of unlearning, compared with a plain supervised epoch over the same tokens.

    python -m performance.training [--json FILE] [--quick] [--data FOLDER] [--model FOLDER] [--methods a,b]

The floor of a method is a bare loop over the same batches, with the same padding: a forward pass with labels, a backward pass, and the same
optimizer over all weights. `lean` is the stricter floor of the same loop with a language head at the labels only. An epoch leaves out the
preparation of a run (reference log-probabilities); `whole` is a run of one epoch with everything. The reference is the usual NPO of
research code: a `transformers.Trainer` whose loss runs the model and a second, frozen one, on one set at a time.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from performance import _bench as bench
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.core.rows import Sets
from expunge.engine import loop
from expunge.engine.schedule import optimizer_of
from expunge.io.models import Opened
from expunge.modalities.text import causal
from expunge.modalities.text.forward import packed_head
from expunge.workflows.build_plan import plan

METHODS = ("graddiff", "npo", "simnpo", "flat", "rmu", "sam")
MUST = {"sam": 2.2}  # the largest allowed ratio to the floor; 1.15 for other methods
Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]


def plans(name: str, model: nn.Module, modality: Any, batch_size: int, **overrides: Any) -> Any:
    """The plan of a method for one epoch with plain settings; `overrides` are other hyperparameters."""
    hyperparameters: dict[str, Any] = {"epochs": 1, "batch_size": batch_size, "lr": 1e-5, "warmup": 0, "max_grad_norm": 0.0, **overrides}
    hyperparameters |= {"steps": 0} if name in ("rmu", "sam") else {}
    hyperparameters |= {"layer": len(modality.blocks(model)) // 2} if name == "rmu" else {}
    return plan(name, hyperparameters)


def unlearn(name: str, opened: Opened, sets: Sets, batch_size: int, times: dict[str, float] | None = None, **overrides: Any) -> list[Pairs]:
    """Run a method for one epoch on a copy of the model.

    Args:
        name: of the method.
        opened: the model.
        sets: rows by set.
        batch_size: rows of each set in a step.
        times: receives the seconds of the epoch alone.
        overrides: hyperparameters.

    Returns:
        The batches with gradients.
    """
    model, batches, collate = copy.deepcopy(opened.model), list[Pairs](), causal.collate
    train = loop._Stage._train

    def watched(pairs: Pairs, pad: int, device: torch.device) -> Any:
        if torch.is_grad_enabled():
            batches.append(pairs)
        return collate(pairs, pad, device)

    def timed(stage: Any, resume: Any) -> None:
        wall, cpu = time.perf_counter(), bench.processor()
        train(stage, resume)
        bench._wait()
        if times is not None:
            times.update(wall=time.perf_counter() - wall, cpu=bench.processor() - cpu)

    with mock.patch.object(causal, "collate", watched), mock.patch.object(loop._Stage, "_train", timed):
        loop.run(plans(name, model, opened.modality, batch_size, **overrides), model, opened.modality, sets)
    return batches


def floor(opened: Opened, batches: Sequence[Pairs], like: Any, lean: bool = False) -> None:
    """Train a copy for a plain epoch over batches, with the optimizer of `like`; see the module for `lean`."""
    model = copy.deepcopy(opened.model).train()
    optimizer = optimizer_of(like, list(model.parameters()))
    device = next(model.parameters()).device
    for pairs in batches:
        ids, mask, layout = opened.modality.collate(pairs, device)
        if lean:
            with packed_head(model, layout.label_at):
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0]
            loss = F.cross_entropy(logits, layout.labels)
        else:
            loss = model(input_ids=ids, attention_mask=mask, labels=labeled(pairs, ids), use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def labeled(pairs: Pairs, ids: Tensor) -> Tensor:
    """Labels: the ids of the answers, and -100 elsewhere."""
    labels = torch.full_like(ids, -100)
    for i, (prompt, answer) in enumerate(pairs):
        labels[i, len(prompt) : len(prompt) + len(answer)] = ids[i, len(prompt) : len(prompt) + len(answer)]
    return labels


def reference(opened: Opened, sets: Sets, batch_size: int) -> Callable[[], None]:
    """A run of NPO in the usual way of research code."""
    import tempfile

    from transformers import PrinterCallback, Trainer, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    pairs = {n: list(zip(sets[n]["prompt"], sets[n]["answer"], strict=True)) for n in ("forget", "retain")}

    class Both(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(pairs["forget"])

        def __getitem__(self, i: int) -> Any:
            return pairs["forget"][i], pairs["retain"][int(torch.randint(len(pairs["retain"]), ()))]

    def collate(items: Sequence[Any]) -> dict[str, dict[str, Tensor]]:
        batch = {}
        for k, name in enumerate(("forget", "retain")):
            set_pairs = [item[k] for item in items]
            ids, mask, _ = opened.modality.collate(set_pairs, torch.device("cpu"))
            batch[name] = {"input_ids": ids, "attention_mask": mask, "labels": labeled(set_pairs, ids)}
        return batch

    def nll(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        logits, labels = model(**{n: x for n, x in inputs.items() if n != "labels"}).logits[:, :-1], inputs["labels"][:, 1:]
        return F.cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=-100, reduction="none").sum(1)

    class NPO(Trainer):
        def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            with torch.no_grad():
                reference_nll = nll(self.frozen, inputs["forget"])
            loss = -(2 / 0.1) * F.logsigmoid(0.1 * (nll(model, inputs["forget"]) - reference_nll)).mean() + model(**inputs["retain"]).loss
            return (loss, None) if return_outputs else loss

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                num_train_epochs=1,
                per_device_train_batch_size=batch_size,
                learning_rate=1e-5,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                remove_unused_columns=False,
                max_grad_norm=0.0,
                disable_tqdm=True,
                log_level="error",
                use_cpu=not torch.cuda.is_available(),
            )
            trainer = NPO(copy.deepcopy(opened.model), arguments, train_dataset=Both(), data_collator=collate)
            trainer.remove_callback(PrinterCallback)
            trainer.frozen = copy.deepcopy(opened.model).eval().requires_grad_(False).to(arguments.device)
            trainer.train()

    return run


def main() -> None:
    arguments = bench.options(
        __doc__,
        methods={"default": ",".join(METHODS), "help": "which methods"},
        batch_size={"type": int, "default": 32, "help": "rows of each set in a step"},
    )
    suite = bench.suite(arguments)
    opened = bench.original(arguments, suite, trained=False)
    rows = {
        n: opened.modality.rows(n, suite.train[n][: arguments.items or (64 if arguments.quick else None)]) for n in ("forget", "retain")
    }
    sets = {**rows, "alternate_answers": opened.modality.answers(list(suite.refusals) or opened.modality.refusals())}
    methods = arguments.methods.split(",")
    batches = {m: unlearn(m, opened, sets, arguments.batch_size) for m in methods}
    if "sam" in batches:  # it reads the tokens of the same terms without it
        batches["sam"] = batches.get("npo") or unlearn("npo", opened, sets, arguments.batch_size)
    times, epochs = bench.Times(), bench.Times()
    like = {m: plans(m, opened.model, opened.modality, arguments.batch_size)[0].train for m in methods}

    def epoch(m: str) -> None:
        seconds: dict[str, float] = {}
        unlearn(m, opened, sets, arguments.batch_size, seconds)
        epochs.add(m, **seconds)

    ways: dict[str, Any] = {}
    for m in methods:
        ways[f"{m} floor"] = lambda m=m: floor(opened, batches[m], like[m])
        ways[f"{m} lean"] = lambda m=m: floor(opened, batches[m], like[m], lean=True)
        ways[m] = lambda m=m: epoch(m)
    if "npo" in methods:
        ways["npo by research code"] = reference(opened, sets, arguments.batch_size)
    bench.interleaved(ways, arguments.rounds, times=times)
    parts = {}
    for clock in ("wall", "cpu"):
        for m in methods:
            rounds = getattr(times, clock)
            rounds[f"{m} epoch"] = getattr(epochs, clock)[m][1:]  # without the warm-up round
    for m in methods:
        tokens = sum(len(p) + len(a) for pairs in batches[m] for p, a in pairs)
        parts[m] = {
            "seconds": times.seconds(f"{m} epoch"),
            "tokens": tokens,
            "must": MUST.get(m, 1.15),
            **{f"{u}{c}": round(times.ratio(f"{m} {o}".strip(), f"{m} {f}", clock), 3) for u, o, f, c, clock in KINDS},
        }
    bench.table(
        [
            [m, *(p[k] for k in ("seconds", "to_floor", "to_lean", "whole_to_floor", "to_floor_cpu", "to_lean_cpu", "must"))]
            for m, p in parts.items()
        ],
        ("method", "s an epoch", "/ floor", "/ lean", "whole / floor", "/ floor, cpu", "/ lean, cpu", "must"),
    )
    numbers: dict[str, Any] = {"ratio_to_floor": max(p["to_floor"] / p["must"] * 1.15 for p in parts.values()), "parts": parts}
    if "npo" in methods:
        numbers["speedup_over_reference"] = round(times.ratio("npo by research code", "npo"), 2)
        numbers["speedup_over_reference_cpu"] = round(times.ratio("npo by research code", "npo", "cpu"), 2)
        print(f"research code's NPO takes {numbers['speedup_over_reference']} times as long")
    bench.finish(arguments, "training", numbers)


KINDS = (
    ("to_floor", "epoch", "floor", "", "wall"),
    ("to_lean", "epoch", "lean", "", "wall"),
    ("whole_to_floor", "", "floor", "", "wall"),
    ("to_floor", "epoch", "floor", "_cpu", "cpu"),
    ("to_lean", "epoch", "lean", "_cpu", "cpu"),
)

if __name__ == "__main__":
    main()
