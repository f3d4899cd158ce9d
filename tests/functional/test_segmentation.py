"""Ways of cutting a text into tokens: by hand, against each other, and against the tokenizers of the library."""

from __future__ import annotations

import random

from tokenizers import Tokenizer, models

from expunge.functional.segmentation import fewest, greedy, greedy_rtl, longest, merged

V = {"a", "b", "c", "d", "e", "ab", "abc", "cde"}


def test_by_hand() -> None:
    assert greedy("abcde", V) == ["abc", "d", "e"]
    assert fewest("abcde", V) == ["ab", "cde"]
    assert greedy_rtl("abcde", V) == ["ab", "cde"]
    assert longest("abcde", V) == ["abc", "d", "e"]
    assert longest("abxcde", V) == ["ab", "x", "cde"]
    assert fewest("aab", {"a", "b", "aa", "ab"}) == ["a", "ab"], "of equally few tokens the longest last one"
    assert merged("aaab", {("a", "b"): 0, ("a", "a"): 1, ("aa", "ab"): 2}) == ["aaab"]
    assert greedy("", V) == fewest("", V) == longest("", V) == greedy_rtl("", V) == []


def test_every_way_is_lossless_and_none_needs_fewer_than_the_fewest() -> None:
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choices("abcd", k=12))
        tokens = {*"abcd", *("".join(rng.choices("abcd", k=rng.randint(2, 4))) for _ in range(15))}
        ways = [way(text, tokens) for way in (fewest, greedy, greedy_rtl, longest)]
        assert all("".join(w) == text and tokens.issuperset(w) for w in ways)
        assert len(ways[0]) == min(map(len, ways))
        assert any(len(w) > len(ways[0]) for w in ways) or len({tuple(w) for w in ways}) <= len(ways)


def test_merging_is_that_of_the_library() -> None:
    rng = random.Random(1)
    for _ in range(50):
        pairs: list[tuple[str, str]] = []
        tokens = list("abc")
        while len(pairs) < 8:
            pair = rng.choice(tokens), rng.choice(tokens)
            if pair not in pairs and "".join(pair) not in tokens:
                pairs.append(pair)
                tokens.append("".join(pair))
        library = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, pairs))
        text = "".join(rng.choices("abc", k=15))
        assert merged(text, {p: i for i, p in enumerate(pairs)}) == library.encode(text).tokens
