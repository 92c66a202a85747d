import dataclasses

import pytest
import torch

from weft.lab.augment import (
    CLOTHING,
    DIGITS,
    NATURAL,
    VECTORS,
    Augmentation,
    Jitter,
    cutout,
    flip,
    pad_and_crop,
    random_affine,
    random_displacement,
)

PRESETS = [DIGITS, CLOTHING, NATURAL]
EVERYTHING = Augmentation(
    shift=0.2, rotate=30, scale=0.3, elastic=0.05, crop=0.2, flip=True, cutout=0.3
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(16, 3, 12, 10, generator=seeded(1))


def test_zero_strength_changes_nothing_and_draws_nothing(images):
    generator = seeded()
    state = generator.get_state()
    assert Augmentation()(images, generator).equal(images)
    assert generator.get_state().equal(state)


@pytest.mark.parametrize("shape", [(12, 10), (8, 8), (5, 31)])
def test_the_affine_grid_of_zero_strength_is_the_identity(shape):
    images = torch.rand(4, 1, *shape, generator=seeded())
    grid = random_affine(images, seeded(), shift=0, rotate=0, scale=0)
    sampled = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(sampled, images, rtol=0, atol=2e-6)


@pytest.mark.parametrize("augmentation", [*PRESETS, EVERYTHING])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_range_shape_dtype_and_device_are_kept(augmentation, dtype, device, images):
    for given in (images, torch.ones_like(images)):
        given = given.to(device, dtype)
        changed = augmentation(given, seeded())
        assert (changed.shape, changed.dtype, changed.device) == (given.shape, dtype, given.device)
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert not changed.equal(given)


@pytest.mark.parametrize("augmentation", [*PRESETS, EVERYTHING])
def test_the_generator_alone_decides(augmentation, device, images):
    images = images.to(device)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = augmentation(images, seeded(3))
    assert torch.get_rng_state().equal(state)
    assert one.equal(augmentation(images, seeded(3)))
    assert not one.equal(augmentation(images, seeded(4)))


@pytest.mark.parametrize("augmentation", [*PRESETS, EVERYTHING])
def test_images_of_one_batch_change_differently(augmentation):
    images = torch.rand(1, 1, 12, 12, generator=seeded()).expand(32, -1, -1, -1)
    changed = augmentation(images, seeded())
    assert len(changed.flatten(1).unique(dim=0)) > 20


@pytest.mark.parametrize("name", ["shift", "rotate", "scale", "elastic", "crop", "flip", "cutout"])
def test_every_field_changes_images_by_itself(name, images):
    value = {"rotate": 20, "flip": True}.get(name, 0.2)
    augmentation = dataclasses.replace(Augmentation(), **{name: value})
    assert not augmentation(images, seeded()).equal(images)


def test_a_quarter_turn_is_a_quarter_turn():
    images = torch.rand(200, 1, 9, 9, generator=seeded())
    generator = seeded()
    # Of many random turns up to 90 degrees, the largest nearly is one.
    turned = Augmentation(rotate=90)(images, generator)
    quarter = torch.rot90(images, 1, (2, 3)), torch.rot90(images, -1, (2, 3))
    gaps = [(turned - want).abs().mean((1, 2, 3)).min() for want in quarter]
    assert max(gaps) < 0.05


def test_rotation_keeps_lengths_in_images_that_are_not_square():
    images = torch.zeros(64, 1, 20, 40)
    grid = random_affine(images, seeded(), shift=0, rotate=180, scale=0)
    pixels = grid * torch.tensor([20.0, 10.0])  # half sides: columns, rows
    across = (pixels[:, :, 1:] - pixels[:, :, :-1]).norm(dim=-1)
    down = (pixels[:, 1:] - pixels[:, :-1]).norm(dim=-1)
    torch.testing.assert_close(across, torch.ones_like(across), rtol=0, atol=1e-5)
    torch.testing.assert_close(down, torch.ones_like(down), rtol=0, atol=1e-5)


def test_a_shift_stays_below_its_bound_and_comes_near_it():
    images = torch.zeros(500, 1, 10, 10)
    moved = random_affine(images, seeded(), shift=0.1, rotate=0, scale=0)
    still = random_affine(images, seeded(), shift=0.0, rotate=0, scale=0)
    sides = ((moved - still) / 2).abs()  # the grid runs from -1 to 1
    assert sides.max() <= 0.1 + 1e-6
    assert sides.amax((0, 1, 2)).min() > 0.095


def test_an_elastic_displacement_has_its_strength_and_is_smooth():
    images = torch.zeros(64, 1, 28, 28)
    sides = random_displacement(images, seeded(), strength=0.03) / 2
    torch.testing.assert_close(sides.square().mean().sqrt(), torch.tensor(0.03))
    step = (sides[:, 1:] - sides[:, :-1]).square().mean().sqrt()
    assert step < 0.03 / 3


def test_a_crop_is_the_image_moved_by_whole_pixels():
    images = torch.rand(100, 2, 8, 8, generator=seeded())
    cropped = pad_and_crop(images, seeded(), crop=0.25, outside="zeros")
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1).permute(2, 3, 0, 1, 4, 5)
    equal = (windows == cropped).all(-1).all(-1).all(-1).flatten(0, 1)  # (25 offsets, 100 images)
    assert equal.any(0).all()
    assert equal.any(1).sum() > 20  # nearly all offsets occur


def test_a_crop_with_reflection_shows_pixels_of_the_image_only():
    images = torch.rand(50, 1, 8, 8, generator=seeded()) + 1
    assert pad_and_crop(images, seeded(), crop=0.25, outside="reflection").min() >= 1
    assert pad_and_crop(images, seeded(), crop=0.25, outside="zeros").min() == 0


def test_flip_mirrors_about_half_of_the_images():
    images = torch.rand(400, 1, 4, 4, generator=seeded())
    flipped = flip(images, seeded())
    same = (flipped == images).all(3).all(2).all(1)
    mirrored = (flipped == images.flip(3)).all(3).all(2).all(1)
    assert (same | mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_cutout_sets_one_square_to_zero_in_all_channels():
    images = torch.ones(200, 3, 20, 20)
    holes = cutout(images, seeded(), side=0.3) == 0
    assert (holes == holes[:, :1]).all()
    rows, columns = holes[:, 0].any(2).sum(1), holes[:, 0].any(1).sum(1)
    assert holes[:, 0].sum((1, 2)).equal(rows * columns)
    assert rows.max() == columns.max() == 6
    assert rows.min() >= 3  # a centre in the corner leaves half of the side


def test_gradients_reach_the_images(images):
    images.requires_grad_()
    EVERYTHING(images, seeded()).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_an_empty_batch_stays_empty():
    assert EVERYTHING(torch.empty(0, 1, 8, 8), seeded()).shape == (0, 1, 8, 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shift": -0.1}, r"`shift` must lie in \[0, 1\), got -0.1"),
        ({"scale": 1.0}, r"`scale` must lie in \[0, 1\), got 1.0"),
        ({"crop": 0.5}, r"`crop` must lie in \[0, 0.5\), got 0.5"),
        ({"cutout": float("nan")}, r"`cutout` must lie in \[0, 1\), got nan"),
        ({"rotate": 181}, "`rotate` must lie in 0 to 180 degrees, got 181"),
        ({"outside": "border"}, "`outside` must be 'zeros' or 'reflection', got 'border'"),
    ],
)
def test_a_field_outside_its_range_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**fields)


@pytest.mark.parametrize("inputs", [torch.rand(4, 3), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)])
def test_what_is_no_batch_of_float_images_is_refused(inputs):
    with pytest.raises(ValueError, match=r"`images` must be floats \(n, channels, h, w\), got"):
        DIGITS(inputs, seeded())


# Vectors


def test_jitter_is_gaussian_in_units_of_each_columns_spread():
    scales = torch.tensor([0.0, 1.0, 1000.0])
    vectors = torch.randn(4000, 3, generator=seeded()) * scales
    noise = Jitter(strength=0.1)(vectors, seeded(1)) - vectors
    torch.testing.assert_close(noise.std(0), 0.1 * scales, rtol=0.05, atol=0)  # 4 sigma: 4.5 %


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_jitter_keeps_shape_dtype_and_device(dtype, device):
    vectors = torch.randn(5, 3, generator=seeded()).to(device, dtype)
    noisy = VECTORS(vectors, seeded())
    assert (noisy.shape, noisy.dtype, noisy.device) == (vectors.shape, dtype, vectors.device)
    assert noisy.equal(VECTORS(vectors, seeded()))
    assert not noisy.equal(VECTORS(vectors, seeded(1)))


def test_jitter_of_zero_strength_or_of_one_vector_changes_nothing():
    vectors = torch.randn(5, 3, generator=seeded())
    assert Jitter(strength=0)(vectors, seeded()).equal(vectors)
    assert VECTORS(vectors[:1], seeded()).equal(vectors[:1])


def test_jitter_refuses_images_and_negative_strength():
    with pytest.raises(ValueError, match=r"`vectors` must be floats \(n, d\), got torch.float32"):
        VECTORS(torch.rand(2, 1, 8, 8), seeded())
    with pytest.raises(ValueError, match="`strength` must not be negative, got -1"):
        Jitter(strength=-1)
