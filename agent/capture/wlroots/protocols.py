"""What is spoken with a compositor beside Wayland's core: as the XML of each protocol has it."""

from typing import Final

from sessiond.wire.wayland import Interface

# wayland.xml; a pointer is needed only to say whose cursor is meant.
SEAT: Final = Interface(
    "wl_seat", ("get_pointer n", "get_keyboard n", "get_touch n"), ("capabilities u", "name s")
)
POINTER: Final = Interface(
    "wl_pointer",
    ("set_cursor uoii",),
    ("enter uoff", "leave uo", "motion uff", "button uuuu", "axis uuf"),
)
HAS_POINTER: Final = 1  # wl_seat.capability

# xdg-output-unstable-v1.xml
XDG_OUTPUT_MANAGER: Final = Interface("zxdg_output_manager_v1", ("destroy!", "get_xdg_output no"))
XDG_OUTPUT: Final = Interface(
    "zxdg_output_v1",
    ("destroy!",),
    ("logical_position ii", "logical_size ii", "done", "name s", "description s"),
)

# wlr-output-power-management-unstable-v1.xml
POWER_MANAGER: Final = Interface("zwlr_output_power_manager_v1", ("get_output_power no",))
POWER: Final = Interface("zwlr_output_power_v1", ("set_mode u", "destroy!"), ("mode u", "failed"))

# wlr-screencopy-unstable-v1.xml
SCREENCOPY_MANAGER: Final = Interface("zwlr_screencopy_manager_v1", ("capture_output nio",))
SCREENCOPY_FRAME: Final = Interface(
    "zwlr_screencopy_frame_v1",
    ("copy o", "destroy!", "copy_with_damage o"),
    (
        "buffer uuuu",
        "flags u",
        "ready uuu",
        "failed",
        "damage uuuu",
        "linux_dmabuf uuu",
        "buffer_done",
    ),
)
Y_INVERT: Final = 1  # zwlr_screencopy_frame_v1.flags

# ext-image-capture-source-v1.xml
SOURCE_MANAGER: Final = Interface(
    "ext_output_image_capture_source_manager_v1", ("create_source no",)
)
SOURCE: Final = Interface("ext_image_capture_source_v1", ("destroy!",))

# ext-image-copy-capture-v1.xml
COPY_MANAGER: Final = Interface(
    "ext_image_copy_capture_manager_v1",
    ("create_session nou", "create_pointer_cursor_session noo", "destroy!"),
)
PAINT_CURSORS: Final = 1  # ext_image_copy_capture_manager_v1.options
SESSION: Final = Interface(
    "ext_image_copy_capture_session_v1",
    ("create_frame n", "destroy!"),
    ("buffer_size uu", "shm_format u", "dmabuf_device a", "dmabuf_format ua", "done", "stopped"),
)
FRAME: Final = Interface(
    "ext_image_copy_capture_frame_v1",
    ("destroy!", "attach_buffer o", "damage_buffer iiii", "capture"),
    ("transform u", "damage iiii", "presentation_time uuu", "ready", "failed u"),
)
CURSOR_SESSION: Final = Interface(
    "ext_image_copy_capture_cursor_session_v1",
    ("destroy!", "get_capture_session n"),
    ("enter", "leave", "position ii", "hotspot ii"),
)
