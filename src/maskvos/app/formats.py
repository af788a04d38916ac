"""Which uploaded files are opened: movies that are one file, never lists of other files or addresses."""

from __future__ import annotations

from pathlib import Path

import av
from PIL import Image

from maskvos.errors import UserError
from maskvos.media.video import probe

# FFmpeg's names. Playlists (HLS, DASH, concat) and image sequences, which would read other files, are not among them.
_MOVIES = {
    **{"mov,mp4,m4a,3gp,3g2,mj2": "video/mp4", "matroska,webm": "video/webm", "avi": "video/x-msvideo"},
    **{"mpegts": "video/mp2t", "mpeg": "video/mpeg", "flv": "video/x-flv", "asf": "video/x-ms-asf", "ogg": "video/ogg"},
    **{"mxf": "application/mxf", "gif": "image/gif", "dv": "video/x-dv"},
}
_PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def check_movie(path: Path) -> str:
    """Check that an uploaded file is a movie of frames that can be decoded; nothing else is opened.

    Args:
        path: The file; its name says nothing.

    Returns:
        Its media type.

    Raises:
        UserError: It is not.
    """
    options = {"format_whitelist": ",".join(_MOVIES), "protocol_whitelist": "file"}
    try:
        with av.open(str(path.absolute()), options=options, metadata_errors="replace") as container:
            kind = _MOVIES[container.format.name]
        probe(path)
    except (av.error.FFmpegError, OSError, KeyError, UserError) as error:
        raise UserError(
            "this is not a movie that can be decoded; choose a video file, such as .mp4, .mov, .webm or .mkv"
        ) from error
    return kind


def check_background(path: Path) -> None:
    """Check that an uploaded file is a picture or a movie.

    Raises:
        UserError: It is neither.
    """
    Image.init()  # loads all formats, so that some can be named
    try:
        with Image.open(path, formats=_PICTURES) as image:
            image.verify()
        return
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass
    try:
        check_movie(path)
    except UserError as error:
        raise UserError("this is neither a picture nor a movie that can be decoded; choose another file") from error
