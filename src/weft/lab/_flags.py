"""Flags made from the fields of a table of choices. Importing this does not import torch."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer


def flags_of(table: type, panel: str | None = None) -> Callable[..., Any]:
    """Give a command one flag per field of a dataclass, of its name, type, default and help."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        types = get_type_hints(table)
        flags = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[
                    types[field.name],
                    typer.Option(
                        f"--{field.name.replace('_', '-')}",
                        help=field.metadata["help"],
                        rich_help_panel=panel,
                    ),
                ],
            )
            for field in dataclasses.fields(table)
        ]
        signature = inspect.signature(command)
        own = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
        vars(command)["__signature__"] = signature.replace(parameters=[*own, *flags])
        return command

    return add
