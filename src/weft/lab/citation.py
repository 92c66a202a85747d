"""Load citation graphs: papers with words, a class each, and who cites whom.

Files are NPZ archives without pickles, as the data folder has them. Nothing is downloaded.
"""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from weft.graph import Graph
from weft.lab._readers import DataError, first_line

TRAIN_PER_CLASS, NUM_TEST = 20, 1000
PARTS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class CitationDataset:
    """A graph whose nodes have features and classes, and which of them train, validate and test.

    Args:
        name: what it was loaded as.
        features: one row per node, float32; a row of zeros says nothing of its node.
        labels: classes 0 … C−1; −1 where unknown.
        graph: the citations, without direction, each of weight one.
        train: nodes whose labels may be seen.
        valid: nodes to choose by.
        test: nodes to report on.

    Raises:
        DataError: sizes do not fit, a label is out of range, parts overlap or hold a node without
            label, or a class has no training label.
    """

    name: str
    features: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    graph: Graph
    train: Int[Tensor, " l"]
    valid: Int[Tensor, " v"]
    test: Int[Tensor, " t"]

    def __post_init__(self) -> None:
        count = self.graph.num_nodes
        if self.labels.shape != (count,) or len(self.features) != count:
            raise DataError(
                f"{self.name} must have features and a label for each of its {count} nodes, got "
                f"{len(self.features)} and {len(self.labels)}."
            )
        if self.labels.min() < -1:
            raise DataError(
                f"Labels of {self.name} must be classes from 0, or -1 where unknown, got "
                f"{self.labels.min()}."
            )
        chosen = torch.cat([getattr(self, part) for part in PARTS])
        if len(chosen.unique()) < len(chosen) or not 0 <= chosen.min() <= chosen.max() < count:
            raise DataError(
                f"The parts of {self.name} must hold nodes 0 to {count - 1}, none of them twice: "
                "draw them from one permutation."
            )
        if (self.labels[chosen] < 0).any():
            raise DataError(f"The parts of {self.name} must hold nodes that have a label.")
        missing = set(range(self.num_classes)) - set(self.labels[self.train].tolist())
        if missing:
            raise DataError(
                f"{self.name} must have a training label of each of its {self.num_classes} "
                f"classes, got none of class {min(missing)}: it could never be predicted."
            )

    @property
    def num_classes(self) -> int:
        """C, one more than the largest class."""
        return int(self.labels.max()) + 1

    def random_split(self, seed: int) -> "CitationDataset":
        """Return the same graph with other nodes to train on, 20 of each class, and 1000 to test.

        The validation nodes stay, so that what was chosen by them once was chosen without any test
        label of any split.

        Args:
            seed: of the choice; no global random state is read or changed.

        Raises:
            DataError: there are fewer nodes with a label.
        """
        free = self.labels >= 0
        free[self.valid] = False
        order = torch.randperm(len(free), generator=torch.Generator().manual_seed(seed))
        order = order[free[order]]
        train = torch.cat(
            [order[self.labels[order] == c][:TRAIN_PER_CLASS] for c in range(self.num_classes)]
        )
        test = order[~torch.isin(order, train)][:NUM_TEST]
        if len(train) < TRAIN_PER_CLASS * self.num_classes or len(test) < NUM_TEST:
            raise DataError(
                f"{self.name} must have {TRAIN_PER_CLASS} labels of each class and {NUM_TEST} more "
                "outside the validation nodes to be split at random."
            )
        return replace(self, train=train.sort().values, test=test.sort().values)


def load_citation(name: str, root: Path) -> CitationDataset:
    """Load Cora or Citeseer in the public split, or another graph of the same layout.

    Args:
        name: `cora` or `citeseer`.
        root: the data folder; the file is `root`/planetoid/NAME/NAME.npz, with features as CSR in
            `feat_data`, `feat_indices`, `feat_indptr`, `feat_shape`; `labels`; `edges` (m, 2); and
            `train_idx`, `val_idx`, `test_idx`.

    Raises:
        DataError: the file is missing, broken or of another layout; one line.

    Source: Sen et al., AI Magazine 29, 2008; the split of Yang, Cohen, Salakhutdinov, ICML 2016.
    """
    path = root / "planetoid" / name / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            features = sparse.csr_array(
                (file["feat_data"], file["feat_indices"], file["feat_indptr"]), file["feat_shape"]
            )
            edges = torch.from_numpy(file["edges"].astype(np.int64)).reshape(-1, 2).T
            names = ("labels", "train_idx", "val_idx", "test_idx")
            labels, *parts = (torch.from_numpy(file[key].astype(np.int64)) for key in names)
            graph = Graph.from_edge_index(edges, num_nodes=int(file["feat_shape"][0]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} must be an .npz of a citation graph: {first_line(error)}"
        ) from error
    dense = torch.from_numpy(features.toarray().astype(np.float32))
    return CitationDataset(name, dense, labels, graph, *parts)
