"""The graph head spreads labels by any equation, trains through it, and says where it cannot."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from weft.graph import (
    WNLL,
    CenteredKernel,
    ClassMass,
    Laplace,
    Laplacian,
    NearestLabel,
    PageRank,
    PLaplace,
    Poisson,
    PoissonReweighted,
    ProperlyWeighted,
    Spreading,
)
from weft.heads import Batches, GraphClassifier, GraphHead, Queries, Whole, abstention, predict

EQUATIONS = [
    Laplace(tau=0.05),
    Laplace(tau=0.05, laplacian=Laplacian.SYMMETRIC),
    Laplace(reweighting=WNLL()),
    Laplace(reweighting=ProperlyWeighted()),
    Laplace(reweighting=PoissonReweighted()),
    Spreading(),
    PageRank(),
    Poisson(),
    CenteredKernel(),
    PLaplace(3.0, tau=0.01),
]
each_equation = pytest.mark.parametrize("equation", EQUATIONS, ids=str)
CLASSES, ROWS = 3, 60
LABELS = torch.arange(ROWS) % CLASSES
PARTIAL = torch.where(torch.arange(ROWS) < 24, LABELS, -1)


def features(noise=0.25):
    generator = torch.Generator().manual_seed(0)
    return torch.eye(CLASSES, 6)[LABELS] + noise * torch.randn(ROWS, 6, generator=generator)


def test_the_default_is_laplace_learning_with_the_decay_it_always_had():
    assert GraphHead(3).equation == Laplace(0.01)
    assert GraphHead(3, tau=0.3).equation == Laplace(0.3)
    ours = GraphHead(CLASSES, 8, tau=0.2)(features(), PARTIAL)
    same = GraphHead(CLASSES, 8, equation=Laplace(0.2))(features(), PARTIAL)
    assert torch.equal(ours, same)


@each_equation
def test_logits_are_those_of_probabilities_and_find_the_classes(equation):
    logits = GraphHead(CLASSES, 8, equation=equation)(features(), PARTIAL)
    assert logits.isfinite().all()
    assert (logits.exp().sum(1) < 1.2).all()
    assert (logits.argmax(1) == LABELS)[PARTIAL < 0].float().mean() > 0.9
    if equation.signed:
        torch.testing.assert_close(abstention(logits), torch.zeros(ROWS), rtol=0, atol=1e-5)


@each_equation
def test_a_backbone_trains_through_the_equation(equation):
    torch.manual_seed(0)
    backbone = nn.Linear(6, 4)
    head = GraphHead(CLASSES, 8, equation=equation)
    optimizer = torch.optim.Adam(backbone.parameters(), lr=0.03)
    losses = []
    for _ in range(12):
        logits = head(backbone(features(0.6)), PARTIAL)
        loss = F.cross_entropy(logits[PARTIAL < 0], LABELS[PARTIAL < 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@each_equation
def test_a_classifier_predicts_in_every_context(equation):
    inputs = features()
    head = GraphHead(CLASSES, 8, equation=equation)
    model = GraphClassifier(nn.Identity(), head, inputs[:30], LABELS[:30])
    for context in (Whole(), Batches(10), Queries()):
        prediction = predict(model, inputs[30:], context)
        assert (prediction.probabilities.argmax(1) == LABELS[30:]).float().mean() > 0.8
        torch.testing.assert_close(prediction.probabilities.sum(1), torch.ones(30))


@pytest.mark.parametrize("equation", [Poisson(), Laplace(0.1, fidelity=1.0)], ids=str)
def test_what_only_laplace_learning_has_is_refused_with_others(equation):
    inputs = features()
    head = GraphHead(CLASSES, 8, equation=equation)
    model = GraphClassifier(nn.Identity(), head, inputs[:30], LABELS[:30])
    for ask in (
        lambda: model.explain(inputs[30:]),
        lambda: model.explain(inputs[30:], alone=True),
        lambda: predict(model, inputs[30:], Queries(exact=True)),
    ):
        with pytest.raises(ValueError, match=r"need the equation Laplace\(tau\) alone, got a head"):
            ask()


def test_class_masses_of_any_equation_may_be_corrected():
    masses = [
        GraphHead(CLASSES, 8, equation=Poisson(), normalization=how)
        .scores(features(), torch.where(torch.arange(ROWS) < 4, LABELS, -1))[4:]
        .mean(0)
        for how in (None, ClassMass())
    ]
    shares = torch.tensor([0.5, 0.25, 0.25])  # of the four labels
    assert (masses[1] - shares).abs().max() < (masses[0] - shares).abs().max()


def test_an_equation_without_gradient_predicts_but_does_not_train():
    head = GraphHead(CLASSES, 8, equation=NearestLabel())
    with torch.no_grad():
        assert (head(features(), PARTIAL).argmax(1) == LABELS).float().mean() > 0.9
    with pytest.raises(TypeError, match="NearestLabel has no gradient"):
        head(features().requires_grad_(), PARTIAL)


def test_a_decay_beside_an_equation_is_refused():
    with pytest.raises(ValueError, match="`tau` is the decay of the default equation, got"):
        GraphHead(3, equation=Poisson(), tau=0.1)


def test_the_equation_shows_in_the_printout():
    assert "equation=Spreading(alpha=0.9)" in str(GraphHead(3, equation=Spreading(0.9)))
