"""Hooks at any layers give the loss of those layers, and leave the model as it is, or refuse."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from weft.heads import GraphClassifier, GraphHead
from weft.isometry import (
    AllPairs,
    Correlation,
    EveryFew,
    IsometryRegularizer,
    Reduction,
    SquaredError,
    WarmUp,
    WithinClass,
    flattened,
    isometry_loss,
    manhattan,
    pooled,
)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


INPUTS, LABELS = normal(0, 20, 4), torch.arange(20) % 3


class Wrapped(nn.Module):
    """A body whose forward is any function of it."""

    def __init__(self, body, run):
        super().__init__()
        self.body, self.run = body, run

    def forward(self, inputs):
        return self.run(self.body, inputs)


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def test_the_term_and_its_gradient_are_those_of_the_layers_by_hand():
    model, settings = perceptron(), {"discrepancy": SquaredError(2.0), "metric": manhattan}
    with IsometryRegularizer(
        model, {"1": 0.5, "3": 2.0}, reduction=Reduction.MATRIX, **settings
    ) as isometry:
        model(INPUTS)
        term = isometry(LABELS)
    first = model[:2](INPUTS)
    by_hand = sum(
        weight * isometry_loss(INPUTS, rows, LABELS, reduction=Reduction.MATRIX, **settings)
        for weight, rows in ((0.5, first), (2.0, model[2:4](first)))
    )
    assert_close(term, by_hand)
    for ours, theirs in zip(gradients(model, term), gradients(model, by_hand), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_close(ours, theirs)


def test_all_layers_are_compared_on_the_same_sample_of_pairs():
    model, rule = nn.Sequential(nn.Identity(), nn.Identity()), WithinClass(per_sample=1)
    generator = torch.Generator().manual_seed(0)
    with IsometryRegularizer(
        model, ["0", "1"], pairs=rule, metric=manhattan, generator=generator
    ) as isometry:
        model(INPUTS.clone().requires_grad_())
        one, other = isometry.losses(LABELS).values()
        model(INPUTS.clone().requires_grad_())
        again, _ = isometry.losses(LABELS).values()
    assert one == other
    assert one != again  # each loss draws anew


def test_names_alone_weigh_one_and_the_empty_name_is_the_models_output():
    model = perceptron()
    with IsometryRegularizer(model, [""]) as isometry:
        outputs = model(INPUTS)
        assert_close(isometry(LABELS), isometry_loss(INPUTS, outputs, LABELS))


def test_a_weight_may_grow_with_the_step():
    model, warm_up = perceptron(), WarmUp(8.0, steps=4)
    assert [warm_up(step) for step in range(6)] == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]
    with IsometryRegularizer(model, {"3": warm_up}) as isometry:
        model(INPUTS)
        first = isometry(LABELS, step=0)
        model(INPUTS)
        late = isometry(LABELS, step=9)
    assert_close(late, 4 * first)


def test_a_weight_may_be_gathered_in_every_few_steps():
    model, few = perceptron(), EveryFew(2.0, steps=3)
    assert [few(step) for step in range(5)] == [6.0, 0.0, 0.0, 6.0, 0.0]
    generator = torch.Generator().manual_seed(0)
    pairs = WithinClass(per_sample=1)
    with IsometryRegularizer(model, {"3": few}, pairs=pairs, generator=generator) as isometry:
        before = generator.get_state()
        model(INPUTS)
        loss = isometry(LABELS, step=1)
        assert loss == 0
        assert not loss.requires_grad
        assert torch.equal(generator.get_state(), before)  # nothing was drawn
        model(INPUTS)
        assert isometry(LABELS, step=3) > 0
        with pytest.raises(ValueError, match="a call of the model with gradient must come first"):
            isometry(LABELS, step=4)


def test_the_models_outputs_and_gradients_are_the_same_with_and_without_hooks():
    model = perceptron()
    plain = model(INPUTS)
    grads = gradients(model, plain.square().sum())
    with IsometryRegularizer(model, ["1", "3", ""]):
        hooked = model(INPUTS)
        hooked_grads = gradients(model, hooked.square().sum())
    assert torch.equal(plain, hooked)
    assert all(torch.equal(one, other) for one, other in zip(grads, hooked_grads, strict=True))


@pytest.mark.parametrize("leave", ["close", "exit", "error"])
def test_no_hook_is_left_behind(leave):
    model = perceptron()
    if leave == "close":
        IsometryRegularizer(model, ["1", ""]).close()
    elif leave == "exit":
        with IsometryRegularizer(model, ["1", ""]):
            pass
    else:
        with pytest.raises(KeyError), IsometryRegularizer(model, ["1", ""]):
            raise KeyError
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._forward_hooks_always_called


def test_copies_and_pickles_of_a_model_are_its_own_and_do_not_disturb_it():
    model = perceptron()
    names = list(model.state_dict())
    with IsometryRegularizer(model, ["1", ""]) as isometry:
        outputs = model(INPUTS)  # what hooks hold could not be copied
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        assert list(model.state_dict()) == names
        for other in copies:
            assert torch.equal(other(INPUTS + 1), model.forward(INPUTS + 1))
        model(INPUTS)
        assert_close(
            isometry.losses(LABELS)[""], isometry_loss(INPUTS, outputs, LABELS), rtol=0, atol=0
        )


@pytest.mark.parametrize("read", [flattened, pooled])
def test_maps_are_read_as_is_chosen(read):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 2))
    images = normal(1, 20, 1, 6, 6)
    maps = model[:2](images)
    by_hand = {
        flattened: isometry_loss(images, maps, LABELS),
        pooled: isometry_loss(images, maps.mean((2, 3)), LABELS),
    }
    with IsometryRegularizer(model, ["1"], read=read) as isometry:
        model(images)
        assert_close(isometry(LABELS), by_hand[read])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv1d(1, 2, 3), r"layer `0` must return rows \(n, d\), got shape \(20, 2, 2\)"),
        (nn.LSTM(4, 3), "layer `0` must return rows .*, got tuple: pass read=flattened"),
    ],
)
def test_what_is_no_rows_is_refused_without_a_choice(layer, message):
    model = Wrapped(nn.Sequential(layer), lambda body, inputs: body(inputs))
    inputs = INPUTS[:, None] if isinstance(layer, nn.Conv1d) else INPUTS
    with (
        IsometryRegularizer(model.body, ["0"]),
        pytest.raises(ValueError, match=message),
    ):
        model(inputs)


def test_a_function_picks_from_a_tuple():
    torch.manual_seed(0)
    model = nn.Sequential(nn.LSTM(4, 3))
    with IsometryRegularizer(model, ["0"], read=lambda output: output[0]) as isometry:
        output, _ = model(INPUTS)
        assert_close(isometry(LABELS), isometry_loss(INPUTS, output, LABELS))


def test_layers_that_work_in_place_afterwards_change_nothing():
    torch.manual_seed(0)
    body = [nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)]
    model = nn.Sequential(*body)
    with IsometryRegularizer(model, ["0"]) as isometry:
        model(INPUTS)
        term = isometry(LABELS)
    by_hand = isometry_loss(INPUTS, body[0](INPUTS), LABELS)
    assert_close(term, by_hand)
    assert_close(gradients(body[0], term), gradients(body[0], by_hand))


@pytest.mark.parametrize("whole", [True, False])
def test_checkpointed_layers_give_the_same_term_and_gradient_in_step_after_step(whole):
    model = perceptron()

    def run(body, inputs):
        if whole:
            return checkpoint(body, inputs, use_reentrant=False)
        hidden = checkpoint(body[:2], inputs, use_reentrant=False)
        return body[2:](hidden)

    wrapped = Wrapped(model, run)
    for _ in range(3):  # the backward runs layers again, between two steps
        with IsometryRegularizer(wrapped, ["body.1", "body.3"]) as isometry:
            for _ in range(2):
                loss = cross_entropy(wrapped(INPUTS), LABELS) + isometry(LABELS)
                ours = gradients(model, loss)
    with IsometryRegularizer(model, ["1", "3"]) as isometry:
        plain = cross_entropy(model(INPUTS), LABELS) + isometry(LABELS)
    assert_close(loss, plain)
    assert_close(ours, gradients(model, plain))


def test_reentrant_checkpoints_are_refused():
    def run(body, inputs):
        return checkpoint(body, inputs.clone().requires_grad_(), use_reentrant=True)

    model = Wrapped(perceptron(), run)
    for layers in (["body.1"], ["", "body.1"]):
        with IsometryRegularizer(model, layers) as isometry:
            model(INPUTS)
            with pytest.raises(
                ValueError, match=r"layer `body.1` must run once .* got 0 times.*re"
            ):
                isometry(LABELS)


def test_a_module_that_runs_twice_in_a_call_is_refused():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    with IsometryRegularizer(model, ["0"]) as isometry:
        model(INPUTS)
        with pytest.raises(ValueError, match=r"layer `0` must run once .* got 2 times: choose"):
            isometry(LABELS)


def test_only_the_last_call_with_gradient_counts():
    model = perceptron()
    with IsometryRegularizer(model, ["1"]) as isometry:
        model(INPUTS + 1)
        model(INPUTS)
        with torch.no_grad():
            model(INPUTS[:7])
        assert_close(isometry(LABELS), isometry_loss(INPUTS, model[:2](INPUTS), LABELS))
        with pytest.raises(ValueError, match="a call of the model with gradient must come first"):
            isometry(LABELS)  # the term is taken


def test_a_call_that_failed_leaves_nothing_half_done():
    model = perceptron()
    with IsometryRegularizer(model, ["1"]) as isometry:
        with pytest.raises(RuntimeError):
            model(INPUTS[:, :3])
        with pytest.raises(ValueError, match="a call of the model with gradient must come first"):
            isometry(LABELS)
        model[:2](INPUTS)  # not a call of the model
        with pytest.raises(ValueError, match="a call of the model with gradient must come first"):
            isometry(LABELS)
        model(INPUTS)
        isometry(LABELS).backward()


def test_a_call_that_failed_after_the_layer_does_not_count():
    def fail(body, inputs):
        body(inputs)
        raise RuntimeError("after all layers")

    model = Wrapped(perceptron(), fail)
    with IsometryRegularizer(model, ["body.1"]) as isometry:
        with pytest.raises(RuntimeError, match="after all layers"):
            model(INPUTS)
        with pytest.raises(ValueError, match="a call of the model with gradient must come first"):
            isometry(LABELS)


def test_replicas_with_a_part_of_the_batch_are_refused():
    model = perceptron()
    with (
        IsometryRegularizer(model, ["1"]),
        pytest.raises(NotImplementedError, match="use DistributedDataParallel in place of"),
    ):
        model._replicate_for_data_parallel()(INPUTS)


def test_half_precision_layers_have_a_float32_term():
    model = perceptron()
    with IsometryRegularizer(model, ["3"]) as isometry:
        with torch.autocast("cpu", torch.bfloat16):
            model(INPUTS)
            term = isometry(LABELS)
        model(INPUTS)
        exact = isometry(LABELS)
    assert term.dtype == torch.float32
    assert_close(term, exact, rtol=0.05, atol=0)  # the layers are rounded, not their distances


def test_distances_may_be_of_other_inputs_or_given():
    model, pixels = perceptron(), normal(3, 20, 9)
    pairs = WithinClass()(20, LABELS, None, LABELS.device).rows
    distances = normal(4, pairs.shape[1]).abs()
    rows = model(INPUTS)
    with IsometryRegularizer(model, [""], discrepancy=Correlation()) as isometry:
        model({"x": INPUTS}["x"])
        assert_close(
            isometry(LABELS, inputs=pixels),
            isometry_loss(pixels, rows, LABELS, discrepancy=Correlation()),
        )
        model(INPUTS)
        assert_close(
            isometry(pairs=pairs, distances=distances), Correlation()(distances, near(rows, pairs))
        )


def near(rows, pairs):
    return torch.pairwise_distance(*rows[pairs], eps=0)


def graph_classifier(**settings):
    anchors = normal(5, 12, 4)
    head = GraphHead(num_classes=3, k=4)
    return GraphClassifier(perceptron()[:4], head, anchors, torch.arange(12) % 3, **settings)


def test_a_graph_classifier_has_its_anchors_and_inputs_compared_in_one_batch():
    model = graph_classifier()
    labels = torch.cat([model.anchor_labels, LABELS])
    with IsometryRegularizer(model.backbone, {"": 2.0}) as isometry:
        logits = model(INPUTS)
        term = isometry(labels)
    rows = torch.cat([model.anchor_inputs, INPUTS])
    assert_close(term, 2 * isometry_loss(rows, model.backbone(rows), labels))
    (cross_entropy(logits, LABELS) + term).backward()


def test_the_stored_anchors_of_a_memory_bank_are_not_looked_at():
    model = graph_classifier(memory_bank=True)
    with IsometryRegularizer(model.backbone, [""]) as isometry:
        model(INPUTS)  # encodes the inputs with gradient, and then the anchors without
        assert_close(isometry(LABELS), isometry_loss(INPUTS, model.backbone(INPUTS), LABELS))
        model.eval()
        model(INPUTS[:5]).sum().backward()
        assert isometry(LABELS[:5]) > 0


def test_a_graph_classifier_as_a_whole_is_refused_with_the_way_out():
    model = graph_classifier()
    with IsometryRegularizer(model, ["backbone.1"]) as isometry:
        model(INPUTS)
        with pytest.raises(ValueError, match="got 32 rows for 20 inputs: regularize the part"):
            isometry(LABELS)
        pairs, distances = torch.tensor([[0, 1], [2, 3]]), torch.ones(2)
        with pytest.raises(ValueError, match="got 32 rows for 20 inputs: regularize the part"):
            isometry(pairs=pairs, distances=distances)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_that_change_are_checked_as_numbers_are(weight):
    model = perceptron()
    with IsometryRegularizer(model, {"1": lambda step: weight}) as isometry:
        model(INPUTS)
        with pytest.raises(
            ValueError, match=r"`layers\['1'\]\(3\)` must be a number from 0 on, got"
        ):
            isometry(LABELS, step=3)


def test_inputs_and_given_distances_get_no_gradient():
    model, inputs = perceptron(), INPUTS.clone().requires_grad_()
    pairs = torch.tensor([[0, 1, 2], [3, 4, 5]])
    distances = torch.ones(3, requires_grad=True)
    with IsometryRegularizer(model, ["1"]) as isometry:
        through_features = isometry_loss(INPUTS, model[:2](inputs), LABELS)
        model(inputs)
        found = torch.autograd.grad(isometry(LABELS), inputs)
        assert_close(found, torch.autograd.grad(through_features, inputs))
        model(inputs)
        isometry(pairs=pairs, distances=distances).backward()
    assert distances.grad is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:7], "`labels` must have one entry for each of 20 rows, got shape"),
        (None, "`labels` are needed for pairs within a class, got None"),
    ],
)
def test_labels_that_do_not_fit_the_call_are_refused(labels, message):
    model = perceptron()
    with IsometryRegularizer(model, ["1"]) as isometry:
        model(INPUTS)
        with pytest.raises(ValueError, match=message):
            isometry(labels)


def test_inputs_that_changed_since_the_call_are_refused():
    model, inputs = perceptron(), INPUTS.clone()
    with IsometryRegularizer(model, ["1"]) as isometry:
        model(inputs)
        inputs.add_(1)
        with pytest.raises(ValueError, match="`inputs` must be as the model saw them, got"):
            isometry(LABELS)


def test_inputs_that_are_no_tensor_must_be_passed():
    model = Wrapped(perceptron(), lambda body, inputs: body(inputs["x"]))
    with IsometryRegularizer(model, ["body.1"]) as isometry:
        model({"x": INPUTS})
        with pytest.raises(ValueError, match="`inputs` are needed where the model's first"):
            isometry(LABELS)
        assert isometry(LABELS, inputs=INPUTS) > 0


def test_layers_that_are_not_finite_are_named():
    model = perceptron()
    with torch.no_grad():
        model[2].bias.fill_(torch.nan)
    with IsometryRegularizer(model, ["3"], pairs=AllPairs()) as isometry:
        model(INPUTS)
        with pytest.raises(ValueError, match="`layer 3` must be finite, got NaN"):
            isometry()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["body.33"], "got `body.33`: did you mean `body.3`"),
        (["head"], "must be names of the model's modules, got `head`: did you mean `body`"),
        ([], "`layers` must name at least one layer, got none"),
        ({"body.1": -1.0}, r"`layers\['body.1'\]` must be a number from 0 on, got -1.0"),
        ({"body.1": float("nan")}, "must be a number from 0 on, got nan"),
    ],
)
def test_layers_that_are_not_there_or_weigh_nothing_sensible_are_refused(layers, message):
    model = Wrapped(perceptron(), lambda body, inputs: body(inputs))
    with pytest.raises(ValueError, match=message):
        IsometryRegularizer(model, layers)
    assert not model._forward_hooks


def test_a_weight_that_changes_needs_the_step():
    model = perceptron()
    with IsometryRegularizer(model, {"1": WarmUp(1.0, steps=3)}) as isometry:
        model(INPUTS)
        with pytest.raises(ValueError, match="`step` is needed, got None: the weight of layer `1`"):
            isometry(LABELS)


@pytest.mark.parametrize("rule", [WarmUp, EveryFew])
@pytest.mark.parametrize(("weight", "steps"), [(-1.0, 3), (1.0, 0)])
def test_a_rule_that_is_none_is_refused(rule, weight, steps):
    with pytest.raises(ValueError, match="must be"):
        rule(weight, steps)
