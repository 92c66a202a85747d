"""Classes in levels, and a block of the backbone for each: a stack of locally isometric blocks.

Importing this module does not import torch.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from weft.lab._fields import nearest
from weft.lab._isometry import IsometryName, isometry_options

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from weft.lab.data import Dataset


def read_levels(text: str) -> list[list[list[str]]]:
    """Read groups of class names: `0,1,2 | 3,4 ; 0,1 | 2 | 3,4` has two levels, coarse to fine.

    A name cannot hold a comma, a bar or a semicolon itself.

    Raises:
        ValueError: a level of fewer than two groups, or a name that is empty or there twice.
    """
    levels = [
        [[name.strip() for name in group.split(",")] for group in level.split("|")]
        for level in (text.split(";") if text.strip() else [])
    ]
    for level in levels:
        names = Counter(name for group in level for name in group)
        name, count = names.most_common(1)[0]
        if len(level) < 2 or "" in names or count > 1:
            came = f"the class {name!r} twice" if count > 1 and name else repr(text)
            raise ValueError(
                "`levels` must be groups of class names, at least two in each level, got "
                f"{came}: write `a,b | c,d` for one level, `a,b | c,d ; a | b | c,d` for two."
            )
    return levels


def check_levels(text: str, head: str, pretrain: int, stability: str) -> None:
    """Refuse levels that are none, or beside what does not go with them."""
    if not read_levels(text):
        return
    for name, came, needed in (
        ("head", head, "softmax"),
        ("pretrain", pretrain, 0),
        ("stability", stability, "none"),
    ):
        if came != needed:
            raise ValueError(
                f"`levels` need {name} = {needed}, got {came}: all levels share a linear head, and "
                "each block is trained by its own level alone."
            )


def number_levels(text: str, class_names: Sequence[str]) -> list[list[int]]:
    """Return the group of each class, one list for each level from coarse to fine, classes last.

    Raises:
        ValueError: names are no classes, classes are missing, or a level tears apart what stands
            together in a finer one.
    """
    table = []
    for level in read_levels(text):
        group = {name: number for number, names in enumerate(level) for name in names}
        unknown = [name for name in group if name not in class_names]
        if unknown:
            raise ValueError(
                f"`levels` must name the classes of the data, got {unknown[0]!r}: "
                + nearest(unknown[0], list(class_names))
            )
        missing = [name for name in class_names if name not in group]
        if missing:
            raise ValueError(
                f"`levels` must put every class into a group, got none for {', '.join(missing)}: "
                "add what is missing to each level."
            )
        table.append([group[name] for name in class_names])
    table.append(list(range(len(class_names))))
    for coarse, fine in pairwise(table):
        if len(set(zip(coarse, fine, strict=True))) > len(set(fine)):
            raise ValueError(
                "`levels` must go from coarse to fine, got a group with classes of two groups of "
                "the level before it: split groups, and never join them."
            )
    return table


def build_levels(
    text: str,
    isometry: IsometryName,
    weight: float,
    model: "nn.Module",
    data: "Dataset",
    generator: "Generator",
) -> "Callable[[Tensor, Tensor], Tensor | float]":
    """Return what the levels above the classes add to the loss of a step, given (inputs, labels).

    Each trains its own block by the cross-entropy of its groups, through the head that all levels
    share, and by isometry within the groups.
    """
    if not read_levels(text):
        return lambda inputs, labels: 0.0
    import torch

    from weft.isometry import LocallyIsometricStack, level_loss

    readout: Any = model.get_submodule("head")  # linear: `check_levels` saw to it
    stack = LocallyIsometricStack(model.get_submodule("backbone").children(), readout)
    table = torch.tensor(number_levels(text, data.class_names)).T.to(readout.weight.device)
    options: dict[str, Any] = {"weight": 0.0}
    if isometry != "none":
        options = {"weight": weight} | isometry_options(isometry, generator)

    def term(inputs: "Tensor", labels: "Tensor") -> "Tensor | float":
        columns = table[labels]
        return sum(
            level_loss(stack, inputs, columns, level, **options)
            for level in range(stack.num_levels - 1)
        )

    return term


def level_accuracies(text: str, model: "nn.Module", data: "Dataset") -> dict[str, dict[str, float]]:
    """Return for each level, coarse to fine, the `accuracy` of the test samples' groups.

    The last level are the classes themselves. Empty where there are no levels.
    """
    if not read_levels(text):
        return {}
    import torch
    from torch import nn

    from weft.heads import Whole, predict

    blocks, head = list(model.get_submodule("backbone").children()), model.get_submodule("head")
    inputs, found = data.test_inputs.to(next(model.parameters()).device), {}
    for level, groups in enumerate(number_levels(text, data.class_names)):
        classifier = nn.Sequential(*blocks[: level + 1], head)
        predicted = predict(classifier, inputs, Whole()).probabilities.argmax(1).cpu()
        right = predicted == torch.tensor(groups)[data.test_labels]
        found[f"level {level + 1}"] = {"accuracy": right.double().mean().item()}
    return found
