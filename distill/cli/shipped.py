"""`distill evaluate`, `predict` and `inspect`: what is done with a shipped file, without torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill.cli.advice import say_error
from distill.cli.options import FaceModelOpt, JsonOpt, ModelArg, model_path, path_of, takes
from distill.errors import UserError, printable
from distill.pipeline import stages
from distill.pipeline.opening import Settings
from distill.progress import Progress

if TYPE_CHECKING:
    from distill.runtime.explain import ExplainedPictures
    from distill.runtime.faces import FaceFinder, Faces
    from distill.runtime.predict import Prediction, Predictor


@takes("device", "workers", "trust", "as_json")
def evaluate_command(
    model: Annotated[
        Path, typer.Argument(parser=model_path, help="ONNX file, experiment or run directory.")
    ],
    data: Annotated[str, typer.Argument(help="Folder of class folders, or demo.")],
    settings: Settings,
    split: Annotated[str | None, typer.Option("--split", help="train, val or test.")] = None,
) -> None:
    """Score a model on labelled images, with the thresholds that its file has."""
    from distill.pipeline.evaluate import evaluate
    from distill.report.results import Caution
    from distill.report.table import confusion_table, label_table, scores_line, show

    trust, progress = settings.trust, Progress()
    scores = evaluate(model, data, split, settings.device, settings.workers, progress, trust)
    show(confusion_table(scores) if "confusion" in scores else label_table(scores))
    print(f"{scores['model']}: {scores_line(scores)}")
    if "outliers" in scores:
        count, share = scores["outliers"]["count"], scores["outliers"]["share"]
        print(f"{count:,} of them ({share:.1f} %) are unlike those that it was trained on")
    for warning in scores["warnings"]:
        print(Caution(**warning))
    for path, reason in scores["unreadable"].items():
        print(printable(f"left out, unreadable: {path}: {reason}"), file=sys.stderr)
    stages.emit(scores, settings.as_json)


def predict_command(
    model: ModelArg,
    images: Annotated[
        list[Path], typer.Argument(parser=path_of, help="Pictures, or folders of them.")
    ],
    faces: Annotated[
        bool, typer.Option("--faces", help="Find the faces in each, and label those.")
    ] = False,
    face_model: FaceModelOpt = None,
    explain: Annotated[
        Path | None,
        typer.Option("--explain", metavar="DIR", help="Write pictures of what made the answers."),
    ] = None,
    reject_outliers: Annotated[
        bool,
        typer.Option("--reject-outliers", help="Give no label to what training had nothing of."),
    ] = False,
    as_json: JsonOpt = False,
) -> None:
    """Label pictures, or the faces in them, with a shipped file; needs no torch."""
    from distill.runtime.explain import ExplainedPictures
    from distill.runtime.predict import Predictor, UnreadableImageError, find_images

    finder = _finder(face_model) if faces or face_model else None
    predictor = Predictor(model, reject_outliers=reject_outliers)
    pictures = ExplainedPictures(explain, predictor) if explain else None
    paths = find_images(images, Progress().say)
    if predictor.path != model:
        print(printable(f"answers of {predictor.path}"), file=sys.stderr)
    failed = 0
    for path in paths:
        try:
            answer, shown = _answer(path, predictor, finder, pictures)
        except (UnreadableImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            remedy = None if isinstance(error, OSError) else error.hint
            hint = remedy or "name pictures, or folders of them"
            problem = UserError(f"not readable, {reason}", str(path), hint)
            if len(paths) == 1:
                raise problem from None
            failed += 1
            say_error(problem)
            continue
        if as_json:
            explained = {"explained": shown} if shown else {}
            print(stages.json_line({**answer.to_json(), **explained}))
        else:
            for line in f"{printable(path)}: {answer}".splitlines():
                print(printable(line))
    if failed:
        what = f"{failed} of {len(paths)} pictures could not be read"
        raise UserError(what, hint="see the lines above; the others are answered")


def _finder(model: Path | None) -> FaceFinder:
    from distill.runtime.faces import FaceFinder

    return FaceFinder(model)


def _answer(
    path: Path,
    predictor: Predictor,
    finder: FaceFinder | None,
    pictures: ExplainedPictures | None,
) -> tuple[Prediction | Faces, str | list[str] | None]:
    """The answer to a picture, and the files that explain it: one, or one for each face."""
    if finder is None and pictures is None:
        return predictor.predict(path)[0], None
    if finder is None:
        assert pictures is not None
        prediction, file = pictures.answer(path)
        return prediction, str(file)
    from distill.runtime.faces import label_faces

    if pictures is None:
        return label_faces(path, predictor, finder), None
    faces, files = pictures.answer_faces(path, finder)
    return faces, [str(file) for file in files]


def inspect_command(
    model: ModelArg,
    as_json: JsonOpt = False,
) -> None:
    """Show what is inside a shipped file; needs no torch, and says more where onnx is installed."""
    from distill.runtime.inspect_file import describe_file, lines_of
    from distill.runtime.shipped import shipped_file

    record = describe_file(shipped_file(model))
    for line in lines_of(record):
        print(printable(line))
    stages.emit(record, as_json)
