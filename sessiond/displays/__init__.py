"""Displays that root may know of without following a path of a user's."""
