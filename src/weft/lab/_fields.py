"""The fields of a recipe: what each means, what it may be, and what is said when it is not that."""

import dataclasses
import difflib
import math
from typing import Any, Literal, get_args, get_origin


def field(default: Any, help: str, *, least: float | None = None, most: float | None = None) -> Any:
    """Declare a field, with its meaning and its range."""
    return dataclasses.field(default=default, metadata={"help": help, "least": least, "most": most})


def checked(field: dataclasses.Field, kind: Any, value: Any) -> Any:
    """Return `value` as the field's type, or raise ValueError that says what is wrong with it."""
    name, least, most = field.name, field.metadata["least"], field.metadata["most"]
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            choices = ", ".join(get_args(kind))
            hint = nearest(str(value), list(get_args(kind)))
            raise ValueError(f"`{name}` must be one of {choices}, got {value!r}: {hint}")
        return value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(
            f"`{name}` must be of type {kind.__name__}, got {value!r}: "
            f"give for example {field.default!r}."
        )
    if kind is float and not math.isfinite(value):
        raise ValueError(f"`{name}` must be finite, got {value}: give for example {field.default}.")
    if least is not None and value < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}: raise it.")
    if most is not None and value > most:
        raise ValueError(f"`{name}` must be at most {most}, got {value}: lower it.")
    return value


def nearest(word: str, words: list[str]) -> str:
    """Say which word was meant, or which there are."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"choose from {', '.join(words)}."
