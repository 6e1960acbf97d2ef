"""Writes tokenizer/expected.json: what transformers' CLIPTokenizer makes of hostile texts.

Versions: transformers 5.23.0, tokenizers 0.23.3 (Python 3.11).
Usage: python tokenizer.py PATH/bpe_simple_vocab_16e6.txt.gz [PATH/conformance]
The first is OpenAI CLIP's list of merges; the second holds the conformance cases' expected ids.
       python tokenizer.py --trained PATH/tokenizer
writes tokenizer/trained.json: what a vocabulary that `mote train` made of captions becomes there.
"""

import gzip
import json
import pathlib
import random
import shutil
import sys
import tempfile
import unicodedata

import tokenizers
import transformers
from transformers import CLIPTokenizer

assert transformers.__version__ == "5.23.0" and tokenizers.__version__ == "0.23.3"
HERE = pathlib.Path(__file__).parent / "tokenizer"
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WHITE = [chr(c) for c in [*range(9, 14), 0x1C, 0x1D, 0x1E, 0x1F, 0x20, 0x85, 0xA0, 0x1680, 0x180E,
         *range(0x2000, 0x200E), 0x2028, 0x2029, 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF]]


def hostile():
    """Texts that a tokenizer may get wrong, by kind."""
    yield from ["", " ", "   ", "\t\n\r\n", "\u3000\u00a0", "".join(WHITE)]
    yield from [chr(c) for c in range(128)]
    yield from [f"a{chr(c)}b" for c in range(128) if not chr(c).isalnum()]
    yield "".join(chr(c) for c in range(128))
    yield "".join(chr(c) for c in range(128, 384))
    yield from [f"x{w}y" for w in WHITE] + [f"!{w}{w}!" for w in WHITE]
    for end in ["s", "t", "re", "ve", "m", "ll", "d", "S", "T", "RE", "Ve", "M", "lL", "D", "x",
            "r", "v", "l", "stuff", "red", "LLama", "\u017f", "\u212a"]:
        yield from [f"it'{end}", f"'{end}", f"!'{end}", f"''{end}", f"it\u2019{end}",
            f"9'{end}'{end}"]
    yield from ["can't won't I'm we'll they'd y'all'd've", "rock 'n' roll", "'''", "'s's's", "s'",
        "'\u00a0s"]
    yield from ["1234567890", "3.14159", "\u0663", "\u2167", "\u00bd", "x\u00b2y\u2083", "a1b2c3",
        "\u216b\u216c", "\u3007\u4e00\u4e8c", "\U0001d7d8\U0001d7e2", "\u0967\u0968\u0969",
        "\u2460\u2474\u2776", "10\u20ac", "\U00010107"]
    for text in ["caf\u00e9", "\u00c5ngstr\u00f6m", "\u1e9b\u0323", "\u0344", "\u212b", "\u1f80",
            "\u01d5", "\uac00\uac01\ud7a3", "q\u0307\u0323", "a\u0315\u0300\u05ae\u0300b",
            "\u0958\u095d", "\ufb1d\ufb4e", "\u2adc", "\u0f73\u0f71\u0f80", "\u00e9\u00e8\u00ea",
            "\U0001d15e", "\u2260\u226e\u226f", "\u1100\u1161\u11a8",
            "\u1112\u1161\u11ab\u1100\u1173\u11af"]:
        for form in ["NFC", "NFD", "NFKC", "NFKD"]:
            yield unicodedata.normalize(form, text)
    yield from ["\u0301", "\u0301a", "a\u0301\u0301\u0301", "\u1100", "\u1161", "\u11a8",
        "\uac00\u11a8", "=\u0338", ">\u0338", "a\u034fb", "a\u0300\u200d\u0301",
        "\u0045\u0301\u0045\u0301"]
    yield from ["\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
        "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f\u200d\U0001f525",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "a\U0001f600b",
        "1\ufe0f\u20e3", "\u00a9\u00ae\u2122", "\U0001f9d1\u200d\U0001f680"]
    yield from ["\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
        "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
        "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd", "\u202eabc\u202c def", "\u200fa\u200e",
        "\ufdfa", "\u0640\u0640"]
    yield from ["\u6771\u4eac\u306e\u6d77", "\u304c\u304e\u3050", "\u304b\u3099", "\uff76\uff9e",
        "\u7d75\u3092\u63cf\u304f\u3002", "\uff21\uff22\uff23\uff11",
        "\ud55c\uad6d\uc5b4 \ubb38\uc7a5", "\U00020000\U0002a6d6",
        "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u1019\u103c\u1014\u103a\u1019\u102c",
        "\u0928\u092e\u0938\u094d\u0924\u0947", "\uf900\ufa0e\U0002f800"]
    zalgo = "Z\u0351\u036b\u0343\u036aa\u0354\u035al\u0348\u0359g\u0340\u0341\u0334o\u0338\u0321"
    yield zalgo * 3
    # Marks that are newer than the tables transformers composes by (Unicode 9) keep their order.
    yield from ["a\U00010f4b\u064c", "\U0001133b\u0338", "\U00011d45\u0338", "\u0130\u0321\u0d3c"]
    yield from ["\U00011935\U00011930", "a\u08d3\u0301\u0323", "\u0c3c\u0334"]
    yield from ["a\0b", "\0", "\0\0 \0", "\x01\x02\x1f", "\x7f\x80\x9f", "\ufffd", "a\ufffdb",
        "\ufffd\ufffd\ufffd", "\ufffe\uffff", "\U0010ffff", "\ue000\uf8ff", "\u200b", "a\u200bb",
        "a\u200cb\u200dc", "\ufeffa", "a\u2060b", "soft\u00adhyphen", "\u115f\u1160\u3164",
        "\U000e0001"]
    yield from ["\u0130", "\u0130stanbul", "I\u0307", "\u1e9e", "STRA\u1e9eE", "stra\u00dfe",
        "\u03a3", "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3", "\u03a3\u03a3 \u03a3",
        "\u03c2\u03c3", "\ufb00\ufb01\ufb03\ufb05", "\u01c5\u01c8\u01cb\u01f2", "\u01c4\u01c6",
        "\u1f88\u1fbc", "\u212a\u212b\u2126", "\u2160\u24b6", "\u0531\u0587",
        "\u10a0\u1c90\u13a0\uab70", "\U00010400\U0001e900", "\u0149\u01f0\u0390", "\u023a\u023e",
        "\u1e94\u1e9a", "DZ\u01f1", "\u0345\u0399"]
    for token in [BOS, EOS]:
        yield from [token, token * 3, f"a {token} b", f"a{token}b", token.upper(), token.title(),
            token[:-1], token[1:], token + ">", "<" + token, f"!!{token}!!",
            f"!! {token.upper()}!!", token.replace("o", "o "), token.replace("|", "||"),
            token + "\u0338", token + "\u0301", f" {token} ", f"{token}'s", f"'{token}s",
            token.upper() + "'s", f"{token.upper()}{token.upper()}", f"{token.upper()}{token}",
            token.replace("t", "\uff54"), f"x{token.upper()}y", f"3{token.upper()}4"]
    yield from ["<|endoftext", "|endoftext|>", "<||>", "<|pad|>", "</w>", "a</w>", "</w></w>",
        "the</w>", "#version: 0.2", "\u0120the", "\u010a", "\u0100\u0142\u0143"]
    yield " ".join(f"word{i}" for i in range(200))
    yield " ".join(["photo"] * 75)
    yield from [" ".join(["photo"] * n) for n in (74, 76, 77)] + ["the " * 200, EOS * 90, "a" * 75,
        "!" * 80, "1" * 80]
    yield "".join(random.Random(1).choice("abcdefghijklmnopqrstuvwxyz") for _ in range(5000))
    yield from ["a" * 5000, "th" * 2500, "\u6771" * 1700, "!" * 5000, "\u0301" * 300]
    yield from ["a photo of a small red house by the sea",
        "A Painting, by Rembrandt; (masterpiece:1.2), [ugly]", "(((best quality)))",
        "<lora:x:0.8> girl", "https://example.com/a?b=c&d=%20", "C:\\dir\\file",
        "\"quoted\" \u201cquoted\u201d \u00abquoted\u00bb", "a--b\u2014c\u2013d", "AND BREAK and"]


RANGES = [
    (0x20, 0x7E), (0, 0xFF), (0x100, 0x24F), (0x250, 0x36F), (0x370, 0x52F), (0x590, 0x6FF),
    (0x900, 0xDFF), (0xE00, 0x109F), (0x10A0, 0x11FF), (0x1200, 0x17FF), (0x1E00, 0x1FFF),
    (0x2000, 0x2BFF), (0x2C00, 0x2DFF), (0x3000, 0x31FF), (0x4E00, 0x9FFF), (0xA000, 0xABFF),
    (0xAC00, 0xD7A3), (0xF900, 0xFDFF), (0xFE00, 0xFFFF), (0x10000, 0x10FFF), (0x11000, 0x11FFF),
    (0x1D000, 0x1D7FF), (0x1F000, 0x1FAFF), (0x20000, 0x2A6DF), (0, 0x10FFFF),
]


def assigned(c):
    """Whether Unicode 14 has the character: later ones depend on each library's version."""
    return unicodedata.category(chr(c)) not in ("Cn", "Cs")


def rand():
    """Random strings: within a range, mixed with ASCII, and mixed over all ranges."""
    rng = random.Random(20260101)
    pools = [[c for c in range(a, b + 1) if assigned(c)] for a, b in RANGES]
    glue = [" ", "'", "'s", "1", "a", "The", "!", "\u0301", EOS, "<|", "\n"]
    for pool in pools:
        for k in range(16):
            text = ""
            for _ in range(rng.randint(1, 14)):
                kind = rng.random()
                if k % 4 == 0 or kind < 0.6:
                    text += chr(rng.choice(pool))
                elif kind < 0.85:
                    text += rng.choice(glue)
                else:
                    text += chr(rng.choice(rng.choice(pools)))
            yield text


def token(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False,
        "normalized": False, **flags}


# Folders as they are found: the files beside vocab.json and merges.txt.
OLD = {"model_max_length": 77, "add_prefix_space": False, "do_lower_case": True,
    "errors": "replace", "bos_token": {"__type": "AddedToken", **token(BOS, normalized=True)},
    "eos_token": {"__type": "AddedToken", **token(EOS, normalized=True)}, "pad_token": EOS,
    "unk_token": {"__type": "AddedToken", **token(EOS, normalized=True)}}
OLD_MAP = {"bos_token": token(BOS, normalized=True), "eos_token": token(EOS, normalized=True),
    "pad_token": EOS, "unk_token": token(EOS, normalized=True)}
SPECIAL = {"998": token(BOS, special=True), "999": token(EOS, special=True)}
SPECIAL_NORMALIZED = {**SPECIAL, "998": token(BOS, normalized=True, special=True)}
NEW = {
    **SPECIAL,
    "1500": token("<Cat Toy>", normalized=True),
    "1200": token("<cat>_1"),
    "1201": token("<cat>", normalized=False),
    "1202": token("house", single_word=True),
    "1203": token("SEA", normalized=True, single_word=True),
    "1204": token("\u00c9t", normalized=True),
    "1205": token("e", single_word=True, normalized=True, lstrip=True, rstrip=True),
    "1206": token(" b", rstrip=True),
}
NAMES = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
CONFIGS = {
    "no configuration": {},
    "stable diffusion 1": {
        "tokenizer_config.json": OLD,
        "special_tokens_map.json": OLD_MAP,
    },
    "stable diffusion 2": {
        "tokenizer_config.json": OLD,
        "special_tokens_map.json": {**OLD_MAP, "pad_token": "!"},
    },
    "pad with flags": {
        "tokenizer_config.json": OLD,
        "special_tokens_map.json": {**OLD_MAP, "pad_token": token("!")},
    },
    "decoder": {
        "tokenizer_config.json": {
            **OLD,
            "model_max_length": 1e30,
            "pad_token": "!",
            "added_tokens_decoder": {"0": token("!", special=True), **SPECIAL_NORMALIZED},
        },
    },
    "decoder, old objects": {
        "tokenizer_config.json": {**OLD, "added_tokens_decoder": SPECIAL_NORMALIZED},
    },
    "new tokens": {
        "tokenizer_config.json": {
            "pad_token": EOS,
            "added_tokens_decoder": NEW,
            "additional_special_tokens": ["<extra>", "<cat>"],
        },
    },
    "added_tokens.json": {
        "added_tokens.json": {"<Dog>": 1000, "<special>": 1001, "'s": 1002},
        "special_tokens_map.json": {**NAMES, "additional_special_tokens": ["<special>"]},
    },
    "other names": {
        "tokenizer_config.json": {
            "bos_token": "the</w>",
            "eos_token": "a</w>",
            "pad_token": "<pad>",
            "mask_token": "*",
            "x_token": "<x>",
        },
    },
}
CONFIG_TEXTS = ["", "hello!", "!! !", "a <|STARTOFTEXT|> b", "a<|endoftext|>!b", "<|EndOfText|>!",
    "<cat>_1 <cat>_2 <CAT>", "a <cat  toy> <CAT TOY>!", "the house, houses", "house",
    "ahouse house_ house-house", "sea SEA seas Sea2 \u00absea\u00bb",
    "\u00e9t\u00e9 \u00c9T e\u0301t E\u0301T\u0301", "e ee e  e_e -e-", "a b", "a  bb",
    "<extra><Extra>", "<dog> <DOG>dog", "<special> <SPECIAL>", "it's 's 'S", "the</w> a</w>",
    "<pad>", "2*3", "<x>", "sea\u0301", "sea\u200d", "house\u0301 \u0301house",
    "house\u20dd house\u0663 house\u00b2", "<|endoftext|>\u0338", "e<|endoftext|>e",
    "a photo of a small red house by the sea!", "<|STARTOFTEXT|>!!<|startoftext|>", "x\u0130<cat>",
    "'<Cat Toy>'stuff"]


def build_full(gz, folder):
    """vocab.json and merges.txt as OpenAI's CLIP builds them."""
    merges = gzip.open(gz).read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    base = list(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    chars = [chr(b) for b in visible] + [chr(256 + i) for i in range(256 - len(visible))]
    assert sorted(base) == sorted(chars)
    vocab = chars + [c + "</w>" for c in chars] + ["".join(m.split()) for m in merges] + [BOS, EOS]
    assert len(vocab) == 49408
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocab)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")


def ids(tokenizer, texts):
    """Each text's ids up to and with the first eos that ends it; the rest is padding."""
    out = []
    for text in texts:
        full = tokenizer(text, padding="max_length", truncation=True, max_length=77)
        used = sum(full["attention_mask"])
        assert set(full["input_ids"][used:]) <= {tokenizer.pad_token_id}
        assert len(full["input_ids"]) == 77
        out.append(full["input_ids"][:used])
    return out


TRAINED_TEXTS = ["", "red apple", "Red Apple, 3d", "grinning face with smiling eyes", "T-Rex",
    "face with hand over mouth", "woman gesturing OK, 3d", "1st place medal", "blue heart, love",
    "New Year\u2019s tree", "pi\u00f1ata", "A quick brown fox jumps over 13 lazy dogs!",
    "ZZZ xylophone qwerty", "\U0001f600 smile", "rolling on the floor laughing, rofl, haha", "o\u2019clock",
    "flag: \u00c5land Islands", "keycap: #", "Japanese \u201cfree of charge\u201d button", "ON! arrow"]


def trained(folder):
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    found = [tokenizer(text)["input_ids"] for text in TRAINED_TEXTS]
    lines = (json.dumps([text, ids]) for text, ids in zip(TRAINED_TEXTS, found))
    (HERE / "trained.json").write_text("[\n " + ",\n ".join(lines) + "\n]\n")


def main():
    if sys.argv[1] == "--trained":
        return trained(sys.argv[2])
    texts = list(hostile()) + list(rand())
    small = CLIPTokenizer.from_pretrained(HERE / "small")
    out = {"texts": texts, "small": ids(small, texts), "config_texts": CONFIG_TEXTS, "configs": []}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        build_full(sys.argv[1], folder)
        out["full"] = ids(CLIPTokenizer.from_pretrained(folder), texts)
    for name, files in CONFIGS.items():
        with tempfile.TemporaryDirectory() as path:
            folder = pathlib.Path(path)
            for file in ["vocab.json", "merges.txt"]:
                shutil.copy(HERE / "small" / file, folder)
            for file, content in files.items():
                (folder / file).write_text(json.dumps(content))
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            out["configs"].append({"name": name, "files": files, "pad": tokenizer.pad_token_id,
                "ids": ids(tokenizer, CONFIG_TEXTS)})
    if len(sys.argv) > 2:
        from safetensors.numpy import load_file

        out["conformance"] = []
        for path in sorted(pathlib.Path(sys.argv[2]).glob("*/expected.safetensors")):
            expected = load_file(path)
            if "input_ids" in expected:
                prompt = json.loads((path.parent / "args.json").read_text())["prompt"]
                out["conformance"].append({"prompt": prompt,
                    "ids": expected["input_ids"].tolist()[0]})
    lines = ",\n".join(f" {json.dumps(k)}: [\n" + ",\n".join("  " + json.dumps(x, separators=(",",
        ":")) for x in v) + "\n ]" for k, v in out.items())
    (HERE / "expected.json").write_text("{\n" + lines + "\n}\n")
    print({k: len(v) for k, v in out.items()})


if __name__ == "__main__":
    main()
