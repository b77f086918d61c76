"""A lineage to look at: as a tree of text, as a graph for graphviz, as a picture, as a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from kmnist_pipeline.commands.trace import Finding, Making, Step, Trace
from kmnist_pipeline.evidence import lineage

if TYPE_CHECKING:
    from rich.tree import Tree

COLOURS = {  # of what is in a box: fill and line
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


UNBROKEN = 10_000  # letters in a line


# --- a tree of text ------------------------------------------------------------------------------


def show(found: Trace) -> None:
    """Print the trees; into a pipe without colours, and without breaking lines."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = UNBROKEN
    for tree in trees(found):
        console.print(tree)


def trees(found: Trace) -> Iterator[Tree]:
    """A tree of text for each stage that made some of the files, with these files on top."""
    groups: dict[str, list[Finding]] = {}
    for finding in found.findings:
        key = finding.makings[0].stage.key if finding.makings else finding.file
        groups.setdefault(key, []).append(finding)
    for key, findings in groups.items():
        yield _tree(found, key, findings)


def _tree(found: Trace, key: str, findings: list[Finding]) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    styles = {"exact": "bold green", "altered": "bold yellow", "unknown": "bold red"}
    heads = [
        Text.assemble((finding.file, "bold"), " ", (verdict(finding), styles[finding.status]))
        for finding in findings
    ]
    tree = Tree(Text("\n").join(heads), guide_style="dim")
    if key in found.steps:
        making = findings[0].makings[0]
        for line in history_of(making, findings[0].makings[1:] if len(findings) == 1 else []):
            tree.add(Text(line))
        _add_step(tree, found, key, _Seen())
    return tree


def verdict(finding: Finding) -> str:
    """What is to be said of a file in one line."""
    remark = f": {finding.remark}" if finding.remark else ""
    if finding.status == "unknown":
        return f"was not made by any commit of this repository{remark} (md5 {finding.md5})"
    making = finding.makings[0]
    if finding.status == "altered":
        return f"is ALTERED{remark}, see {making.path} (md5 {finding.md5})"
    name = f" as {making.path}" if making.path != finding.file else ""
    return f"is, byte for byte, what {making.stage.address} made{name}{remark} (md5 {finding.md5})"


def history_of(making: Making, others: list[Making]) -> Iterator[str]:
    """Which commits have a stage's entry in their lock, one line each thing to say."""
    commits = making.commits
    if commits:
        named = [f"{c.id[:12]} {c.date[:10]} {c.subject!r}" for c in commits]
        ends = named[0] if len(named) == 1 else f"{named[-1]} to {named[0]}"
        count = "1 commit" if len(named) == 1 else f"{len(named)} commits"
        yield f"in dvc.lock of {count}: {ends}"
    if not making.here:
        yield "no longer in dvc.lock of this folder"
    elif not commits:
        yield "in dvc.lock of this folder, not committed yet"
    if others:
        keys = {other.stage.key for other in others} - {making.stage.key}
        names = sorted({other.path for other in others} - {making.path})
        if keys:
            yield f"the same bytes were made under {len(keys)} other lineage key(s) too"
        if names:
            yield f"the same bytes are {', '.join(names)} too"


@dataclass
class _Seen:
    """What a tree shows already, and need not repeat."""

    keys: set[str] = field(default_factory=set)
    rows: set[str] = field(default_factory=set)


def _add_step(tree: Tree, found: Trace, key: str, seen: _Seen) -> None:
    from rich.text import Text

    step = found.steps[key]
    if key in seen.keys:
        tree.add(Text.assemble((step.stage.address, "cyan"), (" as above", "dim")))
        return
    seen.keys.add(key)
    branch = tree.add(Text.assemble((step.stage.address, "bold cyan"), f"  lineage key {key}"))
    branch.add(Text.assemble(("command  ", "dim"), step.stage.cmd))
    _add_rows(branch, "parameters", flat(step.stage.params), seen)
    _add_rows(branch, "code", [f"{path}  md5 {md5}" for path, md5 in step.code.items()], seen)
    if run := found.runs.get(key):
        place = f"run {run.id} of experiment {run.experiment}"
        branch.add(Text.assemble(("MLflow  ", "dim"), place))
    for original in step.originals:
        data = branch.add(Text.assemble(("original data  ", "dim"), (original.title, "bold")))
        for name, digest in original.files.items():
            data.add(Text(f"{name}  sha256 {digest}"))
        data.add(Text(f"licence: {original.licence}"))
        data.add(Text(f"from: {', '.join(original.sources)}"))
    if step.inputs:
        read = branch.add(Text("read", "dim"))
        for source in step.inputs:
            gap = "" if source.fits else GAP
            read.add(Text.assemble(f"{source.path}  md5 {source.md5}", (gap, "bold red")))
    for maker in makers(step):
        _add_step(branch, found, maker, seen)


GAP = "  (NO LOCK SAYS WHO MADE THIS; the stage below writes there)"


def makers(step: Step) -> list[str]:
    """The keys of the stages that a stage read of, each once."""
    return list(dict.fromkeys(key for source in step.inputs for key in source.makers))


def _add_rows(tree: Tree, name: str, rows: list[str], seen: _Seen) -> None:
    """Those rows that the tree does not show yet, and how many it does."""
    from rich.text import Text

    new = [row for row in rows if row not in seen.rows]
    seen.rows |= set(new)
    repeated = f"  {len(rows) - len(new)} as above" if len(rows) > len(new) else ""
    if rows:
        branch = tree.add(Text(name + repeated, "dim"))
        for row in new:
            branch.add(Text(row))


def flat(params: dict[str, Any]) -> list[str]:
    """Each parameter by its dotted name, one `name: value` a row."""
    rows = lineage.leaves("", params, lists=dict)
    return [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in rows]


# --- a graph -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """A data set, a stage or a file in a picture.

    kind: what decides its colour; head, name: its two lines; about: what a pointer over it shows.
    """

    kind: str
    head: str
    name: str
    about: str


def boxes(found: Trace) -> tuple[dict[str, Box], dict[tuple[str, str], str]]:
    """What a picture shows: boxes by id, and what goes from which box to which."""
    drawn: dict[str, Box] = {}
    arrows: dict[tuple[str, str], str] = {}
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
        for maker in makers(step):
            paths = [source.path for source in step.inputs if maker in source.makers]
            arrows[box_id(maker), box_id(key)] = "\n".join(paths)
    for number, finding in enumerate(found.findings):
        name = finding.file.rpartition("/")[2]
        drawn[f"file-{number}"] = Box(finding.status, finding.status, name, verdict(finding))
        for making in finding.makings[:1]:
            arrows[box_id(making.stage.key), f"file-{number}"] = making.path
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
        fill, line = COLOURS.get(box.kind, COLOURS["exact"])
        picture.add_node(
            pydot.Node(
                _quoted(name),
                label=_quoted(f"{box.head}\n{box.name}"),
                tooltip=_quoted(box.about),
                shape="box",
                style=_quoted("rounded,filled"),
                fillcolor=_quoted(fill),
                color=_quoted(line),
            )
        )
    for (source, target), paths in arrows.items():
        picture.add_edge(pydot.Edge(_quoted(source), _quoted(target), tooltip=_quoted(paths)))
    return picture.to_string()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


# --- a picture -----------------------------------------------------------------------------------

LETTER, HEIGHT, MARGIN = 7.3, 42, 12  # of a letter, a box, and around: pixels
BETWEEN_ROWS, BETWEEN_COLUMNS = 14, 80


def svg(found: Trace) -> str:
    """The graph as a picture, from the data on the left to the files on the right."""
    drawn, arrows = boxes(found)
    widths = {
        name: max(len(box.head) * 0.85, len(box.name)) * LETTER + 2 * MARGIN
        for name, box in drawn.items()
    }
    centres, routes = _layout(widths, list(arrows))
    right = max(x + widths[name] / 2 for name, (x, _) in centres.items()) + MARGIN
    bends = [point for route in routes.values() for point in route]
    bottom = max(y for _, y in [*centres.values(), *bends]) + HEIGHT / 2 + MARGIN
    picture = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {right:.0f} {bottom:.0f}",
            "width": f"{right:.0f}",
            "height": f"{bottom:.0f}",
            "font-family": "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace",
            "font-size": "12",
        },
    )
    _part(picture, "title").text = "Lineage"
    _part(picture, "rect", width="100%", height="100%", fill="#ffffff")
    for (source, target), paths in arrows.items():
        points = [
            (centres[source][0] + widths[source] / 2, centres[source][1]),
            *routes[source, target],
            (centres[target][0] - widths[target] / 2, centres[target][1]),
        ]
        _arrow(picture, source, target, points, paths)
    for name, box in drawn.items():
        _box(picture, name, box, centres[name], widths[name])
    return ElementTree.tostring(picture, encoding="unicode") + "\n"


Point = tuple[float, float]
Arrow = tuple[str, str]


def _layout(
    widths: dict[str, float], arrows: list[Arrow]
) -> tuple[dict[str, Point], dict[Arrow, list[Point]]]:
    """Centres of boxes and bends of arrows, in pixels, by Sugiyama's method.

    grandalf draws downwards; widths and heights are exchanged before and after. An arrow is level
    in all columns, and changes its height between them, so that it crosses no box.
    """
    from grandalf.graphs import Edge, Graph, Vertex
    from grandalf.layouts import SugiyamaLayout, VertexViewer

    class Arrowed(Edge):
        """An edge whose place in a set is the same in every run: the layout depends on it."""

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
        layout.dw = layout.dh = 2  # of an arrow in a column that it passes
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
            between = layout.ctrls.get(edge) or {
                layout.grx[vertex].rank: vertex for vertex in (source, target)
            }
            edges_of_columns = [
                (
                    between[rank].view.xy[1] - along + side * halves[rank],
                    between[rank].view.xy[0] - across,
                )
                for rank in sorted(between)
                for side in (-1, 1)
            ]
            routes[source.data, target.data] = edges_of_columns[1:-1]
        top = max(vertex.view.xy[0] for vertex in placed) - across + HEIGHT / 2 + 2 * BETWEEN_ROWS
    return centres, routes


def _part(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    return ElementTree.SubElement(parent, tag, named)


def _arrow(
    picture: ElementTree.Element, source: str, target: str, points: list[Point], about: str
) -> None:
    """A curve that leaves and enters every point level."""
    x, y = points[0]
    path = [f"M{x:.1f},{y:.1f}"]
    for to_x, to_y in points[1:]:
        middle = (x + to_x) / 2
        path.append(f"C{middle:.1f},{y:.1f} {middle:.1f},{to_y:.1f} {to_x:.1f},{to_y:.1f}")
        x, y = to_x, to_y
    drawn = {"data-from": source, "data-to": target, "fill": "none", "stroke": "#8c959f"}
    group = ElementTree.SubElement(picture, "g", {**drawn, "class": "arrow"})
    _part(group, "title").text = about
    _part(group, "path", d=" ".join(path), stroke_width="1.3")
    tip = f"M{x:.1f},{y:.1f} l-7,-3.5 v7 z"
    _part(group, "path", d=tip, fill="#8c959f", stroke="none")


def _box(picture: ElementTree.Element, name: str, box: Box, centre: Point, width: float) -> None:
    fill, line = COLOURS.get(box.kind, COLOURS["exact"])
    left, top = centre[0] - width / 2, centre[1] - HEIGHT / 2
    link = ElementTree.SubElement(picture, "a", {"href": f"#{name}", "data-box": name})
    _part(link, "title").text = box.about
    frame = {"width": f"{width:.1f}", "height": str(HEIGHT), "fill": fill, "stroke": line}
    _part(link, "rect", x=f"{left:.1f}", y=f"{top:.1f}", rx="6", **frame)
    middle = f"{centre[0]:.1f}"
    head = {"x": middle, "y": f"{centre[1] - 5:.1f}", "text_anchor": "middle", "fill": line}
    _part(link, "text", font_size="10", **head).text = box.head
    body = {"x": middle, "y": f"{centre[1] + 12:.1f}", "text_anchor": "middle", "fill": "#1b1f24"}
    _part(link, "text", **body).text = box.name


# --- a page --------------------------------------------------------------------------------------


def html(found: Trace) -> str:
    """The graph as one page that refers to no other; a stage in it unfolds when it is clicked."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kmnist_pipeline.commands"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template("lineage.html")
    return page.render(
        found=found,
        picture=svg(found),
        box_id=box_id,
        flat=flat,
        history_of=history_of,
        verdict=verdict,
        makers=makers,
    )
