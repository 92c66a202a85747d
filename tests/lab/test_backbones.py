import pytest
import torch
from torch import nn

from weft.lab.backbones import MLP, ResNet18, SmallCNN, build_backbone

IMAGES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 20, 13), (3, 5, 40)]
CASES = [
    *(("mlp", shape) for shape in [7, *IMAGES[:3]]),
    *(("cnn", shape) for shape in IMAGES),
    *(("resnet18", shape) for shape in IMAGES[:3]),
]


def batch(shape, size=6, dtype=torch.float32):
    shape = (shape,) if isinstance(shape, int) else shape
    return torch.rand(size, *shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_features_have_the_promised_shape_and_depend_on_the_inputs(name, shape):
    backbone = build_backbone(name, shape, 5, seed=0)
    assert backbone.out_features == 5
    features = backbone(batch(shape))
    assert features.shape == (6, 5)
    assert features.std(0).min() > 0


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_gradients_reach_all_parameters_and_the_inputs(name, shape):
    backbone = build_backbone(name, shape, 5, seed=0)
    inputs = batch(shape).requires_grad_()
    # A sum alone would have no gradient through a normalisation over the batch.
    backbone(inputs).square().sum().backward()
    assert inputs.grad.abs().sum() > 0
    unreached = [
        key
        for key, value in backbone.named_parameters()
        if value.grad is None or not value.grad.any()
    ]
    assert unreached == []


@pytest.mark.parametrize(
    ("name", "shape"), [("mlp", 7), ("cnn", (1, 8, 8)), ("resnet18", (1, 8, 8))]
)
def test_double_precision_stays_double(name, shape):
    backbone = build_backbone(name, shape, 5, seed=0).double()
    assert backbone(batch(shape, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_in_evaluation_a_sample_does_not_depend_on_its_batch(name, shape):
    backbone = build_backbone(name, shape, 5, seed=0)
    backbone(batch(shape))  # running statistics that are not the initial ones
    backbone.eval()
    inputs = batch(shape)
    torch.testing.assert_close(backbone(inputs)[:1], backbone(inputs[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18"])
def test_the_seed_alone_decides_the_weights(name):
    def weights(seed):
        return nn.utils.parameters_to_vector(
            build_backbone(name, (1, 8, 8), 5, seed=seed).parameters()
        )

    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = weights(3)
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(1)
    assert one.equal(weights(3))
    assert not one.equal(weights(4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_building_leaves_the_random_state_of_a_gpu_alone():
    torch.cuda.manual_seed(5)
    state = torch.cuda.get_rng_state()
    build_backbone("cnn", (1, 8, 8), 5, seed=0)
    assert torch.cuda.get_rng_state().equal(state)


def test_a_backbone_is_built_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        backbone = build_backbone("mlp", 3, 5, seed=0)
    assert {value.device.type for value in backbone.parameters()} == {"cpu"}


def test_auto_takes_the_cnn_for_images_and_the_mlp_for_vectors():
    assert isinstance(build_backbone("auto", (1, 8, 8), 5, seed=0), SmallCNN)
    assert isinstance(build_backbone("auto", 64, 5, seed=0), MLP)


def test_an_mlp_on_vectors_does_not_see_their_units():
    vectors, units = batch(4, 50), torch.tensor([1.0, 1e3, 1e-2, 10.0])
    backbone = build_backbone("mlp", 4, 5, seed=0)
    torch.testing.assert_close(
        backbone(vectors),
        backbone(vectors * units + units),
        rtol=0,
        atol=0.1,  # 1e-5 beside the variance
    )


def test_the_cnn_pools_28_pixels_twice_and_8_pixels_once():
    def sizes(side):
        cnn = SmallCNN((1, side, side), 5)
        return cnn.layers(cnn.first(batch((1, side, side)))).shape[1:]

    assert sizes(28) == (64, 7, 7)
    assert sizes(8) == (64, 4, 4)
    assert sizes(64) == (64, 8, 8)


def test_the_resnet_has_the_parameters_of_resnet_18():
    # 11,173,962 with a 3×3 stem for three channels and ten outputs, a figure often published.
    backbone = ResNet18((3, 32, 32), 10)
    assert sum(value.numel() for value in backbone.parameters()) == 11_173_962


@pytest.mark.parametrize("name", ["cnn", "resnet18"])
def test_a_network_for_images_refuses_vectors(name):
    with pytest.raises(ValueError, match=f"`{name}` needs images, got vectors of 64: take mlp"):
        build_backbone(name, 64, 5, seed=0)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="must be mlp, cnn, resnet18 or auto, got 'vgg'"):
        build_backbone("vgg", 64, 5, seed=0)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_backbone_learns_digits_in_a_few_steps(name):
    from weft.lab.data import load_data

    data = load_data("digits")
    backbone = build_backbone(name, data.image_shape, 10, seed=0)
    optimizer = torch.optim.Adam(backbone.parameters(), 3e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(60):
        rows = torch.randperm(len(data.train_inputs), generator=order)[:128]
        loss = nn.functional.cross_entropy(
            backbone(data.train_inputs[rows]), data.train_labels[rows]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    backbone.eval()
    accuracy = (backbone(data.test_inputs).argmax(1) == data.test_labels).float().mean()
    assert accuracy > {"mlp": 0.85, "cnn": 0.95}[name]
