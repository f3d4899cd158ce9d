"""Columns of a record that may hold its picture and its class; the first that is present is taken."""

IMAGES = ("image", "img", "pixels", "x")
LABELS = ("label", "labels", "class", "y", "target", "fine_label")
