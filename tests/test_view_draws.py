"""What is drawn for views: geometry by hand, a class's own strengths, options that do not fit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.config import ClassViews, Recipe, ViewsConfig
from distill.data.views.draws import Draws
from distill.data.views.parameters import (
    blur_radius,
    check_views,
    crop_matrices,
    moves,
    strengths,
)
from distill.data.views.pixels import make_views, to_unit
from distill.errors import UserError
from distill.recipe import load_recipe, recipe_of, write_toml

Only = Callable[..., ViewsConfig]
CPU = torch.device("cpu")
CLASSES = ("right", "wrong")


def test_a_half_turn_range_rotates_by_up_to_the_angle(only: Only) -> None:
    theta = crop_matrices(Draws(0, np.arange(2000), 0), only(rotate_degrees=30.0), 10)
    angles = np.degrees(np.arctan2(theta[:, 1, 0], theta[:, 0, 0]))
    assert np.abs(angles).max() <= 30.0
    assert np.abs(angles).max() > 29.0
    assert abs(angles.mean()) < 2.0  # standard error 17.3 / sqrt(2000) = 0.4
    determinants = np.linalg.det(theta[:, :, :2])
    assert determinants == pytest.approx(np.ones(2000))


def test_crops_have_the_area_and_ratio_of_the_options_and_lie_inside(only: Only) -> None:
    config = only(crop_scale=(0.25, 0.5), crop_ratio=(0.8, 1.25))
    theta = crop_matrices(Draws(0, np.arange(2000), 0), config, 10)
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
    # One that does not fit is cut back: area 1 at width : height 4 would be 2 wide and 0.5 high.
    theta = crop_matrices(Draws(0, np.arange(50), 0), only(crop_ratio=(4.0, 4.0)), 10)
    assert theta[:, 0, 0] == pytest.approx(np.ones(50))
    assert theta[:, 1, 1] == pytest.approx(np.full(50, 0.5))


class Fixed:
    """Draws of one image that are set by hand: u = 0.5 leaves a thing in the middle."""

    def __init__(self, **streams: list[float]) -> None:
        self.streams = streams

    def uniform(self, stream: str, count: int) -> np.ndarray:
        row = self.streams.get(stream, [0.5] * count)
        assert len(row) == count
        return np.array([row])


def test_rotation_shear_and_shift_by_hand(only: Only) -> None:
    config = only(rotate_degrees=60.0, shear_degrees=45.0, translate=0.4)
    # 0.75 is half way from the middle to the largest: 30 degrees, 0.2 of the width to the right;
    # 0 is the largest to the other side: 0.4 of the height upwards; 1 a shear by tan 45 = 1.
    draws = Fixed(crop=[0.5, 0.5, 0.5, 0.5, 0.75, 0.5], affine=[0.75, 0.0, 1.0])
    theta = crop_matrices(draws, config, 10)[0]  # type: ignore[arg-type]
    sin, cos = 0.5, np.sqrt(0.75)
    # rotation [[cos, -sin], [sin, cos]] times shear [[1, 1], [0, 1]]
    linear = np.array([[cos, cos - sin], [sin, sin + cos]])
    assert theta[:, :2] == pytest.approx(linear)
    # A view is 2 wide: the content moves by (0.4, -0.8), so what is read lies that far back.
    assert theta[:, 2] == pytest.approx([-0.4 * cos + 0.8 * (cos - sin), -0.2 + 0.8 * (sin + cos)])
    # 90 degrees: x of the input is -y of the output, y of the input is x of the output.
    config, quarter = only(rotate_degrees=90.0), [0.5, 0.5, 0.5, 0.5, 1.0, 0.5]
    theta = crop_matrices(Fixed(crop=quarter), config, 10)[0]  # type: ignore[arg-type]
    assert theta == pytest.approx(np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]))
    mirrored = crop_matrices(
        Fixed(crop=[*quarter[:5], 0.0]), only(rotate_degrees=90.0, flip=1.0), 10
    )  # type: ignore[arg-type]
    assert mirrored[0] == pytest.approx(np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]]))


def test_a_shift_moves_the_content_by_its_share_of_the_size(only: Only) -> None:
    ramp = np.tile((4 * np.arange(32, dtype=np.uint8))[None, :, None], (32, 1, 3))
    views = make_views(
        np.stack([ramp] * 8), Draws(0, np.arange(8), 0), only(translate=0.25), 32, CPU
    )
    drawn = 0.25 * 32 * (2 * Draws(0, np.arange(8), 0).uniform("affine", 3) - 1)
    right = np.rint(drawn[:, 0])  # between pixels it would blur
    middle = 4 * np.arange(32)[None, 10:22] - 4 * right[:, None]  # as far as no edge comes in
    assert views[:, 0, 5, 10:22].numpy() * 255 == pytest.approx(middle, abs=1e-2)
    assert np.abs(right).max() > 3.0


def test_what_a_shift_brings_in_is_the_mirror_image(only: Only) -> None:
    pixels = np.arange(16, dtype=np.uint8)[None, None, :, None].repeat(16, 1).repeat(3, 3)
    # 1.0 is the largest shift: a quarter of 16 pixels to the right, mirrored at the edge.
    config = only(translate=0.25)
    view = make_views(pixels, Fixed(affine=[1.0, 0.5, 0.5]), config, 16, CPU)  # type: ignore[arg-type]
    row = [3, 2, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert view[0, 0, 0].numpy() * 255 == pytest.approx(row, abs=1e-3)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_motion_shifts_the_finished_view_by_whole_pixels_and_mirrors_it(
    only: Only, mirrored: bool
) -> None:
    """Whatever crop and turn made it: the same points of the stored image are read."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), dtype=np.uint8)
    config = only(crop_scale=(0.3, 0.6), rotate_degrees=40.0)
    draws = Draws(0, np.zeros(1, np.int64), 3)
    seen = make_views(pixels, draws, config, 32, CPU)[0]
    # 1 is the largest shift, 4 of 32 pixels; 0.25 half of it the other way.
    fixed = Fixed(motion=[1.0, 0.25, 0.0 if mirrored else 0.5])
    motion = moves(fixed, 0.5, 0.125, 32)  # type: ignore[arg-type]
    moved = make_views(pixels, draws, config, 32, CPU, motion=motion)[0]
    moved = moved.flip(2) if mirrored else moved
    torch.testing.assert_close(moved[:, 2:, :-4], seen[:, :-2, 4:], atol=1e-4, rtol=0)


def test_the_kernel_reaches_three_of_the_largest_sigma(only: Only) -> None:
    own = {"wrong": ClassViews(blur_sigma=(1.0, 3.0))}
    assert blur_radius(only(blur_sigma=(0.1, 0.5)), 64) == 2
    assert blur_radius(only(per_class=own), 64) == 9
    assert blur_radius(only(per_class=own, blur_size=3), 64) == 1
    assert blur_radius(only(per_class=own), 4) == 3


def test_an_image_without_a_label_is_as_all_classes_are(only: Only) -> None:
    config = only(contrast=0.1, per_class={"wrong": ClassViews(contrast=0.9, blur=1.0)})
    found = strengths(config, np.array([1, -1, 0]), CLASSES)
    assert found["contrast"].tolist() == [0.9, 0.1, 0.1]
    assert found["blur"].tolist() == [1.0, 0.0, 0.0]
    assert found["blur_sigma"].tolist() == [[0.1, 2.0]] * 3


def test_a_class_that_the_data_does_not_have_is_a_mistake() -> None:
    config = ViewsConfig(per_class={"wrnog": ClassViews(blur=1.0)})
    with pytest.raises(UserError, match=r"'wrnog': views.per_class.*did you mean wrong"):
        check_views(config, CLASSES)
    check_views(ViewsConfig(per_class={"wrong": ClassViews(blur=1.0)}), CLASSES)


def test_the_views_of_the_mask_write_up_can_be_said(tmp_path: Path) -> None:
    """ColorJitter(saturation=.2) and RandomAffine(5, (.1, .1)) on all; ColorJitter(.3, .3) and
    GaussianBlur(3), whose sigma is 0.1 to 2, on the incorrect class."""
    recipe = recipe_of(
        [
            *("views.margin=0.0", "views.crop_scale=[1.0, 1.0]", "views.crop_ratio=[1.0, 1.0]"),
            *("views.flip=0.0", "views.rotate_degrees=5.0", "views.translate=0.1"),
            *("views.brightness=0.0", "views.contrast=0.0", "views.saturation=0.2"),
            *("views.hue=0.0", "views.blur_size=3"),
            "views.per_class.incorrect={brightness = 0.3, contrast = 0.3, blur = 1.0}",
        ]
    )
    assert recipe.views.per_class["incorrect"] == ClassViews(brightness=0.3, contrast=0.3, blur=1.0)
    assert blur_radius(recipe.views, 64) == 1
    assert recipe.views.blur_sigma == (0.1, 2.0)
    (tmp_path / "recipe.toml").write_text(write_toml(recipe))
    assert load_recipe(tmp_path / "recipe.toml") == recipe


def test_options_that_do_not_fit_are_named() -> None:
    for override, named in (
        ("views.blur_sigma=[2.0, 1.0]", "views.blur_sigma"),
        ("views.per_class.a.blur_sigma=[2.0, 1.0]", r"a\.blur_sigma"),
        ("views.per_class.a.flip=0.5", r"views\.per_class\.a\.flip"),
        ("views.blur_size=4", "blur_size: 4"),
        ("views.margin=3.5", "views.margin"),
    ):
        with pytest.raises(UserError, match=named):
            recipe_of([override])
    assert Recipe().views == ViewsConfig()


def test_a_crop_of_a_large_image_is_sharp(only: Only) -> None:
    """Where a crop does not shrink, presizing samples once: pixels arrive as they are stored."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    draws = Fixed(crop=[0.5, 0.5, 0.0, 0.0, 0.5, 0.5])  # the upper left corner
    config = only(crop_scale=(1 / 16, 1 / 16))  # a quarter of 64 pixels
    view = make_views(pixels, draws, config, 16, CPU)  # type: ignore[arg-type]
    torch.testing.assert_close(view, to_unit(pixels[:, :16, :16], CPU), atol=1e-5, rtol=0)
