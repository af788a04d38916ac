"""The sound of a movie, copied into another one, in step with the pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

from maskvos.media.container import open_input

log = logging.getLogger(__name__)

# Decoders start with sound before the first picture, which is not played.
_LEAD = Fraction(1, 5)
_RATE = 48000
_BITS = 96_000  # per second and channel
# Encoders of formats.
_ENCODERS = {"opus": "libopus", "aac": "aac"}


class Sound:
    """Copies the sound of a movie, packet by packet: as it is, or re-encoded where the new movie cannot have it.

    Args:
        source: The movie.
        target: The new movie, whose video stream has been added, and nothing written yet.
        formats: What the new movie may have. Other sound is encoded to the first of them, in at most two channels; what
            cannot be decoded is left out, and a warning says so.
    """

    def __init__(self, source: Path, target: OutputContainer, formats: Sequence[str]) -> None:
        self._target = target
        self._source = open_input(source)
        self._streams: dict[AudioStream, AudioStream] = {}
        self._encoded: set[AudioStream] = set()
        for stream in self._source.streams.audio:
            if stream.codec_context is None:
                log.warning("%s: its sound is of an unknown format, and left out", source)
            elif stream.codec_context.codec.canonical_name in formats:
                self._streams[stream] = target.add_stream_from_template(stream)
            else:
                channels = min(stream.codec_context.channels, 2)
                layout = ("mono", "stereo")[channels - 1]
                new = target.add_stream(_ENCODERS[formats[0]], _RATE, layout=layout, bit_rate=_BITS * channels)
                self._streams[stream] = cast(AudioStream, new)
                self._encoded.add(stream)
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
                if packet.stream in self._encoded:
                    yield from self._encode(packet, zero)
                    continue
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

    def _encode(self, packet: Packet[Any], zero: Fraction) -> Iterator[tuple[Fraction, Packet[Any]]]:
        """What becomes of a packet in the format of the new movie, with times as in `_demux`; an empty one ends it."""
        stream = self._streams[packet.stream]
        try:
            frames = cast(list[AudioFrame], packet.decode())
        except av.error.InvalidDataError:
            return
        for frame in frames:
            pts, base = frame.pts, frame.time_base
            if pts is None or base is None or pts * base - zero <= -_LEAD:
                continue
            frame.pts = pts - round(zero / base)
            yield from _timed(stream.encode(frame))
        if packet.dts is None:
            yield from _timed(stream.encode(None))

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


def _timed(packets: Iterable[Packet[Any]]) -> Iterator[tuple[Fraction, Packet[Any]]]:
    for packet in packets:
        yield cast(Fraction, packet.pts * packet.time_base), packet  # type: ignore[operator]
