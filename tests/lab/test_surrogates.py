"""Models to borrow gradients from predict well, and share with the run what they should."""

import torch

from weft.lab._surrogates import draw_anchors, probe, softer, twin, with_anchors
from weft.lab._trained import load_trained
from weft.lab.recipe import Recipe
from weft.lab.runs import Run
from weft.lab.train import train


def test_surrogates_share_what_they_should(tmp_path):
    recipe = Recipe(labels=200, backbone="mlp", epochs=3, steps=8, k=10, batch_size=40, threads=1)
    run = Run.create(tmp_path, recipe)
    train(run)
    trained = load_trained(run)
    model, inputs = trained.model, trained.data.test_inputs[:12]
    labels = trained.data.test_labels[:12]
    with torch.no_grad():
        for other in (softer(model, wide=True), softer(model, wide=False), probe(trained)):
            assert (other(inputs).argmax(1) == labels).double().mean() > 0.5
        assert (twin(trained)(inputs).argmax(1) == labels).double().mean() > 0.5
        exact = with_anchors(model)(model.anchor_inputs, model.anchor_labels)(inputs)
        torch.testing.assert_close(exact, model(inputs))
        copied = with_anchors(model)(model.anchor_inputs.clone(), model.anchor_labels)(inputs)
        torch.testing.assert_close(copied, model(inputs), rtol=1e-3, atol=1e-3)  # other chunks
    draw = draw_anchors(trained)
    first, second = (draw(torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert not torch.equal(first.anchor_inputs, second.anchor_inputs)
