"""Linear attention of LINA against softmax attention, at growing numbers of tokens.

    python -m performance.lina [--json FILE] [--quick] [--width N] [--heads N]

A layer of attention (projections, gates, convolution) with linear attention by division, and one with the fused softmax attention of torch,
without gates and convolution, which is the floor; the reference writes down the weights of all pairs of tokens, as research code does.
Pictures have 16 to 64 tokens along a side, and a quarter as many tokens of the condition. The attention alone, without
projections, is timed as well, and an exponent is fitted to it: time grows as tokens to that power. Memory is the peak above the start, in a
new process, of a forward and a backward pass at the largest size. Operations are counted by torch for the width, the heads and the tokens
of the largest published model at 1024 pixels, for which the paper states about 61 % fewer. Times are of the processor, not of the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from performance import _bench as bench
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from expunge.functional.linear_attention import division, positive
from expunge.modalities.diffusion.token_attention import TokenAttention

GRIDS, QUICK = (16, 24, 32, 48, 64), (8, 16, 32)
CLOCK = "wall" if torch.cuda.is_available() else "cpu"  # other processes on the machine disturb processor time less
TOGETHER = 20480  # tokens in a round, so that calls on few tokens are timed many times
FITTED = 3  # sizes to which the exponent is fitted, the largest ones
PUBLISHED = {"width": 1536, "heads": 16, "grid": 64}
LAYER, FLOOR, REFERENCE = "linear", "softmax", "softmax, all weights"


def tokens(grid: int) -> int:
    """Tokens of a picture and its condition."""
    return grid**2 * 5 // 4


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention that holds the weights of all pairs."""
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Linear attention with its features."""
    return division(positive(q), positive(k), v)


MIXING: dict[str, Callable[..., Tensor]] = {LAYER: linear, FLOOR: F.scaled_dot_product_attention, REFERENCE: explicit}


def layer(name: str, width: int, heads: int, grid: int) -> TokenAttention:
    """A layer of attention."""
    if name == LAYER:
        return TokenAttention(width, heads, "division", gated=tokens(grid), grid=grid)
    attention = TokenAttention(width, heads, "softmax")
    if name == REFERENCE:
        attention._mixed = explicit  # type: ignore[method-assign]
    return attention


def exponent(counts: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of the logarithm of the time by the logarithm of the tokens, over the largest sizes."""
    return float(np.polyfit(np.log(counts[-FITTED:]), np.log(seconds[-FITTED:]), 1)[0])


def often(way: Callable[..., Tensor], grid: int, *inputs: Tensor) -> Callable[[], None]:
    """A way, called as often as its size allows."""

    def called() -> None:
        for _ in range(-(-TOGETHER // tokens(grid))):
            way(*inputs)

    return called


def one(arguments: Any, name: str, grid: int) -> int:
    """Peak memory in bytes of a forward and a backward pass."""
    module = layer(name, arguments.width, arguments.heads, grid)
    small = torch.randn(1, tokens(grid), arguments.width, requires_grad=True)
    before = bench.reset_peak_memory()
    module(small).sum().backward()
    return bench.peak_memory() - before


def operations(width: int, heads: int, grid: int) -> dict[str, int]:
    """Operations of a layer on one picture, by name."""
    counts = {}
    for name in (LAYER, FLOOR):
        with torch.device("meta"):
            module, x = layer(name, width, heads, grid), torch.empty(1, tokens(grid), width)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            module(x)
        counts[name] = counter.get_total_flops()
    return counts


def main() -> None:
    arguments = bench.options(__doc__, rounds=(5, 3), width={"type": int, "default": 256}, heads={"type": int, "default": 4})
    grids = QUICK if arguments.quick else GRIDS
    times, alone = bench.Times(), bench.Times()
    torch.manual_seed(0)
    for grid in grids:
        x = torch.randn(1, tokens(grid), arguments.width)
        q, k, v = torch.randn(3, 1, arguments.heads, tokens(grid), arguments.width // arguments.heads)
        layers = {f"{name} {grid}": layer(name, arguments.width, arguments.heads, grid) for name in MIXING}
        with torch.inference_mode():
            bench.interleaved({n: often(m, grid, x) for n, m in layers.items()}, arguments.rounds, times=times)
            bench.interleaved({f"{n} {grid}": often(f, grid, q, k, v) for n, f in MIXING.items()}, arguments.rounds, times=alone)
    rows: list[Any] = [
        {
            "tokens": tokens(grid),
            "seconds": {n: round(times.seconds(f"{n} {grid}", CLOCK) / -(-TOGETHER // tokens(grid)), 6) for n in MIXING},
            "attention alone": {n: round(alone.seconds(f"{n} {grid}", CLOCK) / -(-TOGETHER // tokens(grid)), 6) for n in MIXING},
            "to_floor": round(times.ratio(f"{LAYER} {grid}", f"{FLOOR} {grid}", CLOCK), 4),
            "alone_to_floor": round(alone.ratio(f"{LAYER} {grid}", f"{FLOOR} {grid}", CLOCK), 4),
        }
        for grid in grids
    ]
    bench.table([[r["tokens"], *r["seconds"].values(), r["to_floor"]] for r in rows], ("tokens", *MIXING, "linear / softmax"))
    counts = [tokens(grid) for grid in grids]
    exponents = {n: round(exponent(counts, [r["attention alone"][n] for r in rows]), 3) for n in MIXING}
    counted = operations(**PUBLISHED)
    parts = {
        "sizes": rows,
        "exponents": exponents,
        "bytes": {n: bench.in_new_process(one, arguments, n, grids[-1]) for n in MIXING},
        "width": arguments.width,
        "heads": arguments.heads,
        "published": {**PUBLISHED, "operations": counted, "saved": round(1 - counted[LAYER] / counted[FLOOR], 4)},
    }
    last = grids[-1]
    slower = times.ratio(f"{REFERENCE} {last}", f"{LAYER} {last}", CLOCK)
    numbers = {"ratio_to_floor": rows[-1]["to_floor"], "speedup_over_reference": round(slower, 2), "parts": parts}
    bench.finish(arguments, "lina", numbers)


if __name__ == "__main__":
    main()
