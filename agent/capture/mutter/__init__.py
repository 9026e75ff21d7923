"""The screens of a GNOME session, as Mutter lets them be recorded."""
