// What the note in each example says. Two or three sentences: what it shows, what to try, what it needs.
const no_checkpoint =
  "*No checkpoint is needed: the **Embedded Denoiser** computes its predictions from little drawn postcards.*";

const weights =
  "*No checkpoint is needed: the small trained network comes with the pack.*";

export default {
  "cogvideox": `# Video from a diffusers folder, in bfloat16
From prompt to frames with nothing but a folder as diffusers saves it: *Diffusers Text Encode*, *Load Diffusers Denoiser*, *Diffusers VAE*. The folder **tiny-cogvideox** ships with the pack: every part of CogVideoX-5B, but tiny and **random, so the video is noise**.

**For real video:** put CogVideoX-5B below *models/diffusers* and choose it in all four **folder** widgets; 720 × 480, 49 **frames**, 50 **steps**, CFG **scale** 6, Image Sheet **scale** 1. Keep **bf16**: fp16 overflows, and the nodes say so.

*Needs the Python packages diffusers and transformers.*`,

  "start-here": `# 1 Start here: your first sample
**Sample (Sampling Kit)** holds schedule, guidance and solver; **auto** chooses them from the number of steps by measurement, and the node says what it chose. Rows: 6 steps with auto, 6 steps of Euler on evenly spread levels, from the same noise.

**Try:** 40 **steps** in both: the first row hardly changes, the second becomes it; 4 **steps**; another **solver** or **spacing** from the lists; with a checkpoint, put its MODEL, conditions and latent in place of these.

${weights}`,

  "a1111-settings": `# Run what somebody shared
The text that A1111, Forge and picture sites write under a picture goes into **Settings from A1111 Text**; its outputs are the settings of *Sample*. What has no counterpart is said on the node, with the node that has it: here *Clip skip*.

**Try:** copy the text under any picture into it. Without the node: the menu of *Sample* has *Paste A1111 settings*, and a PNG dropped on *Sample* sets its widgets. Without ComfyUI: \`sampling-kit run a1111-settings --a1111 picture.png\`.

${weights}`,

  "grid": `# Compare settings: any two knobs as a sheet
**Grid** runs the graph before it for each value of a knob, or of two, and lays the pictures out. A knob is NODE.INPUT: here *Sample.steps* and *Sample.solver*. It works behind KSampler and any other node too.

**Try:** more values, and queue again: only the new pictures are made, the others are kept as files below *output/SamplingKit/grid*. Prompts as a knob: one on each line. Stop it half way and queue again.

${weights}`,

  "measured-noise": `# Clean a noisy picture: start at its own noise
A picture with white noise is the state of a run at the level of that noise. **Start at Measured Noise** reads the level from the picture (here 0.30, and its report says with which error) and gives the levels below it; *DisableNoise* adds nothing.

**Try:** 0.6 in *How much noise*: the level follows. **factor** 0.5: half of the noise stays; 2: detail goes with it. Another **seed** in *Postcards*.

${weights}`,

  "edit-exactly": `# Edit a picture: up to noise and back, exactly
Rows: four meadows; the same after a run up to noise and back (*Invertible*, *Turn Back*); what the trip lost, × 1000: nothing; the way back with another condition.

**Try:** **denoise** 0.6 in *Steps*: less is changed. **method** bdia in *Invertible*. Plain inversion (*invert*) comes back only about.

${no_checkpoint}`,

  "langevin-inpainting": `# Fill a hole so that it fits
Rows: six pictures; what the mask keeps; plain masking, which fills the hole without regard to the rest; *Langevin Inpainting* around the same solver, from the same noise. No condition says what the pictures show: the new part can know it from the kept part only.

**Try:** **moves** 1 or 10: each costs 15 evaluations more; **value** 0.7 in *Hole*: a soft mask keeps the picture's outline; with a checkpoint, its VAE Encode in place of *Image to Latent*.

${weights}`,

  "ddim-eta": `# DDIM, with η as a knob
Ten pictures, one of each class, in 20 steps. Every sampler is four parts, and here each has its own colour: **schedule, denoiser, guidance, solver**.

**Try:** set **eta** of *DDIM Solver* to 1: DDIM becomes DDPM. The start noise stays the same, because the seed does.

${no_checkpoint}`,

  "ddpm-1000-steps": `# DDPM, all 1000 steps
The original ancestral sampler: it visits every timestep of the training table and adds fresh noise after each. Small pictures, because it asks the denoiser 1000 times.

**Try:** **variance** = large in *DDPM Solver*, or fewer **steps** in *Steps* (*ddpm-respaced* does it with 50).

${no_checkpoint}`,

  "ddpm-respaced": `# DDPM in 50 steps
The same solver on 50 of the 1000 timesteps: a solver does not care which noise levels it is given. **clip_x0** keeps every prediction within ±1, as pixel models expect.

**Try:** another **spacing** in *Steps*, or 10 **steps**, and watch what gets lost.

${no_checkpoint}`,

  "euler-edm": `# Euler and Heun on EDM noise levels
Upper row Euler, lower row Heun, from the same noise on the same 18 Karras levels. Heun asks the denoiser twice a step and bends less off the path.

**Try:** 6 **steps** and compare the rows; then **churn** = 20 in both solvers, which adds noise back as it goes.

${no_checkpoint}`,

  "invert": `# Inversion, and its round-trip error
Top: new postcards. *Flip* turns the steps round, and Heun runs up from each picture to the noise (second row, ÷100) that it would have come from; then down again (third row). *Difference* measures what the trip lost (last row, ×100): RMSE 0.0005 to 0.001 with 20 steps. The noise shows the picture's outline, since the model is only nearly right about it.

**Try:** *DDIM* in place of *Heun*: an RMSE of about 0.02. **steps** = 40 with Heun: 0.0001. A solver that draws noise (churn, η) cannot run upwards and says so.

${no_checkpoint}`,

  "rectified-flow": `# Rectified flow, with CFG
The path is a straight line, x = (1−t)·x0 + t·ε, and **shift** moves the steps towards noise. *CFG Guidance* combines two predictions, with the class and without, into one.

**Try:** CFG **scale** 1 (guidance off) or 4 (too much: the colours burn); **eta** = 1 turns the ODE into an SDE.

${no_checkpoint}`,

  "guidance-scale": `# CFG, four scales
Rows from the top: **0** (the condition is not heard), **1** (the model's own answer; the second network call is saved), **2** and **3** (too much: contours break up and colours burn). Same noise everywhere.

*docs/course/08-guidance.md* shows which density scale 3 samples, and which it does not.

**Try:** *APG* or *CFG-Zero** in place of *CFG*; *Rescale* after it.

${no_checkpoint}`,

  "guidance-interval": `# CFG where it helps, and the calls it saves
Scale 4 in all rows. Top: at every step. Middle: only for σ from 0.41 to 0.81, which keeps the picture clean and costs 28 network calls instead of 40. Bottom: only at low noise, where it does the damage. *Guidance Probe* and *Guidance Report* show the middle row step by step; connect *plot* to a Preview Image.

**Try:** move **sigma_low** and **sigma_high**; put the probe on another Guider.

${no_checkpoint}`,

  "autoguidance": `# Autoguidance
Rows from the top: a small network that was trained for less time, the network itself, and the network guided away from its weaker twin with **scale** 1.5 and 2: shapes firm up where the two differ, and the class is not touched. No unconditional prediction is used.

**Try:** **scale** 3 (too much); kind *patches* with **size** 32 and **locality** 0.35 as the weak model.

${weights}`,

  "classifier-guidance": `# Classifier guidance
Top: a mixture of Gaussians without a condition. Second row: the same with the exact class probability of that mixture as *classifier*, scale 1; third row: the mixture with the condition itself. **The two are equal**, as Bayes' rule says. Last row: that classifier guides another model, the patches, which gets no condition at all.

*docs/course/08-guidance.md* derives it and asks what scale 3 would be.

**Try:** **label** = 8 for five planets; **scale** 1 in *Classifier, ×3*.

${no_checkpoint}`,

  "composition": `# AND, and conditions with places
Rows from the top: snow; a moonlit night; snow **and** a moonlit night, 0.6 of each (moons over snowy woods); snow on the left and night on the right by masks.

**Try:** **weights** = -0.6 in *AND*: NOT. Another *Class Condition*.

${no_checkpoint}`,

  "inpainting": `# Inpainting with DDNM and ΠGDM
Rows from the top: new postcards, which the model has not seen; what is known of them; filled by **DDNM**, which puts the known pixels into every prediction; filled by **ΠGDM**, which also asks the model's gradient how the rest should follow, with DDNM after it so that the known pixels stay exact.

**Try:** *Mask* elsewhere; kind *gray* or *blur* in *Measurement*.

${no_checkpoint}`,

  "super-resolution": `# Super-resolution, four times
Rows from the top: new postcards; the 16 × 16 pixels that are known; **DDNM**, whose result averages to exactly those pixels; **ΠGDM** at scale 0.5, which takes about three times as long and draws cleaner shapes.

**Try:** **factor** 8; **noise** 0.1 in *Measurement*; DDNM after ΠGDM.

${no_checkpoint}`,

  "trace": `# Look into a run, and take another turn
*Trace* goes between a solver and its sampler and changes nothing. *Show Trace* has the film strip (predictions above states), six curves and every number as CSV and JSON. *Replay* goes on from step 8 as if nothing had happened, here with another class.

**Try:** *Trace* around a **KSamplerSelect**; **step** 2 in *Replay*; **local_error** = step doubling. Connect a VAE to *Show Trace* for latent models.

${no_checkpoint}`,

  "compare": `# Which solver, how many steps?
Three solvers with 6, 12 and 24 steps from the same noise, against a fine reference run: lower and further left is better. Every solver is run on every noise schedule that is connected; **runs** = pairs takes them one by one.

**Predict** which solver is ahead with 6 evaluations, and which with 24; then look: *docs/course/06-order.md* says why.

**Try:** your own model and guidance; any SAMPLER of ComfyUI; another **spacing** in one of the *Steps*.

${no_checkpoint}`,

  "named-levels": `# Levels by the model's name
*Steps* with the spacing **named** takes a published list, for any number of steps: here Align Your Steps of Stable Diffusion 1.5 in 5 steps (first row), beside trailing steps (second), from the same noise. A list was made for its model: what is best for this little network *Fit Steps* finds.

**Try:** **GITS SD 1.5** or **SDXL Lightning** as the name; your model's own name with your model, and the solver that docs/named-levels.md says.

${no_checkpoint}`,

  "noise": `# Noise, four ways
First row: **one seed, six variations**: a second seed mixed in on the sphere, strength 0.25. Second: six seeds with **pyramid** noise, whose long waves move the composition. Third and fourth: a stochastic solver on a **Brownian tree**, in 20 and in 80 steps: the noise follows one path, so more steps refine the picture and do not replace it.

**Try:** **strength** 0.1 or 0.6; **coloured** in place of pyramid; **kit** as the **generator** of *Brownian tree*, and the last rows part.

${weights}`,

  "reported-level": `# A level that is not quite true
First row: in the middle of the run the model is told of **less noise** than there is, so it leaves some, which later steps make into detail. Second: the plain run. Third: told of more, and smoother. Steps and guidance stay those of the true level.

**Try:** **amount** 0.1; a **curve** that acts late: 0:0, 0.5:0, 0.8:1, 1:0. *Keep State* and *Resume State* go inside *Reported Level*.

${weights}`,

  "split-run": `# One run in two parts
First row: 12 steps of a stochastic two-step solver in one go. Second: the same in two samplers, 5 steps and 7, with *Keep State* and *Resume State*: **equal to the last bit**. Third: split without the state, which loses the history and the place in the noise stream; last row: what that changes (×4).

**Try:** another **step** in *Split*; put *Save State* after the first part and *Load State* before the second, and go on tomorrow.

${no_checkpoint}`,

  "draft-pick-finish": `# Draft, pick, finish
Twelve seeds run half of their steps; *Draft Sheet* shows what each would become and numbers them. *Pick Drafts* goes on with **3 and 7**, and each ends as its full run: same history, same noise.

**Try:** empty **numbers**: only the drafts run. Look, write others, and queue again: ComfyUI keeps the drafts in its cache. Without a page: *sampling-kit run draft-pick-finish --pick 2,5-6*.

${weights}`,

  "two-experts": `# Two models, one run
Wan 2.2 has one model for high noise and one for low. *Split at Level* finds the step where they change (t = 0.875: here after 5 of 12 steps), *Keep State* and *Resume State* carry the solver's history across. First row: the small network alone. Second: the small one for high noise, the large one for low. Third: the large one alone.

**Try:** **level** as the boundary, with another value; Wan's two models in the place of the networks, and its image-to-video boundary, 0.9.

${no_checkpoint}`,

  "tutorial-1-noise": `# Tutorial 1: what noise is
First row: postcards x0. Second: the same with noise, **x = x0 + σ·ε** at σ = 1, about twice as strong as the contrast of a picture. Third: the denoiser's one answer D(x, σ), *nearly the mean of all pictures that x could have been* (this one takes the mean per neighbourhood): blurred where it cannot know. Last row: ten steps from the same noise, each a little less noisy, end in one picture. **A diffusion model is only the denoiser; the steps are the rest of this pack.**

**Predict, then try:** 3.0 in place of 1.0 in both *Steps* (the many steps begin there too). Answer: one answer loses contrast, the steps do not. *docs/course/01-noise.md*

${no_checkpoint} *Next: tutorial-2-ddpm.*`,

  "tutorial-2-ddpm": `# Tutorial 2: DDPM
From pure noise to a picture: ask the denoiser, go one step towards its answer, **add fresh noise**, repeat. Upper row: the answers x0; lower row: the state x; the numbers are κ = σ/α. First the colours are decided, then the shapes, then the edges: two clouds or a second sun come and go.

**Predict, then try:** 15 **steps**: too smooth or too noisy? Answer: fewer steps spread too little; **variance** = large in *DDPM Solver* errs the other way. *Show Trace* also draws curves. *docs/course/02-ddpm.md*

${no_checkpoint} *Next: tutorial-3-ddim.*`,

  "tutorial-3-ddim": `# Tutorial 3: DDIM, less noise on the way
Rows from the top: η = 0 in 8 and 30 steps, then η = 1, which is DDPM, in 8 and 30 steps. Same start noise. **Without fresh noise** few steps and many mostly agree; small choices that are made late can flip (a tree more, a cactus less). With it they are different pictures.

**Predict, then try:** η = 0.5; other **steps**. *Solver Table* on a solver and its SIGMAS shows what η does to every weight. *docs/course/03-ddim.md*

${no_checkpoint} *Next: tutorial-4-ode.*`,

  "tutorial-4-ode": `# Tutorial 4: one ODE, three coordinates
Without fresh noise a sampler solves an **ordinary differential equation**, and VP, VE and flow are the same one in other coordinates: y = x/α, dy/dκ = (y − D)/κ. DDIM on VP, Euler on VE and Rectified Flow take the same levels here and make **the same step**: three equal rows, and *Difference* finds only rounding. (The SIGMAS of VP and VE are the same numbers, κ.) Last row: flow with its usual levels, which *Plot Schedule* draws beside the others.

**Predict, then try:** *Heun* in place of *Euler*: does its row stay equal? Answer: no, it is another step. 60 levels in the last row: nearer, but a choice near a border may still flip. *docs/course/04-ode.md*

${no_checkpoint} *Next: tutorial-5-rectified-flow.*`,

  "tutorial-5-rectified-flow": `# Tutorial 5: rectified flow
The path as a straight line, x = (1−t)·x0 + t·ε, and the solver as Euler's method on the velocity. Rows: 1, 3, 8 and 24 steps. One step gives the mean of all pictures of a class; a trajectory that were straight would need no more. **shift** moves steps towards the noise: for this denoiser that helps, though trajectories bend most at the data end.

**Predict, then try:** **shift** = 1 with 8 steps: better or worse? *DPM-Solver++ (multistep)* in place of *Rectified Flow*. *docs/course/05-flow.md*

${no_checkpoint} *Next: compare, then tutorial-6-fitted-solver.*`,

  "tutorial-6-fitted-solver": `# Tutorial 6: a solver fitted to the model
A solver is a table of weights and levels. Rows: **DPM-Solver++ (2M) in 4 evaluations** over the network's whole range, σ 80 to 0.002; the same weights between the ends that the fit chose, 18.2 to 0.364; the fitted table, 4 evaluations; 40 steps, where the ODE ends. **Most of the gain is the ends**: over 48 seeds RMSE 0.123, 0.068, 0.063. *Its numbers* shows the table, *What it was fitted to* its card.

**Predict, then try:** **nfe** = 6 in *Load Fitted Solver*, and 6 **steps** in the first row; another **seed**. *fit-a-solver* makes such a table. *docs/course/07-fitted.md*

${weights}`,

  "solver-from-text": `# A solver that you type
*Solver from Text* takes a Butcher tableau, a table of weights or a fitted solver as JSON, and the workflow carries it. Rows: **Kutta's third-order method**, typed, in 13 evaluations; a **solver fitted to this network**, pasted (inside *The 3 runs*), in 5; DPM-Solver++ (2M) in 40. The report proves order and stability and measures the error on exact Gaussian data.

**Try:** "variable": "sigma"; a wrong digit in **b**, and read what the node says; *Solver to Text* writes another fit (**nfe** = 4) to paste.

${weights}`,

  "fit-a-solver": `# Fit a solver to a model
*Record Trajectories* follows 30 noises to where they end, *Fit Solver* looks for levels and weights that end there in 5 evaluations: without gradients, judged on 10 noises that it did not fit. Rows: **DPM-Solver++ (2M) in 5**, the fitted solver in 5, 2M in 40 evaluations, from new noise. Half a minute on one core; a second run reads what the first has found.

**Try:** another **nfe** (and **steps** in the first row); *CFG* in the *Guider*; *Solver Report* and *Save Fitted Solver* after the fit.

${weights}`,

  "log-likelihood": `# How likely is a picture?
First row: postcards that the model has not seen. Second row: its own samples. *Log-Likelihood* follows each up to the noise and counts how the density changes on the way: **bits per dimension**, fewer is likelier, with the error of the estimate and of the steps.

**Predict:** is the likeliest picture a typical one? *docs/course/09-likelihood.md*

**Try:** **probes** = 32: the error bar shrinks to a third; another **class** as *positive*: Bayes' rule makes a classifier of it.

${no_checkpoint}`,

  "distances": `# Do two batches come from one distribution?
60 samples in 30 steps (top) against 60 others in 30 steps, and against 60 in 4 steps (bottom). **p** says how often chance makes batches as different: large in the first case, and small where four steps have lost something.

**Try:** 8 steps; another solver; *Postcards* as **a**: how good is the model?

${no_checkpoint}`,

  "idempotent": `# Idempotent: f(f(z)) = f(z)
Rows: pictures with noise, z; f(z), one application of the exact denoiser of the postcards; five applications. The residual ‖f(x) − x‖ falls to 0: **applied to its own result f leaves it as it is**, which idempotent generative networks are trained to do in one step.

**Predict** where σ = 2 and σ = 10 end, then try (*Steps* and *Idempotence*). Answer: at pictures with 2; near the mean of the class with 10, which no picture is: idempotent is not enough. *docs/course/10-idempotent.md*

**Try:** the *Embedded Denoiser* of kind *patches*.

${no_checkpoint}`,

  "inspect-model": `# A model that says the wrong thing about itself
*Wrong on purpose* claims that the network predicts v, and the upper row falls to pieces: lost suns, three moons. *Check Prediction Type* finds out that it is eps; *Put right* says so, and the lower row is whole. *Inspect Denoiser* tells what a MODEL is and whether the steps fit; *Precision Audit* what bf16 and fp16 would cost.

**Predict:** of eps, v and x0, which output loses most in bf16 at high noise? *docs/course/11-precision.md*

**Try:** a checkpoint of yours (Load Checkpoint) in place of the *Embedded Denoiser*.

${no_checkpoint}`,

  "same-noise-four-solvers": `# Same noise, four solvers
One schedule, one denoiser, one noise, so every difference is the solver's. Rows from the top: **DDPM, DDIM, Heun, Euler Ancestral** (its η is 0.5).

**Try:** 100 **steps**: DDIM and Heun, which add no noise, meet at one picture; the other two do not.

${no_checkpoint}`,

  "one-network-four-schedules": `# One network, four samplers
The same trained weights as **DDPM** (100 steps), **DDIM** (50), **EDM** with DPM-Solver++ (20) and **rectified flow** (30), a row each, from the same noise. A denoiser says what the clean picture is, and that does not depend on how data and noise are mixed: the three lower rows follow the same curve and **end at the same pictures**. DDPM adds fresh noise on its way and ends elsewhere.

**Try:** kind *patches* with **size** 32 in all three models; another *Noise Schedule* in place of VP.

${weights}`,

  "parallel-steps": `# Fewer calls one after another
*Parallel Steps* asks 8 steps in one batch, from guesses that the answers put right, again and again until they are met. Top row: DPM-Solver++ in sequence, 24 calls. Below: the same pictures in fewer rounds and more evaluations; the log says how many. **It is faster only where a batch of 8 costs much less than 8 calls**, as a small network on a large GPU does; on a CPU it is slower.

**Try:** **window** 4 and 24; **tolerance** 0: the same run to rounding, in as many rounds as there are steps. Another solver, with noise too.

${weights}`,

  "speculative-steps": `# A chain with noise, in fewer calls
DDPM draws noise in each of its 60 steps. *Speculative Steps* drafts eight of them with a guess in place of the network's answer, asks for all of them in one batch, and accepts each step or replaces it so that **the result is distributed exactly as in sequence**: other pictures, no tolerance. *Distances* compares the two sets: a p that is not small finds no difference. The log says how many rounds and evaluations it took. It is faster only where a batch costs much less than its images one by one.

**Try:** **window** 24; **steps** 20, where drafts are accepted less often; *DDIM* with **eta** 0.5, or at 0, which is refused: there is no noise to accept.`,

  "latent-space": `# Latents and a VAE
*Embedded VAE* turns every 2 × 2 pixels into 12 latent channels and back without loss; the network with **space** = latent draws there. Rows from the top: new pictures by *VAE Decode*; new postcards; the same through *VAE Encode*, noised, and redrawn by the last 60 % of the steps.

**Try:** **denoise** 0.4 in *The last 60 %* (little changes) or 0.7 (a sun may come twice); *VAE Decode (Tiled)*; the core's *KSampler* and *Empty Latent Image*.

${weights}`,

  "panorama": `# Panoramas
Patches look at a neighbourhood, not at the whole picture, so they go on for as long as you like: here 256 × 64 pixels, from postcards painted as wide. Far-apart suns do not know of each other.

**Try:** **width** up to 2048, in the model and in *Empty Pixel Latent*; **locality** 0.5 for bolder mixtures.

${no_checkpoint}`,
  "sd15-text-to-image": `# SD 1.5: text to image
One node samples: *Sample*. **auto** chooses solver and noise levels for the checkpoint, the steps and cfg, and says on the node what it chose.

**Files:** checkpoints: v1-5-pruned-emaonly-fp16.

**Try:** **steps** 10; **solver** = Euler or DPM++ 2M with **spacing** = karras, from the same **seed**.`,

  "sdxl-text-to-image": `# SDXL: text to image, DPM++ 2M Karras
Solver and spacing by the names that everybody knows, in *Sample*.

**Files:** checkpoints: sd_xl_base_1.0.

**Try:** **solver** and **spacing** = auto; **steps** 12. Connect *APG* to **guidance** for calmer colours at high cfg.`,

  "sdxl-image-to-image": `# SDXL: image to image
The picture is encoded, and **denoise** 0.6 begins lower. All 20 **steps** are taken from there.

**Files:** checkpoints: sd_xl_base_1.0; a picture in *Load Image*.

**Try:** **denoise** 0.3 (stays close) and 0.8 (little is left of it).`,

  "sdxl-inpainting": `# SDXL: inpainting
Only what is under the mask is drawn anew. Right-click *Load Image* → Open in MaskEditor, and paint.

**Files:** checkpoints: sd_xl_base_1.0; a picture with a mask in *Load Image*.

**Try:** **denoise** 1 for something new, 0.5 for a touch-up.`,

  "sdxl-lightning-4-steps": `# SDXL Lightning: 4 steps
A distilled network wants the levels it was trained on: *Steps* holds them by name, cfg is 1, the solver Euler.

**Files:** checkpoints: sdxl_lightning_4step.

**Try:** The file for 2 or 8 steps with **steps** = 2 or 8 in *Steps*; **SD Turbo** or **LCM** as name, for those networks.`,

  "flux1-text-to-image": `# Flux.1 dev: text to image
cfg is 1: Flux.1 dev has its guidance built in, set in *FluxGuidance*. **auto** shifts the levels for the picture's size.

**Files:** diffusion_models: flux1-dev; text_encoders: clip_l, t5xxl_fp16; vae: ae.

**Try:** **steps** 10; **guidance** 2 for less gloss.`,

  "flux2-text-to-image": `# Flux.2 dev: text to image
cfg is 1: the guidance is built in. **auto** shifts the levels for the picture's size.

**Files:** diffusion_models: flux2_dev_fp8mixed; text_encoders: mistral_3_small_flux2_bf16; vae: full_encoder_small_decoder.

**Try:** **steps** 12; with fal's Turbo LoRA, *Steps* with the list **FLUX.2-dev Turbo** into **sigmas**.`,

  "qwen-image-text-to-image": `# Qwen-Image: text to image
*ModelSamplingAuraFlow* sets the shift as ComfyUI's template does; *Sample* reads it from the model.

**Files:** diffusion_models: qwen_image_fp8_e4m3fn; text_encoders: qwen_2.5_vl_7b_fp8_scaled; vae: qwen_image_vae.

**Try:** **steps** 12; *CFG-Zero** into **guidance**.`,

  "z-image-turbo-text-to-image": `# Z-Image Turbo: text to image in 8 steps
A distilled network: cfg 1, so each step is one network call.

**Files:** diffusion_models: z_image_turbo_bf16; text_encoders: qwen_3_4b; vae: ae.

**Try:** **solver** = Euler or RES multistep, from the same **seed**.`,

  "negative-prompt-turbo": `# A negative prompt without CFG
A distilled network runs at cfg 1, where a negative prompt is never read. *NAG* takes it into the attention of the same network call: no second call, the same seed with and without.

**Files:** diffusion_models: z_image_turbo_bf16; text_encoders: qwen_3_4b; vae: ae.

**Try:** **scale** 3 and 8; **alpha** 0.5; **curve** = interval, to leave the last steps alone.`,

  "wan22-text-to-video": `# Wan 2.2: two experts, split by noise level
*Split at Level* hands over where Wan's makers do, t = 0.875, however many steps there are. *Keep State* hands on the solver's memory, so that DPM++ 2M goes on at second order.

**Files:** diffusion_models: wan2.2_t2v_high_noise_14B_fp8_scaled, wan2.2_t2v_low_noise_14B_fp8_scaled; text_encoders: umt5_xxl_fp8_e4m3fn_scaled; vae: wan_2.1_vae.

**Try:** **steps** 12; another **scale** for one of the two guiders.`,

  "sd15-controlnet": `# SD 1.5 with a ControlNet
The edges of a picture lead the first 80 % of the run. *Sample* takes conditions from any node.

**Files:** checkpoints: v1-5-pruned-emaonly-fp16; controlnet: control_v11p_sd15_canny_fp16; a picture in *Load Image*.

**Try:** **strength** 0.5; **end_percent** 0.4.`,

  "fit-a-solver-to-your-checkpoint": `# Fewer steps: fit a solver to your checkpoint
16 runs with many steps are recorded, and a solver with 8 evaluations is fitted to them. Above: auto at 8 steps. Below: the fitted solver, at the same price. On a GPU it takes minutes, once: *Save Fitted Solver* keeps it.

**Files:** checkpoints: v1-5-pruned-emaonly-fp16, or your own.

**Try:** another prompt and **seed** with the fit; **nfe** 6.`,
};
