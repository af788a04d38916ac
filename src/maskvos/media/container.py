"""Movies and streams, opened with FFmpeg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
from av.container import InputContainer


def open_input(source: Path | str, **options: Any) -> InputContainer:
    """Open a movie or a stream for reading.

    Args:
        source: A path, or the address of a stream.
        options: For ``av.open``.

    Raises:
        av.error.FFmpegError, OSError: It cannot be opened.
    """
    address = str(source.absolute()) if isinstance(source, Path) else source  # "a:b.mp4" alone would be an address
    # Titles and comments are often in other encodings, or damaged.
    return av.open(address, metadata_errors="replace", **options)
