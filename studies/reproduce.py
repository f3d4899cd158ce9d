"""Show a paper's effect on a CPU-size case, and compare it with the committed numbers: `python -m studies.reproduce npo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from expunge.core.errors import UserError
from studies import determinism

SETTINGS = Path(__file__).parent / "proofs" / "settings"  # NAME.json: the settings of a proof


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 where all numbers agree, 1 where some differ, 2 where the request cannot be met."""
    parser = argparse.ArgumentParser(prog="python -m studies.reproduce", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="methods, metrics or attacks")
    parser.add_argument("--all", action="store_true", dest="everything", help="everything that has a case")
    parser.add_argument("--update", action="store_true", help="write the numbers instead of comparing with them")
    parser.add_argument("--tune", action="store_true", help="choose the settings of a proof, on draws that no report uses")
    parser.add_argument("--draws", type=int, default=0, help="of the data; fewer than the protocol's are a quick look")
    parser.add_argument("--originals", type=int, default=0, help="on each draw; fewer than the protocol's are a quick look")
    options = parser.parse_args(arguments)
    if not (options.tune or (options.names and all((SETTINGS / f"{name}.json").exists() for name in options.names))):
        determinism.enable()  # before anything imports torch; proofs have intervals instead, and need no slower arithmetic
    from expunge.cli import console
    from studies import reproduction
    from studies.proofs import protocol, registry, report

    agree, proofs = True, registry.proofs()
    try:
        if not options.names and not options.everything:
            raise UserError("give the name of a method, or --all")
        for name in sorted({*proofs, *reproduction.names()}) if options.everything else options.names:
            if options.tune:
                report.tuned(name, tell)
            elif name in proofs:
                draws, originals = options.draws or protocol.DRAWS, options.originals or protocol.ORIGINALS
                proof = report.proved(name, tell, draws=draws, originals=originals, update=options.update)
                print(proof.summary(), flush=True)
                agree &= proof.agrees
            else:
                with console.progress() as show:
                    result = reproduction.reproduce(name, update=options.update, progress=show)
                print(result.summary(), flush=True)
                agree &= result.agrees
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if agree else 1


def tell(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
