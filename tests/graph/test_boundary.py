"""Fixing nodes leaves the smaller system of the free ones, and says who cannot be reached."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from weft.graph import Graph
from weft.graph._boundary import FreeSystem, unreached


@pytest.fixture
def fixed():
    return torch.tensor([True, False, False, True, False, False, True, False])


def test_the_free_system_is_the_block_of_the_dense_laplacian(random_graph, fixed, generator):
    graph = random_graph(8, 12)
    system = FreeSystem.of(graph, fixed)
    laplacian = graph.laplacian()
    inner = Graph(system.edges, system.weights, len(system.nodes))
    block = inner.laplacian() + torch.diag(system.diagonal())
    assert_close(block, laplacian[~fixed][:, ~fixed])
    assert system.nodes.tolist() == [1, 2, 4, 5, 7]
    values = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    assert_close(system.inflow(values), -laplacian[~fixed][:, fixed] @ values[fixed])


def test_outflow_is_the_transpose_of_inflow(random_graph, fixed, generator):
    system = FreeSystem.of(random_graph(8, 12), fixed)
    inside = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    outside = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    assert_close((system.inflow(outside) * inside).sum(), (outside * system.outflow(inside)).sum())


def test_the_parts_are_differentiable_in_the_weights(random_graph, fixed, generator):
    graph = random_graph(8, 6)
    values = torch.randn(8, 2, generator=generator, dtype=torch.float64)

    def parts(weights):
        system = FreeSystem.of(graph.with_weights(weights), fixed)
        return system.weights, system.diagonal(), system.inflow(values)

    assert gradcheck(parts, graph.weights.clone().requires_grad_())


def test_equal_blocks_stay_blocks_and_unequal_ones_become_one(random_graph):
    one = random_graph(4, 3)
    pair = Graph(torch.cat([one.edges, one.edges + 4], 1), one.weights.repeat(2), 8, 2)
    equal = torch.tensor([True, False, False, False, False, True, False, False])
    assert FreeSystem.of(pair, equal).num_graphs == 2
    unequal = torch.tensor([True, False, False, False, False, True, True, False])
    assert FreeSystem.of(pair, unequal).num_graphs == 1


def test_lost_nodes_are_cut_off_with_their_edges(random_graph, fixed):
    graph = random_graph(8, 12)
    lost = torch.arange(8) == 4
    system = FreeSystem.of(graph, fixed, lost)
    touches = (graph.edges == 4).any(0)
    without = FreeSystem.of(graph.with_weights(torch.where(touches, 0.0, graph.weights)), fixed)
    assert system.nodes.tolist() == [1, 2, 5, 7]
    assert 4 not in system.outside
    assert_close(system.diagonal(), without.diagonal()[[0, 1, 3, 4]])
    assert len(system.weights) + len(system.crossing) <= (~touches).sum()


@pytest.mark.parametrize("all_fixed", [True, False])
def test_all_or_no_nodes_may_be_fixed(random_graph, all_fixed):
    graph = random_graph(6, 4)
    system = FreeSystem.of(graph, torch.full((6,), all_fixed))
    assert len(system.nodes) == (0 if all_fixed else 6)
    assert len(system.crossing) == 0
    assert len(system.weights) == (0 if all_fixed else len(graph.weights))


@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(0, 14))
def test_unreached_nodes_are_those_of_components_without_source(seed, num_nodes, num_edges):
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(num_nodes, (2, num_edges), generator=generator)
    weights = torch.rand(num_edges, generator=generator).round().double()  # zeros and ones
    graph = Graph.from_edge_index(index, weights, num_nodes=num_nodes)
    sources = torch.rand(num_nodes, generator=generator).sub(0.6).clamp_min(0).double()
    component = graph.components()
    expected = [not (sources[component == component[node]] > 0).any() for node in range(num_nodes)]
    assert unreached(graph, sources).tolist() == expected


DTYPES = [torch.float32, torch.float64]


def chain(weights, dtype):
    """A path whose first node is fixed."""
    weights = torch.tensor(weights, dtype=dtype)
    node = torch.arange(len(weights))
    graph = Graph(torch.stack([node, node + 1]), weights, len(weights) + 1)
    return graph, torch.tensor([torch.inf] + [0.0] * len(weights), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cluster_that_hangs_on_an_edge_beyond_the_precision_is_unreached(dtype):
    graph, sources = chain([1.0, 1e-11, 1.0], dtype)
    assert unreached(graph, sources).tolist() == [False, False, True, True]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_far_point_beside_a_heavy_hub_is_reached(dtype):
    graph, sources = chain([1e-11], dtype)
    hub = Graph(
        torch.tensor([[0, 0], [1, 2]]), torch.cat([graph.weights, graph.weights.new_ones(1)]), 3
    )
    assert unreached(hub, torch.cat([sources, sources.new_zeros(1)])).tolist() == [False] * 3
    assert not unreached(graph, sources).any()  # nor is it lost on its own


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_source_beside_which_the_degree_is_everything_does_not_count(dtype):
    graph, _ = chain([1.0], dtype)
    assert unreached(graph, torch.tensor([1e-12, 0.0], dtype=dtype)).all()
    assert not unreached(graph, torch.tensor([1e-3, 0.0], dtype=dtype)).any()


def test_nodes_without_edges_are_reached_by_their_own_source_only():
    graph = Graph(torch.empty(2, 0, dtype=torch.long), torch.empty(0), 3)
    sources = torch.tensor([1e-30, 0.0, torch.inf])
    assert unreached(graph, sources).tolist() == [False, True, False]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("length", [3, 20, 400])
def test_a_long_path_is_reached_up_to_its_weak_edge_and_no_further(length, backwards, generator):
    order = torch.randperm(length + 1, generator=generator)  # so that no sweep takes it in one go
    weights = torch.ones(length).index_fill(0, torch.tensor(length - 2), 1e-9)
    if backwards:
        order = order.flip(0)
    graph = Graph.from_edge_index(torch.stack([order[:-1], order[1:]]), weights)
    sources = torch.zeros(length + 1).index_fill(0, order[0], torch.inf)
    assert unreached(graph, sources)[order].tolist() == [False] * (length - 1) + [True] * 2
