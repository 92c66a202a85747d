"""A small problem, and what the GraphLearning package (Calder), version 1.7.5, makes of it.

Needs that package and its own dependencies only. What is stored beside this file was made by

    python tests/graph/graphlearning_scores.py > tests/graph/graphlearning_scores.json
"""

import json
import sys

import numpy as np
from scipy import sparse

NODES, CLASSES, TOLERANCE = 24, 3, 1e-12
LABELS = np.arange(NODES) % CLASSES
KNOWN = np.array([0, 3, 1, 2, 8])  # two labels, one, and two
PRIORS = np.array([0.25, 0.25, 0.5])


def problem():
    """Points in three overlapping groups, and weights of their five nearest neighbours."""
    generator = np.random.default_rng(0)
    points = np.eye(CLASSES)[LABELS] + 0.45 * generator.standard_normal((NODES, CLASSES))
    squared = ((points[:, None] - points[None]) ** 2).sum(2)
    kth = np.sort(squared, axis=1)[:, 5]
    weights = np.exp(-2 * squared / np.sqrt(kth[:, None] * kth[None]))
    near = squared <= np.maximum(kth[:, None], kth[None])
    np.fill_diagonal(near, False)
    return points, np.where(near, weights, 0.0)


def peer_scores():
    """The scores of the package, by our names of the methods."""
    import graphlearning as gl

    points, weights = problem()
    matrix = sparse.csr_matrix(weights)
    np.random.seed(0)  # noqa: NPY002 (its power iteration starts there)

    def fit(model):
        return model.fit(KNOWN, LABELS[KNOWN])

    def predict(model):
        return model.fit_predict(KNOWN, LABELS[KNOWN])

    ssl = gl.ssl
    exact = {"tol": TOLERANCE}
    found = {
        "laplace": fit(ssl.laplace(matrix, **exact)),
        "decay": fit(ssl.laplace(matrix, tau=0.1, **exact)),
        "symmetric": fit(ssl.laplace(matrix, normalization="normalized", tau=0.1, **exact)),
        "wnll": fit(ssl.laplace(matrix, reweighting="wnll", **exact)),
        "properly": fit(ssl.laplace(matrix, X=points, reweighting="properly", **exact)),
        "poisson_reweighted": fit(ssl.laplace(matrix, reweighting="poisson", **exact)),
        "poisson": fit(ssl.poisson(matrix, **exact)),
        "spreading": fit(ssl.randomwalk(matrix, alpha=0.9)),
        "centered": fit(ssl.centered_kernel(matrix, power_it=2000, tol=1e-14)),
        "nearest": fit(ssl.graph_nearest_neighbor(matrix)),
        "mbo": fit(ssl.poisson_mbo(matrix, PRIORS, **exact)),
        "laplace_volumes": predict(ssl.laplace(matrix, PRIORS, **exact)),
        "poisson_volumes": predict(ssl.poisson(matrix, PRIORS, **exact)),
        "page_rank": gl.graph(matrix).page_rank(alpha=0.85, tol=1e-15),
    }
    return {name: np.asarray(scores).tolist() for name, scores in found.items()}


if __name__ == "__main__":
    json.dump(peer_scores(), sys.stdout)
    print()
