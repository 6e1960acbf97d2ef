//! Models as they are published, converted, edited by hand and left behind: what other tools read,
//! the binary reads, with the same picture; and where it cannot, a sentence says why.

use std::fs;
use std::path::Path;

use mote_tests::cases::pipeline;
use mote_tests::files::{RawTensor, copied, copy, of_tensors, parts, set, tensors, whole};
use mote_tests::json as read_json;
use serde_json::{Value, json};

use crate::command::{drawn, fails, mote, says, text};

fn draw(model: &Path, more: &[&str]) -> Vec<u8> {
    drawn(model, &[&["-t", "1", "--steps", "2", "-s", "1"], more].concat())
}

const WORDS: [&str; 6] = ["-p", "a cat", "-W", "40", "-H", "24"];

#[test]
fn a_pipeline_whose_parts_lie_in_its_root_is_one_everywhere() {
    let nested = pipeline("ddim-eta-batch-2/model");
    let (_folder, flat) = copied(&pipeline("ddim-eta-batch-2/model"));
    for part in ["unet", "scheduler"] {
        for entry in fs::read_dir(flat.join(part)).unwrap() {
            let path = entry.unwrap().path();
            fs::rename(&path, flat.join(path.file_name().unwrap())).unwrap();
        }
        fs::remove_dir(flat.join(part)).unwrap();
    }
    assert_eq!(draw(&flat, &[]), draw(&nested, &[]));
    let [flat_text, nested_text] = [&flat, &nested].map(|model| model.to_str().unwrap());
    assert_eq!(says(&["plan", "-m", flat_text]), says(&["plan", "-m", nested_text]));
    let told = |model| {
        let json = says(&["inspect", "--json", model]);
        serde_json::from_str::<Value>(&json).unwrap()["networks"].clone()
    };
    assert_eq!(told(flat_text), told(nested_text));
    assert_eq!(told(flat_text).as_array().unwrap().len(), 1);
    let bench = says(&["bench", "-t", "1", "--repeat", "1", "-m", flat_text]);
    assert!(bench.contains("\nunet "), "{bench}");
    let packed = |model: &str, name: &str| {
        let out = flat.with_file_name(name);
        says(&["convert", "-t", "1", "-m", model, "-o", out.to_str().unwrap(), "--type", "int8"]);
        out
    };
    let [a, b] = [packed(flat_text, "a.safetensors"), packed(nested_text, "b.safetensors")];
    assert!(fs::read(a).unwrap() == fs::read(b).unwrap(), "packed, they are the same file");
}

#[test]
fn a_folder_of_the_hubs_cache_is_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("models--me--mine");
    let snapshot = cache.join("snapshots/0123abcd");
    copy(&pipeline("ddim-eta-batch-2/model"), &snapshot);
    fs::create_dir(cache.join("refs")).unwrap();
    fs::write(cache.join("refs/main"), "0123abcd").unwrap();
    assert_eq!(draw(&cache, &[]), draw(&snapshot, &[]));
    assert!(says(&["inspect", cache.to_str().unwrap()]).contains("DDIMPipeline"));
}

#[test]
fn the_index_of_a_model_says_which_sampler_it_has() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let [index, own] =
        ["model_index.json", "scheduler/scheduler_config.json"].map(|name| model.join(name));
    let expected = draw(&model, &[&WORDS[..], &["--sampling-method", "dpm++2m"]].concat());
    assert_ne!(draw(&model, &WORDS), expected);
    set(&index, "scheduler", json!(["diffusers", "DPMSolverMultistepScheduler"]));
    assert_eq!(draw(&model, &WORDS), expected);
    // Nothing else is taken from the class that the file names, and it need not name one.
    set(&own, "_class_name", Value::Null);
    assert_eq!(draw(&model, &WORDS), expected);
    set(&own, "tensor_format", json!("pt"));
    assert_eq!(draw(&model, &WORDS), expected);
    set(&index, "scheduler", json!(["diffusers", "SomeOtherScheduler"]));
    let asked = [&["plan", "-m", model.to_str().unwrap()], &WORDS[..]].concat();
    let error = fails(&asked);
    assert!(error.contains("SomeOtherScheduler") && error.contains("--sampling-method"), "{error}");
    assert_eq!(draw(&model, &[&WORDS[..], &["--sampling-method", "dpm++2m"]].concat()), expected);
    set(&index, "scheduler", json!([null, null]));
    assert!(fails(&asked).contains("names no sampler"));
}

#[test]
fn a_ddim_pipeline_samples_by_ddim_whatever_its_scheduler() {
    let (_folder, model) = copied(&pipeline("ddim-eta-batch-2/model"));
    let own = model.join("scheduler/scheduler_config.json");
    let expected = draw(&model, &[]);
    set(&own, "_class_name", json!("DDPMScheduler"));
    set(&model.join("model_index.json"), "scheduler", json!(["diffusers", "DDPMScheduler"]));
    assert_eq!(draw(&model, &[]), expected);
}

#[test]
fn keys_that_are_null_are_off() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let expected = draw(&model, &WORDS);
    for (file, keys) in [
        ("unet/config.json", &["upcast_attention", "dual_cross_attention", "attention_type"][..]),
        ("scheduler/scheduler_config.json", &["thresholding", "rescale_betas_zero_snr"]),
        ("text_encoder/config.json", &["model_type"]),
    ] {
        for key in keys {
            set(&model.join(file), key, Value::Null);
            assert_eq!(draw(&model, &WORDS), expected, "{file}: {key}");
        }
    }
}

#[test]
fn the_limit_that_a_refusal_or_a_plan_tells_is_enough() {
    let model = pipeline("ddim-eta-batch-2/model");
    let model = model.to_str().unwrap();
    let mut tried = 0;
    for width in (4..=120).step_by(4) {
        let width = width.to_string();
        let plan = ["plan", "-m", model, "-t", "1", "-W", &width, "-H", "36"];
        let limited = |limit: &str| mote(&[&plan[..], &["--memory-limit", limit]].concat());
        let error = text(&limited("1B").stderr);
        let needed = error.split("needs ").nth(1).and_then(|rest| rest.split(" of memory").next());
        let needed = needed.unwrap_or_else(|| panic!("{error}"));
        assert!(limited(needed).status.success(), "{width}: {needed}");
        let table = says(&plan);
        let whole = table.lines().find(|line| line.starts_with("in all")).unwrap();
        let words: Vec<_> = whole.split_whitespace().skip(2).take(2).collect();
        assert!(limited(&words.concat()).status.success(), "{width}: {whole}");
        tried += 1;
    }
    assert!(tried > 20);
}

fn write_tensors(path: &Path, tensors: &[RawTensor]) {
    let file = of_tensors(tensors);
    let (header, data) = parts(&file);
    // The first letter of each name as JSON may write it, too.
    let header = header.to_string().replace("\"conv_in.", "\"\\u0063onv_in\\u002e");
    fs::write(path, whole(&header, data)).unwrap();
}

#[test]
fn a_tensor_that_nobody_needs_may_be_of_any_type() {
    let (_folder, model) = copied(&pipeline("ddim-eta-batch-2/model"));
    let path = model.join("unet/diffusion_pytorch_model.safetensors");
    let (expected, own) = (draw(&model, &[]), tensors(&fs::read(&path).unwrap()));
    for (dtype, shape, bytes) in [
        ("BOOL", json!([3]), 3),
        ("U16", json!([3]), 6),
        ("U32", json!([1, 3]), 12),
        ("U64", json!([]), 8),
        // A quantised model is computed in another order.
        ("I8", json!([16, 16]), 256),
        ("F8_E5M2", json!([2]), 2),
        ("F8_E8M0", json!([2]), 2),
        ("F4", json!([4]), 2),
        ("F6_E2M3", json!([4]), 3),
        ("C64", json!([1]), 8),
        ("F8_OF_TOMORROW", json!([7]), 5),
    ] {
        let mut more = own.clone();
        more.push(("more".into(), json!({ "dtype": dtype, "shape": shape }), vec![0; bytes]));
        write_tensors(&path, &more);
        assert_eq!(draw(&model, &[]), expected, "{dtype}");
        assert!(says(&["inspect", model.join("unet").to_str().unwrap()]).contains(dtype));
    }
}

#[test]
fn weights_in_wide_and_in_eight_bit_floats_are_read_and_others_named_with_their_type() {
    let (_folder, model) = copied(&pipeline("ddim-eta-batch-2/model"));
    let path = model.join("unet/diffusion_pytorch_model.safetensors");
    let mut own = tensors(&fs::read(&path).unwrap());
    let at = own.iter().position(|(name, ..)| name == "mid_block.resnets.0.conv1.weight").unwrap();
    let (_, tensor, values) = own[at].clone();
    let values: Vec<f32> =
        values.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    // Powers of two, which every float has.
    let values: Vec<f32> =
        values.iter().map(|x| 2f32.powi(-3 - (x.abs() * 1e3) as i32 % 3).copysign(*x)).collect();
    let with = |dtype: &str, own: &mut [RawTensor], bytes: Vec<u8>| {
        own[at].1 = tensor.clone();
        own[at].1["dtype"] = dtype.into();
        own[at].2 = bytes;
        write_tensors(&path, own);
    };
    with("F32", &mut own, values.iter().flat_map(|x| x.to_le_bytes()).collect());
    let expected = draw(&model, &[]);
    with("F64", &mut own, values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect());
    assert_eq!(draw(&model, &[]), expected);
    for (dtype, bits, bias) in [("F8_E4M3", 3, 7), ("F8_E5M2", 2, 15)] {
        let eight = |x: &f32| {
            let exponent = (x.to_bits() >> 23 & 0xFF) as i32 - 127 + bias;
            (u8::from(*x < 0.0) << 7) | ((exponent as u8) << bits)
        };
        with(dtype, &mut own, values.iter().map(eight).collect());
        assert_eq!(draw(&model, &[]), expected, "{dtype}");
        assert_eq!(draw(&model, &["--type", "f32"]), expected, "{dtype}");
    }
    for (dtype, size, said) in [
        ("I64", 8, "is I64"),
        ("BOOL", 1, "is BOOL"),
        ("F8_E8M0", 1, "is F8_E8M0"),
        ("F9", 1, "is of a type that mote does not know"),
    ] {
        with(dtype, &mut own, vec![0; size * values.len()]);
        let error = fails(&["plan", "-m", model.to_str().unwrap()]);
        let name = "`unet.mid_block.resnets.0.conv1.weight`";
        assert!(error.contains(&format!("{name} {said}")), "{error}");
    }
}

#[test]
fn a_size_that_a_network_cannot_halve_is_told_with_those_that_it_can() {
    let model = pipeline("ddim-eta-batch-2/model");
    let model = model.to_str().unwrap();
    for (size, near) in [("31", "30 or 32"), ("1", "Take 2"), ("33", "32 or 34")] {
        for command in ["generate", "plan", "bench"] {
            let error = fails(&[command, "-m", model, "-W", size, "-H", "32"]);
            assert!(error.contains("multiples of 2") && error.contains(near), "{command}: {error}");
        }
    }
}

#[test]
fn configurations_may_begin_with_a_byte_order_mark_or_be_in_utf_16() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let expected = draw(&model, &WORDS);
    let mut names = vec!["model_index.json".to_string(), "tokenizer/merges.txt".into()];
    for part in ["scheduler/scheduler_config", "unet/config", "vae/config", "text_encoder/config"] {
        names.push(format!("{part}.json"));
    }
    for name in ["vocab.json", "tokenizer_config.json", "special_tokens_map.json"] {
        names.extend(Some(format!("tokenizer/{name}")).filter(|name| model.join(name).is_file()));
    }
    for (count, name) in names.iter().enumerate() {
        let path = model.join(name);
        let own = fs::read_to_string(&path).unwrap();
        let marked = format!("\u{FEFF}{own}");
        fs::write(
            &path,
            match count % 2 {
                0 => marked.into_bytes(),
                _ => marked.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            },
        )
        .unwrap();
    }
    assert_eq!(draw(&model, &WORDS), expected);
    let path = model.join("unet/config.json");
    fs::write(&path, "{\n  \"in_channels\": 4,\n}").unwrap();
    let error = fails(&[&["plan", "-m", model.to_str().unwrap()], &WORDS[..]].concat());
    assert!(error.contains("line 3 column 1") && error.contains("Mend it"), "{error}");
    assert!(!error.contains("damaged"), "{error}");
}

#[test]
fn an_index_that_was_left_behind_does_no_harm() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let expected = draw(&model, &WORDS);
    let index = r#"{"weight_map": {"x": "model-00001-of-00002.safetensors"}}"#;
    for name in ["text_encoder/model", "vae/diffusion_pytorch_model"] {
        fs::write(model.join(format!("{name}.safetensors.index.json")), index).unwrap();
    }
    assert_eq!(draw(&model, &WORDS), expected);
    fs::remove_file(model.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    let error = fails(&[&["plan", "-m", model.to_str().unwrap()], &WORDS[..]].concat());
    assert!(error.contains("model-00001-of-00002.safetensors is not there"), "{error}");
    assert!(error.contains("Fetch it"), "{error}");
}

#[test]
fn half_precision_variants_are_found_where_there_are_no_others() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let expected = draw(&model, &WORDS);
    for (part, stem) in [
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ] {
        let path = |variant: &str| model.join(part).join(format!("{stem}{variant}.safetensors"));
        fs::rename(path(""), path(".fp16")).unwrap();
        fs::write(path(".non_ema"), "another").unwrap();
    }
    assert_eq!(draw(&model, &WORDS), expected);
}

#[test]
fn a_scheduler_that_cannot_say_what_the_picture_was_is_refused_with_the_cause() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let own = model.join("scheduler/scheduler_config.json");
    let zero = json!({"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "beta_end": 0.012, "rescale_betas_zero_snr": true,
        "timestep_spacing": "trailing", "prediction_type": "epsilon", "clip_sample": false});
    fs::write(&own, zero.to_string()).unwrap();
    let plan = |more: &[&str]| {
        let base = ["plan", "-m", model.to_str().unwrap(), "--sampling-method"];
        mote(&[&base[..], more, &WORDS].concat())
    };
    for sampler in ["ddim", "ddpm", "lcm"] {
        let output = plan(&[sampler]);
        let error = text(&output.stderr);
        assert!(!output.status.success(), "{sampler}");
        for word in ["`prediction_type` is epsilon", "`rescale_betas_zero_snr`", "--prediction v"] {
            assert!(error.contains(word), "{sampler}: {error}");
        }
        assert!(plan(&[sampler, "--prediction", "v"]).status.success(), "{sampler}");
    }
}

#[test]
fn numbers_of_a_schedule_are_told_and_not_named_alone() {
    let (_folder, model) = copied(&pipeline("ddpm-v-learned-range/model"));
    let text = model.to_str().unwrap();
    set(&model.join("scheduler/scheduler_config.json"), "num_train_timesteps", json!(100));
    let error = fails(&["plan", "-m", text, "--steps", "200"]);
    assert!(error.contains("at most 100,"), "{error}");
    assert!(error.contains("Take at most --steps 100"), "{error}");
    let error = fails(&["plan", "-m", text, "--steps", "60", "--sampling-method", "lcm"]);
    assert!(error.contains("at most 50") && error.contains("--steps 50"), "{error}");
    let noise = pipeline("ddim-eta-batch-2/model");
    let (_folder, model) = (tempfile::tempdir().unwrap(), model.with_file_name("plain"));
    copy(&noise, &model);
    set(&model.join("scheduler/scheduler_config.json"), "variance_type", json!("learned_range"));
    let error = fails(&["plan", "-m", model.to_str().unwrap(), "--sampling-method", "ddpm"]);
    assert!(error.contains("learned_range") && error.contains("3 channels gives 6"), "{error}");
    assert!(error.contains("fixed_small"), "{error}");
}

#[test]
fn a_token_without_a_vector_is_refused_only_where_the_prompt_holds_it() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let expected = draw(&model, &WORDS);
    let tokens = read_json(&model.join("text_encoder/config.json"))["vocab_size"].as_u64().unwrap();
    let path = model.join("tokenizer/tokenizer_config.json");
    let mut config = if path.is_file() { read_json(&path) } else { json!({}) };
    let token = json!({"content": "<mine>", "special": false, "normalized": false});
    match config.get_mut("added_tokens_decoder") {
        Some(decoder) => decoder[tokens.to_string()] = token,
        None => {
            let added = json!({ "<mine>": tokens });
            fs::write(model.join("tokenizer/added_tokens.json"), added.to_string()).unwrap();
        }
    }
    fs::write(&path, config.to_string()).unwrap();
    assert_eq!(draw(&model, &WORDS), expected);
    let error = fails(&["plan", "-m", model.to_str().unwrap(), "-p", "a <mine> cat", "-W", "40"]);
    assert!(error.contains("word that") && error.contains(&tokens.to_string()), "{error}");
}

#[test]
fn a_folder_that_is_not_there_is_no_name_for_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let out = format!("{}/new/", folder.path().display());
    let model = pipeline("ddim-eta-batch-2/model");
    let error = fails(&["generate", "-m", model.to_str().unwrap(), "--steps", "1", "-o", &out]);
    assert!(error.contains("there is no folder") && error.contains("Make it first"), "{error}");
    assert!(!folder.path().join("new").exists());
}

#[cfg(unix)]
#[test]
fn a_picture_keeps_the_permissions_of_the_one_it_replaces() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.png");
    fs::write(&out, "old").unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o640)).unwrap();
    let (model, path) = (pipeline("ddim-eta-batch-2/model"), out.to_str().unwrap());
    says(&["generate", "-m", model.to_str().unwrap(), "--steps", "1", "--quiet", "-o", path]);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::read(&out).unwrap().starts_with(b"\x89PNG"));
}
