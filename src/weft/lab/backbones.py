"""Small networks from inputs to features: an MLP, a CNN and a ResNet-18 for small images.

Each maps (n, *input shape) to (n, out_features) and has the attribute `out_features`; so may
any other `nn.Module` that takes their place.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

HIDDEN = (128, 128)


class MLP(nn.Module):
    """Linear layers with ReLU between them; inputs of any shape are flattened.

    Args:
        in_features: numbers per input.
        hidden: widths of the layers in between.
        out_features: features per input; no activation follows them.
        standardize: start with a normalisation of each input column over the batch, its running
            statistics kept with the weights: for columns in units of their own.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.out_features = out_features
        layers: list[nn.Module] = []
        if standardize:
            layers.append(nn.BatchNorm1d(in_features, affine=False))
        for before, after in pairwise((in_features, *hidden, out_features)):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n f"]:
        """Map inputs to features."""
        return self.layers(inputs.flatten(1))


class SmallCNN(nn.Module):
    """Four 3×3 convolutions, 32-32-pool-64-64-pool, and a linear layer.

    A pool halves the image only while it leaves 4 pixels or more: 28 pixels are pooled twice,
    8 pixels once. Sides that stay above 8 pixels are averaged down to 8.

    Args:
        image_shape: (channels, height, width) of the inputs.
        out_features: features per input; no activation follows them.
    """

    def __init__(self, image_shape: tuple[int, int, int], out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        channels, height, width = image_shape
        self.first = nn.Conv2d(channels, 32, 3, padding=1, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(32), nn.ReLU()]
        for before, after, ends_stage in ((32, 32, True), (32, 64, False), (64, 64, True)):
            convolution, norm = _convolution(before, after)
            layers.append(convolution)
            if ends_stage and min(height, width) >= 8:
                layers.append(nn.MaxPool2d(2))  # before the normalisation, to spare it work
                height, width = height // 2, width // 2
            layers += [norm, nn.ReLU()]
        if max(height, width) > 8:
            height, width = min(height, 8), min(width, 8)
            layers.append(nn.AdaptiveAvgPool2d((height, width)))
        self.layers = nn.Sequential(*layers)
        self.features = nn.Linear(64 * height * width, out_features)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """Map images to features."""
        # Channels last takes a fifth off a training step on a CPU. Not before the first
        # convolution: one channel has no order, and the layout would be lost.
        maps = self.first(images).contiguous(memory_format=torch.channels_last)
        return self.features(self.layers(maps).flatten(1))


class ResNet18(nn.Module):
    """ResNet-18 for images of about 28 to 32 pixels: a 3×3 stem, and no pool after it.

    Args:
        image_shape: (channels, height, width) of the inputs; any height and width will do.
        out_features: features per input; no activation follows them.

    Source: He, Zhang, Ren and Sun, CVPR 2016, table 1 and section 4.2 (the stem for CIFAR-10).
    """

    def __init__(self, image_shape: tuple[int, int, int], out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        self.stem = nn.Sequential(*_convolution(image_shape[0], 64), nn.ReLU())
        blocks = [_Residual(64, 64), _Residual(64, 64)]
        for before, after in pairwise((64, 128, 256, 512)):
            blocks += [_Residual(before, after, stride=2), _Residual(after, after)]
        self.blocks = nn.Sequential(*blocks)
        self.features = nn.Linear(512, out_features)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """Map images to features."""
        return self.features(self.blocks(self.stem(images)).mean((2, 3)))


class Blocks(nn.Sequential):
    """Blocks one after the other, of which each is trained by its own task.

    In training, what is asked of the output reaches the last block alone; in evaluation, gradients
    reach all blocks and the inputs.
    """

    def forward(self, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n f"]:
        """Map inputs to features."""
        *before, last = self
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
            for block in before:
                inputs = block(inputs)
        return last(inputs)


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.change = nn.Sequential(
            *_convolution(before, after, stride=stride), nn.ReLU(), *_convolution(after, after)
        )
        same = before == after and stride == 1
        self.shortcut = nn.Sequential(
            *([] if same else _convolution(before, after, size=1, stride=stride))
        )

    def forward(self, images: Tensor) -> Tensor:
        return relu(self.change(images) + self.shortcut(images))


def _convolution(before: int, after: int, *, size: int = 3, stride: int = 1) -> list[nn.Module]:
    # No bias: the normalisation would subtract it.
    convolution = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(after)]


def build_backbone(
    name: str, inputs: int | tuple[int, int, int], out_features: int, *, seed: int
) -> nn.Module:
    """Build a backbone by name, on the CPU.

    Args:
        name: `mlp`, `cnn`, `resnet18`, or `auto`: `cnn` for images and `mlp` for vectors.
        inputs: the number of features of a vector, or (channels, height, width) of an image. An
            `mlp` on vectors standardises them first; images are in [0, 1] already.
        out_features: features per input.
        seed: of the initial weights; the global random state is left as it was.

    Returns:
        A module with the attribute `out_features`.

    Raises:
        ValueError: the name is unknown, or a network for images is asked for on vectors.
    """
    vectors = isinstance(inputs, int)
    if name == "auto":
        name = "mlp" if vectors else "cnn"
    if name not in ("mlp", "cnn", "resnet18"):
        raise ValueError(f"`name` must be mlp, cnn, resnet18 or auto, got {name!r}.")
    # `torch.manual_seed` would reseed every GPU too, which the fork does not restore.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        if name == "mlp":
            size = inputs if vectors else prod(inputs)
            return MLP(size, HIDDEN, out_features, standardize=vectors)
        if vectors:
            raise ValueError(f"`{name}` needs images, got vectors of {inputs}: take mlp.")
        return (SmallCNN if name == "cnn" else ResNet18)(inputs, out_features)
