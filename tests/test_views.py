"""Views: pure functions of (seed, image, view number) whose parts can be checked one by one."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.config import ViewsConfig
from distill.data.draws import Draws
from distill.data.views import crop_matrices, make_views, to_unit

CPU = torch.device("cpu")
LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
NOTHING: dict[str, Any] = {
    "margin": 0.0,
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip": 0.0,
    "rotate_degrees": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "erase": 0.0,
}
EVERYTHING = ViewsConfig(rotate_degrees=30.0, hue=0.2, erase=0.5)


def only(**options: Any) -> ViewsConfig:
    return ViewsConfig(**{**NOTHING, **options})


def noise(count: int, size: int = 16, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (count, size, size, 3), dtype=np.uint8)


def views_of(
    pixels: np.ndarray, config: ViewsConfig, view: int = 0, seed: int = 0, size: int = 16
) -> Tensor:
    return make_views(pixels, Draws(seed, np.arange(len(pixels)), view), config, size, CPU)


def luma(images: Tensor) -> Tensor:
    return (images * LUMA).sum(dim=1)


def test_to_unit_is_channels_first_in_0_to_1() -> None:
    images = to_unit(np.array([[[[0, 51, 255]]]], dtype=np.uint8), CPU)
    assert images.shape == (1, 3, 1, 1)
    assert images.dtype == torch.float32
    assert images.flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])


def test_without_any_change_a_view_is_the_image() -> None:
    pixels = noise(4)
    torch.testing.assert_close(views_of(pixels, only()), to_unit(pixels, CPU), atol=2e-6, rtol=0)


def test_a_view_depends_on_its_own_image_and_number_only() -> None:
    pixels = noise(6, size=20)
    together = views_of(pixels, EVERYTHING, view=3)
    order = np.array([4, 1, 5])
    few = make_views(pixels[order], Draws(0, order, 3), EVERYTHING, 16, CPU)
    torch.testing.assert_close(few, together[order], atol=1e-6, rtol=0)
    alone = make_views(pixels[2:3], Draws(0, np.array([2]), 3), EVERYTHING, 16, CPU)
    torch.testing.assert_close(alone, together[2:3], atol=1e-6, rtol=0)


def test_the_same_view_again_is_the_same() -> None:
    pixels = noise(3)
    assert torch.equal(views_of(pixels, EVERYTHING, 5), views_of(pixels, EVERYTHING, 5))


def test_views_differ_by_number_seed_and_image() -> None:
    pixels = np.repeat(noise(1), 8, axis=0)
    first = views_of(pixels, ViewsConfig())
    for other in (views_of(pixels, ViewsConfig(), view=1), views_of(pixels, ViewsConfig(), seed=1)):
        assert ((first - other).abs().amax(dim=(1, 2, 3)) > 0.05).all()
    for i in range(1, 8):
        assert (first[0] - first[i]).abs().max() > 0.05


def test_views_are_images_of_the_size_asked_for() -> None:
    pixels = noise(32, size=20)
    for size in (16, 24):
        for view in range(4):
            views = views_of(pixels, EVERYTHING, view=view, size=size)
            assert views.shape == (32, 3, size, size)
            assert views.dtype == torch.float32
            assert float(views.min()) >= 0.0
            assert float(views.max()) <= 1.0


def test_the_stored_pixels_are_not_changed() -> None:
    pixels = noise(4)
    before = pixels.copy()
    views_of(pixels, EVERYTHING)
    assert np.array_equal(pixels, before)


def test_flip_mirrors_left_and_right() -> None:
    pixels = noise(3)
    mirrored = to_unit(pixels[:, :, ::-1].copy(), CPU)
    torch.testing.assert_close(views_of(pixels, only(flip=1.0)), mirrored, atol=2e-6, rtol=0)


def test_flip_is_a_probability() -> None:
    pixels = np.repeat(noise(1), 400, axis=0)
    views = views_of(pixels, only(flip=0.25))
    mirrored = (views - to_unit(pixels[:, :, ::-1].copy(), CPU)).abs().amax(dim=(1, 2, 3)) < 1e-5
    same = (views - to_unit(pixels, CPU)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert bool((mirrored ^ same).all())
    assert abs(int(mirrored.sum()) - 100) < 40  # standard deviation sqrt(400 * 3/16) = 8.7


def test_a_half_turn_range_rotates_by_up_to_the_angle() -> None:
    theta = crop_matrices(Draws(0, np.arange(2000), 0), only(rotate_degrees=30.0))
    angles = np.degrees(np.arctan2(theta[:, 1, 0], theta[:, 0, 0]))
    assert np.abs(angles).max() <= 30.0
    assert np.abs(angles).max() > 29.0
    assert abs(angles.mean()) < 2.0  # standard error 17.3 / sqrt(2000) = 0.4
    determinants = np.linalg.det(theta[:, :, :2])
    assert determinants == pytest.approx(np.ones(2000))


def test_crops_have_the_area_and_ratio_of_the_options_and_lie_inside() -> None:
    config = only(crop_scale=(0.25, 0.5), crop_ratio=(0.8, 1.25))
    theta = crop_matrices(Draws(0, np.arange(2000), 0), config)
    width, height = theta[:, 0, 0], theta[:, 1, 1]  # as shares of the image's sides
    area, ratio = width * height, width / height
    # Uniform area: mean 0.375. The logarithm of the ratio is uniform: mean 0.
    assert area.min() >= 0.25 - 1e-12
    assert area.max() <= 0.5 + 1e-12
    assert area.mean() == pytest.approx(0.375, abs=0.01)
    assert ratio.min() >= 0.8 - 1e-12
    assert ratio.max() <= 1.25 + 1e-12
    assert np.log(ratio).mean() == pytest.approx(0.0, abs=0.02)
    for half, centre in ((width, theta[:, 0, 2]), (height, theta[:, 1, 2])):
        assert (np.abs(centre) + half).max() <= 1.0 + 1e-12
        assert (np.abs(centre) + half).max() > 0.99


def test_a_crop_that_does_not_fit_is_cut_back() -> None:
    # Area 1 at width : height 4 would be 2 wide and 0.5 high.
    config = only(crop_ratio=(4.0, 4.0))
    theta = crop_matrices(Draws(0, np.arange(50), 0), config)
    assert theta[:, 0, 0] == pytest.approx(np.ones(50))
    assert theta[:, 1, 1] == pytest.approx(np.full(50, 0.5))


def test_a_crop_is_a_piece_of_the_image() -> None:
    """A horizontal ramp stays a ramp whose slope is the crop's width, undistorted in y."""
    ramp = np.tile((4 * np.arange(64, dtype=np.uint8))[None, :, None], (64, 1, 3))
    config = only(crop_scale=(0.25, 0.25))  # half the width and half the height
    view = views_of(ramp[None], config, size=32)[0, 0]
    # 32 pixels of a crop that is 32 stored pixels wide: neighbours are one stored step apart.
    steps = (view[:, 1:] - view[:, :-1]).flatten()
    assert steps.numpy() == pytest.approx(np.full(32 * 31, 4 / 255), abs=1e-4)
    assert float((view - view[:1]).abs().max()) < 1e-4


def test_brightness_is_a_factor() -> None:
    pixels = noise(200, size=4, low=20, high=150)
    views = views_of(pixels, only(brightness=0.3), size=4)
    ratios = (views / to_unit(pixels, CPU)).flatten(1)
    torch.testing.assert_close(ratios, ratios[:, :1].expand_as(ratios), atol=1e-4, rtol=0)
    factors = ratios[:, 0]
    assert 0.7 <= float(factors.min()) < 0.73
    assert 1.27 < float(factors.max()) <= 1.3


def test_contrast_keeps_the_mean_brightness() -> None:
    pixels = noise(64, low=90, high=160)  # far enough from 0 and 1 not to be clamped
    images, views = to_unit(pixels, CPU), views_of(pixels, only(contrast=0.5))
    torch.testing.assert_close(
        luma(views).mean(dim=(1, 2)), luma(images).mean(dim=(1, 2)), atol=1e-5, rtol=0
    )
    spread = views.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert 0.5 < float(spread.min()) < 0.65
    assert 1.35 < float(spread.max()) < 1.5


@pytest.mark.parametrize("options", [{"saturation": 0.9}, {"hue": 0.5}])
def test_saturation_and_hue_keep_grey_grey(options: dict[str, float]) -> None:
    grey = np.repeat(noise(16)[:, :, :, :1], 3, axis=3)
    views = views_of(grey, only(**options))
    torch.testing.assert_close(views, to_unit(grey, CPU), atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{"saturation": 0.5}, {"hue": 0.1}])
def test_saturation_and_hue_keep_brightness_but_not_colours(options: dict[str, float]) -> None:
    pixels = noise(16, low=100, high=150)
    images, views = to_unit(pixels, CPU), views_of(pixels, only(**options))
    torch.testing.assert_close(luma(views), luma(images), atol=1e-5, rtol=0)
    assert ((views - images).abs().amax(dim=(1, 2, 3)) > 1e-3).sum() >= 14


def test_saturation_is_a_share_of_the_distance_to_grey() -> None:
    pixels = noise(100, size=4, low=90, high=160)
    images, views = to_unit(pixels, CPU), views_of(pixels, only(saturation=0.4), size=4)
    away = (views - luma(views)[:, None]).flatten(1).norm(dim=1)
    factors = away / (images - luma(images)[:, None]).flatten(1).norm(dim=1)
    assert 0.6 <= float(factors.min()) < 0.65
    assert 1.35 < float(factors.max()) <= 1.4 + 1e-4


def test_hue_turns_colours_by_up_to_the_angle_and_keeps_their_strength() -> None:
    to_iq = torch.tensor([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    pixels = noise(300, size=2, low=100, high=150)
    images, views = to_unit(pixels, CPU), views_of(pixels, only(hue=0.1), size=2)
    before, after = (torch.einsum("ic,bchw->bihw", to_iq, x) for x in (images, views))
    torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1), atol=1e-5, rtol=0)
    turns = (torch.atan2(x[:, 1, 0, 0], x[:, 0, 0, 0]) / (2 * torch.pi) for x in (after, before))
    turn = torch.remainder(next(turns) - next(turns) + 0.5, 1.0) - 0.5
    assert 0.09 < float(turn.max()) < 0.1 + 1e-3
    assert -0.1 - 1e-3 < float(turn.min()) < -0.09


def test_a_half_turn_of_hue_takes_red_towards_cyan() -> None:
    """Rotating by half a circle negates both colour axes: c becomes 2 * luma - c, within [0, 1]."""
    red = np.tile(np.array([120, 60, 60], dtype=np.uint8), (300, 2, 2, 1))
    views = views_of(red, only(hue=0.5), size=2)[:, :, 0, 0]
    y = (0.299 * 120 + 0.587 * 60 + 0.114 * 60) / 255
    opposite = torch.tensor([2 * y - 120 / 255, 2 * y - 60 / 255, 2 * y - 60 / 255])
    assert float((views - opposite).norm(dim=1).min()) < 0.01


def test_erase_paints_grey_boxes_into_a_share_of_the_images() -> None:
    white = np.full((400, 32, 32, 3), 255, dtype=np.uint8)
    views = views_of(white, only(erase=0.3), size=32)
    grey = views == 0.5
    assert bool((grey | (views > 0.999)).all())
    assert bool((grey.all(dim=1) == grey.any(dim=1)).all())  # all channels together
    boxes = grey[:, 0]
    hit = boxes.flatten(1).any(dim=1)
    assert abs(int(hit.sum()) - 120) < 46  # standard deviation sqrt(400 * 0.21) = 9.2
    areas = boxes[hit].flatten(1).float().mean(dim=1)
    # 2 to 20 % of the area, give or take a row and a column of 32.
    assert float(areas.min()) > 0.005
    assert float(areas.max()) < 0.25
    assert float(areas.mean()) == pytest.approx(0.11, abs=0.03)
    for box in boxes[hit]:
        rows, columns = box.any(dim=1), box.any(dim=0)
        assert torch.equal(box, rows[:, None] & columns[None, :])


def test_erase_off_leaves_the_image_alone() -> None:
    white = np.full((50, 8, 8, 3), 255, dtype=np.uint8)
    assert bool((views_of(white, only(erase=0.0), size=8) > 0.999).all())
