"""The classifier that a recipe describes: backbone and head, and labelled examples to lean on."""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.heads import GraphClassifier, GraphHead, choose_anchors
from weft.lab._levels import read_levels
from weft.lab.backbones import Blocks, build_backbone
from weft.lab.data import Dataset, Split
from weft.lab.recipe import Recipe


class HalfPrecision(nn.Module):
    """A backbone that computes in bfloat16 where autocast finds it safe, and answers in float32."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n d"]:
        """Map inputs to features."""
        with torch.autocast(inputs.device.type, torch.bfloat16):
            features = self.backbone(inputs)
        return features.float()


def build_model(recipe: Recipe, data: Dataset, split: Split) -> nn.Module:
    """Build the classifier, inputs to logits, on the recipe's device.

    It has the attributes `backbone` and `head`, and is a `GraphClassifier` if its head is a
    graph; its anchors are then those that it serves with.
    """
    blocks = build_blocks(recipe, data)
    if recipe.precision == "bfloat16":
        blocks = [HalfPrecision(block) for block in blocks]
    backbone = Blocks(*blocks) if len(blocks) > 1 else blocks[0]
    head = recipe.build_head(data.num_classes)
    device = recipe.torch_device()
    if not isinstance(head, GraphHead):
        return nn.Sequential(OrderedDict(backbone=backbone, head=head)).to(device)
    rows = serving_anchors(recipe, data, split)
    labels = data.train_labels[rows].where(torch.isin(rows, split.labelled), -1)
    return GraphClassifier(backbone, head, data.train_inputs[rows], labels).to(device)


def build_blocks(recipe: Recipe, data: Dataset) -> list[nn.Module]:
    """Build the recipe's backbone, and one MLP after it for each level that is finer."""
    inputs = data.image_shape or data.train_inputs.shape[1]
    width, seed = recipe.features, recipe.seed
    first = build_backbone(recipe.backbone, inputs, width, seed=seed)
    finer = range(len(read_levels(recipe.levels)))
    return [first, *(build_backbone("mlp", width, width, seed=seed + 1 + each) for each in finer)]


def serving_anchors(recipe: Recipe, data: Dataset, split: Split) -> Tensor:
    """Choose what predictions lean on: rows of the training part.

    Labelled samples, `anchors_served` of each class or all, and `unlabelled_served`
    unlabelled ones; by default as many as the graphs of the training had.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    labels = data.train_labels[split.labelled]
    chosen = choose_anchors(labels, recipe.anchors_served or len(labels), generator=generator)
    most = recipe.unlabelled_served or recipe.unlabelled
    some = torch.randperm(len(split.unlabelled), generator=generator)[:most]
    return torch.cat([split.labelled[chosen], split.unlabelled[some]])


def restore(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Take over the weights of a checkpoint.

    Raises:
        ValueError: they are of another network.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        where = str(error).splitlines()[1].strip()
        raise ValueError(
            "A checkpoint must hold the weights of its recipe's network, got others "
            f"({where[:80]}...): it is of another version of weft; train again with --overwrite."
        ) from error
