"""The options of a run as arguments of a command, made from the fields of `Options`."""

from __future__ import annotations

import argparse
import types
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from venhancer.errors import OptionError
from venhancer.options import Options, flag_of

PLAIN = (int, float, str, Path)  # types that argparse can call on the text


def add_options(parser: argparse.ArgumentParser, *, has_target: bool = True) -> None:
    """Add one argument for each option that has a group, in the order of the fields.

    has_target: whether the command writes an output, which a few options are about
    """
    hints = get_type_hints(Options)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in fields(Options):
        title = option.metadata.get("group")
        if title is None or (option.metadata["is_about_target"] and not has_target):
            continue
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(flag_of(option), **_arguments(option, hints[option.name]))


def read_options(args: argparse.Namespace) -> Options:
    """Read the options that were given; the others keep the defaults of `Options`."""
    names = {option.name for option in fields(Options)}
    return Options(**{k: v for k, v in vars(args).items() if k in names and v is not None})


def _arguments(option: Field[Any], hint: Any) -> dict[str, Any]:
    """Make argparse's arguments for one option; None means that it was not given."""
    told = {"help": option.metadata["help"], "dest": option.name, "default": None}
    if hint is bool:
        return {**told, "action": "store_false" if option.default else "store_true"}
    kind = _without_none(hint)
    if option.metadata["metavar"]:
        told["metavar"] = option.metadata["metavar"]
    if get_origin(kind) is Literal:
        return {**told, "choices": get_args(kind)}
    return {**told, "type": kind if kind in PLAIN else _spoken(option.metadata["parse"])}


def _without_none(hint: Any) -> Any:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    [kind] = [part for part in get_args(hint) if part is not type(None)]
    return kind


def _spoken(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap one of our parsers so that argparse shows its message."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except OptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed
