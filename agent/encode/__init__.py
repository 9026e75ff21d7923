"""Encoders: a table of our own, and whatever the entry-point group adds."""

import logging
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.encode.base import Encoder

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

log = logging.getLogger(__name__)

GROUP: Final = "spice_sessiond.encoders"
# As our own distribution declares them; so they need no installation, and nobody is asked for it.
_OWN: Final = {
    "h264": "agent.encode.video:H264Encoder",
    "h265": "agent.encode.video:H265Encoder",
    "jpeg": "agent.encode.jpeg:JpegEncoder",
    "vp8": "agent.encode.video:Vp8Encoder",
    "vp9": "agent.encode.video:Vp9Encoder",
}
_INFO: Final = (".dist-info", ".egg-info", "EGG-INFO")  # where a distribution describes itself
_ATTRIBUTES: Final = ("name", "codec", "rank", "options")


def find_encoders(plugin_dirs: Sequence[str] = ()) -> list[type[Encoder]]:
    """Return every encoder class that can be loaded, the best rank first.

    ``plugin_dirs`` are searched for installed distributions before Python's own path. A plug-in
    that cannot be loaded is logged and left out. Those with something ``missing`` are returned too.
    """
    found: dict[str, type[Encoder]] = {}
    for value in _OWN.values():
        module, _, name = value.partition(":")
        encoder: type[Encoder] = getattr(import_module(module), name)
        found[encoder.name] = encoder
    for entry in _plug_ins(plugin_dirs):
        try:
            plug_in = entry.load()
        except Exception as error:  # noqa: BLE001 (what runs is the plug-in's own code)
            log.warning("encoder plug-in %s cannot be loaded: %s", entry.value, error)
            continue
        if not (isinstance(plug_in, type) and issubclass(plug_in, Encoder)):
            log.warning("encoder plug-in %s is not an Encoder class", entry.value)
            continue
        if lacking := [name for name in _ATTRIBUTES if not hasattr(plug_in, name)]:
            log.warning("encoder plug-in %s has no %s", entry.value, ", no ".join(lacking))
            continue
        found.setdefault(plug_in.name, plug_in)
    return sorted(found.values(), key=lambda encoder: -encoder.rank)


def _plug_ins(plugin_dirs: Sequence[str]) -> Iterator["EntryPoint"]:
    if not any(map(_may_have_plug_ins, [*plugin_dirs, *sys.path])):
        sys.path[:0] = plugin_dirs
        return
    # A tenth of all the time that our start takes, for what most have none of.
    from importlib.metadata import distributions, entry_points  # noqa: PLC0415

    installed = entry_points(group=GROUP)  # before those of plugin_dirs are on the path, too
    if plugin_dirs:
        sys.path[:0] = plugin_dirs  # where their modules are, too
        for distribution in distributions(path=list(plugin_dirs)):
            yield from distribution.entry_points.select(group=GROUP)
    yield from installed


def _may_have_plug_ins(directory: str) -> bool:
    """Tell whether a distribution in DIRECTORY, other than our own, names our group."""
    place = Path(directory)
    try:
        if place.is_file():
            return True  # an archive: others know how to look into it
        found = [each for each in place.iterdir() if each.name.endswith(_INFO)]
    except OSError:
        return False
    return any(_names_others(each / "entry_points.txt") for each in found)


def _names_others(entry_points: Path) -> bool:
    """Tell whether our group has members there that are not our own."""
    try:
        text = entry_points.read_text("utf-8", "replace")
    except OSError:
        return False
    members = text.partition(f"[{GROUP}]")[2].partition("[")[0]
    values = {line.partition("=")[2].strip() for line in members.splitlines()}
    return not values <= {"", *_OWN.values()}
