"""What solvers on the edges of a graph share: the check of its edges, and who has one."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def check_edges(edges: Int[Tensor, "2 e"], *, directed: bool = False) -> None:
    """Refuse edges of a wrong type, shape or order, loops and repetitions.

    Raises:
        TypeError: not integers.
        ValueError: anything else.
    """
    if not isinstance(edges, Tensor) or edges.dtype != torch.long:
        came = edges.dtype if isinstance(edges, Tensor) else type(edges).__name__
        raise TypeError(f"`edges` must be a tensor of node numbers, got {came}: call .long().")
    if edges.ndim != 2 or len(edges) != 2 or not edges.numel() or edges.min() < 0:
        raise ValueError(
            "`edges` must be pairs of nodes 0, 1, ..., one or more, in shape (2, e), got shape "
            f"{tuple(edges.shape)}: pass torch.tensor([[i, ...], [j, ...]])."
        )
    i, j = edges
    wrong = (i == j) if directed else (i >= j)
    if wrong.any():
        which = int(wrong.nonzero()[0])
        need = "join different nodes" if directed else "be pairs i < j, each once"
        raise ValueError(
            f"`edges` must {need}, got {edges[:, which].tolist()} as edge {which}: "
            f"{'drop it' if directed else 'sort each pair, and drop repetitions'}."
        )
    if edges.unique(dim=1).shape[1] < edges.shape[1]:
        raise ValueError(
            f"`edges` must be different, got {edges.shape[1]} with repetitions: keep the cheaper "
            "of two by a minimum of their costs."
        )


def check_count(num_costs: int, edges: Int[Tensor, "2 e"]) -> None:
    """Refuse costs that are not one per edge."""
    if num_costs != edges.shape[1]:
        raise ValueError(
            f"`costs` must have one entry for each of the {edges.shape[1]} edges, got {num_costs}: "
            "pass (*batch, edges)."
        )


def incidence(edges: Int[Tensor, "2 e"]) -> Float[Tensor, "n e"]:
    """Return a row for each node, with ones for its edges."""
    nodes = torch.arange(int(edges.max()) + 1, device=edges.device)
    return (edges[:, None] == nodes[:, None]).any(0).double()


def nodes_present(edges: Int[Tensor, "2 e"], inside: Bool[Tensor, "b e"]) -> Bool[Tensor, "b n"]:
    """Return which nodes have an edge: in each instance, of those inside its mask."""
    present = inside.new_zeros(len(inside), int(edges.max()) + 1, dtype=torch.long)
    for ends in edges:
        present.index_add_(1, ends, inside.long())
    return present > 0
