"""Numbers, durations, sizes and changed words, as people read them. A value that is no finite number becomes a dash."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Any

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def finite(x: object) -> float | None:
    """The number; None for anything else, for infinities and NaN, and for numbers so large that their sums overflow."""
    return float(x) if isinstance(x, (int, float)) and abs(x) < 1e300 else None


def number(x: float | None, decimals: int | None = None) -> str:
    """A number in words: three decimals in the everyday range, powers of ten beyond it (0.412, 37.5, 12,400, 3.1·10⁻⁹).

    Args:
        x: the number.
        decimals: how many decimals to write in the everyday range, as the column has them; None: as the size of the number suggests.
    """
    x = finite(x)
    if x is None:
        return DASH
    if x == 0:
        return "0"
    size = abs(x)
    if (size < 1e-3 and (decimals or 3) >= 3) or size >= 1e6:
        exponent = math.floor(math.log10(size))
        mantissa = round(x / 10**exponent, 1) if exponent > -300 else 1.0
        if abs(mantissa) == 10:  # rounding up may add a digit
            mantissa, exponent = mantissa / 10, exponent + 1
        text = f"{mantissa:g}·10{str(exponent).translate(_SUPERSCRIPT)}"
    elif size >= 1000:
        text = f"{x:,.0f}"
    else:
        text = f"{x:.{(1 if size >= 10 else 3) if decimals is None else decimals}f}"
    return text.replace("-", MINUS)


def span(low: float | None, high: float | None, decimals: int | None = None) -> str:
    """An interval. A word joins the ends of a negative one, since a dash would read as a minus."""
    if finite(low) is None and finite(high) is None:
        return ""
    ends = [number(low, decimals), number(high, decimals)]
    return (" to " if any(MINUS in e for e in ends) else DASH).join(ends)


def decimals(values: Iterable[float | None]) -> int | None:
    """How many decimals suit all values of a column: the fewer, the larger the values; None where the values are too large for any."""
    largest = max((abs(v) for x in values if (v := finite(x)) is not None), default=0.0)
    return 3 if largest < 5 else 2 if largest < 50 else 1 if largest < 1000 else None


def count(x: float | None) -> str:
    """A count in short: 950, 12.4 k, 3.1 M, 2.0 B."""
    return _scaled(x, 1000, ("", "k", "M", "B", "T"))


def flops(x: float | None) -> str:
    """Floating-point operations: 3.1 PFLOP."""
    text = _scaled(x, 1000, ("", "K", "M", "G", "T", "P", "E", "Z"))
    return text if text == DASH else (f"{text}FLOP" if " " in text else f"{text} FLOP")


def size(x: float | None) -> str:
    """Memory: 1.4 GiB."""
    text = _scaled(x, 1024, ("", "Ki", "Mi", "Gi", "Ti"))
    return text if text == DASH else (f"{text}B" if " " in text else f"{text} B")


def duration(seconds: float | None) -> str:
    """Time: 350 ms, 8.2 s, 3 min 20 s, 2 h 14 min, 1 d 3 h."""
    s = finite(seconds)
    if s is None:
        return DASH
    if s < 1:
        return f"{s * 1000:.0f} ms"
    if s < 59.95:
        return f"{s:.1f} s"
    if s < 3599.5:
        return _units(round(s), 60, "min", "s")
    return _units(round(s / 60), 60, "h", "min") if s < 86370 else _units(round(s / 3600), 24, "d", "h")


def _units(small: int, many: int, first: str, second: str) -> str:
    whole, rest = divmod(small, many)
    return f"{whole} {first} {rest} {second}" if rest else f"{whole} {first}"


def share(x: float | None) -> str:
    """A ratio as a percentage, or as a multiple where it is large."""
    x = finite(x)
    if x is None:
        return DASH
    return f"{x:.1f} times" if x >= 10 else f"{x * 100:.0f} %" if x >= 0.1 else f"{x * 100:.2g} %"


def _scaled(x: float | None, base: int, units: tuple[str, ...]) -> str:
    x = finite(x)
    if x is None:
        return DASH
    k = 0
    while abs(x) >= base * 0.9995 and k < len(units) - 1:
        x, k = x / base, k + 1
    return f"{x:.0f} {units[k]}".strip() if k == 0 or abs(x) >= 99.95 else f"{x:.1f} {units[k]}"


def changed(before: str, after: str) -> list[tuple[str, str]]:
    """How a text has changed, word by word.

    Returns:
        `after` in runs of (kind, text). kind is same, new, or gone for words of `before`; runs of gone words are left out where the texts
        have so little in common that showing both would be noise.
    """
    old, new = re.findall(r"\S+\s*", before), re.findall(r"\S+\s*", after)
    match = SequenceMatcher(None, [_bare(w) for w in old], [_bare(w) for w in new], autojunk=False)
    close = match.ratio() >= 0.5
    runs: list[tuple[str, str]] = []
    for tag, a, b, c, d in match.get_opcodes():
        if tag == "equal" and (close or d - c >= 3):  # in unlike texts, a shared "is" or "the" means nothing
            runs.append(("same", "".join(new[c:d])))
            continue
        if b > a and close:
            runs.append(("gone", "".join(old[a:b])))
        if d > c and runs and runs[-1][0] == "new":
            runs[-1] = ("new", runs[-1][1] + "".join(new[c:d]))
        elif d > c:
            runs.append(("new", "".join(new[c:d])))
    return runs


def _bare(word: str) -> str:
    return word.strip().strip(".,;:!?\"'()").lower()


def pretty(value: Any) -> str:
    """JSON for reading; numbers that JSON cannot hold become null."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
