"""The two maps between functions of nodes and functions of edges, and their derivatives."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close

from weft.graph._edges import (
    csr_matrix,
    csr_pattern,
    csr_product,
    edge_inner,
    laplacian_product,
    node_sums,
    squared_distances,
)

EDGES = torch.tensor([[0, 0, 0, 1, 2, 4], [1, 3, 4, 2, 5, 5]])
NUM_NODES = 7  # node 6 has no edge


def dense(weights):
    i, j = EDGES
    half = weights.new_zeros(NUM_NODES, NUM_NODES).index_put((i, j), weights)
    return torch.diag((half + half.T).sum(1)) - half - half.T


@pytest.fixture
def weights(generator):
    return torch.rand(EDGES.shape[1], generator=generator, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def x(generator):
    return torch.randn(NUM_NODES, 3, generator=generator, dtype=torch.float64, requires_grad=True)


def test_csr_pattern_lays_out_the_symmetric_matrix(weights):
    row_start, columns, edge_of = csr_pattern(EDGES, NUM_NODES)
    matrix = csr_matrix(row_start, columns, weights.detach()[edge_of]).to_dense()
    assert_close(matrix, torch.diag(torch.diag(dense(weights))).detach() - dense(weights).detach())


def test_csr_pattern_has_ascending_columns_in_each_row():
    row_start, columns, _ = csr_pattern(EDGES, NUM_NODES)
    for row in columns.tensor_split(row_start[1:-1].tolist()):
        assert (row.diff() > 0).all()


@pytest.mark.parametrize("num_nodes", [0, 1, 4])
def test_csr_pattern_of_no_edges_has_empty_rows(num_nodes):
    row_start, columns, edge_of = csr_pattern(torch.empty(2, 0, dtype=torch.long), num_nodes)
    assert row_start.tolist() == [0] * (num_nodes + 1)
    assert len(columns) == len(edge_of) == 0


def test_node_sums_are_degrees(weights):
    assert_close(node_sums(weights, EDGES, NUM_NODES), torch.diag(dense(weights)))


def test_laplacian_product_is_the_dense_product(weights, x):
    assert_close(laplacian_product(weights, x, EDGES), dense(weights) @ x)


def test_squared_distances_are_those_of_cdist(x):
    i, j = EDGES
    assert_close(squared_distances(x, EDGES), torch.cdist(x, x)[i, j].square())


def test_squared_distances_do_not_cancel_far_from_the_origin(generator):
    x = torch.randn(NUM_NODES, 3, generator=generator)
    moved = x + 4096  # exact in float32 up to the last bits of x
    near = squared_distances((moved - 4096).double(), EDGES)
    assert_close(squared_distances(moved, EDGES).double(), near, rtol=1e-6, atol=0)


def test_squared_distances_in_blocks_are_those_in_one(generator):
    x = torch.randn(NUM_NODES, 60_000, generator=generator)  # four edges to a block
    i, j = EDGES
    assert_close(squared_distances(x, EDGES), (x[i] - x[j]).square().sum(1))


def test_float32_distances_in_blocks_of_edges_are_those_in_one(generator, monkeypatch):
    x = torch.randn(40, 3, generator=generator)
    x[7] = x[9]  # one pair is compared by differences
    edges = torch.combinations(torch.arange(40)).T.contiguous()
    whole = squared_distances(x, edges)
    monkeypatch.setattr("weft.graph._edges._EDGES", 100)
    assert torch.equal(squared_distances(x, edges), whole)
    assert_close(whole.double(), torch.cdist(x.double(), x.double())[*edges].square())


def test_squared_distances_of_no_edges_or_no_columns_are_empty_or_zero():
    none = torch.empty(2, 0, dtype=torch.long)
    assert squared_distances(torch.ones(3, 2), none).shape == (0,)
    assert squared_distances(torch.ones(NUM_NODES, 0), EDGES).tolist() == [0.0] * EDGES.shape[1]


def test_derivatives_match_finite_differences_twice(weights, x):
    for function, inputs in [
        (lambda x: squared_distances(x, EDGES), (x,)),
        (lambda w, x: laplacian_product(w, x, EDGES), (weights, x)),
        (lambda x: edge_inner(x, x.sin(), EDGES), (x,)),
    ]:
        assert gradcheck(function, inputs, check_forward_ad=True)
        assert gradgradcheck(function, inputs)


def test_a_gradient_of_only_one_argument_is_right(weights, x):
    (by_x,) = torch.autograd.grad(laplacian_product(weights.detach(), x, EDGES).sin().sum(), x)
    (expected,) = torch.autograd.grad((dense(weights.detach()) @ x).sin().sum(), x)
    assert_close(by_x, expected)
    (by_w,) = torch.autograd.grad(
        laplacian_product(weights, x.detach(), EDGES).sin().sum(), weights
    )
    (expected,) = torch.autograd.grad((dense(weights) @ x.detach()).sin().sum(), weights)
    assert_close(by_w, expected)


def test_forward_mode_of_only_one_argument_is_right(weights, x, generator):
    dw, dx = torch.randn_like(weights), torch.randn_like(x)
    _, tangent = jvp(lambda w: laplacian_product(w, x, EDGES), (weights,), (dw,))
    assert_close(tangent, dense(dw) @ x)
    _, tangent = jvp(lambda x: laplacian_product(weights, x, EDGES), (x,), (dx,))
    assert_close(tangent, dense(weights) @ dx)


def test_jacobians_and_hessians_are_the_dense_ones(weights, x):
    weights, x = weights.detach(), x.detach()
    i, j = EDGES

    def ours(w, x):
        return laplacian_product(w, x, EDGES).sin()

    def theirs(w, x):
        return (dense(w) @ x).sin()

    for transform in (jacrev, jacfwd):
        for argnum in (0, 1):
            assert_close(transform(ours, argnum)(weights, x), transform(theirs, argnum)(weights, x))

    def distances(x):
        return squared_distances(x, EDGES).exp().sum()

    def plainly(x):
        return (x[i] - x[j]).square().sum(1).exp().sum()

    assert_close(hessian(distances)(x), hessian(plainly)(x))


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0), (1, 2)])
def test_vmap_is_a_loop(generator, in_dims):
    def batch(shape, dim):
        if dim is None:
            return torch.randn(shape, generator=generator, dtype=torch.float64)
        return torch.randn(*shape[:dim], 4, *shape[dim:], generator=generator, dtype=torch.float64)

    weights = batch((EDGES.shape[1],), in_dims[0])
    x = batch((NUM_NODES, 3), in_dims[1])

    def run(w, x):
        return laplacian_product(w, x, EDGES)

    def one(tensor, dim, place):
        return tensor if dim is None else tensor.select(dim, place)

    looped = torch.stack(
        [run(one(weights, in_dims[0], k), one(x, in_dims[1], k)) for k in range(4)]
    )
    assert_close(vmap(run, in_dims)(weights, x), looped)
    if in_dims[1] is not None:
        points = vmap(lambda x: squared_distances(x, EDGES), in_dims[1])(x)
        assert_close(points, torch.stack([
            squared_distances(one(x, in_dims[1], k), EDGES) for k in range(4)
        ]))  # fmt: skip


def test_vmap_of_a_gradient_is_a_loop(generator):
    x = torch.randn(4, NUM_NODES, 3, generator=generator, dtype=torch.float64)

    def loss(x):
        return squared_distances(x, EDGES).exp().sum()

    assert_close(vmap(grad(loss))(x), torch.stack([grad(loss)(row) for row in x]))


@pytest.mark.parametrize("place", [0, 1])
def test_refuses_forward_mode_inside_forward_mode_rather_than_be_wrong(weights, x, place):
    function = (
        lambda x: squared_distances(x, EDGES),
        lambda x: laplacian_product(weights.detach(), x.sin(), EDGES),
    )[place]
    x = x.detach()
    with pytest.raises(NotImplementedError, match="forward mode cannot be nested"):
        jvp(lambda x: jvp(function, (x,), (x,))[1], (x,), (x,))
    jvp(grad(lambda x: function(x).sum()), (x,), (x,))


def test_products_and_the_backward_of_distances_ignore_autocast(generator):
    row_start, columns, edge_of = csr_pattern(EDGES, NUM_NODES)
    matrix = csr_matrix(row_start, columns, torch.rand(6, generator=generator)[edge_of])
    x = torch.randn(NUM_NODES, 2, generator=generator, requires_grad=True)
    plain = csr_product(matrix, x)
    squared = squared_distances(x, EDGES)
    (gradient,) = torch.autograd.grad(squared.sum(), x, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(csr_product(matrix, x), plain)
        (inside,) = torch.autograd.grad(squared.sum(), x)
    assert torch.equal(inside, gradient)
