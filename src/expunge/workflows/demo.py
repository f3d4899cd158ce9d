"""The whole story on a bundled case: the sweeps behind `expunge demo`."""

from __future__ import annotations

from dataclasses import replace

from expunge.workflows.sweep import Sweep

CASES = {
    "people": Sweep(
        "chat_people", ("graddiff", "npo", "flat"), model="base", sizes={"people": 14, "forget": 4, "holdout": 4, "strangers": 36}
    ),
    "images": Sweep("digits", ("neggrad_plus", "salun", "ssd"), model="resnet-nano", limit=0),
    "recommender": Sweep("taste", ("graddiff", "npo", "mmrecun"), model="bpr_mf-nano", limit=0),
    "diffusion": Sweep(
        "scenes",
        ("esd", "uce", "graddiff"),
        split="stamp",
        model="unet-base",
        limit=60,
        relearning=False,
        hyperparameters={"esd:concept": "stamped", "uce:concept": "stamped"},
    ),
    "faces": Sweep("fiubench", ("ga", "kl", "idk"), model="llava-nano", limit=0, sizes={"people": 12, "holdout": 3, "retain": 5}),
}
SMALL = {  # settings of the smallest version of each case: one method, less data
    "people": {
        "methods": ("graddiff",),
        "sizes": {"people": 8, "forget": 1, "holdout": 1, "strangers": 8},
        "train": {"epochs": 1},
        "relearning": False,
    },
    "images": {"methods": ("ssd",), "relearning": False},
    "recommender": {"methods": ("graddiff",), "relearning": False},
    "diffusion": {
        "methods": ("uce",),
        "hyperparameters": {"uce:concept": "stamped"},
        "train": {"epochs": 1},
        "sizes": {"retain": 24, "prompts": 6},
    },
    "faces": {
        "methods": ("graddiff",),
        "sizes": {"people": 5, "holdout": 1, "pictures": 2, "retain": 2},
        "split": "forget1",
        "train": {"epochs": 1},
        "relearning": False,
    },
}


def demo(case: str, quick: bool = False) -> Sweep:
    """The sweep of a bundled case.

    Args:
        case: people (a language model that chats, refuses, and answers questions about fictitious people), images (a classifier of
            handwritten digits), recommender (users with tastes, a tenth of whom are forgotten), diffusion (a model that draws scenes, some
            with a stamp that is forgotten) or faces (a model that answers questions about drawn faces).
        quick: the smallest version, a check that everything runs; its numbers mean nothing.
    """
    return replace(CASES[case], **SMALL[case]) if quick else CASES[case]
