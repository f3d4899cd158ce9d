"""The same arithmetic on every x86-64 processor, so that a case gives the same numbers wherever it is run again.

Libraries choose their kernels by what a processor can do, and each kernel rounds in its own way; training makes much of the last digit.
Held to what all of these processors have, in one thread, they give the same bits, in about twice the time. They read this when they are
loaded, so it is asked for before torch is imported: `python -m studies.reproduce` does so.
"""

from __future__ import annotations

import os
import sys

SETTINGS = {
    "MKL_CBWR": "COMPATIBLE",  # matrix products
    "ATEN_CPU_CAPABILITY": "default",  # torch's own kernels
    "OMP_NUM_THREADS": "1",  # sums in one order
}


def hold() -> bool:
    """Ask for it, if it is not too late; whether it holds from now on."""
    if "torch" not in sys.modules:
        os.environ.update(SETTINGS)
    return held()


def held() -> bool:
    """Whether it holds in this process."""
    return all(os.environ.get(n) == v for n, v in SETTINGS.items())
