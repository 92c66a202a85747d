import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from weft.heads import GraphClassifier, GraphHead
from weft.logits import (
    ISDA,
    LDAM,
    LPL,
    BySize,
    ClassMargin,
    ClassStats,
    Compose,
    GaussianCloud,
    LabelSmoothing,
    LogitAdjustment,
    MultiLabelLPL,
    NegativeTolerance,
    PriorShift,
    VectorScaling,
    loss_variation,
)

SEEDS = st.integers(0, 2**31)


@given(seed=SEEDS)
def test_each_part_sees_what_those_before_it_did(case, seed):
    example = case(seed)
    adjusted, lpl = LogitAdjustment(ClassStats(example.counts)), LPL(ClassStats(example.counts))
    both = Compose(adjusted, lpl)
    expected = lpl(adjusted(example.logits, example.targets), example.targets)
    assert_close(both(example.logits, example.targets), expected)


def test_any_function_of_logits_and_targets_is_a_part(case):
    example = case(0, 4, 6)
    doubled = Compose(lambda logits, targets: 2 * logits, LogitAdjustment(ClassStats([1, 1, 1, 1])))
    expected = 2 * example.logits - torch.log(torch.tensor(4.0)).double()
    assert_close(doubled(example.logits, example.targets), expected)


def test_no_part_changes_nothing(case):
    example = case(0, 4, 6)
    assert Compose()(example.logits, example.targets) is example.logits


def test_the_state_of_the_parts_is_in_the_state(case):
    def make(counts):
        return Compose(LogitAdjustment(ClassStats(counts)), LPL(ClassStats(counts)))

    example = case(1, 4, 9)
    first, second = make([9, 5, 3, 1]), make([1, 1, 1, 1])
    second.load_state_dict(first.state_dict())
    assert_close(second(example.logits, example.targets), first(example.logits, example.targets))


@given(seed=SEEDS)
def test_the_variation_has_the_sign_of_the_bound(case, seed):
    example = case(seed)
    perturbation = ClassMargin(ClassStats(example.counts), BySize(delta_epsilon=2))
    variation = loss_variation(perturbation, example.logits, example.targets)
    absent = example.targets.bincount(minlength=len(example.counts)) == 0
    assert variation[absent].isnan().all()
    seen = ~absent
    assert torch.equal(variation[seen].sign(), perturbation.fixed[seen].sign())


def test_the_variation_is_relative_to_the_loss_of_the_class():
    logits = torch.zeros(3, 2)
    targets = torch.tensor([0, 0, 1])

    def perturbation(logits, targets):
        return logits * 0 + torch.tensor([1.0, 0.0])

    found = loss_variation(perturbation, logits, targets)
    before = torch.tensor(2.0).log()
    after = F.cross_entropy(
        perturbation(logits, targets), torch.tensor([0, 0, 1]), reduction="none"
    )
    assert_close(found, (after[[0, 2]] - before) / before)
    rows = F.one_hot(targets, 2).float()
    assert_close(loss_variation(perturbation, logits, rows), found)
    shares = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.0, 1.0]])
    losses = torch.stack(
        [
            F.cross_entropy(run, shares, reduction="none")
            for run in (logits, perturbation(logits, targets))
        ]
    )
    before_by_class, after_by_class = losses @ shares  # a sample counts by its share
    variation = loss_variation(perturbation, logits, shares)
    assert_close(variation, (after_by_class - before_by_class) / before_by_class)
    by_label = loss_variation(perturbation, logits, rows, loss=F.binary_cross_entropy_with_logits)
    positive, negative = F.softplus(torch.tensor([-1.0, 1.0]))
    assert_close(by_label[0], (2 * positive + negative - 3 * before) / (3 * before))
    assert_close(by_label[1], torch.tensor(0.0))


@pytest.mark.parametrize("make", [LogitAdjustment, VectorScaling, ClassMargin, LPL])
def test_the_log_probabilities_of_a_graph_head_are_logits(make):
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(60) % 3
    inputs = torch.randn(60, 6, generator=generator) + 2 * F.one_hot(classes, 6)
    backbone = torch.nn.Linear(6, 4)
    model = GraphClassifier(backbone, GraphHead(num_classes=3, k=8), inputs[:15], classes[:15])
    perturbation = make(ClassStats([30, 20, 10]))
    loss = F.cross_entropy(perturbation(model(inputs[15:]), classes[15:]), classes[15:])
    loss.backward()
    assert loss.isfinite()
    assert backbone.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("make", [LogitAdjustment, VectorScaling, ClassMargin, LPL])
@pytest.mark.parametrize("soft", [False, True])
def test_a_compiled_step_has_no_break_in_its_graph(case, make, soft):
    example = case(3, 5, 12)
    targets = F.one_hot(example.targets, 5).double() if soft else example.targets
    perturbation = make(ClassStats(example.counts))

    def loss(logits):
        return F.cross_entropy(perturbation(logits, targets), targets)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    logits = example.logits.requires_grad_()
    assert_close(compiled(logits), loss(logits))
    (found,) = torch.autograd.grad(compiled(logits), logits)
    assert_close(found, torch.autograd.grad(loss(logits), logits)[0])


class _Trainer:
    """What training frameworks do: they own the loop and take the loss as a function."""

    def __init__(self, model, loss):
        self.model, self.loss, self.seen = model, loss, None
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def fit(self, inputs, targets):
        for _ in range(3):
            self.seen = self.loss(self.model(inputs), targets)
            self.optimizer.zero_grad()
            self.seen.backward()
            self.optimizer.step()


@pytest.mark.parametrize("loss", [F.cross_entropy, F.multi_margin_loss])
def test_any_loop_that_takes_a_loss_function_takes_a_perturbed_one(loss):
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(30, 5, generator=generator), torch.arange(30) % 3
    perturb = Compose(LogitAdjustment(ClassStats([20, 7, 3])), LPL(ClassStats([20, 7, 3])))
    torch.manual_seed(0)
    plain = _Trainer(torch.nn.Linear(5, 3), loss)
    torch.manual_seed(0)
    perturbed = _Trainer(torch.nn.Linear(5, 3), lambda u, y: loss(perturb(u, y), y))
    plain.fit(inputs, targets)
    perturbed.fit(inputs, targets)
    assert perturbed.seen.isfinite()
    assert not torch.equal(perturbed.model.weight, plain.model.weight)


def test_no_perturbation_has_parameters_that_a_weight_decay_could_reach():
    stats, labels = ClassStats([5, 3]), ClassStats([5, 3], num_samples=9)
    generator = torch.Generator()
    for perturbation in (
        Compose(LogitAdjustment(stats), LPL(stats)),
        *(make(stats) for make in (VectorScaling, ClassMargin, LDAM)),
        GaussianCloud(stats, generator=generator),
        *(make(labels) for make in (PriorShift, NegativeTolerance, MultiLabelLPL)),
        ISDA(torch.nn.Linear(4, 2)),
        LabelSmoothing(),
    ):
        assert list(perturbation.parameters()) == []
