"""Wire types that ComfyUI does not have."""

from ..host import io

NoiseScheduleType = io.Custom("NOISE_SCHEDULE")
SamplerStateType = io.Custom("SAMPLER_STATE")
GuidanceType = io.Custom("GUIDANCE")
ClassifierType = io.Custom("CLASSIFIER")
MeasurementType = io.Custom("MEASUREMENT")
GuidanceReportType = io.Custom("GUIDANCE_REPORT")
TraceType = io.Custom("TRACE")
TrajectoriesType = io.Custom("TRAJECTORIES")
SolverFitType = io.Custom("SOLVER_FIT")
