"""What names a person by itself: addresses of mail, telephone numbers, accounts, cards, addresses of machines, however they are spaced.

Patterns with check digits where there are some, so that any long number is not taken for an account. Names of people are no pattern:
whole texts are looked for, too, and a recognizer of names can be given.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from expunge.service.lookalikes import visible


class Identifier(NamedTuple):
    """An identifier in a text: what it is, in one spelling, and where it begins."""

    kind: str
    value: str
    start: int


Recognizer = Callable[[str], Iterator[Identifier]]
MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
TELEPHONE = re.compile(r"(?<![\w+])(?<!\d[ -])(?:\+|00[ -]?)[1-9](?:[ ()/.-]{0,3}\d){7,13}(?!\w)")
ACCOUNT = re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,3})?(?!\w)")
CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w.])")
MACHINE = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w.:])")


def identifiers(text: str) -> Iterator[Identifier]:
    """The identifiers in a text, in one spelling each."""
    shown = text if text.isascii() else visible(text)
    for match in MAIL.finditer(shown):
        yield Identifier("e-mail", match[0].rstrip(".").casefold(), match.start())
    for match in TELEPHONE.finditer(shown):
        digits = re.sub(r"\D", "", match[0].replace("(0)", ""))  # the zero of calls inside a country
        yield Identifier("telephone", digits.removeprefix("00"), match.start())
    for match in ACCOUNT.finditer(shown):
        if is_account(value := match[0].replace(" ", "").upper()):
            yield Identifier("bank account", value, match.start())
    for match in CARD.finditer(shown):
        if is_card(value := re.sub(r"\D", "", match[0])):
            yield Identifier("card", value, match.start())
    for match in MACHINE.finditer(shown):
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            continue
        if address.is_global:
            yield Identifier("address of a machine", str(address), match.start())


def is_account(value: str) -> bool:
    """Whether the check digits of an IBAN hold (ISO 13616): its digits, with the first four at the end and letters as 10 to 35, leave 1."""
    if not 15 <= len(value) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in value[4:] + value[:4])) % 97 == 1


def is_card(value: str) -> bool:
    """Whether the check digit of a card number holds (Luhn), and it is no row of one digit."""
    digits = [int(c) for c in reversed(value)]
    doubled = [d if i % 2 == 0 else 2 * d - 9 * (d > 4) for i, d in enumerate(digits)]
    return len(set(value)) > 1 and sum(doubled) % 10 == 0
