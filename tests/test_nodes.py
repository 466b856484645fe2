"""The nodes, run as the headless runner runs them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from example_prompts import bounded
from PIL import Image
from product import each

from sampling_kit.embedded import postcards
from sampling_kit.headless import graph, shipped
from sampling_kit.headless.cli import main
from sampling_kit.headless.registry import registry
from sampling_kit.nodes import NODES
from sampling_kit.nodes.host.alone import io
from sampling_kit.schedulers.guidance import ALL as RULES
from sampling_kit.schedulers.show.contact_sheet import tiles
from sampling_kit.schedulers.solver import ALL as SOLVERS

ROOT = Path(__file__).resolve().parent.parent
#: Without those that load a checkpoint, which tests/host/test_checkpoint_templates.py runs.
EXAMPLES = [shipped.example(name) for name in shipped.that_run_here()]
BY_ID = {node.define_schema().node_id: node for node in NODES}


@each(by=lambda node: node.define_schema().category, node=NODES)
def test_every_node_explains_itself(node):
    schema, info = node.define_schema(), io.object_info(node)
    assert schema.node_id.startswith("SamplingKit")
    assert schema.display_name
    assert schema.category.startswith("Sampling Kit/")
    assert len(schema.description) > 30
    assert schema.search_aliases
    assert all(output.display_name for output in schema.outputs)
    json.dumps(info, allow_nan=False)

    def widgets(inputs):
        for item in inputs:
            yield item
            for option in item.extra.get("options") or ():
                if isinstance(option, io.Option):
                    yield from widgets(option.inputs)

    for item in widgets(schema.inputs):
        if type(item).__mro__[1].__name__ == "Input" and item.io_type in {
            "INT",
            "FLOAT",
            "COMBO",
            "BOOLEAN",
            "STRING",
        }:
            assert item.tooltip, f"{schema.node_id}.{item.id} has no tooltip"


def test_every_solver_and_rule_has_a_node_without_being_named_twice():
    for kind in (*SOLVERS, *RULES):
        assert f"SamplingKit{kind.__name__}" in BY_ID


@pytest.mark.parametrize(
    "alias",
    [
        "DDIM",
        "DDPM",
        "euler",
        "euler_ancestral",
        "heun",
        "rectified flow",
        "scheduler",
        "cfg",
        "sigmas",
    ],
)
def test_nodes_are_found_by_the_names_people_know(alias):
    assert any(alias in node.define_schema().search_aliases for node in NODES)


@pytest.mark.some(15)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_valid(path):
    assert CliRunner().invoke(main, ["check", str(path)]).exit_code == 0


def run(tmp_path, *arguments):
    result = CliRunner().invoke(main, ["run", *arguments, "--output", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    return [Path(f) for run in json.loads(result.stdout)["runs"] for f in run["files"]]


#: What an input is at most when an example runs here; as shipped they run in ComfyUI (tests/host, --full).
MOST = {
    "steps": 5,
    "batch_size": 2,
    "kind.scenes": 12,
    "probes": 1,
    "reference_steps": 12,
    "moves": 1,
}
#: What must agree with that.
BESIDES = {
    "grid": {"Grid.column_values": "2;3", "Grid.row_values": "Euler"},
    "draft-pick-finish": {"Empty Pixel Latent.batch_size": "3", "Pick Drafts.numbers": "3, 1"},
    "trace": {"Replay from step 8.step": "3"},
    "distances": {"Empty Pixel Latent.batch_size": "20"},
    "tutorial-4-ode": {
        "20 levels, on VP and VE.spacing.values": "-3,-1,1,3",
        "The same on flow.spacing.values": "-3,-1,1,3",
    },
    "fit-a-solver": {
        **{f"Record Trajectories.{name}": n for name, n in (("count", "4"), ("levels", "6"), ("batch", "2"))},
        **{f"Fit Solver.method.{name}": n for name, n in (("numbers", "1"), ("bands", "0"), ("images", "2"))},
        "Fit Solver.method.budget": "60", "Fit Solver.held_out": "2",
    },
}  # fmt: skip


def smaller(path):
    """--set for each number of an example that MOST bounds, and what its row of BESIDES says."""
    nodes = json.loads(path.read_text(encoding="utf-8"))
    few = {
        f"{key}.{name}": value
        for key, node in nodes.items()
        for name, value in bounded(node["inputs"], MOST).items()
    }
    chosen = few | BESIDES.get(path.stem, {})
    return [part for at, value in chosen.items() for part in ("--set", f"{at}={value}")]


#: Not CogVideoX, which has its own (test_diffusers_cogvideox.py); a fit takes long and has its own, too.
EMBEDDED = [
    pytest.param(p, marks=pytest.mark.full) if p.stem == "fit-a-solver" else p
    for p in EXAMPLES
    if p.stem != "cogvideox"
]


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda p: p.stem)
def test_examples_run(path, tmp_path):
    pictures = run(tmp_path, str(path), *smaller(path))
    assert pictures
    for picture in pictures:
        with Image.open(picture) as image:
            pixels = np.asarray(image)
            assert json.loads(image.info["prompt"])
        assert pixels.shape[2] == 3
        assert pixels.std() > 20


def test_the_first_example_draws_each_class(tmp_path):
    """The ten tiles must be nearest, by mean colour of a 4×4 grid, to scenes of their own class."""
    path = ROOT / "example_workflows" / "api" / "ddim-eta.json"
    (picture,) = run(
        tmp_path,
        str(path),
        "--set",
        "Steps.steps=8",
        "--set",
        "Image Sheet.scale=1",
        "--set",
        "Image Sheet.gap=0",
    )
    pixels = np.asarray(Image.open(picture)).astype(float)
    tiles = [pixels[64 * i : 64 * i + 64, 64 * j : 64 * j + 64] for i in range(2) for j in range(5)]

    def coarse(x):
        return x.reshape(4, 16, 4, 16, 3).mean((1, 3)).ravel()

    known = [
        [coarse(s.astype(float)) for s in postcards.scenes(c, range(40), 64)]
        for c in postcards.CLASSES
    ]
    for label, tile in enumerate(tiles):
        distance = [min(np.linalg.norm(coarse(tile) - k) for k in group) for group in known]
        assert int(np.argmin(distance)) == label


def test_a_batch_of_three_equals_three_single_images(tmp_path):
    path = str(ROOT / "example_workflows" / "api" / "ddpm-respaced.json")
    common = [
        "--set",
        "Steps.steps=5",
        "--set",
        "Embedded Denoiser.kind.scenes=12",
        "--set",
        "Image Sheet.gap=0",
        "--set",
        "Image Sheet.columns=3",
    ]
    (batch,) = run(
        tmp_path / "b", path, *common, "--set", "Empty Pixel Latent.batch_size=3", "--seed", "50"
    )
    singles = run(
        tmp_path / "s",
        path,
        *common,
        "--set",
        "Empty Pixel Latent.batch_size=1",
        "--seeds",
        "50-52",
    )
    assert len(singles) == 3
    joined = np.concatenate([np.asarray(Image.open(f)) for f in singles], 1)
    assert np.array_equal(np.asarray(Image.open(batch)), joined)


# ------------------------------------------------------------------------------------------ bad input


def prompt(**changes):
    """The first example with inputs replaced: {"title.input": value}."""
    data = json.loads((ROOT / "example_workflows" / "api" / "ddim-eta.json").read_text())
    titles = {node["_meta"]["title"]: node for node in data.values()}
    for key, value in changes.items():
        title, name = key.split("__", 1)
        titles[title.replace("_", " ")]["inputs"][name.replace("__", ".")] = value
    return data


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"Steps__steps": 0}, ["Steps", "steps", "0", "1"]),
        ({"Steps__spacing": "unheard"}, ["Steps", "spacing", "unheard", "karras"]),
        ({"DDIM_Solver__eta": 7}, ["DDIM Solver", "eta", "7", "1"]),
        ({"Embedded_Denoiser__kind__size": 7}, ["Embedded Denoiser", "size", "7", "24"]),
        ({"Class_Condition__name": "volcano"}, ["Class Condition", "name", "volcano", "desert"]),
        ({"Guider__model": ["99", 0]}, ["Guider", "model", "99"]),
        ({"Guider__positive": ["1", 0]}, ["Guider", "positive", "NOISE_SCHEDULE", "CONDITIONING"]),
        ({"Save_Image__filename_prefix": "../out"}, ["Save Image", "filename_prefix", "../out"]),
        ({"Empty_Pixel_Latent__width": 32}, ["Sample", "shape"]),
        ({"Steps__steps": 1001}, ["Steps", "1000"]),
        ({"Noise_Schedule__kind__beta_end": 1.5}, ["Noise Schedule", "beta_end", "1.5"]),
    ],
)
def test_bad_input_gets_one_clear_error_and_leaves_nothing(changes, parts, tmp_path):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(prompt(**changes)))
    result = CliRunner().invoke(
        main, ["run", str(path), "--output", str(tmp_path / "out"), "--json"]
    )
    assert result.exit_code in (1, 2)
    assert all(part in result.stderr for part in parts), result.stderr
    assert "Traceback" not in result.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p != path]


def test_cfg_without_a_negative_says_what_to_connect(tmp_path):
    data = json.loads((ROOT / "example_workflows" / "api" / "rectified-flow.json").read_text())
    guider = next(node for node in data.values() if node["class_type"] == "SamplingKitGuider")
    del guider["inputs"]["negative"]
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(data))
    result = CliRunner().invoke(main, ["run", str(path), "--output", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "negative" in result.stderr
    assert "not connected" in result.stderr


def test_rising_sigmas_into_a_stochastic_solver(tmp_path):
    data = prompt()
    key = {node["_meta"]["title"]: k for k, node in data.items()}
    data["f"] = {
        "class_type": "FlipSigmas",
        "inputs": {"sigmas": [key["Steps"], 0]},
        "_meta": {"title": "Flip"},
    }
    data[key["Sample"]]["inputs"]["sigmas"] = ["f", 0]
    data[key["DDIM Solver"]]["inputs"]["eta"] = 0.5
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(data))
    result = CliRunner().invoke(main, ["run", str(path), "--output", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "must fall" in result.stderr


def test_the_registry_holds_our_nodes_and_the_core_stand_ins():
    assert set(BY_ID) < set(registry())
    assert {"SamplerCustomAdvanced", "SaveImage", "RandomNoise", "CFGGuider", "LoadImage"} < set(
        registry()
    )
    assert graph.check is not None


# --------------------------------------------------------------------------------------------- images


def test_image_and_latent_are_inverse():
    image = torch.rand(2, 8, 9, 3)
    latent = BY_ID["SamplingKitImageToLatent"].execute(image).result[0]
    assert latent["samples"].shape == (2, 3, 8, 9)
    assert torch.allclose(
        BY_ID["SamplingKitLatentToImage"].execute(latent).result[0], image, atol=1e-6
    )


def test_video_latents_become_frames_and_latents_of_other_models_are_refused():
    show = BY_ID["SamplingKitLatentToImage"].execute
    assert show({"samples": torch.zeros(2, 3, 4, 8, 9)}).result[0].shape == (8, 8, 9, 3)
    assert show({"samples": torch.zeros(2, 1, 8, 9)}).result[0].shape == (2, 8, 9, 3)
    with pytest.raises(ValueError, match="VAE Decode"):
        show({"samples": torch.zeros(1, 4, 8, 8)})


def test_sheets_put_every_picture_in_its_place():
    a, b = torch.zeros(3, 2, 2, 3), torch.full((1, 2, 2, 3), 0.5)
    out = tiles([a, b], columns=2, scale=3, gap=1)
    assert out.shape == (1, 3 * 7 + 1, 2 * 7 + 1, 3)
    assert out[0, 1:7, 1:7].max() == 0
    assert out[0, 8:14, 8:14].min() == 1  # the empty place beside the third picture
    assert torch.all(out[0, 15:21, 1:7] == 0.5)
    with pytest.raises(ValueError, match="one size"):
        tiles([a, torch.zeros(1, 4, 4, 3)], 2, 1, 0)


def test_a_node_lies_in_the_room_of_its_menu_folder():
    rooms = {name: n.__module__.split(".nodes.")[1].split(".")[0] for name, n in BY_ID.items()}
    folders = {name: n.define_schema().category.split("/")[1] for name, n in BY_ID.items()}
    assert rooms == folders
