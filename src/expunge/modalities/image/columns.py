"""Columns of a record that may hold its picture; the first that is present is taken."""

IMAGES = ("image", "img", "pixels", "x")
