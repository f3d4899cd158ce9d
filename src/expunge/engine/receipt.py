"""The receipt of a run, one JSON file: the request, the stages, the versions, the cost and the warnings."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.hyperparameters import hyperparameters_of
from expunge.core.plan import Plans
from expunge.engine.run_state import RunState, device_of

PACKAGES = ("expunge", "torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy", "diffusers")


def hash_weights(model: nn.Module) -> str:
    """Sixteen hex digits of SHA-256 over names, types and values of all weights and buffers; the same on every device."""
    h = hashlib.sha256()
    for name, t in sorted(model.state_dict().items()):
        h.update(f"{name}{t.dtype}{tuple(t.shape)}".encode())
        h.update(bytes_of(t))
    return h.hexdigest()[:16]


def bytes_of(t: Tensor) -> memoryview:
    """The bytes of a tensor's values; the same on every device."""
    values = t.detach().cpu().contiguous().view(-1)
    return values.view(torch.uint8).numpy().data if values.numel() else memoryview(b"")


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that results depend on."""
    return dict(_installed())


@cache
def _installed() -> dict[str, str]:
    """The versions, read once in a process: an attack asks for them at every look."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def machine() -> dict[str, Any]:
    """The kind of machine that made the numbers, without the name of a computer."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    return {"system": platform.system(), "processor": platform.machine(), "threads": torch.get_num_threads(), "device": device}


def compute(model: nn.Module) -> dict[str, str]:
    """What a model computes on and in: `device` (cpu, cuda, mps) and `dtype` of its weights, several dtypes joined by a comma."""
    weights = [p for p in model.parameters() if p.is_floating_point()]
    dtypes = dict.fromkeys(str(p.dtype).removeprefix("torch.") for p in weights)
    return {"device": device_of(model).type, "dtype": ", ".join(sorted(dtypes))}


def peak_memory() -> int:
    """Peak memory in bytes: of a CUDA device if there is one, otherwise of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        import psutil  # which accelerate brings along

        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def cost(run: RunState) -> dict[str, float]:
    """The cost of a run: seconds, optimizer steps, tokens, FLOPs (estimated), parameters, peak memory in bytes, processes."""
    c, n = run.cost, sum(p.numel() for p in run.model.parameters())
    return {
        "seconds": round(c.seconds, 3),
        "steps": c.steps,
        "tokens": c.forward_tokens,
        "backward_tokens": c.backward_tokens,
        "flops": c.flops(n),
        "parameters": n,
        "trained": sum(p.numel() for p in run.model.parameters() if p.requires_grad),
        "peak_memory_bytes": peak_memory(),
        "processes": run.process_group.count,
    }


def plain(value: Any) -> Any:
    """A hyperparameter's value as plain JSON. A weight that depends on the epoch is named, not stored."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return getattr(value, "__qualname__", str(value))


def as_json(data: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a reader of the written JSON gets: plain data, with texts as keys."""
    return dict(json.loads(json.dumps(data, default=plain)))


def describe(plans: Plans) -> list[dict[str, Any]]:
    """The resolved stages as plain data: the parts of each, and the value of every hyperparameter."""
    stages = []
    for i, plan in enumerate(plans):
        terms = [{"objective": type(t.objective).__name__, "role": t.objective.role, "weight": plain(t.weight)} for t in plan.terms()]
        stages.append(
            {
                "name": plan.name or f"stage{i + 1}",
                "action": terms or type(plan.action).__name__,
                "updates": [type(u).__name__ for u in plan.updates],
                "selectors": [type(s).__name__ for s in plan.selectors],
                "stop_rules": [type(u).__name__ for u in plan.stop_rules],
                "start": plan.start,
                "reference": plan.reference,
                "hyperparameters": {k.qualified: plain(k.value) for k in hyperparameters_of(plan)},
            }
        )
    return stages


def write(path: Path, data: Mapping[str, Any], deep: bool = True) -> None:
    """Write JSON under a temporary name, then rename it, so that no reader sees half a file.

    Args:
        deep: whether to indent every level; otherwise each top-level value, or each entry of a top-level list, takes one line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(
        (json.dumps(data, indent=2, ensure_ascii=False, default=plain) if deep else _by_line(data)) + "\n", encoding="utf-8"
    )
    temporary.replace(path)


def _by_line(data: Mapping[str, Any]) -> str:
    def one_line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, default=plain)

    def lines(value: Any) -> str:
        return "[\n    " + ",\n    ".join(map(one_line, value)) + "\n  ]" if isinstance(value, list) and value else one_line(value)

    return "{\n" + ",\n".join(f"  {one_line(n)}: {lines(v)}" for n, v in data.items()) + "\n}"
