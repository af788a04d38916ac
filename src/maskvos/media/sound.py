"""The sound of a movie, copied into another one as it is, in step with the pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

log = logging.getLogger(__name__)

# Decoders start with sound before the first picture, which is not played.
_LEAD = Fraction(1, 5)


class Sound:
    """Copies the sound of a movie, packet by packet, without decoding it.

    Args:
        source: The movie.
        target: The new movie, whose video stream has been added, and nothing written yet.
        formats: What the new movie may have. Other sound is left out, and a warning says so.
    """

    def __init__(self, source: Path, target: OutputContainer, formats: Sequence[str]) -> None:
        self._target = target
        self._source = av.open(str(source.absolute()), metadata_errors="replace")
        self._streams: dict[AudioStream, AudioStream] = {}
        for stream in self._source.streams.audio:
            name = stream.codec_context.codec.canonical_name if stream.codec_context else "of an unknown format"
            if name in formats:
                self._streams[stream] = target.add_stream_from_template(stream)
            else:
                log.warning("%s: its sound (%s) is left out of a %s file", source, name, target.format.name)
        # Pictures are counted from the first one.
        begins = [
            stream.start_time * stream.time_base
            for stream in self._source.streams.video
            if stream.start_time is not None and stream.time_base is not None
        ]
        self._packets = self._demux(source, begins[0] if begins else Fraction(0))
        self._next = next(self._packets, None)

    def _demux(self, source: Path, zero: Fraction) -> Iterator[tuple[Fraction, Packet[Any]]]:
        """Packets for the new movie, each with its time in seconds after the first picture."""
        if not self._streams:
            return
        last: dict[AudioStream, int] = {}
        try:
            for packet in self._source.demux(list(self._streams)):
                pts, dts, base = packet.pts, packet.dts, packet.time_base
                if pts is None or dts is None or base is None or pts * base - zero <= -_LEAD:
                    continue
                stream, shift = self._streams[packet.stream], round(zero / base)  # type: ignore[index]
                if dts <= last.get(stream, dts - 1):  # damaged files repeat times
                    continue
                last[stream] = dts
                packet.pts, packet.dts, packet.stream = pts - shift, dts - shift, stream
                yield pts * base - zero, packet
        except av.error.FFmpegError as error:
            log.warning("%s: the rest of its sound is left out (%s)", source, error.strerror)

    def copy(self, until: Fraction | None) -> None:
        """Copy what begins before a time in seconds after the first picture; None: all that remains.

        Raises:
            FFmpegError: Writing failed.
        """
        while self._next is not None and (until is None or self._next[0] < until):
            self._target.mux(self._next[1])
            self._next = next(self._packets, None)
        if self._next is None:
            self.close()

    def close(self) -> None:
        """Close the source; nothing more is copied."""
        self._next = None
        self._packets = iter(())
        self._source.close()
