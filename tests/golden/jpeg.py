"""Small JPEGs of every kind, and the pixels that Pillow 13 (libjpeg-turbo 3.2) makes of each, as PNG.

Pillow writes 4:4:4, 4:2:2, 4:2:0 and 4:1:1; the files of other samplings and with arithmetic coding
(4-4-0, 4-4-1, 4-1-0, arithmetic) were written by the crate libjpeg-turbo-rs and lie in jpeg/: only their
pixels are made. Usage: python3 jpeg.py
"""

import numpy as np
from pathlib import Path
from PIL import Image

HERE = Path(__file__).parent / "jpeg"


def picture(width, height, seed):
    """Waves, with noise in the lower half."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    waves = [127 + 120 * np.sin(x / 3 + y / 5), 127 + 120 * np.cos(x / 4 - y / 2), (9 * x + 5 * y) % 256]
    pixels = np.stack(waves, -1)
    noise = np.random.default_rng(seed).integers(0, 256, pixels.shape)
    pixels[height // 2 :] = noise[height // 2 :]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def main():
    kinds = {
        "4-4-4": ((17, 15), dict(subsampling=0, quality=90)),
        "4-2-2": ((19, 13), dict(subsampling=1, quality=60)),
        "4-2-0": ((21, 17), dict(subsampling=2, quality=75)),
        "4-1-1": ((37, 9), dict(subsampling="4:1:1", quality=85)),
        "progressive": ((33, 18), dict(subsampling=2, quality=95, progressive=True)),
        "restarts": ((40, 24), dict(subsampling=2, quality=80, restart_marker_blocks=1)),
        "narrow": ((1, 11), dict(subsampling=2, quality=70)),
        "rgb": ((11, 10), dict(quality=90, keep_rgb=True)),
        "coarse": ((24, 16), dict(subsampling=2, quality=3)),
    }
    for seed, (name, (size, options)) in enumerate(kinds.items()):
        picture(*size, seed).save(HERE / f"{name}.jpg", "JPEG", **options)
    picture(13, 12, 20).convert("L").save(HERE / "grey.jpg", "JPEG", quality=80)
    picture(18, 10, 21).convert("CMYK").save(HERE / "cmyk.jpg", "JPEG", quality=85)
    # A progressive picture that ends after its second scan, as a coarse one may by intent.
    whole = (HERE / "progressive.jpg").read_bytes()
    scans, at = [], 2
    while whole[at + 1] != 0xD9:
        mark, end = whole[at + 1], at + 2 + int.from_bytes(whole[at + 2 : at + 4])
        if mark == 0xDA:
            while whole[end] != 0xFF or whole[end + 1] in (0, *range(0xD0, 0xD8)):
                end += 1
            scans.append(end)
        at = end
    (HERE / "two-scans.jpg").write_bytes(whole[: scans[1]] + b"\xff\xd9")
    for path in sorted(HERE.glob("*.jpg")):
        Image.open(path).convert("RGB").save(path.with_suffix(".png"), optimize=True)


main()
