"""Threat models move the rows they say, count those they say, and draw the company they say."""

import pytest
import torch

from weft.robustness import (
    APGD,
    PGD,
    IndependentRows,
    JointBatch,
    LInf,
    NeighboursOnly,
    RandomCompany,
    SwapIn,
    VictimOnly,
    attack,
)

from .toys import Linear, Tied, clusters, with_anchors

INPUTS, LABELS = clusters(24)


def run(threat, model=None, method=None, epsilon=0.15, **options):
    return attack(
        model or Tied(),
        INPUTS,
        LABELS,
        ball=LInf(epsilon),
        method=method or PGD(5),
        threat=threat,
        **options,
    )


class Recording:
    """A tied model that remembers the batches it was asked about."""

    def __init__(self):
        self.model, self.batches = Tied(), []

    def __call__(self, inputs):
        self.batches.append(inputs.detach())
        return self.model(inputs)

    def mates(self):
        """Rows of clean inputs that stood in each batch."""
        return [(batch[:, None] == INPUTS).all(2).any(1).sum().item() for batch in self.batches]


def test_a_victim_moves_among_clean_mates_and_alone_counts():
    model = Recording()
    result = run(VictimOnly(8, victims=5), model)
    assert [len(part) for part in result.moved] == [1] * 5
    assert torch.equal(result.labels, LABELS[result.rows])
    assert {len(batch) for batch in model.batches} == {8}
    assert min(model.mates()) >= 7  # all but the victim are clean, in every call
    assert result.claimed_accuracy == result.replayed_accuracy
    first = model.batches[-1]
    assert torch.equal(first[0], result.moved[-1][0])


def test_neighbours_move_around_a_victim_that_stays_clean():
    model = Recording()
    result = run(NeighboursOnly(8, victims=5), model, epsilon=0.3)
    assert [len(part) for part in result.moved] == [7] * 5
    assert len(result.rows) == 5
    assert {len(batch) for batch in model.batches} == {8}
    for row, batch in zip(result.rows, model.batches[-1:], strict=False):
        assert (batch[0] == INPUTS).all(1).any(), row
    assert result.claimed_accuracy == result.replayed_accuracy


def test_company_breaks_a_tied_head_and_leaves_a_linear_one():
    threat = NeighboursOnly(12)
    tied, linear = run(threat, method=APGD(20), epsilon=0.3), run(threat, Linear(6, 3), epsilon=0.3)
    assert tied.replayed_accuracy < tied.clean_accuracy
    assert linear.replayed_accuracy == linear.clean_accuracy


def test_mates_are_others_drawn_without_replacement():
    model = Recording()
    result = run(VictimOnly(8, victims=6), model)
    clean = [batch for batch, mates in zip(model.batches, model.mates(), strict=True) if mates == 8]
    companies = {tuple(batch[1:].flatten().tolist()) for batch in clean}
    assert len(companies) == 6
    for batch in clean:
        assert len(batch.unique(dim=0)) == 8
    assert result.rows.unique().shape == (6,)


def test_a_size_beyond_the_set_and_none_mean_all_others():
    assert torch.equal(run(VictimOnly(None, 3)).inputs, run(VictimOnly(100, 3)).inputs)


def test_swapped_in_examples_are_crafted_together_and_judged_alone():
    model = Recording()
    method = PGD(5, random_start=False)  # drawing company would shift the random starts
    result = run(SwapIn(8, draws=3), model, method)
    assert [len(part) for part in result.moved] == [8, 8, 8]
    together = run(JointBatch(8), method=method)
    assert result.claimed_accuracy == together.claimed_accuracy
    shares = (result.success * 3).round() / 3
    torch.testing.assert_close(result.success, shares)  # thirds: three companies each
    assert result.replayed_accuracy > result.claimed_accuracy
    assert min(model.mates()[-3:]) >= 7


def test_random_company_is_judged_where_the_attacker_never_was():
    model = Recording()
    result = run(RandomCompany(8, draws=4, unseen=5, victims=1), model)
    crafted = {tuple(batch[1:].flatten().tolist()) for batch in model.batches[:-10]}
    judged = {tuple(batch[1:].flatten().tolist()) for batch in model.batches[-10:]}
    assert (len(crafted), len(judged)) == (4, 5)
    assert not crafted & judged
    assert result.calls == len(model.batches)


def test_anchors_may_be_drawn_too():
    references, labels = clusters(60, seed=1)
    drawn = []

    def draw_model(generator):
        rows = torch.randperm(60, generator=generator)[:30]
        drawn.append(rows)
        return with_anchors(references[rows], labels[rows])

    def never(inputs):
        raise AssertionError("the drawn models stand in for this one")

    result = run(RandomCompany(8, 3, 2, victims=4, draw_model=draw_model), never)
    assert len(drawn) == 5
    assert "anchors" in result.threat
    assert result.replayed_accuracy < result.clean_accuracy
    assert result.calls > 0


def test_a_surrogate_stays_itself_where_anchors_are_drawn():
    seen = []

    def surrogate(inputs):
        seen.append(len(inputs))
        return Linear(6, 3)(inputs)

    threat = RandomCompany(8, 2, 2, victims=1, draw_model=lambda generator: Tied())
    run(threat, method=PGD(3, surrogate=surrogate))
    assert seen
    assert set(seen) == {8}


def test_the_generator_draws_the_company():
    results = [
        run(VictimOnly(8, 6), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    assert torch.equal(results[0].inputs, results[1].inputs)
    assert not torch.equal(results[0].rows, results[2].rows)


@pytest.mark.parametrize(
    ("threat", "name"),
    [
        (IndependentRows(), "independent rows"),
        (JointBatch(), "joint, whole set"),
        (JointBatch(50), "joint, batches of 50"),
        (VictimOnly(50), "victim only, batches of 50"),
        (VictimOnly(), "victim only, the whole set"),
        (NeighboursOnly(50), "neighbours only, batches of 50"),
        (SwapIn(50, 3), "swap-in, batches of 50, 3 draws"),
        (RandomCompany(50), "random mates, batches of 50, 10 unseen draws"),
    ],
)
def test_a_threat_model_has_its_name(threat, name):
    assert str(threat) == name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IndependentRows(0), "`size` must be 1 or more, got 0"),
        (lambda: JointBatch(0), "`size` must be 1 or more, got 0"),
        (lambda: VictimOnly(victims=0), "`victims` must be 1 or more, got 0"),
        (lambda: NeighboursOnly(1), "`size` must be 2 or more, got 1: a victim alone has no"),
        (lambda: SwapIn(5, 0), "`draws` must be 1 or more, got 0"),
        (lambda: RandomCompany(5, unseen=0), "`unseen` must be 1 or more, got 0"),
    ],
)
def test_refuses_settings_without_rows(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_neighbours_need_two_inputs():
    with pytest.raises(ValueError, match="must be 2 or more, got 1: a victim alone"):
        attack(
            Tied(),
            INPUTS[:1],
            LABELS[:1],
            ball=LInf(0.1),
            method=PGD(1),
            threat=NeighboursOnly(),
        )
