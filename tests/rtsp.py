"""An RTSP server for tests: one H.264 stream by RTP within the connection (RFC 2326, 6184), paced as a camera's is."""

from __future__ import annotations

import socketserver
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import av
import numpy as np

_CLOCK = 90_000  # RTP's units per second of video


def encoded(frames: Sequence[np.ndarray], rate: int) -> list[bytes]:
    """H.264 of (H, W, 3) uint8 RGB frames, one access unit each, in which start codes separate the NAL units."""
    codec = av.CodecContext.create("libx264", "w")
    codec.height, codec.width = frames[0].shape[:2]
    codec.pix_fmt, codec.framerate = "yuv420p", rate
    codec.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "keyint=10:sliced-threads=0"}
    pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames]
    return [bytes(packet) for picture in (*pictures, None) for packet in codec.encode(picture)]


@contextmanager
def served(units: Sequence[bytes], rate: int) -> Iterator[str]:
    """The address of a server on loopback that plays access units in real time to whoever connects, then hangs up."""

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                while request := self._request():
                    method, headers = request
                    self._answer(method, headers)
                    if method == "PLAY":
                        return self._play()
            except OSError:
                pass  # the other side has gone

        def _request(self) -> tuple[str, dict[str, str]] | None:
            lines = []
            while line := self.rfile.readline().decode().strip():
                lines.append(line)
            headers = (line.partition(": ")[::2] for line in lines[1:])
            return (lines[0].split()[0], dict(headers)) if lines else None

        def _answer(self, method: str, headers: dict[str, str]) -> None:
            content, more = "", []
            if method == "OPTIONS":
                more = ["Public: DESCRIBE, SETUP, PLAY, TEARDOWN"]
            elif method == "DESCRIBE":
                content = "v=0\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
                content += "a=fmtp:96 packetization-mode=0\r\na=control:track\r\n"
                more = ["Content-Type: application/sdp", f"Content-Length: {len(content)}"]
            elif method == "SETUP":
                more = ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1"]
            lines = ["RTSP/1.0 200 OK", f"CSeq: {headers['CSeq']}", "Session: 1", *more, "", content]
            self.wfile.write("\r\n".join(lines).encode())

        def _play(self) -> None:
            number = 0
            for index, unit in enumerate(units):
                parts = [part.rstrip(b"\0") for part in unit.split(b"\0\0\1")]
                parts = [part for part in parts if part]
                for part in parts:
                    last = part is parts[-1]
                    head = struct.pack(">BBHII", 0x80, last << 7 | 96, number, index * _CLOCK // rate, 1)
                    self.wfile.write(struct.pack(">BBH", 0x24, 0, len(head + part)) + head + part)
                    number += 1
                time.sleep(1 / rate)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"rtsp://127.0.0.1:{server.server_address[1]}/camera"
        server.shutdown()
