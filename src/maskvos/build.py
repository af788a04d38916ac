"""Objects from configuration nodes: ``_target_`` names a class or function, everything beside it its arguments.

The same rules as ``hydra.utils.instantiate`` with ``_convert_="all"``, in the part of them that conf/ uses, without
importing Hydra: the Python API rebuilds networks from checkpoints with it. Configurations in files are not trusted, so
`check_targets` validates them first.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from maskvos.errors import UserError, nearest

_RULES = ("_target_", "_partial_", "_convert_", "_recursive_")
# What may be built from a file: classes of these packages, and this function.
_SAFE_PACKAGES = ("maskvos.models", "maskvos.flow")
_SAFE_FUNCTIONS = ("maskvos.models.network.build_network",)


def build(node: Any, name: str = "", **arguments: Any) -> Any:
    """Build what a configuration node describes.

    Args:
        node: A mapping with ``_target_`` (and ``_partial_: true`` for a function that waits for more arguments), or any
            nest of mappings and lists that holds such; resolved.
        name: The node's dotted name in the configuration, for messages.
        **arguments: Replace, or add to, the arguments of the outermost target.

    Returns:
        The object; mappings and lists without a target as dict and list with everything in them built.

    Raises:
        UserError: A target does not exist, or does not take its arguments, or the node is a mapping without one.
    """
    if isinstance(node, Mapping) and "_target_" not in node:
        raise UserError(f"{name or 'configuration'}: no _target_, the class that is built from these settings; name it")
    return _build(node, name, **arguments)


def _build(node: Any, name: str, **arguments: Any) -> Any:
    if isinstance(node, Mapping):
        built = {
            str(key): _build(value, f"{name}.{key}".lstrip("."))
            for key, value in node.items()
            if key not in _RULES and key not in arguments
        }
        if "_target_" not in node:
            return built
        target = locate(str(node["_target_"]), name)
        if node.get("_partial_"):
            return functools.partial(_call, target, name, **built, **arguments)
        return _call(target, name, **built, **arguments)
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_build(value, f"{name}[{index}]") for index, value in enumerate(node)]
    return node


def _call(target: Any, name: str, /, *given: Any, **arguments: Any) -> Any:
    try:
        return target(*given, **arguments)
    except UserError:
        raise
    except (TypeError, ValueError, LookupError, RuntimeError, ImportError, AttributeError) as error:
        raise UserError(f"{name or getattr(target, '__qualname__', target)}: {error}{_among(str(error))}") from error


def locate(target: str, name: str = "") -> Any:
    """The class or function of a dotted name.

    Raises:
        UserError: There is none.
    """
    module, _, attribute = target.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        package = (getattr(error, "name", None) or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and package != module.partition(".")[0]:
            raise UserError(
                f"{name or 'configuration'}: {target!r} needs the package '{package}', which is not installed; "
                f"pip install {package}"
            ) from error
        raise UserError(
            f"{name or 'configuration'}: _target_ {target!r} cannot be imported ({error}); give the full dotted "
            "name of an installed class or function"
        ) from error
    if not callable(found):
        raise UserError(f"{name or 'configuration'}: _target_ {target!r} is not a class or function")
    return found


def check_targets(node: Any, source: str, trust: Sequence[str] = ()) -> None:
    """Refuse a configuration from a file unless everything that it would build is known to be harmless.

    Args:
        node: The configuration, as plain containers.
        source: The file, for the message.
        trust: Packages besides maskvos whose classes may be built.

    Raises:
        UserError: A ``_target_`` is not a class of `maskvos.models`, `maskvos.flow` or a trusted package.
    """
    packages = (*_SAFE_PACKAGES, *trust)
    for target in _targets(node):
        # By name before anything is imported, and by where it is defined, since a name may pass through a module.
        known = isinstance(target, str) and _within(target, packages)
        found = locate(target, source) if known else None
        kind = inspect.isclass(found) or target in _SAFE_FUNCTIONS or _within(str(target), trust)
        if found is None or not kind or not _within(getattr(found, "__module__", ""), packages):
            raise UserError(
                f"{source}: its configuration asks for {target!r}, which is refused: only classes of maskvos are built "
                "from a file; if the file is yours and this is your own class, name its package, trust=[<package>]"
            )


def _within(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def _targets(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for value in node:
            yield from _targets(value)


def _among(reason: str) -> str:
    """The nearest of the choices that another library's message lists in brackets; its first quoted word is wrong."""
    listed, wrong = re.search(r"[\[(](\s*'[^\])]+)[\])]", reason), re.search(r"'([^']+)'", reason)
    if not listed or not wrong:
        return ""
    suggestion = nearest(wrong[1], set(re.findall(r"'([^']+)'", listed[1])))
    return f"; {suggestion}" if suggestion.startswith("did you mean") else ""
