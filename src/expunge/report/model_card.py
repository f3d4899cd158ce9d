"""The card of a model or an adapter, written from the receipt of its run. It quotes no rows and no local paths."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.report.markdown import prose, table

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
LOCAL = "a local folder or file"


def card(receipt: Mapping[str, Any], summary: str = "", base: str = "", library: str = "") -> str:
    """The card as Markdown with a YAML head.

    Args:
        receipt: of the run.
        summary: what the method does, in a sentence.
        base: the model that an adapter belongs to.
        library: code that loads the result; '' leaves it out.
    """
    public, kind = without_private(receipt), str(receipt["result"]["kind"])
    source = base or str(receipt["model"]["source"])
    known = source if is_hub_id(source) else ""
    head = [f"library_name: {'peft' if kind == 'adapter' else 'transformers'}", *([f"base_model: {known}"] if known else [])]
    trained = "forget" not in receipt["request"]["sets"]
    lines = ["---", *head, "tags:", "- expunge", *([] if trained else ["- machine-unlearning"]), "---", ""]
    lines += [f"# {'An adapter' if kind == 'adapter' else 'A model'} {_verb(receipt)} with {receipt['method']}", ""]
    lines += [prose(summary), ""] if summary else []
    lines += [f"It started from {f'`{known}`' if known else 'a model that is not on the hub'}. {_sets(receipt)}", ""]
    lines += ["## What was done", "", *_stages(public["stages"]), "", f"{_cost(receipt)}", ""]
    if warnings := [*receipt["request"].get("findings", ()), *receipt["warnings"]]:
        lines += ["## Warnings of the run", "", *(f"- {prose(_without_paths(str(w)))}" for w in warnings), ""]
    lines += ["## What it is not", "", _limits(trained, receipt["result"].get("guarantee") or {}), ""]
    if library:
        lines += ["## How to load it", "", "```python", library, "```", ""]
    versions = ", ".join(f"{name} {version}" for name, version in receipt["versions"].items())
    return (
        "\n".join(
            [*lines, "## How it was made", "", f"`receipt.json` has all settings. Weights `{receipt['result']['weights']}`; {versions}."]
        )
        + "\n"
    )


def loading(kind: str, configuration: Mapping[str, Any]) -> str:
    """Code that loads a result. configuration: the content of its config.json; empty for an adapter."""
    if kind == "adapter":
        return "from peft import PeftModel\n\nmodel = PeftModel.from_pretrained(BASE_MODEL, FOLDER)  # BASE_MODEL: the loaded base"
    if not configuration.get("architectures") or "auto_map" in configuration:
        return ""
    name = configuration["architectures"][0]
    return f"from transformers import {name}\n\nmodel = {name}.from_pretrained(FOLDER)"


def without_private(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """A receipt for others to read: without hashes of rows, places of rows and local paths."""
    public = {k: _clean(v) for k, v in receipt.items() if k != "selected"}
    public["request"] = {k: v for k, v in public["request"].items() if k != "hash"}
    source = str(receipt["model"]["source"])
    public["model"] = {**public["model"], "source": source if is_hub_id(source) or receipt["model"].get("start") else LOCAL}
    return public


def is_hub_id(source: str) -> bool:
    """Whether a source is the id of a model on the hub, as far as its form tells."""
    return HUB_ID.fullmatch(source) is not None


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v) for v in value]
    return _without_paths(value) if isinstance(value, str) else value


def _without_paths(text: str) -> str:
    """A text with words in place of paths of this machine."""
    return re.sub(r"(?<![\w.])(~|\.{1,2})?/[\w.@+-]+(/[\w.@+-]*)+|(?<!\S)[A-Za-z]:\\\S+|^(~|\.{0,2})/\S*$", LOCAL, text)


def _verb(receipt: Mapping[str, Any]) -> str:
    return "that was changed to forget training rows" if "forget" in receipt["request"]["sets"] else "that was trained"


def _sets(receipt: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} rows of `{name}`" for name, count in receipt["request"]["sets"].items())
    return f"The run read {counts}." if counts else ""


def _stages(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for stage in stages:
        rows = [[f"`{name}`", f"`{value}`" if value not in ("", [], None) else "none"] for name, value in stage["hyperparameters"].items()]
        lines += [f"Stage `{stage['name']}`:", "", *table(["setting", "value"], rows), ""]
    return lines[:-1]


def _cost(receipt: Mapping[str, Any]) -> str:
    cost = receipt["cost"]
    return f"It took {cost['steps']} steps; {cost['trained']:,} of {cost['parameters']:,} parameters could move. Seed {receipt['seed']}."


def _limits(trained: bool, guarantee: Mapping[str, Any]) -> str:
    """What the card does not promise. guarantee: of a by-design method, with its level, meaning and what voids it."""
    if guarantee and not trained:
        return f"Guarantee {guarantee['level']}, {guarantee['meaning']}. It is void if {'; or if '.join(guarantee['void'])}."
    if trained:
        return "This card describes how the model was trained. It says nothing about what the model is good for."
    return (
        "No guarantee that the rows are gone: most methods approximate what retraining without them does exactly. An audit "
        "(`expunge audit`) measures what is still known."
    )
