"""What the documents name is there: files behind links, commands that compose, settings and paths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fakes import mask, write_frame, write_mask
from maskvos import __version__
from maskvos.run import CONF, TASKS, compose, run
from maskvos.weights import bundled
from pages import FILES, ROOT, anchors, blocks, code, commands, links, overrides

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}
COMMANDS = sorted({(name, tuple(command)) for name, text in TEXTS.items() for command in commands(text)})
FOLDERS = ("src/", "conf/", "scripts/", "tests/", "docs/", "notebooks/", ".ci/")
OVERRIDE = re.compile(r"(\+{0,2})([a-z_][\w./]*)=\S*")


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    for link in links(TEXTS[name]):
        if re.match(r"\w+:", link) or (link.endswith("model_card.md") and not bundled.names()):
            continue  # elsewhere, or written with the weights
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else ROOT / name
        assert target.exists(), f"{name}: nothing at {link}"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{name}: no heading for {link}"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that a document asks its reader to write."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "conf").mkdir()
    for text in TEXTS.values():
        for block in blocks(text, "yaml", "python"):
            if block.file is not None:
                (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
                (folder / block.file).write_text(block.text)
    return folder


def _id(part: str | tuple[str, ...]) -> str:
    return part if isinstance(part, str) else " ".join(part)


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=_id)
def test_commands_compose(name: str, command: tuple[str, ...], own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    given = overrides(list(command))
    if "--config-dir" not in command:  # what a document puts into the project's own folder of configurations
        given.append(f"hydra.searchpath=[file://{own / 'conf'}]")
    cfg = compose(given)
    assert cfg.task in TASKS


def _keys(node: object, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        if key != "defaults":
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")


@pytest.fixture(scope="module")
def settings() -> set[str]:
    """Every setting and every group of the configuration, whichever member of a group brings it."""
    known = set()
    for path in CONF.rglob("*.yaml"):
        group = path.relative_to(CONF).parent.as_posix()
        package = "" if group in (".", "experiment") else group.replace("/", ".") + "."
        known |= {group, package.rstrip(".")} | set(_keys(yaml.safe_load(path.read_text()), package))
    # The encoders of a model are backbones.
    known |= {key.replace("backbone.", f"model.{which}_encoder.", 1) for key in known for which in ("rgb", "flow")}
    return known


@pytest.mark.parametrize("name", TEXTS)
def test_settings_exist(name: str, settings: set[str]) -> None:
    for text in code(TEXTS[name]):
        given = [OVERRIDE.fullmatch(part) for part in re.sub(r"^(python -m maskvos\.run|maskvos) ", "", text).split()]
        for override in filter(None, given if all(given) else []):
            new, key = override.groups()
            known = key in settings or (new and key.startswith("callbacks."))
            assert known, f"{name}: `{text}` names no setting or group: {key}"


@pytest.mark.parametrize("name", TEXTS)
def test_files_exist(name: str) -> None:
    for text in code(TEXTS[name]):
        if text.startswith(FOLDERS) and not re.search(r"[<>{}* ]|^conf/local/", text):
            assert (ROOT / text).exists(), f"{name}: no file `{text}`"


EXTENDING = TEXTS["docs/extending.md"]


def _write_clip(folder: Path) -> None:
    for index in range(2):
        write_frame(folder / "rgb" / f"{index:05d}.jpg", index)
        write_mask(folder / "mask" / f"{index:05d}.png", mask(index))


@pytest.mark.parametrize("command", commands(EXTENDING), ids=" ".join)
def test_examples_of_extending_run(
    command: list[str], own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own)
    monkeypatch.syspath_prepend(own)
    for split in ("train", "val"):
        _write_clip(own / "data" / "mine" / split / "clip")
    clips = [f"data.{part}.{what}=2" for part in ("train", "val", "test") for what in ("clips", "frames")]
    small = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "data.batch_size=2", "data.num_workers=0"]
    small += [] if "data=mine" in command else clips
    small += ["backbone.pretrained=false"] if "backbone=regnety_002" in command else []
    metrics = run(compose([*overrides(command), *small, "trainer=smoke"], tmp_path))
    assert metrics
    if "callbacks=with_area" in command:
        assert 0 <= metrics["val/area_error"] <= 1


def test_every_kind_of_part_has_an_example() -> None:
    kinds = {block.file.parent.name for block in blocks(EXTENDING, "yaml") if block.file is not None}
    assert kinds == {"backbone", "data", "flow", "loss", "callbacks"}


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == __version__
    assert f"## [{__version__}]" in TEXTS["CHANGELOG.md"]


def test_the_help_names_what_there_is(settings: set[str]) -> None:
    template = yaml.safe_load((CONF / "hydra" / "help" / "maskvos.yaml").read_text())["template"]
    named = re.findall(r"\b([a-z_.]+=[\w|.,-]+)", template)
    assert {name.partition("=")[0] for name in named} <= settings
    assert {name.removeprefix("task=") for name in named if name.startswith("task=")} == set(TASKS)
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    for group, _, members in (name.partition("=") for name in named):
        for member in members.split("|") if group in groups and members not in ("NAME", "MEMBER") else ():
            assert (CONF / group / f"{member}.yaml").exists(), f"{group}={member}"
