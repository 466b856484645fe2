"""Wire types that ComfyUI does not have."""

from .host import io

NoiseScheduleType = io.Custom("NOISE_SCHEDULE")
SamplerStateType = io.Custom("SAMPLER_STATE")
GuidanceType = io.Custom("GUIDANCE")
