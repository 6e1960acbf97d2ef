//! What the `mote` binary tells people beside its results: what a request asks for in vain, what a
//! wrong file is, and how far the work is.

use std::fs;
use std::process::Command;

use mote_tests::cases::pipeline;
use mote_tests::files::{copied, of_tensors};
use serde_json::{Value, json};

use crate::command::{fails, mote, program, says_both, text};

/// The notes of a run.
fn notes(error: &str) -> Vec<&str> {
    error.lines().filter_map(|line| line.strip_prefix("note: ")).collect()
}

/// Draws with the model in the program: its notes, and what the picture says of itself.
fn drawn(arguments: &[&str]) -> (Vec<String>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let path = path.to_str().unwrap();
    let [_, error] = says_both(&[&["generate", "--steps", "2", "-o", path], arguments].concat());
    let [report, _] = says_both(&["inspect", path]);
    (notes(&error).into_iter().map(String::from).collect(), report)
}

#[test]
fn a_prompt_that_is_cut_is_told_once_with_the_words_left_out() {
    let long = format!("{}and a Blue DOG", "red apple ".repeat(8));
    let (told, report) = drawn(&["-p", &long, "-b", "1"]);
    let [note] = told.iter().filter(|note| note.contains("tokens")).collect::<Vec<_>>()[..] else {
        panic!("{told:?}")
    };
    assert!(note.contains("the prompt is longer than the 12 tokens"), "{note}");
    // `red` is one token of that model, `apple` two.
    let left = format!("“apple {}and a Blue DOG”", "red apple ".repeat(4));
    assert!(note.ends_with(&left), "{note}");
    assert!(report.contains("Blue DOG"), "the picture says what was asked for: {report}");
    for what in ["red apple red apple", "red apple, 3d", ""] {
        let (told, _) = drawn(&["-p", what]);
        assert!(told.is_empty(), "{what}: {told:?}");
    }
    // A script without blanks is cut between its signs.
    let (told, _) = drawn(&["-p", &"赤".repeat(60)]);
    assert!(told[0].contains("left out: “赤") && !told[0].contains(&"赤".repeat(59)), "{told:?}");
    let [_, error] =
        says_both(&["generate", "--quiet", "--steps", "1", "-o", "/dev/null", "-p", &long]);
    assert_eq!(error, "");
    let [json, error] = says_both(&["plan", "--json", "-p", &long]);
    assert_eq!(notes(&error).len(), 1, "{error}");
    let plan: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(plan["prompt_ids"].as_array().unwrap().len(), 12);
}

#[test]
fn a_negative_prompt_is_cut_aloud_too_and_without_guidance_is_told_to_be_idle() {
    let long = "red apple ".repeat(8);
    let (told, report) = drawn(&["-p", "red apple", "-n", &long, "--cfg-scale", "2"]);
    assert!(told[0].starts_with("the negative prompt is longer than the 12 tokens"), "{told:?}");
    assert!(told.len() == 1 && report.contains("Negative prompt: red apple"), "{told:?} {report}");
    for scale in [&[][..], &["--cfg-scale", "1"], &["--cfg-scale", "0.5"]] {
        let (told, report) = drawn(&[&["-p", "red apple", "-n", &long], scale].concat());
        let idle = told.iter().filter(|note| note.contains("has no effect without guidance"));
        assert_eq!(idle.count(), 1, "{told:?}");
        assert!(!told.iter().any(|note| note.contains("tokens")), "{told:?}");
        assert!(
            !report.contains("Negative prompt") && report.contains("CFG scale: 1\n"),
            "{report}"
        );
    }
    let (told, _) = drawn(&["-p", "red apple", "-n", ""]);
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn a_guidance_below_1_is_told_and_recorded_as_what_it_is() {
    for (scale, recorded, count) in
        [("0", "1", 1), ("0.5", "1", 1), ("1", "1", 0), ("1.5", "1.5", 0)]
    {
        let (told, report) = drawn(&["-p", "red apple", "--cfg-scale", scale]);
        assert_eq!(told.len(), count, "{told:?}");
        assert!(told.iter().all(|note| note.contains("is taken as 1")), "{told:?}");
        assert!(report.contains(&format!("CFG scale: {recorded}\n")), "{scale}: {report}");
    }
}

#[test]
fn signs_of_other_programs_are_told_to_be_words() {
    let prompt = "red <lora:x:0.8> (apple:1.3) [red:apple:0.5] BREAK";
    let (told, _) = drawn(&["-p", prompt]);
    let signs = told.iter().find(|note| note.contains("plain words")).expect("it is told");
    for sign in ["<lora:x:0.8>", "(apple:1.3)", "[red:apple:0.5]", "1 more"] {
        assert!(signs.contains(sign), "{signs}");
    }
    let guided = ["-p", "red apple", "-n", "(red:2)", "--cfg-scale", "2"];
    assert!(drawn(&guided).0[0].contains("“(red:2)” is read as plain words"));
}

#[test]
fn words_that_the_model_in_the_program_was_never_told_are_named() {
    let (told, _) = drawn(&["-p", "lighthouse"]);
    assert!(told[0].contains("“lighthouse”") && told[0].contains("mote inspect"), "{told:?}");
    let model = pipeline("shared-sd");
    let (told, _) = drawn(&["-p", "lighthouse", "-m", model.to_str().unwrap()]);
    assert!(told.is_empty(), "another model's words are not known: {told:?}");
}

#[test]
fn inspect_without_a_path_lists_the_names_of_the_model_in_the_program() {
    let [report, _] = says_both(&["inspect"]);
    for word in ["emoji32", "UNet2DConditionModel", "red apple", "zebra"] {
        assert!(report.contains(word), "{word} is not in\n{report}");
    }
    assert!(report.lines().all(|line| line.chars().count() <= 120), "{report}");
    let [json, _] = says_both(&["inspect", "--json"]);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert!(report["names"].as_array().unwrap().contains(&json!("red apple")));
    let [held, _] = says_both(&["inspect", pipeline("shared-sd").to_str().unwrap()]);
    assert!(!held.contains("zebra"), "{held}");
}

#[test]
fn tiles_and_types_without_an_effect_are_told() {
    let model = pipeline("shared-sd");
    let model = model.to_str().unwrap();
    let (told, report) = drawn(&["-p", "x", "-m", model, "--vae-tiling"]);
    assert!(told[0].contains("one tile holds the whole picture"), "{told:?}");
    assert!(!report.contains("VAE tile"), "{report}");
    let tiled = ["-p", "x", "-m", model, "--vae-tiling", "--vae-tile-size", "4"];
    let (told, report) = drawn(&tiled);
    assert!(told.is_empty() && report.contains("VAE tile: 4"), "{told:?} {report}");
    for (dtype, count) in [("f32", 1), ("f16", 1), ("int8", 0)] {
        let (told, _) = drawn(&["-p", "x", "-m", model, "--type", dtype]);
        assert_eq!(told.len(), count, "{dtype}: {told:?}");
        assert!(told.iter().all(|note| note.contains("mote convert")), "{told:?}");
    }
}

#[test]
fn flow_matching_is_refused_whatever_the_sampler() {
    let (folder, model) = copied(&pipeline("shared-sd"));
    let [scheduler, index] = ["scheduler/scheduler_config.json", "model_index.json"];
    let model_text = model.to_str().unwrap();
    let class = json!("FlowMatchEulerDiscreteScheduler");
    for (file, key, value) in [
        (scheduler, "_class_name", class.clone()),
        (scheduler, "_class_name", json!("FlowMatchHeunDiscreteScheduler")),
        (scheduler, "prediction_type", json!("flow_prediction")),
        (scheduler, "use_flow_sigmas", json!(true)),
        (index, "scheduler", json!(["diffusers", class])),
    ] {
        let path = model.join(file);
        let own = fs::read_to_string(&path).unwrap();
        let mut config: Value = serde_json::from_str(&own).unwrap();
        if file == scheduler {
            // Of diffusers' other schedulers, those of several steps alone look at flow sigmas.
            config["_class_name"] = json!("UniPCMultistepScheduler");
        }
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        for sampler in [&[][..], &["--sampling-method", "euler"], &["--sampling-method", "ddim"]] {
            let arguments = ["generate", "-o", "/dev/null", "-p", "x", "-m", model_text];
            let error = fails(&[&arguments[..], sampler].concat());
            assert!(error.contains("flow matching") && error.contains(key), "{error}");
            assert!(!error.contains("--sampling-method"), "{error}");
        }
        let out = folder.path().join("a.safetensors");
        fails(&["convert", "-m", model_text, "--type", "int8", "-o", out.to_str().unwrap()]);
        fs::write(&path, own).unwrap();
    }
}

/// A safetensors file of tensors with these names and two elements each.
fn named(names: &[&str]) -> Vec<u8> {
    let tensor =
        |name: &&str| (name.to_string(), json!({ "dtype": "F32", "shape": [1, 2] }), vec![0; 8]);
    of_tensors(&names.iter().map(tensor).collect::<Vec<_>>())
}

/// Files that are no model: a name, what is in it, what must be said of it, and of its remedy.
fn wrong_files() -> Vec<(&'static str, Vec<u8>, [&'static str; 2])> {
    let page = b"<!DOCTYPE html>\n<html><head><title>Hugging Face".to_vec();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec();
    let zip = b"PK\x03\x04\0\0\0\0archive/data.pkl".to_vec();
    vec![
        ("model.gguf", b"GGUF\x03\0\0\0\0".to_vec(), ["GGUF", "mote convert"]),
        ("quantised.safetensors", b"GGUF\x03\0\0\0\0".to_vec(), ["GGUF", "mote convert"]),
        ("page.safetensors", page.clone(), ["web page", "/resolve/"]),
        ("page.ckpt", page, ["web page", "/resolve/"]),
        ("pointer.safetensors", pointer, ["pointer of Git LFS", "git lfs pull"]),
        ("sd.ckpt", zip.clone(), ["pickle", "sd.ckpt').save_pretrained("]),
        ("sd.pt", zip.clone(), ["pickle", "sd.safetensors')"]),
        ("renamed.safetensors", zip, ["pickle", "renamed-converted.safetensors')"]),
        ("old.bin", b"\x80\x02}q\x00.".to_vec(), ["pickle", "old.safetensors')"]),
        ("zipped.safetensors", b"PK\x03\x04\0\0model/".to_vec(), ["archive", "Unpack"]),
        (
            "kohya.safetensors",
            named(&["lora_unet_down_blocks_0_attn.lora_down.weight", "lora_te_text.alpha"]),
            ["LoRA", "--lora"],
        ),
        (
            "peft.safetensors",
            named(&["base_model.model.unet.down_blocks.0.to_q.lora_A.weight"]),
            ["LoRA", "--lora"],
        ),
        (
            "diffusers.safetensors",
            named(&["unet.down_blocks.0.processor.to_q_lora.down.weight", "unet.to_q.lora.up.w"]),
            ["LoRA", "--lora"],
        ),
        ("cat.safetensors", named(&["emb_params"]), ["textual inversion", "trained for"]),
        (
            "sd.safetensors",
            named(&["model.diffusion_model.out.2.weight", "first_stage_model.a"]),
            ["in one file", "--config FOLDER"],
        ),
        (
            "xl.safetensors",
            named(&["conditioner.embedders.0.a", "model.diffusion_model.out.2.weight"]),
            ["in one file", "--config FOLDER"],
        ),
        (
            "unet.safetensors",
            named(&["conv_in.weight", "down_blocks.0.a", "up_blocks.0.a"]),
            ["a UNet by itself", "unet/config.json"],
        ),
        ("vae.safetensors", named(&["decoder.mid_block.a"]), ["autoencoder by itself", "--vae"]),
        (
            "old-vae.safetensors",
            named(&["decoder.mid.block_1.conv1.weight"]),
            ["autoencoder by itself", "AutoencoderKL"],
        ),
        ("odd.safetensors", named(&["a.b"]), ["no model that mote knows", "`a.b`"]),
        ("empty.safetensors", Vec::new(), ["it is empty", "again"]),
    ]
}

#[test]
fn each_wrong_file_is_called_what_it_is_with_a_remedy_that_fits() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    for (name, bytes, [what, remedy]) in wrong_files() {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let (path, out) = (path.to_str().unwrap(), out.to_str().unwrap());
        for command in [
            &["generate", "-p", "x", "-o", "/dev/null"][..],
            &["plan", "-p", "x"],
            &["convert", "--type", "int8", "-o", out],
            &["bench"],
        ] {
            let error = fails(&[command, &["-m", path]].concat());
            assert!(error.contains(what) && error.contains(remedy), "{command:?}: {error}");
            assert!(error.contains(path), "the file is named: {error}");
            assert!(!error.contains("FILE'") && !error.contains("FOLDER'"), "{error}");
        }
        let inspected = mote(&["inspect", path]);
        let said = [&inspected.stdout, &inspected.stderr].map(|bytes| text(bytes)).concat();
        assert!(said.contains(what) || name == "odd.safetensors", "{name}: {said}");
    }
}

#[test]
fn a_web_page_among_a_models_weights_is_called_so() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    fs::write(&weights, "<html>401</html>").unwrap();
    let model = model.to_str().unwrap();
    let error = fails(&["generate", "-p", "x", "-o", "/dev/null", "-m", model]);
    assert!(error.contains("web page") && error.contains(weights.to_str().unwrap()), "{error}");
}

#[test]
fn without_a_terminal_lines_are_rare_and_the_last_is_there() {
    let request = ["generate", "-p", "red apple", "--steps", "300", "-o", "/dev/null"];
    let [_, error] = says_both(&request);
    let steps: Vec<&str> = error.lines().filter(|line| line.starts_with("step ")).collect();
    assert!(steps.len() <= 3, "{error}");
    assert!(steps.last().unwrap().starts_with("step 300/300, "), "{error}");
    assert!(
        !error.contains('\r') && !error.contains('\u{1b}') && !error.contains('█'),
        "{error:?}"
    );
    let [_, error] = says_both(&[&request[..], &["--quiet"]].concat());
    assert_eq!(error, "");
    let [_, error] = says_both(
        &["generate", "-p", "red apple", "--steps", "2", "-b", "3", "-o", "-"]
            .map(|word| if word == "-" { "/dev/null" } else { word }),
    );
    let steps = error.lines().filter(|line| line.contains("step ")).count();
    assert_eq!(steps, 1, "the last of the last: {error}");
}

#[cfg(unix)]
#[test]
fn nobody_to_hear_is_no_fault() {
    use std::process::Stdio;
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("a.png");
    let mut command = program();
    command.args(["generate", "-v", "--steps", "2", "-p", "lighthouse", "-o"]).arg(&picture);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success() && picture.exists());
    let mut command = program();
    command.args(["generate", "-m", "/none"]).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

/// What a run writes on a terminal of so many columns, by util-linux' `script`; `None` where that
/// is not there.
fn on_a_terminal(columns: u32, command: &str) -> Option<String> {
    let mote = env!("CARGO_BIN_EXE_mote");
    let inner = format!("stty cols {columns} rows 20; {mote} {command}");
    let output = Command::new("script").args(["-qec", &inner, "/dev/null"]).output();
    let Ok(output) = output else {
        println!("NOT RUN: there is no `script`");
        return None;
    };
    assert!(output.status.success(), "{}", text(&output.stdout));
    Some(text(&output.stdout))
}

#[test]
fn a_terminal_sees_each_phase_and_a_bar_that_only_grows() {
    let model = pipeline("shared-sd");
    for columns in [30, 80, 200] {
        let command = format!("generate -m {} -p x --steps 4 -o /dev/null", model.display());
        let Some(seen) = on_a_terminal(columns, &command) else { return };
        let mut at = 0;
        for phase in ["loading", "reading the prompt", "step ", "decoding", "wrote "] {
            let found = seen[at..].find(phase);
            at += found.unwrap_or_else(|| panic!("{phase} is not in its place in {seen:?}"));
        }
        let bars = seen.split(['\r', '\n']).filter(|line| line.contains(['█', '░']));
        let mut grown = 0.0;
        for bar in bars {
            // From the end of a sequence that clears the line.
            let bar = bar.rsplit_once("\u{1b}[0J").map_or(bar, |(_, bar)| bar);
            assert!(bar.chars().count() < columns as usize, "{columns}: {bar:?}");
            let cells = |cell: char| bar.chars().filter(|&c| c == cell).count() as f64;
            let part = cells('█') / (cells('█') + cells('░'));
            // Bars of other lengths round otherwise.
            assert!(part >= grown - 0.25, "{part} after {grown}: {seen:?}");
            grown = f64::max(grown, part);
        }
        assert!(grown > 0.5 || columns == 30, "{seen:?}");
    }
    let Some(seen) = on_a_terminal(80, "generate -p x --steps 4 -o /dev/null --quiet") else {
        return;
    };
    assert_eq!(seen, "");
}

#[test]
fn a_failure_on_a_terminal_leaves_no_bar_behind() {
    let Some(seen) = on_a_terminal(80, "generate -m /none -p x; true") else { return };
    let error = seen.split("error: ").next().unwrap();
    assert!(error.ends_with("\u{1b}[0J"), "{seen:?}");
}

#[test]
fn convert_says_nothing_where_quiet_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (pipeline("shared-sd"), folder.path().join("a.safetensors"));
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    let convert = ["convert", "-m", model, "--type", "bf16", "-o", out, "--quiet"];
    assert_eq!(says_both(&convert), ["", ""]);
    let [json, _] = says_both(&[&convert[..], &["--json"]].concat());
    assert!(serde_json::from_str::<Value>(&json).is_ok(), "{json}");
}

#[test]
fn what_one_network_does_not_look_at_is_refused() {
    let model = pipeline("shared-sd");
    for (component, option) in [("text", "--width"), ("text", "--height"), ("vae", "--batch")] {
        let bench = ["bench", "-m", model.to_str().unwrap(), "--component", component];
        let error = fails(&[&bench[..], &[option, "8"]].concat());
        assert!(error.contains(option) && error.contains("no meaning"), "{error}");
    }
}

#[test]
fn help_and_completions_have_the_names_that_files_have() {
    let [help, _] = says_both(&["generate", "--help"]);
    assert!(help.contains("PLMS") && help.contains("`plms`"), "{help}");
    let [help, _] = says_both(&["--help"]);
    assert!(help.contains("Exit codes") && help.contains("70"), "{help}");
    for shell in ["bash", "zsh", "fish"] {
        let [script, _] = says_both(&["completions", shell]);
        for name in ["dpm++2m_sde", "pndm", "karras", "int8"] {
            assert!(script.contains(name), "{name} is not offered in {shell}");
        }
    }
}
