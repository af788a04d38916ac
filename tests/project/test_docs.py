"""The documents are true: links resolve, commands compose, settings and files exist, examples run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
import yaml

from fakes import DAVIS_SPLITS, mask, write_davis, write_frame, write_mask
from maskvos import __version__
from maskvos.build import build
from maskvos.cli.compose import CONF
from maskvos.cli.hints import RENAMED
from maskvos.media.images import read_image, write_image
from maskvos.media.video import VideoWriter
from maskvos.run import compose, run
from maskvos.settings.table import TASKS
from maskvos.synthetic.clips import generate_clip
from maskvos.weights import bundled
from maskvos.weights.config import read_config
from pages import FILES, ROOT, Block, anchors, blocks, code, code_blocks, commands, links, overrides

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}
COMMANDS = sorted({(name, tuple(command)) for name, text in TEXTS.items() for command in commands(text)})
FOLDERS = ("src/", "conf/", "scripts/", "tests/", "docs/", "notebooks/", ".ci/")
OVERRIDE = re.compile(r"(\+{0,2})([a-z_][\w./]*)=\S*")


@pytest.mark.parametrize("name", TEXTS)
def test_links_resolve(name: str) -> None:
    folder = (ROOT / name).parent
    for link in links(TEXTS[name]):
        if re.match(r"\w+:", link) or (link.endswith("model_card.md") and not bundled.names()):
            continue  # external, or written with the weights
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else ROOT / name
        assert target.exists(), f"{name}: broken link {link}"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{name}: no heading for {link}"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that the documents tell their readers to save."""
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
    if "--config-dir" not in command:  # examples may also add files to conf/
        given.append(f"hydra.searchpath=[file://{own / 'conf'}]")
    # By Hydra alone: `maskvos.run.compose` also opens the checkpoint.
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        assert hydra.compose("config", overrides=given).task in TASKS


def _keys(node: object, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        if key != "defaults":
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")


@pytest.fixture(scope="module")
def settings() -> set[str]:
    """Every setting and every group of the configuration, over all members of each group."""
    known = set()
    for path in CONF.rglob("*.yaml"):
        group = path.relative_to(CONF).parent.as_posix()
        package = "" if group in (".", "experiment") else group.replace("/", ".") + "."
        known |= {group, package.rstrip(".")} | set(_keys(yaml.safe_load(path.read_text()), package))
    # Both encoders of a model are backbones.
    known |= {key.replace("backbone.", f"model.{which}_encoder.", 1) for key in known for which in ("rgb", "flow")}
    return known


@pytest.mark.parametrize("name", TEXTS)
def test_settings_exist(name: str, settings: set[str]) -> None:
    for text in code(TEXTS[name]):
        given = [OVERRIDE.fullmatch(part) for part in re.sub(r"^(python -m maskvos\.run|maskvos) ", "", text).split()]
        for override in filter(None, given if all(given) else []):
            new, key = override.groups()
            known = key in settings or (new and key.startswith("callbacks."))
            known = known or (name == "CHANGELOG.md" and key in RENAMED)  # earlier versions
            assert known, f"{name}: `{text}`: unknown setting or group {key}"


@pytest.mark.parametrize("name", TEXTS)
def test_files_exist(name: str) -> None:
    for text in code(TEXTS[name]):
        if text.startswith(FOLDERS) and not re.search(r"[<>{}* ]|^conf/local/", text):
            assert (ROOT / text).exists(), f"{name}: no file `{text}`"


EXTENDING = TEXTS["docs/extending.md"]


def snippets(text: str) -> list[Block]:
    """The Python blocks that are not files to save."""
    return [block for block in blocks(text, "python") if block.file is None]


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


def test_every_kind_of_config_has_an_example() -> None:
    kinds = {block.file.parent.name for block in blocks(EXTENDING, "yaml") if block.file is not None}
    assert kinds == {"backbone", "data", "flow", "loss", "callbacks"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled weights, exported."""
    path = tmp_path_factory.mktemp("exported") / "network.onnx"
    run(compose(["task=export", "ckpt_path=light", f"output={path}"], path.parent))
    return path


@pytest.mark.parametrize("block", snippets(EXTENDING), ids=["engine", "output"])
def test_python_of_extending_runs(
    block: Block, own: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(own)
    (tmp_path / "network.onnx").symlink_to(exported)
    with VideoWriter(tmp_path / "my_clip.mp4", fps=24) as movie:
        for image in generate_clip(7, 2, (120, 216)).rgb:
            movie.write(image)
    exec(block.text, {})
    assert list(tmp_path.glob("out/my_clip/masks/*.png")) or len(Path("boxes.csv").read_text().splitlines()) == 2


def test_an_exported_file_runs_without_maskvos(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.onnx").symlink_to(exported)
    for index, image in enumerate(generate_clip(7, 4, (300, 448)).rgb):
        write_image(tmp_path / "frames" / f"{index:05d}.png", image)
    (block,) = snippets(TEXTS["docs/prediction.md"])
    assert "maskvos" not in block.text
    exec(block.text, {})
    run(
        compose(
            [
                "task=predict",
                "ckpt_path=network.onnx",
                "input=frames",
                "output=out",
                "trainer=cpu",
                "refine=false",
                "fill_gaps=0",
            ],
            tmp_path,
        )
    )
    for index in range(4):
        ours = read_image(tmp_path / "out" / "frames" / "masks" / f"{index:05d}.png")
        np.testing.assert_array_equal(read_image(tmp_path / f"{index:05d}.png"), ours)
        assert 0 < ours.mean() < 255


def test_python_of_evaluation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_davis(tmp_path / "data" / "DAVIS")
    for sequence in DAVIS_SPLITS["val"]:
        for index in range(3):
            write_mask(tmp_path / "masks" / sequence / f"{index:05d}.png", mask(index))
    (block,) = snippets(TEXTS["docs/evaluation.md"])
    exec(block.text, {})
    assert "1.000" in capsys.readouterr().out


def test_the_examples_of_the_reference_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with VideoWriter(tmp_path / "my_clip.mp4", fps=24) as movie:
        for image in generate_clip(7, 2, (120, 216)).rgb:
            movie.write(image)
    examples = code_blocks((ROOT / "docs/reference.rst").read_text())
    assert len(examples) == 9
    names: dict[str, object] = {}
    for example in examples:
        exec(example, names)
    assert names["logits"].shape == (1, 1, *names["sample"]["rgb"].shape[1:])
    assert (tmp_path / "mirrored.mp4").is_file()


def test_the_examples_of_the_api_run_in_order(
    own: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(own)
    (tmp_path / "network.onnx").symlink_to(exported)  # as its command writes it, see `exported`
    config = read_config(bundled.find("light") or "")
    backbone = {"_target_": "my_backbone.Plain", "width": 8}
    model = {**config["model"], "rgb_encoder": backbone, "flow_encoder": backbone}
    state = build(model, "model").state_dict()
    torch.save({"state_dict": state, "maskvos": {"config": {**config, "model": model}}}, "mine.ckpt")
    assert commands(TEXTS["docs/api.md"]) == [["task=export", "ckpt_path=light", "output=network.onnx"]]
    names: dict[str, object] = {}
    for block in snippets(TEXTS["docs/api.md"]):
        exec(block.text, names)
    assert len(list(tmp_path.glob("out/my_clip/*/*.png"))) == 12
    assert (tmp_path / "scores" / "summary.json").is_file()


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == __version__
    assert f"## [{__version__}]" in TEXTS["CHANGELOG.md"]


def test_the_help_names_existing_settings(settings: set[str]) -> None:
    template = yaml.safe_load((CONF / "hydra" / "help" / "maskvos.yaml").read_text())["template"]
    named = re.findall(r"\b([a-z_.]+=[\w|.,-]+)", template)
    assert {name.partition("=")[0] for name in named} <= settings
    assert {name.removeprefix("task=") for name in named if name.startswith("task=")} == set(TASKS)
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    for group, _, members in (name.partition("=") for name in named):
        for member in members.split("|") if group in groups and members not in ("NAME", "MEMBER") else ():
            assert (CONF / group / f"{member}.yaml").exists(), f"{group}={member}"
