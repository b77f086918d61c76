"""MLflow's scoring server for one model on this machine; it answers only under its own host name.

It runs as a script and imports nothing from this project: a registered version has its own code.
"""

import sys
import warnings

import uvicorn
from mlflow.pyfunc import load_model, scoring_server
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


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


def main(uri: str, host: str, port: str) -> None:
    """Serve the model with this MLflow URI until SIGINT or SIGTERM."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*type hints")  # the version has a signature
        app = scoring_server.init(load_model(uri))
    names = [f"{name}:{port}" for name in (host, "localhost")]
    uvicorn.run(guarded(app, names), host=host, port=int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
