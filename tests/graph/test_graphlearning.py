"""On one weight matrix, the scores are those of the GraphLearning package (Calder), version 1.7.5.

Its stored numbers are compared always; where the package is installed they are made anew. What is
not compared, since we differ on purpose: its `plaplace` is the game-theoretic operator, not the
variational one; its random-walk Laplace learning runs conjugate gradients on a matrix that is not
symmetric; its sparse label propagation takes twice the primal step that converges; its `spectral`
Poisson solver keeps a few eigenvectors only; its `volume_mbo` and `multiclass_mbo` are other
schemes.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.testing import assert_close

from weft.graph import (
    WNLL,
    CenteredKernel,
    Graph,
    Laplace,
    Laplacian,
    NearestLabel,
    PageRank,
    Poisson,
    PoissonMBO,
    PoissonReweighted,
    ProperlyWeighted,
    Spreading,
    VolumeConstraint,
)

from .graphlearning_scores import CLASSES, KNOWN, LABELS, NODES, PRIORS, peer_scores, problem

STORED = json.loads(Path(__file__).with_name("graphlearning_scores.json").read_text())

POINTS, WEIGHTS = problem()
GRAPH = Graph.from_scipy(sparse.csr_array(WEIGHTS))
ONE_HOT = torch.eye(CLASSES, dtype=torch.float64)[LABELS]
MASK = torch.zeros(NODES, dtype=torch.bool)
MASK[KNOWN] = True


def centered_level():
    """Its level: 1.05 times the largest eigenvalue of the centred weights."""
    centring = np.eye(NODES) - 1 / NODES
    return 1.05 * np.linalg.eigvalsh(centring @ WEIGHTS @ centring)[-1]


def scores(equation, scale=1.0):
    return scale * equation(GRAPH, ONE_HOT, MASK, points=torch.from_numpy(POINTS))


def volumes(equation):
    constraint = VolumeConstraint(tuple(PRIORS))
    return constraint(scores(equation), ONE_HOT * MASK[:, None], MASK, 1).argmax(1).double()


def page_rank():
    everyone = torch.ones(NODES, dtype=torch.bool)
    return PageRank(0.85)(GRAPH, torch.ones(NODES, 1).double(), everyone).squeeze(1)


OURS = {
    "laplace": lambda: scores(Laplace()),
    "decay": lambda: scores(Laplace(tau=0.1)),
    "symmetric": lambda: scores(Laplace(tau=0.1, laplacian=Laplacian.SYMMETRIC)),
    "wnll": lambda: scores(Laplace(reweighting=WNLL())),
    "properly": lambda: scores(Laplace(reweighting=ProperlyWeighted())),
    "poisson_reweighted": lambda: scores(Laplace(reweighting=PoissonReweighted())),
    "poisson": lambda: scores(Poisson()),
    "spreading": lambda: scores(Spreading(0.9), scale=10.0),  # it leaves 1 - alpha out
    "centered": lambda: scores(CenteredKernel(centered_level())),
    "nearest": lambda: scores(NearestLabel(torch.clone)),
    "mbo": lambda: scores(PoissonMBO(VolumeConstraint(tuple(PRIORS)))),
    "laplace_volumes": lambda: volumes(Laplace()),
    "poisson_volumes": lambda: volumes(Poisson()),
    "page_rank": page_rank,
}

# As far as it converges: its lazy walks stop at 1e-6 and psi at 1e-5.
LOOSE = {"spreading": 1e-6, "poisson_reweighted": 1e-6}


@pytest.mark.parametrize("name", OURS)
def test_scores_are_those_stored_from_the_package(name):
    stored = torch.tensor(STORED[name], dtype=torch.float64)
    assert_close(OURS[name](), stored, rtol=0, atol=LOOSE.get(name, 1e-10))


def test_the_package_still_gives_the_stored_scores():
    pytest.importorskip("graphlearning", reason="GraphLearning is not installed")
    for name, fresh in peer_scores().items():
        fresh, stored = np.asarray(fresh), np.asarray(STORED[name])
        np.testing.assert_allclose(fresh, stored, rtol=0, atol=1e-8, err_msg=name)
