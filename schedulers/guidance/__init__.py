"""Guidance rules. Adding one: a class in a file here and its name in ``ALL`` (docs/extending.md)."""

from .apg import APG
from .autograd import differentiable, ordinary
from .base import (
    COND,
    NEGATIVE,
    UNCOND,
    WEAK,
    Call,
    Evaluate,
    InAttention,
    Perturbation,
    Rule,
    Scaled,
)
from .cfg import CFG, CFGPlusPlus
from .chain import Guidance, GuidanceRun, Record
from .classifier import Classifier, ClassifierGuidance
from .compose import Compose, PerpNeg
from .contrast import PAG, SEG, Autoguidance, SkipLayer
from .curve import CURVES, Constant, Cosine, Curve, Interval, Linear, PerStep, Power, Steps, Table
from .frequency import FrequencyDecoupled
from .level import Level
from .magnitude import MAMBOG, DynamicThresholding, Rescale
from .measurement import OPERATORS, Blur, Downsample, Gray, Inpaint, Measurement, Operator
from .nag import NAG
from .reconstruction import DDNM, DPS, PiGDM
from .rectified import RectifiedCFGPlusPlus
from .tangential import TCFG
from .zero_star import CFGZeroStar

ALL: tuple[type[Rule], ...] = (
    CFG, CFGPlusPlus, APG, CFGZeroStar, TCFG, FrequencyDecoupled, MAMBOG, RectifiedCFGPlusPlus,
    Autoguidance, PAG, SEG, SkipLayer, NAG,
    PerpNeg, Compose, ClassifierGuidance,
    Rescale, DynamicThresholding,
    DDNM, DPS, PiGDM,
)  # fmt: skip
