"""A trace as an SVG picture, and as an HTML page with it."""

from __future__ import annotations

from xml.etree import ElementTree

from kmnist_pipeline.commands.trace.ancestry import Trace
from kmnist_pipeline.commands.trace.rendering.graph import Arrow, Box, box_id, boxes
from kmnist_pipeline.commands.trace.rendering.text import flat, history_of, verdict
from kmnist_pipeline.reporting import jinja

Point = tuple[float, float]
LETTER, HEIGHT, MARGIN = 7.3, 42, 12  # pixels of a letter, of a box, and around boxes
BETWEEN_ROWS, BETWEEN_COLUMNS = 14, 80
FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


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
    width, height = f"{right:.0f}", f"{bottom:.0f}"
    size = {"viewBox": f"0 0 {width} {height}", "width": width, "height": height}
    font = {"font-family": FONT, "font-size": "12"}
    space = {"xmlns": "http://www.w3.org/2000/svg"}
    picture = ElementTree.Element("svg", space | size | font)
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


def _part(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    return ElementTree.SubElement(parent, tag, named)


def _arrow(
    picture: ElementTree.Element, source: str, target: str, points: list[Point], about: str
) -> None:
    """A curve that is horizontal at every point."""
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
    fill, line = box.colours
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


def html(found: Trace) -> str:
    """The graph as one HTML page without references; a click on a stage unfolds it."""
    page = jinja.environment("kmnist_pipeline.commands").get_template("lineage.html")
    functions = {each.__name__: each for each in (box_id, flat, history_of, verdict)}
    return page.render(found=found, picture=svg(found), **functions)
