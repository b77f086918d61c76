"""A trace as an SVG picture, and as an HTML page with it."""

from kmnist_pipeline.commands.trace.ancestry import Trace
from kmnist_pipeline.commands.trace.rendering.graph import Arrow, box_id, boxes
from kmnist_pipeline.commands.trace.rendering.text import flat, history_of, verdict
from kmnist_pipeline.reporting import jinja

Point = tuple[float, float]
LETTER, HEIGHT, MARGIN = 7.3, 42, 12  # pixels of a letter, of a box, and around boxes
BETWEEN_ROWS, BETWEEN_COLUMNS = 14, 80


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
