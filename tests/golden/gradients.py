"""Gradients of whole small networks and 200 steps of training, as PyTorch's autograd and AdamW have
them. make.py runs it; README.md says what each file holds."""
import json
import math
import os
import shutil

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS = 200


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def alphas_cumprod(count=1000):
    """squaredcos_cap_v2, as the other schedules: accumulated in f64, rounded at each element."""
    bar = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = [min(1 - bar((i + 1) / count) / bar(i / count), 0.999) for i in range(count)]
    alphas = 1.0 - torch.tensor(betas, dtype=torch.float32)
    return torch.cumprod(alphas.double(), 0).float()


def scramble(module, seed):
    """Moves norms and biases off 1 and 0, so that forgetting one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


# Blocks of 2x2 pixels, and the prompt's last token in every resnet.
TEXT_UNET = dict(
    sample_size=8, in_channels=12, out_channels=12, block_out_channels=[16, 24], layers_per_block=1,
    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"], mid_block_type="UNetMidBlock2DCrossAttn",
    cross_attention_dim=16, attention_head_dim=2, norm_num_groups=4,
    class_embed_type="simple_projection", projection_class_embeddings_input_dim=16)

TEXT_ENCODER = dict(
    vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=6, hidden_act="quick_gelu", bos_token_id=38, eos_token_id=39,
    pad_token_id=39)

CLASS_UNET = dict(
    sample_size=8, in_channels=3, out_channels=3, block_out_channels=[12, 16], layers_per_block=1,
    down_block_types=["AttnDownBlock2D", "ResnetDownsampleBlock2D"],
    up_block_types=["AttnUpBlock2D", "UpBlock2D"], norm_num_groups=4, attention_head_dim=8,
    downsample_type="resnet", upsample_type="resnet", resnet_time_scale_shift="scale_shift",
    num_class_embeds=5)

PLAIN_UNET = dict(
    sample_size=9, in_channels=3, out_channels=3, block_out_channels=[8, 12], layers_per_block=1,
    down_block_types=["DownBlock2D", "AttnDownBlock2D"], downsample_padding=0,
    up_block_types=["AttnUpBlock2D", "UpBlock2D"], norm_num_groups=2, attention_head_dim=None)


class Text(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(11)
        self.unet = UNet2DConditionModel(**TEXT_UNET)
        self.text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER))
        scramble(self, 12)

    def forward(self, x, t, tokens, labels):
        states = self.text_encoder(tokens).last_hidden_state
        said = self.unet(x, t, encoder_hidden_states=states, class_labels=states[:, -1])
        return said.sample


class Pictures(torch.nn.Module):
    def __init__(self, config, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.unet = UNet2DModel(**config)
        scramble(self, seed + 1)

    def forward(self, x, t, tokens, labels):
        return self.unet(x, t, class_labels=labels).sample


def batch(seed, n, size, channels, tokens, classes):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high, shape: torch.randint(0, high, shape, generator=generator)
    return {
        "pictures": randn(seed + 1, n, channels, size, size).clamp(-1, 1),
        "noise": randn(seed + 2, n, channels, size, size),
        "timesteps": draw(1000, (n,)),
        "tokens": draw(40, (n, 6)) if tokens else None,
        "labels": draw(classes, (n,)) if classes else None,
    }


def losses_of(model, data, prediction, min_snr, ac):
    """One weighted loss a sample."""
    a = ac.to(data["pictures"].dtype)[data["timesteps"]].view(-1, 1, 1, 1)
    x0, noise = data["pictures"], data["noise"]
    x = a.sqrt() * x0 + (1 - a).sqrt() * noise
    said = model(x, data["timesteps"], data["tokens"], data["labels"])
    target = {"epsilon": noise, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * x0,
              "sample": x0}[prediction]
    loss = ((said - target) ** 2).mean(dim=(1, 2, 3))
    if min_snr:
        snr = (a / (1 - a)).flatten()
        clipped = snr.clamp(max=min_snr)
        loss = loss * {"epsilon": clipped / snr, "v_prediction": clipped / (snr + 1),
                       "sample": clipped}[prediction]
    return loss


def nhwc(x):
    return x.permute(0, 2, 3, 1).contiguous()


def stored(data):
    tensors = {}
    for name, value in data.items():
        if value is not None:
            tensors[name] = nhwc(value) if value.dim() == 4 else value.to(torch.int32)
    return {name: value.contiguous() for name, value in tensors.items()}


def names(model):
    """transformers 5 leaves `text_model.` out; so do the cases."""
    clean = lambda name: name.replace("text_encoder.text_model.", "text_encoder.")
    return {clean(name): value for name, value in model.named_parameters()}


def write_case(folder, name, model, config, prediction, min_snr, size, classes, steps):
    here = os.path.join(folder, name)
    os.makedirs(here)
    ac = alphas_cumprod()
    channels = config["unet"]["in_channels"]
    data = batch(100, 3, size, channels, "text_encoder" in config, classes)
    wide = {k: v.double() if v is not None and v.is_floating_point() else v
            for k, v in data.items()}
    weights = {k: v.detach().clone() for k, v in names(model).items()}
    # The gradients in f64, which is what f32 is measured against.
    model.double()
    losses = losses_of(model, wide, prediction, min_snr, ac)
    losses.mean().backward()
    gradients = {f"gradient.{k}": v.grad.float() for k, v in names(model).items()}
    model.zero_grad()
    model.float()
    save_file({k: v.contiguous() for k, v in weights.items()}, f"{here}/weights.safetensors")
    save_file({**gradients, **stored(data), "losses": losses.float()}, f"{here}/io.safetensors")
    for part, settings in config.items():
        with open(f"{here}/{part}.json", "w") as f:
            f.write(json.dumps(settings, indent=1) + "\n")
    description = dict(prediction=prediction, min_snr=min_snr)
    if steps:
        description["training"] = train(model, weights, [channels, size, size], prediction,
                                        min_snr, ac, classes)
    with open(f"{here}/case.json", "w") as f:
        f.write(json.dumps(description, indent=1) + "\n")


def train(model, weights, sample, prediction, min_snr, ac, classes):
    """The losses of 200 steps of AdamW on batches that depend on the step's number alone: noise and
    pictures from PyTorch's generator with that seed, times and tokens by arithmetic."""
    for name, parameter in names(model).items():
        parameter.data.copy_(weights[name])
    settings = dict(learning_rate=1e-3, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.01,
                    clip_norm=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=0.01)
    curve = []
    for step in range(1, STEPS + 1):
        data = {
            "pictures": (0.4 * randn(step % 8, 4, *sample)).clamp(-1, 1),
            "noise": randn(1000 + step, 4, *sample),
            "timesteps": torch.tensor([(step * 131 + i * 241) % 1000 for i in range(4)]),
            "tokens": torch.tensor([[(step % 8 + i * 7 + j * 3) % 40 for j in range(6)]
                                    for i in range(4)]),
            "labels": torch.tensor([(step + i) % 5 for i in range(4)]) if classes else None,
        }
        loss = losses_of(model, data, prediction, min_snr, ac).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
        optimizer.step()
        curve.append(round(float(loss.detach()), 6))
    return dict(settings, batch=4, losses=curve)


def main():
    folder = os.path.join(HERE, "gradients")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    write_case(folder, "text", Text(), dict(unet=TEXT_UNET, text_encoder=TEXT_ENCODER),
               "v_prediction", 5.0, 8, None, True)
    write_case(folder, "classes", Pictures(CLASS_UNET, 21), dict(unet=CLASS_UNET), "epsilon", 5.0,
               8, 5, True)
    write_case(folder, "odd", Pictures(PLAIN_UNET, 31), dict(unet=PLAIN_UNET), "sample", None, 10,
               None, False)


if __name__ == "__main__":
    main()
