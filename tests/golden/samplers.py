"""Writes samplers/cases.txt and samplers/steps.f32: diffusers' schedulers, step by step.

Each line of cases.txt is one sampling: `key=value` settings and `rows`, the number of steps that
diffusers took. steps.f32 holds x after each of them, 16 values of little-endian f32 (two pictures
of 8), in the order of the lines. Samplings that diffusers itself refuses or ends in NaN are left
out.

The network is `x/(1 + |x|) * (t + 1)/(t + 500) + 0.1`, in f32. The first sample is `i/8 - 1`
(i = 0..16) times `init_noise_sigma`; with `start`, the picture is `(i*7 % 16)/16 - 0.5` with noise
`i/8 - 1` added. Fresh noise is PyTorch's CPU generator with seed 5. Run in tests/golden:
python samplers.py. Written with diffusers 0.42.1 and torch 2.15.0 on the CPU.
"""

import warnings

import diffusers
import torch

SHAPE = (2, 1, 2, 4)
STEPS = [1, 2, 5, 20]

BASE = dict(
    ddpm=dict(cls="DDPMScheduler"),
    ddim=dict(cls="DDIMScheduler"),
    pndm=dict(cls="PNDMScheduler"),
    euler=dict(cls="EulerDiscreteScheduler"),
    euler_a=dict(cls="EulerAncestralDiscreteScheduler"),
    heun=dict(cls="HeunDiscreteScheduler"),
    dpm2=dict(cls="KDPM2DiscreteScheduler"),
    lms=dict(cls="LMSDiscreteScheduler"),
    dpm_solver=dict(cls="DPMSolverMultistepScheduler"),
    unipc=dict(cls="UniPCMultistepScheduler"),
    lcm=dict(cls="LCMScheduler"),
)
SPACINGS = ["leading", "linspace", "trailing"]
SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
V = dict(prediction_type="v_prediction")
X0 = dict(prediction_type="sample")
ZERO_SNR = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing", **V, **SD)
KARRAS = dict(use_karras_sigmas=True)
EXPONENTIAL = dict(use_exponential_sigmas=True)
COSINE = dict(beta_schedule="squaredcos_cap_v2")
THRESHOLD = dict(thresholding=True, dynamic_thresholding_ratio=0.87, sample_max_value=1.5)


def spacings(**more):
    return [dict(timestep_spacing=s, **more) for s in SPACINGS]


OPTIONS = dict(
    ddpm=[
        *spacings(),
        dict(steps_offset=1),
        *[dict(variance_type=v) for v in ("fixed_small_log", "fixed_large", "learned_range")],
        dict(variance_type="learned_range", timestep_spacing="linspace", **V),
        dict(beta_schedule="sigmoid"),
        dict(clip_sample=False, **SD),
        dict(clip_sample_range=0.7, **COSINE),
        THRESHOLD,
        V,
        X0,
        ZERO_SNR,
        dict(start=0.6),
    ],
    ddim=[
        *spacings(),
        *[dict(eta=eta, **SD) for eta in (0.0, 0.5, 1.0)],
        dict(eta=1.0, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        dict(COSINE, eta=0.3),
        THRESHOLD,
        V,
        X0,
        ZERO_SNR,
        dict(ZERO_SNR, eta=1.0),
        dict(start=0.6, clip_sample=False),
    ],
    pndm=[
        *spacings(skip_prk_steps=True),
        *spacings(),
        dict(skip_prk_steps=True, steps_offset=1, **SD),
        dict(skip_prk_steps=True, set_alpha_to_one=True, **V),
        dict(set_alpha_to_one=True, **V),
        COSINE,
        dict(skip_prk_steps=True, start=0.6),
        dict(skip_prk_steps=True, start=0.8),
    ],
    euler=[
        *spacings(),
        *spacings(**KARRAS, **SD),
        *spacings(**EXPONENTIAL, **SD),
        dict(timestep_spacing="leading", steps_offset=1, **SD),
        dict(final_sigmas_type="sigma_min"),
        dict(KARRAS, sigma_min=0.1, sigma_max=10.0),
        V,
        X0,
        ZERO_SNR,
        dict(COSINE, **KARRAS),
        dict(start=0.6),
    ],
    euler_a=[*spacings(**SD), V, ZERO_SNR, dict(start=0.6)],
    heun=[
        *spacings(**SD),
        dict(KARRAS),
        dict(EXPONENTIAL),
        dict(clip_sample=True, clip_sample_range=0.7),
        V,
        X0,
        dict(start=0.6),
        dict(start=0.6, timestep_spacing="trailing"),
    ],
    dpm2=[*spacings(**SD), dict(KARRAS), dict(EXPONENTIAL), V, dict(start=0.6)],
    lms=[*spacings(**SD), dict(KARRAS), dict(EXPONENTIAL), V, X0, dict(start=0.6)],
    dpm_solver=[
        *spacings(),
        *[
            dict(solver_order=order, solver_type=solver, algorithm_type=algorithm, **SD)
            for order in (1, 2, 3)
            for solver in ("midpoint", "heun")
            for algorithm in ("dpmsolver++", "sde-dpmsolver++")
        ],
        dict(solver_order=3, lower_order_final=False),
        dict(euler_at_final=True, lower_order_final=False, final_sigmas_type="sigma_min"),
        dict(lower_order_final=False, final_sigmas_type="sigma_min", **SD),
        *spacings(**KARRAS, **SD),
        dict(KARRAS, **COSINE),
        dict(EXPONENTIAL, **SD),
        dict(EXPONENTIAL, **COSINE),
        dict(KARRAS, final_sigmas_type="sigma_min"),
        dict(COSINE, lambda_min_clipped=-5.1),
        dict(COSINE, lambda_min_clipped=-5.1, timestep_spacing="leading"),
        dict(COSINE, lambda_min_clipped=-3.0, timestep_spacing="trailing"),
        THRESHOLD,
        V,
        X0,
        ZERO_SNR,
        dict(timestep_spacing="leading", steps_offset=1, **SD),
        dict(start=0.6),
        dict(start=0.6, algorithm_type="sde-dpmsolver++", **KARRAS),
    ],
    unipc=[
        *spacings(),
        *[
            dict(solver_order=order, solver_type=solver, final_sigmas_type="sigma_min", **SD)
            for order in (1, 2, 3)
            for solver in ("bh1", "bh2")
        ],
        dict(solver_order=3, **SD),
        dict(solver_order=3, lower_order_final=False, final_sigmas_type="sigma_min"),
        dict(disable_corrector=[0], **SD),
        dict(disable_corrector=[0, 2], solver_order=3, **SD),
        dict(KARRAS, **SD),
        dict(KARRAS, **COSINE),
        dict(KARRAS, final_sigmas_type="sigma_min"),
        dict(EXPONENTIAL, **SD),
        dict(EXPONENTIAL, sigma_min=0.1, sigma_max=10.0, final_sigmas_type="sigma_min"),
        THRESHOLD,
        V,
        X0,
        ZERO_SNR,
        dict(start=0.6),
        dict(start=0.6, solver_order=3),
    ],
    lcm=[
        {},
        dict(original_inference_steps=100, timestep_scaling=5.0, steps_offset=1),
        dict(clip_sample=True),
        V,
        X0,
        THRESHOLD,
        ZERO_SNR,
        dict(start=0.6),
    ],
)


def network(x, t, doubled):
    soft = x / (1 + x.abs())
    out = soft * ((t + 1) / (t + 500)) + 0.1
    return torch.cat([out, soft], dim=1) if doubled else out


def sample(name, options, steps):
    options = dict(options)
    eta, strength = options.pop("eta", None), options.pop("start", None)
    scheduler = getattr(diffusers, BASE[name]["cls"])(**options)
    scheduler.set_timesteps(steps)
    timesteps, start = scheduler.timesteps, 0
    i = torch.arange(16, dtype=torch.float32)
    x = (i / 8 - 1).reshape(SHAPE)
    if strength is not None:
        start = steps - min(int(steps * strength), steps)
        if start >= steps:
            return None
    if hasattr(scheduler, "set_begin_index"):
        # Otherwise the first time is searched for, and missed where rounding makes it occur twice.
        scheduler.set_begin_index(start * scheduler.order)
    if strength is None:
        x = x * scheduler.init_noise_sigma
    else:
        timesteps = timesteps[start * scheduler.order :]
        picture = (i * 7 % 16 / 16 - 0.5).reshape(SHAPE)
        x = scheduler.add_noise(picture, x, timesteps[:1].repeat(2))
    generator = torch.Generator().manual_seed(5)
    more = dict(eta=eta) if eta is not None else {}
    if name in ("ddpm", "ddim", "euler_a", "dpm_solver", "lcm"):
        more["generator"] = generator
    doubled = options.get("variance_type") == "learned_range"
    rows = []
    for t in timesteps:
        scaled = scheduler.scale_model_input(x, t)
        out = network(scaled, t.to(torch.float32), doubled)
        x = scheduler.step(out, t, x, **more).prev_sample
        rows.append(x.flatten())
    rows = torch.stack(rows)
    return (rows, start) if rows.isfinite().all() else None


def show(value):
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def main():
    warnings.simplefilter("ignore")
    lines, steps_f32, left_out = [], [], []
    for name, all_options in OPTIONS.items():
        for options in all_options:
            for steps in STEPS:
                try:
                    result = sample(name, options, steps)
                except (ValueError, IndexError, AssertionError) as error:
                    left_out.append((name, options, steps, repr(error)[:60]))
                    continue
                if result is None:
                    left_out.append((name, options, steps, "not finite, or no step"))
                    continue
                rows, start = result
                settings = {k: v for k, v in options.items() if k != "start"}
                settings.update(steps=steps, start=start, rows=len(rows))
                shown = " ".join(f"{k}={show(v)}" for k, v in settings.items())
                lines.append(f"sampler={name} {shown}")
                steps_f32.append(rows.numpy().astype("<f4").tobytes())
    open("samplers/cases.txt", "w").write("\n".join(lines) + "\n")
    open("samplers/steps.f32", "wb").write(b"".join(steps_f32))
    print(len(lines), "samplings;", len(left_out), "left out")
    for case in left_out:
        print(*case)


main()
