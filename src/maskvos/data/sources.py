"""What a user names as a source of videos: files, folders, patterns, web addresses, streams, cameras and pipes."""

from __future__ import annotations

import base64
import glob
import hashlib
import http.client
import os
import re
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from maskvos.data.datasets.folder import folder
from maskvos.errors import UserError, nearest
from maskvos.media.live import LiveSource
from maskvos.text import progress_bar
from maskvos.types import Video

_CAMERA = re.compile(r"\d{1,2}")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.*", re.DOTALL)
_PLAYLIST = "mpegurl"
_MEBIBYTE = 2**20
_BLOCK = 2**16  # what a pipe holds: progress is shown as the bytes come
# Characters beyond which a list of all names is of no help.
_HINT = 300


def expand(source: str) -> list[str]:
    """The sources that a name stands for: itself, or the files and folders that match it as a pattern.

    A name that exists is taken literally, whatever characters it has.

    Raises:
        UserError: The file is not found, and no file matches the pattern.
    """
    if source == "-" or _CAMERA.fullmatch(source) or _ADDRESS.fullmatch(source):
        return [source]
    if os.path.lexists(source):
        return [source]
    path = os.path.expanduser(source)
    if os.path.lexists(path):
        return [path]
    if found := sorted(glob.glob(path, recursive=True)):
        return found
    parent = Path(path).parent
    if not parent.is_dir():
        raise UserError(f"no file or folder {source}: there is no folder {parent}; check the path")
    names = [name for name in os.listdir(parent) if not name.startswith(".")]
    hint = nearest(Path(path).name, names) if names else "the folder is empty"
    if len(hint) > _HINT:
        hint = "nothing there has a similar name"
    raise UserError(f"no file or folder {source}; {hint}")


def is_file(source: str) -> bool:
    """Whether a source is a file or folder on disk, beside which results can lie."""
    return os.path.lexists(source) and not _is_pipe(source)


@contextmanager
def opened(*sources: str, live: bool = False, progress: bool = False) -> Iterator[list[Video] | LiveSource]:
    """The videos of sources, or a live source.

    A web address whose server states a length is a file: it is downloaded, as a pipe is read to its end, into a
    temporary file. Other addresses (``rtsp://``, a web camera) and cameras are live.

    Args:
        sources: Names of `expand`; ``-`` is a pipe, digits the number of a camera unless a file has that name.
        live: Also take web addresses and pipes as live: frames are dropped where the caller is slow.
        progress: Show a progress bar on stderr while a pipe or a web address is read.

    Yields:
        The videos, valid within the context; or the live source, which is stopped afterwards.

    Raises:
        UserError: A source cannot be read, two videos have the same name, or a live source is not the only one.
    """
    with ExitStack() as stack:
        found = [_open(source, live, progress, stack) for source in sources]
        if isinstance(found[0], LiveSource) and len(found) == 1:
            yield found[0]
            return
        videos: list[Video] = []
        for source, each in zip(sources, found, strict=True):
            if isinstance(each, LiveSource):
                raise UserError(f"{source} is live, and may not end; segment it in a command of its own")
            videos += each
        names = [video.name for video in videos]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(
                f"two sources are named '{twice[0]}', and both would be written to a folder of this name; rename one, "
                "or segment them into different folders"
            )
        yield videos


def _open(source: str, live: bool, progress: bool, stack: ExitStack) -> list[Video] | LiveSource:
    if source == "-" or _is_pipe(source):
        return _pipe(source, live, progress, stack)
    if os.path.lexists(source):
        if live:
            raise UserError(f"{source} is a file; only addresses, pipes and cameras can be read live")
        return folder(source)
    if _CAMERA.fullmatch(source):
        return stack.enter_context(LiveSource(int(source)))
    scheme = urlsplit(source).scheme if _ADDRESS.fullmatch(source) else ""
    if scheme in ("http", "https") and not live:
        return _web(source, progress, stack)
    if scheme in ("", "file"):
        return folder(url2pathname(urlsplit(source).path) if scheme else source)  # says what is missing
    return stack.enter_context(LiveSource(source))


def _is_pipe(source: str) -> bool:
    return Path(source).is_fifo()


def _pipe(source: str, live: bool, progress: bool, stack: ExitStack) -> list[Video] | LiveSource:
    if source == "-" and sys.stdin.isatty():
        raise UserError("-: nothing is piped into this command; for example: cat clip.mp4 | maskvos - -o out")
    if live:
        return stack.enter_context(LiveSource("pipe:0" if source == "-" else source))
    if source == "-":
        return _stored(sys.stdin.buffer, "pipe", source, progress, stack)
    with open(source, "rb") as file:
        return _stored(file, Path(source).name, source, progress, stack)


def _web(source: str, progress: bool, stack: ExitStack) -> list[Video] | LiveSource:
    """A file that is downloaded; a recording in pieces, of which no frame is dropped; or a live stream."""
    try:
        with urllib.request.urlopen(_request(source), timeout=30) as response:
            kind, length = response.headers.get_content_type(), response.headers["Content-Length"]
            if _PLAYLIST in kind or urlsplit(source).path.endswith(".m3u8"):
                ends = b"#EXT-X-ENDLIST" in response.read(_MEBIBYTE)
                return stack.enter_context(LiveSource(source, drop=not ends))
            if length is None:
                return stack.enter_context(LiveSource(source))
            name = Path(unquote(urlsplit(source).path)).name or "download"
            return _stored(response, name, source, progress, stack, int(length))
    except (http.client.HTTPException, OSError) as error:
        raise UserError(f"{source}: cannot be read ({error}); check the address, or give a file") from error


def _request(source: str) -> urllib.request.Request:
    """The request for an address, with the user and password that it may name."""
    parts = urlsplit(source)
    request = urllib.request.Request(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    if parts.username is not None:
        given = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(given.encode()).decode()}")
    return request


def _stored(
    content: IO[bytes], name: str, source: str, progress: bool, stack: ExitStack, length: int | None = None
) -> list[Video]:
    """The video in a stream of bytes, whose number may be known, as a temporary file."""
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maskvos-"))) / name
    digest = hashlib.sha256()
    try:
        with path.open("wb") as file, progress_bar(shown=progress) as bar:
            task = bar.add_task(f"reading {name}", total=length, unit="bytes")
            while block := content.read(_BLOCK):
                digest.update(block)
                file.write(block)
                bar.advance(task, len(block))
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error}); check it, and the space in {path.parent}") from error
    if length is not None and path.stat().st_size != length:
        raise UserError(f"{source}: broke off after {path.stat().st_size} of {length} bytes; try again")
    # Results know their input by name, size and time: let the time say what the content is, to resume.
    stamp = int.from_bytes(digest.digest()[:6], "big") * 1000
    os.utime(path, ns=(stamp, stamp))
    return folder(path)
