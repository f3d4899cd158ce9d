"""Words of texts in any script, as overlap scores such as ROUGE compare them."""

from __future__ import annotations

import re
import unicodedata

# Scripts that put no space between words; each of their characters counts as a word, with the marks that belong to it.
UNSEPARATED = re.compile(
    "["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u1950-\u19ff\u1a20-\u1aaf"  # Tai scripts
    "\u1b00-\u1b7f\ua980-\ua9df"  # Balinese, Javanese
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u3100-\u312f"  # Chinese, Japanese
    "\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # likewise
    "\U00016fe0-\U0003ffff"  # Tangut, Khitan, Nushu, and rarer Chinese and Japanese characters
    "]"
)
ASCII_WORDS = re.compile("[a-z0-9]+")


def words(text: str) -> list[str]:
    """The words of a text, in lower case and compatibility form: runs of letters, digits and marks, in scripts without spaces characters.

    Of an ASCII text these are the words of `rouge_score`.
    """
    if text.isascii():
        return ASCII_WORDS.findall(text.lower())
    complete, run = list[str](), ""
    for character in unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()):
        category = unicodedata.category(character)[0]
        if category == "M" and not run and complete and UNSEPARATED.match(complete[-1]):
            complete[-1] += character
        elif category in "LNM" and not UNSEPARATED.match(character):
            run += character
        else:
            complete += [run] if run else []
            complete += [character] if category in "LN" else []
            run = ""
    return [*complete, run] if run else complete
