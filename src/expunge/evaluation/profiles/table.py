"""What an audit of a classifier of tables looks at: what it looks at for pictures, without the pictures."""

from __future__ import annotations

from dataclasses import replace

from expunge.evaluation.profiles.image import PROFILE as CLASSIFIER
from expunge.evaluation.profiles.profile import one_group

PROFILE = replace(CLASSIFIER, samples={"forget": 4, "retain": 2}, group=one_group, unit="rows")
