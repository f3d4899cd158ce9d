"""Rollouts that vLLM samples: an engine beside the model, which gets the model's weights before each batch of prompts."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from expunge.core.capabilities import OneSequence, Samples, require
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.rows import Packed, Rows
from expunge.engine.adapters import is_adapted, merged

MEMORY = 0.3  # share of the accelerator's memory that the engine takes; training needs the rest
_engines: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()  # by model: an engine takes minutes to start


def sample(model: nn.Module, modality: Modality, rows: Rows, samples: int, limit: int, heat: float, seed: int) -> Samples:
    """Sample answers with vLLM, as `generate` of the modality does.

    Args:
        rows: each prompt `samples` times in a row; it is read once.
        limit: most tokens of an answer.
        heat: sampling temperature.
        seed: of this batch. vLLM does not promise the same answers on other machines, nor where it schedules requests otherwise.

    Returns:
        The samples, with the log-probability of each token under the distribution that it was drawn from.

    Raises:
        UserError: when vLLM is missing, or the model is no causal language model.
    """
    text: Any = require(modality, OneSequence)
    vllm = _library()
    speaker = merged(copy.deepcopy(model)) if is_adapted(model) else model
    engine = _engine(vllm, model, modality, speaker)
    engine.apply_model(partial(_load, weights=[(name, weight.detach()) for name, weight in speaker.state_dict().items()]))
    engine.reset_prefix_cache()  # what it holds was computed by the weights before
    prompts = [list(prompt) for prompt in rows["prompt"]][::samples]
    ends = text.ends(model)
    common = {"n": samples, "temperature": heat, "logprobs": 0, "stop_token_ids": sorted(ends), "ignore_eos": True, "detokenize": False}
    settings = [
        vllm.SamplingParams(max_tokens=min(limit, text.limit - len(prompt)) if text.limit else limit, seed=seed + i, **common)
        for i, prompt in enumerate(prompts)
    ]
    requests = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], settings, use_tqdm=False)
    return _samples([answer for request in requests for answer in request.outputs], ends)


def _load(engine_model: Any, weights: Sequence[tuple[str, Tensor]]) -> None:
    engine_model.load_weights(iter(weights))


def _samples(outputs: Sequence[Any], ends: frozenset[int]) -> Samples:
    """The answers of an engine; the token that stopped one is its last."""
    tokens = [list(output.token_ids) for output in outputs]
    ended = [bool(ids) and ids[-1] in ends for ids in tokens]
    logp = [
        candidates[token].logprob
        for output, ids in zip(outputs, tokens, strict=True)
        for token, candidates in zip(ids, output.logprobs, strict=True)
    ]
    row = torch.tensor([i for i, ids in enumerate(tokens) for _ in ids], dtype=torch.long)
    bare = [ids[:-1] if stopped else ids for ids, stopped in zip(tokens, ended, strict=True)]
    last = [ids[-1] if stopped else -1 for ids, stopped in zip(tokens, ended, strict=True)]
    return Samples(bare, ended, last, Packed(torch.tensor(logp), row, len(tokens)))


def _library() -> Any:
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine in this process takes weights without copies on disk
    try:
        import vllm
    except ImportError:
        raise UserError("rollouts that vLLM serves need vLLM: pip install 'expunge[vllm]', or leave --serve out") from None
    return vllm


def _engine(vllm: Any, model: nn.Module, modality: Modality, speaker: nn.Module) -> Any:
    """The engine of a model. It starts from files, which are deleted again."""
    if model not in _engines:
        with tempfile.TemporaryDirectory(prefix="expunge-vllm-", ignore_cleanup_errors=True) as folder:
            modality.save(speaker, Path(folder))
            dtype = str(next(speaker.parameters()).dtype).removeprefix("torch.")
            _engines[model] = vllm.LLM(
                model=folder,
                dtype=dtype,
                gpu_memory_utilization=MEMORY,
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",  # those at the sampling temperature
            )
    return _engines[model]
