"""The page's server: clips are sent, watched, and fetched back. No path of a request ever becomes that of a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskvos.app.formats import check_background
from maskvos.app.jobs import OFFERED, Job, Jobs
from maskvos.errors import UserError
from maskvos.inference.outputs import KINDS

_PAGE = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_RESULT_TYPES = {
    **{".mp4": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime", ".mkv": "video/x-matroska"},
    **{".webp": "image/webp", ".gif": "image/gif"},
}
# Bytes of disk that are left free.
_RESERVE = 2**28
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses what other pages in the same browser send here, and adds headers that keep the page to itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            await _error("this page takes clips from itself only", 403)(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, guarded)


class Handlers:
    """What the page's requests do; each method answers one route of `build_app`.

    Args:
        jobs: The clips.
        limit: Bytes that a file may have.
    """

    def __init__(self, jobs: Jobs, limit: int) -> None:
        self._jobs, self._limit = jobs, limit

    def _job(self, request: Request) -> Job:
        job = self._jobs.get(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "clip not found: it may have been removed; choose it again")
        return job

    async def page(self, request: Request) -> Response:
        """The page itself, its script and its style."""
        name = {"/": "index.html"}.get(request.url.path, request.url.path[1:])  # one of the routes below
        return FileResponse(_PAGE / name, media_type=_TYPES[Path(name).suffix])

    async def about(self, request: Request) -> Response:
        """The limit of files, and the kinds of results."""
        return JSONResponse({"limit": self._limit, "kinds": OFFERED})

    async def upload(self, request: Request) -> Response:
        """Receive a clip, and check that it is a movie."""
        job = self._jobs.create(request.query_params.get("name", "clip"))
        try:
            await _receive(request, job.clip, self._limit)
            await run_in_threadpool(self._jobs.inspect, job)
        except BaseException:  # also when the browser disconnects
            self._jobs.remove(job.id)
            raise
        return JSONResponse({"id": job.id}, 201)

    async def background(self, request: Request) -> Response:
        """Receive the picture or movie for the background of a clip."""
        job = self._job(request)
        incoming = job.folder / "incoming"
        await _receive(request, incoming, self._limit)
        await run_in_threadpool(check_background, incoming)
        incoming.replace(job.background)
        return Response(status_code=204)

    async def start(self, request: Request) -> Response:
        """Queue a clip, with settings as JSON, see `Jobs.start`."""
        try:
            settings = json.loads(await request.body())
        except ValueError as error:
            raise UserError("the settings are not JSON") from error
        if not isinstance(settings, dict):
            raise UserError("the settings are not a JSON object")
        self._jobs.start(self._job(request), settings)
        return Response(status_code=202)

    async def state(self, request: Request) -> Response:
        """Progress of a clip, its position in the queue, and the identifier of its result."""
        job = self._job(request)
        shown = {name: getattr(job, name) for name in ("name", "state", "done", "frames", "error", "kind")}
        result = None if job.result is None else job.result.parents[1].name
        return JSONResponse({**shown, "position": self._jobs.position(job), "result": result})

    async def preview(self, request: Request) -> Response:
        """The latest segmented frame of a clip, as JPEG."""
        return Response(self._job(request).preview, media_type="image/jpeg")

    async def clip(self, request: Request) -> Response:
        """A clip as it was uploaded; byte ranges are supported, here and below."""
        job = self._job(request)
        return FileResponse(job.clip, media_type=job.type)

    async def result(self, request: Request) -> Response:
        """The result of a clip, to be played or, with ``?download``, saved."""
        job = self._job(request)
        if job.result is None:
            raise HTTPException(404, "this clip has no result yet; wait until it is done")
        place = Path(KINDS[job.kind].place)
        name = f"{job.name}_{place.name}" if "download" in request.query_params else None
        return FileResponse(job.result, media_type=_RESULT_TYPES[place.suffix], filename=name)

    async def remove(self, request: Request) -> Response:
        """Remove a clip and its files."""
        self._jobs.remove(self._job(request).id)
        return Response(status_code=204)


def build_app(jobs: Jobs, limit: int, hosts: list[str]) -> Starlette:
    """The application.

    Args:
        jobs: The clips.
        limit: Bytes that a file may have.
        hosts: Names under which the page may be opened, so that no other name can be made to point here.
    """
    do = Handlers(jobs, limit)
    routes = [
        *(Route(path, do.page) for path in ("/", "/page.js", "/page.css")),
        Route("/about", do.about),
        Route("/clips", do.upload, methods=["POST"]),
        Route("/clips/{id}", do.state),
        Route("/clips/{id}", do.remove, methods=["DELETE"]),
        Route("/clips/{id}/background", do.background, methods=["PUT"]),
        Route("/clips/{id}/start", do.start, methods=["POST"]),
        Route("/clips/{id}/preview", do.preview),
        Route("/clips/{id}/clip", do.clip),
        Route("/clips/{id}/result", do.result),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard), Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        exception_handlers={UserError: _refuse, HTTPException: _refuse, ClientDisconnect: _refuse},
    )


async def _receive(request: Request, path: Path, limit: int) -> None:
    """Write what is sent to a file, as it comes.

    Raises:
        HTTPException: It is too large, for the limit or for the disk.
    """
    stated = int(request.headers.get("content-length", 0))
    room = shutil.disk_usage(path.parent).free - _RESERVE
    received = 0
    with path.open("wb") as file:
        if stated <= min(limit, room):
            async for chunk in request.stream():
                received += len(chunk)
                if received > min(limit, room):
                    break
                file.write(chunk)  # into the page cache: quicker than handing it to a thread
    if max(stated, received) > min(limit, room):
        path.unlink()
        reason = f"files may have {_size(limit)}" if limit <= room else "the disk has too little room"
        raise HTTPException(413, f"this file is too large: {reason}")


def _size(count: int) -> str:
    return f"{count / 2**30:.3g} GB" if count >= 2**30 else f"{count / 2**20:.3g} MB"


def _error(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status)


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _error(error.detail, error.status_code)
    return _error(str(error), 400)
