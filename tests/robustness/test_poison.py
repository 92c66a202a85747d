"""Anchors are poisoned by image and by label; queries stay clean."""

import pytest

from weft.robustness import APGD, PGD, LInf, PoisonedAnchors, attack, poison_labels

from .toys import Linear, clusters, with_anchors

ANCHORS, CLASSES = clusters(30, seed=1)
QUERIES, LABELS = clusters(24)


def never(inputs):
    raise AssertionError("each set of anchors makes its own model")


def poison(epsilon=0.2, movable=None, method=None):
    return attack(
        never,
        QUERIES,
        LABELS,
        ball=LInf(epsilon),
        method=method or APGD(20),
        threat=PoisonedAnchors(with_anchors, ANCHORS, CLASSES, movable),
    )


def test_moved_anchors_spoil_clean_queries_and_the_claim_is_replayed():
    result = poison()
    assert result.replayed_accuracy == result.claimed_accuracy < result.clean_accuracy
    (moved,) = result.moved
    assert moved.shape == ANCHORS.shape
    assert (moved - ANCHORS).abs().max() <= 0.2 + 1e-12
    logits = with_anchors(moved, CLASSES)(QUERIES)
    assert (logits.argmax(1) == LABELS).double().mean().item() == result.replayed_accuracy
    assert len(result.rows) == len(QUERIES)
    assert result.threat == "poisoned anchors, images of 30 of 30"


def test_fewer_movable_anchors_do_less_harm_and_are_drawn():
    few, all_of_them = poison(movable=3), poison()
    assert len(few.moved[0]) == 3
    assert few.replayed_accuracy >= all_of_them.replayed_accuracy
    assert few.threat == "poisoned anchors, images of 3 of 30"
    assert (ANCHORS[:, None] - few.moved[0]).abs().amax(2).min(0).values.max() <= 0.2 + 1e-12


def test_a_model_that_leans_on_no_anchor_is_not_moved():
    class Deaf(Linear):
        def __call__(self, inputs):
            return super().__call__(inputs) + 0 * self.anchors.sum()

    def make(anchors, labels):
        model = Deaf(6, 3)
        model.anchors = anchors
        return model

    threat = PoisonedAnchors(make, ANCHORS, CLASSES)
    result = attack(never, QUERIES, LABELS, ball=LInf(0.2), method=PGD(3), threat=threat)
    assert result.replayed_accuracy == result.clean_accuracy


def test_flipped_labels_spoil_the_model_step_by_step():
    found = poison_labels(with_anchors, ANCHORS, CLASSES, QUERIES, LABELS, flips=6, candidates=20)
    assert len(found.accuracy) == 7
    assert len(set(found.flipped)) == 6
    assert found.accuracy[-1] < found.accuracy[0]
    assert (found.labels != CLASSES).nonzero().squeeze(1).tolist() == sorted(found.flipped)
    logits = with_anchors(ANCHORS, found.labels)(QUERIES)
    assert (logits.argmax(1) == LABELS).double().mean().item() == found.accuracy[-1]
    assert found.calls == 1 + 6 * 20


def test_a_greedy_flip_is_the_worst_of_all_single_flips():
    found = poison_labels(with_anchors, ANCHORS, CLASSES, QUERIES, LABELS, flips=1, candidates=60)
    worst = 1.0
    for row in range(30):
        for other in {0, 1, 2} - {int(CLASSES[row])}:
            labels = CLASSES.clone()
            labels[row] = other
            right = with_anchors(ANCHORS, labels)(QUERIES).argmax(1) == LABELS
            worst = min(worst, right.double().mean().item())
    assert found.accuracy[1] == pytest.approx(worst)


def test_anchors_without_a_label_stay_so():
    labels = CLASSES.clone()
    labels[:20] = -1

    def make(anchors, given):
        return with_anchors(anchors[given >= 0], given[given >= 0])

    found = poison_labels(make, ANCHORS, labels, QUERIES, LABELS, flips=3, candidates=5)
    assert (found.labels[:20] == -1).all()
    assert min(found.flipped) >= 20


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: PoisonedAnchors(with_anchors, 2 + ANCHORS, CLASSES), "must be pixels in"),
        (lambda: PoisonedAnchors(with_anchors, ANCHORS, CLASSES[:4]), "one class number per anch"),
        (lambda: PoisonedAnchors(with_anchors, ANCHORS, CLASSES, 0), "`movable` must be 1 or"),
        (
            lambda: poison_labels(with_anchors, ANCHORS, CLASSES, QUERIES, LABELS, flips=31),
            "`flips` must be at most the number of labelled anchors, 30 of 3 classes, got 31",
        ),
        (
            lambda: poison_labels(with_anchors, ANCHORS, 0 * CLASSES, QUERIES, LABELS, flips=1),
            "give anchors of two classes",
        ),
    ],
)
def test_refuses_what_it_cannot_poison(act, message):
    with pytest.raises(ValueError, match=message):
        act()
