"""Paths, trees and perfect matchings on the edges of a graph."""

import sys
from itertools import combinations, permutations, product

import networkx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from weft.discrete import GraphPath, PerfectMatching, SpanningTree

from .optimum import (
    assert_keeps_shape_and_dtype,
    assert_optimal,
    assert_projects,
    costs_of,
)

COMPLETE = torch.triu_indices(6, 6, 1)
PRISM = torch.tensor([[0, 0, 0, 1, 1, 2, 3, 3, 4], [1, 2, 3, 2, 4, 5, 4, 5, 5]])  # two triangles
LADDER = torch.tensor([[0, 0, 1, 1, 2, 3, 4, 4, 5], [1, 4, 2, 5, 3, 7, 5, 7, 6]])  # bipartite
BOTH_WAYS = torch.cat([PRISM, PRISM.flip(0)], 1)


def indicators(chosen, num_edges):
    return torch.stack(
        [torch.zeros(num_edges).index_fill(0, torch.tensor(edges), 1.0) for edges in chosen]
    )


def trees(edges):
    count = int(edges.max())
    pairs = edges.T.tolist()
    found = [
        chosen
        for chosen in combinations(range(len(pairs)), count)
        if networkx.is_tree(networkx.Graph([pairs[e] for e in chosen]))
        and len({node for e in chosen for node in pairs[e]}) == count + 1
    ]
    return indicators(found, len(pairs))


def matchings(edges):
    nodes = int(edges.max()) + 1
    pairs = edges.T.tolist()
    found = [
        chosen
        for chosen in combinations(range(len(pairs)), nodes // 2)
        if len({node for e in chosen for node in pairs[e]}) == nodes
    ]
    return indicators(found, len(pairs))


def paths(edges, start, end):
    index = {tuple(pair): e for e, pair in enumerate(edges.T.tolist())}
    nodes = [node for node in range(int(edges.max()) + 1) if node not in (start, end)]
    found = []
    for length in range(len(nodes) + 1):
        for inner in permutations(nodes, length):
            steps = list(zip((start, *inner), (*inner, end), strict=True))
            if all(step in index for step in steps):
                found.append([index[step] for step in steps])
    return indicators(found, edges.shape[1])


SOLVERS = {
    "path": (GraphPath(BOTH_WAYS, 0, 5), paths(BOTH_WAYS, 0, 5)),
    "tree": (SpanningTree(COMPLETE), trees(COMPLETE)),
    "tree of a prism": (SpanningTree(PRISM), trees(PRISM)),
    "matching": (PerfectMatching(COMPLETE), matchings(COMPLETE)),
    "matching of a prism": (PerfectMatching(PRISM), matchings(PRISM)),
    "bipartite matching": (PerfectMatching(LADDER), matchings(LADDER)),
}
EACH = pytest.mark.parametrize(("solver", "members"), SOLVERS.values(), ids=SOLVERS)


@EACH
@given(seed=st.integers(0, 2**31))
def test_the_solution_is_the_cheapest_of_all(solver, members, seed):
    costs = costs_of(seed, 3, members.shape[1])
    assert_optimal(solver, costs.abs() if solver.nonnegative else costs, members)


@EACH
@given(seed=st.integers(0, 2**31))
def test_ties_and_zero_costs_leave_it_the_cheapest(solver, members, seed):
    generator = torch.Generator().manual_seed(seed)
    costs = torch.randint(3, (3, members.shape[1]), generator=generator).double()
    assert_optimal(solver, costs, members)
    assert torch.equal(solver(costs), solver(costs))


@EACH
def test_shape_and_dtype_are_kept(solver, members):
    assert_keeps_shape_and_dtype(solver, members.shape[1])


@EACH
def test_the_projection_is_that_of_the_equalities(solver, members):
    assert_projects(solver, costs_of(1, 2, members.shape[1]))


@EACH
def test_the_equalities_hold_on_all_of_the_set(solver, members):
    rows = solver.equalities(members.shape[1:])
    values = members.double() @ rows.T
    assert_close(values, values[:1].expand_as(values))


@EACH
def test_the_solver_runs_on_the_device_of_the_costs(solver, members, device):
    costs = costs_of(2, 3, members.shape[1]).abs()
    solution = solver(costs.to(device))
    assert solution.device.type == device.type
    assert torch.equal(solution.cpu(), solver(costs))
    assert solver.project(costs.to(device)).device.type == device.type


@EACH
def test_costs_that_are_not_one_per_edge_are_refused(solver, members):
    count = members.shape[1]
    with pytest.raises(ValueError, match=f"each of the {count} edges, got {count + 1}: pass"):
        solver(torch.ones(2, count + 1))


def among(nodes, edges):
    there = torch.zeros(int(edges.max()) + 1, dtype=torch.bool)
    there[list(nodes)] = True
    return there[edges[0]] & there[edges[1]]


@pytest.mark.parametrize("kind", [SpanningTree, PerfectMatching])
def test_a_ragged_batch_is_a_loop(kind):
    mask = torch.stack([among(range(n), COMPLETE) for n in (6, 4, 2)])
    costs = costs_of(3, 3, 15)
    solution = kind(COMPLETE)(costs, mask)
    assert not solution[~mask].any()
    for instance, inside, got in zip(costs, mask, solution, strict=True):
        assert torch.equal(got[inside], kind(COMPLETE[:, inside])(instance[inside]))
    assert_projects(kind(COMPLETE), costs, mask)


def test_a_ragged_bipartite_batch_is_a_loop():
    i, j = (
        grid.flatten()
        for grid in torch.meshgrid(torch.arange(4), torch.arange(4, 8), indexing="ij")
    )
    edges = torch.stack([i, j])
    mask = torch.stack([(i < n) & (j < 4 + n) for n in (4, 2, 1)])
    costs = costs_of(4, len(mask), edges.shape[1])
    solution = PerfectMatching(edges)(costs, mask)
    for instance, inside, got in zip(costs, mask, solution, strict=True):
        assert torch.equal(got[inside], PerfectMatching(edges[:, inside])(instance[inside]))


def test_a_closed_edge_is_not_taken():
    costs = torch.zeros(2, 18)
    mask = torch.ones(2, 18, dtype=torch.bool)
    mask[1, 2] = False  # the direct edge 0-3; costs are equal, so the path still exists
    solution = GraphPath(BOTH_WAYS, 0, 3)(costs + torch.arange(18), mask)
    assert solution[0].nonzero().flatten().tolist() == [2]
    assert not solution[1, 2]
    assert solution[1].sum() >= 2


def test_many_instances_are_searched_in_parts():
    costs = costs_of(5, 3000, 18).abs()  # 6 nodes each: more than one part
    solver = GraphPath(BOTH_WAYS, 0, 5)
    members = SOLVERS["path"][1].double()
    assert_close((solver(costs) * costs).sum(1), (costs @ members.T).amin(1))
    mask = torch.ones(3000, 18, dtype=torch.bool)
    mask[2900, :3] = False  # no way out of node 0
    with pytest.raises(ValueError, match="instance 2900 of the batch has none"):
        solver(costs, mask)


@given(st.integers(0, 2**31))
def test_large_matchings_cost_what_networkx_finds(seed):
    edges = torch.triu_indices(12, 12, 1)
    costs = costs_of(seed, edges.shape[1])
    graph = networkx.Graph()
    graph.add_weighted_edges_from(
        (i, j, -cost) for (i, j), cost in zip(edges.T.tolist(), costs.tolist(), strict=True)
    )
    pairs = networkx.max_weight_matching(graph, maxcardinality=True)
    expected = -sum(graph.edges[pair]["weight"] for pair in pairs)
    assert_close((PerfectMatching(edges)(costs) * costs).sum().item(), expected)


@pytest.mark.parametrize(
    ("solver", "closed", "message"),
    [
        (GraphPath(BOTH_WAYS, 0, 5), [5, 7, 8], "path from node 0 to node 5, and instance 1 of"),
        (SpanningTree(PRISM), [2, 4, 5], "instance 1 of the batch 6 nodes fall into 2 parts: add"),
        (PerfectMatching(PRISM), [2, 4, 5], "instance 1 of the batch has none for its 6 nodes"),
        (PerfectMatching(LADDER), [0, 2], "instance 1 of the batch has none for its 8 nodes"),
    ],
    ids=["path", "tree", "matching", "bipartite"],
)
def test_an_infeasible_instance_is_refused_by_name(solver, closed, message):
    mask = torch.ones(2, solver.edges.shape[1], dtype=torch.bool)
    mask[1, closed] = False
    with pytest.raises(ValueError, match=message):
        solver(torch.ones(mask.shape), mask)


def test_a_disconnected_graph_has_no_tree():
    with pytest.raises(ValueError, match="in instance 0 of the batch 4 nodes fall into 2 parts"):
        SpanningTree(torch.tensor([[0, 2], [1, 3]]))(torch.ones(2, 2))


def test_negative_costs_of_paths_are_refused_by_name():
    costs = torch.ones(2, 18)
    costs[1, 3] = -1
    with pytest.raises(ValueError, match="not be negative for this solver, got -1 in instance 1"):
        GraphPath(BOTH_WAYS, 0, 5)(costs)


def test_without_rustworkx_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rustworkx", None)
    with pytest.raises(ImportError, match=r"needs rustworkx: pip install 'weft\[matching\]'"):
        PerfectMatching(PRISM)(torch.ones(9))
    assert PerfectMatching(LADDER)(torch.ones(9)).sum() == 4  # bipartite: not needed


@pytest.mark.parametrize(
    ("edges", "error", "message"),
    [
        ([[0, 1]], TypeError, "tensor of node numbers, got list: call .long"),
        (torch.ones(2, 3), TypeError, "tensor of node numbers, got torch.float32: call .long"),
        (torch.ones(3, 2).long(), ValueError, r"in shape \(2, e\), got shape \(3, 2\): pass"),
        (torch.ones(2, 0).long(), ValueError, r"in shape \(2, e\), got shape \(2, 0\): pass"),
        (torch.tensor([[-1], [0]]), ValueError, "must be pairs of nodes 0, 1, ..., one or more"),
        (torch.tensor([[0, 1], [1, 1]]), ValueError, r"got \[1, 1\] as edge 1: "),
        (torch.tensor([[0, 0], [1, 1]]), ValueError, "must be different, got 2 with repetitions"),
    ],
)
def test_edges_that_are_none_are_refused(edges, error, message):
    for make in (SpanningTree, PerfectMatching, lambda edges: GraphPath(edges, 0, 1)):
        with pytest.raises(error, match=message):
            make(edges)


def test_undirected_edges_are_listed_once_and_sorted():
    with pytest.raises(
        ValueError, match=r"be pairs i < j, each once, got \[1, 0\] as edge 1: sort"
    ):
        SpanningTree(torch.tensor([[0, 1], [1, 0]]))


@pytest.mark.parametrize(("start", "end"), list(product((-1, 6), (0, 5))))
def test_ends_outside_the_graph_are_refused(start, end):
    with pytest.raises(
        ValueError, match=f"`start` must be a node of the graph, 0 to 5, got {start}"
    ):
        GraphPath(BOTH_WAYS, start, end)
