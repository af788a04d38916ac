"""Score the masks of several methods under one protocol, and write one Markdown page that compares them.

    python scripts/leaderboard.py docs/leaderboard --data <DAVIS> --masks <masks> --output docs/leaderboard.md

Each method is a yaml, given alone or in a folder; the keys are those of `Method`. Its masks are a folder or an archive
(zip, tar) in ``<masks>``, one folder per sequence at any depth, one image per frame, binary or soft. The protocol is
that of DAVIS-2016, or of another of `BENCHMARKS` (``--dataset``). Equal input gives an equal page.
"""

from __future__ import annotations

import argparse
import math
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import yaml

from maskvos.data.datasets.davis import davis
from maskvos.data.datasets.fbms import fbms
from maskvos.data.datasets.long_videos import long_videos
from maskvos.data.datasets.youtube_objects import youtube_objects
from maskvos.errors import UserError, nearest
from maskvos.media.files import write_bytes
from maskvos.metrics import evaluate_folder, layout
from maskvos.metrics.protocol import SERIES, STABILITY, Protocol
from maskvos.metrics.reading import read_prediction
from maskvos.metrics.results import Summary
from maskvos.text import markdown_table, natural
from maskvos.types import Video


class Benchmark(NamedTuple):
    """What methods are scored on.

    Attributes:
        title: Name on the page.
        videos: Lists its test sequences in a folder.
        protocol: How they are scored.
        rule: The protocol in words.
        sequences: Number of all its test sequences; None: what is in the folder is taken for all.
    """

    title: str
    videos: Callable[[Path], list[Video]]
    protocol: Protocol
    rule: str
    sequences: int | None = None


def _protocol(name: str, **options: Any) -> Protocol:
    """The protocol that ``protocol=<name>`` selects."""
    text = (Path(__file__).resolve().parents[1] / "conf/protocol" / f"{name}.yaml").read_text(encoding="utf-8")
    given = {key: value for key, value in yaml.safe_load(text).items() if key != "defaults"}
    return Protocol(**given, **options)


_ANNOTATED = "all annotated frames, all objects as one, pixels above 127 are foreground, mean over frames, then "
BENCHMARKS = {
    "davis": Benchmark(
        "DAVIS-2016",
        partial(davis, split="val"),
        _protocol("davis2016", measures=(*SERIES, STABILITY)),
        "all frames but the first and the last of each sequence, pixels above 127 are foreground, mean over frames, "
        "then over sequences",
        20,
    ),
    "davis2017_unsupervised": Benchmark(
        "DAVIS-2017 unsupervised",
        partial(davis, split="val", year=2017, annotations="Annotations_unsupervised"),
        _protocol("davis2017_unsupervised"),
        "all frames, up to 20 proposed objects matched to the true ones, mean over frames, then over objects",
        30,
    ),
    "fbms": Benchmark("FBMS-59", partial(fbms, split="test"), _protocol("fbms"), f"{_ANNOTATED}over sequences", 30),
    "long_videos": Benchmark("Long-Videos", long_videos, _protocol("all_frames"), f"{_ANNOTATED}over sequences"),
    "youtube_objects": Benchmark(
        "YouTube-Objects",
        youtube_objects,
        _protocol("youtube_objects"),
        f"{_ANNOTATED}over the sequences of a class, then over classes",
    ),
}


@dataclass(frozen=True)
class Method:
    """What the yaml of a method says.

    Attributes:
        name: Name in the tables.
        year: Of publication.
        paper: Authors, title and venue, or what else describes the method.
        where: Where its masks can be got, in words.
        licence: Terms of the masks.
        masks: Folder or archive, relative to the folder of all masks.
        first_frame_mask: Whether the method is given the true mask of the first frame.
        sequences: Names of those that its masks cover, or ``all``.
        published: J, F and perhaps T, 0 to 1, as published for all sequences; None: not published.
        published_in: Where these figures were published.
    """

    name: str
    year: int
    paper: str
    where: str
    licence: str
    masks: str
    first_frame_mask: bool
    sequences: str | list
    published: dict | None
    published_in: str


_TYPES = get_type_hints(Method)
_EXAMPLES = "see docs/leaderboard for examples"


def read_method(path: Path) -> Method:
    """Read and check the yaml of a method.

    Raises:
        UserError: It cannot be read, keys are missing or unknown, or a value is wrong.
    """
    try:
        given: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {_EXAMPLES}") from error
    if not isinstance(given, dict):
        raise UserError(f"{path}: must hold keys and values; {_EXAMPLES}")
    for key in given:
        if key not in _TYPES:
            raise UserError(f"{path}: unknown key '{key}'; {nearest(str(key), _TYPES)}")
    if missing := [key for key in _TYPES if key not in given]:
        raise UserError(f"{path}: missing keys: {', '.join(missing)}; add them")
    for key, kind in _TYPES.items():
        if not isinstance(given[key], kind):
            raise UserError(f"{path}: {key}={given[key]!r} must be {getattr(kind, '__name__', kind)}; {_EXAMPLES}")
    method, scores = Method(**given), given["published"] or {"j": 0, "f": 0}
    if isinstance(method.sequences, str) and method.sequences != "all":
        raise UserError(f"{path}: sequences={method.sequences} must be 'all' or a list; write [{method.sequences}]")
    if set(scores) - {STABILITY} != set(SERIES) or not all(
        type(s) in (int, float) and 0 <= s <= 1 for s in scores.values()
    ):
        raise UserError(
            f"{path}: published={scores} must be null or {{j: 0.772, f: 0.745, t: 0.291}}, each from 0 to 1, t or none"
        )
    return method


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse an archive with a name that leads outside of the folder it is extracted into, on any system."""
    for name in names:
        if any(kind(name).anchor or ".." in kind(name).parts for kind in (PurePosixPath, PureWindowsPath)):
            raise UserError(f"{path}: '{name}' leads outside of the archive; do not trust it")


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """A folder of masks; an archive is extracted into a folder that exists only within the context.

    Raises:
        UserError: The folder or archive is not found, or cannot be extracted safely.
    """
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{path}: no folder or archive of masks; {nearest(path.name, there)}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as packed:
                    _check_names(path, names := packed.namelist())
                    # macOS adds a shadow of each file, which would look like a second folder of masks.
                    packed.extractall(folder, [name for name in names if not name.startswith("__MACOSX/")])
            elif tarfile.is_tarfile(path):
                with tarfile.open(path) as tape:
                    _check_names(path, tape.getnames())
                    tape.extractall(folder, filter="data")  # also refuses links that lead outside, and devices
            else:
                raise UserError(f"{path}: neither zip nor tar; give a folder or one of these")
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise UserError(f"{path}: cannot be extracted ({error}); download it again") from error
        yield Path(folder)


@dataclass(frozen=True)
class Result:
    """Scores of a method, and notes on what may make them differ from the published ones."""

    method: Method
    summary: Summary
    notes: list[str]

    @property
    def sequences(self) -> dict[str, str]:
        """J&F by sequence, as text."""
        return {row.name: f"{row.values['jf']:.3f}" for row in self.summary.sequences}


def score(method: Method, benchmark: Benchmark, videos: Sequence[Video], masks: Path) -> Result:
    """Score the masks of a method on those of the given sequences that it covers.

    Raises:
        UserError: A sequence is unknown, or masks are missing, damaged or not in a known format.
    """
    names = [video.name for video in videos]
    wanted = names if method.sequences == "all" else method.sequences
    for name in wanted:
        if name not in names:
            raise UserError(f"sequences: no '{name}' in the folder of {benchmark.title}; {nearest(name, names)}")
    chosen = [video for video in videos if video.name in wanted]
    with opened(masks / method.masks) as root, tempfile.TemporaryDirectory() as folder:
        base = layout.find_base(root, chosen)
        if not layout.is_sequence(base, chosen):
            # Archives may hold further sequences, and the evaluation refuses folders that it does not know.
            for name in sorted(set(wanted)):
                if (base / name).is_dir():
                    (Path(folder) / name).symlink_to((base / name).resolve(), target_is_directory=True)
            base = Path(folder)
        summary = evaluate_folder(base, chosen, benchmark.protocol, progress=False)
        files = layout.find_predictions(base, chosen, benchmark.protocol)
        soft = any(map(_is_soft, files.values()))
    every = benchmark.sequences or len(videos)
    notes = [f"{len(chosen)} of {every} sequences"] if len(chosen) < every else []
    for place, index in (("first", 0), ("last", -1)):
        ends = [(video.name, video.frames[index].name) for video in chosen if video.frames[index].mask is not None]
        if count := sum(end not in files for end in ends):
            notes.append(f"{place} frame missing in {count} sequences (does not count)")
    notes += ["soft maps, foreground above 127"] if soft else []
    # The page says once which sequences the mean of T leaves out.
    kept = [note for note in summary.account()[1:] if "protocol.unstable" not in note]
    return Result(method, summary, [*notes, *kept])


def _is_soft(path: Path) -> bool:
    """Whether a mask has grey levels between background and foreground."""
    prediction = read_prediction(path)
    return prediction.kind == "levels" and not np.isin(prediction.values, (0, 255)).all()


_STABILITY = """
T, lower is better, is the temporal stability of DAVIS-2016: how much the shape of the outline changes from each frame
to the next one, as it does where masks flicker ([evaluation](evaluation.md#metrics)). Its mean leaves out the sequences
of `protocol.unstable`, whose objects are occluded or move fast. T ignores the ground truth, so it says nothing without
J and F.
"""
_PAGE = """\
# Leaderboard

<!-- Written by: {command} -->

Published numbers of video object segmentation are hard to compare, because papers score differently. Here, the masks
that authors published, and those of the bundled weights, are scored by one code under one protocol, that of {title}:
{rule}. J and F of every frame equal those of the official code of DAVIS
([evaluation](evaluation.md#agreement-with-other-toolkits)). Whoever has the data and the masks can repeat the tables
with the command below.

{table}

J, F and J&F are ours; the difference is our J&F minus the mean of the published J and F. A published number covers all
{all} sequences: on fewer, the difference depends on how hard these are. It can also come from the protocol
(whether the first and last frame count, means over frames or sequences), missing frames, the threshold of soft maps, or
masks that are not those of the paper. Methods that are given the true mask of the first frame solve an easier task.
{stability}
## J&F by sequence

{sequences}

## Sources

{sources}

## Add a method

1. Get its masks, as a folder or archive (zip, tar): one folder per sequence, at any depth, one image per frame.
2. Put them into your folder of masks; masks are not committed.
3. Copy a file of `docs/leaderboard/`, and fill in its keys: {keys}.
4. Run `{command}`.
5. Commit the file and the page; the command tells what is missing or wrong.
"""


def page(results: Sequence[Result], dataset: str, videos: Sequence[Video]) -> str:
    """The Markdown page: comparison, scores by sequence, sources, and how to add a method."""
    benchmark = BENCHMARKS[dataset]
    every = benchmark.sequences or len(videos)
    given, file = "docs/leaderboard --data <DAVIS>", "docs/leaderboard.md"
    if dataset != "davis":
        given, file = f"<yaml> --dataset {dataset} --data <data>", "<page>"
    command = f"python scripts/leaderboard.py {given} --masks <masks> --output {file}"
    results = sorted(results, key=lambda result: (-result.summary.overall["jf"], result.method.name))
    measures, stable = benchmark.protocol.measures, STABILITY in benchmark.protocol.measures
    header = ["method", "year", "first-frame mask", *(f"published {key.upper()}, all {every}" for key in measures)]
    header += ["J", "F", "J&F", "difference", *(["T"] if stable else []), "frames", "why it can differ"]
    rows = []
    for result in results:
        method, ours, published = result.method, result.summary.overall, result.method.published or {}
        row = [method.name, str(method.year), "yes" if method.first_frame_mask else "no"]
        row += [f"{published[key]:.3f}" if key in published else "" for key in measures]
        row += [f"{ours[key]:.3f}" for key in ("j", "f", "jf")]
        row += [f"{ours['jf'] - (published['j'] + published['f']) / 2:+.3f}" if published else ""]
        row += ["" if math.isnan(ours[STABILITY]) else f"{ours[STABILITY]:.3f}"] if stable else []
        rows.append([*row, str(result.summary.counts["frames"]), "; ".join(result.notes)])
    methods = [result.method for result in results]
    names = sorted({name for result in results for name in result.sequences}, key=natural)
    by_name = [[name, *(result.sequences.get(name, "") for result in results)] for name in names]
    return _PAGE.format(
        all=every,
        title=benchmark.title,
        rule=benchmark.rule,
        command=command,
        keys=", ".join(f"`{key}`" for key in _TYPES),
        table=_table(header, rows),
        sequences=_table(["sequence", *(m.name for m in methods)], by_name),
        stability=_STABILITY if stable else "",
        sources=_table(
            ["method", "paper", "published figures", "masks", "terms"],
            [[m.name, m.paper, m.published_in, m.where, m.licence] for m in methods],
        ),
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; line breaks and bars within cells would end them."""
    return markdown_table(header, [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows])


def run(paths: Sequence[Path], root: Path, masks: Path, dataset: str = "davis") -> str:
    """Score all methods and return the page; scores are also printed as they come.

    Raises:
        UserError: There is no yaml, or one of them or its masks is wrong; names the file.
    """
    files = [file for path in paths for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    if not files:
        raise UserError(f"{', '.join(map(str, paths))}: no *.yaml in it; {_EXAMPLES}")
    methods = {file: read_method(file) for file in files}
    videos, results = BENCHMARKS[dataset].videos(root), []
    for file, method in methods.items():
        try:
            results.append(score(method, BENCHMARKS[dataset], videos, masks))
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        print(f"{method.name}: J&F {results[-1].summary.overall['jf']:.3f}", *results[-1].notes, sep="; ")
    return page(results, dataset, videos)


def main() -> None:
    """Score the methods and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", type=Path, nargs="+", help="yaml of a method, or folder of such files")
    parser.add_argument("--dataset", choices=BENCHMARKS, default="davis", help="what is scored; default: DAVIS-2016")
    parser.add_argument("--data", type=Path, required=True, help="root folder of the dataset")
    parser.add_argument("--masks", type=Path, required=True, help="folder of the masks of all methods")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    options = parser.parse_args()
    write_bytes(options.output, run(options.methods, options.data, options.masks, options.dataset).encode())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
