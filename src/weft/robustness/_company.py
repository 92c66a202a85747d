"""Threat models with drawn company: the attacker owns one input, its mates, or knows neither."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.robustness._gradient import check_count
from weft.robustness._search import Predict, Scene, UnderAttack, View
from weft.robustness._threats import as_batch


@dataclass(frozen=True)
class VictimOnly:
    """The attacker owns one input, and knows the clean batch it will be seen in.

    Args:
        size: inputs per batch, the victim included; its mates are drawn from all other inputs.
            `None`: all of them.
        victims: how many inputs are attacked, drawn at random; `None`: each of them.
    """

    size: int | None = None
    victims: int | None = None

    def __post_init__(self) -> None:
        _check_company(self.size, self.victims)

    def __str__(self) -> str:
        return f"victim only, {_company(self.size)}"

    def scenes(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Sequence[Scene]:
        """Draw the victims, and for each its mates."""
        scenes = []
        for victim in draw_victims(inputs, self.victims, generator):
            view = _beside([inputs[draw_mates(inputs, victim, self.size, generator)]])
            scenes.append(Scene(inputs[victim], labels[victim], victim, view, view))
        return scenes


@dataclass(frozen=True)
class NeighboursOnly:
    """The attacker owns the company and not the victim, which stays clean: poisoned context.

    A model that looks at one input at a time keeps its clean accuracy here.

    Args:
        size: inputs per batch, the victim included; at least 2. `None`: all of them.
        victims: how many inputs are attacked, drawn at random; `None`: each of them.
    """

    size: int | None = None
    victims: int | None = None

    def __post_init__(self) -> None:
        _check_company(self.size, self.victims)
        if self.size == 1:
            raise ValueError("`size` must be 2 or more, got 1: a victim alone has no neighbours.")

    def __str__(self) -> str:
        return f"neighbours only, {_company(self.size)}"

    def scenes(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Sequence[Scene]:
        """Draw the victims, and for each the mates that will move."""
        if len(inputs) < 2:
            raise ValueError(
                "`inputs` must be 2 or more, got 1: a victim alone has no neighbours to move."
            )
        scenes = []
        for victim in draw_victims(inputs, self.victims, generator):
            mates = inputs[draw_mates(inputs, victim, self.size, generator)]
            view = _context_of(inputs[victim])
            scenes.append(Scene(mates, labels[victim], victim, view, view))
        return scenes


@dataclass(frozen=True)
class SwapIn:
    """Inputs are crafted together in one batch, then each is used alone among clean mates.

    What joint examples are worth where the attacker does not own the deployed batch. The claimed
    accuracy is that of the joint batch, the replayed one that of the clean batches.

    Args:
        size: inputs per batch, in crafting and in use.
        draws: clean batches that each example is judged in.
    """

    size: int
    draws: int = 1

    def __post_init__(self) -> None:
        _check_company(self.size, None)
        check_count("draws", self.draws)

    def __str__(self) -> str:
        return f"swap-in, {_company(self.size)}, {self.draws} draws"

    def scenes(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Sequence[Scene]:
        """Cut into batches, and draw clean company for each input."""
        scenes = []
        for part in torch.arange(len(inputs), device=inputs.device).split(self.size):
            views = [
                _beside(
                    [
                        inputs[draw_mates(inputs, row, self.size, generator)]
                        for _ in range(self.draws)
                    ]
                )
                for row in part.split(1)
            ]
            scenes.append(Scene(inputs[part], labels[part], part, as_batch, _one_by_one(views)))
        return scenes


@dataclass(frozen=True)
class RandomCompany:
    """The attacker owns one input and knows neither its mates nor the anchors, only how they fall.

    It climbs the mean over `draws` companies and is judged in `unseen` fresh ones: expectation
    over transformation, with company as the transformation.

    Args:
        size: inputs per batch, the victim included.
        draws: companies that the attacker averages over.
        unseen: companies that decide; a row may be wrong in a share of them.
        victims: how many inputs are attacked, drawn at random; `None`: each of them.
        draw_model: where the anchors are random too: draws a model, given a generator. These
            models are then asked in the place of the one given to `attack`.

    Source: Athalye, Engstrom, Ilyas, Kwok, ICML 2018.
    """

    size: int
    draws: int = 10
    unseen: int = 10
    victims: int | None = None
    draw_model: Callable[[torch.Generator], Predict] | None = None

    def __post_init__(self) -> None:
        _check_company(self.size, self.victims)
        check_count("draws", self.draws)
        check_count("unseen", self.unseen)

    def __str__(self) -> str:
        anchors = " and anchors" if self.draw_model else ""
        return f"random mates{anchors}, batches of {self.size}, {self.unseen} unseen draws"

    def scenes(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Sequence[Scene]:
        """Draw the victims, and for each two disjoint sets of companies."""
        models = self._models(self.draws, generator), self._models(self.unseen, generator)
        scenes = []
        for victim in draw_victims(inputs, self.victims, generator):
            craft, final = (
                _beside(
                    [
                        inputs[draw_mates(inputs, victim, self.size, generator)]
                        for _ in range(count)
                    ],
                    own,
                )
                for count, own in zip((self.draws, self.unseen), models, strict=True)
            )
            scenes.append(Scene(inputs[victim], labels[victim], victim, craft, final))
        return scenes

    def _models(self, count: int, generator: torch.Generator) -> list[Predict] | None:
        if self.draw_model is None:
            return None
        return [self.draw_model(generator) for _ in range(count)]


def draw_victims(
    inputs: Tensor, victims: int | None, generator: torch.Generator
) -> Sequence[Tensor]:
    """Return each victim's row, as a tensor of one: all rows, or so many at random, in order."""
    if victims is None or victims >= len(inputs):
        return torch.arange(len(inputs), device=inputs.device).split(1)
    order = torch.randperm(len(inputs), generator=generator, device=generator.device)
    return order[:victims].sort().values.to(inputs.device).split(1)


def draw_mates(
    inputs: Tensor, victim: Tensor, size: int | None, generator: torch.Generator
) -> Tensor:
    """Return rows of other inputs, drawn without replacement, for a batch of `size`."""
    others = torch.arange(len(inputs), device=inputs.device)
    others = others[others != victim]
    if size is None or size > len(others):
        return others
    order = torch.randperm(len(others), generator=generator, device=generator.device)
    return others[order[: size - 1].to(inputs.device)]


def _beside(companies: Sequence[Tensor], models: Sequence[Predict] | None = None) -> View:
    """See the moved row at the head of each company, each through its own model if there are."""

    def view(model: Predict, moved: Tensor) -> Tensor:
        chosen = [model] * len(companies)
        if models is not None and isinstance(model, UnderAttack):  # a surrogate stays itself
            chosen = [model.become(one) for one in models]
        return torch.stack(
            [
                one(torch.cat([moved, mates]))[: len(moved)]
                for one, mates in zip(chosen, companies, strict=True)
            ]
        )

    return view


def _context_of(victim: Tensor) -> View:
    """See the victim at the head of a company that moves."""

    def view(model: Predict, moved: Tensor) -> Tensor:
        return model(torch.cat([victim, moved]))[None, : len(victim)]

    return view


def _one_by_one(views: Sequence[View]) -> View:
    """See each moved row in its own company."""

    def view(model: Predict, moved: Tensor) -> Tensor:
        parts = zip(views, moved.split(1), strict=True)
        return torch.cat([one(model, row) for one, row in parts], dim=1)

    return view


def _check_company(size: int | None, victims: int | None) -> None:
    for name, count in (("size", size), ("victims", victims)):
        if count is not None:
            check_count(name, count)


def _company(size: int | None) -> str:
    return "the whole set" if size is None else f"batches of {size}"
