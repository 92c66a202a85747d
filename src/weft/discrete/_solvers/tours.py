"""The shortest round trip: exact, by dynamic programming for few cities and by cuts for more."""

from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_array, csc_array, vstack
from scipy.sparse.csgraph import connected_components, depth_first_order
from torch import Tensor

from weft.discrete._solver import Solver
from weft.discrete._solvers.host import for_each
from weft.discrete._solvers.programs import solve_program

_FEW = 12  # nodes; dynamic programming doubles with each, and cuts are faster from here on
_AT_ONCE = 64  # instances in one table of at most 2^11 x 11 distances each


@dataclass(frozen=True)
class Tour(Solver):
    """The cheapest tour through all nodes of a complete graph (the travelling salesman's).

    Costs and solution have an entry for each pair of nodes i < j, in the order of
    `torch.triu_indices(n, n, 1)`: n (n - 1) / 2 of them, of any sign. With a mask, a node none of
    whose edges is inside is absent, and other edges outside are forbidden. Up to 12 nodes on the
    costs' device, of equal tours always the same; above on the host, by a mixed-integer program
    without the constraint of one tour, to which subtours are added as cuts until there are none.
    That is exact to 1e-6 of the largest cost.

    Source: Held and Karp, J. SIAM 1962; Dantzig, Fulkerson, Johnson, Oper. Res. 1954.
    """

    def solve(self, costs: Tensor, mask: Tensor | None) -> Tensor:
        """Solve together what has the same nodes."""
        n = _num_nodes(costs.shape[1])
        i, j = torch.triu_indices(n, n, 1, device=costs.device)
        edge = torch.zeros(n, n, dtype=torch.long, device=costs.device)
        edge[i, j] = edge[j, i] = torch.arange(len(i), device=costs.device)
        if mask is not None:
            costs = costs.masked_fill(~mask, torch.inf)
        lengths = costs.double()[:, edge]
        lengths.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        solution = torch.zeros_like(costs, dtype=torch.bool)
        present = lengths.isfinite().any(2)
        for pattern in present.unique(dim=0):
            which, nodes = (present == pattern).all(1).nonzero()[:, 0], pattern.nonzero()[:, 0]
            if len(nodes) < 3:
                raise ValueError(
                    f"`mask` must leave three nodes or more, and instance {int(which[0])} of the "
                    f"batch has {len(nodes)}: no tour visits fewer."
                )
            own = lengths[which][:, nodes][:, :, nodes]
            if len(nodes) <= _FEW:
                order = torch.cat([_held_karp(part) for part in own.split(_AT_ONCE)])
            else:
                order = _cut_subtours(own)
            stuck = which[(order == order.roll(1, 1)).any(1)]
            if len(stuck):
                raise ValueError(
                    f"`mask` must leave a tour, and instance {int(stuck[0])} of the batch has "
                    "none: allow more edges."
                )
            along = edge[nodes[order], nodes[order.roll(1, 1)]]
            solution[which[:, None], along] = True
        return solution

    def equalities(self, item: torch.Size) -> Float[Tensor, "n e"]:
        """Return a row for each node: two of its edges are in the tour."""
        n = _num_nodes(item.numel())
        nodes, pairs = torch.arange(n), torch.triu_indices(n, n, 1)
        return (pairs[:, None] == nodes[:, None]).any(0).double()


def _num_nodes(num_edges: int) -> int:
    n = (1 + isqrt(1 + 8 * num_edges)) // 2
    if n * (n - 1) // 2 != num_edges or n < 3:
        raise ValueError(
            "`costs` must have an entry for each pair of 3 or more nodes (3, 6, 10, 15, ...), "
            f"got {num_edges}: take those of matrix[..., i, j], i, j = torch.triu_indices(n, n, 1)."
        )
    return n


def _held_karp(lengths: Float[Tensor, "b n n"]) -> Int[Tensor, "b n"]:
    """Return the nodes in the order of the tour; zeros where there is none."""
    batch, n, _ = lengths.shape
    device = lengths.device
    hub, others = n - 1, torch.arange(n - 1, device=device)
    sets = torch.arange(1 << (n - 1), device=device)
    members = (sets[:, None] >> others & 1).sum(1)
    between = lengths.permute(1, 2, 0).contiguous()
    # table[s, j]: the shortest way from the hub through all of the set s that ends in its node j
    table = between.new_full((len(sets), n - 1, batch), torch.inf)
    table[1 << others, others] = between[hub, :hub]
    for size in range(2, n):
        chosen = sets[members == size]
        before = chosen[:, None] ^ (1 << others)  # where j is no member, not yet filled: infinite
        best = torch.full_like(table[chosen], torch.inf)
        for last in range(n - 1):
            torch.minimum(best, table[before, last] + between[last, :hub], out=best)
        table[chosen] = best
    instance = torch.arange(batch, device=device)
    order = [torch.full_like(instance, hub)]
    left = torch.full_like(instance, len(sets) - 1)
    for _ in range(n - 1):
        there = table[left, :, instance] + lengths[instance, :hub, order[-1]]
        order.append(there.argmin(1))
        left = left ^ (1 << order[-1])
    closed = table[-1] + between[:hub, hub]
    return torch.stack(order, 1).where(closed.amin(0).isfinite()[:, None], 0)


def _cut_subtours(lengths: Float[Tensor, "b n n"]) -> Int[Tensor, "b n"]:
    """Return the nodes in the order of the tour; zeros where there is none."""
    batch, n, _ = lengths.shape
    i, j = np.triu_indices(n, 1)
    costs = lengths.numpy(force=True)[:, i, j]
    orders = np.zeros((batch, n), dtype=np.int64)
    edges = np.arange(len(i))
    ends = (np.concatenate([i, j]), np.concatenate([edges, edges]))
    degrees = csc_array((np.ones(2 * len(i)), ends), shape=(n, len(i)))

    def one(instance: int) -> None:
        allowed = np.isfinite(costs[instance])
        own = np.where(allowed, costs[instance], 0.0)
        rows, least, most = degrees, np.full(n, 2.0), np.full(n, 2.0)
        while True:
            found = solve_program(own, np.zeros(len(i)), allowed, rows, least, most)
            if found is None:
                return
            used = found > 0.5
            chosen = coo_array((np.ones(used.sum()), (i[used], j[used])), shape=(n, n))
            parts, part = connected_components(chosen, directed=False)
            if parts == 1:
                orders[instance] = depth_first_order(chosen, 0, directed=False)[0]
                return
            within = (part[i] == part[j]) * (part[i] == np.arange(parts)[:, None])
            rows = vstack([rows, csc_array(within.astype(float))], format="csc")
            least = np.concatenate([least, np.full(parts, -np.inf)])
            most = np.concatenate([most, np.bincount(part) - 1.0])

    for_each(one, batch)
    return torch.from_numpy(orders).to(lengths.device)
