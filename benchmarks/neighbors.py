"""Certainly exact neighbours cost about as much as unchecked ones, where those are right.

weft's search certifies the k nearest of each row, and which is the k-th. Others compute in float32
and believe it, which goes wrong in tight clusters, as a trained network makes them; there weft
computes again in float64 and takes two to three times as long. `wrong rows` counts the rows whose
set of k, or whose k-th, is not the one that weft finds for the same features in float64.
faiss is the flat index, scikit-learn the brute search; what is not installed is skipped.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import torch
from _measure import argument_parser, interleave, store
from torch import Tensor
from torch.nn.functional import normalize

from weft.graph import ExactNeighbors

K = 25
WIDTH = 128
CLUSTERS = 10

Search = Callable[[Tensor], Tensor]
"""Maps features (n, d) to the indices of the k nearest other rows, (n, k), nearest first."""


def weft(features: Tensor) -> Tensor:
    return ExactNeighbors()(features, K)


def cdist_topk(features: Tensor) -> Tensor:
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    return distances.topk(K, largest=False).indices


def libraries() -> dict[str, Search]:
    """Return the searches of the libraries that are installed."""
    found: dict[str, Search] = {}
    try:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        found["faiss"] = lambda x: torch.from_numpy(faiss.knn(x.numpy(), x.numpy(), K + 1)[1])
    except ImportError as error:
        print(f"faiss skipped: {error}")
    try:
        from sklearn.neighbors import NearestNeighbors

        def search(features: Tensor) -> Tensor:
            index = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(features.numpy())
            return torch.from_numpy(index.kneighbors(return_distance=False))

        found["scikit-learn"] = search
    except ImportError as error:
        print(f"scikit-learn skipped: {error}")
    return found


def drop_self(found: Tensor) -> Tensor:
    """Remove a row's own index where a library lists it."""
    if found.shape[1] == K:
        return found
    own = found == torch.arange(len(found))[:, None]
    own[:, -1] |= ~own.any(1)
    return found[~own].view(len(found), K)


def compare(num_nodes: int, spread: float, rounds: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLUSTERS, WIDTH, generator=generator)
    noise = torch.randn(num_nodes, WIDTH, generator=generator)
    features = normalize(centres[torch.arange(num_nodes) % CLUSTERS] + spread * noise)
    exact = ExactNeighbors()(features.double(), K)
    searches: dict[str, Search] = {"weft": weft, "cdist and topk": cdist_topk, **libraries()}
    timings = interleave(
        {name: partial(search, features) for name, search in searches.items()}, rounds=rounds
    )
    print(f"\nn = {num_nodes}, spread {spread}\n{'':18}{'ms':>10}{'ratio':>8}{'wrong rows':>12}")
    rows = {}
    for name, search in searches.items():
        found = drop_self(search(features))
        same_set = (found.sort(1).values == exact.sort(1).values).all(1)
        wrong = int((~(same_set & (found[:, -1] == exact[:, -1]))).sum())
        ratio = timings[name].wall / timings["weft"].wall
        print(f"{name:18}{timings[name].wall * 1e3:10.1f}{ratio:8.2f}{wrong:12}")
        rows[name] = {**asdict(timings[name]), "ratio": ratio, "wrong_rows": wrong}
    return {"n": num_nodes, "spread": spread, "methods": rows}


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    sizes, rounds = ((300,), 2) if arguments.quick else ((1_500, 5_000, 20_000), 11)
    result = [compare(size, spread, rounds) for size in sizes for spread in (1.0, 0.01)]
    store("neighbors", {"k": K, "width": WIDTH, "cases": result}, arguments)


if __name__ == "__main__":
    main()
