"""Fisher information of single layers as a product of two small matrices (K-FAC), its eigenvalues corrected (EK-FAC), by kronfluence."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.core.modality import Modality, ModelOutput
from expunge.core.rows import Rows
from expunge.engine.adapters import base_of
from expunge.engine.run_state import evaluating

Strategy = Literal["ekfac", "kfac", "diagonal"]


@dataclass(frozen=True)
class KfacLayer:
    """A layer by its path, and the places of its weight and bias among the parameters that move; None: there is none that moves."""

    path: str
    weight: int
    bias: int | None


def layers(model: nn.Module, modality: Modality) -> list[KfacLayer]:
    """Linear and convolutional layers whose weight moves and is no other module's; the last one of a model where it is the only one.

    Errors: UserError where there are none.
    """
    place = {id(p): i for i, p in enumerate(p for p in model.parameters() if p.requires_grad)}
    owners = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    own = {n: m for n, m in model.named_modules() if type(m) in (nn.Linear, nn.Conv2d) and owners[id(m.weight)] == 1}
    found = [KfacLayer(n, place[id(m.weight)], place.get(id(m.bias))) for n, m in own.items() if id(m.weight) in place]
    if not found:
        raise UserError("no linear or convolutional layer of this model moves with weights of its own, and Kronecker factors are of layers")
    head = base_of(model).get_submodule(modality.head(model))
    return [layer for layer in found if own[layer.path] is not head] or found


def alike(modality: Modality, rows: Rows, size: int) -> Iterator[list[int]]:
    """Places of rows, so many at a time, of the same length: where nothing is padded, no statistic sees padding."""
    lengths = [modality.counts(rows.select([i]))["tokens"] for i in range(len(rows))]
    for length in sorted(set(lengths)):
        at = [i for i, n in enumerate(lengths) if n == length]
        yield from (at[i : i + size] for i in range(0, len(at), size))


@contextmanager
def tracked(model: nn.Module, task: Any, paths: Iterable[str]) -> Iterator[None]:
    """Meanwhile some layers are watched by kronfluence, which freezes all weights and stands in the layers' places."""
    from kronfluence.analyzer import prepare_model

    flags = [(p, p.requires_grad) for p in model.parameters()]
    layers = {path: model.get_submodule(path) for path in paths}
    try:
        with evaluating(model), torch.enable_grad():
            prepare_model(model, task)
            yield
    finally:
        for path, layer in layers.items():
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, layer)
        for p, flag in flags:
            p.requires_grad_(flag)
        model.zero_grad(set_to_none=True)


def fit(
    model: nn.Module,
    modality: Modality,
    ask: Callable[[Rows], ModelOutput],
    rows: Rows,
    losses: Callable[[ModelOutput], Iterable[Tensor]],
    paths: Sequence[str],
    strategy: Strategy = "ekfac",
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """Curvature of layers over some rows, a mean over labels, by path: `path/values` (out, in) in the basis of `path/outputs` (out, out)
    and `path/inputs` (in, in), whose columns are eigenvectors; of `diagonal` values alone. A bias is the last input.

    losses: answer -> losses, each (rows,) and on its own, as `stats.likelihoods` gives them. Errors: UserError without kronfluence.
    """
    try:
        from kronfluence.arguments import FactorArguments
        from kronfluence.factor.covariance import fit_covariance_matrices_with_loader
        from kronfluence.factor.eigen import fit_lambda_matrices_with_loader, perform_eigendecomposition
        from kronfluence.task import Task
        from kronfluence.utils.state import State
    except ImportError:
        raise UserError("Kronecker factors need kronfluence: pip install 'expunge[kronecker]'") from None
    with torch.no_grad(), evaluating(model):
        passes = sum(1 for _ in losses(ask(rows.select([0]))))

    class Drawn(Task):  # type: ignore[misc]  # one of the losses of some rows: a batch is its number, and places of rows
        def compute_train_loss(self, batch: Tensor, model: nn.Module, sample: bool = False) -> Tensor:
            which, *places = batch.tolist()
            (loss,) = islice(losses(ask(rows.select(places))), which, which + 1)
            return -math.sqrt(passes) * loss.sum()  # a mean is taken over passes, too

        def compute_measurement(self, batch: Tensor, model: nn.Module) -> Tensor:
            raise NotImplementedError

        def get_influence_tracked_modules(self) -> list[str]:
            return list(paths)

    task, state = Drawn(), State()
    exact: Any = torch.promote_types(next(model.parameters()).dtype, torch.float32)
    types = ("activation_covariance", "gradient_covariance", "per_sample_gradient", "lambda")
    args = FactorArguments(strategy=strategy, **{f"{t}_dtype": exact for t in types})
    loader = [torch.tensor([k, *places]) for places in alike(modality, rows, batch_size) for k in range(passes)]
    found: dict[str, Mapping[str, Tensor]] = {}
    with tracked(model, task, paths), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # kronfluence makes a gradient scaler in the old way
        if strategy != "diagonal":
            found |= fit_covariance_matrices_with_loader(model, state, task, loader, args, disable_tqdm=True)[1]
            found |= perform_eigendecomposition(found, model, state, args, disable_tqdm=True)
        if strategy != "kfac":
            basis = {n: f for n, f in found.items() if "eigen" in n} or None
            found |= fit_lambda_matrices_with_loader(model, state, task, loader, args, basis, disable_tqdm=True)[1]
    labels = modality.counts(rows)["labels"]
    made: dict[str, Tensor] = {}
    for path in paths:
        here = {n: f[path] for n, f in found.items()}
        if strategy == "kfac":  # of a position, of which a row has several
            values = here["gradient_eigenvalues"].clamp_min(0)[:, None] * here["activation_eigenvalues"].clamp_min(0)
            made[f"{path}/values"] = values * (int(here["num_activation_covariance_processed"]) / (passes * labels))
        else:
            made[f"{path}/values"] = here["lambda_matrix"] * (len(rows) / (int(here["num_lambda_processed"]) * labels))
        if strategy != "diagonal":
            made |= {f"{path}/outputs": here["gradient_eigenvectors"], f"{path}/inputs": here["activation_eigenvectors"]}
    return made
