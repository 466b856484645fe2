// The files that the examples with ComfyUI's loaders name, and where their makers or Comfy-Org offer them. The page shows a download for each that is missing.
const hub = "https://huggingface.co";
const file = (directory, repository, place) => ({ url: `${hub}/${repository}/resolve/main/${place}`, directory });

export default {
  "v1-5-pruned-emaonly-fp16.safetensors": file("checkpoints", "Comfy-Org/stable-diffusion-v1-5-archive", "v1-5-pruned-emaonly-fp16.safetensors"),
  "sd_xl_base_1.0.safetensors": file("checkpoints", "stabilityai/stable-diffusion-xl-base-1.0", "sd_xl_base_1.0.safetensors"),
  "sdxl_lightning_4step.safetensors": file("checkpoints", "ByteDance/SDXL-Lightning", "sdxl_lightning_4step.safetensors"),
  "control_v11p_sd15_canny_fp16.safetensors": file("controlnet", "comfyanonymous/ControlNet-v1-1_fp16_safetensors", "control_v11p_sd15_canny_fp16.safetensors"),
  "flux1-dev.safetensors": file("diffusion_models", "Comfy-Org/flux1-dev", "flux1-dev.safetensors"),
  "clip_l.safetensors": file("text_encoders", "comfyanonymous/flux_text_encoders", "clip_l.safetensors"),
  "t5xxl_fp16.safetensors": file("text_encoders", "comfyanonymous/flux_text_encoders", "t5xxl_fp16.safetensors"),
  "ae.safetensors": file("vae", "Comfy-Org/Lumina_Image_2.0_Repackaged", "split_files/vae/ae.safetensors"),
  "flux2_dev_fp8mixed.safetensors": file("diffusion_models", "Comfy-Org/flux2-dev", "split_files/diffusion_models/flux2_dev_fp8mixed.safetensors"),
  "mistral_3_small_flux2_bf16.safetensors": file("text_encoders", "Comfy-Org/flux2-dev", "split_files/text_encoders/mistral_3_small_flux2_bf16.safetensors"),
  "full_encoder_small_decoder.safetensors": file("vae", "black-forest-labs/FLUX.2-small-decoder", "full_encoder_small_decoder.safetensors"),
  "qwen_image_fp8_e4m3fn.safetensors": file("diffusion_models", "Comfy-Org/Qwen-Image_ComfyUI", "split_files/diffusion_models/qwen_image_fp8_e4m3fn.safetensors"),
  "qwen_2.5_vl_7b_fp8_scaled.safetensors": file("text_encoders", "Comfy-Org/Qwen-Image_ComfyUI", "split_files/text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors"),
  "qwen_image_vae.safetensors": file("vae", "Comfy-Org/Qwen-Image_ComfyUI", "split_files/vae/qwen_image_vae.safetensors"),
  "z_image_turbo_bf16.safetensors": file("diffusion_models", "Comfy-Org/z_image_turbo", "split_files/diffusion_models/z_image_turbo_bf16.safetensors"),
  "qwen_3_4b.safetensors": file("text_encoders", "Comfy-Org/z_image_turbo", "split_files/text_encoders/qwen_3_4b.safetensors"),
  "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": file("diffusion_models", "Comfy-Org/Wan_2.2_ComfyUI_Repackaged", "split_files/diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"),
  "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors": file("diffusion_models", "Comfy-Org/Wan_2.2_ComfyUI_Repackaged", "split_files/diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"),
  "umt5_xxl_fp8_e4m3fn_scaled.safetensors": file("text_encoders", "Comfy-Org/Wan_2.1_ComfyUI_repackaged", "split_files/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors"),
  "wan_2.1_vae.safetensors": file("vae", "Comfy-Org/Wan_2.2_ComfyUI_Repackaged", "split_files/vae/wan_2.1_vae.safetensors"),
};
