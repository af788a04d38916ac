"""Names and paths on the command line are taken literally."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from maskvos.cli.quoting import TEXTS, quote_texts
from maskvos.run import compose

# Taken for something else than a text: Hydra's own words, lists, quotes and interpolations.
NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1).filter(
    lambda name: name[0] not in "['\"" and "${" not in name and name not in ("null", "true", "false")
)


@given(NAMES, st.sampled_from(TEXTS))
def test_any_name_is_read_back_as_it_is(name: str, setting: str) -> None:
    (quoted,) = quote_texts([f"{setting}={name}"])
    (override,) = OverridesParser.create().parse_overrides([quoted])
    assert str(override.value()) == name
    assert quote_texts([quoted]) == [quoted]


@pytest.mark.parametrize(
    "name", ["2024", "ñ.mp4", "clip (1).mp4", "it's.mp4", "a&b.mp4", "a,b.mp4", "1e3", "C:\\clips\\"]
)
def test_ordinary_names(name: str) -> None:
    assert compose(quote_texts([f"input={name}", "task=predict"])).input == name


@pytest.mark.parametrize(
    "kept", ["input=null", "input='a b'", "data.root=${paths.data}", "optim.lr=1e-3", "--help", "-m"]
)
def test_what_hydra_reads_itself_is_kept(kept: str) -> None:
    assert quote_texts([kept]) == [kept]


def test_sweeps_over_names(tmp_path: Path) -> None:
    assert quote_texts(["-m", "ckpt_path=a,b"]) == ["-m", "ckpt_path=a,b"]
    clip = tmp_path / "a,b.mp4"
    clip.touch()
    assert quote_texts(["-m", f"input={clip}"]) == ["-m", f"input='{clip}'"]
