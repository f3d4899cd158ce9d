"""MU-Coreset: forget with a small part of the rows to forget, drawn by chance or scored, over as many steps as with all of them.

Where rows say much the same, as in a benchmark about one topic, a few of them carry the whole request. How few is measured on those left
out. It stands before any method: `--select coreset --fraction 0.05`.

Equation: keep the max(1, floor(p n)) rows of highest s, p `fraction`; random: s drawn by `draw` and the row's id, so that smaller coresets
  lie in larger ones; grand: s = mean_t |grad L_NPO(z; theta_t)|, t = 0 to `along` epochs of NPO; moderate: s = -|d - median d|, d the
  distance of the head's mean input to the centre of its cluster, as many rows of each cluster as its size says; min_k: s = the mean
  log-prob of the share `k` of a row's labels that are least likely: what is known best is kept
Source: Pal et al. 2025, arXiv 2504.10185
Needs: forget
Cost: once, random: nothing; moderate, min_k: a forward of the rows to forget; grand: at each t a forward and backward of each row alone,
  and t epochs of NPO on a copy of the model. Then as much as with all rows, or with `repeat` off that share of it
Differs: steps are matched instead of epochs chosen for each size; gradients for grand are NPO's without a retain term, whatever method
  follows; clusters and k are assumptions; keywords are found by their frequency (`keywords`), where the authors ask a language model. A
  method of several stages scores rows anew in each; chance draws the same
Status: faithful
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Part, Selector
from expunge.core.plan import Plan, Train
from expunge.core.random import seed_of
from expunge.core.rows import Sets
from expunge.core.view import View
from expunge.engine.gradient import global_norm
from expunge.methods.objectives.npo import NPO
from expunge.methods.terms import NLL


def moderate(x: Tensor, clusters: int) -> Tensor:
    """Scores, (rows,), highest at the median distance to the centre of a cluster; its share of the highest is that of all rows.

    x: (rows, width).
    """
    import numpy as np
    from sklearn.cluster import KMeans

    points = x.double().numpy()
    found = KMeans(min(clusters, len(np.unique(points, axis=0))), n_init=10, random_state=0).fit(points)
    away = np.linalg.norm(points - found.cluster_centers_[found.labels_], axis=1)
    scores = np.empty(len(points))
    for c in np.unique(found.labels_):
        mine = (found.labels_ == c).nonzero()[0]
        order = mine[np.abs(away[mine] - np.median(away[mine])).argsort(kind="stable")]
        scores[order] = -(np.arange(len(mine)) + 0.5) / len(mine)
    return torch.from_numpy(scores)


def keywords(forget: Sequence[str], retain: Sequence[str], top: int = 10) -> list[dict[str, str]]:
    """The words that tell each text to forget from those to retain, by TF-IDF, in their order: rows to forget in the place of whole texts.

    Records of `text`, the words alone, and of `rest`, the text without them.
    """
    seen = Counter(word for text in retain for word in set(_words(text.lower())))
    records = []
    for text in forget:
        count = Counter(_words(text.lower()))
        weight = {word: n * math.log((1 + len(retain)) / (1 + seen[word])) for word, n in count.items()}
        best = sorted((word for word in weight if weight[word] > 0), key=lambda word: -weight[word])[:top]
        said = dict.fromkeys(word for word in _words(text) if word.lower() in best)
        rest = re.sub(r"\w+", lambda m, best=best: "" if m[0].lower() in best else m[0], text)
        records.append({"text": " ".join(said), "rest": " ".join(rest.split())})
    return records


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@part
class CoresetHead(Part):
    """Who looks at what the last linear layer reads."""

    path: str

    @property
    def hook_points(self) -> tuple[str, ...]:
        return (self.path,)


@part
class Coreset(Selector):
    """Keep a share of the rows to forget."""

    fraction: float = hp(0.05, "share of the rows to forget that is kept, rounded down, at least one row", gt=0, le=1)
    score: Literal["random", "grand", "moderate", "min_k"] = hp(
        "random", "which rows: by chance, of long gradients, at the median distance to their kind, or the best known"
    )
    repeat: bool = hp(True, "let rows that are kept stand in an epoch so often that it has as many steps as with all of them")
    draw: int = hp(0, "which of the random draws, the same for every seed and method (for random)", ge=0)
    along: int = hp(0, "epochs of NPO at whose ends gradients are measured, too, besides its start (for grand)", ge=0)
    along_lr: float = hp(1e-5, "learning rate of those epochs (for grand)", ge=0)
    clusters: int = hp(4, "kinds of rows that k-means finds (for moderate)", ge=1)
    k: float = hp(0.2, "share of a row's labels, the least likely, that count (for min_k)", gt=0, le=1)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    gives = frozenset({"forget"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        size = max(1, int(self.fraction * len(rows) + 1e-9))
        kept = sorted(self.scores(view).argsort(descending=True, stable=True)[:size].tolist())
        return {**sets, "forget": rows.select(kept[i % size] for i in range(len(rows) if self.repeat else size))}

    def scores(self, view: View) -> Tensor:
        """How much each row is wanted, (rows,)."""
        if self.score == "random":
            return torch.tensor([seed_of(self.draw, i) for i in view.forget.ids])
        if self.score == "grand":
            return torch.stack([self._lengths(view, epochs) for epochs in range(self.along + 1)]).mean(0)
        if self.score == "moderate":
            path = view.modality.head(view.model)
            look = view.at("head", CoresetHead(path))
            return moderate(torch.cat([look.now(some).input(path).mean().cpu() for some in view.batches("forget", 32)]), self.clusters)
        found = [logp for some in view.batches("forget", 32) for logp in view.now(some).target_logp.split()]
        return torch.stack([logp.sort().values[: max(1, int(self.k * len(logp) + 1e-9))].mean() for logp in found]).cpu()

    def _lengths(self, view: View, epochs: int) -> Tensor:
        """How long NPO's gradient of each row is after some epochs of NPO, (rows,)."""
        train = Train(epochs=epochs, lr=self.along_lr, schedule="constant")
        then = view.run(Plan(NPO(), train=train), {"forget": view.forget}, key="grand")
        rows = then.forget
        return torch.stack([global_norm(then.grad("forget", {"forget": rows.select([i])})).cpu() for i in range(len(rows))])


def plan() -> Plan:
    return Plan(NPO() + NLL("retain"), train=Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01), selectors=(Coreset(),))
