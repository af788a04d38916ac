"""The command ``maskvos``: ``maskvos clip.mp4`` segments videos; with settings it is ``python -m maskvos.run``."""

from __future__ import annotations

import argparse
import mimetypes
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from maskvos.cli.version import version_text
from maskvos.environment import check_memory_limit, ended_by_sigterm
from maskvos.errors import UserError, fail, nearest, out_of_memory, require_framework
from maskvos.media.files import ensure_writable, removed_if_unused

_SETTING = re.compile(r"(\+\+?|~)?[A-Za-z_][\w/.@-]*=.*|(\+|~)[\w/.@-]+", re.DOTALL)
_LONG_FLAGS = ("-m", "--multirun", "-c", "--cfg", "-r", "--run", "-p", "-i", "-sc", "-cp", "-cn", "-cd")
_PREFIXES = ("--hydra-", "--info", "--config", "--resolve", "--package", "--shell-completion", "--experimental")
_FOLDER = "maskvos_results"  # name of the default output folder, beside a source
_KINDS = "masks,overlay"
# What a file is by default, by its suffix.
_FILES = {
    **{".mp4": "overlay", ".webm": "webm", ".mov": "prores", ".webp": "webp", ".gif": "gif"},
    **{".mkv": "mask_movie", ".json": "coco"},
}

_EPILOG = """\
examples:
  maskvos clip.mp4                          masks and overlay.mp4, in the folder maskvos_results/clip beside it
  maskvos clip.mp4 -o cutout.webm           a transparent movie; also .mov (ProRes 4444), .webp, .gif, or .mp4 (overlay)
  maskvos clip.mp4 -o green.mp4 --kinds green_screen
  maskvos clip.mp4 -o new.mp4 --background beach.jpg     or another movie, blur, a colour
  maskvos *.mov -o out --kinds cutout       transparent PNG images of several clips, in out/<clip>/cutout
  cat clip.mp4 | maskvos - -o out           a pipe
  maskvos 0 -o out                          the first camera, until Ctrl-C; also rtsp://... and other streams
  maskvos app                               a page in the browser (maskvos app --help)

With settings (KEY=VALUE), the command is that of the framework: maskvos task=train +experiment=swin_t trains,
maskvos task=predict input=clip.mp4 output=out segments; python -m maskvos.run --help lists tasks and settings.
"""


def main() -> None:
    """Run the command; a mistake of the user ends with one message and exit status 2."""
    typed = sys.argv[1:]
    try:
        check_memory_limit()
        if typed[:1] == ["app"]:
            from maskvos.app.main import main as serve

            serve(typed[1:])
        elif is_long_form(typed):
            require_framework()
            from maskvos.run import main as run  # imports Hydra

            run()
        elif text := version_text(typed):
            print(text)
        else:
            _segment(_options(typed or ["--help"]))
    except UserError as error:
        fail(str(error))
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        if not out_of_memory(error):
            raise
        fail(f"the memory is full ({str(error)[:120]}); close other programs")
    except KeyboardInterrupt:
        sys.exit(130)


def is_long_form(arguments: Sequence[str]) -> bool:
    """Whether the arguments are settings and flags of the framework; the name of an existing file is neither."""
    return any(
        argument in _LONG_FLAGS
        or argument.startswith(_PREFIXES)
        or (_SETTING.fullmatch(argument) is not None and not os.path.lexists(argument))
        for argument in arguments
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maskvos",
        description="Segment the main moving object of videos.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="movie, image folder, folder of such, web or stream address, 0 for the camera, or - for a pipe",
    )
    add(
        "-o",
        "--output",
        metavar="PLACE",
        help=f"folder or file of the results; by default {_FOLDER}/ beside each source",
    )
    add("--kinds", metavar="A,B", help=f"what to write (default: {_KINDS}, or by the suffix of -o)")
    add(
        "--background",
        metavar="B",
        help="put the object on blur, a colour (name, #RRGGBB, or auto), a picture or a movie; --kinds background",
    )
    add("--weights", default="light", metavar="FILE", help="bundled weights, a checkpoint or an exported network")
    add(
        "--raft",
        metavar="FILE",
        help="RAFT's weights, for --weights light_raft (default: torchvision's, downloaded once)",
    )
    add("--threshold", type=float, default=0.5, metavar="P", help="object where the probability is greater (0.5)")
    add("--fill-gaps", type=int, metavar="N", help="fill what vanishes for up to N frames (2; in live sources 0)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    add("--backend", default="auto", help="auto, torch, onnx, openvino, torchscript or pt2")
    add(
        "--trust",
        action="append",
        default=[],
        metavar="NAME",
        help="torchscript, pt2 (programs), or a package of yours",
    )
    add("--live", action="store_true", help="read a pipe or web address as it comes, dropping frames to keep up")
    add("--overwrite", action="store_true", help="replace results that exist; by default complete ones are kept")
    add("--quiet", action="store_true", help="no progress bar, no summary")
    add("--version", action="store_true", help="version; with --verbose also packages and devices")
    return parser


def _options(typed: Sequence[str]) -> argparse.Namespace:
    """What was typed.

    Raises:
        UserError: An option is unknown.
    """
    parser = _parser()
    options, others = parser.parse_known_args(typed)
    if others:
        known = re.findall(r"--?[a-z]+(?:-[a-z]+)*", parser.format_usage())
        flag = next((other for other in others if other.startswith("-")), others[0]).partition("=")[0]
        raise UserError(f"{flag}: unknown option; {nearest(flag, known)} (maskvos --help lists them)")
    return options


def _segment(options: argparse.Namespace) -> None:
    from maskvos.data.sources import expand  # imports OpenCV, which --help does not need

    if options.background is not None and options.kinds is None:
        options.kinds = "background"
    with ExitStack() as stack:
        target = None if options.output is None else Path(options.output).expanduser()
        kinds = [kind.strip() for kind in (options.kinds or _KINDS).split(",") if kind.strip()]
        folder = target
        if target is not None and target.suffix.lower() in _FILES and not target.is_dir():
            kinds = [_kind_of(target, options)]
            folder = Path(stack.enter_context(_beside(target)))
        elif target is not None and not target.is_dir() and _is_medium(target):
            raise UserError(f"-o {target}: a file can be {', '.join(_FILES)}; choose one of these, or a folder")
        groups: dict[Path, list[str]] = {}
        for source in options.sources:
            for name in expand(source):
                groups.setdefault(folder or _beside_source(name), []).append(name)
        single = target if target is not folder else None
        written = _write(groups, kinds, options, single)
        if single is not None:
            from maskvos.inference.outputs import KINDS

            os.replace(written[0] / KINDS[kinds[0]].place, single)
            if not options.quiet:
                print(single)


def _write(
    groups: Mapping[Path, Sequence[str]], kinds: Sequence[str], options: argparse.Namespace, single: Path | None
) -> list[Path]:
    """Segment sources, by the folder of their results; returns the folders of the videos segmented now."""
    from maskvos.api import load
    from maskvos.data.sources import opened
    from maskvos.inference.live import write_source
    from maskvos.inference.writer import PredictionWriter
    from maskvos.media.background import BLUR

    with ExitStack() as stack:
        found = {
            output: stack.enter_context(opened(*names, live=options.live, progress=not options.quiet))
            for output, names in groups.items()
        }
        count = sum(len(each) if isinstance(each, list) else 1 for each in found.values())
        if single is not None and count > 1:
            raise UserError(f"-o {single}: is one file for {count} videos; give a folder")
        segmenter = load(
            options.weights,
            device=options.device,
            backend=options.backend,
            threshold=options.threshold,
            trust=options.trust,
            fill_gaps=options.fill_gaps,
            raft=options.raft,
        )
        existing = "overwrite" if options.overwrite else "resume"
        failures, written = [], []
        for output, source in found.items():
            background = options.background or BLUR
            writer = PredictionWriter(output, kinds, existing, background=background, settings=segmenter.settings)
            try:
                with ended_by_sigterm():
                    write_source(segmenter, source, writer, progress=not options.quiet)
            except UserError as error:
                failures.append(str(error))
            written += [output / name for name, _ in writer.finished]
            if not options.quiet and (writer.finished or writer.skipped) and single is None:
                print(writer.summary())
    if failures:
        raise UserError("\n".join(failures))
    return written


def _kind_of(target: Path, options: argparse.Namespace) -> str:
    """The kind that a file is of, by its suffix, or that of ``--kinds`` if it has this suffix.

    Raises:
        UserError: The kind has another suffix, or the file exists and must not be replaced.
    """
    from maskvos.inference.outputs import KINDS

    kind: str = options.kinds or _FILES[target.suffix.lower()]
    if kind not in KINDS or Path(KINDS[kind].place).suffix != target.suffix.lower():
        fitting = [name for name, known in KINDS.items() if Path(known.place).suffix == target.suffix.lower()]
        raise UserError(f"--kinds {kind}: {target.name} can be {' or '.join(fitting)}; or give -o a folder")
    if target.exists() and not options.overwrite:
        raise UserError(f"{target} exists; choose another name, or replace it with --overwrite")
    return kind


def _is_medium(target: Path) -> bool:
    """Whether a name is that of a movie or picture."""
    return (mimetypes.guess_type(target.name)[0] or "").startswith(("video/", "image/"))


@contextmanager
def _beside(target: Path) -> Iterator[str]:
    """A temporary folder on the same disk as a file."""
    parent = target.absolute().parent
    with removed_if_unused(parent):
        ensure_writable(parent)
        with tempfile.TemporaryDirectory(prefix=".maskvos-", dir=parent) as folder:
            yield folder


def _beside_source(source: str) -> Path:
    """The folder of a source's results where none is given: beside a file, for what is no file in the current one."""
    from maskvos.data.sources import is_file

    return Path(source).absolute().parent / _FOLDER if is_file(source) else Path(_FOLDER)
