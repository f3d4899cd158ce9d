"""Which class a row has: names and numbers of classes, and what is no class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.errors import UserError
from expunge.modalities.common.class_name import ClassName
from expunge.modalities.common.records import absent, column, kind_of, note

LABELS = ("label", "labels", "class", "y", "target", "fine_label")  # columns that may hold the class; the first that is present is taken
MOST = 20  # so many classes may be numbered with gaps of any size; of more, half must have rows
NUMBER = re.compile(r"0|[1-9][0-9]*")  # a number of a class in a cell of text; `007` is a name


def class_of(value: Any, place: str = "a label") -> int | str:
    """A class as a number or a name, unwrapped from a list, array or tensor of one element.

    Raises:
        UserError: for what is neither: nothing, blanks, a boolean, a fraction, several values.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    while isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if absent(value):
        raise UserError(f"{place}: the row has no class ({value}); give it one, or take it out")
    if isinstance(value, (list, tuple)):
        raise UserError(
            f"{place}: the class is a list of {len(value)} values, and a row has one class: give its name or number "
            "(of a one-hot list, the place of the 1, counted from 0)"
        )
    if isinstance(value, str):
        if not value.strip():
            raise UserError(f"{place}: the class is an empty text; give the row a class, or take it out")
        if value != value.strip():
            raise UserError(f"{place}: the class begins or ends with a blank: remove it")
        return value
    if isinstance(value, float) and value.is_integer():  # whole numbers become floats in a column with missing values
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{place}: the class is {kind_of(value)}, and a class is a name or a whole number")
    return value


def number_of(value: Any, names: Sequence[str], place: str = "a label") -> int:
    """The number of a class that is given by number or name.

    A name is looked up among the names of the model. A number of a data set that has names counts only where the model has none.

    Args:
        value: the number or name, possibly in a list, array or tensor of one element.
        names: of the model's classes, in the order of its outputs.
        place: the record, for messages.

    Raises:
        UserError: when the model has no such class, or the value may mean two.
    """
    value = class_of(value, place)
    if isinstance(value, str):
        if value in names:
            return list(names).index(value)
        if same := [n for n in names if re.fullmatch(re.escape(value) + r" \(\d+\)", n)]:
            raise UserError(f"{place}: the model has {len(same)} classes of this name: write its number behind it, as NAME (NUMBER)")
    elif str(value) in names and list(names).index(str(value)) != value:
        raise UserError(
            f"{place}: the class is a whole number, and may be the number of one class of the model or the name of another: give the "
            "name as a text"
        )
    if isinstance(value, ClassName):
        number = -1 if has_names(names) else value.number
    else:
        number = value if isinstance(value, int) else int(value) if NUMBER.fullmatch(value) else -1
    if not 0 <= number < len(names):
        kind = "name" if isinstance(value, str) else "number"
        raise UserError(f"{place}: the model has no class of this {kind}; it has {len(names)}, {names[0]!r} first")
    return number


def has_names(names: Sequence[str]) -> bool:
    """Whether classes have names, and not numbers alone."""
    return any(name not in (str(i), f"LABEL_{i}") for i, name in enumerate(names))


def classes(records: Sequence[Mapping[str, Any]], source: str = "training") -> tuple[str, ...]:
    """Names of the classes in records: those of the data set in its order, or all numbers from 0 to the largest, or the sorted names.

    Args:
        records: rows with a class each.
        source: name of the records in messages.

    Raises:
        UserError: for a row without a class, names beside numbers, negative numbers, and numbers that leave most classes without rows.
    """
    values: list[int | str] = []
    for i, record in enumerate(records):
        place = f"{source}, row {i + 1}"
        values.append(class_of(record[column(record, LABELS, "class", place)], place))
    known = {v.names for v in values if isinstance(v, ClassName)}
    if len(known) == 1 and all(isinstance(v, ClassName) for v in values):
        return next(iter(known))
    numeric = [not isinstance(v, str) for v in values]
    if all(isinstance(v, int) or NUMBER.fullmatch(v) for v in values):
        return _numbered([int(v) for v in values], records, source)
    if any(numeric):
        a, b = numeric.index(True), numeric.index(False)
        raise UserError(f"{source}, row {b + 1}: the class is a name, and that of row {a + 1} is a number")
    return tuple(sorted({str(v) for v in values}))


def _numbered(numbers: Sequence[int], records: Sequence[Mapping[str, Any]], source: str) -> tuple[str, ...]:
    """The numbers of all classes. Some classes may have lost their rows."""
    if (lowest := min(numbers)) < 0:
        raise UserError(f"{source}, row {numbers.index(lowest) + 1}: the class is a negative number, and classes are numbered from 0")
    count, filled = max(numbers) + 1, set(numbers)
    most = max(MOST, 2 * len(filled))
    if empty := [i for i in range(min(count, most + 1)) if i not in filled]:
        if count > most:
            raise UserError(
                f"{source}, row {numbers.index(count - 1) + 1}: the number of the class is above {most}, but only {len(filled)} numbers "
                f"have rows: number the classes from 0, or give their number or names (--labels)"
            )
        listed = ", ".join(map(str, empty[:8])) + (" and more" if len(empty) > 8 else "")
        note(records, [f"{len(empty)} of {count} classes have no row ({listed}); the model has outputs for them"])
    return tuple(map(str, range(count)))


def checked_names(labels: int | Sequence[str]) -> tuple[str, ...]:
    """Names of classes as a user gives them, or their number.

    Raises:
        UserError: when there are no classes, a name is empty, or two classes have the same name.
    """
    names = tuple(str(i) for i in range(labels)) if isinstance(labels, int) else tuple(map(str, labels))
    if not names:
        raise UserError("a classifier has classes: give their names, or how many there are")
    if blank := [i for i, n in enumerate(names) if not n.strip() or n != n.strip()]:
        raise UserError(f"the name of class {blank[0]} is {names[blank[0]]!r}, which is empty or begins or ends with a blank")
    if duplicates := [n for n, count in Counter(names).items() if count > 1]:
        raise UserError(f"the class {duplicates[0]!r} is named twice")
    return names


def names_in(config: Any, path: str) -> tuple[str, ...]:
    """The names of a model's classes, from its configuration; several classes of one name get their numbers behind it.

    Raises:
        UserError: when an output has no name, or a name no output.
    """
    known, count = {int(i): str(n) for i, n in config.id2label.items()}, int(config.num_labels)
    if odd := sorted(known.keys() ^ set(range(count))):
        raise UserError(
            f"the model in {path} has {count} outputs, 0 to {count - 1}, and the names in its config.json (id2label) are for "
            f"{', '.join(map(str, sorted(known)))}: {'there is no name for' if odd[0] not in known else 'there is no output'} {odd[0]}"
        )
    repeated = {n for n, times in Counter(known.values()).items() if times > 1}
    return tuple(f"{known[i]} ({i})" if known[i] in repeated else known[i] for i in range(count))


def renamed(config: Any, names: tuple[str, ...], labels: int | Sequence[str], path: str) -> tuple[str, ...]:
    """The names of a loaded model's classes where the user gives some; a model without names takes them into its configuration.

    Args:
        config: of the model.
        names: from `names_in`.
        labels: names, or how many classes the model must have.

    Raises:
        UserError: when the model has another number of classes, or other names.
    """
    given_names = checked_names(labels)
    if len(given_names) != len(names):
        raise UserError(
            f"the model in {path} has {len(names)} classes, and {len(given_names)} are given: leave the labels out, or give all"
        )
    if isinstance(labels, int) or given_names == names:
        return names
    if has_names(names):
        i = next(i for i, (a, b) in enumerate(zip(given_names, names, strict=True)) if a != b)
        raise UserError(f"class {i} of the model in {path} is {names[i]!r}, and the given name is {given_names[i]!r}: leave the labels out")
    config.id2label = dict(enumerate(given_names))
    config.label2id = {name: i for i, name in enumerate(given_names)}
    return given_names
