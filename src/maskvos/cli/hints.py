"""What is answered to a mistake on the command line: one line that says the right name or kind of value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

from maskvos.errors import UserError, nearest

# Chosen with a plus, since nothing of theirs is chosen by default.
ADDED = ("experiment", "sweep")
FLAGS: tuple[str, ...] = (
    "--help",
    "--hydra-help",
    "--version",
    "--cfg",
    "--resolve",
    "--package",
    "--run",
    "--multirun",
    "--info",
)
FLAGS += ("--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun")
"""Hydra's own."""
_HINT = "--help lists the groups, --cfg job all settings"


def explain(error: Exception, settings: Callable[[], Iterable[str]]) -> str:
    """What went wrong, with the nearest right name where a name was mistyped.

    Args:
        error: Of this project, or of Hydra (told by what it carries, so that nothing of Hydra is needed here).
        settings: Names all settings, as ``optim.lr``; only called when they are needed.
    """
    message = str(error)
    if isinstance(error, UserError):
        # One that was raised in a loading process brings that process's traceback in its text.
        return message.rsplit("maskvos.errors.UserError: ", 1)[-1].strip()
    if getattr(error, "missing_cfg_file", None) and getattr(error, "options", None):
        group, _, name = str(error.missing_cfg_file).rpartition("/")  # type: ignore[attr-defined]
        return f"{_typed(group)}={name}: there is no such {group}; {nearest(name, error.options)}"  # type: ignore[attr-defined]
    if hasattr(error, "override"):
        return _unreadable(str(error.override), message)
    unknown = re.search(r"Could not override '([^']+)'|Could not delete from config. '([^']+)'", message)
    if unknown:
        return _unknown(unknown[1] or unknown[2], list(settings()))
    several = re.match(r"Ambiguous value for argument '(([^']+?)=(.+))'", message)
    if several:
        return f"{several[1]}: several values; -m sweeps over them, brackets make a list: '{several[2]}=[{several[3]}]'"
    called = re.search(r"^full_key: (\S+)", message, flags=re.MULTILINE)
    if called:
        reason = str(error.__cause__ or message)
        return f"{called[1]}: {reason}{_among(reason)}"
    twice = re.match(r"Multiple values for (\S+)\.|(\S+) appears more than once", message)
    if twice:
        return f"{twice[1] or twice[2]} is chosen twice; choose it once, {_typed(twice[1] or twice[2])}=<name>"
    return f"{message}\n{error.__cause__ or ''}".strip()


def _typed(group: str) -> str:
    """A group as it is typed."""
    return f"+{group}" if group in ADDED else group


def _unreadable(override: str, message: str) -> str:
    """Of something that cannot be read as KEY=VALUE."""
    if "=" not in override:
        return f"{override}: a setting and its value are expected, {override}=<value> ({_HINT})"
    reason = message.splitlines()[0]
    return f"{override}: it cannot be read ({reason}); quote brackets and spaces for the shell, 'data.size=[64,64]'"


def _unknown(key: str, settings: list[str]) -> str:
    """Of a name that is no setting and no group."""
    if key in ADDED:
        return f"{key}=<name>: it is added to the defaults, so it needs a plus: +{key}=<name>"
    if key in settings:
        own = ", ".join(name.removeprefix(f"{key}.") for name in settings if name.startswith(f"{key}."))
        has = f"; it has {own}" if own else ""
        return f"{key}: its value names something that it does not have{has} ({_HINT})"
    top, _, rest = key.replace("/", ".").partition(".")
    if top == "hydra":
        return f"{key}: Hydra has no such setting (--cfg hydra lists all of its own)"
    tops = {name.partition(".")[0] for name in settings} | set(ADDED)
    if not rest and top not in tops:
        # Its last part may be right: lr stands for optim.lr.
        last = {name.rpartition(".")[2]: name for name in reversed(settings) if name.count(".") < 2}
        if close := difflib.get_close_matches(key, [*last, *tops], n=1, cutoff=0.6):
            return f"{key}: there is no such setting; did you mean '{last.get(close[0], close[0])}'? ({_HINT})"
    if top not in tops:
        # Where the rest is right, all of the name can be given.
        whole = [name for name in settings if rest and name.partition(".")[2] == rest]
        return f"{key}: there is no such setting; {nearest(key, whole) if whole else nearest(top, tops)} ({_HINT})"
    # Of the same depth first, or the members of a right name would crowd it out.
    alike = [name for name in settings if name.startswith(f"{top}.") and name.count(".") == 1 + rest.count(".")]
    members = alike or [name for name in settings if name.startswith(f"{top}.")]
    return f"{key}: there is no such setting; {nearest(key, members)} ({_HINT})"


def _among(reason: str) -> str:
    """The nearest of the choices that another library's message lists in brackets; its first quoted word is wrong."""
    listed, wrong = re.search(r"[\[(](\s*'[^\])]+)[\])]", reason), re.search(r"'([^']+)'", reason)
    if not listed or not wrong:
        return ""
    suggestion = nearest(wrong[1], set(re.findall(r"'([^']+)'", listed[1])))
    return f"; {suggestion}" if suggestion.startswith("did you mean") else ""


def check_flags(arguments: Sequence[str]) -> None:
    """Refuse a flag that does not exist.

    Args:
        arguments: What was typed after the command.

    Raises:
        UserError: A flag is none of `FLAGS` and begins none of them.
    """
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.startswith("--") and not any(known.startswith(flag) for known in FLAGS):
            raise UserError(
                f"{flag}: there is no such flag; {nearest(flag, FLAGS)} Settings are given without dashes, KEY=VALUE"
            )


def check_values(overrides: Sequence[str], given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse what would be taken silently: a name that nothing reads, and a value of another kind than the default.

    Args:
        overrides: What was typed, as ``optim.lr=3e-5``.
        given: The configuration that it made, as plain containers.
        defaults: The same without values, with the groups that were chosen.

    Raises:
        UserError: A number, list or group of settings is expected and something else is given, or a new name is none
            that anything reads.
    """
    for override in overrides:
        key = override.partition("=")[0]
        name = key.lstrip("+~")
        if key.startswith("+") and not {".", "/", "@"} & set(name) and name not in (*defaults, *ADDED):
            choices = {name: f"+{name}" if name in ADDED else name for name in (*defaults, *ADDED)}
            raise UserError(f"{override}: nothing is called '{name}'; {nearest(name, choices)} ({_HINT})")
        if key.startswith(("+", "~", "hydra.")):
            continue
        value, default = _at(given, name), _at(defaults, name)
        if expected := _expected(name, value, default):
            raise UserError(f"{override}: {expected}")


def _at(config: Any, name: str) -> Any:
    """The value of a dotted name, or None."""
    for part in name.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _expected(name: str, value: Any, default: Any) -> str:
    """What should have been given, or an empty string where the value may be right."""
    if value is None or default is None or isinstance(value, Mapping) or "${" in str(value):
        return ""
    if isinstance(default, Mapping):
        group = name.replace(".", "/")
        if "_target_" not in default:
            return f"settings are expected, such as {name}.{next(iter(default), '<name>')}=<value>"
        return f"it has settings of its own; choose another with {group}=<name>, or change one, {name}.<name>=<value>"
    if isinstance(default, (list, tuple)) and not isinstance(value, (list, tuple)):
        return f"a list is expected, such as '{name}=[{','.join(map(str, default))}]'"
    # Lightning's own settings take words as well as numbers.
    words = name.startswith("trainer.") or isinstance(default, bool)
    if isinstance(default, Number) and not words and not isinstance(value, Number):
        return f"a number is expected, such as {name}={default}"
    return ""
