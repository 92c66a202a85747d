"""Change training inputs at random, whole batches at a time and on their own device.

An augmentation is a value, `augmented = DIGITS(images, generator)`: every random number comes
from the generator passed in. One on the CPU gives the same changes on every device.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad

ELASTIC_POINTS = 5  # control points per side: a bend spans about a quarter of the image


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes to images, in the order of the fields; at zero, a field changes nothing.

    Lengths are fractions of the image's side, so that one setting serves 8 and 32 pixels.
    Differentiable in the images.

    Args:
        shift: largest shift along each axis.
        rotate: largest rotation, in degrees.
        scale: largest relative change of size, in [0, 1).
        elastic: root mean square, over the batch, of a smooth random displacement.
        outside: what lies beyond the border, `zeros` or `reflection`; also for `crop`.
        crop: largest shift by whole pixels, without interpolation: pad and crop.
        flip: mirror left and right in half of the images.
        cutout: side of a square set to zero; it may reach over the border.

    Raises:
        ValueError: a field is outside its range.
    """

    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    elastic: float = 0.0
    outside: str = "zeros"
    crop: float = 0.0
    flip: bool = False
    cutout: float = 0.0

    def __post_init__(self) -> None:
        limits = {"shift": 1, "scale": 1, "elastic": 1, "crop": 0.5, "cutout": 1}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) < limit:
                raise ValueError(f"`{name}` must lie in [0, {limit}), got {getattr(self, name)}.")
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"`rotate` must lie in 0 to 180 degrees, got {self.rotate}.")
        if self.outside not in ("zeros", "reflection"):
            raise ValueError(f"`outside` must be 'zeros' or 'reflection', got {self.outside!r}.")

    def __call__(
        self, images: Float[Tensor, "n c h w"], generator: Generator
    ) -> Float[Tensor, "n c h w"]:
        """Return changed images, in [0, 1] like those given, with their shape, dtype and device.

        Raises:
            ValueError: `images` are not four-dimensional and of a floating dtype.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(
                f"`images` must be floats (n, channels, h, w), got {images.dtype} "
                f"{tuple(images.shape)}: for vectors take `Jitter`."
            )
        if not len(images):
            return images
        if self.shift or self.rotate or self.scale or self.elastic:
            images = self._warp(images, generator)
        if self.crop:
            images = pad_and_crop(images, generator, crop=self.crop, outside=self.outside)
        if self.flip:
            images = flip(images, generator)
        if self.cutout:
            images = cutout(images, generator, side=self.cutout)
        return images

    def _warp(self, images: Tensor, generator: Generator) -> Tensor:
        # One grid for all: interpolating twice would blur twice.
        grid = random_affine(
            images, generator, shift=self.shift, rotate=self.rotate, scale=self.scale
        )
        if self.elastic:
            grid = grid + random_displacement(images, generator, strength=self.elastic)
        # Coordinates of 28 pixels need more digits than half precision has.
        warped = grid_sample(
            images.to(grid.dtype), grid, padding_mode=self.outside, align_corners=False
        )
        return warped.clamp(0, 1).to(images.dtype)  # a weighted mean, but for rounding


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Gaussian noise on vectors.

    Args:
        strength: its standard deviation, in standard deviations of each column over the batch.

    Raises:
        ValueError: `strength` is negative.
    """

    strength: float

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise ValueError(f"`strength` must not be negative, got {self.strength}.")

    def __call__(self, vectors: Float[Tensor, "n d"], generator: Generator) -> Float[Tensor, "n d"]:
        """Return noisy vectors, with the shape, dtype and device of those given.

        Raises:
            ValueError: `vectors` are not two-dimensional and of a floating dtype.
        """
        if vectors.ndim != 2 or not vectors.is_floating_point():
            raise ValueError(
                f"`vectors` must be floats (n, d), got {vectors.dtype} {tuple(vectors.shape)}: "
                "for images take `Augmentation`."
            )
        spread = vectors.detach().std(0, correction=0)
        noise = torch.randn(vectors.shape, generator=generator, device=generator.device)
        return vectors + self.strength * spread * noise.to(vectors)


# Digits mirrored are other signs; clothes are mirrored freely, but stand upright and fill the
# frame; photographs have no background to shift in, hence reflection and whole pixels.
DIGITS = Augmentation(shift=0.08, rotate=12, scale=0.12, elastic=0.02)
CLOTHING = Augmentation(shift=0.05, rotate=4, scale=0.08, flip=True)
NATURAL = Augmentation(outside="reflection", crop=0.125, flip=True, cutout=0.25)
VECTORS = Jitter(strength=0.1)


def random_affine(
    images: Float[Tensor, "n c h w"],
    generator: Generator,
    *,
    shift: float,
    rotate: float,
    scale: float,
) -> Float[Tensor, "n h w 2"]:
    """Draw a shift, rotation and scale per image, as a sampling grid for `grid_sample`."""
    n, _, height, width = images.shape
    dtype = torch.promote_types(images.dtype, torch.float32)
    draws = _uniform((4, n), images, generator).to(dtype) * 2 - 1
    angle = draws[0] * math.radians(rotate)
    zoom = 1 / (1 + draws[1] * scale)
    # The grid's unit is half a side, so a rotation of pixels is a shear of the grid unless the
    # image is square; and a shift by a side is 2.
    theta = images.new_empty((n, 2, 3), dtype=dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom * angle.cos()
    theta[:, 0, 1] = -zoom * angle.sin() * height / width
    theta[:, 1, 0] = zoom * angle.sin() * width / height
    theta[:, :, 2] = 2 * shift * draws[2:].T
    return affine_grid(theta, [n, 1, height, width], align_corners=False)


def random_displacement(
    images: Float[Tensor, "n c h w"], generator: Generator, *, strength: float
) -> Float[Tensor, "n h w 2"]:
    """Draw a smooth displacement per image, to be added to a sampling grid.

    Gaussian at a coarse lattice of control points, cubic in between.

    Args:
        images: give the shape and device.
        generator: source of the randomness.
        strength: root mean square displacement along each axis, as a fraction of the side.

    Source: after Simard, Steinkraus and Platt, ICDAR 2003, section 2, whose displacement is noise
    smoothed by a Gaussian; control points are cheaper.
    """
    n, _, height, width = images.shape
    dtype = torch.promote_types(images.dtype, torch.float32)
    shape = (n, 2, ELASTIC_POINTS, ELASTIC_POINTS)
    noise = torch.randn(shape, generator=generator, device=generator.device)
    noise = noise.to(images.device, dtype)
    smooth = interpolate(noise, (height, width), mode="bicubic", align_corners=True)
    smooth = smooth / smooth.square().mean().sqrt()
    return 2 * strength * smooth.permute(0, 2, 3, 1)


def pad_and_crop(
    images: Float[Tensor, "n c h w"], generator: Generator, *, crop: float, outside: str
) -> Float[Tensor, "n c h w"]:
    """Shift each image by whole pixels, up to the fraction `crop` of its side."""
    n, channels, height, width = images.shape
    rows, columns = round(crop * height), round(crop * width)
    mode = "reflect" if outside == "reflection" else "constant"
    padded = pad(images, (columns, columns, rows, rows), mode=mode)
    draws = _uniform((2, n), images, generator)
    top = (draws[0] * (2 * rows + 1)).long()
    left = (draws[1] * (2 * columns + 1)).long()
    y = top[:, None] + torch.arange(height, device=images.device)
    x = left[:, None] + torch.arange(width, device=images.device)
    sample = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return padded[sample, channel, y[:, None, :, None], x[:, None, None, :]]


def flip(images: Float[Tensor, "n c h w"], generator: Generator) -> Float[Tensor, "n c h w"]:
    """Mirror left and right with probability one half."""
    chosen = _uniform((len(images), 1, 1, 1), images, generator) < 0.5
    return torch.where(chosen, images.flip(3), images)


def cutout(
    images: Float[Tensor, "n c h w"], generator: Generator, *, side: float
) -> Float[Tensor, "n c h w"]:
    """Set a square to zero, centred anywhere; `side` is a fraction of the image's."""
    n, _, height, width = images.shape
    centres = _uniform((2, n, 1), images, generator)
    y = (torch.arange(height, device=images.device) + 0.5) / height
    x = (torch.arange(width, device=images.device) + 0.5) / width
    inside_y = (y - centres[0]).abs() < side / 2
    inside_x = (x - centres[1]).abs() < side / 2
    hole = inside_y[:, :, None] & inside_x[:, None, :]
    return images.masked_fill(hole[:, None], 0)


def _uniform(shape: tuple[int, ...], images: Tensor, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device).to(images.device)
