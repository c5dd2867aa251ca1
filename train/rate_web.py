"""The page of `train.rate`: one HTML file, three calls, and nobody but this machine's own browser.

    GET  /            the page (`rate.html`)
    GET  /api/state   the question that stands next, its answers, progress
    POST /api/rate    {"question": 7, "choice": "left"}      the new state; 409 when another question stands next
    POST /api/undo    {"question": 7}

What it is. The page shows what the session holds and sends keys to it; nothing is kept in the browser, so it may be
closed at any moment, opened twice or reloaded. The server listens on 127.0.0.1 alone. A page of another site cannot
reach it: a request must name this host (or a name that was bent to point here would do: DNS rebinding), one that
changes something must come from the page itself, and the page may load nothing but what stands in it.

What it leaves out: other people on the same machine can open the page too; and HTTPS, which a loopback does not need.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs import UserError
from train.rating import Session, Stale

if TYPE_CHECKING:
    from train.rate import Ahead

HOST = "127.0.0.1"
NEEDED = 'the page needs FastAPI and uvicorn: pip install "zhiling[serve]", or leave out --web'


def require_web() -> None:
    """Raise UserError where the extra is missing."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UserError(NEEDED) from None


def state_of(session: Session, ahead: Ahead) -> dict[str, Any]:
    """All that the page shows."""
    with session.changed:
        question = session.current
        shown = None if question is None else session.shown(question)
        if question is not None and shown is not None:
            prompt = [{"role": m.role, "content": m.content} for m in session.questions[question].prompt]
        else:
            prompt = []
        return {
            "scores": session.setup.scores,
            "question": question,
            "ready": shown is not None,
            "prompt": prompt,
            "answers": [{"text": said.text.strip(), "finished": said.finished} for said in shown or ()],
            "rated": len(session.state.ratings),
            "total": session.total,
            "last": session.last,
            "failure": "" if ahead.failure is None else str(ahead.failure),
            **({} if question is not None else _end(session)),
        }


def _end(session: Session) -> dict[str, Any]:
    files = {"file": str(session.path.resolve()), "log": str(session.log.resolve())}
    return {"summary": session.summary(), "runs": list(session.setup.runs), **files}


def page() -> tuple[str, str]:
    """The page, and the policy under which nothing else than its own style and script is used."""
    text = Path(__file__).with_name("rate.html").read_text("utf-8")

    def digest(tag: str) -> str:
        inner = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL).group(1)
        return "sha256-" + base64.b64encode(hashlib.sha256(inner.encode("utf-8")).digest()).decode()

    policy = (
        f"default-src 'none'; style-src '{digest('style')}'; script-src '{digest('script')}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def refusal(method: str, headers: Any, port: int) -> tuple[int, str] | None:
    """(status, why) of a request that may not come from the page itself, None for one that may."""
    hosts = [f"{name}:{port}" for name in (HOST, "localhost")]
    if headers.get("host", "").lower() not in hosts:
        return 421, f"this page answers to {hosts[0]} alone"
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return 403, "another site may not use this page"
    if method != "POST":
        return None
    if headers.get("origin", f"http://{hosts[0]}").lower() not in [f"http://{host}" for host in hosts]:
        return 403, "another site may not use this page"
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return 415, "send JSON"
    return None


def application(session: Session, ahead: Ahead, port: int) -> Any:
    """The FastAPI application that shows a session."""
    from fastapi import Body, FastAPI
    from fastapi.responses import HTMLResponse, JSONResponse

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    text, policy = page()
    fixed = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }

    @app.middleware("http")
    async def guard(request, call_next):
        refused = refusal(request.method, request.headers, port)
        response = await call_next(request) if refused is None else JSONResponse({"error": refused[1]}, refused[0])
        response.headers.update(fixed)
        return response

    def change(act: Any, *arguments: Any) -> Any:
        try:
            act(*arguments)
        except Stale:
            return JSONResponse(state_of(session, ahead), 409)
        except (UserError, OSError) as error:
            return JSONResponse({"error": str(error)}, 400 if isinstance(error, UserError) else 500)
        return state_of(session, ahead)

    def rate(question: int = Body(), choice: str = Body()) -> Any:
        return change(session.rate, question, choice)

    def undo(question: int = Body(embed=True)) -> Any:
        return change(session.undo, question)

    app.add_api_route("/", lambda: HTMLResponse(text), methods=["GET"], response_model=None)
    app.add_api_route("/api/state", lambda: state_of(session, ahead), methods=["GET"], response_model=None)
    app.add_api_route("/api/rate", rate, methods=["POST"], response_model=None)
    app.add_api_route("/api/undo", undo, methods=["POST"], response_model=None)
    return app


def serve(session: Session, ahead: Ahead, port: int) -> None:
    """Show a session until the process is interrupted. Raises UserError when the port is taken or the extra missing."""
    require_web()
    import uvicorn

    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        reason = f"cannot be used ({error.strerror})"
        raise UserError(f"port {port} {reason}; give --port another number, or 0 for any that is free") from None
    port = listening.getsockname()[1]
    print(f"rate at http://{HOST}:{port} (ctrl-C ends; every rating is kept)", flush=True)
    config = uvicorn.Config(application(session, ahead, port), log_level="warning", access_log=False)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn passes it on when it has ended
        uvicorn.Server(config).run(sockets=[listening])
