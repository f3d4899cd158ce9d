"""Show a paper's effect on a CPU-size case, and compare it with the committed numbers: `python -m studies.reproduce npo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from expunge.core.errors import UserError
from studies import determinism


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 where all numbers agree, 1 where some differ, 2 where the request cannot be met."""
    parser = argparse.ArgumentParser(prog="python -m studies.reproduce", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="methods, metrics or attacks")
    parser.add_argument("--all", action="store_true", dest="everything", help="everything that has a case")
    parser.add_argument("--update", action="store_true", help="write the numbers instead of comparing with them")
    options = parser.parse_args(arguments)
    determinism.enable()  # before anything imports torch
    from expunge.cli import console
    from studies import reproduction

    agree = True
    try:
        if not options.names and not options.everything:
            raise UserError("give the name of a method, or --all")
        for name in reproduction.names() if options.everything else options.names:
            with console.progress() as show:
                result = reproduction.reproduce(name, update=options.update, progress=show)
            print(result.summary(), flush=True)
            agree &= result.agrees
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if agree else 1


if __name__ == "__main__":
    raise SystemExit(main())
