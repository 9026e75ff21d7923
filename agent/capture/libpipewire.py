"""libpipewire-0.3, as far as it is used: loaded by ctypes, and only when somebody asks for it.

Declarations are those of PipeWire 0.3.65 (pipewire/{context,loop,stream}.h, spa/support/loop.h,
spa/buffer/buffer.h), which later ones only add to.
"""

import ctypes
import os
from functools import cache
from typing import Any, Final

from sessiond.errors import DisplayError

_LIBRARY: Final = "libpipewire-0.3.so.0"
_PACKAGE: Final = "libpipewire-0.3-0"  # Debian's
_LOG_ERRORS: Final = 1  # enum spa_log_level

_pointer = ctypes.c_void_p


class Interface(ctypes.Structure):
    """A struct spa_interface: an object with a table of methods."""

    _fields_ = (
        ("type", ctypes.c_char_p),
        ("version", ctypes.c_uint32),
        ("methods", _pointer),
        ("data", _pointer),
    )


class Loop(ctypes.Structure):
    """The beginning of a struct pw_loop."""

    _fields_ = (
        ("system", _pointer),
        ("loop", _pointer),
        ("control", ctypes.POINTER(Interface)),
        ("utils", _pointer),
    )


class LoopControl(ctypes.Structure):
    """The beginning of a struct spa_loop_control_methods."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("get_fd", ctypes.CFUNCTYPE(ctypes.c_int, _pointer)),
        ("add_hook", _pointer),
        ("enter", ctypes.CFUNCTYPE(None, _pointer)),
        ("leave", ctypes.CFUNCTYPE(None, _pointer)),
        ("iterate", ctypes.CFUNCTYPE(ctypes.c_int, _pointer, ctypes.c_int)),
    )


class Chunk(ctypes.Structure):
    """A struct spa_chunk: which part of a buffer counts, this time."""

    _fields_ = (
        ("offset", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("stride", ctypes.c_int32),
        ("flags", ctypes.c_int32),
    )


class Data(ctypes.Structure):
    """A struct spa_data: the memory of a buffer."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("fd", ctypes.c_int64),
        ("mapoffset", ctypes.c_uint32),
        ("maxsize", ctypes.c_uint32),
        ("data", _pointer),
        ("chunk", ctypes.POINTER(Chunk)),
    )


class Meta(ctypes.Structure):
    """A struct spa_meta: what is told beside the pixels."""

    _fields_ = (("type", ctypes.c_uint32), ("size", ctypes.c_uint32), ("data", _pointer))


class SpaBuffer(ctypes.Structure):
    """A struct spa_buffer."""

    _fields_ = (
        ("n_metas", ctypes.c_uint32),
        ("n_datas", ctypes.c_uint32),
        ("metas", ctypes.POINTER(Meta)),
        ("datas", ctypes.POINTER(Data)),
    )


class PwBuffer(ctypes.Structure):
    """The beginning of a struct pw_buffer."""

    _fields_ = (("buffer", ctypes.POINTER(SpaBuffer)),)


StateChanged = ctypes.CFUNCTYPE(None, _pointer, ctypes.c_int, ctypes.c_int, ctypes.c_char_p)
ParamChanged = ctypes.CFUNCTYPE(None, _pointer, ctypes.c_uint32, _pointer)
Processed = ctypes.CFUNCTYPE(None, _pointer)
BufferChanged = ctypes.CFUNCTYPE(None, _pointer, _pointer)


class StreamEvents(ctypes.Structure):
    """A struct pw_stream_events."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("destroy", _pointer),
        ("state_changed", StateChanged),
        ("control_info", _pointer),
        ("io_changed", _pointer),
        ("param_changed", ParamChanged),
        ("add_buffer", BufferChanged),
        ("remove_buffer", BufferChanged),
        ("process", Processed),
        ("drained", _pointer),
        ("command", _pointer),
        ("trigger_done", _pointer),
    )


class Hook(ctypes.Structure):
    """A struct spa_hook, of which only the library knows what is in it."""

    _fields_ = (("private", _pointer * 6),)


_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "pw_init": (None, (_pointer, _pointer)),
    "pw_log_set_level": (None, (ctypes.c_int,)),
    "pw_loop_new": (ctypes.POINTER(Loop), (_pointer,)),
    "pw_loop_destroy": (None, (ctypes.POINTER(Loop),)),
    "pw_properties_new": (_pointer, (ctypes.c_char_p,)),
    "pw_properties_set": (ctypes.c_int, (_pointer, ctypes.c_char_p, ctypes.c_char_p)),
    "pw_context_new": (_pointer, (ctypes.POINTER(Loop), _pointer, ctypes.c_size_t)),
    "pw_context_load_module": (_pointer, (_pointer, ctypes.c_char_p, _pointer, _pointer)),
    "pw_context_destroy": (None, (_pointer,)),
    "pw_context_connect_fd": (_pointer, (_pointer, ctypes.c_int, _pointer, ctypes.c_size_t)),
    "pw_core_disconnect": (ctypes.c_int, (_pointer,)),
    "pw_stream_new": (_pointer, (_pointer, ctypes.c_char_p, _pointer)),
    "pw_stream_add_listener": (
        None,
        (_pointer, ctypes.POINTER(Hook), ctypes.POINTER(StreamEvents), _pointer),
    ),
    "pw_stream_connect": (
        ctypes.c_int,
        (_pointer, ctypes.c_int, ctypes.c_uint32, ctypes.c_int, _pointer, ctypes.c_uint32),
    ),
    "pw_stream_set_active": (ctypes.c_int, (_pointer, ctypes.c_bool)),
    "pw_stream_dequeue_buffer": (ctypes.POINTER(PwBuffer), (_pointer,)),
    "pw_stream_queue_buffer": (ctypes.c_int, (_pointer, _pointer)),
    "pw_stream_destroy": (None, (_pointer,)),
}


@cache
def load_library() -> ctypes.CDLL:
    """Return the library, loaded once for the process. Raises DisplayError."""
    try:
        library = ctypes.CDLL(_LIBRARY)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise DisplayError(
            f"{_LIBRARY} cannot be loaded, without which this desktop shows nothing: {error} "
            f"(install the package {_PACKAGE})"
        ) from None
    library.pw_init(None, None)
    if "PIPEWIRE_DEBUG" not in os.environ:
        library.pw_log_set_level(_LOG_ERRORS)
    return library
