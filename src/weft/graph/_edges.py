"""Arithmetic on edges: the two maps between functions of nodes and functions of edges.

`squared_distances` takes node vectors to edges, `laplacian_product` takes edge weights and node
vectors to nodes; each is the other's derivative, so both can be differentiated to any order.
Every undirected edge is stored once, as (i, j) with i < j. Knows tensors only.
"""

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack

from weft.graph._operator import operator

# torch says this once per process; CSR products are the only beta feature used.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")

_EDGES = 2**24
"""Edges whose distances are computed in float64 at once: ten million points have five times as
many."""


@operator("csr_pattern")
def csr_pattern(edges: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lay a symmetric matrix out in compressed sparse rows.

    Args:
        edges: (2, e) node pairs i < j in lexicographic order, each once.
        num_nodes: rows of the matrix.

    Returns:
        Row starts (n + 1), columns (2e), and for each of the 2e entries the edge it belongs to.
    """
    i, j = edges
    if edges.device.type == "cpu":  # SciPy transposes by counting: a tenth of the time of a sort
        number = np.arange(1, len(i) + 1)  # from one: a sum drops zeros
        rows = row_starts(i, num_nodes).int().numpy(), j.int().numpy()
        above = sparse.csr_array((number, rows[1], rows[0]), (num_nodes, num_nodes))
        both = above + above.T.tocsr()
        row_start, columns = torch.from_numpy(both.indptr), torch.from_numpy(both.indices)
        return row_start, columns, torch.from_numpy(both.data - 1)
    edge = torch.arange(len(i), device=i.device)
    # An edge lies in the rows of both its ends. Within a row, the order of the edges is that of
    # the columns: (c, r) with c < r come before (r, c) with c > r, and either kind ascends.
    key = (torch.cat([j, i]) << 32 | torch.cat([edge, edge])).sort().values
    row, edge_of = key >> 32, key & 0xFFFFFFFF
    columns = (i + j)[edge_of] - row
    # MKL takes 32-bit indices; others it would convert in every product.
    return row_starts(row, num_nodes).int(), columns.int(), edge_of


@torch.library.register_fake("weft::csr_pattern")
def _(edges, num_nodes):
    entries = 2 * edges.shape[1]
    small = edges.new_empty(num_nodes + 1, dtype=torch.int32)
    return small, edges.new_empty(entries, dtype=torch.int32), edges.new_empty(entries)


def row_starts(row: Int[Tensor, " e"], num_rows: int) -> Int[Tensor, " n+1"]:
    """Return where each row's entries begin, and the end, given the ascending row of each entry."""
    return torch.searchsorted(row, torch.arange(num_rows + 1, device=row.device))


def csr_matrix(row_start: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Return a square torch CSR tensor; what comes from `csr_pattern` needs no checks."""
    size = (len(row_start) - 1, len(row_start) - 1)
    return torch.sparse_csr_tensor(row_start, columns, values, size, check_invariants=False)


def csr_product(matrix: Tensor, x: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """Return `matrix @ x` in the dtype of `x`, whatever autocast would make of it."""
    with torch.autocast(x.device.type, enabled=False):
        return matrix @ x


def node_sums(
    weights: Float[Tensor, " e"], edges: Int[Tensor, "2 e"], num_nodes: int
) -> Float[Tensor, " n"]:
    """Sum a function of edges at both ends of each edge; of weights, these are the degrees."""
    zeros = weights.new_zeros(num_nodes)
    return zeros.index_add(0, edges[0], weights).index_add(0, edges[1], weights)


def edge_inner(
    x: Float[Tensor, "*b n d"], y: Float[Tensor, "*b n d"], edges: Int[Tensor, "2 e"]
) -> Float[Tensor, "*b e"]:
    """Return <x_i - x_j, y_i - y_j> for each edge. Differentiable to any order."""
    return (_differences(x, edges) * _differences(y, edges)).sum(-1)


def squared_distances(
    features: Float[Tensor, "n d"], edges: Int[Tensor, "2 e"]
) -> Float[Tensor, " e"]:
    """Return |x_i - x_j|^2 for each edge, without cancellation: equal points are at zero.

    Differentiable to any order in `features`; the backward is one sparse product, so neither
    pass keeps an (e, d) array.
    """
    return _SquaredDistances.apply(features, edges)  # pyright: ignore[reportReturnType]


def laplacian_product(
    weights: Float[Tensor, " e"], x: Float[Tensor, "n d"], edges: Int[Tensor, "2 e"]
) -> Float[Tensor, "n d"]:
    """Return L(w) x, whose row i is the sum over neighbours j of w_ij (x_i - x_j).

    Bilinear; differentiable to any order in `weights` and `x`.
    """
    return _LaplacianProduct.apply(weights, x, edges)  # pyright: ignore[reportReturnType]


def inner_products(
    points: Float[Tensor, "n d"], i: Int[Tensor, " m"], j: Int[Tensor, " m"]
) -> Float[Tensor, " m"]:
    """Return <x_i, x_j> for pairs in lexicographic order, without gradient."""
    pattern = csr_matrix(row_starts(i, len(points)), j, points.new_zeros(len(i)))
    return torch.sparse.sampled_addmm(pattern, points, points.T, beta=0).values()


def _differences(x: Tensor, edges: Tensor) -> Tensor:
    return x.index_select(-2, edges[0]) - x.index_select(-2, edges[1])


def _distances_from_differences(features: Tensor, edges: Tensor) -> Tensor:
    # In blocks that stay in cache; (e, d) differences at once would be the largest array.
    block = max(1, 2**16 // max(1, features.shape[1]))
    parts = [_differences(features, part) for part in edges.split(block, dim=1)]
    return torch.cat([part.square_().sum(1) for part in parts])


def _distances_from_products(features: Tensor, edges: Tensor) -> Tensor:
    """Compute |x_i|^2 + |x_j|^2 - 2 <x_i, x_j> in float64, where that keeps float32's digits.

    A sampled product gathers nothing and takes a fifth of the time of differences. Where the
    distance is so short that float64 cancels, differences replace it.
    """
    points = features.double()
    points -= points.mean(0)
    node = torch.arange(len(points), device=edges.device)
    norms = inner_products(points, node, node)
    parts = []
    for part in edges.split(_EDGES, dim=1):
        i, j = part
        sums = norms[i] + norms[j]
        squared = sums - 2 * inner_products(points, i, j)
        close = (squared < 1e-6 * sums).nonzero().squeeze(1)
        squared = squared.float()
        squared[close] = _distances_from_differences(features, part[:, close])
        parts.append(squared)
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def refuse_nested_forward_mode() -> None:
    """Raise inside a `jvp` that is itself under another one.

    There torch drops the outer tangent of a custom function and goes on with a wrong derivative.
    """
    levels = get_interpreter_stack() or []
    if sum(level.key() == TransformType.Jvp for level in levels) > 1:
        raise NotImplementedError(
            "forward mode cannot be nested through a graph, got jvp inside jvp: torch would drop "
            "the outer tangent; use reverse mode for all but one of the derivatives, as "
            "torch.func.hessian does."
        )


class _SquaredDistances(torch.autograd.Function):
    """D_e = |x_i - x_j|^2; with g coming in, dx = 2 L(g) x."""

    @staticmethod
    def forward(features: Tensor, edges: Tensor) -> Tensor:
        if features.dtype == torch.float32:
            return _distances_from_products(features, edges)
        return _distances_from_differences(features, edges)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        features, edges = inputs
        ctx.save_for_backward(features, edges)
        ctx.save_for_forward(features, edges)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, edges = ctx.saved_tensors
        return laplacian_product(2 * grad, features, edges), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        refuse_nested_forward_mode()
        features, edges = ctx.saved_tensors
        return 2 * edge_inner(features, tangent, edges)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], features: Tensor, edges: Tensor) -> Any:
        batched = features.movedim(in_dims[0], 0)
        return edge_inner(batched, batched, edges), 0


class _LaplacianProduct(torch.autograd.Function):
    """P = L(w) x is bilinear; with G coming in, dw_ij = <x_i - x_j, G_i - G_j>, dx = L(w) G."""

    @staticmethod
    def forward(weights: Tensor, x: Tensor, edges: Tensor) -> Tensor:
        # D x - W x cancels where neighbours are close beside their distance from the origin: in
        # float64, and rounded once.
        row_start, columns, edge_of = csr_pattern(edges, len(x))
        wide_weights, wide = weights.double(), x.double()
        adjacency = csr_matrix(row_start, columns, wide_weights[edge_of])
        degrees = node_sums(wide_weights, edges, len(x))
        product = csr_product(adjacency, wide)
        return product.neg_().addcmul_(degrees[:, None], wide).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, x, edges = ctx.saved_tensors
        need_weights, need_x, _ = ctx.needs_input_grad
        return (
            edge_inner(x, grad, edges) if need_weights else None,
            laplacian_product(weights, grad, edges) if need_x else None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, dweights: Tensor | None, dx: Tensor | None, _: None) -> Tensor:
        refuse_nested_forward_mode()
        weights, x, edges = ctx.saved_tensors
        tangent = torch.zeros_like(x)
        if dweights is not None:
            tangent = tangent + laplacian_product(dweights, x, edges)
        if dx is not None:
            tangent = tangent + laplacian_product(weights, dx, edges)
        return tangent

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], weights: Tensor, x: Tensor, edges: Tensor) -> Any:
        weights, x = (
            part.movedim(dim, 0) if dim is not None else part.expand(info.batch_size, *part.shape)
            for part, dim in zip((weights, x), in_dims[:2], strict=True)
        )
        flow = weights[..., None] * _differences(x, edges)
        i, j = edges
        return torch.zeros_like(x).index_add(1, i, flow).index_add(1, j, flow, alpha=-1), 0
