"""The outputs of a Wayland compositor that lets them be copied: wlroots' and others'.

By ext-image-copy-capture-v1 where it is offered, else by wlr-screencopy-unstable-v1.
"""
