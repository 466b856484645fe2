"""How exactly ``get_velocity(sample=v, noise=x_t)`` gives x0 back, per dtype (docs/v-prediction.md).

    python -m benchmarks.v_identity [--json]

Largest |α·x_t − σ·v − x0| over every timestep of a table and 256 values x0, ε ~ N(0, 1) each, where
x_t and v are computed in the dtype as a pipeline would. "coefficients float64" takes α and σ from
the kit; "diffusers" calls its schedulers, which cast ᾱ to the dtype before taking roots.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sampling_kit.schedulers.noise_schedule import LinearVP, ScaledLinearVP, Tabulated
from sampling_kit.schedulers.prediction import get_velocity

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
TABLES: dict[str, Tabulated] = {
    "DDPM": LinearVP(),
    "Stable Diffusion": ScaledLinearVP(),
    "zero terminal SNR": ScaledLinearVP(zero_snr=True),
}
COUNT = 256


def data() -> tuple[Tensor, Tensor]:
    """x0 and ε, float64."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, COUNT, generator=generator, dtype=torch.float64)
    return x0, eps


def kit_error(table: Tabulated, dtype: torch.dtype, swapped: bool = False) -> float:
    """Largest error with α, σ as Python floats; ``swapped``: with the two arguments exchanged."""
    x0, eps = (t.to(dtype) for t in data())
    worst = 0.0
    for alpha_bar in table.alpha_bar.tolist():
        alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        x, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
        back = get_velocity(*((x, v) if swapped else (v, x)), alpha, sigma)
        worst = max(worst, float((back.double() - x0.double()).abs().max()))
    return worst


def diffusers_error(make: Callable[[], Any], dtype: torch.dtype) -> float:
    """Largest error of a diffusers scheduler's own add_noise and get_velocity."""
    x0, eps = (t.to(dtype) for t in data())
    scheduler, worst = make(), 0.0
    for t in range(scheduler.config.num_train_timesteps):
        at = torch.tensor([t])
        x = scheduler.add_noise(x0[None], eps[None], at)
        v = scheduler.get_velocity(x0[None], eps[None], at)
        back = scheduler.get_velocity(v, x, at)
        worst = max(worst, float((back[0].double() - x0.double()).abs().max()))
    return worst


def diffusers_tables() -> dict[str, Callable[[], Any]]:
    """The schedulers with these tables, if diffusers is installed."""
    try:
        from diffusers import CogVideoXDDIMScheduler, DDPMScheduler
    except ImportError:
        return {}
    scaled = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    zero = dict(rescale_betas_zero_snr=True)
    return {
        "DDPM": DDPMScheduler,
        "Stable Diffusion": lambda: DDPMScheduler(**scaled),
        "zero terminal SNR": lambda: DDPMScheduler(**scaled, **zero),
        "CogVideoX-2B": lambda: CogVideoXDDIMScheduler(snr_shift_scale=3.0, **zero),
        "CogVideoX-5B": lambda: CogVideoXDDIMScheduler(snr_shift_scale=1.0, **zero),
    }


def rows() -> list[dict[str, Any]]:
    """One row per table and way to compute, one column per dtype."""

    def row(way: str, name: str, error: Callable[[torch.dtype], float]) -> dict[str, Any]:
        return {"way": way, "table": name, **{k: error(d) for k, d in DTYPES.items()}}

    found = [
        row("coefficients float64", name, lambda d, t=table: kit_error(t, d))  # type: ignore[misc]
        for name, table in TABLES.items()
    ]
    found += [
        row("diffusers", name, lambda d, m=make: diffusers_error(m, d))  # type: ignore[misc]
        for name, make in diffusers_tables().items()
    ]
    swap = row(
        "arguments swapped",
        "Stable Diffusion",
        lambda d: kit_error(TABLES["Stable Diffusion"], d, True),
    )
    return [*found, swap]


def markdown(found: list[dict[str, Any]]) -> str:
    """The table of docs/v-prediction.md."""
    lines = [
        "| computed by | table | " + " | ".join(DTYPES) + " |",
        "|" + "---|" * (2 + len(DTYPES)),
    ]
    lines += [
        f"| {r['way']} | {r['table']} | " + " | ".join(f"{r[d]:.0e}" for d in DTYPES) + " |"
        for r in found
    ]
    return "\n".join(lines)


def main() -> None:
    found = rows()
    print(json.dumps(found) if "--json" in sys.argv[1:] else markdown(found))


if __name__ == "__main__":
    main()
