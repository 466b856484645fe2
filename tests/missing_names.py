"""The pack in a ComfyUI made of small fakes, of which one name after the other is missing.

Run in a Python of its own: ``missing_names.py FOLDER``. Prints {name: {"nodes": count, "failed": {node: error}}}.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn

SAMPLING = [
    "EPS",
    "V_PREDICTION",
    "V_PREDICTION_DDPM",
    "EDM",
    "CONST",
    "COSMOS_RFLOW",
    "X0",
    "IMG_TO_IMG",
    "IMG_TO_IMG_FLOW",
]
SCHEDULES = [
    "StableCascadeSampling",
    "ModelSamplingDiscreteEDM",
    "ModelSamplingDiscrete",
    "ModelSamplingContinuousV",
    "ModelSamplingCosmosRFlow",
    "ModelSamplingContinuousEDM",
    "ModelSamplingDiscreteFlow",
    "ModelSamplingFlux",
    "ModelSamplingAV",
]


class Schedule(nn.Module):
    """Stands for every schedule class: what a MODEL on VE needs."""

    def set_parameters(self, low: float, high: float, data: float) -> None:
        self.sigma_min, self.sigma_max, self.sigma_data = low, high, data

    def sigma(self, timestep: Any) -> Any:
        return timestep


class Kept:
    """Keeps what it is made of."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.args, self.more = args, more


class CFGGuider:
    def __init__(self, model: Any) -> None:
        self.model_patcher = model

    def inner_set_conds(self, conds: Any) -> None:
        self.original_conds = conds


class BaseModel(nn.Module):
    def __init__(self, config: Any, model_type: Any, device: Any) -> None:
        super().__init__()


def module(name: str, **names: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(names)
    return made


def fresh(names: list[str], base: type) -> dict[str, type]:
    return {name: type(name, (base,), {}) for name in names}


def fakes(folder: Path) -> dict[str, types.ModuleType]:
    """ComfyUI's modules by name, each with what three of its nodes need."""
    cpu = lambda: torch.device("cpu")  # noqa: E731
    trees = {
        "samplers": dict(KSAMPLER=Kept, CFGGuider=CFGGuider, Sampler=object),
        "model_sampling": fresh(SAMPLING, object) | fresh(SCHEDULES, Schedule),
        "model_base": dict(
            BaseModel=BaseModel, ModelType=types.SimpleNamespace(FLOW=1, EDM=2, EPS=3)
        ),
        "latent_formats": dict(LatentFormat=type("LatentFormat", (), {})),
        "supported_models_base": dict(BASE=Kept),
        "model_patcher": dict(CoreModelPatcher=Kept),
        "model_management": dict(get_torch_device=cpu, unet_offload_device=cpu),
        **{key: {} for key in ("conds", "patcher_extension", "utils")},
    }
    children = {name: module(f"comfy.{name}", **names) for name, names in trees.items()}
    folders = dict(
        models_dir=str(folder),
        add_model_folder_path=lambda *args: None,
        get_folder_paths=lambda kind: [str(folder / kind)],
        get_directory_by_type=lambda kind: str(folder / kind),
    )
    server = types.SimpleNamespace(instance=None)
    return {
        "comfy": module("comfy", __path__=[], **children),
        **{f"comfy.{name}": child for name, child in children.items()},
        "folder_paths": module("folder_paths", **folders),
        "server": module("server", PromptServer=server),
    }


def run_nodes(nodes: dict[str, Any]) -> dict[str, str]:
    """{node: its error} of the nodes that fail, out of five that need different things."""
    failed = {}

    def attempt(node: str, **inputs: Any) -> Any:
        kind = nodes[f"SamplingKit{node}"]
        try:
            return kind.execute(**inputs).args[0]
        except Exception as error:
            failed[node] = f"{type(error).__name__}: {error}"

    attempt("Euler")
    attempt("EmbeddedDenoiser", kind={"kind": "gaussian", "size": 24, "scenes": 4, "rank": 1})
    attempt("Guider", model=object(), positive=[[None, {}]])
    attempt("LoadFittedSolver", file="none of this name", nfe=4)
    attempt("ClassCondition", name="unconditional")
    return failed


def measured(missing: str, folder: Path) -> dict[str, Any]:
    """What is left of the pack where ``missing``, a module or a name of one, is not there."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("comfy", "folder_paths", "server")]:
        del sys.modules[name]
    for name in [
        n for n in sys.modules if n == "sampling_kit" or n.startswith("sampling_kit.nodes")
    ]:
        del sys.modules[name]
    there = fakes(folder)
    owner, _, name = missing.rpartition(".")
    if missing in there:
        del there[missing]
    if owner in there:
        delattr(there[owner], name)
    sys.modules.update(there)
    pack = importlib.import_module("sampling_kit")
    extension = asyncio.run(pack.comfy_entrypoint())
    asyncio.run(extension.on_load())
    nodes = {n.define_schema().node_id: n for n in asyncio.run(extension.get_node_list())}
    everyone = len(importlib.import_module("sampling_kit.nodes").NODES)
    return {"left out": everyone - len(nodes), "failed": run_nodes(nodes)}


def main() -> None:
    folder = Path(sys.argv[1])
    sys.path.insert(0, str(folder))
    names = json.loads(sys.stdin.read())
    print(json.dumps({name: measured(name, folder) for name in names}))


if __name__ == "__main__":
    main()
