"""Columns of a record that the modality reads besides those of texts."""

from expunge.modalities.image.columns import IMAGES

PICTURES = (*IMAGES, "images", "image_path")  # the first that is present is taken; it holds a picture or a list of them
NAME, CAPTION, OTHERS = "name", "caption", "other_images"  # who is asked about, in words; what the picture shows, in words; more pictures
KEYWORDS, REWORDED = "keywords", "paraphrased_question"
