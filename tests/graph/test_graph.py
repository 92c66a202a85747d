"""A graph refuses what it is not, and goes to matrices and back without loss."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from torch.autograd import gradcheck
from torch.testing import assert_close

from weft.graph import Graph
from weft.graph._graph import connected_components, unique_edges

EMPTY = torch.empty(2, 0, dtype=torch.long)


@st.composite
def edge_lists(draw):
    """Any directed list of edges, with loops and repeats, and weights."""
    num_nodes = draw(st.integers(1, 12))
    node = st.integers(0, num_nodes - 1)
    pairs = draw(st.lists(st.tuples(node, node), max_size=40))
    weights = draw(st.lists(st.floats(0, 9, width=32), min_size=len(pairs), max_size=len(pairs)))
    index = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    return index, torch.tensor(weights, dtype=torch.float64), num_nodes


def dense_union(index, weights, num_nodes):
    matrix = torch.zeros(num_nodes, num_nodes, dtype=weights.dtype)
    for (i, j), weight in zip(index.T.tolist(), weights.tolist(), strict=True):
        if i != j:
            matrix[i, j] = matrix[j, i] = max(float(matrix[i, j]), weight)
    return matrix


def adjacency(graph):
    return torch.from_numpy(graph.to_scipy().toarray())


@given(edge_lists())
def test_any_edge_list_becomes_its_symmetric_union(edge_list):
    graph = Graph.from_edge_index(edge_list[0], edge_list[1], num_nodes=edge_list[2])
    assert torch.equal(adjacency(graph), dense_union(*edge_list))


@given(edge_lists())
def test_a_graph_survives_the_way_to_scipy_and_back(edge_list):
    graph = Graph.from_edge_index(edge_list[0], edge_list[1] + 1, num_nodes=edge_list[2])
    back = Graph.from_scipy(graph.to_scipy())
    assert torch.equal(back.edges, graph.edges)
    assert torch.equal(back.weights, graph.weights)
    assert back.num_nodes == graph.num_nodes


@given(edge_lists())
def test_a_graph_survives_the_way_to_an_edge_index_and_back(edge_list):
    graph = Graph.from_edge_index(edge_list[0], edge_list[1], num_nodes=edge_list[2])
    back = Graph.from_edge_index(*graph.to_edge_index(), num_nodes=graph.num_nodes)
    assert torch.equal(back.edges, graph.edges)
    assert torch.equal(back.weights, graph.weights)


@given(edge_lists())
def test_laplacians_and_degrees_are_those_of_the_dense_matrix(edge_list):
    graph = Graph.from_edge_index(edge_list[0], edge_list[1], num_nodes=edge_list[2])
    weights = dense_union(*edge_list)
    expected = torch.diag(weights.sum(1)) - weights
    assert_close(graph.degrees(), weights.sum(1))
    assert_close(graph.laplacian(), expected)
    assert_close(graph.laplacian_csr().to_dense(), expected)
    assert torch.equal(graph.laplacian(), graph.laplacian().T)


@given(edge_lists())
def test_components_are_those_of_the_positive_edges(edge_list):
    graph = Graph.from_edge_index(edge_list[0], edge_list[1], num_nodes=edge_list[2])
    component = graph.components()
    reach = torch.eye(graph.num_nodes) + (dense_union(*edge_list) > 0)
    for _ in range(4):
        reach = (reach @ reach > 0).float()
    assert torch.equal(component[:, None] == component[None, :], reach > 0)
    assert set(component.tolist()) == set(range(int(component.max()) + 1))


def test_degrees_and_laplacian_are_differentiable_in_the_weights(random_graph):
    graph = random_graph(6, 6)
    weights = graph.weights.clone().requires_grad_()
    assert gradcheck(lambda w: graph.with_weights(w).degrees(), weights)
    assert gradcheck(lambda w: graph.with_weights(w).laplacian(), weights)


def test_the_gradient_of_a_merged_edge_goes_to_its_larger_weight():
    index = torch.tensor([[0, 1, 1, 2, 2], [1, 0, 2, 1, 2]])
    weights = torch.tensor([0.2, 0.7, 0.5, 0.1, 9.0], requires_grad=True)
    Graph.from_edge_index(index, weights).weights.sum().backward()
    assert weights.grad.tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]


def test_the_gradient_of_an_edge_given_twice_alike_is_shared():
    weights = torch.tensor([0.5, 0.5], requires_grad=True)
    graph = Graph.from_edge_index(torch.tensor([[0, 1], [1, 0]]), weights)
    graph.weights.sum().backward()
    assert weights.grad.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("column", [0, 2])
def test_a_bad_weight_does_not_hide_in_a_merged_edge_or_a_loop(column, bad):
    index = torch.tensor([[0, 1, 2], [1, 0, 2]])
    weights = torch.ones(3)
    weights[column] = bad
    edge = index[:, column].tolist()
    message = (
        f"`weights` must be finite and not negative, got .* for edge \\[{edge[0]}, {edge[1]}\\]"
    )
    with pytest.raises(ValueError, match=message):
        Graph.from_edge_index(index, weights)


def test_left_out_weights_are_ones_and_left_out_nodes_are_counted():
    graph = Graph.from_edge_index(torch.tensor([[3, 0], [1, 2]], dtype=torch.int32))
    assert graph.num_nodes == 4
    assert graph.weights.tolist() == [1.0, 1.0]
    assert graph.edges.tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("num_nodes", [0, 1, 5])
def test_a_graph_without_edges_answers_everything(num_nodes):
    graph = Graph(EMPTY, torch.empty(0), num_nodes)
    assert graph.degrees().tolist() == [0.0] * num_nodes
    assert graph.components().tolist() == list(range(num_nodes))
    assert graph.laplacian().shape == graph.laplacian_csr().shape == (num_nodes, num_nodes)
    assert not graph.laplacian_csr().to_dense().any()
    assert graph.to_scipy().shape == (num_nodes, num_nodes)
    assert Graph.from_scipy(graph.to_scipy()).num_nodes == num_nodes
    assert Graph.from_edge_index(EMPTY, num_nodes=num_nodes).num_nodes == num_nodes


def test_a_scipy_matrix_loses_its_diagonal_and_may_hold_integers_or_booleans():
    matrix = np.array([[5, 2, 0], [2, 0, 1], [0, 1, 7]])
    for given_dtype, dtype in [
        (np.int64, torch.float64),
        (np.uint8, torch.float64),
        (bool, torch.float64),
        (np.float32, torch.float32),
    ]:
        graph = Graph.from_scipy(sparse.csr_matrix(matrix.astype(given_dtype)))
        assert graph.weights.dtype == dtype
        assert graph.weights.tolist() == ([1.0, 1.0] if given_dtype is bool else [2.0, 1.0])


def test_a_scipy_matrix_that_repeats_an_entry_means_its_sum():
    entries = (np.array([1.0, 2.0, 3.0]), np.array([1, 1, 0]), np.array([0, 2, 3]))
    assert Graph.from_scipy(sparse.csr_array(entries, (2, 2))).weights.tolist() == [3.0]


def test_a_scipy_matrix_is_not_changed():
    entries = (np.array([1.0, 2.0, 3.0]), np.array([1, 1, 0]), np.array([0, 2, 3]))
    matrix = sparse.csr_array(entries, (2, 2))
    Graph.from_scipy(matrix)
    assert matrix.nnz == 3


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), r"`matrix` must be square, got shape \(2, 3\): rows are nodes"),
        (np.array([[0, 1], [2, 0]]), "must be symmetric, got two weights for one edge: symm"),
        (np.array([[0, 1], [0, 0]]), "must be symmetric"),
        (np.array([[0, -1.0], [-1, 0]]), "`weights` must be finite and not negative, got -1"),
        (np.array([[0, np.nan], [np.nan, 0]]), "`weights` must be finite and not negative, got na"),
    ],
)
def test_refuses_a_scipy_matrix_that_is_no_undirected_graph(matrix, message):
    with pytest.raises(ValueError, match=message):
        Graph.from_scipy(sparse.csr_array(matrix))


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([[1], [0]], r"`edges` must be pairs i < j of nodes 0..4, sorted, each once: bring"),
        ([[1], [1]], "pairs i < j"),
        ([[1, 0], [2, 1]], "sorted, each once"),
        ([[0, 0], [1, 1]], "sorted, each once"),
        ([[0], [5]], "nodes 0..4"),
        ([[-1], [2]], "nodes 0..4"),
        ([[0, 1, 2]], r"int64 tensor of shape \(2, e\), got torch.int64 of shape \(1, 3\)"),
        ([[0.0], [1.0]], r"int64 tensor of shape \(2, e\), got torch.float32"),
    ],
)
def test_refuses_edges_out_of_order_or_range(edges, message):
    edges = torch.tensor(edges)
    with pytest.raises(ValueError, match=message):
        Graph(edges, torch.ones(edges.shape[1]), 5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(3), r"floating point of shape \(2,\), got torch.float32 of shape \(3,\)"),
        (torch.ones(2, 1), r"floating point of shape \(2,\), got .* \(2, 1\): one weight per edge"),
        (torch.ones(2, dtype=torch.long), "floating point .* got torch.int64"),
        (torch.ones(2).half(), "must be float32 or float64, got torch.float16: call .float()"),
        (torch.tensor([1.0, -0.5]), r"finite and not negative, got -0.5 for edge \[1, 2\]: clean"),
        (torch.tensor([1.0, float("nan")]), "finite and not negative, got nan"),
        (torch.tensor([1.0, float("inf")]), "finite and not negative, got inf"),
    ],
)
def test_refuses_weights_that_are_none(weights, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Graph(torch.tensor([[0, 1], [1, 2]]), weights, 3)


def test_refuses_a_negative_number_of_nodes():
    with pytest.raises(ValueError, match="`num_nodes` must not be negative, got -1"):
        Graph(EMPTY, torch.empty(0), -1)


@pytest.mark.parametrize("num_graphs", [0, -1, 4])
def test_refuses_a_number_of_graphs_that_does_not_divide_the_nodes(num_graphs):
    message = f"`num_graphs` must divide `num_nodes`, got {num_graphs} graphs and 6 nodes"
    with pytest.raises(ValueError, match=message):
        Graph(EMPTY, torch.empty(0), 6, num_graphs)


def test_refuses_an_edge_from_graph_to_graph():
    with pytest.raises(ValueError, match="must stay inside their graph: an edge joins two blocks"):
        Graph(torch.tensor([[0, 2], [1, 3]]), torch.ones(2), 6, 2)


@pytest.mark.parametrize(
    ("index", "weights", "message"),
    [
        (torch.tensor([[0.0], [1.0]]), None, "must hold integers in shape"),
        (torch.tensor([0, 1]), None, r"must hold integers in shape \(2, m\), got .* \(2,\): trans"),
        (torch.tensor([[0], [5]]), None, r"`edge_index` must hold nodes 0..3, got 0 to 5: pass"),
        (torch.tensor([[-1], [2]]), None, "`edge_index` must hold nodes 0..3, got -1 to 2"),
        (torch.tensor([[0], [1]]), torch.ones(2), r"`weights` .*shape \(1,\), got .*\(2,\): one w"),
    ],
)
def test_refuses_an_edge_index_that_is_none(index, weights, message):
    with pytest.raises(ValueError, match=message):
        Graph.from_edge_index(index, weights, num_nodes=4)


def test_the_laplacian_of_a_sum_is_the_sum_of_the_laplacians(random_graph):
    first, second = random_graph(8, 6, seed=1), random_graph(8, 6, seed=2)
    assert_close((first + second).laplacian(), first.laplacian() + second.laplacian())
    assert_close((first + first).laplacian(), 2 * first.laplacian())
    nothing = Graph(EMPTY, torch.empty(0, dtype=torch.float64), 8)
    assert torch.equal((first + nothing).weights, first.weights)

    def total(weights, more):
        return (first.with_weights(weights) + second.with_weights(more)).weights

    inputs = tuple(graph.weights.clone().requires_grad_() for graph in (first, second))
    assert gradcheck(total, inputs)


def test_refuses_to_add_graphs_on_other_nodes(random_graph):
    with pytest.raises(ValueError, match="must have the same nodes to be added, got 8 in 1 and 9"):
        random_graph(8, 3) + random_graph(9, 3)
    with pytest.raises(ValueError, match=r"got 8 in 1 and 8 in 2 graphs: build them from the same"):
        random_graph(8, 3) + Graph(EMPTY, torch.empty(0, dtype=torch.float64), 8, 2)


def test_with_weights_keeps_the_rest_and_checks(random_graph):
    graph = random_graph(6, 4)
    other = graph.with_weights(2 * graph.weights)
    assert other.edges is graph.edges
    assert_close(other.degrees(), 2 * graph.degrees())
    with pytest.raises(ValueError, match="finite and not negative"):
        graph.with_weights(-graph.weights)


def test_connected_components_need_no_order_of_edges():
    component = connected_components(torch.tensor([[4, 0], [2, 1]]), 6)
    assert component.tolist() == [0, 0, 1, 2, 1, 3]


def test_unique_edges_come_with_their_sort_keys():
    edges, keys = unique_edges(torch.tensor([2, 0, 1, 2]), torch.tensor([0, 2, 2, 1]), 4)
    assert edges.tolist() == [[0, 1], [2, 2]]
    assert keys.tolist() == [2, 6]
