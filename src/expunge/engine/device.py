"""The device and the dtype that models of this process compute on and in."""

from __future__ import annotations

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from torch import nn

from expunge.core.errors import UserError
from expunge.core.plan import Plans
from expunge.core.suggest import did_you_mean
from expunge.engine.distributed.process_group import connect

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def choose(name: str = "") -> torch.device:
    """The device for everything that this process loads from now on.

    Args:
        name: cpu, cuda or mps; auto: an accelerator where there is one; '': what was chosen before, at first auto.

    Raises:
        UserError: for an unknown device, one that this machine does not have, or one that a launcher did not give to this process.
    """
    if name not in ("", *DEVICES):
        raise UserError(f"there is no device called '{name}'{did_you_mean(name, DEVICES)}; there are {', '.join(DEVICES)}")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(name, True):
        usable = " and ".join(n for n, is_available in available.items() if is_available)
        raise UserError(f"torch finds no {name} device on this machine, only {usable}: give another --device")
    state = connect()
    current = state.device
    best = next((n for n in ("cuda", "mps") if available[n]), current.type)
    wanted = {"": current.type, "auto": best}.get(name, name)
    if wanted != current.type:
        if state.num_processes > 1:
            raise UserError(f"the launcher gave this process the device {current.type}, so --device {wanted} is not possible")
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState(cpu=wanted == "cpu")
    return torch.device(PartialState().device)


def dtype_of(name: str) -> torch.dtype | str:
    """The dtype to load weights in; `auto` is that of the files. Raises: UserError for an unknown name."""
    if name not in DTYPES:
        raise UserError(f"there is no dtype called '{name}'{did_you_mean(name, DTYPES)}; there are {', '.join(DTYPES)}")
    dtype: torch.dtype | str = name if name == "auto" else getattr(torch, name)
    return dtype


def check_trainable(model: nn.Module, plans: Plans) -> None:
    """Raises: UserError where a stage trains weights in float16, whose gradients underflow without loss scaling."""
    if any(plan.terms() for plan in plans) and any(p.requires_grad and p.dtype == torch.float16 for p in model.parameters()):
        raise UserError(
            "weights in float16 cannot be trained: their gradients are rounded to 0. Load them with --dtype bfloat16 or --dtype float32"
        )
