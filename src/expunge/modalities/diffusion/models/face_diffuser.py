"""Face-diffuser: two diffusion models draw a picture together, one the scene and one a subject that reference pictures show.

The scene is constructed by the first model, then each place follows the model whose guidance is more salient there, and the second model
enhances the subject at the end. The same fusion blends an original with an unlearned model and shows where the erasure acts.

Equation: R_T = g (eps_T(c) - eps_T(0)), E_T = eps_T(0) + R_T; R_S = g (eps_S(c+) - eps_S(c)), E_S = eps_S(c) + R_S; P = softmax over places
  of the smoothed mean of |R| over channels; M = 1 where P_S > P_T; eps = M E_S + (1 - M) E_T in the middle, E_T before and E_S after.
  c+ is c with LN(MLP2(MLP1([c; r]) + c)) at each subject's word. Loss: both noise errors, and 0.001 of attention outside subjects
Source: High-fidelity Person-centric Subject-to-Image Synthesis, CVPR 2024 (arXiv 2311.10329)
Differs: two small UNets on pixels with one small text encoder and a convolutional encoder of reference pictures, all trained, in place of
  Stable Diffusion and CLIP; both models are trained at once, on the same noise, and nothing is shared but the text encoder; they predict
  velocity, whose response is converted to noise for the saliency; the window of smoothing is 3, since pictures are small. The stages end at
  3/10 and 6/10 of the calls, as in the demo; scores of the paper's benchmark are reconstructed by classifiers of drawn faces and scenes
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.modalities.diffusion.subject_building import start_model
from expunge.modalities.diffusion.subject_modality import SubjectDiffusion, SubjectSettings
from expunge.modalities.diffusion.subject_model import SubjectModel

SIZES = {"face_diffuser-nano": (16, 32), "face_diffuser-micro": (32, 64)}  # channels at each resolution
SETTINGS = SubjectSettings(evaluated=4, dropped=0.1, steps=20, guidance=3.0)
TRAINING: dict[str, dict[str, Any]] = {
    size: {"epochs": 100, "lr": lr, "batch_size": 32, "optimizer": "adam", "weight_decay": 0.0, "warmup": 1, "max_grad_norm": 1.0}
    for size, lr in (("face_diffuser-nano", 4e-3), ("face_diffuser-micro", 2e-3))
}


def start(size: str, records: Sequence[Mapping[str, Any]], **options: Any) -> tuple[SubjectModel, SubjectDiffusion]:
    """An untrained model of a built-in size for the data. options: of `start_model`. Raises: UserError."""
    return start_model(SIZES[size], SETTINGS, records, **options)
