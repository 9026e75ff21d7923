"""The screen of an X server: MIT-SHM for pixels, DAMAGE for changes, XFIXES for the cursor."""
