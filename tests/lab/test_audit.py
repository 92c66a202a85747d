"""An audit finds labels that were flipped, says what speaks against them, and shows it."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from weft.heads import GraphClassifier, GraphHead
from weft.lab import audit as audit_module
from weft.lab.audit import audit
from weft.lab.company import influence, variation
from weft.lab.recipe import Recipe
from weft.lab.runs import Run
from weft.lab.train import train

FLIPPED = {7: 0, 60: 1, 150: 2, 333: 3}  # rows of the training part, and what they are said to be


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Digits, four labels of the training part wrong."""
    digits = load_digits()
    images, labels = digits.images.astype(np.float32) / 16, digits.target.copy()
    for row, wrong in FLIPPED.items():
        labels[row] = wrong if labels[row] != wrong else wrong + 1
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x_train=images[:400], y_train=labels[:400], x_test=images[400:500],
             y_test=labels[400:500])  # fmt: skip
    return path


@pytest.fixture(scope="module")
def runs(file, tmp_path_factory):
    """A trained run per head; the labels of both are all that there are, or three in four."""
    recipe = Recipe(
        data=str(file), backbone="mlp", epochs=2, steps=4, k=10, batch_size=40, threads=1,
        input_edges=1.0, valid_fraction=0.2,
    )  # fmt: skip
    made = {}
    for head, labels in (("graph", 0), ("softmax", 300)):
        path = tmp_path_factory.mktemp("runs") / head
        made[head] = Run.create(path, dataclasses.replace(recipe, head=head, labels=labels))
        train(made[head])
    return made


def test_flipped_labels_come_first_with_reasons_of_other_classes(runs):
    found = audit(runs["graph"], most=6)
    assert found.audited == 400
    assert len(found.doubts) == 6
    assert set(FLIPPED) <= {doubt.example for doubt in found.doubts}
    noise = [doubt.noise for doubt in found.doubts]
    assert noise == sorted(noise, reverse=True)
    truth = load_digits().target
    for doubt in found.doubts:
        assert doubt.noise + doubt.support == pytest.approx(1, abs=1e-6)
        assert doubt.suggested != doubt.label
        assert all(reason.label != doubt.label for reason in doubt.against)
        assert sum(reason.weight for reason in doubt.against) <= doubt.noise + 1e-9
        if doubt.example in FLIPPED:
            assert doubt.suggested == str(truth[doubt.example])
    assert found.outweighed >= 4


def test_a_softmax_run_is_audited_on_a_graph_of_its_features(runs):
    found = audit(runs["softmax"], most=3)
    assert found.audited == 300
    assert found.company.deviation == pytest.approx(0, abs=1e-6)
    assert found.company.changed == 0


def test_many_labels_are_audited_in_parts(runs, monkeypatch, capsys):
    monkeypatch.setattr(audit_module, "PART", 150)
    found = audit(runs["graph"], most=8)
    assert found.audited == 400
    assert set(FLIPPED) <= {doubt.example for doubt in found.doubts}
    err = capsys.readouterr().err.split("\n")
    assert [line.split("  ")[-1] for line in err if line] == [
        f"{count} labels left out" for count in (134, 267, 400)
    ]


def test_the_command_prints_lines_and_json_and_writes_a_page(runs, call, tmp_path):
    run = runs["graph"].path
    code, out, err = call("audit", run, "--most", 2, "-o", tmp_path / "audit.html")
    assert code == 0
    assert "labels left out" in err
    path, counts, company, *doubts = out.splitlines()
    assert path == str(run)
    assert counts.startswith("labels 400  outweighed ")
    assert company.startswith("batch mates drawn 10 times, 40 a batch  deviation 0.")
    assert len(doubts) == 2
    assert "  rather " in doubts[0]
    assert "  against: " in doubts[0]
    page = (tmp_path / "audit.html").read_text()
    assert page.count('<article class="doubt">') == 2
    assert page.count("data:image/png;base64,") == 1
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    code, out, _ = call("audit", run, "--most", 2, "--json")
    found = json.loads(out)
    assert [f"{doubt['noise']:.4f}" for doubt in found["doubts"]] == [
        line.split()[0] for line in doubts
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["audit", "nowhere"], "must be a run directory"),
        (["audit", "RUN", "--most", "0"], "`most` must be at least 1, got 0"),
        (["audit", "RUN", "-o", "."], "`output` must be a file in a directory, got .: name one"),
        (["audit", "RUN", "-o", "no/where.html"], "`output` must be a file in a directory, got no"),
    ],
)
def test_a_users_mistake_is_one_line_before_any_work(
    runs, call, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*(runs["graph"].path if w == "RUN" else w for w in words))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


@pytest.fixture
def model():
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    head = GraphHead(3, k=5, tau=0.05, normalize=False)
    return GraphClassifier(torch.nn.Identity(), head, anchors, torch.arange(12) % 3)


@pytest.fixture
def mates():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 3, generator=generator, dtype=torch.float64)


def classifier_of_rows(model):
    """The head without its graph: what looks at one row at a time."""
    return torch.nn.Sequential(model.backbone, torch.nn.Linear(3, 3, dtype=torch.float64))


def test_mates_change_what_a_graph_head_says_and_nothing_else(model, mates):
    found = variation(model, mates, size=5, draws=6)
    assert found.deviation.shape == found.changed.shape == (20,)
    assert found.deviation.min() > 0
    rows = variation(classifier_of_rows(model), mates, size=5, draws=6)
    assert rows.deviation.max() < 1e-12
    assert not rows.changed.any()
    alone = variation(model, mates, size=20, draws=3)  # the whole set is the same company
    assert alone.deviation.max() < 1e-9


def test_variation_is_repeated_with_its_seed(model, mates):
    first, again = (variation(model, mates, size=5, draws=3, seed=7) for _ in range(2))
    assert torch.equal(first.deviation, again.deviation)
    assert not torch.equal(first.deviation, variation(model, mates, size=5, draws=3).deviation)


def test_influence_is_the_derivative_by_finite_differences(model, mates):
    influences = influence(model, mates, 4)
    model.eval()

    def scores(inputs):
        features, labels = model.join(inputs)
        return model.head.scores(features, labels)[12:][4]

    for mate in (4, 0, 11):
        squares = 0.0
        for axis in range(3):
            step = torch.zeros_like(mates)
            step[mate, axis] = 1e-6
            squares += ((scores(mates + step) - scores(mates - step)) / 2e-6).square().sum()
        torch.testing.assert_close(influences[mate], squares.sqrt(), rtol=1e-5, atol=1e-7)


def test_refuses_what_has_no_company(model, mates):
    with pytest.raises(
        ValueError, match="needs two draws of two inputs or more, got 1 draws of 20"
    ):
        variation(model, mates, size=5, draws=1)
    with pytest.raises(ValueError, match="`sample` must be a row of the inputs, 0 to 19, got 20"):
        influence(model, mates, 20)
