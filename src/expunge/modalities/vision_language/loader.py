"""How vision-language models are recognized and loaded; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.core.errors import UserError
from expunge.modalities.vision_language.columns import OTHERS, PICTURES

if TYPE_CHECKING:
    from torch import nn

    from expunge.modalities.vision_language.modality import VisionLanguage

FILE_COLUMNS = (*PICTURES, OTHERS)  # columns of a record that may name a file


def claims(architecture: str) -> int:
    """How sure it is that a model of this architecture reads pictures and texts: 2 sure, 0 not at all."""
    if not architecture.endswith(("ForConditionalGeneration", "ForVisionText2Text", "ForCausalLM")):
        return 0
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    return 2 if architecture in KNOWN.values() else 0


def load(path: str, prompt_format: str = "", labels: Any = (), **options: Any) -> tuple[nn.Module, VisionLanguage]:
    """A model and its modality from a folder or hub id. Raises: UserError."""
    from expunge.modalities.vision_language import pretrained

    if labels != ():
        raise UserError(f"{path} is a vision-language model, which has no classes: leave the labels out")
    return pretrained.load(path, prompt_format, **options)
