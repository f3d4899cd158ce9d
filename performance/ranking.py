"""Recommenders: an epoch of training a graph model, and the ranking of the whole catalog for all users.

    python -m performance.ranking [--json FILE] [--quick] [--data ML-LATEST-SMALL]

The model is LightGCN on MovieLens (a folder that you have), or on generated tastes. The floor of training is the plain loop of research
code: the normalized graph as one sparse matrix of torch, made once, the same batches and optimizer, and negatives that are uniform and
unchecked; ours draws negatives that the user never interacted with, as a function of the place, and keeps what resuming needs. The floor
of ranking is the bare products and the 20 best of each line, in chunks of the same size; ours masks the training interactions of all users
and finds the places of a fifth of them among all items, as of unseen ones. Memory is the peak above the start of a ranking, in a new
process (the median of five), of a tenth of a crowd of 40,000 users and of all: scores come in chunks, and what grows is the list of
interactions that are asked about.
"""

from __future__ import annotations

import copy
from statistics import median
from typing import Any

import torch
from performance import _bench as bench
from torch.nn.functional import softplus

from expunge.benchmarks import movielens, taste
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.io.models import Opened
from expunge.methods.terms import NLL
from expunge.modalities.ranking import catalog
from expunge.workflows.train import start

SIZE = "lightgcn-micro"
BEST = 20
TIMES = 10  # rankings in a round
FEW = 10  # one in so many users are ranked for the smaller memory
PROCESSES = 5  # for memory; the median counts, because peaks of processes differ by some MB
CROWD, ITEMS, EACH = 40_000, 1_000, 3  # users, items, and interactions of each user, for memory
MUST = {"epoch": 1.0, "ranking": 1.2, "memory": 1.5}


def normalized(model: Any) -> torch.Tensor:
    """D^-1/2 A D^-1/2 over users and items, as a sparse matrix (nodes, nodes)."""
    user, item = model.edges
    ends = torch.cat([torch.stack([user, item + model.users]), torch.stack([item + model.users, user])], 1)
    degree = torch.bincount(ends[0], minlength=model.users + model.items).clamp_min(1).float()
    weight = degree[ends[0]].rsqrt() * degree[ends[1]].rsqrt()
    return torch.sparse_coo_tensor(ends, weight, (len(degree), len(degree)), check_invariants=False).coalesce()


def spread(model: Any, graph: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The vectors of LightGCN as research code computes them."""
    layers = [torch.cat([model.user_table.weight, model.item_table.weight])]
    for _ in range(model.layers):
        layers.append(torch.sparse.mm(graph, layers[-1]))
    of_users, of_items = torch.stack(layers).mean(0).split([model.users, model.items])
    return of_users, of_items


def plain_epoch(opened: Opened, rows: Rows, train: Train) -> None:
    """One epoch as a plain loop writes it."""
    model: Any = copy.deepcopy(opened.model).train()
    graph, optimizer = normalized(model), torch.optim.Adam(model.parameters(), lr=train.lr, weight_decay=train.weight_decay)
    users, items = (torch.tensor(list(rows[c])) for c in ("user", "item"))
    for at in torch.randperm(len(rows)).split(train.batch_size):
        negatives = torch.randint(model.items, (len(at),))
        of_users, of_items = spread(model, graph)
        mine, liked, other = of_users[users[at]], of_items[items[at]], of_items[negatives]
        softplus((mine * other).sum(-1) - (mine * liked).sum(-1)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def bare_ranking(opened: Opened, users: torch.Tensor, size: int) -> None:
    """Scores of all items, and the best of each line. size: users at a time."""
    model: Any = opened.model
    of_users, of_items = model.vectors()
    for some in users.split(size):
        (of_users[some] @ of_items.T).topk(min(BEST, model.items))


def started(arguments: Any) -> tuple[Opened, Rows]:
    """An untrained model and its training interactions."""
    suite = movielens.load(arguments.data) if arguments.data else taste.load()
    opened = start(SIZE, suite.train["full"])
    opened.model.eval()
    return opened, opened.modality.rows("retain", suite.train["full"])


def one(arguments: Any, share: int) -> int:
    """Peak memory in bytes of a ranking of one in `share` users of a crowd."""
    crowd = [{"user": f"u{u}", "item": f"i{(u * 7 + k * 131) % ITEMS}"} for u in range(CROWD) for k in range(EACH)]
    opened = start("lightgcn-nano", crowd)
    opened.model.eval()
    modality: Any = opened.modality
    rows = modality.rows("retain", crowd)
    chosen = rows.select(i for i, user in enumerate(rows["user"]) if user % share == 0)
    catalog.SCORES = CROWD // FEW // 4 * ITEMS  # so that a tenth of the users fill four chunks
    modality.ranks(opened.model, chosen.select(range(1)))  # the graph is made once
    before = bench.reset_peak_memory()
    modality.ranks(opened.model, chosen)
    return bench.peak_memory() - before


def main() -> None:
    arguments = bench.options(__doc__, rounds=(5, 3), batch_size={"type": int, "default": 2048})
    opened, rows = started(arguments)
    modality: Any = opened.modality
    rows = rows.select(range(1000)) if arguments.quick else rows
    unseen = rows.select(range(0, len(rows), 5))
    train = Train(epochs=1, lr=1e-3, batch_size=arguments.batch_size, optimizer="adam", schedule="constant", anchor="retain")
    plan = Plan(NLL("retain"), train=train)
    users, size = torch.unique(torch.tensor(list(unseen["user"]))), max(1, catalog.SCORES // opened.model.items)
    times = bench.interleaved(
        {
            "epoch": lambda: loop.run((plan,), copy.deepcopy(opened.model), modality, {"retain": rows}),
            "plain epoch": lambda: plain_epoch(opened, rows, train),
            "ranking": lambda: [modality.ranks(opened.model, unseen) for _ in range(TIMES)],
            "bare ranking": lambda: [bare_ranking(opened, users, size) for _ in range(TIMES)],
        },
        arguments.rounds,
    )
    ratios = {"epoch": times.ratio("epoch", "plain epoch"), "ranking": times.ratio("ranking", "bare ranking")}
    cpu = {"epoch": times.ratio("epoch", "plain epoch", "cpu"), "ranking": times.ratio("ranking", "bare ranking", "cpu")}
    seconds = {name: times.seconds(name) for name in ("epoch", "plain epoch", "ranking", "bare ranking")}
    bench.table([[n, s, ratios.get(n, 1.0), cpu.get(n, 1.0)] for n, s in seconds.items()], ("", "seconds", "/ floor", "cpu / floor"))
    shares = {} if arguments.quick else {"a tenth": FEW, "all": 1}
    peaks = {n: int(median(bench.in_new_process(one, arguments, share) for _ in range(PROCESSES))) for n, share in shares.items()}
    sizes = {"users": len(users), "items": opened.model.items, "interactions": len(rows), "ranked": len(unseen)}
    parts = {
        "seconds": {n: round(s, 4) for n, s in seconds.items()},
        "ratios": {n: round(r, 3) for n, r in ratios.items()},
        "cpu_ratios": {n: round(r, 3) for n, r in cpu.items()},
        "must": MUST,
        **({"bytes": peaks, "all users over a tenth": round(peaks["all"] / max(1, peaks["a tenth"]), 3)} if peaks else {}),
        **sizes,
    }
    bench.finish(arguments, "ranking", {"ratio_to_floor": round(max(ratios.values()), 3), "parts": parts})


if __name__ == "__main__":
    main()
