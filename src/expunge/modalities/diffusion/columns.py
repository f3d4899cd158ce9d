"""Columns of records that hold the picture and the caption, most specific first."""

from expunge.modalities.image.columns import IMAGES

PICTURES = IMAGES
CAPTIONS = ("caption", "prompt", "text", "concept")
CLASSES = ("label", "class", "caption", "concept")  # where a model draws classes instead of what a text says
