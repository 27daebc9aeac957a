"""Views: pure functions of (seed, image, view number) whose parts can be checked one by one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from distill.config import ClassViews, ViewsConfig
from distill.data.views.draws import Draws
from distill.data.views.parameters import blur_kernels, blurred, strengths
from distill.data.views.pixels import affine_grid, blur, make_views, to_unit

Only = Callable[..., ViewsConfig]
CPU = torch.device("cpu")
LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
CLASSES = ("right", "wrong")
EVERYTHING = ViewsConfig(
    rotate_degrees=30.0,
    translate=0.2,
    shear_degrees=20.0,
    hue=0.2,
    blur=0.5,
    blur_sigma=(0.3, 1.5),
    erase=0.5,
    per_class={"wrong": ClassViews(contrast=0.6, blur=0.9)},
)


def noise(count: int, size: int = 16, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (count, size, size, 3), dtype=np.uint8)


def views_of(
    pixels: np.ndarray, config: ViewsConfig, view: int = 0, seed: int = 0, size: int = 16
) -> Tensor:
    ids = np.arange(len(pixels))
    draws = Draws(seed, ids, view)
    return make_views(pixels, draws, config, size, CPU, ids % 2, CLASSES)


def luma(images: Tensor) -> Tensor:
    return (images * LUMA).sum(dim=1)


def test_without_any_change_a_view_is_the_image(only: Only) -> None:
    """Channels first, in 0 to 1; at half the size, the mean of two by two pixels."""
    images = to_unit(np.array([[[[0, 51, 255]]]], dtype=np.uint8), CPU)
    assert images.shape == (1, 3, 1, 1)
    assert images.dtype == torch.float32
    assert images.flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])
    pixels = noise(4)
    torch.testing.assert_close(views_of(pixels, only()), to_unit(pixels, CPU), atol=2e-6, rtol=0)
    # Two samples a side fall on the centres of the stored pixels.
    pixels = noise(3, size=32)
    expected = F.avg_pool2d(to_unit(pixels, CPU), 2)
    torch.testing.assert_close(views_of(pixels, only()), expected, atol=1e-5, rtol=0)


def test_a_view_depends_on_its_own_image_and_number_only() -> None:
    for side in (20, 64):  # 64 to 16: 1 to 3 samples a side in one batch
        pixels = noise(12, size=side)
        before = pixels.copy()
        together = views_of(pixels, EVERYTHING, view=3)
        assert np.array_equal(pixels, before)
        assert torch.equal(views_of(pixels, EVERYTHING, view=3), together)
        ids = np.arange(12)
        given = torch.tensor(pixels)  # pixels may be a tensor already
        views = make_views(given, Draws(0, ids, 3), EVERYTHING, 16, CPU, ids % 2, CLASSES)
        assert torch.equal(views, together)
        for order in (np.array([4, 1, 5, 10, 7]), np.array([2]), np.array([3])):
            draws = Draws(0, order, 3)
            few = make_views(pixels[order], draws, EVERYTHING, 16, CPU, order % 2, CLASSES)
            torch.testing.assert_close(few, together[order], atol=2e-6, rtol=0)


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


def test_flip_mirrors_left_and_right_with_its_probability(only: Only) -> None:
    pixels = np.repeat(noise(1), 400, axis=0)
    views, turned = views_of(pixels, only(flip=0.25)), to_unit(pixels[:, :, ::-1].copy(), CPU)
    mirrored = (views - turned).abs().amax(dim=(1, 2, 3)) < 1e-5
    same = (views - to_unit(pixels, CPU)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert bool((mirrored ^ same).all())
    assert abs(int(mirrored.sum()) - 100) < 40  # standard deviation sqrt(400 * 3/16) = 8.7
    always = views_of(pixels[:3], only(flip=1.0))
    torch.testing.assert_close(always, turned[:3], atol=2e-6, rtol=0)


def test_a_crop_is_a_piece_of_the_image(only: Only) -> None:
    """A horizontal ramp stays a ramp whose slope is the crop's width, undistorted in y."""
    ramp = np.tile((4 * np.arange(64, dtype=np.uint8))[None, :, None], (64, 1, 3))
    config = only(crop_scale=(0.25, 0.25))  # half the width and half the height
    view = views_of(ramp[None], config, size=32)[0, 0]
    # 32 pixels of a crop that is 32 stored pixels wide: neighbours are one stored step apart.
    steps = (view[:, 1:] - view[:, :-1]).flatten()
    assert steps.numpy() == pytest.approx(np.full(32 * 31, 4 / 255), abs=1e-4)
    assert float((view - view[:1]).abs().max()) < 1e-4


def test_brightness_is_a_factor(only: Only) -> None:
    pixels = noise(200, size=4, low=20, high=150)
    views = views_of(pixels, only(brightness=0.3), size=4)
    ratios = (views / to_unit(pixels, CPU)).flatten(1)
    torch.testing.assert_close(ratios, ratios[:, :1].expand_as(ratios), atol=1e-4, rtol=0)
    factors = ratios[:, 0]
    assert 0.7 <= float(factors.min()) < 0.73
    assert 1.27 < float(factors.max()) <= 1.3


def test_contrast_keeps_the_mean_brightness(only: Only) -> None:
    pixels = noise(64, low=90, high=160)  # far enough from 0 and 1 not to be clamped
    images, views = to_unit(pixels, CPU), views_of(pixels, only(contrast=0.5))
    torch.testing.assert_close(
        luma(views).mean(dim=(1, 2)), luma(images).mean(dim=(1, 2)), atol=1e-5, rtol=0
    )
    spread = views.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert 0.5 < float(spread.min()) < 0.65
    assert 1.35 < float(spread.max()) < 1.5


def test_saturation_and_hue_keep_grey_and_brightness_but_not_colours(only: Only) -> None:
    grey, pixels = np.repeat(noise(16)[:, :, :, :1], 3, axis=3), noise(16, low=100, high=150)
    for strong, weak in (
        (only(saturation=0.9), only(saturation=0.5)),
        (only(hue=0.5), only(hue=0.1)),
    ):
        torch.testing.assert_close(views_of(grey, strong), to_unit(grey, CPU), atol=1e-5, rtol=0)
        images, views = to_unit(pixels, CPU), views_of(pixels, weak)
        torch.testing.assert_close(luma(views), luma(images), atol=1e-5, rtol=0)
        assert ((views - images).abs().amax(dim=(1, 2, 3)) > 1e-3).sum() >= 14


def test_saturation_is_a_share_of_the_distance_to_grey(only: Only) -> None:
    pixels = noise(100, size=4, low=90, high=160)
    images, views = to_unit(pixels, CPU), views_of(pixels, only(saturation=0.4), size=4)
    away = (views - luma(views)[:, None]).flatten(1).norm(dim=1)
    factors = away / (images - luma(images)[:, None]).flatten(1).norm(dim=1)
    assert 0.6 <= float(factors.min()) < 0.65
    assert 1.35 < float(factors.max()) <= 1.4 + 1e-4


def test_hue_turns_colours_by_up_to_the_angle_and_keeps_their_strength(only: Only) -> None:
    to_iq = torch.tensor([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    pixels = noise(300, size=2, low=100, high=150)
    images, views = to_unit(pixels, CPU), views_of(pixels, only(hue=0.1), size=2)
    before, after = (torch.einsum("ic,bchw->bihw", to_iq, x) for x in (images, views))
    torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1), atol=1e-5, rtol=0)
    turns = (torch.atan2(x[:, 1, 0, 0], x[:, 0, 0, 0]) / (2 * torch.pi) for x in (after, before))
    turn = torch.remainder(next(turns) - next(turns) + 0.5, 1.0) - 0.5
    assert 0.09 < float(turn.max()) < 0.1 + 1e-3
    assert -0.1 - 1e-3 < float(turn.min()) < -0.09


def test_a_half_turn_of_hue_takes_red_towards_cyan(only: Only) -> None:
    """Rotating by half a circle negates both colour axes: c becomes 2 * luma - c, within [0, 1]."""
    red = np.tile(np.array([120, 60, 60], dtype=np.uint8), (300, 2, 2, 1))
    views = views_of(red, only(hue=0.5), size=2)[:, :, 0, 0]
    y = (0.299 * 120 + 0.587 * 60 + 0.114 * 60) / 255
    opposite = torch.tensor([2 * y - 120 / 255, 2 * y - 60 / 255, 2 * y - 60 / 255])
    assert float((views - opposite).norm(dim=1).min()) < 0.01


def test_erase_paints_grey_boxes_into_a_share_of_the_images(only: Only) -> None:
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


def test_our_affine_grid_is_torchs() -> None:
    theta = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = F.affine_grid(theta, [5, 3, 12, 12], align_corners=False)
    torch.testing.assert_close(affine_grid(theta, 12), expected, atol=1e-6, rtol=0)


def test_blur_is_torchvisions() -> None:
    images = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    for radius, sigma in ((1, (0.4, 2.0)), (4, (0.1, 1.3)), (9, (2.5, 3.0))):
        ours = blur(images, blur_kernels(np.array(sigma), radius))
        for one, image, own in zip(ours, images, sigma, strict=True):
            expected = gaussian_blur(image, [2 * radius + 1] * 2, [own] * 2)
            torch.testing.assert_close(one, expected, atol=1e-5, rtol=0)


def test_a_share_of_the_views_is_blurred_with_sigmas_of_the_range(only: Only) -> None:
    pixels, config = noise(60), only(blur=0.5, blur_sigma=(0.5, 1.5))
    rows, sigma = blurred(Draws(0, np.arange(60), 0), strengths(config, None, ()))
    assert 15 < len(rows) < 45  # standard deviation sqrt(60 / 4) = 3.9
    assert 0.5 <= sigma.min() < 0.7
    assert 1.3 < sigma.max() <= 1.5
    plain, views = views_of(pixels, only()), views_of(pixels, config)
    for row, own in zip(rows, sigma, strict=True):
        expected = gaussian_blur(plain[row], [11, 11], [own, own])  # 3 x 1.5 to either side: 5
        torch.testing.assert_close(views[row], expected, atol=1e-5, rtol=0)
    # A blur of nearly no width changes nothing, and leaves the other draws.
    sharp = views_of(pixels, ViewsConfig(blur=1.0, blur_sigma=(0.01, 0.01)))
    torch.testing.assert_close(sharp, views_of(pixels, ViewsConfig()), atol=1e-6, rtol=0)
    others = np.setdiff1d(np.arange(60), rows)
    assert torch.equal(views[others], plain[others])


def test_a_class_has_strengths_of_its_own_and_the_others_do_not_notice() -> None:
    pixels = noise(20, size=20)
    plain = views_of(pixels, ViewsConfig())
    own = ClassViews(brightness=0.9, blur=1.0, blur_sigma=(1.0, 2.0))
    views = views_of(pixels, ViewsConfig(per_class={"wrong": own}))
    torch.testing.assert_close(views[::2], plain[::2], atol=1e-6, rtol=0)
    strong = views_of(pixels, ViewsConfig(brightness=0.9, blur=1.0, blur_sigma=(1.0, 2.0)))
    torch.testing.assert_close(views[1::2], strong[1::2], atol=1e-6, rtol=0)
    assert ((views - plain)[1::2].abs().amax(dim=(1, 2, 3)) > 0.05).all()


def test_a_fine_checkerboard_shrinks_to_grey(only: Only) -> None:
    for side in (24, 28, 32, 40, 48, 64):  # to 16: up to the largest margin
        board = 255 * (np.indices((side, side)).sum(axis=0) % 2).astype(np.uint8)
        pixels = board[None, :, :, None].repeat(3, axis=3)
        view = views_of(pixels, only(), size=16)
        # One sample per pixel would be black or white at 48: 3 x 16, on the centres of squares.
        assert float((view - 0.5).abs().max()) < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.gpu
@pytest.mark.parametrize("side", [40, 128])
def test_a_view_is_the_same_on_a_gpu(side: int) -> None:
    # Smooth pictures: between noise pixels a rounding of the coordinates would be seen more.
    coarse = torch.tensor(noise(16, size=8)).permute(0, 3, 1, 2).float()
    smooth = F.interpolate(coarse, (side, side), mode="bilinear").permute(0, 2, 3, 1)
    pixels, ids = smooth.to(torch.uint8).numpy(), np.arange(16)
    found = [
        make_views(pixels, Draws(0, ids, 1), EVERYTHING, 32, torch.device(name), ids % 2, CLASSES)
        for name in ("cpu", "cuda")
    ]
    torch.testing.assert_close(found[1].cpu(), found[0], atol=1e-4, rtol=0)
