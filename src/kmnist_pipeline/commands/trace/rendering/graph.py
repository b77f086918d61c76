"""A trace as a graph of boxes and arrows, and that graph in graphviz's language."""

from collections import Counter
from dataclasses import dataclass

from kmnist_pipeline.commands.trace.ancestry import Trace
from kmnist_pipeline.commands.trace.rendering.text import verdict

Arrow = tuple[str, str]  # the ids of the boxes at its start and end

COLOURS = {  # fill and line by the kind of a box
    "data": ("#fdf0d5", "#a36a00"),
    "download": ("#fdf0d5", "#a36a00"),
    "preprocess": ("#e7f3e8", "#2d7a3d"),
    "kfold-train": ("#e3f0fb", "#1c63a5"),
    "tune": ("#e3f0fb", "#1c63a5"),
    "evaluate": ("#efe9fa", "#6b45b0"),
    "report": ("#fbe6ec", "#ad2f56"),
    "exact": ("#ffffff", "#1b1f24"),
    "altered": ("#fff1e5", "#bc4c00"),
    "unknown": ("#ffebe9", "#cf222e"),
}


@dataclass(frozen=True)
class Box:
    """A dataset, a stage or a file in a picture.

    kind: the kind of stage, or a file's status; head, name: its two lines; about: the text of its
    tooltip.
    """

    kind: str
    head: str
    name: str
    about: str

    @property
    def colours(self) -> tuple[str, str]:
        """The colours of its fill and its line."""
        return COLOURS.get(self.kind, COLOURS["exact"])


def boxes(found: Trace) -> tuple[dict[str, Box], dict[Arrow, str]]:
    """The boxes by id, and the arrows, each with the paths of its files."""
    drawn: dict[str, Box] = {}
    arrows: dict[Arrow, str] = {}
    versions = Counter(step.stage.address for step in found.steps.values())
    for key, step in found.steps.items():
        stage = step.stage
        head = f"{stage.kind} {key[:7]}" if versions[stage.address] > 1 else stage.kind
        about = "\n".join([stage.address, f"lineage key {key}", stage.cmd, "makes:", *stage.outs])
        drawn[box_id(key)] = Box(stage.kind, head, stage.item, about)
        for number, original in enumerate(step.originals):
            digests = [f"{name}\nsha256 {digest}" for name, digest in original.files.items()]
            text = "\n".join([*digests, original.licence, *original.sources])
            drawn[f"data-{number}-{key[:12]}"] = Box("data", "original data", original.title, text)
            arrows[f"data-{number}-{key[:12]}", box_id(key)] = "\n".join(original.files)
        for maker in step.makers:
            paths = [source.path for source in step.inputs if maker in source.makers]
            arrows[box_id(maker), box_id(key)] = "\n".join(paths)
    for number, file in enumerate(found.files):
        name = file.file.rpartition("/")[2]
        drawn[f"file-{number}"] = Box(file.status, file.status, name, verdict(file))
        for match in file.matches[:1]:
            arrows[box_id(match.stage.key), f"file-{number}"] = match.path
    return drawn, arrows


def box_id(key: str) -> str:
    """The id of a stage's box, and of its section on the page."""
    return f"stage-{key[:12]}"


def dot(found: Trace) -> str:
    """The graph in graphviz's language."""
    import pydot

    drawn, arrows = boxes(found)
    picture = pydot.Dot("lineage", graph_type="digraph", rankdir="LR")
    for name, box in drawn.items():
        fill, line = box.colours
        texts = {"label": f"{box.head}\n{box.name}", "tooltip": box.about}
        colours = {"style": "rounded,filled", "fillcolor": fill, "color": line}
        quoted = {key: _quoted(value) for key, value in (texts | colours).items()}
        picture.add_node(pydot.Node(_quoted(name), shape="box", **quoted))
    for (source, target), paths in arrows.items():
        picture.add_edge(pydot.Edge(_quoted(source), _quoted(target), tooltip=_quoted(paths)))
    return picture.to_string()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
