"""Every option of every stage, as frozen models: a recipe holds only what differs from these.

What an option means stands below it; `distill options` and docs/options.md print it from here.

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

Interpolation = Literal["bilinear", "bicubic", "lanczos", "box", "hamming"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
# Upper bounds are far beyond use; past them something runs without end, or out of memory.
NonNegative = Annotated[float, Field(ge=0.0, le=1e30)]
Positive = Annotated[float, Field(gt=0.0, le=1e30)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
MAX_SIZE = 1024
Size = Annotated[int, Field(ge=16, le=MAX_SIZE)]  # of an image's side, in pixels
CropPct = Annotated[float, Field(gt=0.1, le=1.0)]
Width = Annotated[int, Field(ge=1, le=8192)]
Depth = Annotated[int, Field(ge=1, le=200)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Jitter = Annotated[float, Field(ge=0.0, lt=1.0)]
Hue = Annotated[float, Field(ge=0.0, le=0.5)]
TaskName = Literal["single", "multi"]  # labels of an image: one, or any number
Scenario = Literal["single_stream", "multi_stream", "server", "offline"]


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"{pair[0]} > {pair[1]}, a range is written [low, high]")
    return pair


Area = Annotated[float, Field(gt=0.0, le=1.0)]
AreaRange = Annotated[tuple[Area, Area], AfterValidator(_ascending)]
Range = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]


def _listed(value: Any) -> Any:
    """A list that was written as words with commas between them, as on a command line."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Words = BeforeValidator(_listed)


def _counted(value: Any) -> Any:
    """A list of whole numbers that was written with commas between them."""
    parts = _listed(value)
    return tuple(int(p) if isinstance(p, str) and p.isdigit() else p for p in parts)


Numbers = BeforeValidator(_counted)


class Options(BaseModel):
    """Base of every option group: immutable, no coercion, no unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class DataConfig(Options):
    """What an image is to every model: size and resize rule, kind of labels, and the splits."""

    size: Size = 128
    """Height and width of what networks see, in pixels."""
    resize: Literal["shortest", "squash"] = "squash"
    """`shortest` scales the shorter side and cuts the centre, `squash` scales both sides."""
    crop_pct: CropPct = 1.0
    """Of `shortest`: share of the shorter side that the cut keeps."""
    interpolation: Interpolation = "bilinear"
    """Filter by which images are scaled, by its name in Pillow."""
    val_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.15
    """Share of `train` that becomes the validation split where the source gives none."""
    test_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.15
    """The same of the test split."""
    store: Literal["disk", "stream"] = "disk"
    """Where images to train on wait, those without labels among them: decoded on `disk`, or as they
    are, to be decoded each time that they are read (`stream`), where no disk has room for more.
    """
    task: TaskName = "single"
    """`single`, one label per image, or `multi`, any number of them."""
    split: Literal["given", "grouped", "shifted", "random"] = "given"
    """Who decides on the splits. `given`: the source; a split that it does not give is taken out of
    `train`, near-duplicates together. `grouped`: made anew in the same way, whatever the source
    gives. `shifted`: anew too, by whole kinds of images, for a score nearer to that of pictures
    from elsewhere: by folders below a class where it has three, else by clusters of features.
    `random`: as `given`, but image by image.
    """


class ClassViews(Options):
    """What one class has of its own in its training views; None is as for all classes."""

    brightness: Jitter | None = None
    """Instead of `views.brightness`."""
    contrast: Jitter | None = None
    """Instead of `views.contrast`."""
    saturation: Jitter | None = None
    """Instead of `views.saturation`."""
    hue: Hue | None = None
    """Instead of `views.hue`."""
    blur: Fraction | None = None
    """Instead of `views.blur`."""
    blur_sigma: Range | None = None
    """Instead of `views.blur_sigma`."""


class ViewsConfig(Options):
    """Training views. Each parameter is drawn per image, from (seed, image, view number).

    What a turn, shear or shift brings in from outside the image is its mirror image.
    """

    margin: Annotated[float, Field(ge=0.0, le=3.0)] = 0.125
    """Share by which stored training images are larger than `data.size` (presizing): with 1.0 crops
    are cut from images of twice the size, so that a small crop is still sharp. A crop that shrinks
    is averaged, not thinned out. Disk and memory grow with the square.
    """
    crop_scale: AreaRange = (0.4, 1.0)
    """Range of the crop's area, as a share of the stored image."""
    crop_ratio: Range = (0.75, 4 / 3)
    """Range of the crop's width / height, sampled log-uniformly."""
    flip: Fraction = 0.5
    """Probability of a horizontal mirror image."""
    rotate_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 10.0
    """Largest rotation to either side."""
    translate: Fraction = 0.0
    """Largest shift in each direction, as a share of the view's size; of whole pixels."""
    shear_degrees: Annotated[float, Field(ge=0.0, le=60.0)] = 0.0
    """Largest horizontal shear to either side."""
    brightness: Jitter = 0.3
    """Factors are drawn from [1 - x, 1 + x]."""
    contrast: Jitter = 0.3
    """Factors are drawn from [1 - x, 1 + x]."""
    saturation: Jitter = 0.3
    """Factors are drawn from [1 - x, 1 + x]."""
    hue: Hue = 0.03
    """Largest rotation of hue to either side, as a share of the full circle."""
    blur: Fraction = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: Range = (0.1, 2.0)
    """Range of its standard deviation, in pixels of the view."""
    blur_size: Annotated[int, Field(ge=3, le=63)] | None = None
    """Pixels across of its kernel, odd; None reaches 3 of the largest `blur_sigma` to either side.
    """
    erase: Fraction = 0.0
    """Probability that a rectangle of 2 to 20 % of the area is replaced by mid-grey."""
    per_class: dict[str, ClassViews] = {}
    """Strengths of a class of its own, by the class's name."""

    @model_validator(mode="after")
    def _blur_has_a_centre(self) -> ViewsConfig:
        if self.blur_size is not None and self.blur_size % 2 == 0:
            raise ValueError(f"blur_size: {self.blur_size} is even, a kernel has a middle pixel")
        return self


class ModelConfig(Options):
    """A network by name: `timm/…`, `torchvision/…`, a file in `students/`, or a dotted module."""

    name: str
    """`timm/NAME`, `torchvision/NAME`, a file in `students/`, or a dotted module."""
    pretrained: bool | str = False
    """True for the library's own weights, a path to a local file (relative to the recipe), or False
    for a random start.
    """
    input_size: Size | None = None
    """Size this network works at; None for `data.size`. It resizes for itself."""
    options: dict[str, Any] = {}
    """Options that the model's own file declares."""


class TransferConfig(Options):
    """Which layers learn, and how fast."""

    mode: Literal["head", "partial", "full"] = "full"
    """`head` freezes the backbone, its BatchNorm statistics too; `partial` trains the last `stages`
    stages and the head; `full` trains everything.
    """
    stages: Count = 1
    """Stages before the head that `partial` trains."""
    freeze_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs at the start in which only the head learns, whatever the mode."""
    layer_lr_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor on the learning rate per stage, going from the head to the input."""
    start_share: Fraction = 0.0
    """Share that the weights at the end of the frozen phase have in those that are kept (WiSE-FT):
    for images unlike those that are trained on.
    """

    @model_validator(mode="after")
    def _start_has_a_head(self) -> TransferConfig:
        if self.start_share and not self.freeze_epochs:
            raise ValueError("start_share: wants freeze_epochs, or its head would be a random one")
        return self


class TrainConfig(Options):
    """The one training loop."""

    epochs: Count = 30
    """Passes over the training images."""
    batch_size: Count = 64
    """Images per batch, of each process. A step is of `batch_size` x processes x `accumulate`
    images, the effective batch, and `lr` is taken as it is given, whatever that comes to.
    """
    accumulate: Count = 1
    """Batches whose gradients each process averages for one optimiser step: a larger batch in the
    memory of a smaller one. BatchNorm still sees single batches, and each batch with label weights
    is a weighted mean of its own.
    """
    sync_batchnorm: bool = False
    """BatchNorm's statistics in training are over the batches of all processes, on GPUs; else each
    has its own, and the first one's averages are kept. One process has nothing to share.
    """
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    """`sgd` has Nesterov momentum. `muon` makes steps of matrices and convolutions orthogonal, with
    rates and decays as of `adamw`, which the other parameters have.
    """
    lr: Positive = 1e-3
    """Peak learning rate, of the head where `transfer.layer_lr_decay` is below 1."""
    weight_decay: NonNegative = 0.05
    """Not applied to biases, norms and other one-dimensional parameters."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Of `sgd`; `muon` has 0.95."""
    schedule: Literal["constant", "cosine", "onecycle", "plateau", "step"] = "cosine"
    """Shape after warm-up; `step` multiplies by `step_factor` every `step_epochs`, `plateau` by
    `step_factor` after `plateau_epochs` without a better validation loss.
    """
    warmup_epochs: NonNegative = 1.0
    """Epochs in which the rate rises to its peak; `onecycle` has its own."""
    step_epochs: Count = 7
    """Of `step`: epochs between two steps."""
    step_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Of `step` and `plateau`: what the rate is multiplied by."""
    plateau_epochs: Count = 3
    """Of `plateau`: validations without a better loss that it waits for."""
    class_weights: Literal["none", "balanced", "effective"] | dict[str, Positive] = "none"
    """`balanced` (inverse frequency), `effective` (inverse effective number), or one weight per
    class by name. They weigh labels, not what a teacher says; where images may have several labels,
    those that are there against those that are not.
    """
    effective_beta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Of `effective`: 0 is no weights, towards 1 it becomes `balanced`."""
    sampling: Literal["natural", "balanced"] = "natural"
    """`balanced` draws every class equally often in an epoch of the usual length; an image that is
    drawn again is shown in the view of the next epoch.
    """
    focal_gamma: NonNegative = 0.0
    """Exponent of the focal factor on the labels' loss; 0 is off."""
    logit_adjustment: NonNegative = 0.0
    """Share of the classes' log-prior that student and teachers are judged with in training, so
    that without it the student is fair to rare classes; 1 is usual, 0 is off. Class weights or
    balanced sampling beside it correct for the same twice.
    """
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of each label that is given to all answers alike."""
    mixup: NonNegative = 0.0
    """Beta parameter; 0 is off. Teachers see the mixed image."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay per step of averaged weights, which then are the ones validated and kept; 0 is off. It
    rises to this value, so that short runs have an average of what they learned.
    """
    clip_norm: NonNegative = 0.0
    """Largest gradient norm; 0 is off."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 on a GPU that has it, else fp32."""
    compile: bool = False
    """Train through `torch.compile`: on a GPU, where small students wait for the host, twice as
    fast after a start of 15 s."""
    views: Count | Literal["all"] = "all"
    """Views per image that epochs go through where no teacher's logits are cached, `all` being a
    new one each epoch.
    """
    shift: Fraction = 0.0
    """Largest shift, as a share of the view's size. In each epoch the student sees a view moved by
    another distance up to it, and mirrored as often as `views.flip` says; cached answers stay those
    to the view itself. So views that come round five times or more go further.
    """
    validate_every: Count = 1
    """Epochs between validations; the last epoch is always validated."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Validations without a better score, or a lower loss at the same score, after which training
    stops; 0 is off.
    """
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
    """Validation score that chooses `best`, of equals the one of the lower loss; `auto` is top-1
    accuracy or, where images may have several labels, mean average precision. Recall is a class's
    share of images that are found: `worst_recall` is that of the worst class.
    """


class CacheConfig(Options):
    """Teacher logits stored once per view, instead of a teacher that runs in every step."""

    use: bool = True
    """False runs the teachers in every step, on a new view in each epoch."""
    views: Count | Literal["all"] = 8
    """Views per image, which the epochs cycle over; `all` is one per epoch."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Logits kept per image; the other classes share the rest evenly. 0 keeps all."""


class PluginConfig(BaseModel):
    """Name of a plug-in's file (or a dotted module), and the options it declares."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="allow", use_attribute_docstrings=True
    )

    name: str
    """A file in the plug-in's folder, or a dotted module."""

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name; checked by the plug-in's own model."""
        return dict(self.model_extra or {})


class StrategyConfig(PluginConfig):
    """A file in `strategies/`."""

    name: str = "supervised"
    """A file in `strategies/`, or a dotted module."""


class RunConfig(Options):
    """One training run: a teacher, a student, or a link in a chain of students.

    In a recipe, an entry may also have `recipe`: another one, relative to it, whose run is the base
    of this one.
    """

    name: Name
    """Folder of the run; by default made of model and strategy."""
    model: ModelConfig
    """The network."""
    strategy: StrategyConfig = StrategyConfig()
    """How it is taught: a name, and the options of that strategy."""
    transfer: TransferConfig = TransferConfig()
    """Which layers learn, and how fast."""
    train: TrainConfig = TrainConfig()
    """The training loop."""
    cache: CacheConfig = CacheConfig()
    """Where the teachers' logits come from."""
    start: Name | None = None
    """Name of an earlier student whose best weights this one starts from."""
    teachers: tuple[Name, ...] = ("best",)
    """Who teaches: `best` (the best teacher on validation) or names of teachers and of earlier
    students.
    """
    unlabelled: bool = True
    """Learn from the images of `--unlabelled` too."""
    engine: Literal["distill", "kd_lib"] = "distill"
    """`distill`, or `kd_lib` to train through KD_Lib itself."""
    seed: Seed | None = None
    """Of this run alone, instead of the recipe's."""

    @property
    def cached_views(self) -> int:
        """Views per image whose logits are stored: never more than there are epochs."""
        views, epochs = self.cache.views, self.train.epochs
        return epochs if views == "all" else min(views, epochs)


class ForestConfig(Options):
    """A random forest on small pixels, the baseline without a network; 0 trees is off."""

    trees: Annotated[int, Field(ge=0)] = 200
    """Trees; 0 leaves the forest out."""
    size: Annotated[int, Field(ge=4, le=64)] = 24
    """Height and width of the images that it sees, in pixels."""


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


TargetConfig = Annotated[PluginConfig, BeforeValidator(_named)]


class ExportConfig(Options):
    """What is shipped."""

    targets: Annotated[tuple[TargetConfig, ...], Words] = tuple(
        PluginConfig(name=name) for name in ("onnx_fp32", "onnx_fp16", "onnx_int8")
    )
    """Files in `export/` by name, or tables of a name and the target's own options. `onnx_fp32` is
    made in any case.
    """
    student: Name = "best"
    """Name of the student; `best` is the best on validation of those that teach no other."""
    license: str = ""
    """Licence of the shipped file, as an SPDX identifier, written into its metadata."""
    data_license: str = ""
    """Licence of the images, for the model card; where it is empty, what the data state
    themselves: in the metadata of a `README.md`, or in a file `LICENSE` beside them.
    """
    path: Literal["auto", "dynamo", "dynamo-unoptimized", "legacy"] = "auto"
    """Exporter: `dynamo`, `dynamo-unoptimized`, `legacy`, or `auto`, the first of them whose file
    agrees with torch.
    """
    thresholds: Literal["auto", "none", "f1", "fpr", "accuracy"] = "auto"
    """What an answer has to reach, tuned on validation. `f1` and `fpr` are for many labels, one
    threshold each: of the best F1, or of at most `max_fpr` false positives. `accuracy` is for one
    label: the lowest confidence from which on answers are at least `min_accuracy` accurate, with 95
    % confidence. `none` is 0.5 for many labels and always an answer for one. `auto`: `f1` for many
    labels, `none` for one.
    """
    temperature_scaling: bool = True
    """Divide logits by the temperature that fits validation best, before thresholds are tuned: it
    is in the file's weights, costs nothing, and changes how sure answers are, not which they are.
    """
    max_fpr: Fraction = 0.05
    """Largest share of a label's negatives that are given it."""
    min_accuracy: Annotated[float, Field(ge=0.0, le=100.0)] = 99.0
    """Smallest accuracy of the images that are answered, in percent."""
    int8_max_drop: Annotated[float, Field(ge=0.0, le=100.0)] = 0.5
    """Most that an int8 file may lose of the task's main score on validation, in points."""
    int8_max_kb: Annotated[float, Field(ge=0.0)] = 0.0
    """Largest int8 file, in units of 1,000 bytes; 0 for any. Layers in float may be too large."""
    int8_qad_epochs: Annotated[int, Field(ge=0)] = 3
    """Epochs of quantisation-aware distillation, for where no calibration passes; 0 is off."""
    int8_qad_lr: Positive = 1e-4
    """Its peak learning rate."""

    @field_validator("targets")
    @classmethod
    def _once_each(cls, targets: tuple[PluginConfig, ...]) -> tuple[PluginConfig, ...]:
        names = [target.name for target in targets]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{min(twice)!r} is there twice")
        return targets

    def rule(self, task: TaskName) -> Literal["none", "f1", "fpr", "accuracy"]:
        """The rule that `thresholds` stands for.

        Raises:
            ValueError: It is not for this task.
        """
        if self.thresholds == "auto":
            return "f1" if task == "multi" else "none"
        if self.thresholds in (("accuracy",) if task == "multi" else ("f1", "fpr")):
            allowed = "auto, none, f1 or fpr" if task == "multi" else "auto, none or accuracy"
            what = f"{self.thresholds!r} is not for data.task={task}, take {allowed}"
            raise ValueError(f"export.thresholds: {what}")
        return self.thresholds


class BenchConfig(Options):
    """Inference speed."""

    batch_sizes: Annotated[tuple[Count, ...], Numbers] = (1, 8, 64)
    """Of the scenario `offline`."""
    seconds: Positive = 1.0
    """Per model, engine, scenario and batch size, over all rounds; warm-up comes on top."""
    rounds: Count = 3
    """Processes per model and engine, interleaved with those of the others."""
    max_share: Annotated[float, Field(gt=0.0)] = 0.25
    """Most that the stage of `distill run` may take, as a share of what training took: rounds that
    would not end in time are left out, but for the first.
    """
    threads: Annotated[int, Field(ge=0)] = 0
    """0 for the physical cores; a search and the gate of the int8 file then take one thread for a
    file that it is about as fast with.
    """
    opponents: Annotated[tuple[str, ...], Words] = ()
    """timm or torchvision names, exported with random weights."""
    scenarios: Annotated[tuple[Scenario, ...], Words] = ("single_stream", "offline")
    """How models are asked, see docs/speed.md."""
    engines: Annotated[tuple[str, ...], Words] = ("onnxruntime", "torch")
    """Files in `benchmarks/engines/`, of which each takes ONNX files or run directories. `all` is
    all of them.
    """
    device: Literal["cpu", "cuda"] = "cpu"
    """What engines run on."""
    streams: Count = 4
    """Of `multi_stream`, each with a query of its own at any time."""
    latency_bound_ms: Positive = 15.0
    """What the 99th percentile of the scenario `server` has to keep."""


class SearchConfig(Options):
    """Shapes of the compact student that `distill search` chooses from: all combinations."""

    sizes: tuple[Size, ...] = ()
    """Sizes of the images; none is `data.size` and three quarters of it."""
    widths: Annotated[tuple[Count, ...], Field(min_length=1)] = (8, 12, 16, 24, 32)
    """Channels of the first of four stages; each further one has twice as many."""
    depths: Annotated[tuple[tuple[Count, Count, Count, Count], ...], Field(min_length=1)] = (
        (1, 1, 1, 1),
        (1, 1, 2, 2),
        (1, 2, 2, 2),
        (1, 2, 3, 3),
    )
    """Blocks of each stage."""
    stems: Annotated[tuple[Count, ...], Field(min_length=1)] = (2, 4)
    """Stride of the first stage; the further ones have 2."""
    kernels: Annotated[tuple[tuple[Count, ...], ...], Field(min_length=1)] = ((3,), (3, 3, 3, 1))
    """Pixels across of the convolutions, one value or one per stage."""
    promising: Count = 8
    """Shapes that are trained briefly, at most."""
    brief_epochs: Count = 10
    """Epochs of that."""
    precision: Literal["fp32", "int8"] = "int8"
    """Of the file that is timed and weighed."""


class Recipe(Options):
    """A whole experiment."""

    seed: Seed = 0
    """Of splits, shuffles, views, noise and random starts."""
    seeds: Annotated[int, Field(ge=0, le=100)] = 0
    """How many seeds each student is trained with, each time beside the same student alone, for the
    verdict whether a teacher helps; 0 trains no student alone. Splits and teachers stay.
    """
    also: Annotated[tuple[str, ...], Words] = ()
    """Labelled images from elsewhere, read as `--data` is, that every model of the table is scored
    on; nothing is chosen by them.
    """
    track: Annotated[tuple[str, ...], Words] = ()
    """Who is told of every epoch of every run, beside its `metrics.jsonl` and `metrics.csv`:
    files in `training/trackers/`, see docs/recipes.md, or dotted modules.
    """
    data: DataConfig = DataConfig()
    """The images."""
    views: ViewsConfig = ViewsConfig()
    """Training views."""
    teachers: Annotated[tuple[RunConfig, ...], Field(max_length=100)] = ()
    """Each is trained; on the command line `teacher.KEY` reaches all of them."""
    students: Annotated[tuple[RunConfig, ...], Field(max_length=100)] = ()
    """Each is distilled; on the command line `student.KEY` reaches all of them."""
    random_forest: ForestConfig = ForestConfig()
    """The baseline without a network."""
    haar: Literal["auto", "on", "off"] = "auto"
    """The baseline of OpenCV's Haar cascades: which class goes with the faces, eyes and mouths that
    they find. `auto` has it where a sample of the training images shows faces and
    `distillate[haar]` is installed.
    """
    export: ExportConfig = ExportConfig()
    """What is shipped."""
    bench: BenchConfig = BenchConfig()
    """Inference speed."""
    search: SearchConfig = SearchConfig()
    """What `distill search` chooses from."""

    def seed_of(self, run: RunConfig) -> int:
        """The seed of a run."""
        return self.seed if run.seed is None else run.seed

    def key(self, run: RunConfig) -> str:
        """What a run's options begin with, as they are typed."""
        role, runs = "student", self.students
        if run in self.teachers:
            role, runs = "teacher", self.teachers
        return role if len(runs) == 1 else f"{role}s.{run.name}"

    @model_validator(mode="after")
    def _names_resolve(self) -> Recipe:
        known: list[str] = []
        for run in (*self.teachers, *self.students):
            key = self.key(run)
            if run.name in known:
                raise ValueError(f"{key}.name: two runs are named {run.name!r}, give each its own")
            started = [("start", run.start)] if run.start else []
            for option, other in (*started, *(("teachers", name) for name in run.teachers)):
                if other not in known and (option, other) != ("teachers", "best"):
                    what = f"{other!r} is none of the earlier runs {known}"
                    raise ValueError(f"{key}.{option}: {what}")
            known.append(run.name)
        students = [run.name for run in self.students]
        if self.export.student not in ("best", *students):
            raise ValueError(f"export.student: {self.export.student!r} is none of {students}")
        self.export.rule(self.data.task)
        return self
