"""The model card: the intended use of a registered model, its evidence and its limits."""

from __future__ import annotations

from typing import Any

from kmnist_pipeline.evidence import paths
from kmnist_pipeline.serving.candidates import Candidate


def card(model: Candidate, lineage: str) -> str:
    """The card in Markdown; lineage: the key of the stage that evaluated the model."""
    data, test = model.dataset, model.test
    test_file = paths.numbers(model.report, model.name, "test.json")
    height, width = data["shape"]
    weakest = min(test["per_class"], key=lambda name: test["per_class"][name]["recall"])
    recall = test["per_class"][weakest]["recall"]
    classes = ", ".join(data["classes"])
    validated = "its classes were not validated."
    if model.accuracy is not None:
        validated = f"validation accuracy {model.accuracy:.4f} ({model.validation['n']} images)."
    rows = []
    for name in data["classes"]:
        of = test["per_class"][name]
        scores = " | ".join(f"{of[score]:.4f}" for score in ("precision", "recall", "f1"))
        rows.append(f"| {name} | {scores} | {of['support']} |")
    return "\n".join(
        [
            f"# {model.name}",
            "",
            f"Classifies the {len(data['classes'])} classes of {data['title']}: {classes}.",
            "",
            "## Intended use",
            "",
            f"One character in an image of {height}x{width} pixels, white (up to "
            f"{data['pixel_max']}) on black (0), that fills the image as it does in the dataset. "
            "For comparing methods, and for sorting images of single characters.",
            "",
            "## Limits",
            "",
            f"- It knows no other classes than these {len(data['classes'])}, and always names one "
            "of them, also for an image that has none.",
            f"- Weakest on class `{weakest}`, with a recall of {recall:.1%} on test images.",
            f"- {_routing(test.get('routing'))}",
            "- The test images come from the same sources as the training images; other writers, "
            "scanners and crops were not measured.",
            "",
            "## Results",
            "",
            f"Test accuracy {test['accuracy']:.4f} ({test['correct']} of {test['n']}); {validated}",
            "",
            "| class | precision | recall | F1 | images |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            "## Data and licence",
            "",
            f"{data['title']}, {data['licence']}.",
            *(f"Digest of `{path}`: `{md5}`." for path, md5 in test["made_by"]["data"].items()),
            "",
            "## Origin",
            "",
            f"Stage `{model.stage}` of report `{model.report}`, lineage key `{lineage}`: "
            f"`kmnist trace {test_file}` shows the way back to the data.",
            "",
        ]
    )


def _routing(routed: dict[str, Any] | None) -> str:
    if routed is None:
        return "It has no confidence threshold: its probabilities are not calibrated."
    if routed["threshold"] is None:
        return f"No threshold keeps {routed['promise']:.1%}: review every answer."
    accuracy, share = routed["test"]["accuracy"], routed["test"]["accepted"] / routed["test"]["n"]
    kept = "none" if accuracy is None else f"{accuracy:.2%} of them correct"
    return (
        f"Answers with a confidence of {routed['threshold']:.4f} or more are accepted: "
        f"{routed['promise']:.1%} are correct on validation images. Of the test images it accepts "
        f"{share:.1%}, {kept}."
    )
