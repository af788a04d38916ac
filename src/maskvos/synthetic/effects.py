"""Camera effects on procedural clips: defocus, changing light, sensor noise, JPEG and H.264 compression."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import cv2
import numpy as np

from maskvos.synthetic.curves import Curves
from maskvos.synthetic.rendering import Clock
from maskvos.synthetic.style import Style


def apply_camera_effects(rng: np.random.Generator, rgb: np.ndarray, style: Style) -> np.ndarray:
    """Apply defocus, light, sensor noise and compression, in this order, to `rgb` (T, H, W, 3) uint8, in place."""
    curves = Curves(rng, len(rgb))
    sigma = rng.uniform(0.4, 1.2) if rng.random() < style.soft else 0.0
    illumination = _illumination(rng, curves, rgb.shape[1:3]) if rng.random() < style.light else None
    noise = _sensor_noise(rng, rgb.shape[1:3]) if rng.random() < style.noise else None
    quality = int(rng.integers(25, 90)) if rng.random() < style.jpeg else 0
    crf = int(rng.integers(20, 38)) if rng.random() < style.h264 else 0
    height, width = rgb.shape[1:3]
    for index, frame in enumerate(rgb):
        if sigma:
            cv2.GaussianBlur(frame, (0, 0), sigma, dst=frame)
        if illumination is not None:
            gain, tilt, gradient = illumination
            cv2.multiply(frame, gain(index) + tilt(index) * gradient, dst=frame, dtype=cv2.CV_8U)
        if noise is not None:
            top, left = int(rng.integers(0, 64)), int(rng.integers(0, 64))
            cv2.add(frame, noise[top : top + height, left : left + width], dst=frame, dtype=cv2.CV_8U)
        if quality:
            code = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            frame[:] = cv2.imdecode(code, cv2.IMREAD_COLOR)
    return _compress_h264(rgb, crf) if crf else rgb


def _illumination(rng: np.random.Generator, curves: Curves, size: tuple[int, int]) -> tuple[Clock, Clock, np.ndarray]:
    """Gain over time, strength of the gradient over time, and a slightly coloured gradient (H, W, 3) float32."""
    gain = curves.interpolate(1 + curves.smooth_noise(rng.uniform(6, 40), rng.uniform(0.02, 0.15)))
    tilt = curves.interpolate(curves.smooth_noise(rng.uniform(10, 40), rng.uniform(0.02, 0.2)))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    gradient = (np.cos(angle) * x + np.sin(angle) * y)[..., None] * rng.uniform(0.8, 1.2, 3)
    return gain, tilt, gradient.astype(np.float32)


def _sensor_noise(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Sensor noise, (H + 64, W + 64, 3) int16; every frame takes a random crop of it."""
    shape = (size[0] + 64, size[1] + 64, 3)
    noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(rng.uniform(1.5, 10))
    if rng.random() < 0.4:
        noise = cv2.GaussianBlur(noise, (0, 0), 0.7) * 1.8
    if rng.random() < 0.3:
        noise = np.repeat(noise[..., :1], 3, axis=2)
    return np.round(noise).astype(np.int16)


def _compress_h264(rgb: np.ndarray, crf: int) -> np.ndarray:
    """Encode and decode; odd sizes are padded. One thread, so that the result is the same on every machine."""
    height, width = rgb.shape[1:3]
    padded = np.pad(rgb, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as sink:
        stream = sink.add_stream("libx264", rate=Fraction(25))
        stream.height, stream.width = padded.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": "ultrafast", "threads": "1"}
        for image in padded:
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        sink.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as source:
        for index, picture in enumerate(source.decode(video=0)):
            rgb[index] = picture.to_ndarray(format="rgb24")[:height, :width]
    return rgb
