"""Every option of every stage, as frozen models: a recipe holds only what differs from these.

Strategies, students and teacher families declare options of their own in their own files; here
they are plain mappings, checked by `distill.registry` before any work starts.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Jitter = Annotated[float, Field(ge=0.0, lt=1.0)]


class Options(BaseModel):
    """Base of every option group: immutable, no coercion, no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Options):
    """What an image is to every model: size and resize rule, and how missing splits are made."""

    size: Annotated[int, Field(ge=16, le=1024)] = 128
    resize: Literal["shortest", "squash"] = "squash"
    crop_pct: Annotated[float, Field(gt=0.1, le=1.0)] = 1.0
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear"
    val_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.15
    test_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.15


class ViewsConfig(Options):
    """Training views. Each parameter is drawn per image, from (seed, image, view number).

    Attributes:
        margin: Share by which stored training images are larger than `data.size`.
        crop_scale: Range of the crop's area, as a share of the stored image.
        crop_ratio: Range of the crop's width / height, sampled log-uniformly.
        flip: Probability of a horizontal mirror image.
        rotate_degrees: Largest rotation to either side.
        brightness, contrast, saturation: Factors are drawn from [1 - x, 1 + x].
        hue: Largest rotation of hue to either side, as a share of the full circle.
        erase: Probability that a rectangle of 2 to 20 % of the area is replaced by mid-grey.
    """

    margin: Fraction = 0.125
    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (
        0.4,
        1.0,
    )
    crop_ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    flip: Fraction = 0.5
    rotate_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 10.0
    brightness: Jitter = 0.3
    contrast: Jitter = 0.3
    saturation: Jitter = 0.3
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.03
    erase: Fraction = 0.0

    @model_validator(mode="after")
    def _ranges_ascend(self) -> ViewsConfig:
        for key in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key}: {low} > {high}, a range is written [low, high]")
        return self


class ModelConfig(Options):
    """A network by name: `timm/…`, `torchvision/…`, a file in `students/`, or a dotted module.

    Attributes:
        pretrained: True for the library's own weights, a path to a local file (relative to the
            recipe), or False for a random start.
        input_size: Size this network works at; None for `data.size`. It resizes for itself.
        options: Options that the model's own file declares.
    """

    name: str
    pretrained: bool | str = False
    input_size: Annotated[int, Field(ge=16, le=1024)] | None = None
    options: dict[str, Any] = {}


class TransferConfig(Options):
    """Which layers learn, and how fast.

    Attributes:
        mode: `head` freezes the backbone, its BatchNorm statistics too; `partial` trains the last
            `stages` stages and the head; `full` trains everything.
        stages: Stages before the head that `partial` trains.
        freeze_epochs: Epochs at the start in which only the head learns, whatever the mode.
        layer_lr_decay: Factor on the learning rate per stage, going from the head to the input.
    """

    mode: Literal["head", "partial", "full"] = "full"
    stages: Count = 1
    freeze_epochs: Annotated[int, Field(ge=0)] = 0
    layer_lr_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0


class TrainConfig(Options):
    """The one training loop.

    Attributes:
        lr: Peak learning rate, of the head where `transfer.layer_lr_decay` is below 1.
        weight_decay: Not applied to biases, norms and other one-dimensional parameters.
        schedule: Shape after warm-up; `step` multiplies by `step_factor` every `step_epochs`,
            `plateau` by `step_factor` after `plateau_epochs` without a better validation loss.
        class_weights: `balanced` (inverse frequency, mean 1) or one weight per class by name.
        mixup: Beta parameter; 0 is off. Teachers see the mixed image.
        ema_decay: Decay per step of averaged weights, which then are the ones validated and kept;
            0 is off.
        clip_norm: Largest gradient norm; 0 is off.
        precision: `auto` is bf16 on a GPU that has it, else fp32.
        patience: Epochs without a better validation score after which training stops; 0 is off.
        select: Validation score that chooses `best`.
    """

    epochs: Count = 30
    batch_size: Count = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    schedule: Literal["constant", "cosine", "onecycle", "plateau", "step"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 1.0
    step_epochs: Count = 7
    step_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    plateau_epochs: Count = 3
    class_weights: Literal["none", "balanced"] | dict[str, Positive] = "none"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    mixup: Annotated[float, Field(ge=0.0)] = 0.0
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    clip_norm: Annotated[float, Field(ge=0.0)] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    patience: Annotated[int, Field(ge=0)] = 0
    select: Literal["top1", "macro_f1", "loss"] = "top1"


class StrategyConfig(BaseModel):
    """Name of a file in `strategies/` (or a dotted module), and the options it declares."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    name: str = "supervised"

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name; checked by the strategy's own model."""
        return dict(self.model_extra or {})


class RunConfig(Options):
    """One training run: a teacher, a student, or a link in a chain of students.

    Attributes:
        name: Folder of the run; by default made of model and strategy.
        recipe: Another recipe (relative to this one) whose run is the base of this one.
        start: Name of an earlier student whose best weights this one starts from.
        teachers: Who teaches: `best` (the best teacher on validation) or names of teachers and
            of earlier students.
        engine: `distill`, or `kd_lib` to train through KD_Lib itself.
    """

    name: Name
    model: ModelConfig
    strategy: StrategyConfig = StrategyConfig()
    transfer: TransferConfig = TransferConfig()
    train: TrainConfig = TrainConfig()
    start: Name | None = None
    teachers: tuple[Name, ...] = ("best",)
    engine: Literal["distill", "kd_lib"] = "distill"


class ForestConfig(Options):
    """A random forest on small pixels, the baseline without a network; 0 trees is off."""

    trees: Annotated[int, Field(ge=0)] = 200
    size: Annotated[int, Field(ge=4, le=64)] = 24


class ExportConfig(Options):
    """What is shipped.

    Attributes:
        student: Name of the student; `best` is the best on validation among the last links.
        path: Exporter: `dynamo`, `dynamo-unoptimized`, `legacy`, or `auto`, the first of them
            whose file agrees with torch.
        license: Licence of the shipped file, as an SPDX identifier, written into its metadata.
    """

    student: Name = "best"
    license: str = ""
    path: Literal["auto", "dynamo", "dynamo-unoptimized", "legacy"] = "auto"


class BenchConfig(Options):
    """Inference speed. `opponents` are timm or torchvision names, exported with random weights."""

    batch_sizes: tuple[Count, ...] = (1, 8, 64)
    seconds: Positive = 1.0
    rounds: Count = 3
    threads: Annotated[int, Field(ge=0)] = 0
    opponents: tuple[str, ...] = ()


class Recipe(Options):
    """A whole experiment."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    teachers: tuple[RunConfig, ...] = ()
    students: tuple[RunConfig, ...] = ()
    random_forest: ForestConfig = ForestConfig()
    export: ExportConfig = ExportConfig()
    bench: BenchConfig = BenchConfig()

    @model_validator(mode="after")
    def _names_resolve(self) -> Recipe:
        known: list[str] = []
        for run in (*self.teachers, *self.students):
            if run.name in known:
                raise ValueError(f"two runs are named {run.name!r}: give each a `name`")
            for other in (*run.teachers, *((run.start,) if run.start else ())):
                if other != "best" and other not in known:
                    raise ValueError(
                        f"{run.name!r} refers to {other!r}, which is not an earlier run: {known}"
                    )
            known.append(run.name)
        if self.export.student not in {"best", *(run.name for run in self.students)}:
            raise ValueError(f"export.student = {self.export.student!r} is no student: {known}")
        return self
