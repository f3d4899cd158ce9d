"""Columns of a record that hold a picture and its class, first come first served."""

IMAGES = ("image", "img", "pixels", "x")
LABELS = ("label", "labels", "class", "y", "target", "fine_label")
