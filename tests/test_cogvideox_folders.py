"""Folders laid out as THUDM's (2B, 5B, 5B-I2V, 1.5-5B, 1.5-5B-I2V) at small random weights: prompt to frames, by the
example's workflow, against the pipeline of the folder itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from product import each

diffusers = pytest.importorskip("diffusers", reason="needs the extra 'diffusers'")
pytest.importorskip("transformers", reason="needs the extra 'diffusers'")

from diffusers_folders import build, cast, t5  # noqa: E402

from sampling_kit.api import run  # noqa: E402
from sampling_kit.doors import KitScheduler  # noqa: E402
from sampling_kit.nodes.noise.wire import NoiseWire  # noqa: E402
from sampling_kit.schedulers.denoiser.diffusers import lead  # noqa: E402
from sampling_kit.schedulers.solver import DDIM as DDIMSolver  # noqa: E402

EXAMPLE = Path(__file__).parent.parent / "example_workflows/api/cogvideox.json"
PROMPT, SEED, FRAMES, STEPS, SIZE = "a paper boat", 7, 9, 3, dict(width=48, height=32)
#: What the published configs have in common, and what each has of its own; sizes are small.
COMMON = dict(
    num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=16,
    num_layers=1, sample_width=6, sample_height=4, sample_frames=9, patch_size=2, temporal_compression_ratio=4,
    max_text_seq_length=16,
)  # fmt: skip
ROTARY = dict(use_rotary_positional_embeddings=True)
PATCHES = ROTARY | dict(patch_size_t=2, patch_bias=False)
PICTURE = dict(in_channels=8)
DDIM, DPM = "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"
TEXT, IMAGE = "CogVideoXPipeline", "CogVideoXImageToVideoPipeline"
#: folder → (pipeline, transformer, scheduler, SNR shift, VAE, stored dtype)
FOLDERS = {
    "2b": (TEXT, {}, DDIM, 3.0, dict(scaling_factor=1.15258426), torch.float16),
    "5b": (TEXT, ROTARY, DPM, 1.0, dict(scaling_factor=0.7), torch.bfloat16),
    "5b-I2V": (IMAGE, ROTARY | PICTURE | dict(use_learned_positional_embeddings=True), DPM, 1.0, dict(scaling_factor=0.7), torch.bfloat16),
    "1.5-5b": (TEXT, PATCHES, DPM, 1.0, dict(scaling_factor=0.7), torch.bfloat16),
    "1.5-5b-I2V": (IMAGE, PATCHES | PICTURE | dict(ofs_embed_dim=8), DPM, 1.0, dict(scaling_factor=0.7, invert_scale_latents=True), torch.bfloat16),
}  # fmt: skip
VAE = dict(
    down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4, block_out_channels=(8,) * 4,
    latent_channels=4, layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=4,
)  # fmt: skip
CLASSES = {
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLCogVideoX"],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A models folder; ``made(name)`` writes one of FOLDERS into it, once."""
    base = tmp_path_factory.mktemp("models")

    def made(name):
        path = base / "diffusers" / name
        if not path.exists():
            write(name, path)
        return path

    made.base = base
    return made


def write(name, path):
    pipeline, config, scheduler, shift, vae, dtype = FOLDERS[name]
    network = build("CogVideoXTransformer3DModel", COMMON | config)
    cast(network, dtype).save_pretrained(path / "transformer", max_shard_size="20KB")
    cast(build("AutoencoderKLCogVideoX", VAE | vae), dtype).save_pretrained(path / "vae")
    t5(path)
    # as published: v prediction, zero terminal SNR, trailing steps
    options = dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")  # fmt: skip
    getattr(diffusers, scheduler)(snr_shift_scale=shift, **options).save_pretrained(path / "scheduler")  # fmt: skip
    index = {"_class_name": pipeline, "scheduler": ["diffusers", scheduler], **CLASSES}
    (path / "model_index.json").write_text(json.dumps(index))
    assert len(list((path / "transformer").glob("*.safetensors"))) > 1


def picture(folder):
    """A picture in the input folder, for what begins with one."""
    folder.mkdir(exist_ok=True)
    pixels = torch.rand(32, 48, 3, generator=torch.Generator().manual_seed(5))
    image = Image.fromarray((pixels.numpy() * 255).round().astype(np.uint8))
    image.save(folder / "x.png")
    return image


def workflow(name):
    """The example; where the model begins with a picture, with the two nodes that a person adds."""
    graph = json.loads(EXAMPLE.read_text())
    if FOLDERS[name][0] == IMAGE:
        graph["20"] = {"class_type": "LoadImage", "inputs": {"image": "x.png"}}
        beside = dict(positive=["3", 0], negative=["4", 0], vae=["5", 0], pixels=["20", 0])
        graph["21"] = {"class_type": "InstructPixToPixConditioning", "inputs": beside}
        graph["8"]["inputs"] |= dict(positive=["21", 0], negative=["21", 1])
    return graph


def ours(name, dtype, models, tmp_path):
    """The frames [F, H, W, 3] that the workflow saves: nothing is set but folder, dtype, prompt and sizes."""
    models(name)
    folder = {f"{node}.folder": name for node in ("1", "3", "4", "5")}
    sizes = {f"6.{key}": value for key, value in SIZE.items()}
    (made,) = run(
        workflow(name),
        settings=folder | sizes | {"1.dtype": dtype, "5.dtype": dtype, "2.steps": STEPS, "3.prompt": PROMPT},
        models=models.base, output=tmp_path, input=tmp_path / "in", device="cpu",
    )  # fmt: skip
    (film,) = (file for file in made.files if file.suffix == ".webp")
    with Image.open(film) as file:
        frames = [np.asarray((file.seek(i), file.convert("RGB"))[1]) for i in range(file.n_frames)]
    return np.stack(frames).astype(int)


def theirs(name, dtype, models, image, monkeypatch, scheduler=diffusers.CogVideoXDDIMScheduler):
    """The frames of the folder's pipeline, from the same noise; on the grid of DDIM, which DPM's leaves."""
    kind = FOLDERS[name][0]
    pipe = getattr(diffusers, kind).from_pretrained(models(name), torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    shape = (1, 4, (FRAMES - 1) // 4 + 1, SIZE["height"] // 8, SIZE["width"] // 8)
    noise = NoiseWire(SEED).generate_noise({"samples": torch.zeros(shape)})
    first = shape[2] % 2 if pipe.transformer.config.patch_size_t else 0
    noise = lead.start(noise, torch.zeros(shape), first, SEED)[0]
    args = dict(image=image) if kind == IMAGE else {}
    posterior = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(posterior, "sample", lambda self, generator=None: self.mode())
    frames = pipe(
        prompt=PROMPT, negative_prompt="", num_inference_steps=STEPS, guidance_scale=3.0, num_frames=FRAMES,
        latents=noise.transpose(1, 2).to(dtype), max_sequence_length=16, output_type="np", **args, **SIZE,
    ).frames[0]  # fmt: skip
    return np.floor(frames * 255).astype(int)


class OurDDIM:
    """The same DDIM steps with the pack's levels."""

    @staticmethod
    def from_config(config):
        return KitScheduler.from_config(config, solver=DDIMSolver())


@pytest.mark.some(1)
@each(name=FOLDERS, dtype=["fp32", "bf16"])
def test_prompt_to_frames_is_the_pipeline_s(name, dtype, models, tmp_path, monkeypatch):
    """In float32 to rounding. In bfloat16 the pipeline keeps its latents in bfloat16, ours in float32: ours is nearer to
    the frames in float32 than the pipeline's."""
    image = picture(tmp_path / "in")
    made, exact = ours(name, dtype, models, tmp_path), theirs(name, torch.float32, models, image, monkeypatch)  # fmt: skip
    assert made.shape == exact.shape == (FRAMES, SIZE["height"], SIZE["width"], 3)
    assert made.std() > 5
    difference = np.abs(made - exact)
    if (
        dtype == "fp32"
    ):  # what is more than rounding is ComfyUI's finite σ for pure noise, which our scheduler has too
        same = theirs(name, torch.float32, models, image, monkeypatch, OurDDIM)
        assert np.abs(made - same).max() <= 1 and difference.max() <= 4
        return
    rough = theirs(name, torch.bfloat16, models, image, monkeypatch)
    assert difference.mean() <= 1.2 * np.abs(rough - exact).mean() + 0.5


@pytest.mark.full
def test_decoding_on_tiles_and_picture_by_picture(models, tmp_path):
    """Two videos in one batch are decoded one after the other; on tiles the frames change at seams alone."""
    from sampling_kit.headless.context import Context, use
    from sampling_kit.nodes.denoiser.vae import FolderVae
    from sampling_kit.schedulers.denoiser import diffusers as kit

    vae = FolderVae(kit.load_vae(kit.read_folder(models("5b")), torch.float32))
    z = torch.randn(2, 4, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    told, batches = [], []
    decoder = vae.first_stage_model.module.decoder
    decoder.register_forward_hook(lambda module, args, out: batches.append(tuple(args[0].shape)))
    here = Context(tmp_path, tmp_path, tmp_path, "cpu", lambda *now: told.append(now), {}, None, node="1")  # fmt: skip
    with use(here):
        whole = vae.decode(z)
        assert [shape[0] for shape in batches] == [1] * len(batches)
        assert [now[1:] for now in told][-1] == (6, 6) and len(told) == len(batches)
        batches.clear()
        tiled = vae.decode_tiled(z, 8, 8, 2)
    assert whole.shape == tiled.shape == (2, 9, 128, 192, 3)
    assert max(shape[-1] for shape in batches) <= 8
    assert float((whole - tiled).abs().mean()) < 0.05
