//! The `mote` binary as users run it: what it prints, what it refuses, and with which exit code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The committed pipelines.
fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/pipelines").join(path)
}

fn mote(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    command.args(arguments).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the binary speaks UTF-8")
}

/// Standard output of a run that succeeds.
fn says(arguments: &[&str]) -> String {
    let output = mote(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Standard error of a run that fails with `code`, having written nothing else.
fn fails(code: i32, arguments: &[&str]) -> String {
    let output = mote(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty(), "{arguments:?} wrote {}", text(&output.stdout));
    assert!(error.starts_with("error: "), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// A copy of the committed text-to-image model, to be broken.
fn model() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    copy(&golden("shared-sd"), &path);
    (folder, path)
}

/// Sets a key of a JSON file.
fn set(path: &Path, key: &str, value: serde_json::Value) {
    let mut json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    json[key] = value;
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn help_speaks_in_sentences_and_lists_the_flags_users_know() {
    let help = says(&["generate", "--help"]);
    for flag in [
        "--model",
        "--prompt",
        "--negative-prompt",
        "--init-img",
        "--width",
        "--height",
        "--seed",
        "--steps",
        "--cfg-scale",
        "--strength",
        "--eta",
        "--clip-skip",
        "--batch-count",
        "--sampling-method",
        "--scheduler",
        "--rng",
        "--prediction",
        "--threads",
        "--type",
        "--taesd",
        "--vae",
        "--output",
        "--memory-limit",
        "--class-label",
        "--quiet",
        "--verbose",
    ] {
        assert!(help.contains(flag), "{flag} is not in the help");
    }
    for value in ["dpm++2m_sde", "euler_a", "karras", "cuda", "300MiB"] {
        assert!(help.contains(value), "{value} is not in the help");
    }
    let overview = says(&["--help"]);
    for subcommand in ["generate", "plan", "inspect", "completions"] {
        assert!(overview.contains(subcommand), "{subcommand} is not in the help");
    }
}

#[test]
fn the_version_names_the_instruction_set() {
    assert_eq!(says(&["-V"]).trim(), format!("mote {}", env!("CARGO_PKG_VERSION")));
    let long = says(&["--version"]);
    assert!(long.contains("instruction set: ") && long.contains("CPU features: "), "{long}");
}

#[test]
fn completions_are_written_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(says(&["completions", shell]).contains("sampling-method"), "{shell}");
    }
    fails(2, &["completions", "tcsh"]);
}

#[test]
fn bad_arguments_end_with_2_and_say_what_is_possible() {
    assert!(fails(2, &["generate", "-m", "x", "--rng", "dice"]).contains("pcg"));
    assert!(fails(2, &["generate", "-m", "x", "--steps", "0"]).contains("1"));
    assert!(fails(2, &["generate", "-m", "x", "--memory-limit", "3 cups"]).contains("MiB"));
    assert!(fails(2, &["generate"]).contains("--model"));
    assert!(fails(2, &["paint"]).contains("paint"));
    assert!(fails(2, &["generate", "-m", "x", "--strength", "0.5"]).contains("--init-img"));
}

#[test]
fn inspect_describes_a_pipeline() {
    let model = golden("shared-sd");
    let report = says(&["inspect", model.to_str().unwrap()]);
    for word in ["StableDiffusionPipeline", "unet", "down_blocks.0", "vae", "scheduler", "F32"] {
        assert!(report.contains(word), "{word} is not in\n{report}");
    }
    assert!(!report.contains("Not supported"), "{report}");
    let json = says(&["inspect", "--json", model.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["networks"].as_array().unwrap().len(), 3);
    assert_eq!(json["networks"][1]["class"], "UNet2DConditionModel");
    assert!(json["networks"][1]["parameters"].as_u64().unwrap() > 1000);
    assert!(json["schedule"]["sampler"].is_string());
}

#[test]
fn inspect_describes_one_file_and_one_network() {
    let unet = golden("shared-sd/unet");
    let file = unet.join("diffusion_pytorch_model.safetensors");
    for path in [&unet, &file] {
        let report = says(&["inspect", path.to_str().unwrap()]);
        assert!(report.contains("conv_in.weight") && report.contains("F32"), "{report}");
    }
}

#[test]
fn inspect_says_what_is_not_supported_and_still_describes_the_rest() {
    let (_folder, model) = model();
    set(&model.join("unet/config.json"), "act_fn", "mish".into());
    set(&model.join("scheduler/scheduler_config.json"), "_class_name", "DEISScheduler".into());
    let report = says(&["inspect", model.to_str().unwrap()]);
    assert!(report.contains("`act_fn` is \"mish\""), "{report}");
    assert!(report.contains("DEISScheduler") && report.contains("decoder"), "{report}");
}

#[test]
fn inspect_reads_what_a_web_ui_wrote_into_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let mut encoder = png::Encoder::new(fs::File::create(&path).unwrap(), 1, 1);
    let written = "a cat, \"sitting\"\nNegative prompt: dogs\nSteps: 20, Sampler: Euler a, Seed: 7";
    encoder.add_text_chunk("parameters".into(), written.into()).unwrap();
    encoder.write_header().unwrap().write_image_data(&[0]).unwrap();
    let report = says(&["inspect", path.to_str().unwrap()]);
    assert!(report.contains("Prompt: a cat, \"sitting\"\nNegative prompt: dogs\n"), "{report}");
    assert!(report.contains("Sampler: Euler a\nSeed: 7\n"), "{report}");
    let json = says(&["inspect", "--json", path.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["settings"]["Seed"], "7");
}

#[test]
fn inspect_refuses_what_it_cannot_read() {
    let (_folder, model) = model();
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    for len in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&weights, &bytes[..len]).unwrap();
        let error = fails(1, &["inspect", weights.to_str().unwrap()]);
        assert!(error.contains("diffusion_pytorch_model.safetensors cannot be used"), "{error}");
    }
    let pickle = model.join("taesd_decoder.pth");
    fs::write(&pickle, b"PK").unwrap();
    let error = fails(1, &["inspect", pickle.to_str().unwrap()]);
    assert!(error.contains("pickle") && error.contains("torch.load"), "{error}");
    assert!(fails(1, &["inspect", "/no/such/thing"]).contains("no such file"));
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::process::Stdio;
    let file = golden("shared-sd/unet/diffusion_pytorch_model.safetensors");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    command.arg("inspect").arg("--json").arg(file).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}
