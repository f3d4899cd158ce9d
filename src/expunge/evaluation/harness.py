"""General utility by lm-evaluation-harness: its tasks, asked of a model that is loaded already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.capabilities import OneSequence, offers
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.io.models import Opened

EXTRA = "utility"
PREFERRED = ("acc", "exact_match", "f1", "bleu")  # the metric of a task that stands for it, the first that it has
BATCH = 8


def general_utility(opened: Opened, tasks: Sequence[str], folder: str | Path = "", limit: int = 0) -> dict[str, dict[str, Any]]:
    """Scores of a language model on tasks of the harness.

    Args:
        opened: a causal language model with its tokenizer. A guard around it does not speak here.
        tasks: names of tasks or groups, such as mmlu or arc_challenge.
        folder: of task files (YAML) besides those of the harness; tasks with local data need no network.
        limit: items of a task at most; 0: all.

    Returns:
        By task, a record of its score: value, interval (95 %, normal, from the harness's standard error), n, and what it is.

    Raises:
        UserError: where the harness is not installed, for an unknown task, for a folder that does not exist, and for a model that is no
            causal language model.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError(f"general utility needs lm-evaluation-harness: pip install 'expunge[{EXTRA}]'") from None
    if folder and not Path(folder).expanduser().is_dir():
        raise UserError(f"{folder} is no folder of tasks")
    if not offers(opened.modality, OneSequence):
        raise UserError("general utility is measured of causal language models, and this model is none")
    language: Any = opened.modality
    own = str(Path(folder).expanduser()) if folder else None
    manager = TaskManager(include_path=own, include_defaults=False)
    if not set(tasks) <= set(manager.all_tasks):  # to list the thousands of the harness takes its time
        manager = TaskManager(include_path=own)
    for task in tasks:
        if task not in manager.all_tasks:
            raise UserError(f"lm-evaluation-harness has no task '{task}'{did_you_mean(task, manager.all_tasks)}")
    device = str(next(opened.model.parameters()).device)
    speaker = HFLM(pretrained=opened.model, tokenizer=language.encoder.tokenizer, backend="causal", device=device, batch_size=BATCH)
    settings: dict[str, Any] = {"limit": limit or None, "bootstrap_iters": 0, "log_samples": False, "task_manager": manager}
    results = simple_evaluate(model=speaker, tasks=list(tasks), **settings)
    assert results is not None
    sizes = results.get("n-samples", {})
    return {task: _record(task, results["results"][task], sizes.get(task, {}).get("effective")) for task in tasks}


def _record(task: str, values: Mapping[str, Any], items: int | None) -> dict[str, Any]:
    """The score of a task as a record. Raises: UserError where it has no number."""
    numbers = {name: value for name, value in values.items() if isinstance(value, float | int) and "_stderr" not in name and "," in name}
    if not numbers:
        raise UserError(f"the task '{task}' of lm-evaluation-harness gave no number")
    name = next((n for p in PREFERRED for n in numbers if n.split(",")[0] == p), next(iter(numbers)))
    metric, _, way = name.partition(",")
    value, error = float(numbers[name]), values.get(f"{metric}_stderr,{way}")
    half = 1.96 * float(error) if isinstance(error, float | int) else 0.0
    return {
        "value": value,
        "interval": [value - half, value + half],
        "n": items,
        "direction": "higher",
        "ideal": None,
        "variant": f"lm-evaluation-harness, {metric}",
        "retrained": None,
        "kind": "utility",
        "meaning": f"score of the task {task}",
        "shows": False,
        "scale": "linear",
    }
