"""Graphs of other libraries, at the border: NetworkX, PyTorch Geometric, DGL.

They are read by what they offer, so that none of the three is imported. Every way in ends in
`Graph.from_edge_index`: direction is dropped, an edge given more than once keeps its largest
weight, loops go, and nodes without edges stay.
"""

from typing import Any, SupportsFloat

import torch
from torch import Tensor

from weft.graph._graph import Graph


def from_networkx(graph: Any, *, weight: str | None = None) -> Graph:
    """Build a graph from one of NetworkX: directed or not, with parallel edges or without.

    Row i is the i-th node in NetworkX's own order, `list(graph)`, whatever the nodes are called.

    Args:
        graph: any graph of NetworkX.
        weight: the attribute that holds the weights, on every edge; by default `weight`, where an
            edge has it, and one where not, which is what NetworkX itself does.

    Returns:
        The graph on the CPU, its weights in torch's default dtype.

    Raises:
        TypeError: not a graph of NetworkX.
        ValueError: a weight that is missing, no number, negative, infinite or NaN.
    """
    if not (callable(getattr(graph, "is_directed", None)) and hasattr(graph, "adj")):
        raise TypeError(
            f"`graph` must be a graph of NetworkX, got {type(graph).__name__}: "
            "for a matrix take Graph.from_scipy, for a list of edges Graph.from_edge_index."
        )
    row = {node: index for index, node in enumerate(graph)}
    name, default = ("weight", 1.0) if weight is None else (weight, None)
    triples = list(graph.edges(data=name, default=default))
    for source, target, value in triples:
        if not isinstance(value, SupportsFloat):
            raise ValueError(
                f"`weight` must name an attribute that holds a number on every edge, got {name!r}, "
                f"which is {value!r} on edge ({source!r}, {target!r}): set it there, or name "
                "another."
            )
    weights = torch.tensor([float(value) for _, _, value in triples])
    pairs = [(row[source], row[target]) for source, target, _ in triples]
    index = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    return Graph.from_edge_index(index, weights, num_nodes=len(row))


def to_networkx(graph: Graph) -> Any:
    """Return the graph as an undirected one of NetworkX, nodes 0, 1, …, weights in `weight`.

    Without gradient.

    Raises:
        ImportError: NetworkX is not installed.
    """
    try:
        import networkx
    except ImportError as error:
        raise ImportError(
            "to_networkx needs NetworkX, which is not installed: pip install 'weft[networkx]', "
            "or use Graph.to_scipy."
        ) from error
    built = networkx.Graph()
    built.add_nodes_from(range(graph.num_nodes))
    i, j = graph.edges.tolist()
    built.add_weighted_edges_from(zip(i, j, graph.weights.detach().tolist(), strict=True))
    return built


def from_pyg(data: Any, *, weight: str | None = None) -> Graph:
    """Build a graph from a `Data` of PyTorch Geometric. Differentiable in its weights.

    Args:
        data: a `Data` or `Batch` with an `edge_index`. Its number of nodes counts the isolated
            ones too, as long as it has features or `num_nodes`.
        weight: the attribute that holds one weight per column of `edge_index`; by default
            `edge_weight` where there is one, else ones. `edge_attr` is read only when it is named.

    Returns:
        The graph on the device of `data`; the way back is `Data(edge_index=..., edge_weight=...)`
        with what `graph.to_edge_index()` returns.

    Raises:
        TypeError: no `edge_index`, as in `HeteroData` or after `ToSparseTensor`.
        ValueError: no such weights, or weights of another shape, negative, infinite or NaN.
    """
    edge_index = getattr(data, "edge_index", None)
    if not isinstance(edge_index, Tensor):
        raise TypeError(
            f"`data` must have an `edge_index`, got {type(data).__name__} without: call "
            ".to_homogeneous() on HeteroData, and take ToSparseTensor out of the transforms."
        )
    weights = getattr(data, weight or "edge_weight", None)
    if weights is None and weight is not None:
        raise _missing(weight, "data", data.keys())
    return Graph.from_edge_index(edge_index, weights, num_nodes=data.num_nodes)


def from_dgl(graph: Any, *, weight: str | None = None) -> Graph:
    """Build a graph from one of DGL with one type of nodes and edges. Differentiable in weights.

    Args:
        graph: a homogeneous `DGLGraph`.
        weight: the entry of `graph.edata` that holds one weight per edge; by default ones.

    Returns:
        The graph on the device of `graph`.

    Raises:
        TypeError: not a graph of DGL, or one with several types.
        ValueError: no such weights, or weights of another shape, negative, infinite or NaN.
    """
    if not getattr(graph, "is_homogeneous", False):
        raise TypeError(
            "`graph` must be a graph of DGL with one type of nodes and edges, got "
            f"{type(graph).__name__}: call dgl.to_homogeneous on one with several."
        )
    if weight is not None and weight not in graph.edata:
        raise _missing(weight, "graph.edata", graph.edata)
    weights = None if weight is None else graph.edata[weight]
    return Graph.from_edge_index(torch.stack(graph.edges()), weights, num_nodes=graph.num_nodes())


def _missing(weight: str, place: str, names: Any) -> ValueError:
    return ValueError(
        f"`weight` must name weights in `{place}`, got {weight!r}, and there are "
        f"{', '.join(sorted(map(str, names))) or 'none'}: pass one of these, or weight=None."
    )
