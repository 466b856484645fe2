"""Wire types that ComfyUI does not have."""

from .host import io

NoiseScheduleType = io.Custom("NOISE_SCHEDULE")
GuidanceType = io.Custom("GUIDANCE")
