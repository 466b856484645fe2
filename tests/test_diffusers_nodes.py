"""Networks of diffusers folders as MODELs without ComfyUI: the same nodes, against the engine's own runs."""

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from diffusers_folders import TINY, conditioning, save

from sampling_kit.headless.cli import main
from sampling_kit.headless.context import Context, use
from sampling_kit.headless.core import sampling as core
from sampling_kit.nodes import NODES, host
from sampling_kit.nodes.denoiser import folders as diffusers_folders
from sampling_kit.nodes.host.latent_layout import LatentLayout
from sampling_kit.schedulers.denoiser import diffusers as kit
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import Flow
from sampling_kit.schedulers.sample import noised, sample
from sampling_kit.schedulers.solver import DPMSolverMultistep
from sampling_kit.schedulers.solver.run import Run

pytest.importorskip("diffusers")
BY_ID = {node.define_schema().node_id.removeprefix("SamplingKit"): node for node in NODES}
KEYS = {"pooled": "pooled_output", "mask": "attention_mask", "concat": "noise_concat"}
#: One folder of every class, of those with a condition where there are any; and CogVideoX's second layout.
ONE_EACH = [
    *{TINY[n].kind: n for n in sorted(TINY, key=lambda n: bool(TINY[n].cond))}.values(),
    "cogvideox-2b",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def folder(models):
    """name → the folder below models/diffusers, written once."""
    return lru_cache(None)(lambda name: save(name, models / "diffusers" / name))


@pytest.fixture(autouse=True)
def running(models):
    """Inside of a run."""
    context = Context(models, models, models, "cpu", None, {}, None, models=models)
    with use(context), torch.inference_mode():
        yield


def node(name, **inputs):
    return BY_ID[name].execute(**inputs).args


def load(name, **knobs):
    return node("LoadDiffusersDenoiser", folder=name, **knobs)


def condition(name, seed):
    tensors = conditioning(name, 1, seed)
    text = tensors.get("text")
    if "labels" in tensors:
        text = (tensors["labels"] + 1).float().reshape(1, 1, 1)
    return tensors, [[text, {KEYS[k]: v for k, v in tensors.items() if k in KEYS}]]


def drawn(name, model, schedule, latent, steps=4, seed=0, **more):
    """Through SamplerCustomAdvanced with our guider and solver."""
    sigmas = node("Steps", noise_schedule=schedule, steps=steps, spacing={"spacing": "trailing"}, **more)[0]  # fmt: skip
    (cfg,) = node("CFG", scale=3.0)
    (guider,) = node("Guider", model=model, positive=condition(name, 1)[1], negative=condition(name, 2)[1], guidance=cfg)  # fmt: skip
    (sampler,) = node("DPMSolverMultistep")
    both = core.SamplerCustomAdvanced.execute(core.BatchNoise(seed), guider, sampler, sigmas, latent).args  # fmt: skip
    return sigmas.tolist(), both[0]["samples"], both[1]["samples"]


def by_engine(name, network, sigmas, noise, picture=None):
    """The same run on the engine's denoiser alone, on the network's own path."""
    path = network.noise_schedule.path
    network = network.using(path=path.host)
    cond, uncond = condition(name, 1)[0], condition(name, 2)[0]
    start = torch.zeros_like(noise) if picture is None else picture
    x = noised(path, sigmas[0], start, noise, picture is None)

    def d(x, sigma):
        low = network(x, sigma, uncond)
        return low + 3.0 * (network(x, sigma, cond) - low)

    return sample(DPMSolverMultistep(), path, Run(d, PerImageNoise(0), lambda p: None), x, sigmas)


def error(a, b):
    return float((a - b).abs().max() / max(1, b.abs().max()))


@pytest.mark.some(5)
@pytest.mark.parametrize("name", ONE_EACH)
def test_a_run_is_the_engine_s(name, folder):
    path = folder(name)
    model, schedule, about = load(name)
    network = kit.load(kit.read_folder(path))
    assert (
        schedule == network.noise_schedule and TINY[name].kind in about and str(path.name) in about
    )
    generator = torch.manual_seed(0)
    noise = torch.randn((1, *TINY[name].shape), generator=generator)
    latent = {"samples": torch.zeros_like(noise)}
    sigmas, out, x0 = drawn(name, model, schedule, latent)
    expected = by_engine(name, network, sigmas, noise)
    raw = network.latents.to_vae(expected) if network.latents else expected
    assert error(out, raw) < 1e-5
    assert error(x0, raw) < 1e-5  # the last step goes to D


@pytest.mark.parametrize("name", ["sd", "wan", "sd3"])
def test_latents_on_the_wire_are_the_vae_s_own(name, folder):
    """A picture goes in scaled and shifted as vae/config.json says, and comes out unscaled."""
    folder(name)
    model, schedule, _ = load(name)
    network = kit.load(kit.read_folder(folder(name)))
    generator = torch.Generator().manual_seed(9)
    picture = torch.randn(1, *TINY[name].shape, generator=generator)
    torch.manual_seed(0)
    noise = torch.randn(picture.shape, generator=torch.manual_seed(0))
    sigmas, out, _ = drawn(name, model, schedule, {"samples": picture}, denoise=0.5)
    expected = by_engine(name, network, sigmas, noise, network.latents.from_vae(picture))
    assert error(out, network.latents.to_vae(expected)) < 1e-5


def test_an_empty_latent_is_no_picture(models):
    """ComfyUI takes a LATENT of zeros as nothing, not as a picture: a VAE's shift does not touch it."""
    path = save("sd", models / "diffusers" / "sd-shifted")
    config = path / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"shift_factor": 0.5}))
    model, schedule, _ = load("sd-shifted")
    network = kit.load(kit.read_folder(path))
    assert network.latents.shift == 0.5
    noise = torch.randn((1, *TINY["sd"].shape), generator=torch.manual_seed(0))
    empty = torch.zeros_like(noise)
    sigmas, out, _ = drawn("sd", model, schedule, {"samples": empty}, denoise=0.5)
    expected = by_engine("sd", network, sigmas, noise, empty)
    assert error(out, network.latents.to_vae(expected)) < 1e-5


def test_a_batch_is_its_pictures(folder):
    folder("sd3")
    model, schedule, _ = load("sd3")
    shape = TINY["sd3"].shape
    (guider,) = node("Guider", model=model, positive=condition("sd3", 1)[1])
    (sampler,) = node("DDIM")
    sigmas = node("Steps", noise_schedule=schedule, steps=3, spacing={"spacing": "trailing"})[0]
    noise = torch.randn(3, *shape)
    draw = lambda z: guider.sample(z, torch.zeros_like(z), sampler, sigmas)  # noqa: E731
    assert error(draw(noise), torch.cat([draw(z) for z in noise.split(1)])) < 1e-5


# ---------------------------------------------------------------------------------- conditioning


def refusal(name, cond, latent=None):
    model, schedule, _ = load(name)
    latent = latent if latent is not None else torch.zeros(1, *TINY[name].shape)
    sigmas = torch.tensor([schedule.path.host.at(1.0).sigma, 0.0])
    (guider,) = node("Guider", model=model, positive=cond)
    (sampler,) = node("Euler")
    with pytest.raises(ValueError, match=r"positive|takes") as found:
        guider.sample(torch.zeros_like(latent), latent, sampler, sigmas)
    return str(found.value)


def test_what_a_network_needs_is_named(folder):
    for name in ("sd", "sd3", "dit", "cogvideox-1.5"):
        folder(name)
    text = [[torch.zeros(1, 5, 16), {}]]
    assert "needs text states" in refusal("sd", [[None, {}]])
    assert "Diffusers Text Encode" in refusal("sd", [[None, {}]])
    assert "(1, 5, 7)" in refusal("sd", [[torch.zeros(1, 5, 7), {}]])
    assert "pooled_output" in refusal("sd3", text)
    assert "[B, 24]" in refusal("sd3", [[text[0][0], {"pooled_output": torch.zeros(1, 7)}]])
    assert "concat_latent_image" in refusal("cogvideox-1.5", [[torch.zeros(1, 8, 16), {}]])
    assert "takes a class" in refusal("dit", text)
    assert "0 to 9" in refusal("dit", node("DiffusersClass", classes="11")[0])
    half = [[0.5 * node("DiffusersClass", classes="4")[0][0][0], {}]]
    assert "blend" in refusal("dit", half)
    good = condition("sd", 1)[1]
    assert "make the empty latent" in refusal("sd", good, torch.zeros(1, 3, 8, 8))


def test_classes_by_number_and_one_hot(folder):
    folder("dit")
    model = load("dit")[0]
    labels = lambda cond: model.condition("cond", cond, 4)["labels"].tolist()  # noqa: E731
    assert labels(node("DiffusersClass", classes="3, 7")[0]) == [3, 7, 3, 7]
    assert labels(node("DiffusersClass", classes="none 1")[0]) == [10, 1, 10, 1]
    assert labels([[torch.eye(10)[[2, 5]][:, None], {}]]) == [2, 5, 2, 5]
    assert labels([[torch.zeros(1, 1, 10), {}]]) == [10] * 4
    for wrong in ("", "-1", "3.5", "cat"):
        with pytest.raises(ValueError, match="classes ="):
            node("DiffusersClass", classes=wrong)


def test_sizes_and_guidance_travel_under_the_core_s_names(folder):
    folder("sdxl"), folder("flux"), folder("ltx")
    sizes = dict(width=640, height=512, crop_w=8, crop_h=16, target_width=320, target_height=256)
    text, extra = condition("sdxl", 1)[1][0]
    model = load("sdxl")[0]
    found = model.condition("cond", [[text, extra | sizes]], 2)
    assert found["size"].tolist() == [[512, 640, 16, 8, 256, 320]] * 2
    assert "size" not in model.condition("cond", [[text, extra | dict(width=640, height=512)]], 2)
    text, extra = condition("flux", 1)[1][0]
    found = load("flux")[0].condition("cond", [[text, extra | {"guidance": 7.25}]], 2)
    assert found["guidance"].tolist() == [7.25, 7.25]
    text, extra = condition("ltx", 1)[1][0]
    found = load("ltx")[0].condition("cond", [[text, extra | {"frame_rate": 24}]], 1)
    assert found["fps"].tolist() == [24.0] and found["mask"].dtype == torch.long


# ---------------------------------------------------------------------------------- empty latents


def test_empty_latents_have_the_model_s_shape(folder):
    for name in ("cogvideox-1.5", "ddpm"):
        folder(name)
    empty = lambda name, *size: node("EmptyDiffusersLatent", model=load(name)[0], **dict(zip(("width", "height", "frames", "batch_size"), size, strict=True)))[0]  # fmt: skip  # noqa: E731
    video = empty("cogvideox-1.5", 49, 33, 5, 2)
    assert video["samples"].shape == (2, 4, 3, 16, 24)
    assert (video["downscale_ratio_spacial"], video["downscale_ratio_temporal"]) == (2, 2)
    assert empty("ddpm", 64, 48, 1, 1)["samples"].shape == (1, 3, 48, 64)
    with pytest.raises(ValueError, match="frames = 5"):
        empty("ddpm", 64, 48, 5, 1)
    shipped = node("EmbeddedDenoiser", kind={"kind": "gaussian", "size": 24, "scenes": 4, "rank": 2})[0]  # fmt: skip
    assert host.models.latent_layout(shipped) == LatentLayout(3, spatial=1)


def test_too_small_is_said():
    with pytest.raises(ValueError, match="at least 16 × 16"):
        LatentLayout(4, 2, 8, 1, (2, 2)).shape(1, 8, 64)


# ---------------------------------------------------------------------------------- dtypes


def test_dtype_and_why(folder, models):
    save("cogvideox-5b", models / "diffusers" / "stored-bf16", torch.bfloat16)
    model, _, about = load("stored-bf16")
    assert "bf16: the weights are stored in bfloat16" in about
    assert model.inner.dtype == torch.bfloat16
    assert load("stored-bf16", dtype="fp32")[0].inner.dtype == torch.float32
    with pytest.raises(ValueError, match="choose bf16, fp32 or auto"):
        load("stored-bf16", dtype="fp16")
    settings = node("DenoiserSettings", model=model, compute_dtype="fp32")[0]
    latent = {"samples": torch.zeros(1, *TINY["cogvideox-5b"].shape)}
    full = load("stored-bf16", dtype="fp32")
    a, b = (drawn("cogvideox-5b", m, full[1], latent)[1] for m in (settings, full[0]))
    assert error(a, b) < 1e-5
    facts = host.models.facts_of(settings)
    assert facts.compute == torch.float32 and torch.float16 not in facts.family


def test_settings_know_what_a_network_was_trained_in(folder):
    """fp32 files of a network trained in bf16 are not run in fp16."""
    folder("cogvideox-5b"), folder("sd")
    with pytest.raises(ValueError, match="trained in bf16"):
        node("DenoiserSettings", model=load("cogvideox-5b")[0], compute_dtype="fp16")
    assert node("DenoiserSettings", model=load("sd")[0], compute_dtype="fp16")


def test_overflow_is_named(folder, models):
    from safetensors.torch import load_file, save_file

    path = save("sd", models / "diffusers" / "too-large")
    file = path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.weight"] = weights["conv_out.weight"] * 1e6
    save_file(weights, file, {"format": "pt"})
    model, schedule, _ = load("too-large", dtype="fp16")
    with pytest.raises(FloatingPointError, match=r"fp16: float16 ends at 65504 .* bf16"):
        drawn("sd", model, schedule, {"samples": torch.zeros(1, *TINY["sd"].shape)})


def test_the_nodes_that_look_at_a_model_work_on_it(folder):
    folder("sd")
    model = load("sd")[0]
    latent = {"samples": torch.randn(1, *TINY["sd"].shape)}
    positive = condition("sd", 1)[1]
    report = node("InspectDenoiser", model=model)[0]
    assert "eps" in report and "no misfit found" in report
    found = json.loads(
        node("CheckPredictionType", model=model, latent=latent, positive=positive)[1]
    )
    assert found["claimed"] == "eps"
    audit = node("PrecisionAudit", model=model, latent=latent, positive=positive, levels=2, steps=2)
    assert "fp16" in audit[1] and "bf16" in audit[1]


# ---------------------------------------------------------------------------------- folders


def test_the_choices_are_the_folders(folder, models):
    folder("sd")
    deep = models / "diffusers" / "models--a--b" / "snapshots" / "1"
    save("ddpm", deep)
    (models / "diffusers" / "notes").mkdir(exist_ok=True)
    names = diffusers_folders.names()
    assert {"sd", "models--a--b/snapshots/1"} <= set(names) and "notes" not in names
    assert load("models--a--b/snapshots/1")[1].path.name == "VP"


def test_folders_outside_are_refused(folder, models, tmp_path):
    folder("sd")
    outside = save("ddpm", tmp_path / "outside")
    link = models / "diffusers" / "link"
    link.symlink_to(outside)
    try:
        for name in ("link", "../diffusers/sd", "../../outside"):
            with pytest.raises(ValueError, match=r"folder = .* leads outside"):
                load(name)
            assert "leads outside" in BY_ID["LoadDiffusersDenoiser"].validate_inputs(folder=name)
    finally:
        link.unlink()
    for name in ("", "\0", "nothing"):
        with pytest.raises(ValueError, match="folder ="):
            load(name)
    with pytest.raises(ValueError, match=r"--set NODE\.folder=PATH"):  # a workflow may not say it
        load(str(outside))
    typed = Context(
        models,
        models,
        models,
        "cpu",
        None,
        {},
        None,
        models=models,
        typed=frozenset([str(outside)]),
    )
    with use(typed):  # but a person may
        assert load(str(outside))[1].path.name == "VP"


def test_one_of_two_networks(folder, models):
    import shutil

    path = models / "diffusers" / "two"
    shutil.copytree(folder("wan"), path)
    shutil.copytree(path / "transformer", path / "transformer_2")
    with pytest.raises(ValueError, match=r"folder = 'two': .* 2 networks .*name one of them"):
        load("two")
    assert "transformer_2" in load("two", network="transformer_2")[2]
    with pytest.raises(ValueError, match="network = 'x'"):
        load("two", network="x")


def test_a_single_file_with_the_folder_s_configs(folder, models):
    import shutil

    path = folder("sd")
    (models / "diffusion_models").mkdir(exist_ok=True)
    shutil.copy(
        path / "unet" / "diffusion_pytorch_model.safetensors",
        models / "diffusion_models" / "mine.safetensors",
    )
    assert diffusers_folders.file_names() == ["mine.safetensors"]
    model = load("sd", weights="mine.safetensors")[0]
    own = load("sd")[0]
    for a, b in zip(model.inner.parameters(), own.inner.parameters(), strict=True):
        assert torch.equal(a, b)
    said = BY_ID["LoadDiffusersDenoiser"].validate_inputs(folder="sd", weights="other.safetensors")
    assert "weights = 'other.safetensors'" in said
    with pytest.raises(ValueError, match=r"weights = 'other.safetensors'.*copy it there"):
        load("sd", weights="other.safetensors")
    with pytest.raises(ValueError, match=r"weights = '../diffusers"):
        load("sd", weights="../diffusers/sd/unet/diffusion_pytorch_model.safetensors")


def test_without_diffusers_the_node_says_what_to_install(folder):
    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "from sampling_kit.nodes.denoiser.load_diffusers import LoadDiffusersDenoiser as node\n"
        f"node.execute(folder={str(folder('sd'))!r})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode and "pip install" in ended.stderr.splitlines()[-1]


# ---------------------------------------------------------------------------------- whole graphs


def test_a_graph_runs_from_the_command_line(folder, models, tmp_path):
    folder("ddpm-classes")
    prompt = {
        "1": ("LoadDiffusersDenoiser", dict(folder="ddpm-classes")),
        "2": ("DiffusersClass", dict(classes="0, 1, 2")),
        "3": ("EmptyDiffusersLatent", dict(model=["1", 0], width=12, height=8, batch_size=3)),
        "4": ("Steps", {"noise_schedule": ["1", 1], "steps": 2, "spacing": "trailing", "denoise": 1.0, "final": "zero"}),
        "5": ("DDIM", {}),
        "6": ("Guider", dict(model=["1", 0], positive=["2", 0])),
        "7": ("PerImageNoise", dict(seed=1)),
        "8": ("SamplerCustomAdvanced", dict(noise=["7", 0], guider=["6", 0], sampler=["5", 0], sigmas=["4", 0], latent_image=["3", 0])),
        "9": ("LatentToImage", dict(latent=["8", 0])),
        "10": ("SaveImage", dict(images=["9", 0], filename_prefix="classes")),
        "11": ("PreviewAny", dict(source=["1", 2])),
    }  # fmt: skip
    named = {
        key: {"class_type": ("SamplingKit" + name) if name in BY_ID else name, "inputs": inputs}
        for key, (name, inputs) in prompt.items()
    }
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(named))
    places = ["--models", str(models)]
    run = ["run", str(file), *places, "--output", str(tmp_path), "--device", "cpu", "--json"]
    result = CliRunner().invoke(main, run)
    assert result.exit_code == 0, result.output
    (ended,) = json.loads(result.stdout)["runs"]
    assert len([f for f in ended["files"] if Path(f).name.startswith("classes")]) == 3
    assert "UNet2DModel" in ended["outputs"]["11"]["text"][0]
    file.write_text(json.dumps(named | {"1": named["1"] | {"inputs": {"folder": "nothing"}}}))
    result = CliRunner().invoke(main, ["check", str(file), *places])
    assert result.exit_code == 2 and "there is no such folder" in result.output


def test_flow_latents_are_on_the_flow_path(folder):
    folder("flux")
    _, schedule, about = load("flux")
    assert schedule.path == Flow() and "the shift depends on the size" in about
