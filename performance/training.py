"""An epoch of unlearning against a plain supervised epoch over the same tokens.

    python -m performance.training [--json FILE] [--quick] [--data FOLDER] [--model FOLDER] [--methods a,b]

The floor of a method is a bare loop over the very batches that it saw: padded alike, forward with labels, backward, the same optimiser over
all weights. `lean` is the stricter floor of the same loop with a language head that sees labels alone. An epoch leaves out what a run does
once before it (reference log-probabilities); `whole` is a run of one epoch with everything. The reference is how research code mostly does
NPO: a `transformers.Trainer` whose loss asks the model and a second, frozen one, about one set at a time.
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
from expunge.modalities.text.modality import packed_head
from expunge.workflows.build_plan import plan

METHODS = ("graddiff", "npo", "simnpo", "flat", "rmu", "sam")
MUST = {"sam": 2.2}  # others 1.15
Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]


def plans(name: str, model: nn.Module, modality: Any, batch_size: int, **more: Any) -> Any:
    """A method for one epoch of plain settings. more: hyperparameters that differ from these."""
    hyperparameters: dict[str, Any] = {"epochs": 1, "batch_size": batch_size, "lr": 1e-5, "warmup": 0, "max_grad_norm": 0.0, **more}
    hyperparameters |= {"steps": 0} if name in ("rmu", "sam") else {}
    hyperparameters |= {"layer": len(modality.blocks(model)) // 2} if name == "rmu" else {}
    return plan(name, hyperparameters)


def unlearn(name: str, opened: Opened, sets: Sets, batch_size: int, times: dict[str, float] | None = None, **more: Any) -> list[Pairs]:
    """Run a method for an epoch on a copy; the batches that it took gradients of.

    times: filled with seconds of the epoch alone; more: hyperparameters.
    """
    model, seen, collate = copy.deepcopy(opened.model), list[Pairs](), opened.modality.collate
    train = loop._Stage._train

    def watched(pairs: Pairs, device: torch.device) -> Any:
        if torch.is_grad_enabled():
            seen.append(pairs)
        return collate(pairs, device)

    def timed(stage: Any, resume: Any) -> None:
        wall, cpu = time.perf_counter(), bench.processor()
        train(stage, resume)
        bench._wait()
        if times is not None:
            times.update(wall=time.perf_counter() - wall, cpu=bench.processor() - cpu)

    with mock.patch.object(opened.modality, "collate", watched), mock.patch.object(loop._Stage, "_train", timed):
        loop.run(plans(name, model, opened.modality, batch_size, **more), model, opened.modality, sets)
    return seen


def floor(opened: Opened, batches: Sequence[Pairs], like: Any, lean: bool = False) -> None:
    """A plain epoch over batches."""
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
            loss = model(input_ids=ids, attention_mask=mask, labels=labelled(pairs, ids), use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def labelled(pairs: Pairs, ids: Tensor) -> Tensor:
    """Ids with -100 where nothing is to be predicted."""
    labels = torch.full_like(ids, -100)
    for i, (prompt, answer) in enumerate(pairs):
        labels[i, len(prompt) : len(prompt) + len(answer)] = ids[i, len(prompt) : len(prompt) + len(answer)]
    return labels


def reference(opened: Opened, sets: Sets, batch_size: int) -> Callable[[], None]:
    """NPO as most research code does it."""
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

    def collate(some: Sequence[Any]) -> dict[str, dict[str, Tensor]]:
        out = {}
        for k, name in enumerate(("forget", "retain")):
            mine = [x[k] for x in some]
            ids, mask, _ = opened.modality.collate(mine, torch.device("cpu"))
            out[name] = {"input_ids": ids, "attention_mask": mask, "labels": labelled(mine, ids)}
        return out

    def nll(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        logits, labels = model(**{n: x for n, x in inputs.items() if n != "labels"}).logits[:, :-1], inputs["labels"][:, 1:]
        return F.cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=-100, reduction="none").sum(1)

    class NPO(Trainer):
        def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            with torch.no_grad():
                old = nll(self.frozen, inputs["forget"])
            loss = -(2 / 0.1) * F.logsigmoid(0.1 * (nll(model, inputs["forget"]) - old)).mean() + model(**inputs["retain"]).loss
            return (loss, None) if return_outputs else loss

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            how = TrainingArguments(
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
            trainer = NPO(copy.deepcopy(opened.model), how, train_dataset=Both(), data_collator=collate)
            trainer.remove_callback(PrinterCallback)
            trainer.frozen = copy.deepcopy(opened.model).eval().requires_grad_(False).to(how.device)
            trainer.train()

    return run


def main() -> None:
    given = bench.options(
        __doc__,
        methods={"default": ",".join(METHODS), "help": "which methods"},
        batch_size={"type": int, "default": 32, "help": "rows a step"},
    )
    made = bench.suite(given)
    opened = bench.original(given, made, trained=False)
    rows = {n: opened.modality.rows(n, made.train[n][: given.items or (64 if given.quick else None)]) for n in ("forget", "retain")}
    sets = {**rows, "alternate_answers": opened.modality.answers(list(made.refusals) or opened.modality.refusals())}
    methods = given.methods.split(",")
    batches = {m: unlearn(m, opened, sets, given.batch) for m in methods}
    if "sam" in batches:  # its tokens are those of the same terms without it
        batches["sam"] = batches.get("npo") or unlearn("npo", opened, sets, given.batch)
    times, epochs = bench.Times(), bench.Times()
    like = {m: plans(m, opened.model, opened.modality, given.batch)[0].train for m in methods}

    def epoch(m: str) -> None:
        seconds: dict[str, float] = {}
        unlearn(m, opened, sets, given.batch, seconds)
        epochs.add(m, **seconds)

    ways: dict[str, Any] = {}
    for m in methods:
        ways[f"{m} floor"] = lambda m=m: floor(opened, batches[m], like[m])
        ways[f"{m} lean"] = lambda m=m: floor(opened, batches[m], like[m], lean=True)
        ways[m] = lambda m=m: epoch(m)
    if "npo" in methods:
        ways["npo by research code"] = reference(opened, sets, given.batch)
    bench.interleaved(ways, given.rounds, times=times)
    parts = {}
    for clock in ("wall", "cpu"):
        for m in methods:
            mine = getattr(times, clock)
            mine[f"{m} epoch"] = getattr(epochs, clock)[m][1:]  # the first one warmed up
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
    found: dict[str, Any] = {"ratio_to_floor": max(p["to_floor"] / p["must"] * 1.15 for p in parts.values()), "parts": parts}
    if "npo" in methods:
        found["speedup_over_reference"] = round(times.ratio("npo by research code", "npo"), 2)
        found["speedup_over_reference_cpu"] = round(times.ratio("npo by research code", "npo", "cpu"), 2)
        print(f"research code's NPO takes {found['speedup_over_reference']} times as long")
    bench.finish(given, "training", found)


KINDS = (
    ("to_floor", "epoch", "floor", "", "wall"),
    ("to_lean", "epoch", "lean", "", "wall"),
    ("whole_to_floor", "", "floor", "", "wall"),
    ("to_floor", "epoch", "floor", "_cpu", "cpu"),
    ("to_lean", "epoch", "lean", "_cpu", "cpu"),
)

if __name__ == "__main__":
    main()
