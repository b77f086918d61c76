"""The page of `kmnist review` and its server, on this machine alone."""

import base64
import contextlib
import io
import socket
from importlib import resources
from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from PIL import Image
from pydantic import BaseModel
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import PlainTextResponse

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository.names import printable
from kmnist_pipeline.serving.classifier import CHARACTERS
from kmnist_pipeline.serving.queues import Item, Queue
from kmnist_pipeline.serving.reviewing import ChangedError, Decisions
from kmnist_pipeline.serving.scoring import CONNECTIONS, Impatient, guarded

HOST = "127.0.0.1"
LARGEST = 4096  # bytes of a request
ANSWERS = 3  # classes that are shown with their probability
FILES = {"": "text/html", "review.css": "text/css", "review.js": "text/javascript"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
        "connect-src 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}


class Decision(BaseModel, extra="forbid"):
    """A decision from a page: the one that it has seen, and the one that replaces it."""

    before: str | None
    after: str | None


def serve(decisions: Decisions, port: int) -> None:
    """Serve the page until SIGINT or SIGTERM. Raises UserError if the port is taken."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()  # before the address is told: an early request then waits
        except OSError as error:
            raise UserError(f"port {port}: {error.strerror}; choose another: --port") from error
        names = [f"{name}:{listening.getsockname()[1]}" for name in (HOST, "localhost")]
        config = uvicorn.Config(
            guarded(app(decisions), names),
            http=Impatient,
            ws="none",
            lifespan="off",
            log_level="warning",
            limit_concurrency=CONNECTIONS + 1,
        )
        print(f"http://{names[0]}   (Ctrl-C ends it; each decision is on disk)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def app(decisions: Decisions) -> FastAPI:
    """The page and its requests; `guarded` must check where they come from."""
    queue = decisions.queue
    service = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    service.add_middleware(RequestBodyLimitMiddleware, max_body_size=LARGEST)
    Place = Annotated[int, Path(ge=0, lt=len(queue.items))]

    @service.middleware("http")
    async def protect(request: Request, call: Any) -> Response:
        answer = await call(request)
        answer.headers.update(HEADERS)
        return answer

    @service.exception_handler(UserError)
    def refuse(_: Request, error: UserError) -> Response:
        return PlainTextResponse(
            printable(str(error)), 409 if isinstance(error, ChangedError) else 400
        )

    @service.exception_handler(OSError)
    def failed(_: Request, error: OSError) -> Response:
        problem = f"{error.filename}: {error.strerror}: nothing was decided; earlier decisions stay"
        return PlainTextResponse(printable(problem), 500)

    @service.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> Response:
        """Without what was sent, as FastAPI would answer: not every text and number is JSON."""
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return PlainTextResponse(printable(f"{where}: {first['msg']}"), 422)

    def file(name: str, kind: str) -> None:
        content = resources.files("kmnist_pipeline.serving").joinpath(
            f"templates/{name or 'review.html'}"
        )
        service.get(f"/{name}")(lambda: Response(content.read_bytes(), media_type=kind))

    for name, kind in FILES.items():
        file(name, kind)

    @service.get("/queue")
    def about() -> dict[str, Any]:
        left = decisions.left()
        characters = CHARACTERS.get(queue.dataset, {})
        classes = [
            {"name": name, "character": characters.get(name, ""), "average": _png(mean, queue)}
            for name, mean in zip(queue.classes, queue.averages, strict=True)
        ]
        first = left[0] if left else 0
        return {"title": queue.title, "total": len(queue.items), "first": first, "classes": classes}

    @service.get("/items/{place}")
    def shown(place: Place) -> dict[str, Any]:
        item = queue.items[place]
        best = np.argsort(-item.probabilities, kind="stable")[:ANSWERS].tolist()
        return {
            "image": _png(item.pixels, queue),
            "origin": item.origin,
            "label": None if item.label is None else queue.classes[item.label],
            "answers": [
                {"class": label, "probability": float(item.probabilities[label])} for label in best
            ],
            **_progress(place, item),
        }

    @service.post("/items/{place}")
    def decide(place: Place, decision: Decision) -> dict[str, Any]:
        item = queue.items[place]
        decisions.decide(item, decision.before, decision.after)
        return _progress(place, item)

    def _progress(place: int, item: Item) -> dict[str, Any]:
        left = decisions.left()
        following = [n for n in left if n > place] or left
        return {
            "decision": decisions.of(item),
            "left": len(left),
            "next": following[0] if following else None,
        }

    return service


def _png(pixels: np.ndarray, queue: Queue) -> str:
    """An image (H, W) as the address of a PNG."""
    levels = np.rint(pixels * (255 / queue.pixel_max)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(levels).save(content, "png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
