"""Every option of every stage, as frozen models: a recipe holds only what differs from these.

Strategies, students and teacher families declare options of their own in their own files; here
they are plain mappings, checked by `distill.registry` before any work starts.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Jitter = Annotated[float, Field(ge=0.0, lt=1.0)]
Hue = Annotated[float, Field(ge=0.0, le=0.5)]
Scenario = Literal["single_stream", "multi_stream", "server", "offline"]


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"{pair[0]} > {pair[1]}, a range is written [low, high]")
    return pair


Area = Annotated[float, Field(gt=0.0, le=1.0)]
AreaRange = Annotated[tuple[Area, Area], AfterValidator(_ascending)]
Range = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]


class Options(BaseModel):
    """Base of every option group: immutable, no coercion, no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Options):
    """What an image is to every model: size and resize rule, what its labels are, and the splits.

    Attributes:
        task: `single`, one label per image, or `multi`, any number of them.
        split: Who decides on the splits. `given`: the source; a split that it does not give is
            taken out of `train`, near-duplicates together. `grouped`: made anew in the same way,
            whatever the source gives. `random`: as `given`, but image by image.
    """

    size: Annotated[int, Field(ge=16, le=1024)] = 128
    resize: Literal["shortest", "squash"] = "squash"
    crop_pct: Annotated[float, Field(gt=0.1, le=1.0)] = 1.0
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear"
    val_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.15
    test_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.15
    task: Literal["single", "multi"] = "single"
    split: Literal["given", "grouped", "random"] = "given"


class ClassViews(Options):
    """What one class has of its own in its training views; None is as for all classes."""

    brightness: Jitter | None = None
    contrast: Jitter | None = None
    saturation: Jitter | None = None
    hue: Hue | None = None
    blur: Fraction | None = None
    blur_sigma: Range | None = None


class ViewsConfig(Options):
    """Training views. Each parameter is drawn per image, from (seed, image, view number).

    What a turn, shear or shift brings in from outside the image is its mirror image.

    Attributes:
        margin: Share by which stored training images are larger than `data.size` (presizing): with
            1.0 crops are cut from images of twice the size, so that a small crop is still sharp. A
            crop that shrinks is averaged, not thinned out. Disk and memory grow with the square.
        crop_scale: Range of the crop's area, as a share of the stored image.
        crop_ratio: Range of the crop's width / height, sampled log-uniformly.
        flip: Probability of a horizontal mirror image.
        rotate_degrees: Largest rotation to either side.
        translate: Largest shift in each direction, as a share of the view's size.
        shear_degrees: Largest horizontal shear to either side.
        brightness, contrast, saturation: Factors are drawn from [1 - x, 1 + x].
        hue: Largest rotation of hue to either side, as a share of the full circle.
        blur: Probability of a Gaussian blur.
        blur_sigma: Range of its standard deviation, in pixels of the view.
        blur_size: Pixels across of its kernel, odd; None reaches 3 of the largest `blur_sigma` to
            either side.
        erase: Probability that a rectangle of 2 to 20 % of the area is replaced by mid-grey.
        per_class: Strengths of a class of its own, by the class's name.
    """

    margin: Annotated[float, Field(ge=0.0, le=3.0)] = 0.125
    crop_scale: AreaRange = (0.4, 1.0)
    crop_ratio: Range = (0.75, 4 / 3)
    flip: Fraction = 0.5
    rotate_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 10.0
    translate: Fraction = 0.0
    shear_degrees: Annotated[float, Field(ge=0.0, le=60.0)] = 0.0
    brightness: Jitter = 0.3
    contrast: Jitter = 0.3
    saturation: Jitter = 0.3
    hue: Hue = 0.03
    blur: Fraction = 0.0
    blur_sigma: Range = (0.1, 2.0)
    blur_size: Annotated[int, Field(ge=3, le=63)] | None = None
    erase: Fraction = 0.0
    per_class: dict[str, ClassViews] = {}

    @model_validator(mode="after")
    def _blur_has_a_centre(self) -> ViewsConfig:
        if self.blur_size is not None and self.blur_size % 2 == 0:
            raise ValueError(f"blur_size: {self.blur_size} is even, a kernel has a middle pixel")
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
        class_weights: `balanced` (inverse frequency), `effective` (inverse effective number), or
            one weight per class by name. They weigh labels, not what a teacher says; where images
            may have several labels, those that are there against those that are not.
        effective_beta: Of `effective`: 0 is no weights, towards 1 it becomes `balanced`.
        sampling: `balanced` draws every class equally often in an epoch of the usual length; an
            image that is drawn again is shown in the view of the next epoch.
        focal_gamma: Exponent of the focal factor on the labels' loss; 0 is off.
        logit_adjustment: Share of the classes' log-prior that student and teachers are judged
            with in training, so that without it the student is fair to rare classes; 1 is usual,
            0 is off. Class weights or balanced sampling beside it correct for the same twice.
        mixup: Beta parameter; 0 is off. Teachers see the mixed image.
        ema_decay: Decay per step of averaged weights, which then are the ones validated and kept;
            0 is off.
        clip_norm: Largest gradient norm; 0 is off.
        precision: `auto` is bf16 on a GPU that has it, else fp32.
        compile: Train through `torch.compile`: worth its minute of start-up on a GPU.
        validate_every: Epochs between validations; the last epoch is always validated.
        patience: Validations without a better score after which training stops; 0 is off.
        select: Validation score that chooses `best`; `auto` is top-1 accuracy or, where images may
            have several labels, mean average precision. Recall is a class's share of images that
            are found: `worst_recall` is that of the worst class.
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
    class_weights: Literal["none", "balanced", "effective"] | dict[str, Positive] = "none"
    effective_beta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    sampling: Literal["natural", "balanced"] = "natural"
    focal_gamma: Annotated[float, Field(ge=0.0)] = 0.0
    logit_adjustment: Annotated[float, Field(ge=0.0)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    mixup: Annotated[float, Field(ge=0.0)] = 0.0
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    clip_norm: Annotated[float, Field(ge=0.0)] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    validate_every: Count = 1
    patience: Annotated[int, Field(ge=0)] = 0
    select: Literal[
        "auto",
        "top1",
        "macro_f1",
        "macro_recall",
        "worst_recall",
        "map",
        "micro_f1",
        "exact_match",
        "loss",
    ] = "auto"


class CacheConfig(Options):
    """Teacher logits stored once per view, instead of a teacher that runs in every step.

    Attributes:
        use: False runs the teachers in every step, on a new view in each epoch.
        views: Views per image, which the epochs cycle over; `all` is one per epoch.
        top_k: Logits kept per image; the other classes share the rest evenly. 0 keeps all.
    """

    use: bool = True
    views: Count | Literal["all"] = 8
    top_k: Annotated[int, Field(ge=0)] = 0


class PluginConfig(BaseModel):
    """Name of a plug-in's file (or a dotted module), and the options it declares."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name; checked by the plug-in's own model."""
        return dict(self.model_extra or {})


class StrategyConfig(PluginConfig):
    """A file in `strategies/`."""

    name: str = "supervised"


class RunConfig(Options):
    """One training run: a teacher, a student, or a link in a chain of students.

    Attributes:
        name: Folder of the run; by default made of model and strategy.
        recipe: Another recipe (relative to this one) whose run is the base of this one.
        start: Name of an earlier student whose best weights this one starts from.
        teachers: Who teaches: `best` (the best teacher on validation) or names of teachers and
            of earlier students.
        cache: Where the teachers' logits come from.
        engine: `distill`, or `kd_lib` to train through KD_Lib itself.
    """

    name: Name
    model: ModelConfig
    strategy: StrategyConfig = StrategyConfig()
    transfer: TransferConfig = TransferConfig()
    train: TrainConfig = TrainConfig()
    cache: CacheConfig = CacheConfig()
    start: Name | None = None
    teachers: tuple[Name, ...] = ("best",)
    engine: Literal["distill", "kd_lib"] = "distill"


class ForestConfig(Options):
    """A random forest on small pixels, the baseline without a network; 0 trees is off."""

    trees: Annotated[int, Field(ge=0)] = 200
    size: Annotated[int, Field(ge=4, le=64)] = 24


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


TargetConfig = Annotated[PluginConfig, BeforeValidator(_named)]


class ExportConfig(Options):
    """What is shipped.

    Attributes:
        targets: Files in `export/` by name, or tables of a name and the target's own options.
            `onnx_fp32` is made in any case.
        student: Name of the student; `best` is the best on validation among the last links.
        path: Exporter: `dynamo`, `dynamo-unoptimized`, `legacy`, or `auto`, the first of them
            whose file agrees with torch.
        license: Licence of the shipped file, as an SPDX identifier, written into its metadata.
        thresholds: What an answer has to reach, tuned on validation. `f1` and `fpr` are for many
            labels, one threshold each: of the best F1, or of at most `max_fpr` false positives.
            `accuracy` is for one label: the lowest confidence from which on answers are at least
            `min_accuracy` accurate, with 95 % confidence. `none` is 0.5 for many labels and always
            an answer for one. `auto`: `f1` for many labels, `none` for one.
        max_fpr: Largest share of a label's negatives that are given it.
        min_accuracy: Smallest accuracy of the images that are answered, in percent.
        int8_max_drop: Most that an int8 file may lose of the task's main score on validation, in
            points.
        int8_qad_epochs: Epochs of quantisation-aware distillation, for where no calibration passes;
            0 is off.
        int8_qad_lr: Its peak learning rate.
    """

    targets: tuple[TargetConfig, ...] = tuple(
        PluginConfig(name=name) for name in ("onnx_fp32", "onnx_fp16", "onnx_int8")
    )
    student: Name = "best"
    license: str = ""
    path: Literal["auto", "dynamo", "dynamo-unoptimized", "legacy"] = "auto"
    thresholds: Literal["auto", "none", "f1", "fpr", "accuracy"] = "auto"
    max_fpr: Fraction = 0.05
    min_accuracy: Annotated[float, Field(ge=0.0, le=100.0)] = 99.0
    int8_max_drop: Annotated[float, Field(ge=0.0, le=100.0)] = 0.5
    int8_qad_epochs: Annotated[int, Field(ge=0)] = 3
    int8_qad_lr: Positive = 1e-4

    @field_validator("targets")
    @classmethod
    def _once_each(cls, targets: tuple[PluginConfig, ...]) -> tuple[PluginConfig, ...]:
        names = [target.name for target in targets]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{min(twice)!r} is there twice")
        return targets

    def rule(self, task: Literal["single", "multi"]) -> Literal["none", "f1", "fpr", "accuracy"]:
        """The rule that `thresholds` stands for.

        Raises:
            ValueError: It is not for this task.
        """
        if self.thresholds == "auto":
            return "f1" if task == "multi" else "none"
        if self.thresholds in (("accuracy",) if task == "multi" else ("f1", "fpr")):
            allowed = "auto, none, f1 or fpr" if task == "multi" else "auto, none or accuracy"
            raise ValueError(
                f"export.thresholds = {self.thresholds!r} with data.task = {task!r}: take {allowed}"
            )
        return self.thresholds


class BenchConfig(Options):
    """Inference speed.

    Attributes:
        batch_sizes: Of the scenario `offline`.
        seconds: Per model, engine, scenario and batch size, over all rounds; warm-up comes on top.
        threads: 0 for the physical cores.
        opponents: timm or torchvision names, exported with random weights.
        scenarios: How models are asked, see docs/speed.md.
        engines: Files in `benchmarks/engines/`, of which each takes ONNX files or run directories.
        streams: Of `multi_stream`, each with a query of its own at any time.
        latency_bound_ms: What the 99th percentile of the scenario `server` has to keep.
    """

    batch_sizes: tuple[Count, ...] = (1, 8, 64)
    seconds: Positive = 1.0
    rounds: Count = 3
    threads: Annotated[int, Field(ge=0)] = 0
    opponents: tuple[str, ...] = ()
    scenarios: tuple[Scenario, ...] = ("single_stream", "offline")
    engines: tuple[str, ...] = ("onnxruntime", "torch")
    device: Literal["cpu", "cuda"] = "cpu"
    streams: Count = 4
    latency_bound_ms: Positive = 15.0


class SearchConfig(Options):
    """Shapes of the compact student that `distill search` chooses from: all combinations of these.

    Attributes:
        sizes: Sizes of the images; none is `data.size` and three quarters of it.
        widths: Channels of the first of four stages; each further one has twice as many.
        depths: Blocks of each stage.
        stems: Stride of the first stage; the further ones have 2.
        kernels: Pixels across of the convolutions, one value or one per stage.
        promising: Shapes that are trained briefly, at most.
        brief_epochs: Epochs of that.
        precision: Of the file that is timed and weighed.
    """

    sizes: tuple[Annotated[int, Field(ge=16, le=1024)], ...] = ()
    widths: Annotated[tuple[Count, ...], Field(min_length=1)] = (8, 12, 16, 24, 32)
    depths: Annotated[tuple[tuple[Count, Count, Count, Count], ...], Field(min_length=1)] = (
        (1, 1, 1, 1),
        (1, 1, 2, 2),
        (1, 2, 2, 2),
        (1, 2, 3, 3),
    )
    stems: Annotated[tuple[Count, ...], Field(min_length=1)] = (2, 4)
    kernels: Annotated[tuple[tuple[Count, ...], ...], Field(min_length=1)] = ((3,), (3, 3, 3, 1))
    promising: Count = 8
    brief_epochs: Count = 10
    precision: Literal["fp32", "int8"] = "int8"


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
    search: SearchConfig = SearchConfig()

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
        self.export.rule(self.data.task)
        return self
