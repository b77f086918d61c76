"""A trace as a graph of boxes and arrows: in graphviz's language, as SVG, and on an HTML page."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from kmnist_pipeline.commands.trace.ancestry import Trace
from kmnist_pipeline.commands.trace.text import flat, history_of, verdict
from kmnist_pipeline.reporting import jinja

Arrow = tuple[str, str]  # the ids of the boxes at its start and end
Point = tuple[float, float]
LETTER, HEIGHT, MARGIN = 7.3, 42, 12  # pixels of a letter, of a box, and around boxes
BETWEEN_ROWS, BETWEEN_COLUMNS = 14, 80

COLOURS = {  # fill and line by the kind of a box
    "data": ("#fdf0d5", "#a36a00"),
    "download": ("#fdf0d5", "#a36a00"),
    "preprocess": ("#e7f3e8", "#2d7a3d"),
    "kfold-train": ("#e3f0fb", "#1c63a5"),
    "tune": ("#e3f0fb", "#1c63a5"),
    "evaluate": ("#efe9fa", "#6b45b0"),
    "conditions": ("#efe9fa", "#6b45b0"),
    "weights": ("#efe9fa", "#6b45b0"),
    "suspects": ("#efe9fa", "#6b45b0"),
    "loop": ("#efe9fa", "#6b45b0"),
    "readings": ("#e4f4f4", "#13747d"),
    "faults": ("#e4f4f4", "#13747d"),
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
        quoted: dict[str, Any] = {key: _quoted(value) for key, value in (texts | colours).items()}
        picture.add_node(pydot.Node(_quoted(name), shape="box", **quoted))
    for (source, target), paths in arrows.items():
        picture.add_edge(pydot.Edge(_quoted(source), _quoted(target), tooltip=_quoted(paths)))
    return picture.to_string()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def svg(found: Trace) -> str:
    """The graph as SVG, from the data on the left to the files on the right."""
    drawn, arrows = boxes(found)
    widths = {
        name: max(len(box.head) * 0.85, len(box.name)) * LETTER + 2 * MARGIN
        for name, box in drawn.items()
    }
    centres, routes = _layout(widths, list(arrows))
    right = max(x + widths[name] / 2 for name, (x, _) in centres.items()) + MARGIN
    bends = [point for route in routes.values() for point in route]
    bottom = max(y for _, y in [*centres.values(), *bends]) + HEIGHT / 2 + MARGIN
    curves = []
    for (source, target), about in arrows.items():
        (x, y), (to_x, to_y) = centres[source], centres[target]
        ends = (x + widths[source] / 2, y), (to_x - widths[target] / 2, to_y)
        points = [ends[0], *routes[source, target], ends[1]]
        curves.append((source, target, about, _curve(points), ends[1]))
    placed = [(name, box, centres[name], widths[name]) for name, box in drawn.items()]
    size = {"width": right, "height": bottom, "box_height": HEIGHT}
    picture = jinja.environment("kmnist_pipeline.commands").get_template("lineage.svg")
    return picture.render(arrows=curves, boxes=placed, **size)


def _layout(
    widths: dict[str, float], arrows: list[Arrow]
) -> tuple[dict[str, Point], dict[Arrow, list[Point]]]:
    """The centres of boxes and bends of arrows, in pixels, by Sugiyama's method.

    grandalf draws downwards, so widths and heights are exchanged before and after. An arrow is
    horizontal in a column and bends between columns, so that it crosses no box.
    """
    from grandalf.graphs import Edge, Graph, Vertex
    from grandalf.layouts import SugiyamaLayout, VertexViewer

    class Arrowed(Edge):
        """An edge with the same place in a set in every run, because the layout depends on it."""

        def __hash__(self) -> int:
            return self.data

    vertices = {name: Vertex(name) for name in widths}
    for name, vertex in vertices.items():
        vertex.view = VertexViewer(w=HEIGHT, h=widths[name])
    edges = [
        Arrowed(vertices[source], vertices[target], data=number)
        for number, (source, target) in enumerate(arrows)
    ]
    whole = Graph(list(vertices.values()), edges)

    centres: dict[str, Point] = {}
    routes: dict[Arrow, list[Point]] = {}
    top = float(MARGIN)
    for part in whole.C:
        layout = SugiyamaLayout(part)
        layout.xspace, layout.yspace = BETWEEN_ROWS, BETWEEN_COLUMNS
        layout.dw = layout.dh = 2  # the size of an arrow in a column that it passes
        layout.init_all(roots=[vertex for vertex in part.sV if not vertex.e_in()], optimize=True)
        layout.draw(8)
        placed = [vertex for layer in layout.layers for vertex in layer]
        across = min(vertex.view.xy[0] for vertex in placed) - HEIGHT / 2 - top
        along = min(vertex.view.xy[1] - vertex.view.h / 2 for vertex in placed) - MARGIN
        halves = [max(vertex.view.h for vertex in layer) / 2 for layer in layout.layers]
        for vertex in part.sV:
            centres[vertex.data] = (vertex.view.xy[1] - along, vertex.view.xy[0] - across)
        for edge in part.sE:
            source, target = edge.v
            between = layout.ctrls.get(edge) or {layout.grx[end].rank: end for end in edge.v}
            edges_of_columns = [
                (point.view.xy[1] - along + side * halves[rank], point.view.xy[0] - across)
                for rank, point in sorted(between.items())
                for side in (-1, 1)
            ]
            routes[source.data, target.data] = edges_of_columns[1:-1]
        top = max(vertex.view.xy[0] for vertex in placed) - across + HEIGHT / 2 + 2 * BETWEEN_ROWS
    return centres, routes


def _curve(points: list[Point]) -> str:
    """The path of a curve that is horizontal at every point."""
    x, y = points[0]
    path = [f"M{x:.1f},{y:.1f}"]
    for to_x, to_y in points[1:]:
        middle = (x + to_x) / 2
        path.append(f"C{middle:.1f},{y:.1f} {middle:.1f},{to_y:.1f} {to_x:.1f},{to_y:.1f}")
        x, y = to_x, to_y
    return " ".join(path)


def html(found: Trace) -> str:
    """The graph as one HTML page without references; a click on a stage unfolds it."""
    page = jinja.environment("kmnist_pipeline.commands").get_template("lineage.html")
    functions = {each.__name__: each for each in (box_id, flat, history_of, verdict)}
    return page.render(found=found, picture=svg(found), **functions)
