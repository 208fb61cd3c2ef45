"""The limits of names and labels, as docs/messages.md has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

# The default of the worker's `message.max_name_bytes`.
MAX_NAME_BYTES = 1024
MAX_LABELS = 100

Label = str | int | float | bool


def checked_name(what: str, name: object, *, is_limited: bool = True) -> str:
    """Returns a name that the worker accepts.

    Args:
        what: what has the name, for the error.
        name: the name.
        is_limited: whether it has to have 1 to 1024 bytes; texts such as a description do not.

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty, has more than 1024 bytes, contains U+0000, or is not valid Unicode.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what} {name!r} is of type {type(name).__name__}, not a string")
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} {name!r} is not valid Unicode: {error.reason}") from None
    if "\0" in name:
        raise ValueError(f"{what} {name!r} contains U+0000, which PostgreSQL cannot store")
    if is_limited and not 1 <= length <= MAX_NAME_BYTES:
        raise ValueError(f"{what} {name[:40]!r} has {length} bytes, not 1 to {MAX_NAME_BYTES}")
    return str(name)


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def checked_labels(labels: Mapping[str, Label]) -> dict[str, Label]:
    """Returns labels that the worker accepts: at most 100 strings, finite numbers and booleans.

    Raises:
        TypeError: a name is not a string, or a value is none of these.
        ValueError: there are too many, or one is too long or not finite.
    """
    if not isinstance(labels, Mapping):
        raise TypeError(f"labels are of type {type(labels).__name__}, not a mapping of names to values")
    if len(labels) > MAX_LABELS:
        raise ValueError(f"there are {len(labels)} labels, and at most {MAX_LABELS} are allowed")
    checked: dict[str, Label] = {}
    for key, value in labels.items():
        name = checked_name("the label", key)
        label: Any = value.item() if isinstance(value, np.generic) else value
        if isinstance(label, str):
            label = checked_name(f"the label {name!r} with the value", label, is_limited=bool(label))
        elif not isinstance(label, bool | int | float):
            raise TypeError(f"the label {name!r} is of type {type(value).__name__}, not a string, number or boolean")
        elif not _is_finite(label):
            raise ValueError(f"the label {name!r} is outside the finite numbers of a double")
        checked[name] = label
    return checked
