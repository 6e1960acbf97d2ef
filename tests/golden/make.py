"""Makes the golden data beside this file: what PyTorch, diffusers and transformers compute on
seeded random weights. usage: make.py [ops] [networks] [pipelines] [samplers] [noise] [gradients]
       (all six when none is named)
       make.py tokenizer MERGES.txt.gz [CONFORMANCE]     needs CLIP's merges, which are not ours
       make.py taef2 FOLDER      checks the pooled tiny autoencoder's plan against trained weights
The last three groups and the tokenizer's have files of their own, called like them.
Every output is computed three times: as usual, without oneDNN, and in float64. The differences are
written beside the data, and tolerances follow from them. README.md says what each file holds."""
import copy
import functools
import json
import math
import os
import shutil
import subprocess
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))


def generator(seed):
    return torch.Generator().manual_seed(seed)


def randn(seed, *shape):
    return torch.randn(shape, generator=generator(seed))


def write_json(path, value):
    with open(path, "w") as f:
        f.write(json.dumps(value, indent=1) + "\n")


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


def without_onednn(compute):
    with torch.backends.mkldnn.flags(enabled=False):
        return compute()


def difference(a, b):
    """The largest |a - b| / (1 + |b|)."""
    return float(((a.double() - b.double()).abs() / (1 + b.double().abs())).max())


def tolerance(measured, floor):
    """Ten times what PyTorch differs from itself, at least `floor`, rounded up to 1, 2 or 5."""
    wanted = max(10 * measured, floor)
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(s for s in (1, 2, 5, 10) if s * power >= wanted * (1 - 1e-9))
    return float(f"{step * power:.0e}")


# ---------------------------------------------------------------------------------------------- ops


class Ops:
    """Collects cases: tensors named `<case>.<role>`, and one description for each."""

    def __init__(self):
        self.tensors, self.cases, self.seed = {}, [], 0

    def input(self, *shape, scale=1.0, offset=0.0):
        self.seed += 1
        return randn(self.seed, *shape) * scale + offset

    def case(self, name, op, compute, inputs, exact=True, **params):
        """`exact`: the stored result is float64's, rounded; otherwise it is PyTorch's float32."""
        present = {k: v for k, v in inputs.items() if v is not None}
        plain = compute(**inputs)
        other = without_onednn(lambda: compute(**inputs))
        measured = difference(plain, other)
        y = plain
        if exact:
            wide = {k: v.double() if v is not None and v.is_floating_point() else v
                    for k, v in inputs.items()}
            precise = compute(**wide)
            measured = max(measured, difference(plain, precise))
            y = precise.float()
        for role, tensor in {**present, "y": y}.items():
            self.tensors[f"{name}.{role}"] = tensor.contiguous().clone()
        self.cases.append({
            "name": name, "op": op, "params": params, "tensors": [*present, "y"],
            "computed_in": "f64" if exact else "f32",
            "torch_f32_differs": float(f"{measured:.1e}"), "tolerance": tolerance(measured, 5e-6)})


def conv_cases(ops):
    def add(name, n, c, h, w, o, k, stride=1, padding=(1, 1, 1, 1), upsample_to=None, bias=True):
        top, bottom, left, right = padding

        def compute(x, weight, bias):
            if upsample_to is not None:
                x = F.interpolate(x, size=upsample_to, mode="nearest")
            return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, stride=stride)

        inputs = {"x": ops.input(n, c, h, w), "bias": ops.input(o) if bias else None,
                  "weight": ops.input(o, c, k, k, scale=1 / math.sqrt(c * k * k))}
        ops.case(f"conv2d-{name}", "conv2d", compute, inputs, stride=stride,
                 padding=list(padding), upsample_to=upsample_to)

    late, none = (0, 1, 0, 1), (0, 0, 0, 0)
    add("3x3", 2, 5, 13, 9, 17, 3)
    add("3x3-one-channel-one-pixel", 1, 1, 1, 1, 1, 3)
    add("3x3-one-row", 1, 3, 1, 7, 5, 3)
    add("3x3-17-to-37", 1, 17, 5, 3, 37, 3)
    add("3x3-37-to-3", 2, 37, 5, 3, 3, 3, bias=False)
    add("3x3-wide", 1, 4, 3, 65, 16, 3)
    add("3x3-stride-2", 2, 5, 13, 9, 17, 3, stride=2)
    add("3x3-stride-2-even", 1, 3, 8, 6, 5, 3, stride=2)
    add("3x3-stride-2-one-pixel", 1, 3, 1, 1, 5, 3, stride=2)
    add("3x3-stride-2-no-bias", 1, 5, 5, 3, 5, 3, stride=2, bias=False)
    add("3x3-stride-2-late-padding", 2, 5, 13, 9, 17, 3, stride=2, padding=late)
    add("3x3-stride-2-late-padding-even", 1, 3, 8, 6, 5, 3, stride=2, padding=late)
    add("3x3-stride-2-late-padding-5x3", 1, 17, 5, 3, 3, 3, stride=2, padding=late)
    add("1x1", 2, 5, 13, 9, 17, 1, padding=none)
    add("1x1-one-pixel", 1, 37, 1, 1, 3, 1, padding=none)
    add("1x1-no-bias", 1, 3, 1, 7, 37, 1, padding=none, bias=False)
    add("3x3-upsample-2x", 2, 5, 5, 3, 17, 3, upsample_to=[10, 6])
    add("3x3-upsample-one-pixel", 1, 3, 1, 1, 5, 3, upsample_to=[2, 2])
    add("3x3-upsample-arbitrary", 1, 5, 5, 3, 3, 3, upsample_to=[9, 7])
    add("3x3-upsample-odd", 1, 3, 4, 7, 5, 3, upsample_to=[7, 13])


def norm_cases(ops):
    def group(name, n, c, h, w, groups, eps=1e-5, offset=0.0, scale=1.0, shifted=False, act=None):
        def compute(x, weight, bias, scale_shift):
            y = F.group_norm(x, groups, weight, bias, eps)
            if scale_shift is not None:
                by, plus = scale_shift[:, :, None, None].chunk(2, dim=1)
                y = y * (1 + by) + plus
            return F.silu(y) if act else y

        inputs = {"x": ops.input(n, c, h, w, scale=scale, offset=offset),
                  "weight": ops.input(c, scale=0.3, offset=1), "bias": ops.input(c, scale=0.3),
                  "scale_shift": ops.input(n, 2 * c, scale=0.5) if shifted else None}
        ops.case(f"group-norm-{name}", "group_norm", compute, inputs, groups=groups, eps=eps,
                 activation=act)

    group("15-channels-5-groups", 2, 15, 5, 3, 5)
    group("one-group", 1, 12, 1, 7, 1)
    group("as-many-groups-as-channels", 2, 7, 5, 3, 7, eps=1e-6)
    group("one-pixel", 2, 6, 1, 1, 3)
    group("tiny-variance", 1, 6, 5, 3, 2, eps=1e-6, scale=1e-3)
    group("offset-100", 1, 6, 13, 9, 3, offset=100.0)
    group("offset-1000", 1, 10, 13, 9, 5, eps=1e-6, offset=1000.0)
    group("silu", 2, 10, 5, 3, 5, act="silu")
    group("scale-shift", 2, 10, 5, 3, 5, shifted=True)
    group("scale-shift-silu", 2, 9, 1, 7, 3, eps=1e-6, shifted=True, act="silu")

    def layer(name, rows, c, eps=1e-5, offset=0.0):
        inputs = {"x": ops.input(*rows, c, offset=offset), "bias": ops.input(c, scale=0.3),
                  "weight": ops.input(c, scale=0.3, offset=1)}
        ops.case(f"layer-norm-{name}", "layer_norm", lambda x, weight, bias:
                 F.layer_norm(x, (c,), weight, bias, eps), inputs, eps=eps)

    layer("37", (2, 7), 37)
    layer("1", (1, 3), 1)
    layer("5-eps-1e-6", (2, 5), 5, eps=1e-6)
    layer("64-offset-100", (1, 4), 64, offset=100.0)


def activation_cases(ops):
    wide = torch.cat([torch.linspace(-30, 30, 121), torch.linspace(-3, 3, 61),
                      torch.tensor([-1e4, -100.0, -88.8, -1e-6, 0.0, 1e-6, 88.8, 100.0, 1e4])])
    for name, f in {
        "silu": F.silu, "gelu": F.gelu, "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
        "quick-gelu": lambda x: x * torch.sigmoid(1.702 * x), "relu": F.relu,
        "clamp-tanh-3": lambda x: torch.tanh(x / 3) * 3,
    }.items():
        ops.case(f"activation-{name}", "activate", lambda x: f(x), {"x": wide},
                 activation=name.replace("-", "_"))

    def geglu(x):
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)

    ops.case("geglu-5", "geglu", geglu, {"x": ops.input(2, 7, 10, scale=3)})
    ops.case("geglu-1", "geglu", geglu, {"x": ops.input(1, 1, 2)})
    ops.case("geglu-37", "geglu", geglu, {"x": ops.input(1, 3, 74, scale=2)})


def attention_cases(ops):
    def add(name, n, tq, tk, heads, d, causal=False, scale=1.0):
        def split(x):
            return x.unflatten(2, (heads, d)).transpose(1, 2)

        def compute(q, k, v):
            y = F.scaled_dot_product_attention(split(q), split(k), split(v), is_causal=causal)
            return y.transpose(1, 2).flatten(2)

        inputs = {"q": ops.input(n, tq, heads * d, scale=scale),
                  "k": ops.input(n, tk, heads * d, scale=scale), "v": ops.input(n, tk, heads * d)}
        ops.case(f"attention-{name}", "attention", compute, inputs, heads=heads, causal=causal)

    add("one-token", 1, 1, 1, 1, 4)
    add("7-tokens", 2, 7, 7, 3, 5)
    add("130-tokens", 1, 130, 130, 2, 4)
    add("77-causal", 1, 77, 77, 3, 5, causal=True)
    add("7-causal-batch-2", 2, 7, 7, 2, 4, causal=True)
    add("130-causal", 1, 130, 130, 1, 4, causal=True)
    add("one-token-causal", 1, 1, 1, 2, 5, causal=True)
    add("cross-7-77", 2, 7, 77, 1, 40)
    add("cross-130-7", 1, 130, 7, 2, 5)
    add("cross-1-77", 1, 1, 77, 2, 4)
    add("head-64", 1, 7, 13, 2, 64)
    add("head-40", 1, 9, 9, 2, 40)
    add("large-scores", 1, 7, 33, 2, 5, scale=12.0)


def embedding_cases(ops):
    from diffusers.models.embeddings import GaussianFourierProjection, get_timestep_embedding
    t = torch.tensor([0.0, 1.0, 37.5, 500.0, 999.0])
    for dim, flip, shift in [(8, True, 0), (8, False, 1), (8, True, 1), (10, False, 0),
                             (7, True, 0), (7, False, 1), (32, True, 0)]:
        ops.case(f"sinusoidal-{dim}-flip-{int(flip)}-shift-{shift}", "sinusoidal_embedding",
                 lambda timesteps: get_timestep_embedding(
                     timesteps, dim, flip_sin_to_cos=flip, downscale_freq_shift=shift),
                 {"timesteps": t}, exact=False, dim=dim, flip_sin_to_cos=flip, freq_shift=shift)
    sigma = torch.tensor([0.01, 0.5, 1.0, 13.7, 1348.0])
    for flip, log in [(False, True), (True, True), (True, False)]:
        layer = GaussianFourierProjection(5, flip_sin_to_cos=flip, log=log)

        def compute(timesteps, weight):
            layer.weight.data = weight
            return layer(timesteps).detach()

        values = sigma if log else sigma / 1348.0
        name = f"fourier-flip-{int(flip)}-log-{int(log)}"
        ops.case(name, "fourier_embedding", compute,
                 {"timesteps": values, "weight": ops.input(5, scale=16.0 if log else 1.0)},
                 exact=False, flip_sin_to_cos=flip, log=log)
        ops.cases[-1]["tolerance"] = 1e-3 if log else 1e-5
    ids = torch.tensor([[3, 0, 10, 3, 7]], dtype=torch.int32)
    ops.case("embedding", "embedding", lambda ids, table: F.embedding(ids, table),
             {"ids": ids, "table": ops.input(11, 5)})


def shape_cases(ops):
    for name, c, h, w, to in [("2x", 3, 5, 3, [10, 6]), ("one-pixel", 5, 1, 1, [3, 2]),
                              ("arbitrary", 2, 5, 7, [9, 13]), ("smaller", 2, 7, 5, [3, 4])]:
        ops.case(f"upsample-{name}", "upsample_nearest", lambda x:
                 F.interpolate(x, size=to, mode="nearest"), {"x": ops.input(2, c, h, w)}, size=to)
    for h, w in [(4, 6), (5, 3), (13, 9), (2, 2)]:
        ops.case(f"avg-pool-{h}x{w}", "avg_pool_2x2", lambda x: F.avg_pool2d(x, 2, 2),
                 {"x": ops.input(2, 3, h, w)})
    for m, k, n, bias in [(1, 1, 1, True), (3, 5, 7, True), (17, 33, 9, True), (5, 130, 31, False),
                          (1, 64, 3, True), (65, 3, 1, False), (7, 16, 33, True)]:
        inputs = {"x": ops.input(m, k), "weight": ops.input(n, k, scale=1 / math.sqrt(k)),
                  "bias": ops.input(n) if bias else None}
        ops.case(f"linear-{m}-{k}-{n}", "linear",
                 lambda x, weight, bias: F.linear(x, weight, bias), inputs)


def make_ops():
    ops = Ops()
    for add in (conv_cases, norm_cases, activation_cases, attention_cases, embedding_cases,
                shape_cases):
        add(ops)
    save_file(ops.tensors, f"{HERE}/ops.safetensors")
    write_json(f"{HERE}/ops.json", ops.cases)
    print(len(ops.cases), "ops")


# ----------------------------------------------------------------------------------------- networks


def randomize(model, seed):
    """Seeded weights with unit gain; norms and biases are moved off 1 and 0, so that forgetting one
    shows. Parameters are visited by name, so that the order of construction does not matter."""
    tables = {f"{name}.weight" for name, m in model.named_modules()
              if isinstance(m, torch.nn.Embedding)}
    g = generator(seed)
    for name, p in sorted(model.named_parameters()):
        r = torch.randn(p.shape, generator=g)
        if name in tables:
            p.data = r * 0.7
        elif p.dim() >= 2:
            p.data = r / math.sqrt(p[0].numel())
        elif name.startswith("time_proj"):
            p.data = r * 16
        elif name.endswith("weight"):
            p.data = 1 + 0.2 * r
        else:
            p.data = 0.2 * r
    return model.eval().requires_grad_(False)


def in_f64(model):
    """A copy in float64, but for the timestep's projection, which diffusers has in float32."""
    wide = copy.deepcopy(model).double()
    if hasattr(wide, "time_proj"):
        wide.time_proj.float()
    for name, module in wide.named_modules():
        if name.endswith("embedding.linear_1"):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return wide


def stored_as(model, dtype):
    """The model with its weights rounded to `dtype`: one to save, one to compute in float32."""
    stored = model.to(dtype)
    return stored, copy.deepcopy(stored).float()


def network(name, what, model, compute, inputs, dtype=torch.float32, save=None, floor=5e-5, **call):
    """Writes one case. `compute(model, **inputs)` gives the dictionary of outputs."""
    folder = fresh(f"{HERE}/networks/{name}")
    stored, plain_model = stored_as(model, dtype)
    if save is None:
        stored.save_pretrained(folder)
    else:
        save(stored, folder)
    outputs = compute(plain_model, **inputs)
    other = without_onednn(lambda: compute(plain_model, **inputs))
    wide = {k: v.double() if v.is_floating_point() and k != "timesteps" else v
            for k, v in inputs.items()}
    precise = compute(in_f64(plain_model), **wide)
    measured = max(max(difference(outputs[k], other[k]), difference(outputs[k], precise[k]))
                   for k in outputs)
    save_file({k: v.contiguous().clone() for k, v in {**inputs, **outputs}.items()},
              f"{folder}/io.safetensors")
    size = {k: [round(float(v.std()), 3), round(float(v.abs().max()), 3)]
            for k, v in outputs.items()}
    write_json(f"{folder}/case.json", {
        "what": what, "class": type(model).__name__, "inputs": list(inputs),
        "outputs": list(outputs), "weights_dtype": str(dtype).removeprefix("torch."), **call,
        "torch_f32_differs": float(f"{measured:.1e}"), "tolerance": tolerance(measured, floor)})
    print(f"{name}: differs {measured:.1e}, std and max {size}")
    return plain_model


def query_key_value_names(state):
    """The attention names of checkpoints older than diffusers 0.18."""
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in state.items():
        for a, b in new.items():
            name = name.replace(f".{a}.", f".{b}.")
        renamed[name] = tensor
    return renamed


def save_with_old_names(model, folder):
    model.save_pretrained(folder)
    path = f"{folder}/diffusion_pytorch_model.safetensors"
    save_file(query_key_value_names(model.state_dict()), path, metadata={"format": "pt"})
    again = type(model).from_pretrained(folder)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def make_unet_2d():
    from diffusers import UNet2DModel

    def compute(model, sample, timesteps, class_labels=None):
        return {"output": model(sample, timesteps, class_labels=class_labels).sample}

    seed = 1000

    def add(name, what, dtype=torch.float32, labels=None, timesteps=(10.0, 987.0), size=(8, 12),
            save=None, floor=5e-5, **config):
        nonlocal seed
        seed += 10
        config = {"sample_size": list(size), "block_out_channels": (4, 6), "layers_per_block": 1,
                  "norm_num_groups": 2, "attention_head_dim": 2,
                  "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
                  "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), **config}
        model = randomize(UNet2DModel(**config), seed)
        inputs = {"sample": randn(seed + 1, len(timesteps), model.config.in_channels, *size),
                  "timesteps": torch.tensor(timesteps)}
        if labels is not None:
            inputs["class_labels"] = labels
        network(f"unet2d-{name}", what, model, compute, inputs, dtype, save, floor)

    three = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
             "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D")}
    add("base", "Down, AttnDown, AttnUp, Up; a batch of two with different timesteps")
    add("resnet-blocks", "ResnetDownsampleBlock2D and ResnetUpsampleBlock2D (average pooling and "
        "nearest upsampling inside the residual block), fractional timesteps",
        timesteps=(0.0, 333.25), attention_head_dim=6,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"))
    add("resnet-sampling", "downsample_type and upsample_type resnet, which only attention blocks "
        "heed", downsample_type="resnet", upsample_type="resnet",
        down_block_types=("AttnDownBlock2D",) * 2, up_block_types=("AttnUpBlock2D",) * 2)
    add("no-mid-attention", "add_attention false: a middle block of two residual blocks, stored in "
        "float16", dtype=torch.float16, add_attention=False)
    add("no-mid-block", "mid_block_type null", mid_block_type=None, dtype=torch.float16)
    add("scale-shift", "resnet_time_scale_shift scale_shift; then the middle attention has no "
        "group norm, while the other attentions have theirs", resnet_time_scale_shift="scale_shift")
    add("scale-shift-resnet", "scale_shift inside Resnet-down and Resnet-up blocks, with "
        "attn_norm_num_groups 3 in the middle", resnet_time_scale_shift="scale_shift",
        attn_norm_num_groups=3, dtype=torch.float16,
        down_block_types=("ResnetDownsampleBlock2D",) * 2,
        up_block_types=("ResnetUpsampleBlock2D",) * 2)
    add("class-table", "num_class_embeds: a table of 5 classes", num_class_embeds=5,
        labels=torch.tensor([4, 0], dtype=torch.int32))
    add("class-timestep", "class_embed_type timestep: labels are numbers, projected as timesteps "
        "are", class_embed_type="timestep", labels=torch.tensor([3.0, 71.5]),
        dtype=torch.float16)
    add("class-identity", "class_embed_type identity: labels are vectors as wide as the time "
        "embedding (16)", class_embed_type="identity", labels=randn(77, 2, 16), dtype=torch.float16)
    add("fourier", "time_embedding_type fourier: timesteps are noise levels, their logarithm is "
        "projected by 2 pi W (sine first, whatever flip_sin_to_cos says), and the output is "
        "divided by them", time_embedding_type="fourier", timesteps=(0.02, 1.0, 80.0), floor=1e-3)
    add("asymmetric", "downsample_padding 0 (one row and column of zeros at the end), "
        "center_input_sample, freq_shift 1, flip_sin_to_cos false, norm_eps 0.01",
        downsample_padding=0, center_input_sample=True, freq_shift=1, flip_sin_to_cos=False,
        norm_eps=0.01)
    add("odd-channels", "channels 5, 15, 10 in 5 groups; heads of 4, which divide neither 15 nor "
        "10 (3 heads of 15 channels: 12 wide inside)", block_out_channels=(5, 15, 10),
        norm_num_groups=5, attention_head_dim=4, dtype=torch.bfloat16, size=(12, 4), **three)
    add("one-head", "attention_head_dim null: one head as wide as the level; one input channel, "
        "two output channels", attention_head_dim=None, in_channels=1, out_channels=2,
        dtype=torch.float16)
    add("mid-scale", "mid_block_scale_factor sqrt(2), a batch of one",
        mid_block_scale_factor=math.sqrt(2), timesteps=(501.0,))
    add("five-levels", "five levels from 16 by 32, the last one 1 by 2", size=(16, 32),
        block_out_channels=(2, 4, 4, 6, 6), norm_num_groups=2, attention_head_dim=2,
        timesteps=(250.0,), dtype=torch.float16,
        down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * 4)
    add("two-layers", "layers_per_block 2, out_channels 6 (a learned variance), time_embedding_dim "
        "20", layers_per_block=2, out_channels=6, time_embedding_dim=20, dtype=torch.float16)
    add("old-names", "attention named query, key, value and proj_attn, as in older checkpoints",
        save=save_with_old_names, timesteps=(999.0,))


def make_unet_2d_condition():
    from diffusers import UNet2DConditionModel

    def compute(model, sample, timesteps, encoder_hidden_states):
        return {"output": model(sample, timesteps, encoder_hidden_states).sample}

    seed = 2000

    def add(name, what, dtype=torch.float32, size=(8, 12), timesteps=(10.0, 987.0), tokens=7,
            **config):
        nonlocal seed
        seed += 10
        config = {"sample_size": 8, "block_out_channels": (4, 6), "layers_per_block": 1,
                  "norm_num_groups": 2, "attention_head_dim": 2, "cross_attention_dim": 7,
                  "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                  "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), **config}
        model = randomize(UNet2DConditionModel(**config), seed)
        inputs = {"sample": randn(seed + 1, len(timesteps), model.config.in_channels, *size),
                  "timesteps": torch.tensor(timesteps),
                  "encoder_hidden_states": randn(seed + 2, len(timesteps), tokens,
                                                 config["cross_attention_dim"])}
        network(f"cond-{name}", what, model, compute, inputs, dtype)

    both = {"down_block_types": ("CrossAttnDownBlock2D",) * 2,
            "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    three = {"down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
             "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2}
    add("sd1-three-levels", "as Stable Diffusion 1, three levels, a batch of two",
        block_out_channels=(4, 6, 6), **three)
    add("sd1-four-levels", "as Stable Diffusion 1 in full: four levels, two layers each, 77 "
        "tokens, stored in float16", block_out_channels=(4, 4, 8, 8), layers_per_block=2, tokens=77,
        norm_num_groups=2, attention_head_dim=2, dtype=torch.float16, size=(8, 8),
        timesteps=(981.0,),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
    add("sd2", "as Stable Diffusion 2: use_linear_projection, a count of heads for each level, "
        "upcast_attention", block_out_channels=(4, 6, 8), attention_head_dim=[2, 3, 4],
        use_linear_projection=True, upcast_attention=True, dtype=torch.float16, **three)
    add("only-cross", "only_cross_attention true: the first attention looks at the text too",
        only_cross_attention=True)
    add("only-cross-list", "only_cross_attention by level, and mid_block_only_cross_attention, "
        "which this middle block does not heed", only_cross_attention=[True, False],
        mid_block_only_cross_attention=True, dtype=torch.float16, **both)
    add("inpainting", "nine input channels", in_channels=9, dtype=torch.float16)
    add("layer-lists", "layers_per_block [1, 2] and transformer_layers_per_block [1, 2]",
        layers_per_block=[1, 2], transformer_layers_per_block=[1, 2], dtype=torch.float16, **both)
    add("odd-size", "latents of 9 by 13 through three levels: upsampling goes to the skip's size; "
        "stored in bfloat16", block_out_channels=(4, 6, 6), dtype=torch.bfloat16, size=(9, 13),
        **three)
    add("scale-shift", "resnet_time_scale_shift scale_shift, freq_shift 1, flip_sin_to_cos false, "
        "norm_eps 0.01 (which the transformers' own norms do not follow: 1e-6 and 1e-5), "
        "mid_block_scale_factor 1.5, center_input_sample", freq_shift=1, flip_sin_to_cos=False,
        resnet_time_scale_shift="scale_shift",
        norm_eps=0.01, mid_block_scale_factor=1.5, center_input_sample=True)
    add("uneven-heads", "channels 10 in 4 heads of 2: 8 wide inside; one token",
        block_out_channels=(10, 5), norm_num_groups=5, attention_head_dim=4, tokens=1,
        timesteps=(1.0,), dtype=torch.float16)
    add("two-transformers", "transformer_layers_per_block 2 with use_linear_projection, one level",
        block_out_channels=(9,), norm_num_groups=3, attention_head_dim=3,
        transformer_layers_per_block=2, use_linear_projection=True,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
        size=(5, 3), timesteps=(77.0,), dtype=torch.float16)


def make_clip():
    from transformers import CLIPTextConfig, CLIPTextModel

    def compute(model, input_ids):
        out = model(input_ids, output_hidden_states=True)
        result = {"last_hidden_state": out.last_hidden_state}
        for skip in range(2, min(len(out.hidden_states), 3) + 1):
            result[f"clip_skip_{skip}"] = model.final_layer_norm(out.hidden_states[-skip])
        return result

    def with_prefix(model, folder):
        model.save_pretrained(folder)
        state = {f"text_model.{k}": v for k, v in model.state_dict().items()
                 if not k.startswith("text_model.")}
        positions = torch.arange(model.config.max_position_embeddings)[None]
        state["text_model.embeddings.position_ids"] = positions
        save_file(state, f"{folder}/model.safetensors", metadata={"format": "pt"})

    def add(name, what, seed, tokens, dtype=torch.float32, save=None, **config):
        config = {"vocab_size": 60, "max_position_embeddings": 77, "projection_dim": 8,
                  "bos_token_id": 58, "eos_token_id": 59, "pad_token_id": 59, **config}
        model = randomize(CLIPTextModel(CLIPTextConfig(**config)), seed)
        ids = torch.randint(0, 58, (2, tokens), generator=generator(seed + 1))
        ids[:, 0] = 58
        ids[:, -2:] = 59
        network(f"clip-{name}", what, model, compute, {"input_ids": ids.int()}, dtype, save)

    add("quick-gelu", "one layer, 3 heads of 5, 31 wide inside, quick_gelu, all 77 tokens", 3000,
        77, hidden_size=15, num_attention_heads=3, intermediate_size=31, num_hidden_layers=1,
        hidden_act="quick_gelu")
    add("gelu", "three layers, gelu, layer_norm_eps 0.01; names with the text_model. prefix and an "
        "int64 position_ids as older checkpoints have them; 9 of 16 tokens", 3010, 9,
        hidden_size=16, num_attention_heads=2, intermediate_size=64, num_hidden_layers=3,
        hidden_act="gelu", layer_norm_eps=0.01, max_position_embeddings=16, save=with_prefix)
    add("bf16", "two layers, one head of 12, stored in bfloat16", 3020, 77, dtype=torch.bfloat16,
        hidden_size=12, num_attention_heads=1, intermediate_size=37, num_hidden_layers=2)
    add("f16-prefix", "two layers, stored in float16 with the text_model. prefix; 77 tokens", 3030,
        77, dtype=torch.float16, hidden_size=8, num_attention_heads=4, intermediate_size=32,
        num_hidden_layers=2, save=with_prefix)


def make_autoencoder_kl():
    from diffusers import AutoencoderKL

    posterior_seed = 7

    def compute(model, image, latents):
        posterior = model.encode(image).latent_dist
        noise = randn(posterior_seed, *posterior.mean.shape).to(image.dtype)
        sample = posterior.mean + posterior.std * noise
        if image.dtype == torch.float32:
            assert torch.equal(sample, posterior.sample(generator(posterior_seed)))
        return {"mean": posterior.mean, "logvar": posterior.logvar, "std": posterior.std,
                "posterior_sample": sample, "decoded": model.decode(latents).sample}

    def compute_tiled(model, image, latents):
        decoded = compute(model, image, latents)
        model.enable_tiling()
        model.tile_latent_min_size, model.tile_overlap_factor = tile, 0.25
        model.tile_sample_min_size = tile * 2 ** (len(model.config.block_out_channels) - 1)
        tiled = model.decode(latents).sample
        model.disable_tiling()
        assert tiled.shape == decoded["decoded"].shape and not torch.equal(tiled, decoded["decoded"])
        return {**decoded, "decoded_tiled": tiled}

    def sharded(model, folder):
        model.save_pretrained(folder, max_shard_size="20KB")

    seed, tile = 4000, 8

    def add(name, what, image, latents, dtype=torch.float32, save=None, touch=None, **config):
        nonlocal seed
        seed += 10
        levels = len(config["block_out_channels"])
        config = {"norm_num_groups": 3, "down_block_types": ("DownEncoderBlock2D",) * levels,
                  "up_block_types": ("UpDecoderBlock2D",) * levels, "sample_size": 16, **config}
        model = randomize(AutoencoderKL(**config), seed)
        if touch is not None:
            touch(model)
        inputs = {"image": randn(seed + 1, image[0], 3, *image[1:]).clamp(-1, 1),
                  "latents": randn(seed + 2, latents[0], config.get("latent_channels", 4),
                                   *latents[1:])}
        tiled = {"tile": tile} if name.startswith("tiled") else {}
        network(f"kl-{name}", what, model, compute_tiled if tiled else compute, inputs, dtype, save,
                posterior_seed=posterior_seed, **tiled)

    def faint_start(model):
        for conv in (model.encoder.conv_in, model.decoder.conv_in):
            conv.weight.data *= 2e-3
            conv.bias.data *= 2e-3

    def extreme_logvar(model):
        model.quant_conv.bias.data[4:6] = torch.tensor([24.0, -35.0])
        model.quant_conv.weight.data[4:6] *= 2

    add("one-level", "one level: nothing is resized; a first norm whose input is so faint that its "
        "eps, 1e-6, shows; latents of 5 by 3", (1, 5, 7), (1, 5, 3), block_out_channels=(6,),
        touch=faint_start)
    add("odd-size", "two levels, images of 9 by 13 (to 4 by 6); a logvar that is clamped to -30 "
        "and 20, so that std reaches exp(10)", (1, 9, 13), (1, 3, 5), block_out_channels=(6, 9),
        touch=extreme_logvar)
    add("three-levels", "three levels, two layers, a batch of two, stored in float16",
        (2, 16, 12), (2, 4, 3), block_out_channels=(4, 6, 8), norm_num_groups=2, layers_per_block=2,
        dtype=torch.float16)
    add("sharded", "four levels, in shards with an index", (1, 16, 24), (1, 2, 3), save=sharded,
        block_out_channels=(2, 4, 4, 6), norm_num_groups=2)
    add("no-quant", "no quant_conv and no post_quant_conv, five latent channels, shift_factor 0.1 "
        "(which encode and decode do not apply)", (1, 8, 8), (1, 3, 4), block_out_channels=(6, 6),
        use_quant_conv=False, use_post_quant_conv=False, latent_channels=5, shift_factor=0.1,
        scaling_factor=0.5)
    add("no-mid-attention", "mid_block_add_attention false", (1, 8, 8), (1, 3, 4),
        block_out_channels=(3, 6), mid_block_add_attention=False)
    add("old-names", "attention named query, key, value and proj_attn, as Stable Diffusion 1's "
        "published weights have it; 8 by 9 is odd in one direction only", (1, 8, 9), (1, 1, 1),
        block_out_channels=(3, 6), save=save_with_old_names)
    add("tiled", "decoded in tiles of 8 latents, too: a batch of two; the last tile down is 1 "
        "latent high, less than the overlap, the last one across 5 wide", (1, 8, 8), (2, 13, 17),
        block_out_channels=(3, 6))
    add("tiled-one-row", "tiles side by side: latents of 6 by 15", (1, 8, 8), (1, 6, 15),
        block_out_channels=(4, 2, 6), norm_num_groups=2)
    add("tiled-column", "one level: latents of 15 by 7, the second column "
        "of tiles 1 wide and within the first", (1, 5, 5), (1, 15, 7),
        block_out_channels=(6,))


# ----------------------------------------------------------------------------- the tiny autoencoder


class TinyBlock(torch.nn.Module):
    """TAESD's block. With `pool`: x += pool(x) first, as in the models for FLUX.2."""

    def __init__(self, c, pool=False):
        super().__init__()
        conv = torch.nn.Conv2d
        self.conv = torch.nn.Sequential(conv(c, c, 3, padding=1), torch.nn.ReLU(),
                                        conv(c, c, 3, padding=1), torch.nn.ReLU(),
                                        conv(c, c, 3, padding=1))
        if pool:
            self.pool = torch.nn.Sequential(
                conv(c, 4 * c, 1, bias=False), torch.nn.GroupNorm(4, 4 * c), torch.nn.ReLU(),
                conv(4 * c, c, 1, bias=False))

    def forward(self, x):
        if hasattr(self, "pool"):
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


class ClampTanh(torch.nn.Module):
    def forward(self, x):
        return torch.tanh(x / 3) * 3


class TinyOriginal(torch.nn.Module):
    """The tiny autoencoder under its first names: two plain sequences, colours in 0..1."""

    def __init__(self, c, latent_channels, pool):
        super().__init__()

        def conv(i, o, **options):
            return torch.nn.Conv2d(i, o, 3, padding=1, **options)

        def down():
            return conv(c, c, stride=2, bias=False)

        def up():
            return [torch.nn.Upsample(scale_factor=2), conv(c, c, bias=False)]

        def blocks(n, pool=False):
            return [TinyBlock(c, pool) for _ in range(n)]

        self.encoder = torch.nn.Sequential(
            conv(3, c), *blocks(1), down(), *blocks(3), down(), *blocks(3), down(),
            *blocks(3, pool), conv(c, latent_channels))
        self.decoder = torch.nn.Sequential(
            ClampTanh(), conv(latent_channels, c), torch.nn.ReLU(), *blocks(3, pool), *up(),
            *blocks(3), *up(), *blocks(3), *up(), *blocks(1), conv(c, 3))


def calm(sequence, last, x):
    """Scales the last convolution so that the output's deviation is near 1."""
    last.weight.data /= sequence(x).std()


def make_autoencoder_tiny():
    from diffusers import AutoencoderTiny

    def compute(model, image, latents):
        return {"encoded": model.encode(image).latents, "decoded": model.decode(latents).sample}

    def compute_tiled(model, image, latents):
        model.enable_tiling()
        model.tile_latent_min_size = tile
        # diffusers has 2 ** out_channels, which is right for TAESD's four levels alone.
        model.spatial_scale_factor = 2 ** (len(model.config.decoder_block_out_channels) - 1)
        tiled = model.decode(latents).sample
        model.disable_tiling()
        return {**compute(model, image, latents), "decoded_tiled": tiled}

    def original(model, image_0_1, latents):
        return {"encoded": model.encoder(image_0_1), "decoded_0_1": model.decoder(latents)}

    def two_files(model, folder):
        for part in ("encoder", "decoder"):
            state = getattr(model, part).state_dict()
            save_file({k: v.contiguous() for k, v in state.items()}, f"{folder}/{part}.safetensors")

    def calmed(model, image, latents):
        encoder, decoder = model.encoder, model.decoder
        layers = (getattr(encoder, "layers", encoder), getattr(decoder, "layers", decoder))
        calm(encoder, layers[0][-1], image)
        calm(decoder, layers[1][-1], latents)
        return model

    def add(name, what, seed, image, latents, **config):
        model = randomize(AutoencoderTiny(**config), seed)
        channels = model.config.latent_channels
        inputs = {"image": randn(seed + 1, image[0], 3, *image[1:]).clamp(-1, 1),
                  "latents": randn(seed + 2, latents[0], channels, *latents[1:]) * 4}
        run, tiled = (compute_tiled, {"tile": tile}) if name == "tiled" else (compute, {})
        return network(f"tiny-{name}", what, calmed(model, **inputs), run, inputs, **tiled), inputs

    tile = 16
    wide = {"encoder_block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 4}
    model, inputs = add("base", "the layout of TAESD, four channels wide; image sides that are no "
                        "multiples of 8", 5000, (1, 24, 19), (1, 3, 2), **wide)
    add("shallow", "two levels, three latent channels, a batch of two, other latent_magnitude and "
        "latent_shift (which encode and decode do not apply)", 5010, (2, 9, 13), (2, 5, 3),
        encoder_block_out_channels=(5, 5), decoder_block_out_channels=(5, 5),
        num_encoder_blocks=(1, 2), num_decoder_blocks=(2, 1), latent_channels=3,
        latent_magnitude=2, latent_shift=0.25)
    add("tiled", "decoded in tiles of 16 latents, too: the last tile down is 3 latents high, the "
        "last one across 1 wide, less than the overlap", 5030, (1, 4, 4), (2, 17, 29),
        encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
    plain = TinyOriginal(4, 4, pool=False)
    plain.encoder.load_state_dict(
        {k.removeprefix("layers."): v for k, v in model.encoder.state_dict().items()})
    shifted = {}
    for name, tensor in model.decoder.state_dict().items():
        _, i, rest = name.split(".", 2)
        shifted[f"{int(i) + 1}.{rest}"] = tensor
    plain.decoder.load_state_dict(shifted)
    inputs = {"image_0_1": inputs["image"] / 2 + 0.5, "latents": inputs["latents"]}
    network("tiny-first-names", "tiny-base's weights under TAESD's own names, in two files, "
            "colours in 0..1", plain.eval().requires_grad_(False), original, inputs, save=two_files)
    for name, tensor in original(plain, **inputs).items():
        known = compute(model, inputs["image_0_1"] * 2 - 1, inputs["latents"])
        known = known["encoded"] if name == "encoded" else known["decoded"] / 2 + 0.5
        assert difference(tensor, known) < 1e-5
    pooled = randomize(TinyOriginal(8, 5, pool=True), 5020)
    inputs = {"image_0_1": torch.rand(1, 3, 16, 24, generator=generator(5021)),
              "latents": randn(5022, 1, 5, 3, 2) * 4}
    calmed(pooled, inputs["image_0_1"], inputs["latents"])
    network("tiny-pool", "the plan of the models for FLUX.2: `pool` in the three blocks next to "
            "the latents; first names, in two files, float16", pooled, original, inputs,
            dtype=torch.float16, save=two_files)


def check_taef2(folder):
    """Compares the plan of `TinyOriginal` with what the trained weights in `folder` should give."""
    import numpy as np
    model = TinyOriginal(64, 32, pool=True).eval().requires_grad_(False)
    for part in ("encoder", "decoder"):
        state = load_file(f"{folder}/taef2_{part}.safetensors")
        getattr(model, part).load_state_dict({k: v.float() for k, v in state.items()}, strict=True)
    golden = np.load(f"{folder}/golden_64.npz")
    encoded = model.encoder(torch.from_numpy(golden["rgb"])[None])[0]
    known = torch.from_numpy(golden["taef2_latent"])
    decoded = model.decoder(known[None])[0]
    print("latent differs", float((encoded - known).abs().max()), "of", float(known.abs().max()))
    expected = torch.from_numpy(golden["taef2_decoded"])
    print("image differs", float((decoded - expected).abs().max()), "and once clamped",
          float((decoded.clamp(0, 1) - expected).abs().max()),
          "; unclamped range", float(decoded.min()), float(decoded.max()))


def make_networks():
    make_unet_2d()
    make_unet_2d_condition()
    make_clip()
    make_autoencoder_kl()
    make_autoencoder_tiny()


# ---------------------------------------------------------------------------------------- pipelines


def to_png(image, path):
    from PIL import Image
    Image.fromarray((image * 255).round().astype("uint8")).save(path)


def write_pipeline(name, args, run):
    """`run(seed, layout)` gives one image's `image` [h, w, 3] in 0..1, `latents` [calls, c, h, w].
    Image k of a batch is a run of its own with seed + k."""
    folder = f"{HERE}/pipelines/{name}"

    def all_images(layout):
        parts = [run(args["seed"] + k, layout) for k in range(args["batch"])]
        tensors = {"image": torch.stack([p["image"] for p in parts]),
                   "latents_per_step": torch.stack([p["latents"] for p in parts], dim=1)}
        return {**tensors, **{k: v for k, v in parts[0].items() if k not in ("image", "latents")}}

    tensors = all_images(torch.contiguous_format)
    other = without_onednn(lambda: all_images(torch.channels_last))
    image, latents = (float((tensors[k] - other[k]).abs().max())
                      for k in ("image", "latents_per_step"))
    save_file({k: v.contiguous() for k, v in tensors.items()}, f"{folder}/expected.safetensors")
    for k, picture in enumerate(tensors["image"]):
        to_png(picture.numpy(), f"{folder}/expected_{k}.png")
    write_json(f"{folder}/args.json", {
        **args, "torch_f32_differs": {"image": float(f"{image:.1e}"),
                                      "latents": float(f"{latents:.1e}")},
        "tolerance": {"image": 2e-4, "latents": 1e-3}})
    last = tensors["latents_per_step"][-1]
    print(f"{name}: image differs {image:.1e}, latents {latents:.1e}; image deviation "
          f"{float(tensors['image'].std()):.2f}, last latents {float(last.std()):.2f}")


def recording(scheduler):
    """Makes `scheduler.step` keep what it returns. Pipelines look at its signature to learn whether
    it takes `eta` and `generator`, so the signature stays."""
    kept, step = [], scheduler.step

    @functools.wraps(step)
    def recorded(*args, **options):
        result = step(*args, **options)
        kept.append((result[0] if isinstance(result, tuple) else result.prev_sample)[0].clone())
        return result

    scheduler.step = recorded
    return kept


def make_unconditional_pipelines():
    from diffusers import (DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel)

    def add(name, what, seed, kind, scheduler, unet, steps, batch=1, eta=None):
        folder = fresh(f"{HERE}/pipelines/{name}")
        kind(unet=randomize(unet, seed), scheduler=scheduler).save_pretrained(f"{folder}/model")

        def run(image_seed, layout):
            pipe = kind.from_pretrained(f"{folder}/model")
            pipe.unet.to(memory_format=layout)
            pipe.set_progress_bar_config(disable=True)
            kept = recording(pipe.scheduler)
            options = {} if eta is None else {"eta": eta}
            image = pipe(generator=generator(image_seed), num_inference_steps=steps,
                         output_type="np", **options).images[0]
            return {"image": torch.from_numpy(image), "latents": torch.stack(kept)}

        args = {"what": what, "pipeline": kind.__name__, "model": "model",
                "scheduler": type(scheduler).__name__, "seed": seed + 1, "rng": "torch cpu",
                "steps": steps, "batch": batch}
        write_pipeline(name, args if eta is None else {**args, "eta": eta}, run)

    small = {"layers_per_block": 1, "norm_num_groups": 2, "attention_head_dim": 2}
    add("ddpm-v-learned-range", "v-prediction, a learned_range variance, dynamic thresholding; "
        "three levels; 12 by 20", 6000, DDPMPipeline,
        DDPMScheduler(prediction_type="v_prediction", variance_type="learned_range",
                      thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1.5,
                      beta_schedule="squaredcos_cap_v2"),
        UNet2DModel(sample_size=[12, 20], block_out_channels=(4, 6, 6), out_channels=6,
                    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
                    up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), **small), steps=12)
    add("ddim-eta-batch-2", "two images, the second with seed + 1; eta 0.5, prediction of the "
        "sample, scaled_linear betas; 10 by 14", 6010, DDIMPipeline,
        DDIMScheduler(prediction_type="sample", beta_schedule="scaled_linear",
                      clip_sample_range=1.5),
        UNet2DModel(sample_size=[10, 14], block_out_channels=(6, 4),
                    down_block_types=("AttnDownBlock2D", "DownBlock2D"),
                    up_block_types=("UpBlock2D", "AttnUpBlock2D"), **small),
        steps=7, batch=2, eta=0.5)


def make_shared_sd():
    """One tiny Stable Diffusion for all text-to-image cases: its scheduler is each case's own."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel
    folder = fresh(f"{HERE}/pipelines/shared-sd")
    randomize(CLIPTextModel(CLIPTextConfig(
        vocab_size=1000, hidden_size=10, intermediate_size=21, num_attention_heads=2,
        num_hidden_layers=3, max_position_embeddings=77, projection_dim=10, bos_token_id=998,
        eos_token_id=999, pad_token_id=999)), 7000).save_pretrained(f"{folder}/text_encoder")
    randomize(UNet2DConditionModel(
        sample_size=12, block_out_channels=(4, 6, 8), layers_per_block=1, norm_num_groups=2,
        attention_head_dim=2, cross_attention_dim=10,
        down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2), 7001,
    ).save_pretrained(f"{folder}/unet")
    vae = randomize(AutoencoderKL(
        block_out_channels=(4, 6, 6), layers_per_block=1, norm_num_groups=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        sample_size=48), 7002)
    vae.save_pretrained(f"{folder}/vae")
    DDIMScheduler(**SD_BETAS, clip_sample=False, set_alpha_to_one=False,
                  steps_offset=1).save_pretrained(f"{folder}/scheduler")
    shutil.copytree(f"{HERE}/conformance/sd1-ddim/model/tokenizer", f"{folder}/tokenizer",
                    ignore=shutil.ignore_patterns("tokenizer.json", "special_tokens_map.json"))
    diffusers, transformers, nothing = "diffusers", "transformers", [None, None]
    write_json(f"{folder}/model_index.json", {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1",
        "feature_extractor": nothing, "image_encoder": nothing, "requires_safety_checker": False,
        "safety_checker": nothing, "scheduler": [diffusers, "DDIMScheduler"],
        "text_encoder": [transformers, "CLIPTextModel"],
        "tokenizer": [transformers, "CLIPTokenizer"],
        "unet": [diffusers, "UNet2DConditionModel"], "vae": [diffusers, "AutoencoderKL"]})
    return folder


SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def text_embedding(pipe, text, clip_skip):
    """Token ids and the text encoder's states: `clip_skip` counts layers from the end as the web
    UIs do, so 1 is the last one, and 2 is the last but one under the final layer norm."""
    ids = pipe.tokenizer(text, padding="max_length", max_length=77, truncation=True,
                         return_tensors="pt").input_ids
    out = pipe.text_encoder(ids, output_hidden_states=True)
    if clip_skip == 1:
        return ids, out.last_hidden_state
    return ids, pipe.text_encoder.final_layer_norm(out.hidden_states[-clip_skip])


def make_text_to_image_pipelines():
    import diffusers
    from diffusers import StableDiffusionPipeline
    shared = make_shared_sd()

    def add(name, what, scheduler, seed, steps, width=40, height=24, prompt="a small red house",
            negative_prompt="", cfg_scale=7.5, eta=None, clip_skip=1, batch=1, **overrides):
        folder = fresh(f"{HERE}/pipelines/{name}")
        kind = getattr(diffusers, scheduler)
        kind(**SD_BETAS, **overrides).save_pretrained(f"{folder}/scheduler")

        def run(image_seed, layout):
            pipe = StableDiffusionPipeline.from_pretrained(
                shared, scheduler=kind.from_pretrained(f"{folder}/scheduler"))
            pipe.unet.to(memory_format=layout)
            pipe.vae.to(memory_format=layout)
            pipe.set_progress_bar_config(disable=True)
            kept = recording(pipe.scheduler)
            ids, wanted = text_embedding(pipe, prompt, clip_skip)
            _, unwanted = text_embedding(pipe, negative_prompt, 1)
            options = {} if eta is None else {"eta": eta}
            image = pipe(prompt_embeds=wanted, negative_prompt_embeds=unwanted, height=height,
                         width=width, num_inference_steps=steps, guidance_scale=cfg_scale,
                         generator=generator(image_seed), output_type="np", **options).images[0]
            return {"image": torch.from_numpy(image), "latents": torch.stack(kept),
                    "input_ids": ids.int()}

        args = {"what": what, "pipeline": "StableDiffusionPipeline", "model": "../shared-sd",
                "scheduler": scheduler, "scheduler_overrides": overrides, "prompt": prompt,
                "negative_prompt": negative_prompt, "seed": seed, "rng": "torch cpu",
                "steps": steps, "cfg_scale": cfg_scale, "width": width, "height": height,
                "batch": batch, "clip_skip": clip_skip}
        write_pipeline(name, args if eta is None else {**args, "eta": eta}, run)

    offset = {"steps_offset": 1}
    add("sd-clip-skip-2", "the text encoder's last layer but one for the prompt, the last one for "
        "the negative prompt, as diffusers has it; odd latents at each lower level; Euler",
        "EulerDiscreteScheduler", 11, 8, width=56, height=40, clip_skip=2,
        negative_prompt="blurry, dark", timestep_spacing="leading", **offset)
    add("sd-no-guidance", "guidance 1: one evaluation a step, the negative prompt has no say",
        "DDIMScheduler", 12, 6, cfg_scale=1.0, negative_prompt="must not matter", clip_sample=False,
        set_alpha_to_one=False, **offset)
    add("sd-ddim-eta", "DDIM with eta 0.7: fresh noise at each step", "DDIMScheduler", 13, 7,
        eta=0.7, clip_sample=False, set_alpha_to_one=False, **offset)
    add("sd-ddim-zero-snr", "v-prediction, rescale_betas_zero_snr, trailing spacing",
        "DDIMScheduler", 14, 6, prediction_type="v_prediction", rescale_betas_zero_snr=True,
        clip_sample=False, timestep_spacing="trailing")
    add("sd-lcm", "LCM: few steps, fresh noise between them", "LCMScheduler", 15, 4, cfg_scale=1.5)
    add("sd-unipc", "UniPC, order 2, bh2", "UniPCMultistepScheduler", 16, 8)
    add("sd-heun", "Heun: two evaluations a step but for the last", "HeunDiscreteScheduler", 17, 5)
    add("sd-lms", "LMS, order 4", "LMSDiscreteScheduler", 18, 8)
    add("sd-dpm2", "DPM2: two evaluations a step but for the last", "KDPM2DiscreteScheduler", 19, 5)
    add("sd-euler-trailing", "Euler with trailing spacing", "EulerDiscreteScheduler", 20, 6,
        timestep_spacing="trailing")
    add("sd-dpmpp2m-sde-karras", "DPM-Solver++ 2M in its SDE form on Karras sigmas",
        "DPMSolverMultistepScheduler", 21, 7, algorithm_type="sde-dpmsolver++",
        use_karras_sigmas=True)
    add("sd-euler-a-batch-2", "two images, the second with seed + 1; Euler ancestral",
        "EulerAncestralDiscreteScheduler", 22, 5, batch=2, **offset)


def make_pixel_pipeline():
    """Text to image without an autoencoder. diffusers has no such pipeline: a plain loop over its
    networks and its scheduler."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    name, tokens = "pixels-ddim-v", 16
    folder = fresh(f"{HERE}/pipelines/{name}")
    model = f"{folder}/model"
    randomize(CLIPTextModel(CLIPTextConfig(
        vocab_size=1000, hidden_size=12, intermediate_size=20, num_attention_heads=2,
        num_hidden_layers=2, max_position_embeddings=tokens, projection_dim=12, bos_token_id=998,
        eos_token_id=999, pad_token_id=999)), 7100).save_pretrained(f"{model}/text_encoder")
    randomize(UNet2DConditionModel(
        sample_size=[12, 20], in_channels=3, out_channels=3, block_out_channels=(4, 6, 8),
        layers_per_block=1, norm_num_groups=2, attention_head_dim=2, cross_attention_dim=12,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",)), 7101,
    ).save_pretrained(f"{model}/unet")
    DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction",
                  timestep_spacing="trailing", clip_sample=True).save_pretrained(
                      f"{model}/scheduler")
    shutil.copytree(f"{HERE}/conformance/sd1-ddim/model/tokenizer", f"{model}/tokenizer",
                    ignore=shutil.ignore_patterns("tokenizer.json", "special_tokens_map.json"))
    diffusers, transformers, nothing = "diffusers", "transformers", [None, None]
    write_json(f"{model}/model_index.json", {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1",
        "scheduler": [diffusers, "DDIMScheduler"],
        "text_encoder": [transformers, "CLIPTextModel"],
        "tokenizer": [transformers, "CLIPTokenizer"],
        "unet": [diffusers, "UNet2DConditionModel"], "vae": nothing})
    args = {"what": "text to image without an autoencoder: the sample is the picture; "
            "v-prediction, trailing spacing, clipping, three channels, 12 by 20",
            "pipeline": "a loop", "model": "model", "prompt": "a small red house",
            "negative_prompt": "blurry", "seed": 23, "rng": "torch cpu", "steps": 7,
            "cfg_scale": 3.0, "batch": 1}

    def run(seed, layout):
        encoder = CLIPTextModel.from_pretrained(f"{model}/text_encoder")
        unet = UNet2DConditionModel.from_pretrained(f"{model}/unet").to(memory_format=layout)
        scheduler = DDIMScheduler.from_pretrained(f"{model}/scheduler")
        tokenizer = CLIPTokenizer.from_pretrained(f"{model}/tokenizer")

        def encode(text):
            ids = tokenizer(text, padding="max_length", max_length=tokens, truncation=True,
                            return_tensors="pt").input_ids
            return ids, encoder(ids).last_hidden_state

        (ids, wanted), (_, unwanted) = encode(args["prompt"]), encode(args["negative_prompt"])
        scheduler.set_timesteps(args["steps"])
        x, kept = torch.randn((1, 3, 12, 20), generator=generator(seed)), []
        for t in scheduler.timesteps:
            with_it, without = unet(x, t, wanted).sample, unet(x, t, unwanted).sample
            output = without + args["cfg_scale"] * (with_it - without)
            x = scheduler.step(output, t, x).prev_sample
            kept.append(x[0].clone())
        image = (x[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)
        return {"image": image, "latents": torch.stack(kept), "input_ids": ids.int()}

    write_pipeline(name, args, run)


def make_pipelines():
    make_unconditional_pipelines()
    make_text_to_image_pipelines()
    make_pixel_pipeline()


def main(words):
    import diffusers
    import transformers
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_grad_enabled(False)
    if words[:1] == ["taef2"]:
        return check_taef2(words[1])
    if words[:1] == ["tokenizer"]:
        return run_file("tokenizer", words[1:])
    groups = {"ops": make_ops, "networks": make_networks, "pipelines": make_pipelines}
    groups |= {name: functools.partial(run_file, name, []) for name in ("samplers", "noise", "gradients")}
    for word in words or groups:
        groups[word]()


def run_file(name, arguments):
    """Runs the script of another group in a process of its own: each sets up PyTorch its way."""
    command = [sys.executable, f"{name}.py", *map(os.path.abspath, arguments)]
    subprocess.run(command, cwd=HERE, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
