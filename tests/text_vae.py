"""What the tests of text encoders and VAEs share."""

import shutil

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="needs the extra 'diffusers'")
pytest.importorskip("transformers", reason="needs the extra 'diffusers'")


from sampling_kit.nodes.denoiser.folders import SHIPPED  # noqa: E402

TINY = "tiny-cogvideox"


@pytest.fixture(autouse=True)
def without_gradients():
    """As nodes and pipelines run: attention with gradients takes another kernel and rounds otherwise."""
    with torch.no_grad():
        yield


def overflowing(tmp_path):
    """The shipped VAE with its last convolution scaled up past float16."""
    from safetensors.torch import load_file, save_file

    path = tmp_path / "large"
    shutil.copytree(SHIPPED / TINY, path)
    file = path / "vae/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    for name in ("decoder.conv_out.conv.weight", "encoder.conv_out.conv.weight"):
        weights[name] = weights[name] * 1e6
    save_file(weights, file, metadata={"format": "pt"})
    return path
