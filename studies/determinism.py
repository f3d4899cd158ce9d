"""The same arithmetic on every x86-64 processor, so that a case gives the same numbers on every machine.

Libraries choose kernels by the features of a processor, and each kernel rounds differently; training amplifies differences in the last
digit. With features that all of these processors have, and one thread, the results are identical to the bit, in about twice the time. The
libraries read these settings at import, so they must be set before the import of torch, as `python -m studies.reproduce` does.
"""

from __future__ import annotations

import os
import sys

SETTINGS = {
    "MKL_CBWR": "COMPATIBLE",  # matrix products
    "ATEN_CPU_CAPABILITY": "default",  # torch's own kernels
    "OMP_NUM_THREADS": "1",  # sums in one order
}


def enable() -> bool:
    """Apply the settings unless torch is loaded already; returns whether they are in effect."""
    if "torch" not in sys.modules:
        os.environ.update(SETTINGS)
    return is_enabled()


def is_enabled() -> bool:
    """Whether the settings are in effect in this process."""
    return all(os.environ.get(n) == v for n, v in SETTINGS.items())
