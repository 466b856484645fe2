"""Text and VAE of diffusers folders in workflows: the CogVideoX example, and the core's VAE nodes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

diffusers = pytest.importorskip("diffusers", reason="needs the extra 'diffusers'")
pytest.importorskip("transformers", reason="needs the extra 'diffusers'")


from text_vae import TINY, overflowing, without_gradients  # noqa: E402

from sampling_kit.headless import graph  # noqa: E402
from sampling_kit.headless.cli import main  # noqa: E402
from sampling_kit.headless.registry import registry  # noqa: E402
from sampling_kit.nodes.denoiser.folders import SHIPPED  # noqa: E402
from sampling_kit.nodes.noise.wire import NoiseWire  # noqa: E402

__all__ = ["without_gradients"]  # a fixture


# -------------------------------------------------------------------------------------- in a workflow


def test_pictures_through_the_core_s_vae_nodes(tmp_path):
    """Encode, decode (plain and tiled) and save frames, as API JSON."""
    (tmp_path / "in").mkdir()
    Image.effect_noise((64, 48), 60).convert("RGB").save(tmp_path / "in" / "x.png")
    tiles = dict(tile_size=512, overlap=64, temporal_size=64, temporal_overlap=8)
    prompt = {
        "vae": ("SamplingKitDiffusersVAE", dict(folder=TINY, dtype="fp32")),
        "load": ("LoadImage", dict(image="x.png")),
        "encode": ("VAEEncode", dict(pixels=["load", 0], vae=["vae", 0])),
        "again": ("VAEEncodeTiled", dict(pixels=["load", 0], vae=["vae", 0], **tiles)),
        "decode": ("VAEDecode", dict(samples=["encode", 0], vae=["vae", 0])),
        "tiled": ("VAEDecodeTiled", dict(samples=["again", 0], vae=["vae", 0], **tiles)),
        "save": ("SaveImage", dict(images=["decode", 0], filename_prefix="a")),
        "same": ("SaveImage", dict(images=["tiled", 0], filename_prefix="b")),
        "film": ("SaveAnimatedWEBP", dict(images=["decode", 0], filename_prefix="c", fps=8.0, lossless=True, quality=80, method="default")),
    }  # fmt: skip
    file = tmp_path / "x.json"
    file.write_text(json.dumps({k: dict(class_type=c, inputs=i) for k, (c, i) in prompt.items()}))
    nodes, workflow = registry(), graph.load(file)
    context = graph.Context(tmp_path / "out", tmp_path / "in", tmp_path / "temp", "cpu", None, workflow.prompt, None)  # fmt: skip
    with graph.use(context):
        assert graph.check(workflow, nodes) == []
    outputs = graph.execute(workflow, nodes, context)
    a, b = (Path(tmp_path / "out" / outputs[n]["images"][0]["filename"]) for n in ("save", "same"))
    with Image.open(a) as one, Image.open(b) as two:
        assert one.size == (64, 48)
        assert one.tobytes() == two.tobytes()


EXAMPLE = Path(__file__).parent.parent / "example_workflows/api/cogvideox.json"


def example(tmp_path, *settings):
    """The CogVideoX example by the command line: (exit code, all that it printed)."""
    arguments = ["run", str(EXAMPLE), "--device", "cpu", "--output", str(tmp_path / "out")]
    options = (part for text in settings for part in ("--set", text))
    done = CliRunner().invoke(main, [*arguments, *options])
    return done.exit_code, done.output


def test_the_cogvideox_example_makes_a_video_in_bfloat16(tmp_path):
    code, printed = example(tmp_path)
    assert code == 0, printed
    assert "prediction: v" in printed
    assert "dtype: bf16" in printed
    files = {Path(line).suffix: Path(line) for line in printed.splitlines() if line.startswith("/")}
    frames = film(printed)
    assert frames.shape == (9, 64, 96, 3)
    with Image.open(files[".png"]) as sheet:
        assert sheet.size == (3 * 192 + 4 * 6, 3 * 128 + 4 * 6)
    assert all(frame.std() > 20 for frame in frames)
    assert np.abs(frames[0] - frames[-1]).mean() > 5


def film(printed):
    """The frames [F, H, W, 3], 0 to 255, of the animation that the example saved."""
    (path,) = (line for line in printed.splitlines() if line.endswith(".webp"))
    frames = []
    with Image.open(path) as file:
        for i in range(file.n_frames):
            file.seek(i)
            frames.append(np.asarray(file.convert("RGB")).astype(int))
    return np.stack(frames)


def test_the_example_draws_what_diffusers_own_pipeline_draws(tmp_path):
    """In float32, from the same noise: prompt, CFG, DDIM from zero SNR, latent scale and VAE together."""
    fp32 = ("Load Diffusers Denoiser.dtype=fp32", "Diffusers VAE.dtype=fp32")
    code, printed = example(tmp_path, *fp32, "Steps.steps=10")
    assert code == 0, printed
    pipe = diffusers.CogVideoXPipeline.from_pretrained(SHIPPED / TINY)
    pipe.set_progress_bar_config(disable=True)
    noise = NoiseWire(7).generate_noise({"samples": torch.zeros(1, 4, 3, 16, 24)})
    prompt = "a paper boat drifts down a sunlit stream"
    with torch.no_grad():
        text = pipe.encode_prompt(prompt, "", True, max_sequence_length=16)  # T5 stays in bfloat16
    frames = pipe(
        prompt_embeds=text[0].float(), negative_prompt_embeds=text[1].float(), height=64, width=96, num_frames=9,
        num_inference_steps=10, guidance_scale=3.0, latents=noise.transpose(1, 2), max_sequence_length=16, output_type="np",
    ).frames[0]  # fmt: skip
    # one level is rounding, the rest ComfyUI's finite σ for pure noise
    assert np.abs(film(printed) - np.floor(frames * 255)).max() <= 2


def test_float16_is_refused_or_caught_in_the_example(tmp_path):
    code, printed = example(tmp_path, "Load Diffusers Denoiser.dtype=fp16")
    assert code == 1
    assert (
        "dtype = 'fp16': the weights are stored in bfloat16 and may overflow in float16" in printed
    )
    large = f"Diffusers VAE.folder={overflowing(tmp_path)}"
    code, printed = example(tmp_path, large, "Diffusers VAE.dtype=fp16", "Steps.steps=2")
    assert code == 1
    assert "VAE Decode" in printed
    assert "float16 ends at 65504 and overflowed: use bfloat16 or float32" in printed
    assert not list((tmp_path / "out").rglob("*.*"))


def test_frames_are_saved_as_one_animation(tmp_path):
    from sampling_kit.headless.save import save_animation

    frames = torch.rand(5, 16, 24, 3)
    how = dict(lossless=True, quality=80, method=0)
    made = save_animation(frames, "film", tmp_path, {"prompt": {"1": {}}, "workflow": {}}, 8.0, how)
    with Image.open(tmp_path / made["filename"]) as file:
        assert file.n_frames == 5
        file.seek(4)
        assert torch.equal(
            torch.tensor(list(file.convert("RGB").tobytes())).reshape(16, 24, 3),
            (frames[4] * 255).long(),
        )
        assert file.info["duration"] == 125
        assert file.getexif()[0x0110] == 'prompt:{"1": {}}'
        assert file.getexif()[0x010F] == "workflow:{}"
    again = save_animation(frames, "film", tmp_path, {}, 8.0, how)
    assert again["filename"] == "film_00002_.webp"
