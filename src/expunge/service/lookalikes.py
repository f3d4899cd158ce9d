"""Texts as guards read them: what cannot be seen is taken out, and letters that look alike become one."""

from __future__ import annotations

import unicodedata

# Letters of other alphabets, and digits and signs in the place of letters, as they look. Small: what NFKC folds is not among them.
CYRILLIC = dict(zip("абвгеёзикмнорстухѕіјԁһҏӏѵԛԝ", "abbreezukmhopctyxsijdhplvqw", strict=True))
GREEK = dict(zip("αβγεζηικμνορτυχωϲ", "abyeznikuvoptuxwc", strict=True))
LATIN = dict(zip("ıłøđħŧƒɡɩɑʋⅼ", "ilodhtfgiavl", strict=True))
SIGNS = dict(zip("013457@$!|", "oleastasil", strict=True))
LOOKS = str.maketrans({**CYRILLIC, **GREEK, **LATIN})
WRITTEN = str.maketrans(SIGNS)
INVISIBLE = frozenset({"Cf", "Cc", "Cn", "Co", "Cs"})  # format, control, unassigned, private, surrogates
KEPT = "\n\t"


def visible(text: str) -> str:
    """The text without characters that nobody sees: joiners, direction marks, tags, soft hyphens, control characters."""
    return "".join(c for c in text if c in KEPT or (unicodedata.category(c) not in INVISIBLE and not _filler(c)))


def _filler(character: str) -> bool:
    """Variation selectors and letters without a shape."""
    code = ord(character)
    return 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF or code in (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0)


def folded(text: str) -> str:
    """The text as it looks: compatibility forms, case, accents and letters that look alike are one."""
    plain = unicodedata.normalize("NFKD", visible(text)).casefold().translate(LOOKS)
    return "".join(c for c in plain if not unicodedata.combining(c))


def readings(text: str) -> list[str]:
    """The ways in which a text may be meant: as it is written, as it looks, and with digits and signs for letters."""
    as_written = visible(text)
    looks = folded(text)
    return list(dict.fromkeys([as_written, looks, looks.translate(WRITTEN)]))


def letters(text: str) -> str:
    """The letters and digits of a folded text, without anything between them: `A d-a` is `ada`."""
    return "".join(c for c in folded(text).translate(WRITTEN) if c.isalnum())
