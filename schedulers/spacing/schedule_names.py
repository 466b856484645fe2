"""Spacings by the names that people know them by: one row for each schedule of ComfyUI, A1111/Forge and diffusers.

A row says which spacing of ours, at its defaults, a name stands for, and what differs ("": nothing but rounding, tested
beside a real ComfyUI in tests/host/test_core_samplers.py).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Names elsewhere (A1111's schedule types, diffusers'), that of ComfyUI's scheduler ("": it has none), the key of our
    spacing, and what differs."""

    spacing: str
    comfy: str
    elsewhere: tuple[str, ...]
    differs: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*filter(None, [self.comfy]), *self.elsewhere)


_ROUNDED = "theirs rounds its times differently, by a few per cent of a level"
_EVERY_KTH = (
    "for the same levels connect the SIGMAS of Steps: spacing ComfyUI's table, rule ddim_uniform"
)
_CURVE = "for a list of levels connect SIGMAS, such as those of Steps with spacing named"

ROWS: tuple[Published, ...] = (
    Published("karras", "karras", ("Karras",)),
    Published("exponential", "exponential", ("Exponential",)),
    Published("polyexponential", "", ("polyexponential", "Polyexponential")),
    Published("kl_optimal", "kl_optimal", ("KL Optimal",)),
    Published("host_table", "simple", ("Simple",)),
    Published("linspace", "normal", ("Normal", "Automatic", "Uniform"), _ROUNDED),
    Published("trailing", "sgm_uniform", ("SGM Uniform", "Turbo"), _ROUNDED),
    Published("beta", "beta", ("Beta",), _ROUNDED),
    Published("leading", "ddim_uniform", ("DDIM Uniform", "DDIM", "Uniform DDIM"), _EVERY_KTH),
    Published(
        "karras",
        "",
        ("Align Your Steps", "Align Your Steps GITS", "Align Your Steps 11", "Align Your Steps 32"),
        _CURVE,
    ),
    Published("trailing", "linear_quadratic", (), _CURVE),
)


def by_foreign_name(name: str) -> tuple[str, str]:
    """The key in ``spacing.ALL`` of a schedule elsewhere, and what differs ("": nothing). Raises ValueError for a name
    that nobody has."""
    for row in ROWS:
        if name in row.names:
            return row.spacing, row.differs
    known = ", ".join(name for row in ROWS for name in row.names)
    raise ValueError(f"scheduler = {name!r}: no spacing has this name; choose one of {known}")
