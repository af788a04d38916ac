"""The command ``maskvos``: ``maskvos clip.mp4`` segments videos; with settings it is ``python -m maskvos.run``."""

from __future__ import annotations

import argparse
import glob
import os
import re
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from maskvos.cli.version import version_text
from maskvos.errors import UserError, nearest

_SETTING = re.compile(r"(\+\+?|~)?[A-Za-z_][\w/.@-]*=.*|(\+|~)[\w/.@-]+", re.DOTALL)
_LONG_FLAGS = ("-m", "--multirun", "-c", "--cfg", "-r", "--run", "-p", "-i", "-sc", "-cp", "-cn", "-cd")
_PREFIXES = ("--hydra-", "--info", "--config", "--resolve", "--package", "--shell-completion", "--experimental")
_WEB = ("http", "https")
_FOLDER = "maskvos"  # name of the default output folder, beside a source

_EPILOG = """\
examples:
  maskvos clip.mp4                          masks and overlay.mp4, in the folder maskvos/clip beside it
  maskvos *.mov -o out --kinds cutout       transparent PNG images of several clips, in out/<clip>/cutout
  cat clip.mp4 | maskvos - -o out           a pipe

With settings (KEY=VALUE), the command is that of the framework: maskvos task=train +experiment=swin_t trains,
maskvos task=predict input=clip.mp4 output=out segments; python -m maskvos.run --help lists tasks and settings.
"""


def main() -> None:
    """Run the command; a mistake of the user ends with one message and exit status 2."""
    typed = sys.argv[1:]
    try:
        if is_long_form(typed):
            if find_spec("hydra") is None:
                raise UserError(
                    "settings (KEY=VALUE) are for the framework, whose packages are not installed; install it with "
                    "all dependencies: pip install <folder of maskvos>"
                )
            from maskvos.run import main as run  # imports Hydra

            run()
        elif text := version_text(typed):
            print(text)
        else:
            _segment(_parser().parse_args(typed or ["--help"]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
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
        "sources", nargs="+", metavar="SOURCE", help="movie, image folder, folder of such, web address, or - for a pipe"
    )
    add("-o", "--output", metavar="FOLDER", help=f"folder of the results; by default {_FOLDER}/ beside each source")
    add("--kinds", default="masks,overlay", metavar="A,B", help="what to write (default: %(default)s)")
    add("--weights", default="light", metavar="FILE", help="bundled weights, a checkpoint or an exported network")
    add("--threshold", type=float, default=0.5, metavar="P", help="object where the probability is greater (0.5)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    add("--backend", default="auto", help="auto, torch, onnx, openvino, torchscript or pt2")
    add("--overwrite", action="store_true", help="replace results that exist; by default complete ones are kept")
    add("--quiet", action="store_true", help="no progress bar, no summary")
    add("--version", action="store_true", help="version; with --verbose also packages and devices")
    return parser


def _segment(options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        places = [
            (path, output) for source in options.sources for path, output in _places(source, options.output, stack)
        ]
        from maskvos.api import load
        from maskvos.data.datasets.folder import folder
        from maskvos.inference.writer import PredictionWriter, write_predictions

        groups: dict[Path, list] = {}
        for path, output in places:
            groups.setdefault(output, []).extend(folder(path))
        for output, videos in groups.items():
            _check_unique([video.name for video in videos], output)
        segmenter = load(options.weights, device=options.device, backend=options.backend, threshold=options.threshold)
        kinds = [kind.strip() for kind in options.kinds.split(",") if kind.strip()]
        failures = []
        for output, videos in groups.items():
            writer = PredictionWriter(
                output,
                kinds=kinds,
                existing="overwrite" if options.overwrite else "resume",
                settings=segmenter.settings,
            )
            try:
                write_predictions(segmenter, videos, writer, progress=not options.quiet)
            except UserError as error:
                failures.append(str(error))
            if not options.quiet and (writer.finished or writer.skipped):
                print(writer.summary())
        if failures:
            raise UserError("\n".join(failures))


def _places(source: str, output: str | None, stack: ExitStack) -> Iterator[tuple[Path, Path]]:
    """The files and folders of a source, each with the folder of its results."""
    scheme = urlsplit(source).scheme
    if source == "-" or scheme in _WEB:
        yield stack.enter_context(_fetched(source)), Path(output or _FOLDER)
        return
    path = Path(source).expanduser()
    if os.path.lexists(path):
        found = [path]
    elif found := [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]:
        pass
    elif "://" in source:
        raise UserError(f"{source}: cannot be opened; give a file, an address of {' or '.join(_WEB)}, or - for a pipe")
    else:
        parent = path.parent if path.parent.is_dir() else Path()
        raise UserError(f"no file or folder {source}; {nearest(path.name, os.listdir(parent))}")
    for each in found:
        beside = each.absolute().parent / _FOLDER
        yield each, Path(output).expanduser() if output else beside


@contextmanager
def _fetched(source: str) -> Iterator[Path]:
    """The movie behind a web address or in the pipe, as a temporary file of the same name."""
    name = "pipe" if source == "-" else Path(unquote(urlsplit(source).path)).name or "download"
    with tempfile.TemporaryDirectory(prefix="maskvos-") as folder:
        path = Path(folder) / name
        try:
            with path.open("wb") as file:
                if source == "-":
                    shutil.copyfileobj(sys.stdin.buffer, file)
                else:
                    with urllib.request.urlopen(source, timeout=30) as response:
                        shutil.copyfileobj(response, file)
        except (urllib.error.URLError, OSError) as error:
            raise UserError(f"{source}: cannot be read ({error}); check the address, or give a file") from error
        yield path


def _check_unique(names: Sequence[str], output: Path) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"two sources are named '{name}', and both would be written to {output / name}; rename one, or "
                "segment them into different folders (-o)"
            )
