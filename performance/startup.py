"""Time until the first output of the command line, of its lists and cards, and of `import expunge`.

    python -m performance.startup [--json FILE] [--quick]

Each runs in its own process, with a warm file cache. The floor is an interpreter that imports the two libraries of the command line. Each
command may take at most 0.4 s.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from performance import _bench as bench

MUST = 0.4  # seconds
FLOOR = "python, typer and rich"
WAYS = {
    FLOOR: ["-c", "import typer, rich"],
    "import expunge": ["-c", "import expunge"],
    "expunge --help": ["-m", "expunge", "--help"],
    "expunge names": ["-m", "expunge", "names"],
    "expunge card npo": ["-m", "expunge", "card", "npo"],
    "import expunge, torch": ["-c", "import expunge, torch"],
}


def main() -> None:
    arguments = bench.options(__doc__)
    ways = {n: partial(subprocess.run, [sys.executable, *words], check=True, capture_output=True) for n, words in WAYS.items()}
    times = bench.interleaved(ways, arguments.rounds)
    commands = [n for n in WAYS if n.startswith("expunge ")]
    bench.table([[n, times.seconds(n), times.seconds(n, "cpu"), times.ratio(n, FLOOR)] for n in WAYS], ("", "s", "s, cpu", "/ floor"))
    slowest = max(commands, key=times.seconds)
    print(f"the slowest command, {slowest}, takes {times.seconds(slowest):.2f} s of the {MUST} s allowed")
    numbers = {
        "ratio_to_floor": round(times.ratio(slowest, FLOOR), 3),
        "parts": {"seconds": {c: {n: round(times.seconds(n, c), 3) for n in WAYS} for c in ("wall", "cpu")}, "must": MUST},
    }
    bench.finish(arguments, "startup", numbers)


if __name__ == "__main__":
    main()
