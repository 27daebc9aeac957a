"""What a table has no room for, line by line."""

from __future__ import annotations

from collections.abc import Iterator

from distill.report.results import Results


def elsewhere_lines(results: Results) -> Iterator[str]:
    """How what ships does on test images by distance, and all models on pictures from elsewhere."""
    main, unit = ("map", "% mAP") if "map" in results.verdict else ("top1", "%")
    if results.distance is not None:
        file, quarters = results.distance["file"], results.distance["quarters"]
        listed = ", ".join(f"{quarter['accuracy']:.1f}" for quarter in quarters)
        how = "by quarters, from the most to the least like training images"
        yield f"{file} on test {how}: {listed} %{' of labels' if main == 'map' else ''}"
    for place in results.elsewhere:
        shown = ((row["name"], row["test"].get(main)) for row in place["rows"])
        scores = ", ".join(f"{name} {score:.2f}" for name, score in shown if score is not None)
        what = f"{place['n']:,} images"
        if "farther_percent" in place:
            share = place["farther_percent"]
            what += f", {share:.0f} % of them less like training than three quarters of test"
        yield f"{place['location']} ({what}): {scores} {unit}"
