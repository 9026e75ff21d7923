"""A D-Bus interface as its introspection XML declares it: the daemon's own contract. Pure."""

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

_EMITS: Final = "org.freedesktop.DBus.Property.EmitsChangedSignal"


@dataclass(frozen=True, slots=True)
class Property:
    """``is_told``: its changes are signalled."""

    signature: str
    is_writable: bool
    is_told: bool


@dataclass(frozen=True, slots=True)
class Method:
    """The signatures of what goes in, and of what comes out; ``fds``: which arguments are h."""

    takes: str
    gives: str
    results: int
    fds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface; ``xml`` is its element, with all annotations."""

    name: str
    methods: Mapping[str, Method]
    properties: Mapping[str, Property]
    signals: Mapping[str, str]
    xml: str


def parse(text: str) -> dict[str, Interface]:
    """Return the interfaces of an introspection document, by name."""
    # Our own file, installed beside the program; nothing from outside is parsed here.
    root = ET.fromstring(text)  # noqa: S314
    return {found.name: found for found in map(_interface, root.iter("interface"))}


def document(interface: Interface | None, children: Iterable[str], *, is_manager: bool) -> str:
    """Return the introspection of an object, or, without an interface, of a mere path."""
    parts = [_NODE]
    if interface:
        parts += [_STANDARD, interface.xml]
    if is_manager:
        parts.append(_MANAGER)
    return "\n".join([*parts, *(f'<node name="{name}"/>' for name in children), "</node>\n"])


def _interface(element: ET.Element) -> Interface:
    return Interface(
        name=element.attrib["name"],
        methods={e.attrib["name"]: _method(e) for e in element.iter("method")},
        properties={e.attrib["name"]: _property(e) for e in element.iter("property")},
        signals={e.attrib["name"]: _signature(e, "") for e in element.iter("signal")},
        xml=ET.tostring(element, encoding="unicode").rstrip(),
    )


def _method(element: ET.Element) -> Method:
    kinds = [e.attrib["type"] for e in element.iter("arg") if e.get("direction", "in") == "in"]
    return Method(
        takes="".join(kinds),
        gives=_signature(element, "out"),
        results=sum(e.get("direction") == "out" for e in element.iter("arg")),
        fds=tuple(place for place, kind in enumerate(kinds) if kind == "h"),
    )


def _signature(element: ET.Element, direction: str) -> str:
    return "".join(
        e.attrib["type"] for e in element.iter("arg") if e.get("direction", "") == direction
    )


def _property(element: ET.Element) -> Property:
    emits = {e.attrib["name"]: e.attrib["value"] for e in element.iter("annotation")}
    return Property(
        signature=element.attrib["type"],
        is_writable="write" in element.attrib["access"],
        is_told=emits.get(_EMITS, "true") == "true",
    )


_NODE: Final = """<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>"""
_STANDARD: Final = """\
<interface name="org.freedesktop.DBus.Peer">
  <method name="Ping"/>
  <method name="GetMachineId"><arg name="machine_uuid" type="s" direction="out"/></method>
</interface>
<interface name="org.freedesktop.DBus.Introspectable">
  <method name="Introspect"><arg name="xml_data" type="s" direction="out"/></method>
</interface>
<interface name="org.freedesktop.DBus.Properties">
  <method name="Get">
    <arg name="interface_name" type="s" direction="in"/>
    <arg name="property_name" type="s" direction="in"/>
    <arg name="value" type="v" direction="out"/>
  </method>
  <method name="GetAll">
    <arg name="interface_name" type="s" direction="in"/>
    <arg name="props" type="a{sv}" direction="out"/>
  </method>
  <method name="Set">
    <arg name="interface_name" type="s" direction="in"/>
    <arg name="property_name" type="s" direction="in"/>
    <arg name="value" type="v" direction="in"/>
  </method>
  <signal name="PropertiesChanged">
    <arg name="interface_name" type="s"/>
    <arg name="changed_properties" type="a{sv}"/>
    <arg name="invalidated_properties" type="as"/>
  </signal>
</interface>"""
_MANAGER: Final = """\
<interface name="org.freedesktop.DBus.ObjectManager">
  <method name="GetManagedObjects">
    <arg name="objpath_interfaces_and_properties" type="a{oa{sa{sv}}}" direction="out"/>
  </method>
  <signal name="InterfacesAdded">
    <arg name="object_path" type="o"/>
    <arg name="interfaces_and_properties" type="a{sa{sv}}"/>
  </signal>
  <signal name="InterfacesRemoved">
    <arg name="object_path" type="o"/>
    <arg name="interfaces" type="as"/>
  </signal>
</interface>"""
