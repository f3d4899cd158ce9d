"""MU-Coreset: forget with a small part of the forget rows, random or scored, over as many steps as with all of them.

In a benchmark about one topic many rows are alike, and a few of them carry the whole request. An evaluation on the rows left out shows how
few are enough. The selector works before any method: `--select coreset --fraction 0.05`.

Equation: keep the max(1, floor(p n)) rows of highest s, p `fraction`; random: s drawn by `draw` and the row's id, so that smaller coresets
  lie in larger ones; grand: s = mean_t |grad L_NPO(z; theta_t)|, t = 0 to `along` epochs of NPO; moderate: s = -|d - median d|, d the
  distance of the head's mean input to the center of its cluster, with rows of each cluster in proportion to its size; min_k: s = the mean
  log-prob of the share `k` of a row's labels that are least likely, so that the best known rows are kept
Source: Pal et al. 2025, arXiv 2504.10185
Needs: forget
Cost: once, random: nothing; moderate, min_k: a forward of the forget rows; grand: at each t a forward and backward of each row alone,
  and t epochs of NPO on a copy of the model. Then as much as with all rows, or with `repeat` off that share of it
Differs: all sizes get the same number of steps, while the authors choose the epochs for each size; gradients for grand are NPO's without a
  retain term, whatever method follows; clusters and k are assumptions; keywords are found by their frequency (`keywords`), while the
  authors ask a language model. A method of several stages scores the rows again in each stage; random draws stay the same
Status: case invalid
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
from expunge.core.parts import Selector
from expunge.core.plan import Plan, Train
from expunge.core.random import seed_of
from expunge.core.rows import Sets
from expunge.core.view import View
from expunge.engine.gradient import global_norm
from expunge.methods.linear_heads import HeadInput
from expunge.methods.objectives.npo import NPO
from expunge.methods.terms import NLL


def moderate(x: Tensor, clusters: int) -> Tensor:
    """Scores that are highest at the median distance to the center of a row's cluster.

    Each cluster has the same share of the highest scores as it has of all rows.

    Args:
        x: features, (rows, width).
        clusters: maximal number of k-means clusters.

    Returns:
        Scores, (rows,).
    """
    import numpy as np
    from sklearn.cluster import KMeans

    points = x.double().numpy()
    clustering = KMeans(min(clusters, len(np.unique(points, axis=0))), n_init=10, random_state=0).fit(points)
    distances = np.linalg.norm(points - clustering.cluster_centers_[clustering.labels_], axis=1)
    scores = np.empty(len(points))
    for c in np.unique(clustering.labels_):
        members = (clustering.labels_ == c).nonzero()[0]
        order = members[np.abs(distances[members] - np.median(distances[members])).argsort(kind="stable")]
        scores[order] = -(np.arange(len(members)) + 0.5) / len(members)
    return torch.from_numpy(scores)


def keywords(forget: Sequence[str], retain: Sequence[str], top: int = 10) -> list[dict[str, str]]:
    """Keywords that distinguish each forget text from the retain texts, by TF-IDF; they can replace whole texts as rows to forget.

    Args:
        forget: texts to forget.
        retain: texts to retain.
        top: maximal number of distinct keywords a text.

    Returns:
        A record for each forget text: `text` holds its keywords in their order in the text, `rest` the text without them.
    """
    retain_counts = Counter(word for text in retain for word in set(_words(text.lower())))
    records = []
    for text in forget:
        counts = Counter(_words(text.lower()))
        tf_idf = {word: n * math.log((1 + len(retain)) / (1 + retain_counts[word])) for word, n in counts.items()}
        best = sorted((word for word in tf_idf if tf_idf[word] > 0), key=lambda word: -tf_idf[word])[:top]
        chosen = dict.fromkeys(word for word in _words(text) if word.lower() in best)
        rest = re.sub(r"\w+", lambda m, best=best: "" if m[0].lower() in best else m[0], text)
        records.append({"text": " ".join(chosen), "rest": " ".join(rest.split())})
    return records


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@part
class Coreset(Selector):
    """Keep only a share of the forget rows."""

    fraction: float = hp(0.05, "share of the rows to forget that is kept, rounded down, at least one row", gt=0, le=1)
    score: Literal["random", "grand", "moderate", "min_k"] = hp(
        "random", "which rows to keep: random ones, long gradients, median distance to their cluster, or best known"
    )
    repeat: bool = hp(True, "repeat the kept rows in an epoch until it has as many steps as with all rows")
    draw: int = hp(0, "number of the random draw, which is the same for every seed and method (for random)", ge=0)
    along: int = hp(0, "epochs of NPO after each of which gradients are measured, in addition to the start (for grand)", ge=0)
    along_lr: float = hp(1e-5, "learning rate of these epochs (for grand)", ge=0)
    clusters: int = hp(4, "number of k-means clusters (for moderate)", ge=1)
    k: float = hp(0.2, "share of a row's labels, the least likely ones, that the score averages (for min_k)", gt=0, le=1)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    gives = frozenset({"forget"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        size = max(1, int(self.fraction * len(rows) + 1e-9))
        kept = sorted(self.scores(view).argsort(descending=True, stable=True)[:size].tolist())
        return {**sets, "forget": rows.select(kept[i % size] for i in range(len(rows) if self.repeat else size))}

    def scores(self, view: View) -> Tensor:
        """The score of each forget row, (rows,); the highest scores are kept."""
        if self.score == "random":
            return torch.tensor([seed_of(self.draw, i) for i in view.forget.ids])
        if self.score == "grand":
            return torch.stack([self._gradient_norms(view, epochs) for epochs in range(self.along + 1)]).mean(0)
        if self.score == "moderate":
            path = view.modality.head(view.model)
            head = view.at("head", HeadInput(path))
            features = torch.cat([head.now(batch).input(path).mean().cpu() for batch in view.batches("forget", 32)])
            return moderate(features, self.clusters)
        row_logps = [logp for batch in view.batches("forget", 32) for logp in view.now(batch).target_logp.split()]
        return torch.stack([logp.sort().values[: max(1, int(self.k * len(logp) + 1e-9))].mean() for logp in row_logps]).cpu()

    def _gradient_norms(self, view: View, epochs: int) -> Tensor:
        """Length of the NPO gradient of each row after some epochs of NPO, (rows,)."""
        train = Train(epochs=epochs, lr=self.along_lr, schedule="constant")
        trained = view.run(Plan(NPO(), train=train), {"forget": view.forget}, key="grand")
        rows = trained.forget
        return torch.stack([global_norm(trained.grad("forget", {"forget": rows.select([i])})).cpu() for i in range(len(rows))])


def plan() -> Plan:
    return Plan(NPO() + NLL("retain"), train=Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01), selectors=(Coreset(),))
