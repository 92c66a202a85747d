import numpy as np
import pytest
import torch

from weft.graph import Graph
from weft.lab.citation import CitationDataset, load_citation
from weft.lab.data import DataError

ARRAYS = {
    "feat_data": np.array([1.0, 2.0, 3.0]),
    "feat_indices": np.array([0, 2, 1]),
    "feat_indptr": np.array([0, 2, 3, 3, 3]),
    "feat_shape": np.array([4, 3]),
    "labels": np.array([0, 1, 1, -1], np.int8),
    "edges": np.array([[0, 1], [1, 2], [2, 1]], np.int32),
    "train_idx": np.array([0, 1]),
    "val_idx": np.array([2]),
    "test_idx": np.array([], np.int32),
}


def write(root, **changes):
    folder = root / "planetoid" / "small"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {key: value for key, value in {**ARRAYS, **changes}.items() if value is not None}
    np.savez(folder / "small.npz", **arrays)
    return root


def made(count=1500, classes=3, seed=0):
    """A graph large enough to be split at random; every tenth node has no label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    labels[::10] = -1
    nodes = (labels >= 0).nonzero().squeeze(1)
    nodes = nodes[torch.randperm(len(nodes), generator=generator)]
    graph = Graph.from_edge_index(
        torch.randint(count, (2, 50), generator=generator), num_nodes=count
    )
    return CitationDataset(
        "made", torch.zeros(count, 2), labels, graph, nodes[:60], nodes[60:160], nodes[160:200]
    )


def test_features_graph_labels_and_split_are_those_of_the_file(tmp_path):
    data = load_citation("small", write(tmp_path))
    assert data.features.tolist() == [[1, 0, 2], [0, 3, 0], [0, 0, 0], [0, 0, 0]]
    assert data.labels.tolist() == [0, 1, 1, -1]
    assert data.graph.edges.tolist() == [[0, 1], [1, 2]]
    assert data.graph.num_nodes == 4
    assert [part.tolist() for part in (data.train, data.valid, data.test)] == [[0, 1], [2], []]
    assert data.num_classes == 2


@pytest.mark.parametrize("seed", range(3))
def test_a_random_split_keeps_the_validation_nodes_and_has_twenty_of_each_class(seed):
    data = made()
    split = data.random_split(seed)
    assert torch.equal(split.valid, data.valid)
    assert data.labels[split.train].bincount().tolist() == [20, 20, 20]
    assert len(split.test) == 1000
    everyone = torch.cat([split.train, split.valid, split.test])
    assert len(everyone.unique()) == len(everyone)
    assert (data.labels[everyone] >= 0).all()


def test_a_random_split_is_its_seed_alone():
    splits = [made().random_split(seed) for seed in (4, 4, 5)]
    assert torch.equal(splits[0].test, splits[1].test)
    assert not torch.equal(splits[0].test, splits[2].test)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edges": None}, "must be an .npz of a citation graph: .*edges"),
        ({"edges": np.array([[0, 9]])}, "must hold nodes 0..3, got 0 to 9"),
        ({"feat_shape": np.array([9, 3])}, "must be an .npz of a citation graph"),
        ({"labels": np.array([0, 1])}, "for each of its 4 nodes, got 4 and 2"),
        ({"labels": np.array([0, 1, -2, 0])}, "classes from 0, or -1 where unknown, got -2"),
        ({"labels": np.array([0, 1, 1, 4])}, "each of its 5 classes, got none of class 2"),
        ({"val_idx": np.array([3])}, "must hold nodes that have a label"),
        ({"val_idx": np.array([1])}, "nodes 0 to 3, none of them twice"),
        ({"val_idx": np.array([7])}, "nodes 0 to 3, none of them twice"),
    ],
)
def test_refuses_a_file_that_is_no_citation_graph(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        load_citation("small", write(tmp_path, **changes))


def test_refuses_a_missing_or_broken_file(tmp_path):
    with pytest.raises(
        DataError, match=r"small.npz must be an \.npz of a citation graph: .*No such"
    ):
        load_citation("small", tmp_path)
    path = write(tmp_path) / "planetoid" / "small" / "small.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"must be an \.npz of a citation graph"):
        load_citation("small", tmp_path)


def test_refuses_to_split_a_graph_with_too_few_labels():
    with pytest.raises(DataError, match="must have 20 labels of each class and 1000 more outside"):
        made(count=1100).random_split(0)


@pytest.mark.parametrize(
    ("name", "size", "edges", "counts"),
    [
        ("cora", (2708, 1433), 5278, [351, 217, 418, 818, 426, 298, 180]),
        ("citeseer", (3327, 3703), 4552, [249, 590, 668, 701, 596, 508]),
    ],
)
def test_cora_and_citeseer_are_those_of_the_papers(data_root, name, size, edges, counts):
    if not (data_root / "planetoid").is_dir():
        pytest.skip(f"no planetoid folder in {data_root}")
    data = load_citation(name, data_root)
    assert tuple(data.features.shape) == size
    assert data.graph.edges.shape[1] == edges
    assert data.labels[data.labels >= 0].bincount().tolist() == counts
    assert data.labels[data.train].bincount().tolist() == [20] * data.num_classes
    assert (len(data.valid), len(data.test)) == (500, 1000)
    unlabelled = data.labels < 0
    assert int(unlabelled.sum()) == (15 if name == "citeseer" else 0)
    assert not data.features[unlabelled].any()
    data.random_split(0)
