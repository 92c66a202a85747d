"""A recipe: every choice behind one training run, in one flat, frozen table.

The command line's flags are made from these fields, `recipe.toml` holds them, and nothing else
decides what a run does: the same recipe gives the same numbers. A name becomes an object here
and nowhere else. Importing this module does not import torch.
"""

import dataclasses
import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from weft.lab._equations import EquationName, build_equation, read_shares
from weft.lab._fields import checked, field, nearest
from weft.lab._isometry import IsometryName, build_isometry
from weft.lab._levels import build_levels, check_levels
from weft.lab._perturbation import PerturbationName, build_perturbation
from weft.lab._ranking import RankingName, build_ranking
from weft.lab._stability import StabilityName, build_stability

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor, nn

    from weft.heads import GraphHead
    from weft.lab.data import Dataset, Split


@dataclass(frozen=True)
class Recipe:
    """What to train on what, and how. Each field says in its `help` what it means.

    Raises:
        ValueError: a value has the wrong type, is none of the choices or lies out of range.
    """

    data: str = field("digits", "data set: a name, a .npz or .csv file, or a folder of images")
    imbalance: float = field(
        1.0,
        "largest over smallest class that the training part is thinned to; 1 = as it is",
        least=1,
    )
    labels: int = field(0, "labelled training samples to use; 0 = all", least=0)
    valid_fraction: float = field(0.0, "share of the labels kept to validate on", least=0, most=0.9)
    head: Literal["softmax", "graph"] = field("graph", "classifier on top of the features")
    backbone: Literal["auto", "mlp", "cnn", "resnet18"] = field(
        "auto", "network below the head; auto = cnn for images, mlp for vectors"
    )
    features: int = field(32, "size of the feature vector below the head", least=1)
    epochs: int = field(20, "epochs to train", least=1)
    steps: int = field(0, "steps per epoch; 0 = one pass over the labelled samples", least=0)
    batch_size: int = field(250, "labelled samples per step", least=1)
    unlabelled: int = field(0, "unlabelled nodes in each training graph", least=0)
    pretrain: int = field(0, "steps of contrastive pretraining, which sees no label", least=0)
    pretrain_neighbors: int = field(
        0, "nearest inputs that pretraining also takes for views of a sample", least=0
    )
    learning_rate: float = field(2e-3, "peak of the one-cycle schedule (AdamW)", least=1e-9)
    weight_decay: float = field(1e-4, "weight decay of AdamW", least=0)
    augment: Literal["none", "digits", "clothing", "natural", "vectors"] = field(
        "none", "random changes to training samples, by their kind"
    )
    perturbation: PerturbationName = field(  # noqa: RUF009 (a field, like the others)
        "none", "shift of the training logits by class, for classes of unequal size"
    )
    perturbation_strength: float = field(
        1.0, "temperature of logit_adjustment; else the largest shift of the others", least=0
    )
    isometry: IsometryName = field(  # noqa: RUF009 (a field, like the others)
        "none", "make features keep the distances of inputs within each class, by this measure"
    )
    isometry_weight: float = field(1.0, "weight of isometry beside the loss", least=0)
    levels: str = field(
        "", "groups of class names that blocks learn first, such as a,b | c,d; wants isometry"
    )
    ranking: RankingName = field(  # noqa: RUF009 (a field, like the others)
        "none", "make each sample's list of nearest features begin with its class, by this measure"
    )
    ranking_weight: float = field(1.0, "weight of ranking beside the loss", least=0)
    stability: StabilityName = field(  # noqa: RUF009 (a field, like the others)
        "none", "keep features of a moved input as near as the input is; how it is moved"
    )
    stability_radius: float = field(
        0.1, "how far each pixel in [0, 1] is moved for stability", least=1e-6, most=1
    )
    stability_weight: float = field(10.0, "weight of stability beside the loss", least=0)
    equation: EquationName = field(  # noqa: RUF009 (a field, like the others)
        "laplace", "how labels spread; tau counts in laplace to poisson_weights, p_laplace"
    )
    shares: str = field("", "known shares of the classes, such as 3,1,1, which each then gets")
    k: int = field(25, "neighbours of each node in the graph", least=1)
    kernel: Literal["gaussian", "tapered"] = field("gaussian", "distances to edge weights")
    bandwidth: float = field(
        0.0, "width of the kernel; 0 = self-tuned, the distance to the k-th neighbour", least=0
    )
    input_edges: float = field(
        0.0, "weight of edges between near inputs beside those between near features", least=0
    )
    tau: float = field(1e-3, "decay per node: above 0, isolated samples abstain", least=0)
    anchors: int = field(10, "labelled samples per class in each training graph", least=1)
    anchors_served: int = field(
        100, "labelled samples per class that predictions lean on; 0 = all", least=0
    )
    unlabelled_served: int = field(
        0,
        "unlabelled samples that predictions lean on; 0 = as many as in each training graph",
        least=0,
    )
    anchor_refresh: Literal["random", "loss", "entropy", "none"] = field(
        "random", "how the anchors of a training graph are chosen"
    )
    precision: Literal["float32", "bfloat16"] = field(
        "float32", "arithmetic of the backbone; the graph stays in float32"
    )
    patience: int = field(
        0, "stop after this many epochs without a better validation; 0 = never", least=0
    )
    seed: int = field(0, "seed of the split, the weights and the order", least=0, most=2**63 - 1)
    device: Literal["auto", "cpu", "cuda"] = field("auto", "where to compute")
    threads: int = field(0, "processor threads; 0 = torch's choice", least=0)

    def __post_init__(self) -> None:
        types = get_type_hints(type(self))
        for each in dataclasses.fields(self):
            value = checked(each, types[each.name], getattr(self, each.name))
            object.__setattr__(self, each.name, value)
        if self.head == "softmax" and self.unlabelled:
            raise ValueError(
                f"`unlabelled` needs a graph to put the samples in, got {self.unlabelled} "
                "with the softmax head: use the graph head, or unlabelled = 0."
            )
        check_levels(self.levels, self.head, self.pretrain, self.stability)
        if self.pretrain and self.augment == "none":
            raise ValueError(
                f"`pretrain` compares random views of a sample, got pretrain = {self.pretrain} "
                "with augment = none: choose the augmentation that fits the data."
            )
        read_shares(self.shares)
        if self.patience and not self.valid_fraction:
            raise ValueError(
                f"`patience` needs validation samples, got patience = {self.patience} with "
                "valid_fraction = 0: hold some samples out, or set patience = 0."
            )

    @classmethod
    def from_table(cls, table: dict[str, Any], source: str = "a recipe") -> "Recipe":
        """Make a recipe from names and values; what is absent takes its default.

        Raises:
            ValueError: a name is no field (the nearest field is suggested), or a value is bad.
        """
        names = [each.name for each in dataclasses.fields(cls)]
        for name in table:
            if name not in names:
                raise ValueError(
                    f"{source} may hold the fields of a recipe only, got `{name}`: "
                    + nearest(name, names)
                )
        return cls(**table)

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Read a TOML file."""
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} must be a TOML file, got something else ({error}): "
                'write one `name = value` per line, strings in "quotes".'
            ) from None
        return cls.from_table(table, str(path))

    def to_toml(self) -> str:
        """Write every field, its meaning beside it, so that the file explains itself."""
        lines = []
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            # JSON's strings and numbers are TOML's, except that TOML also escapes DEL.
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{each.name} = {text}  # {each.metadata['help']}\n")
        return "".join(lines)

    def torch_device(self) -> "torch.device":
        """Return the device to compute on; auto = a GPU where there is one.

        Raises:
            ValueError: a GPU is asked for, and none is there.
        """
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                "`device` cuda needs a GPU that torch can use, got none: take device = auto."
            )
        here = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(here if self.device == "auto" else self.device)

    def load_data(self) -> "tuple[Dataset, Split]":
        """Load the data set, long-tailed if so asked, and choose the labels to train on."""
        from weft.lab.data import load_data, split_labels
        from weft.lab.long_tail import long_tailed

        data = load_data(self.data, seed=self.seed)
        if self.imbalance > 1:
            data = long_tailed(data, self.imbalance, self.seed)
        budget = self.labels or None
        return data, split_labels(data.train_labels, budget, self.valid_fraction, self.seed)

    def build_augmentation(self, data: "Dataset") -> "Callable[[Tensor, Generator], Tensor]":
        """Return what changes a batch of training inputs at random.

        Raises:
            ValueError: images are to be changed as vectors, or the other way round.
        """
        from weft.lab import augment

        if self.augment == "none":
            return lambda inputs, generator: inputs
        if (data.image_shape is None) != (self.augment == "vectors"):
            kind = "vectors" if self.augment == "vectors" else "images"
            other = "vectors" if data.image_shape is None else "images"
            raise ValueError(
                f"`augment` must fit the data, got {self.augment}, which changes {kind}, for the "
                f"{other} of {data.name}: take another, or none."
            )
        return getattr(augment, self.augment.upper())

    def build_perturbation(
        self, labels: "Tensor", num_classes: int
    ) -> "Callable[[Tensor, Tensor], Tensor]":
        """Return what training does to (logits, labels) before the loss, given its labels."""
        return build_perturbation(
            self.perturbation, self.perturbation_strength, labels, num_classes
        )

    def build_isometry(
        self, backbone: "nn.Module", generator: "Generator"
    ) -> "Callable[[Tensor], Tensor | float]":
        """Return a term of the loss; it takes labels of the rows that the backbone saw."""
        return build_isometry(self.isometry, self.isometry_weight, backbone, generator)

    def build_levels(
        self, model: "nn.Module", data: "Dataset", generator: "Generator"
    ) -> "Callable[[Tensor, Tensor], Tensor | float]":
        """Return a term of the loss of a model of blocks; it takes inputs and their labels.

        Raises:
            ValueError: the groups are not of the data's classes.
        """
        return build_levels(
            self.levels, self.isometry, self.isometry_weight, model, data, generator
        )

    def build_ranking(self, backbone: "nn.Module") -> "Callable[[Tensor], Tensor | float]":
        """Return a term of the loss; it takes labels of the rows that the backbone saw."""
        return build_ranking(self.ranking, self.ranking_weight, backbone)

    def build_stability(
        self, model: "nn.Module", data: "Dataset", generator: "Generator"
    ) -> "Callable[[Tensor], Tensor | float]":
        """Return a term of the loss of a model with a `backbone`; it takes inputs.

        Raises:
            ValueError: the data are not in [0, 1].
        """
        return build_stability(
            self.stability, self.stability_radius, self.stability_weight, model, data, generator
        )

    def build_head(self, num_classes: int) -> "nn.Module":
        """Build the head, on the CPU."""
        from weft.heads import LinearHead

        if self.head == "softmax":
            return LinearHead(self.features, num_classes)
        return self.build_graph_head(num_classes)

    def build_graph_head(self, num_classes: int) -> "GraphHead":
        """Build the graph head that the recipe has, or would have in the place of its softmax."""
        from weft.graph import ClassMass, Constant, Gaussian, SelfTuned, Tapered, VolumeConstraint
        from weft.heads import GraphHead

        # The others are made for few labels, or have their own way with class masses.
        normalization = ClassMass(below=0.03) if self.equation == "laplace" else None
        shares = read_shares(self.shares)
        return GraphHead(
            num_classes,
            self.k,
            kernel=Tapered() if self.kernel == "tapered" else Gaussian(),
            bandwidth=Constant(self.bandwidth) if self.bandwidth else SelfTuned(),
            equation=build_equation(self.equation, self.tau),
            normalization=VolumeConstraint(shares) if shares else normalization,
            input_edges=self.input_edges,
        )
