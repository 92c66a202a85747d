"""The nearest labelled example decides, and says how far it can be trusted: a certificate.

Knows torch; has buffers and no parameters.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.linalg import vector_norm

from weft._check import at_least_float32, check_finite, check_floating, on_values

_BLOCK = 2**23  # entries of the largest block of distances: 64 MiB


class NearestHead(nn.Module):
    """Logits are minus the distances to the nearest reference of each class, over a temperature.

    In front of it stands any map from inputs to features, `nn.Sequential(backbone, head)`, or
    nothing, `nn.Sequential(nn.Flatten(), head)`: then this is the nearest-neighbour classifier,
    and its certificate is about the inputs themselves. Differentiable in features, to any order
    wherever no other reference becomes the nearest and, for norms 1 and infinity, no entry another
    sign or the largest; the references are fixed.

    Args:
        references: features of labelled examples, computed by the backbone in evaluation mode.
        labels: their classes, 0 to the number of classes less one, each at least once.
        norm: the metric on features: 1, 2 or infinity.
        temperature: the distance, in the unit of the features, that makes a logit; positive.
    """

    references: Tensor
    labels: Tensor

    def __init__(
        self,
        references: Float[Tensor, "m d"],
        labels: Int[Tensor, " m"],
        *,
        norm: float = 2.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if norm not in (1, 2, torch.inf):
            raise ValueError(f"`norm` must be 1, 2 or infinity, got {norm}: take 2.")
        if not 0 < temperature < torch.inf:
            raise ValueError(f"`temperature` must be positive, got {temperature}: take 1.")
        self.norm, self.temperature = float(norm), temperature
        self.register_buffer("references", torch.empty(0))
        self.register_buffer("labels", torch.empty(0))
        self.set_references(references, labels)

    def extra_repr(self) -> str:
        """Show the settings in the module's printout."""
        count, width = self.references.shape
        return f"{count} references of width {width}, norm={self.norm}, t={self.temperature}"

    def set_references(self, references: Float[Tensor, "m d"], labels: Int[Tensor, " m"]) -> None:
        """Replace the references, for example when the backbone has learned more."""
        check_floating("references", references, "m d")
        check_finite("references", references.detach())
        if labels.is_floating_point() or labels.shape != references.shape[:1]:
            raise ValueError(
                "`labels` must hold one class number for each reference, shape "
                f"{tuple(references.shape[:1])}, got {labels.dtype} of shape "
                f"{tuple(labels.shape)}: flatten or cast them."
            )
        present = labels.unique()
        if not torch.equal(present, torch.arange(len(present)).to(present)) or not len(present):
            raise ValueError(
                f"`labels` must be 0 to the number of classes less one, each at least once, got "
                f"{present.tolist()[:10]}: number the classes anew, and leave out what has none."
            )
        order = labels.argsort(stable=True)  # classes lie side by side
        self.references, self.labels = references.detach()[order], labels[order].long()

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Return logits; the largest is that of the nearest reference's class."""
        return -self.distances(features) / self.temperature

    def distances(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Return the distance to the nearest reference of each class."""
        self._check(features)
        features = at_least_float32(features)
        nearest = self._nearest(features, self.references, self.labels)
        with torch.autocast(features.device.type, enabled=False):
            away = features[:, None] - self.references.to(features)[nearest]
            return vector_norm(away, self.norm, dim=2)

    def certified_radius(
        self, features: Float[Tensor, "n d"], *, lipschitz: float = 1.0
    ) -> Float[Tensor, " n"]:
        """Return how far each input may be moved, in any direction, before its class can change.

        Whatever moves the features by less than (d_other - d_own) / 2, half the difference of the
        distances to the nearest reference of another class and of the predicted one, leaves the
        prediction as it is, since each distance changes by no more than the features move. In norm
        2 the radius is the distance to the nearest plane that bisects the nearest reference a and
        one of another class b,  min_b (d_b^2 - d_a^2) / (2 |a - b|), which is at least as far.

        If the map to the features is L-Lipschitz, |phi(x) - phi(y)| <= L |x - y|, inputs may move
        by 1 / L of that; in norm 2 over inputs of width d, each entry by 1 / (L sqrt(d)). Training
        for isometry gives no such L: only a proof does, as for no map at all (L = 1) or layers that
        are Lipschitz by construction.

        Args:
            features: what the head is called with.
            lipschitz: L, in this head's norm; the default is for features that are the inputs.

        Returns:
            Radii in the head's norm, without gradient; a prediction is constant strictly inside.
            Infinite with one class.
        """
        if not 0 < lipschitz < torch.inf:
            raise ValueError(
                f"`lipschitz` must be positive, got {lipschitz}: take 1 where features are inputs."
            )
        self._check(features)
        return self._radius(features, self.references, self.labels) / lipschitz

    @on_values
    def _nearest(self, features: Tensor, references: Tensor, labels: Tensor) -> Tensor:
        """Return for each row the number of the nearest reference of each class."""
        sizes = torch.bincount(labels)
        start = sizes.cumsum(0) - sizes
        if self.norm == 2:
            # Which is nearest may come from matrix products, several times as fast: in float64 and
            # centred, they mistake only what is equally near to 1e-7 of the references' spread. The
            # distances themselves, and certificates, are taken by differences.
            centre = references.double().mean(0)
            features, references = features.double() - centre, references.double() - centre
        found = [
            torch.stack([part.min(1).indices for part in block.split(sizes.tolist(), 1)], 1) + start
            for block in self._blocks(features, references, differences=self.norm != 2)
        ]
        return torch.cat(found) if found else start.new_empty(0, len(sizes))

    @on_values
    def _radius(self, features: Tensor, references: Tensor, labels: Tensor) -> Tensor:
        radii = [features.new_empty(0, dtype=torch.float64)]
        points = references.double()
        for block in self._blocks(features, references):
            own, nearest = block.min(1)
            margin = block - own[:, None]
            if self.norm == 2:
                apart = _distances(points[nearest], points, self.norm)
                least = torch.finfo(apart.dtype).tiny  # references of two classes may be equal
                margin = margin * (block + own[:, None]) / apart.clamp_min(least)
            within = labels == labels[nearest, None]
            radii.append(margin.masked_fill_(within, torch.inf).amin(1) / 2)
        return torch.cat(radii).to(at_least_float32(features).dtype)

    def _blocks(
        self, features: Tensor, references: Tensor, *, differences: bool = True
    ) -> Iterator[Tensor]:
        """Go through the distances of all rows and references, a few rows at a time."""
        points = references.double()
        for rows in features.split(max(1, _BLOCK // len(points))):
            if len(rows):
                if differences:
                    yield _distances(rows.double(), points, self.norm)
                else:
                    yield torch.cdist(rows, points, compute_mode="use_mm_for_euclid_dist")

    def _check(self, features: Tensor) -> None:
        check_floating("features", features, "n d")
        check_finite("features", features.detach())
        if features.shape[1] != self.references.shape[1]:
            raise ValueError(
                f"`features` must be as wide as the references, {self.references.shape[1]}, got "
                f"{features.shape[1]}: use the backbone that made the references."
            )

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # The number of references may differ from the one this module was built with.
        for name in ("references", "labels"):
            if (stored := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _distances(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], norm: float
) -> Float[Tensor, "n m"]:
    """Return all distances, by differences: matrix products would lose those of close points."""
    return torch.cdist(x, y, p=norm, compute_mode="donot_use_mm_for_euclid_dist")
