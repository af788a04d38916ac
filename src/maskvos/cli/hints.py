"""Hints for mistakes on the command line: the nearest right name, or the expected type, in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from maskvos.cli.compose import compose
from maskvos.errors import UserError, nearest, out_of_memory

_MAY_LACK_MEMORY = (MemoryError, RuntimeError, ImportError)  # the last of a library that cannot be loaded
EXPLAINED = (HydraException, OmegaConfBaseException, OSError, YAMLError, ValueError, *_MAY_LACK_MEMORY)
"""What may be answered with one message instead of a traceback, see `explain`."""

# Groups without a default choice, which need a plus.
ADDED = ("experiment", "sweep")
FLAGS = (
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--info"),
    *("--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun"),
    "--verbose",
)
"""Hydra's flags, and ``--verbose``, which goes with ``--version``."""
RENAMED = {
    "mirror": "tta.mirror",
    "data.second_look": "tta.flow",
    "train.checkpointing": "train.activation_checkpointing",
    "writer.threshold": "threshold",
    "data.predict": "input",
    "callbacks.vitals": "callbacks.monitor",
    "flow.both_ways": "flow.both_directions",
    "flow.pictures": "flow.save_images",
    "data.train.share": "data.train.fraction",
}
"""Settings of version 0.1 and their present names."""
PLUGINS = {
    "joblib": "hydra-joblib-launcher",
    "optuna": "hydra-optuna-sweeper",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}
"""Members of Hydra's own groups, and the packages that bring them."""
_HINT = "--help lists the groups, --cfg job all settings"


def explain(error: BaseException) -> str | None:
    """The message for a mistake of the user or a full memory, with the nearest right name where a name was mistyped.

    Args:
        error: Of maskvos, Hydra, OmegaConf, YAML, the operating system, or any other.

    Returns:
        The message; None for an error that nobody expected, whose traceback is needed to find it.
    """
    message = str(error)
    if isinstance(error, _MAY_LACK_MEMORY) and out_of_memory(error):
        return f"the memory is full ({message[:120]}); close other programs, or lower data.batch_size or data.size"
    if isinstance(error, ValueError) and "Config group override" in message:  # Hydra's for backbone=5
        return f"{message}; choose the member of a group by its name, such as backbone=swin_t"
    if not isinstance(error, (UserError, HydraException, OmegaConfBaseException, OSError, YAMLError)):
        return None
    if isinstance(error, UserError):
        # An error from a loading process carries that process's traceback in its text.
        return message.rsplit("maskvos.errors.UserError: ", 1)[-1].strip()
    if missing := getattr(error, "missing_cfg_file", None):
        group, _, name = str(missing).rpartition("/")
        if name in PLUGINS:
            return f"{group}={name} needs the package {PLUGINS[name]}; pip install 'maskvos[sweep]'"
        if options := getattr(error, "options", None):
            return f"{_typed(group)}={name}: not found in {group}; {nearest(name, options)}"
    if hasattr(error, "override"):
        return _unreadable(str(error.override), message)
    unknown = re.search(r"Could not override '([^']+)'|Could not delete from config. '([^']+)'", message)
    if unknown:
        return _unknown(unknown[1] or unknown[2], list(_keys(compose())))
    several = re.match(r"Ambiguous value for argument '(([^']+?)=(.+))'", message)
    if several:
        return f"{several[1]}: several values; -m sweeps over them, brackets make a list: '{several[2]}=[{several[3]}]'"
    key = re.search(r"^\s*full_key: (\S+)", message, flags=re.MULTILINE)
    if key:
        return f"{key[1]}: {message.splitlines()[0]}"
    twice = re.match(r"Multiple values for (\S+)\.|(\S+) appears more than once", message)
    if twice:
        return f"{twice[1] or twice[2]} is chosen twice; choose it once, {_typed(twice[1] or twice[2])}=<name>"
    if isinstance(error, OSError) and error.errno is not None:  # Hydra's error for missing files is one without
        return f"{error.filename or 'a file'} cannot be read or written ({error.strerror}); check path and rights"
    return f"{message}\n{error.__cause__ or ''}".strip()


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Names of all settings and groups."""
    for key, value in node.items_ex(resolve=False):
        name = prefix + str(key)
        yield name
        if isinstance(value, DictConfig):
            yield from _keys(value, name + ".")


def _typed(group: str) -> str:
    """A group as it is typed."""
    return f"+{group}" if group in ADDED else group


def _unreadable(override: str, message: str) -> str:
    """Message for an argument that Hydra cannot parse as KEY=VALUE."""
    if "=" not in override:
        return f"{override}: expected a setting and its value, {override}=<value> ({_HINT})"
    reason = message.splitlines()[0]
    return f"{override}: cannot be parsed ({reason}); quote brackets and spaces for the shell, 'data.size=[64,64]'"


def _unknown(key: str, settings: list[str]) -> str:
    """Message for an unknown setting or group."""
    if key in RENAMED:
        return f"{key}: renamed to {RENAMED[key]}"
    if key in ADDED:
        return f"{key}=<name>: it has no default choice, so it needs a plus: +{key}=<name>"
    if key in settings:
        own = ", ".join(name.removeprefix(f"{key}.") for name in settings if name.startswith(f"{key}."))
        return f"{key}: its value has a setting that does not exist{f'; it has {own}' if own else ''} ({_HINT})"
    top, _, rest = key.replace("/", ".").partition(".")
    if top == "hydra":
        return f"{key}: not a setting of Hydra (--cfg hydra lists them)"
    return f"{key}: unknown setting; {_suggestion(key, top, rest, settings)} ({_HINT})"


def _suggestion(key: str, top: str, rest: str, settings: list[str]) -> str:
    tops = {name.partition(".")[0] for name in settings} | set(ADDED)
    if top in tops:
        # Names of the same depth first: the members of a right name would crowd it out.
        members = [name for name in settings if name.startswith(f"{top}.")]
        return nearest(key, [name for name in members if name.count(".") == 1 + rest.count(".")] or members)
    if rest:
        # Where the rest is right, suggest the full name.
        same = [name for name in settings if name.partition(".")[2] == rest]
        return nearest(key, same) if same else nearest(top, tops)
    # The last part of a name may be right: lr for optim.lr.
    last = {name.rpartition(".")[2]: name for name in reversed(settings) if name.count(".") < 2}
    close = difflib.get_close_matches(key, [*last, *tops], n=1, cutoff=0.6)
    return f"did you mean '{last.get(close[0], close[0])}'?" if close else nearest(top, tops)


def check_flags(arguments: Sequence[str]) -> None:
    """Refuse an unknown flag.

    Args:
        arguments: What was typed after the command.

    Raises:
        UserError: A flag is not one of `FLAGS`, nor an abbreviation of one.
    """
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.startswith("--") and not any(known.startswith(flag) for known in FLAGS):
            raise UserError(
                f"{flag}: unknown flag; {nearest(flag, FLAGS)} (settings are given without dashes, KEY=VALUE)"
            )


def check_values(overrides: Sequence[str], given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse overrides that Hydra accepts silently: new names that nothing reads, and values in place of groups.

    Args:
        overrides: What was typed, ``optim.lr=3e-5``.
        given: The resulting configuration, as plain containers.
        defaults: The configuration of the chosen groups without the values.

    Raises:
        UserError: A group of settings is expected and a value is given, or a new name is unknown.
    """
    for override in overrides:
        key = override.partition("=")[0]
        name = key.lstrip("+~")
        if key.startswith("+") and not {".", "/", "@"} & set(name) and name not in (*defaults, *ADDED):
            if name in RENAMED:
                raise UserError(f"{override}: {name} was renamed to {RENAMED[name]}")
            choices = {name: f"+{name}" if name in ADDED else name for name in (*defaults, *ADDED)}
            raise UserError(f"{override}: unknown name '{name}'; {nearest(name, choices)} ({_HINT})")
        if key.startswith(("+", "~", "hydra.")):
            continue
        value, default = _at(given, name), _at(defaults, name)
        if isinstance(default, Mapping) and not (value is None or isinstance(value, Mapping) or "${" in str(value)):
            raise UserError(f"{override}: {_group(name, default)}")


def _at(config: Any, name: str) -> Any:
    """The value of a dotted name, or None."""
    for part in name.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _group(name: str, default: Mapping[str, Any]) -> str:
    """What should have been given for a group of settings."""
    if "_target_" not in default:
        return f"expected settings, such as {name}.{next(iter(default), '<name>')}=<value>"
    group = name.replace(".", "/")
    return f"it has settings of its own; choose another with {group}=<name>, or change one, {name}.<name>=<value>"
