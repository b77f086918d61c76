"""MLflow's scoring server for one model on this machine; it answers only under its own host name.

It runs as a script and imports nothing from this project: a registered version has its own code.
MLflow would wait forever for a request, read one of any size, cut fractions to 0 and answer many
wrong requests with status 500, so requests are checked and bounded here.
"""

import asyncio
import contextlib
import runpy
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import uvicorn
from annotated_types import Len
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from mlflow.artifacts import download_artifacts
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, load_model, scoring_server
from pydantic import BaseModel, FailFast, Field
from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

# Of this folder, not of a package, which a registered version brings itself.
FINGERPRINT = runpy.run_path(str(Path(__file__).with_name("fingerprint.py")))
LARGEST = 1 << 24  # bytes of a request
REST = 1 << 26  # bytes that are taken of a larger one, so that its sender reads the answer,
REST_SECONDS = 10  # within this time
MOST = 1000  # images of a request
CONNECTIONS = 32  # at the same time


class Params(BaseModel, extra="forbid"):
    """How the images of a request are used; as_is: without preparing them."""

    as_is: bool = False


def guarded(app: ASGIApp, names: list[str]) -> ASGIApp:
    """Refuse requests under other host names, and requests from pages of other origins.

    MLflow's tracking server does the same; its scoring server does not.
    """
    origins = [None, *(f"http://{name}" for name in names)]

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if headers.get("host") not in names or headers.get("origin") not in origins:
                refusal = PlainTextResponse(f"this server is {names[0]}", status_code=403)
                return await refusal(scope, receive, send)
        return await app(scope, receive, send)

    return guard


def drained(app: ASGIApp) -> ASGIApp:
    """Take the rest of a body that is too large before the answer, which closes the connection.

    Most clients read no answer while they send, and get a broken connection instead.
    """

    async def drain(scope: Scope, receive: Receive, send: Send) -> None:
        # A client that asks first is waiting, and sends nothing after the answer.
        more = scope["type"] == "http" and "expect" not in Headers(scope=scope)

        async def part() -> Message:
            nonlocal more
            message = await receive()
            more = more and message.get("more_body", False)
            return message

        async def after_the_rest(message: Message) -> None:
            if message.get("status") == 413:
                taken = 0
                patience = min(REST_SECONDS, MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):  # it ends before `Impatient` does
                        while more and taken < REST:
                            taken += len((await part()).get("body", b""))
            await send(message)

        await app(scope, part, after_the_rest)

    return drain


def checked(model: PyFuncModel) -> FastAPI:
    """MLflow's server for the model, with a stricter `/invocations`."""
    app = scoring_server.init(model)
    app.router.routes[:] = [
        route for route in app.routes if getattr(route, "path", "") != "/invocations"
    ]
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=LARGEST)
    *_, channels = model.metadata.get_input_schema().inputs[0].shape
    Level = Annotated[int, Field(ge=0, le=255)]
    Pixel: Any = Annotated[list[Level], Len(3, 3), FailFast()] if channels == 3 else Level
    Row = Annotated[list[Pixel], Len(1), FailFast()]
    Image = Annotated[list[Row], Len(1), FailFast()]

    class Images(BaseModel, extra="forbid"):
        inputs: Annotated[list[Image], Len(1, MOST), FailFast()]
        params: Params = Params()

    @app.post("/invocations")
    def answers(asked: Images) -> dict[str, Any]:
        height, width = len(asked.inputs[0]), len(asked.inputs[0][0])
        for number, image in enumerate(asked.inputs):
            if len(image) != height or any(len(row) != width for row in image):
                size = f"{height} rows of {width} numbers, as inputs[0] begins"
                raise refused(f"inputs[{number}]: must be {size}")
        table: Any = model.predict(np.array(asked.inputs, np.uint8), asked.params.model_dump())
        return {"predictions": table.to_dict("records")}

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        return failed(_, refused(f"{''.join(parts)[1:]}: {first['msg']}"))

    @app.exception_handler(MlflowException)
    def failed(_: Request, error: MlflowException) -> Response:
        status = error.get_http_status_code()
        return Response(error.serialize_as_json(), status, media_type="application/json")

    return app


def refused(problem: str) -> MlflowException:
    """The error of a wrong request, which MLflow answers with status 400."""
    return MlflowException.invalid_parameter_value(problem)


class Impatient(H11Protocol):
    """Ends a connection whose request or answer takes too long; uvicorn would wait forever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._start()

    def on_response_complete(self) -> None:
        """Start the clock again, for the next request."""
        self._clock.cancel()
        super().on_response_complete()
        self._start()

    def _start(self) -> None:
        limit = 2 * MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()  # MLflow ends before, with 504
        self._clock = self.loop.call_later(limit, self.transport.abort)


def main(uri: str, digest: str, host: str, port: str) -> None:
    """Serve the model with this MLflow URI until SIGINT or SIGTERM; digest: of its files."""
    place = Path(download_artifacts(uri))
    if FINGERPRINT["of"](place) != digest:
        sys.exit(f"error: {uri}: its files are not those that were registered")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*type hints")  # the version has a signature
        app = checked(load_model(str(place)))
    names = [f"{name}:{port}" for name in (host, "localhost")]
    uvicorn.run(
        guarded(drained(app), names),
        host=host,
        port=int(port),
        http=Impatient,
        ws="none",
        limit_concurrency=CONNECTIONS + 1,  # it refuses the one that reaches the limit
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
