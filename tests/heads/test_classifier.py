import copy
import pickle
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from weft.heads import GraphClassifier, GraphHead, Queries, Whole, predict


@pytest.fixture
def samples():
    """Forty points in three overlapping groups, and their class numbers."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(40) % 3
    return torch.eye(3, 6)[labels] + 0.3 * torch.randn(40, 6, generator=generator), labels


def make(samples, tau=0.01, **options):
    """A small classifier whose anchors are the first 12 samples."""
    inputs, labels = samples
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    return GraphClassifier(
        backbone, GraphHead(3, k=5, tau=tau), inputs[:12], labels[:12], **options
    )


def test_layers_frozen_on_purpose_stay_frozen_when_a_memory_bank_is_refreshed(samples):
    model = make(samples, memory_bank=True).train()
    model.backbone[1].eval()
    model.refresh_bank()
    assert [part.training for part in model.backbone] == [True, False, True, True]


def test_frozen_anchor_features_are_kept_while_nothing_changes(samples):
    model = make(samples).eval()
    first = model.anchor_features()
    model(samples[0])
    model.train().eval()
    assert model.anchor_features() is first
    assert not first.requires_grad


def change_a_weight(model):
    with torch.no_grad():
        model.backbone[0].weight.mul_(1.5)


def step(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(model.anchor_inputs + 0.1)[:, 0].sum().backward()
    optimizer.step()


def run_in_training_mode(model):
    with torch.no_grad():
        model.train()(model.anchor_inputs + 1.0)  # moves the statistics of the batch norm
    model.eval()


def load_state(model):
    model.load_state_dict({name: value * 2 for name, value in model.state_dict().items()})


def load_part_of_the_state(model):
    load_state(model.backbone)


def assign_state(model):
    state = {name: value * 2 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def replace_a_layer(model):
    model.backbone[3] = nn.Linear(8, 4)


def replace_anchors(model):
    model.set_anchors(model.anchor_inputs + 0.5, model.anchor_labels)


@pytest.mark.parametrize(
    "change",
    [
        change_a_weight,
        step,
        run_in_training_mode,
        load_state,
        load_part_of_the_state,
        assign_state,
        replace_a_layer,
        replace_anchors,
    ],
)
def test_frozen_anchor_features_are_encoded_anew_after_a_change(samples, change):
    model = make(samples).eval()
    stale = model.anchor_features()
    change(model)
    with torch.no_grad():
        expected = model.backbone(model.anchor_inputs)
    assert not torch.equal(expected, stale)
    torch.testing.assert_close(model.anchor_features(), expected)


def test_an_average_of_weights_that_stays_in_evaluation_mode_sees_each_update(samples):
    model = make(samples)
    averaged = torch.optim.swa_utils.AveragedModel(model).eval()
    for _ in range(2):
        change_a_weight(model)
        averaged.update_parameters(model)
        expected = averaged.module.backbone(model.anchor_inputs)
        averaged(samples[0])
        torch.testing.assert_close(averaged.module.anchor_features(), expected.detach())


def test_frozen_anchor_features_move_with_the_model(samples):
    model = make(samples).eval()
    model(samples[0])
    assert model.to("meta").anchor_features().device.type == "meta"


def test_a_model_made_for_inference_keeps_its_anchor_features_too(samples):
    with torch.inference_mode():
        model = make(samples).eval()
        assert model.anchor_features() is model.anchor_features()


@pytest.mark.parametrize("alone", [True, False])
def test_explaining_in_training_mode_explains_the_evaluation_and_changes_nothing(samples, alone):
    model = make(samples).eval()
    expected = model.explain(samples[0], alone=alone)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.testing.assert_close(model.train().explain(samples[0], alone=alone), expected)
    torch.testing.assert_close(dict(model.state_dict()), before)
    assert all(part.training for part in model.modules())


def test_anchor_labels_may_be_unsigned(samples):
    inputs, labels = samples
    expected = make(samples)(inputs)
    torch.testing.assert_close(make((inputs, labels.to(torch.uint8)))(inputs), expected)


def test_a_memory_bank_does_not_outlive_the_anchors_it_was_made_of(samples):
    model, other = make(samples, memory_bank=True), make(samples)
    model(samples[0])
    other.set_anchors(samples[0][:20], samples[1][:20])
    model.load_state_dict(other.state_dict())
    assert len(model.anchor_features()) == 20


# Training mode


def test_in_training_anchors_and_batch_pass_the_backbone_together(samples):
    model, (inputs, labels) = make(samples).train(), samples
    twin = make(samples).train()
    features = twin.backbone(torch.cat([inputs[:12], inputs[12:]]))
    known = torch.cat([labels[:12], torch.full((28,), -1)])
    torch.testing.assert_close(model(inputs[12:]), model.head(features, known)[12:])
    # One pass: the running mean moved once, towards that of anchors and batch.
    torch.testing.assert_close(model.backbone[1].running_mean, twin.backbone[1].running_mean)
    assert model.backbone[1].num_batches_tracked == 1


def loss_of(model, samples):
    inputs, labels = samples
    return F.nll_loss(model(inputs[12:]), labels[12:])


def test_gradients_reach_the_backbone_through_anchors_and_batch(samples):
    """Both ways have a share, and together they are the whole gradient."""
    inputs, labels = samples
    torch.manual_seed(0)
    backbone = nn.Linear(6, 4).double()
    head = GraphHead(3, k=5)
    model = GraphClassifier(backbone, head, inputs[:12].double(), labels[:12])
    loss_of(model, (inputs.double(), labels)).backward()

    def encode(through):
        """Let the gradient pass through one part only."""
        parts = backbone(inputs[:12].double()), backbone(inputs[12:].double())
        return torch.cat(
            [part if on else part.detach() for part, on in zip(parts, through, strict=True)]
        )

    shares = []
    for through in ((True, False), (False, True)):
        out = head(encode(through), torch.cat([labels[:12], torch.full((28,), -1)]))
        (share,) = torch.autograd.grad(F.nll_loss(out[12:], labels[12:]), backbone.weight)
        shares.append(share)
    assert min(share.norm() / backbone.weight.grad.norm() for share in shares) > 0.1
    torch.testing.assert_close(sum(shares), backbone.weight.grad)


def test_the_whole_classifier_has_exact_gradients_in_both_modes(samples):
    inputs = samples[0].double()
    for mode in (True, False):
        model = make((inputs, samples[1])).double().train(mode)
        model.backbone[1].momentum = 0.0  # gradcheck calls it again and again
        queries = inputs[12:16].clone().requires_grad_()
        assert torch.autograd.gradcheck(model, queries)


def test_a_few_steps_lower_the_loss(samples):
    model = make(samples).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    before = loss_of(model, samples).item()
    for _ in range(15):
        optimizer.zero_grad()
        loss_of(model, samples).backward()
        optimizer.step()
    assert loss_of(model, samples).item() < 0.6 * before


# Evaluation mode


def test_in_evaluation_frozen_anchors_and_batch_are_one_graph(samples):
    model, (inputs, labels) = make(samples).eval(), samples
    known = torch.cat([labels[:12], torch.full((28,), -1)])
    expected = model.head(model.backbone(inputs), known)[12:]
    torch.testing.assert_close(model(inputs[12:]), expected)


def test_an_attack_in_evaluation_gets_gradients_of_inputs(samples):
    model = make(samples).eval()
    with torch.inference_mode():
        model(samples[0])  # features kept from here are no obstacle
    queries = samples[0][12:].clone().requires_grad_()
    model(queries)[:, 0].sum().backward()
    assert (queries.grad.norm(dim=1) > 0).all()


def test_a_batch_without_inputs_gives_no_rows(samples):
    for mode in (True, False):
        assert make(samples).train(mode)(samples[0][:0]).shape == (0, 3)


def test_an_anchor_may_be_unlabelled(samples):
    inputs, labels = samples
    labels = torch.where(torch.arange(40) % 2 == 0, labels, -1)
    model = make((inputs, labels)).eval()
    weights = model.explain(inputs[12:])
    assert (weights[:, labels[:12] < 0] == 0).all()
    assert (model.explain(inputs[12:], alone=True)[:, labels[:12] < 0] == 0).all()
    fewer = make((inputs, labels)).eval()
    fewer.set_anchors(inputs[:12][labels[:12] >= 0], labels[:12][labels[:12] >= 0])
    assert (model(inputs[12:]) - fewer(inputs[12:])).abs().max() > 1e-3  # it takes part


# Memory bank


def test_a_memory_bank_gives_anchors_no_gradient_and_leaves_the_batch_norm_alone(samples):
    model = make(samples, memory_bank=True).train()
    anchors = model.anchor_inputs.requires_grad_()
    loss_of(model, samples).backward()
    assert anchors.grad is None
    assert model.backbone[0].weight.grad.norm() > 0
    twin = make(samples).train()
    twin.backbone(samples[0][12:])  # the batch alone
    torch.testing.assert_close(model.backbone[1].running_mean, twin.backbone[1].running_mean)


def test_a_memory_bank_lags_until_it_is_refreshed(samples):
    model = make(samples, memory_bank=True).train()
    step(model)
    bank = model.anchor_features()
    step(model)
    assert model.anchor_features() is bank
    model.refresh_bank()
    assert not torch.equal(model.anchor_features(), bank)
    with evaluated(model):
        torch.testing.assert_close(model.anchor_features(), model.backbone(model.anchor_inputs))


def test_evaluation_does_not_use_a_bank_that_lags(samples):
    model = make(samples, memory_bank=True).train()
    step(model)
    step(model)
    with evaluated(model):
        torch.testing.assert_close(model.anchor_features(), model.backbone(model.anchor_inputs))


@contextmanager
def evaluated(model):
    model.eval()
    with torch.no_grad():
        yield


# State


def test_the_state_restores_the_predictions_of_another_number_of_anchors(samples):
    model, other = make(samples).eval(), make(samples).eval()
    load_state(model)
    model.set_anchors(samples[0][:20], samples[1][:20])
    other(samples[0])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.anchor_labels, samples[1][:20])
    torch.testing.assert_close(other(samples[0]), model(samples[0]))


def test_the_state_holds_weights_and_anchors_and_no_features(samples):
    model = make(samples).eval()
    model(samples[0])
    own = [name for name in model.state_dict() if not name.startswith("backbone.")]
    assert own == ["anchor_inputs", "anchor_labels"]


def test_a_state_without_anchors_keeps_those_there_are(samples):
    model = make(samples)
    state = {name: it for name, it in model.state_dict().items() if "anchor" not in name}
    missing, _ = model.load_state_dict(state, strict=False)
    assert missing == ["anchor_inputs", "anchor_labels"]
    assert torch.equal(model.anchor_inputs, samples[0][:12])


def test_a_copy_and_a_pickle_predict_the_same(samples):
    model = make(samples).eval()
    expected = model(samples[0])
    torch.testing.assert_close(copy.deepcopy(model)(samples[0]), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(samples[0]), expected)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.ones(4, 6), torch.zeros(3).long(), r"must have one entry per anchor, got shapes"),
        (torch.ones(4, 6), torch.zeros(4, 1).long(), r"must have one entry per anchor, got shapes"),
        (torch.ones(4, 6), torch.zeros(4), r"must be class numbers with at least one label"),
        (torch.ones(4, 6), torch.full((4,), -1), r"must be class numbers with at least one label"),
    ],
)
def test_rejects_anchors_that_say_nothing(samples, inputs, labels, message):
    with pytest.raises(ValueError, match=message):
        make(samples).set_anchors(inputs, labels)


# Explanations


@pytest.mark.parametrize("tau", [0.0, 0.1])
@pytest.mark.parametrize("alone", [True, False])
def test_explanations_reproduce_the_prediction(samples, alone, tau):
    inputs, labels = samples
    labels = torch.where(torch.arange(40) % 4 == 0, -1, labels)
    model = make((inputs, labels), tau=tau).double().eval()
    queries = inputs[12:].double()
    weights = model.explain(queries, alone=alone)
    context = Queries(exact=True) if alone else Whole()
    prediction = predict(model, queries, context)
    assert (weights >= -1e-12).all()
    torch.testing.assert_close(weights.sum(1), 1 - prediction.abstention, atol=4e-6, rtol=0)
    one_hot = F.one_hot(labels[:12].clamp_min(0), 3).double()
    spread = weights @ one_hot
    spread = spread / spread.sum(1, keepdim=True)
    torch.testing.assert_close(spread, prediction.probabilities, atol=1e-5, rtol=0)


@pytest.mark.parametrize("alone", [True, False])
def test_another_label_moves_the_scores_by_its_weight(samples, alone):
    inputs, labels = samples
    model = make(samples, tau=0.05).double().eval()
    queries = inputs[12:].double()
    weights, before = model.explain(queries, alone=alone), scores(model, queries, alone)
    for anchor in range(3):
        changed = labels[:12].clone()
        changed[anchor] = (labels[anchor] + 1) % 3
        model.set_anchors(inputs[:12].double(), changed)
        moved = scores(model, queries, alone) - before
        torch.testing.assert_close(moved[:, changed[anchor]], weights[:, anchor])
        torch.testing.assert_close(moved[:, labels[anchor]], -weights[:, anchor])


@pytest.mark.parametrize("tau", [0.0, 0.1])
def test_without_a_label_its_weight_goes_where_the_walk_goes_on(samples, tau):
    """A walk that met the label now goes on from there: u' = sum of the others + weight u'_j."""
    inputs, labels = samples
    model = make(samples, tau=tau).double().eval()
    features, known = (
        model.backbone(inputs.double()),
        torch.where(torch.arange(40) < 12, labels, -1),
    )
    weights = model.explain(inputs[12:].double())
    one_hot = F.one_hot(labels[:12], 3).double()
    for anchor in range(3):
        removed = known.clone()
        removed[anchor] = -1
        solved = model.head.scores(features, removed)
        others = weights.clone()
        others[:, anchor] = 0
        expected = others @ one_hot + weights[:, anchor, None] * solved[anchor]
        torch.testing.assert_close(solved[12:], expected)


def scores(model, queries, alone):
    """Scores in evaluation mode, before the logarithm."""
    if alone:
        return model.freeze().query(model.head.prepare(model.encode(queries)), exact=True)
    features, labels = model.join(queries)
    return model.head.scores(features, labels)[len(model.anchor_labels) :]
