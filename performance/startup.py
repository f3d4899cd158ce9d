"""How long it takes until the first word: of the command line, of its lists and cards, and of `import expunge`.

    python -m performance.startup [--json FILE] [--quick]

Each is a process of its own, on a warm file cache. The floor is an interpreter that imports the two libraries that draw the command line;
at most 0.4 s are allowed for each command.
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
    given = bench.options(__doc__)
    ways = {n: partial(subprocess.run, [sys.executable, *words], check=True, capture_output=True) for n, words in WAYS.items()}
    times = bench.interleaved(ways, given.rounds)
    commands = [n for n in WAYS if n.startswith("expunge ")]
    bench.table([[n, times.seconds(n), times.seconds(n, "cpu"), times.ratio(n, FLOOR)] for n in WAYS], ("", "s", "s, cpu", "/ floor"))
    slowest = max(commands, key=times.seconds)
    print(f"the slowest command, {slowest}, takes {times.seconds(slowest):.2f} s of the {MUST} s allowed")
    found = {
        "ratio_to_floor": round(times.ratio(slowest, FLOOR), 3),
        "parts": {"seconds": {c: {n: round(times.seconds(n, c), 3) for n in WAYS} for c in ("wall", "cpu")}, "must": MUST},
    }
    bench.finish(given, "startup", found)


if __name__ == "__main__":
    main()
