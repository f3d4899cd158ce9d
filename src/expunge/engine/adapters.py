"""LoRA adapters for any module with linear layers. They are inserted once, before the first stage, so that names never change."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.core.parts import Objective
from expunge.core.plan import Plans
from expunge.core.suggest import did_you_mean

KINDS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # modules that LoRA works on, besides the Conv1D of `transformers`


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `DataParallel` and its like, which shares its weights: several devices are the matter of `accelerate launch`."""
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    return model


def insert(model: nn.Module, plans: Plans, seed: int) -> nn.Module:
    """Insert the adapter that the plans ask for.

    Args:
        seed: seed of the adapter's initial weights.

    Returns:
        The adapted model, or the model itself if no plan asks for an adapter or it already has one.

    Raises:
        UserError: if stages ask for different ranks, or if a stage does not train.
    """
    trained = [p.train for p in plans if isinstance(p.action, Objective)]
    settings = {(t.lora, t.lora_alpha, t.lora_dropout, t.lora_targets) for t in trained}
    if not any(rank for rank, *_ in settings) or is_adapted(model):
        return model
    if len(settings) > 1 or len(plans) > len(trained):
        raise UserError("LoRA works for methods that train in every stage; this one also edits weights directly, so leave --lora out")
    import peft

    train = trained[0]
    config = peft.LoraConfig(
        r=train.lora,
        lora_alpha=train.lora_alpha or 2 * train.lora,
        lora_dropout=train.lora_dropout,
        target_modules=targets(model, train.lora_targets),
        task_type=_task(model),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: nn.Module = peft.get_peft_model(model, config)
    return adapted


def _task(model: nn.Module) -> str | None:
    """What `peft` calls the task of a model; None for a model that generates no text."""
    if not (hasattr(model, "get_output_embeddings") and hasattr(model, "generate")):
        return None
    return "SEQ_2_SEQ_LM" if is_encoder_decoder(model) else "CAUSAL_LM"


def targets(model: nn.Module, wanted: str) -> str | list[str]:
    """The modules that get an adapter, as `target_modules` of `peft`.

    Args:
        wanted: `all-linear`, names or ends of names separated by commas (`q_proj, v_proj`), or a regular expression for whole names.

    Raises:
        UserError: for a name or an expression that fits no module, for a module that cannot have an adapter, and for one that shares its
            weights with another module.
    """
    names = [n for n, _ in model.named_modules() if n]
    if wanted == "all-linear":
        if hasattr(model, "get_output_embeddings"):  # peft leaves the head of such a model out, so that no tied weights are adapted
            return wanted
        resting = resting_in(model)
        chosen: list[str] = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and not n.startswith(resting)]
        target_modules: str | list[str] = chosen if resting else wanted
    elif re.fullmatch(r"[\w.\-]+(\s*,\s*[\w.\-]+)*\s*,?\s*", wanted):
        target_modules = [part.strip() for part in wanted.split(",") if part.strip()]
        ends = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, KINDS) or type(m).__name__ == "Conv1D"})
        for part in target_modules:
            if not any(n == part or n.endswith(f".{part}") for n in names):
                raise UserError(
                    f"this model has no module {part!r} to give an adapter{did_you_mean(part, ends)}; there are {', '.join(ends)}"
                )
        chosen = [n for n in names if any(n == part or n.endswith(f".{part}") for part in target_modules)]
    else:
        try:
            chosen = [n for n in names if re.fullmatch(wanted, n)]
        except re.error as error:
            raise UserError(
                f"--lora-targets {wanted!r} is neither names with commas between them nor a regular expression: {error}"
            ) from None
        if not chosen:
            raise UserError(f"no module of this model has a name that matches --lora-targets {wanted!r}; one is called {names[-1]}")
        target_modules = wanted
    for name in chosen:
        module = model.get_submodule(name)
        if not isinstance(module, KINDS) and type(module).__name__ != "Conv1D":
            raise UserError(f"the module {name} is a {type(module).__name__}, and LoRA works on linear layers, embeddings and convolutions")
        if other := _shares(model, name):
            raise UserError(
                f"the module {name} shares its weights with {other}, and an adapter on one of them cannot be merged into both: choose "
                "other --lora-targets"
            )
    return target_modules


def _shares(model: nn.Module, name: str) -> str:
    """Another module that has a weight of this one; '' where there is none."""
    own = {id(p) for p in model.get_submodule(name).parameters(recurse=False)}
    owners = (n for n, m in model.named_modules() if n != name and any(id(p) in own for p in m.parameters(recurse=False)))
    return next(owners, "")


def refuse_second(model: nn.Module, plans: Plans, source: str) -> None:
    """Refuse a new adapter for a model that has one.

    Raises:
        UserError: says which adapter the model has, and what to do.
    """
    if not is_adapted(model) or not any(p.train.lora for p in plans if isinstance(p.action, Objective)):
        return
    configs: Any = getattr(model, "peft_config", {})
    ranks = ", ".join(str(getattr(c, "r", "?")) for c in configs.values())
    raise UserError(
        f"{source} is a LoRA adapter of rank {ranks} already, and training goes on with that one: leave --lora and its settings out, or "
        "merge the adapter into its base first (expunge merge ADAPTER --out FOLDER)"
    )


@torch.no_grad()
def merged(model: nn.Module) -> nn.Module:
    """The model with its adapter worked into the weights, in place; a model without an adapter as it is.

    Weights that an adapted module shares with another one (tied embeddings) are separated first: the adapter changes only one of them.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    for name, module in list(model.named_modules()):
        layer = getattr(module, "base_layer", None)
        if isinstance(layer, nn.Module) and _shares(model, f"{name}.base_layer"):
            for parameter, value in list(layer.named_parameters(recurse=False)):
                setattr(layer, parameter, nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad))
    whole: Any = model
    with warnings.catch_warnings():  # peft warns of tied weights, which are separate now
        warnings.simplefilter("ignore")
        bare: Any = whole.merge_and_unload()
    ends = [getattr(bare, f"get_{end}_embeddings", lambda: None)() for end in ("input", "output")]
    if all(m is not None for m in ends) and ends[0].weight is not ends[1].weight:
        bare.config.get_text_config().tie_word_embeddings = bare.config.tie_word_embeddings = False
        bare.all_tied_weights_keys = {}
    untied: nn.Module = bare
    return untied


def is_adapted(model: nn.Module) -> bool:
    """Whether the model has LoRA adapters."""
    return any("lora_" in n for n, _ in model.named_parameters())


def restarted(model: nn.Module, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with which an adapter begins anew. Modules that are saved with it begin as those of its base.

    Args:
        fresh: fresh weights of the whole model, by name.

    Raises:
        UserError: for an adapter that changed its base, which is then not known any more.
    """
    configs: Any = getattr(model, "peft_config", {})
    state = model.state_dict()
    kept = {c.init_lora_weights for c in configs.values()} <= {True, False, "gaussian", "orthogonal", "eva"}
    if not kept or any(c.bias != "none" for c in configs.values()) or any("trainable_tokens_delta" in n for n in state):
        raise UserError(
            "this adapter keeps changes in weights of its base, so it cannot start anew: merge it first (expunge merge ADAPTER --out "
            "FOLDER) and give the model that it was trained on with --base"
        )
    begin = {n: t for n, t in fresh.items() if "lora_" in n}
    for name in state:
        if match := re.fullmatch(r"(.*)\.modules_to_save\.[^.]+\.(.*)", name):
            begin[name] = state[f"{match[1]}.original_module.{match[2]}"]
        elif match := re.fullmatch(r"(.*)\.lora_magnitude_vector\..*", name):
            begin[name] = magnitude(state[f"{match[1]}.base_layer.weight"], state[name])
    return begin


def magnitude(weight: Tensor, like: Tensor) -> Tensor:
    """The magnitudes with which DoRA begins: norms of the rows of a weight, or of its columns where `like` has as many as these."""
    over_rows = weight.shape[0] == like.numel()
    return (weight.float().flatten(1).norm(dim=1) if over_rows else weight.float().norm(dim=0)).view_as(like).to(like.dtype)


def base_of(model: nn.Module) -> nn.Module:
    """The model without the adapter's wrapper. Hook points and patches are named by paths in it."""
    get_base_model = getattr(model, "get_base_model", None)
    return get_base_model() if get_base_model and is_adapted(model) else model


def resting_in(model: nn.Module) -> tuple[str, ...]:
    """How the names of parameters begin that train only where they are named: of parts that a model declares to rest."""
    return tuple(f"{name}." for name in getattr(base_of(model), "resting", ()))


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether a model reads its prompt with an encoder and writes its answer with a decoder."""
    return bool(getattr(getattr(base_of(model), "config", None), "is_encoder_decoder", False))


def recompute(model: nn.Module) -> None:
    """Switch gradient checkpointing on.

    Raises:
        UserError: if the model does not support it.
    """
    enable_activation = getattr(model, "activation_checkpointing_enable", None)
    enable: Any = enable_activation or getattr(model, "gradient_checkpointing_enable", None)
    if enable is None:
        raise UserError(f"{type(model).__name__} has no gradient checkpointing: leave --gradient-checkpointing out")
    enable()
    if is_adapted(model):  # the input of the first block needs a gradient, and no frozen weight gives it one
        base: Any = base_of(model)
        base.enable_input_require_grads()
