"""Graphs of other libraries come in with one policy for direction, loops, repeats and isolation."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import (
    Graph,
    Laplace,
    PageRank,
    Poisson,
    Spreading,
    Unreached,
    from_dgl,
    from_networkx,
    from_pyg,
    to_networkx,
)

networkx = pytest.importorskip("networkx", reason="needs the extra weft[networkx]")

KINDS = [networkx.Graph, networkx.DiGraph, networkx.MultiGraph, networkx.MultiDiGraph]
INDEX = torch.tensor([[0, 1, 2, 3, 3], [1, 0, 2, 1, 1]])  # both ways, a loop, a repeat; 4 isolated
WEIGHTS = torch.tensor([0.5, 2.0, 9.0, 1.0, 3.0])
UNION = [[[0, 1], [1, 3]], [2.0, 3.0]]


def parts(graph):
    return [graph.edges.T.tolist(), graph.weights.tolist()]


class Homogeneous:
    """What `from_dgl` reads of a DGLGraph."""

    is_homogeneous = True

    def __init__(self, index, num_nodes, **edata):
        self.index, self.count, self.edata = index, num_nodes, edata

    def edges(self):
        return self.index[0], self.index[1]

    def num_nodes(self):
        return self.count


class Data(SimpleNamespace):
    """What `from_pyg` reads of a Data."""

    def keys(self):
        return list(vars(self))


def as_networkx(kind=networkx.MultiDiGraph, weights=WEIGHTS):
    graph = kind()
    graph.add_nodes_from(range(5))
    graph.add_weighted_edges_from(zip(*INDEX.tolist(), weights.tolist(), strict=True))
    return graph


@pytest.mark.parametrize(
    "graph",
    [
        from_networkx(as_networkx()),
        from_pyg(Data(edge_index=INDEX, edge_weight=WEIGHTS, num_nodes=5)),
        from_dgl(Homogeneous(INDEX, 5, w=WEIGHTS), weight="w"),
        Graph.from_edge_index(INDEX, WEIGHTS, num_nodes=5),
    ],
    ids=["networkx", "pyg", "dgl", "edge index"],
)
def test_direction_loops_and_repeats_go_and_isolated_nodes_stay(graph):
    assert parts(graph) == UNION
    assert graph.num_nodes == 5
    assert graph.components().tolist() == [0, 0, 1, 0, 2]


@st.composite
def networkx_graphs(draw):
    """Any graph of NetworkX on nodes that are words, with loops and, where it can, repeats."""
    graph = draw(st.sampled_from(KINDS))()
    count = draw(st.integers(1, 8))
    names = [f"node {i}" for i in draw(st.permutations(range(count)))]
    graph.add_nodes_from(names)
    name = st.sampled_from(names)
    graph.add_weighted_edges_from(
        draw(st.lists(st.tuples(name, name, st.floats(0, 9, width=32)), max_size=20))
    )
    return graph


@given(networkx_graphs())
def test_any_graph_of_networkx_is_the_largest_weight_of_each_pair(graph):
    names = list(graph)
    expected = torch.zeros(len(names), len(names))
    for source, target, weight in graph.edges(data="weight"):
        i, j = names.index(source), names.index(target)
        if i != j:
            expected[i, j] = expected[j, i] = max(weight, expected[i, j].item())
    matrix = torch.from_numpy(from_networkx(graph).to_scipy().toarray())
    assert torch.equal(matrix, expected)


@given(networkx_graphs())
def test_a_graph_survives_the_way_to_networkx_and_back(graph):
    graph = from_networkx(graph)
    back = from_networkx(to_networkx(graph), weight="weight")
    assert parts(back) == parts(graph)
    assert back.num_nodes == graph.num_nodes


def test_edges_of_networkx_without_weight_count_one_as_they_do_there():
    graph = networkx.path_graph(3)
    graph[0][1]["weight"] = 0.25
    assert from_networkx(graph).weights.tolist() == [0.25, 1.0]


def test_an_attribute_of_any_name_may_hold_the_weights():
    graph = networkx.Graph()
    graph.add_edge("a", "b", similarity=torch.tensor(0.5))
    assert from_networkx(graph, weight="similarity").weights.tolist() == [0.5]


def test_the_laplacian_is_that_of_networkx():
    graph = networkx.karate_club_graph()
    expected = torch.from_numpy(networkx.laplacian_matrix(graph).toarray()).float()
    assert_close(from_networkx(graph).laplacian(), expected)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_empty_graph_of_networkx_has_no_nodes(kind):
    graph = from_networkx(kind())
    assert (graph.num_nodes, graph.edges.shape) == (0, (2, 0))


def test_edge_weights_of_pyg_are_taken_and_edge_attributes_only_when_named():
    data = Data(edge_index=INDEX, edge_attr=WEIGHTS, num_nodes=5)
    assert from_pyg(data).weights.tolist() == [1.0, 1.0]
    assert from_pyg(data, weight="edge_attr").weights.tolist() == [2.0, 3.0]
    assert from_dgl(Homogeneous(INDEX, 5, w=WEIGHTS)).weights.tolist() == [1.0, 1.0]


def test_weights_of_tensor_libraries_keep_dtype_device_and_gradient(device):
    index, weights = INDEX.to(device), WEIGHTS.double().to(device).requires_grad_()
    for read in (
        lambda w: from_pyg(Data(edge_index=index, edge_weight=w, num_nodes=5)),
        lambda w: from_dgl(Homogeneous(index, 5, w=w), weight="w"),
    ):
        graph = read(weights)
        assert (graph.weights.dtype, graph.weights.device.type) == (torch.float64, device.type)
        assert gradcheck(lambda w, read=read: read(w).weights, weights)


def test_a_data_of_pyg_goes_there_and_back():
    data = pytest.importorskip("torch_geometric.data", reason="PyTorch Geometric is not installed")
    graph = Graph.from_edge_index(INDEX, WEIGHTS, num_nodes=5)
    index, weights = graph.to_edge_index()
    there = data.Data(edge_index=index, edge_weight=weights, num_nodes=5)
    assert parts(from_pyg(there)) == UNION
    two = data.Batch.from_data_list([there, there])
    assert from_pyg(two).num_nodes == 10
    with pytest.raises(TypeError, match=r"got HeteroData without: call \.to_homogeneous"):
        from_pyg(data.HeteroData())
    with pytest.raises(ValueError, match="and there are edge_index, edge_weight, num_nodes"):
        from_pyg(there, weight="similarity")


def test_label_propagation_of_pyg_run_to_the_end_is_label_spreading(random_graph):
    models = pytest.importorskip("torch_geometric.nn", reason="PyTorch Geometric is not installed")
    graph, known = random_graph(30, 40), torch.arange(30) < 6
    graph = graph.with_weights(torch.ones_like(graph.weights))  # theirs takes others as they are
    labels = one_hot(torch.arange(30) % 3).double()
    index, _ = graph.to_edge_index()
    theirs = models.LabelPropagation(300, 0.9)(labels, index, mask=known)
    assert_close(Spreading(0.9)(graph, labels, known), theirs, check_dtype=False, rtol=0, atol=1e-6)


def test_a_graph_of_dgl_comes_in():
    dgl = pytest.importorskip("dgl", reason="DGL is not installed", exc_type=Exception)
    graph = dgl.graph((INDEX[0], INDEX[1]), num_nodes=5)
    graph.edata["w"] = WEIGHTS
    assert parts(from_dgl(graph, weight="w")) == UNION


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: from_networkx(torch.ones(3, 3)),
            TypeError,
            "must be a graph of NetworkX, got Tensor: for a matrix take Graph.from_scipy",
        ),
        (
            lambda: from_networkx(as_networkx(), weight="w"),
            ValueError,
            r"on every edge, got 'w', which is None on edge \(0, 1\): set it there, or name",
        ),
        (
            lambda: from_networkx(networkx.Graph([("a", "b", {"weight": "x"})])),
            ValueError,
            r"holds a number on every edge, got 'weight', which is 'x' on edge \('a', 'b'\)",
        ),
        (
            lambda: from_networkx(as_networkx(weights=-WEIGHTS)),
            ValueError,
            r"`weights` must be finite and not negative, got -0.5 for edge \[0, 1\]",
        ),
        (
            lambda: from_networkx(as_networkx(weights=torch.full((5,), torch.nan))),
            ValueError,
            "`weights` must be finite and not negative, got nan",
        ),
        (
            lambda: from_pyg(Data(x=1)),
            TypeError,
            "must have an `edge_index`, got Data without: call .to_homogeneous",
        ),
        (
            lambda: from_pyg(Data(edge_index=INDEX, num_nodes=5), weight="w"),
            ValueError,
            "must name weights in `data`, got 'w', and there are edge_index, num_nodes: pass",
        ),
        (
            lambda: from_pyg(Data(edge_index=INDEX, edge_weight=WEIGHTS[:, None], num_nodes=5)),
            ValueError,
            r"`weights` must have shape \(5,\), got \(5, 1\): one weight per column",
        ),
        (
            lambda: from_pyg(Data(edge_index=INDEX, num_nodes=3)),
            ValueError,
            "must hold nodes 0..2, got 0 to 3: pass the right `num_nodes`",
        ),
        (
            lambda: from_dgl(SimpleNamespace(is_homogeneous=False)),
            TypeError,
            "one type of nodes and edges, got SimpleNamespace: call dgl.to_homogeneous",
        ),
        (
            lambda: from_dgl(Homogeneous(INDEX, 5), weight="w"),
            ValueError,
            "must name weights in `graph.edata`, got 'w', and there are none: pass",
        ),
        (
            lambda: from_dgl(Homogeneous(INDEX, 5, w=-WEIGHTS), weight="w"),
            ValueError,
            "`weights` must be finite and not negative, got -0.5",
        ),
    ],
)
def test_refuses_what_is_no_graph_or_has_no_such_weights(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_networkx_is_only_needed_to_go_there(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "networkx", None)
    graph = from_networkx(as_networkx())
    with pytest.raises(ImportError, match=r"pip install 'weft\[networkx\]', or use Graph.to_scipy"):
        to_networkx(graph)


# What a given graph may look like, and what the equations then say.

EQUATIONS = [Laplace(), Laplace(tau=0.1), Spreading(), PageRank(), Poisson()]
each_equation = pytest.mark.parametrize("equation", EQUATIONS, ids=repr)


@each_equation
def test_a_component_or_node_that_no_label_reaches_abstains(equation):
    graph = Graph.from_edge_index(
        torch.tensor([[0, 1, 3], [1, 2, 4]]),
        torch.tensor([2.0, 1.0, 1.0]),  # equal ones would leave node 1 undecided: zero, or rounding
        num_nodes=6,
    )
    labels, known = one_hot(torch.tensor([0, 0, 1, 0, 0, 0]), 2), torch.arange(6) % 2 == 0
    known[4] = False
    scores = equation(graph, labels, known)
    assert scores.isfinite().all()
    assert (scores[:3] != 0).any(1).all()
    assert not scores[3:].any()
    if not equation.decay() and isinstance(equation, Laplace | Poisson):
        with pytest.raises(ValueError, match="no node in the component of node 3: label one"):
            equation(graph, labels, known, unreached=Unreached.ERROR)


@each_equation
def test_an_isolated_node_with_a_label_keeps_it_to_itself(equation):
    graph = Graph.from_edge_index(torch.tensor([[0], [1]]), num_nodes=3)
    known = torch.tensor([True, False, True])
    scores = equation(graph, one_hot(torch.tensor([0, 0, 1])), known)
    assert scores.argmax(1).tolist() == [0, 0, 1]


@each_equation
@given(seed=st.integers(0, 2**31))
def test_a_class_without_any_label_is_predicted_nowhere(equation, random_graph, seed):
    graph = random_graph(12, 12, seed=seed)
    classes = torch.arange(12) % 3  # of five: there are more classes than labels
    scores = equation(graph, one_hot(classes, 5), torch.arange(12) < 3)
    assert scores.argmax(1).max() <= 2
    assert_close(scores[:, 3:], torch.zeros(12, 2).double(), rtol=0, atol=1e-12)


def test_labels_outside_the_range_are_refused_before_they_spread():
    labels = torch.tensor([0, 2, -1])
    with pytest.raises(RuntimeError, match="must be smaller than num_classes"):
        one_hot(labels.clamp_min(0), 2)
    graph = Graph.from_edge_index(torch.tensor([[0, 1], [1, 2]]))
    with pytest.raises(ValueError, match="one row for each of the 3 nodes"):
        Spreading()(graph, labels, labels >= 0)
