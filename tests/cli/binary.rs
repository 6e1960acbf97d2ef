//! The `mote` binary as users run it: what it prints, what it refuses, and with which exit code.

use std::fs;
use std::path::Path;
use std::process::Command;

use mote::arch::{Isa, Level};
use mote_tests::cases::{self, pipeline};
use mote_tests::files::{copied, levels_apart, of_tensors, pixels, set, tensors};
use mote_tests::{golden, isas, json, shared};

use crate::command::{
    drawn, fails, misused, mote, program, program_on_a_full_disk, reports, says, sentence, signal,
    text,
};

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
        "--vae-tiling",
        "--enable-tiling",
        "--vae-tile-size",
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
    for subcommand in ["generate", "plan", "bench", "inspect", "completions"] {
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
    misused(&["completions", "tcsh"]);
}

#[test]
fn bad_arguments_end_with_2_and_say_what_is_possible() {
    assert!(misused(&["generate", "-m", "x", "--rng", "dice"]).contains("pcg"));
    assert!(misused(&["generate", "-m", "x", "--steps", "0"]).contains("1"));
    assert!(misused(&["generate", "-m", "x", "--memory-limit", "3 cups"]).contains("MiB"));
    assert!(misused(&["paint"]).contains("paint"));
    assert!(misused(&["generate", "-m", "x", "--strength", "0.5"]).contains("--init-img"));
    assert!(misused(&["generate", "-m", "x", "--cfg-scale", "-1"]).contains("from 0 to 1000"));
    assert!(misused(&["generate", "-m", "x", "-W", "-8"]).contains("--width"));
    assert!(misused(&["bench", "-m", "x", "--component", "clip"]).contains("unet"));
    assert!(misused(&["bench", "-m", "x", "--repeat", "0"]).contains("1"));
    let error = misused(&["generate", "-m", "x", "--vae-tile-size", "8"]);
    assert!(error.contains("--vae-tiling"), "{error}");
}

#[test]
fn the_model_in_the_program_draws_from_words_where_no_other_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("apple.png");
    let file = file.to_str().unwrap();
    assert!(fails(&["generate"]).contains("-p"));
    says(&["generate", "-p", "red apple", "--steps", "3", "-o", file]);
    let report = says(&["inspect", file]);
    assert!(report.contains("red apple") && report.contains("32x32"), "{report}");
    let report = says(&["inspect", "emoji32"]);
    for word in ["CLIPTextModel", "UNet2DConditionModel", "int8"] {
        assert!(report.contains(word), "{word} is not in\n{report}");
    }
    let plan = says(&["plan", "-p", "red apple"]);
    assert!(plan.contains("32x32"), "{plan}");
}

#[test]
fn inspect_describes_a_pipeline() {
    let model = pipeline("shared-sd");
    let report = says(&["inspect", model.to_str().unwrap()]);
    for word in ["StableDiffusionPipeline", "unet", "down_blocks.0", "vae", "scheduler", "F32"] {
        assert!(report.contains(word), "{word} is not in\n{report}");
    }
    assert!(!report.contains("Not supported"), "{report}");
    let json = reports(&["inspect", "--json", model.to_str().unwrap()]);
    assert_eq!(json["networks"].as_array().unwrap().len(), 3);
    assert_eq!(json["networks"][1]["class"], "UNet2DConditionModel");
    assert!(json["networks"][1]["parameters"].as_u64().unwrap() > 1000);
    assert!(json["schedule"]["sampler"].is_string());
}

#[test]
fn inspect_describes_one_file_and_one_network() {
    let unet = pipeline("shared-sd/unet");
    let file = unet.join("diffusion_pytorch_model.safetensors");
    for path in [&unet, &file] {
        let report = says(&["inspect", path.to_str().unwrap()]);
        assert!(report.contains("conv_in.weight") && report.contains("F32"), "{report}");
    }
}

#[test]
fn inspect_says_what_is_not_supported_and_still_describes_the_rest() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    set(&model.join("unet/config.json"), "act_fn", "mish".into());
    let class = serde_json::json!(["diffusers", "SASolverScheduler"]);
    set(&model.join("model_index.json"), "scheduler", class);
    let report = says(&["inspect", model.to_str().unwrap()]);
    assert!(report.contains("`act_fn` is \"mish\""), "{report}");
    assert!(report.contains("SASolverScheduler") && report.contains("decoder"), "{report}");
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
    let json = reports(&["inspect", "--json", path.to_str().unwrap()]);
    assert_eq!(json["settings"]["Seed"], "7");
}

#[test]
fn inspect_refuses_what_it_cannot_read() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    for len in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&weights, &bytes[..len]).unwrap();
        let error = fails(&["inspect", weights.to_str().unwrap()]);
        assert!(error.contains("diffusion_pytorch_model.safetensors cannot be used"), "{error}");
    }
    let pickle = model.join("taesd_decoder.pth");
    fs::write(&pickle, b"PK").unwrap();
    let error = fails(&["inspect", pickle.to_str().unwrap()]);
    assert!(error.contains("pickle") && error.contains("torch.load"), "{error}");
    assert!(fails(&["inspect", "/no/such/thing"]).contains("no such file"));
    let index = model.join("model_index.json");
    assert!(fails(&["inspect", index.to_str().unwrap()]).contains("nor a PNG picture"));
}

#[test]
fn what_a_file_says_gives_a_terminal_no_commands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let mut encoder = png::Encoder::new(fs::File::create(&path).unwrap(), 1, 1);
    let evil = "a\u{1b}]0;owned\u{7}\u{9b}31m\nSteps: 1, Seed: \u{1b}[2J";
    encoder.add_itxt_chunk("parameters".into(), evil.into()).unwrap();
    encoder.write_header().unwrap().write_image_data(&[0]).unwrap();
    let report = says(&["inspect", path.to_str().unwrap()]);
    assert!(!report.contains(|c: char| c.is_control() && c != '\n'), "{report:?}");
    assert!(report.contains("\\u{1b}]0;owned"), "{report}");
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::process::Stdio;
    let file = pipeline("shared-sd/unet/diffusion_pytorch_model.safetensors");
    let mut command = program();
    command.arg("inspect").arg("--json").arg(file).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn golden_pipelines_come_out_as_diffusers_made_them() {
    // All of them are drawn by the library (tests/pipelines): here are two pictures from noise, and
    // one from words with every setting that words have.
    for case in ["ddim-eta-batch-2", "sd-clip-skip-2"] {
        check_case(&pipeline(case));
    }
}

/// Runs a case and compares its pictures, level by level.
fn check_case(case: &Path) {
    let (_kept, model) = cases::model(case);
    let out = tempfile::tempdir().unwrap();
    let mut arguments = cases::arguments(case, &model);
    arguments.extend(["-o".into(), out.path().join("%d.png").display().to_string()]);
    says(&arguments);
    for index in 0..json(&case.join("args.json"))["batch"].as_u64().unwrap() {
        let found = pixels(&out.path().join(format!("{index}.png")));
        let expected = pixels(&case.join(format!("expected_{index}.png")));
        assert!(levels_apart(&found, &expected) <= 1, "{}: other pixels", case.display());
    }
}

const WORDS: [&str; 8] = ["-p", "x", "-W", "40", "-H", "24", "--steps", "2"];

#[test]
fn shards_make_the_same_picture_as_one_file() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let expected = drawn(&model, &WORDS);
    let path = model.join("unet/diffusion_pytorch_model.safetensors");
    let all = tensors(&fs::read(&path).unwrap());
    fs::remove_file(&path).unwrap();
    let mut map = serde_json::Map::new();
    for (number, shard) in all.chunks(all.len().div_ceil(3)).enumerate() {
        let name = format!("diffusion_pytorch_model-{:05}-of-00003.safetensors", number + 1);
        fs::write(model.join("unet").join(&name), of_tensors(shard)).unwrap();
        map.extend(shard.iter().map(|(tensor, ..)| (tensor.clone(), name.clone().into())));
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
    let index_path = model.join("unet/diffusion_pytorch_model.safetensors.index.json");
    fs::write(&index_path, &index).unwrap();
    assert_eq!(drawn(&model, &WORDS), expected);
    fs::write(&index_path, index.replace("diffusion_pytorch_model-00003", "../x")).unwrap();
    let error = fails(&["plan", "-p", "x", "-m", model.to_str().unwrap()]);
    assert!(error.contains("outside its folder"), "{error}");
}

#[test]
fn bf16_weights_are_the_f32_weights_they_stand_for() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let path = model.join("unet/diffusion_pytorch_model.safetensors");
    let mut wide = tensors(&fs::read(&path).unwrap());
    for (_, _, bytes) in &mut wide {
        // Without its lower half an f32 is a bf16.
        bytes.chunks_exact_mut(4).for_each(|value| value[..2].fill(0));
    }
    fs::write(&path, of_tensors(&wide)).unwrap();
    let expected = drawn(&model, &WORDS);
    for (_, tensor, bytes) in &mut wide {
        tensor["dtype"] = "BF16".into();
        *bytes = bytes.chunks_exact(4).flat_map(|value| [value[2], value[3]]).collect();
    }
    fs::remove_file(&path).unwrap();
    let path = path.with_file_name("diffusion_pytorch_model.bf16.safetensors");
    fs::write(path, of_tensors(&wide)).unwrap();
    assert_eq!(drawn(&model, &WORDS), expected);
}

#[test]
fn a_plan_lists_phases_and_the_whole() {
    let model = pipeline("shared-sd");
    let model = model.to_str().unwrap();
    let json = reports(&["plan", "--json", "-m", model, "-p", "x", "-W", "40", "-H", "24"]);
    let phases = json["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["text encoder", "unet", "decoder"]);
    let bytes = |value: &serde_json::Value| value["arena_bytes"].as_u64().unwrap();
    assert_eq!(bytes(&json), phases.iter().map(bytes).max().unwrap());
    assert_eq!(phases[1]["evaluations"], 40);
    let table = says(&["plan", "-m", model, "-p", "x"]);
    assert!(table.contains("decoder") && table.contains("in all"), "{table}");
}

#[test]
fn a_memory_limit_refuses_before_anything_starts_with_advice_that_fits() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.png");
    let model = pipeline("shared-sd");
    let (model, out_text) = (model.to_str().unwrap(), out.to_str().unwrap());
    let base = ["generate", "-m", model, "-p", "x", "-W", "96", "-H", "64", "-o", out_text];
    let plan = reports(&[&["plan", "--json"], &base[1..9]].concat());
    let needed = plan["arena_bytes"].as_u64().unwrap();
    let limit = |bytes: u64| {
        [base.to_vec(), vec!["--memory-limit"]]
            .concat()
            .into_iter()
            .map(String::from)
            .chain([bytes.to_string()])
            .collect::<Vec<_>>()
    };
    let error = fails(&limit(needed - 1));
    assert!(error.contains("the limit is") && error.contains("take -W "), "{error}");
    assert!(!out.exists());
    let after = |flag: &str| {
        let rest = error.split(flag).nth(1).unwrap().trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().to_string()
    };
    let (width, height) = (after("-W "), after("-H "));
    let limited = (needed - 1).to_string();
    says(&[
        "generate",
        "-m",
        model,
        "-p",
        "x",
        "-W",
        &width,
        "-H",
        &height,
        "--steps",
        "1",
        "--memory-limit",
        &limited,
        "-o",
        out_text,
    ]);
    assert!(out.exists());
    let enough = needed.to_string();
    says(&[&base[..], &["--steps", "1", "--memory-limit", &enough]].concat());
    assert!(fails(&limit(64)).contains("raise the limit"));
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let model = pipeline("shared-sd");
    let picture = |threads: &str| {
        let output = mote(&[
            "generate",
            "-m",
            model.to_str().unwrap(),
            "-p",
            "x",
            "-W",
            "40",
            "-H",
            "24",
            "--steps",
            "3",
            "-t",
            threads,
            "-o",
            "-",
            "--quiet",
        ]);
        assert!(output.status.success() && output.stderr.is_empty());
        output.stdout
    };
    let one = picture("1");
    assert!(one.starts_with(b"\x89PNG"));
    for threads in ["2", "3", "7"] {
        assert_eq!(picture(threads), one, "{threads} threads");
    }
}

#[test]
fn picture_k_of_a_batch_has_the_seed_plus_k_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let model = pipeline("ddim-eta-batch-2/model");
    let base = ["generate", "--steps", "2", "-m", model.to_str().unwrap()];
    let output = mote(&[&base[..], &["-s", "7", "-b", "3", "-o", &path("a.png")]].concat());
    let lines = text(&output.stderr);
    assert_eq!(lines.matches("3/3 step 2/2, ").count(), 1, "{lines}");
    assert!(lines.contains("a_3.png (seed 9)"), "{lines}");
    says(&[&base[..], &["-s", "9", "-o", &path("b.png")]].concat());
    assert_eq!(pixels(&folder.path().join("a_3.png")), pixels(&folder.path().join("b.png")));
    let report = says(&["inspect", &path("a_3.png")]);
    assert!(report.contains("Seed: 9\n") && report.contains("Steps: 2\n"), "{report}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
}

/// A command that is told of a lost terminal even if this test is not (`nohup cargo test`).
#[cfg(unix)]
fn command_that_listens() -> Command {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
    if ignored & 1 == 0 {
        return program();
    }
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_mote")]);
    command
}

#[cfg(unix)]
#[test]
fn a_signal_ends_cleanly_and_leaves_no_file() {
    use std::io::Read;
    use std::process::Stdio;
    for name in ["-INT", "-TERM", "-HUP"] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = command_that_listens()
            .args(["generate", "-p", "x", "-W", "160", "-H", "160", "--steps", "500", "-m"])
            .arg(pipeline("shared-sd"))
            .arg("-o")
            .arg(folder.path().join("a.png"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        // The first line says that the first step is done.
        stderr.read_exact(&mut [0; 1]).unwrap();
        signal(&child, name);
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{name}: {rest}");
        assert!(rest.contains("error: stopped;"), "{rest}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

/// The arguments of a small picture, to be written at a path.
#[cfg(unix)]
fn small_picture(out: &str) -> Vec<String> {
    let model = pipeline("shared-sd").display().to_string();
    let all =
        ["generate", "-p", "x", "-W", "96", "-H", "64", "--steps", "1", "--quiet", "-m", &model];
    all.iter().map(|argument| argument.to_string()).chain(["-o".into(), out.into()]).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_leaves_what_was_there() {
    let error = fails(&small_picture("/dev/full"));
    assert!(error.contains("cannot write /dev/full") && error.contains("Free some"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.png");
    fs::write(&out, "the old one").unwrap();
    let mut command = program_on_a_full_disk(1);
    let error = sentence(&command.args(small_picture(out.to_str().unwrap())).output().unwrap());
    assert!(error.contains("cannot write") && error.contains("a.png"), "{error}");
    assert_eq!(fs::read(&out).unwrap(), b"the old one");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_picture_for_which_nobody_waits_is_an_error() {
    use std::process::Stdio;
    let mut command = program();
    command.args(small_picture("-")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let error = sentence(&child.wait_with_output().unwrap());
    assert!(error.contains("cannot write standard output: broken pipe"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_unicode_are_written_and_read_but_not_numbered() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join(OsStr::from_bytes(b"a\xff.png"));
    let run = |more: &[&str]| {
        let mut command = program();
        let arguments = small_picture("");
        command.args(&arguments[..arguments.len() - 1]).arg(&out).args(more).output().unwrap()
    };
    assert!(run(&[]).status.success() && out.is_file());
    for more in [&[][..], &["--json"]] {
        let mut command = program();
        let output = command.arg("inspect").arg(&out).args(more).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let error = sentence(&run(&["-b", "2"]));
    assert!(error.contains("not UTF-8"), "{error}");
}

#[test]
fn damaged_weights_are_refused_in_every_network() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let out = model.join("a.png");
    let (model_text, out_text) = (model.to_str().unwrap(), out.to_str().unwrap());
    let base = ["-m", model_text, "-p", "x", "-W", "40", "-H", "24", "--steps", "1"];
    for (network, weights, tensor, what) in [
        ("unet", "diffusion_pytorch_model", "conv_out.bias", "the sample"),
        ("vae", "diffusion_pytorch_model", "decoder.conv_out.bias", "the picture"),
        ("text_encoder", "model", "final_layer_norm.bias", "the text encoder's output"),
    ] {
        let path = model.join(network).join(weights).with_extension("safetensors");
        let whole = fs::read(&path).unwrap();
        let all = tensors(&whole);
        let at = all.iter().position(|(name, ..)| name.ends_with(tensor)).unwrap();
        let write = |change: &dyn Fn(&mut serde_json::Value, &mut Vec<u8>)| {
            let mut all = all.clone();
            let (_, tensor, bytes) = &mut all[at];
            change(tensor, bytes);
            fs::write(&path, of_tensors(&all)).unwrap();
        };
        let plan = || fails(&[&["plan"], &base[..]].concat());
        for (dtype, width) in [("I8", 1), ("I16", 2), ("BOOL", 1), ("I64", 8)] {
            write(&|tensor, bytes| {
                tensor["dtype"] = dtype.into();
                *bytes = vec![0; bytes.len() / 4 * width];
            });
            let error = plan();
            assert!(error.contains(&format!("{tensor}` is {dtype}. mote reads")), "{error}");
        }
        for value in [f32::NAN, f32::INFINITY] {
            write(&|_, bytes| *bytes = value.to_le_bytes().repeat(bytes.len() / 4));
            let output = mote(&[&["generate", "-o", out_text], &base[..]].concat());
            let error = text(&output.stderr);
            let expected = format!("error: {what} holds a value that is not a number.");
            assert!(output.status.code() == Some(1) && error.contains(&expected), "{error}");
            assert!(!out.exists());
        }
        write(&|tensor, bytes| (tensor["shape"], *bytes) = (serde_json::json!([0]), Vec::new()));
        assert!(plan().contains("do not belong together"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(plan().contains("is a folder, not a file"));
        fs::remove_dir(&path).unwrap();
        #[cfg(unix)]
        {
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            assert!(plan().contains("not a plain file"));
            fs::remove_file(&path).unwrap();
        }
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn what_a_model_cannot_do_is_refused_with_a_remedy() {
    let words = pipeline("shared-sd").to_str().unwrap().to_string();
    let noise = pipeline("ddim-eta-batch-2/model").to_str().unwrap().to_string();
    for (model, arguments, says) in [
        (&words, &[][..], "-p"),
        (&words, &["-p", "x", "-W", "41"], "multiples"),
        (&words, &["-p", "x", "--class-label", "1"], "classes"),
        (&words, &["-p", "x", "--clip-skip", "900"], "layers"),
        (&words, &["-p", "x", "-i", "/none.png"], "no such file"),
        (&words, &["-p", "x", "--vae", "/none"], "there is no /none"),
        (&words, &["-p", "x", "--scheduler", "karras", "--sampling-method", "ddim"], "--scheduler"),
        (&words, &["-p", "x", "--eta", "1", "--sampling-method", "euler"], "--eta"),
        (&words, &["-p", "x", "-o", "/none/a.png"], "no folder"),
        (&words, &["-p", "x", "-o", "a.jpg"], "PNG"),
        (&words, &["-p", "x", "-b", "2", "-o", "-"], "one picture"),
        (&noise, &["-p", "x"], "--prompt"),
        (&noise, &["--cfg-scale", "3"], "--cfg-scale"),
        (&noise, &["--class-label", "3"], "no classes"),
        (&noise, &["--taesd", "x"], "--taesd"),
        (&noise, &["--vae-tiling"], "--vae-tiling"),
        (&words, &["-p", "x", "--vae-tiling", "--vae-tile-size", "9"], "multiple of 4 latents"),
    ] {
        let base = ["generate", "-o", "/dev/null", "-m", model];
        let base = if arguments.contains(&"-o") { &["generate", "-m", model][..] } else { &base };
        let error = fails(&[base, arguments].concat());
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
}

#[test]
fn folders_that_hold_no_model_are_refused_with_what_is_missing() {
    let run = |model: &Path| fails(&["generate", "-p", "x", "-m", model.to_str().unwrap()]);
    assert!(run(Path::new("/no/such/model")).contains("there is no folder"));
    let (_folder, broken) = copied(&pipeline("shared-sd"));
    fs::remove_file(broken.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert!(run(&broken).contains("no weights in"));
    fs::write(broken.join("unet/diffusion_pytorch_model.bin"), b"").unwrap();
    assert!(run(&broken).contains("pickle"));
    fs::remove_file(broken.join("tokenizer/merges.txt")).unwrap();
    assert!(run(&broken).contains("merges.txt"));
    fs::remove_file(broken.join("vae/config.json")).unwrap();
    assert!(run(&broken).contains("vae/config.json: no such file"));
    fs::remove_file(broken.join("model_index.json")).unwrap();
    assert!(run(&broken).contains("though there is a unet folder"));
    let error = run(&pipeline("shared-sd/unet/diffusion_pytorch_model.safetensors"));
    assert!(error.contains("a UNet by itself") && error.contains("shared-sd."), "{error}");
}

#[test]
fn a_checkpoint_that_does_not_fit_its_configuration_is_refused_by_the_plan() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let config = model.join("unet/config.json");
    let run = || fails(&["plan", "-p", "x", "-m", model.to_str().unwrap()]);
    let original = fs::read_to_string(&config).unwrap();
    set(&config, "use_linear_projection", (!original.contains("projection\": true")).into());
    let error = run();
    assert!(error.contains("unet.") && error.contains("do not belong together"), "{error}");
    fs::write(&config, &original).unwrap();
    set(&config, "in_channels", 9.into());
    assert!(run().contains("inpainting network needs a mask"));
    fs::write(&config, &original).unwrap();
    set(&config, "cross_attention_dim", 64.into());
    assert!(run().contains("cross_attention_dim"));
}

#[test]
fn hostile_configurations_end_in_a_sentence() {
    use serde_json::json;
    let (_folder, model) = copied(&pipeline("shared-sd"));
    let values = [
        json!(-1),
        json!(0),
        json!(1e300),
        json!(u64::MAX),
        json!("x"),
        json!([]),
        json!({}),
        json!([0, 0, 0]),
        json!([16777216, 16777216, 16777216]),
        json!(16777216),
        json!(true),
        json!([[1]]),
        json!(vec![1; 100]),
        json!(null),
        json!(7),
        json!([3, 5, 7]),
        json!(0.5),
    ];
    for file in [
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
    ] {
        let path = model.join(file);
        let original = fs::read_to_string(&path).unwrap();
        let json: serde_json::Value = serde_json::from_str(&original).unwrap();
        for key in json.as_object().unwrap().keys() {
            for value in &values {
                set(&path, key, value.clone());
                let output = mote(&["plan", "-t", "1", "-p", "x", "-m", model.to_str().unwrap()]);
                let error = text(&output.stderr);
                let sentence = error.starts_with("error: ") && !error.contains("panicked");
                assert!(output.status.success() || sentence, "{file} {key} {value}: {error}");
            }
            fs::write(&path, &original).unwrap();
        }
    }
}

#[test]
fn a_picture_to_start_from_may_have_any_size_and_format() {
    use image::{Rgb, RgbImage};
    use libjpeg_turbo_rs::{Encoder, PixelFormat};
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let picture = RgbImage::from_fn(45, 29, |x, y| Rgb([5 * x as u8, 7 * y as u8, 90]));
    for name in ["init.png", "init.webp"] {
        picture.save(path(name)).unwrap();
    }
    let encoder = Encoder::new(picture.as_raw(), 45, 29, PixelFormat::Rgb);
    fs::write(path("init.jpg"), encoder.encode().unwrap()).unwrap();
    let model = pipeline("shared-sd");
    let base = ["generate", "-p", "x", "--steps", "2", "-m", model.to_str().unwrap()];
    let draw = |name: &str, size: &[&str]| {
        let files = ["-i", &path(name), "-o", &path("a.png")].map(str::to_string);
        let files: Vec<_> = files.iter().map(String::as_str).collect();
        says(&[&base[..], size, &files].concat());
        pixels(&folder.path().join("a.png"))
    };
    let own = draw("init.png", &[]);
    // Rounded down to multiples of what one latent stands for.
    assert_eq!(own.len(), 44 * 28 * 3);
    assert_eq!(own, draw("init.webp", &["-W", "44", "-H", "28"]));
    assert_eq!(draw("init.jpg", &["-W", "64"]).len(), 64 * 28 * 3);
    for (bytes, says) in [
        (&b"GIF89a"[..], "no PNG, JPEG or WebP"),
        (b"", "no PNG, JPEG or WebP"),
        (b"\x89PNG\r\n\x1a\n\0\0", "cannot be decoded"),
    ] {
        fs::write(path("init.png"), bytes).unwrap();
        let error = fails(&[&base[..], &["-i", &path("init.png")]].concat());
        assert!(error.contains(says), "{error}");
    }
    RgbImage::new(1, 1).save(path("init.png")).unwrap();
    let error = fails(&[&base[..], &["-i", &path("init.png")]].concat());
    assert!(error.contains("only 1x1"), "{error}");
    assert_eq!(draw("init.png", &["-W", "32", "-H", "32"]).len(), 32 * 32 * 3);
}

#[test]
fn a_tiny_autoencoder_takes_the_place_of_the_models_own() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.png");
    let (model, tiny) = (pipeline("shared-sd"), golden("networks/tiny-base"));
    let (model, tiny) = (model.to_str().unwrap(), tiny.to_str().unwrap());
    let base = ["-m", model, "-p", "x", "-W", "40", "-H", "24", "--steps", "1"];
    let out_text = out.to_str().unwrap();
    says(&[&["generate"], &base[..], &["--taesd", tiny, "-o", out_text]].concat());
    assert_eq!(pixels(&out).len(), 40 * 24 * 3);
    let own = pipeline("shared-sd/vae");
    let error = fails(&[&["plan"], &base[..], &["--taesd", own.to_str().unwrap()]].concat());
    assert!(error.contains("--vae instead"), "{error}");
}

#[test]
fn tiles_take_less_memory_and_make_nearly_the_same_picture() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.png");
    let model = pipeline("shared-sd");
    let base = ["-m", model.to_str().unwrap(), "-p", "x", "-W", "96", "-H", "72", "--steps", "1"];
    let draw = |more: &[&str]| {
        says(&[&["generate", "-o", out.to_str().unwrap()], &base[..], more].concat());
        pixels(&out)
    };
    let plan = |more: &[&str]| {
        let json = reports(&[&["plan", "--json"], &base[..], more].concat());
        (json["phases"][2]["arena_bytes"].as_u64().unwrap(), json["vae_tile"].clone())
    };
    let tiles = ["--vae-tiling", "--vae-tile-size", "12"];
    let (whole, none) = plan(&[]);
    let (tiled, tile) = plan(&tiles);
    assert!(tiled < whole, "{tiled} {whole}");
    assert_eq!((none, tile), (serde_json::Value::Null, 12.into()));
    assert_eq!(plan(&["--enable-tiling"]).1, 24);
    let whole = draw(&[]);
    let tiled = draw(&tiles);
    let info = says(&["inspect", out.to_str().unwrap()]);
    assert!(info.contains("VAE tile") && info.contains("12"), "{info}");
    assert_eq!(draw(&["--vae-tiling", "--vae-tile-size", "24"]), whole, "one tile holds all");
    assert_eq!(whole.len(), tiled.len());
    let differences = whole.iter().zip(&tiled).map(|(a, b)| f64::from(a.abs_diff(*b)));
    let mean = differences.sum::<f64>() / whole.len() as f64;
    println!("mean difference {mean:.2} levels");
    assert!(mean > 0.0 && mean < 16.0, "{mean}");
    let one = draw(&[&tiles[..], &["-t", "1"]].concat());
    assert!(one == tiled && draw(&[&tiles[..], &["-t", "3"]].concat()) == tiled);
}

#[test]
fn a_memory_limit_that_tiles_would_keep_is_refused_with_that_advice() {
    let model = pipeline("shared-sd");
    let base = ["plan", "-m", model.to_str().unwrap(), "-p", "x", "-W", "128", "-H", "128"];
    let plan = reports(&[&base[..], &["--vae-tiling", "--json"]].concat());
    let limit = plan["arena_bytes"].to_string();
    let output = mote(&[&base[..], &["--memory-limit", &limit]].concat());
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("To make it fit, add --vae-tiling"), "{error}");
    says(&[&base[..], &["--memory-limit", &limit, "--vae-tiling"]].concat());
}

/// The tensors of a committed tiny autoencoder under TAESD's first names: a file for the encoder
/// and one for the decoder.
fn first_names(tiny: &Path) -> [Vec<u8>; 2] {
    let file = fs::read(tiny.join("diffusion_pytorch_model.safetensors")).unwrap();
    let all = tensors(&file);
    [("encoder.layers.", 0), ("decoder.layers.", 1)].map(|(prefix, offset)| {
        let renamed = all.iter().filter_map(|(name, tensor, bytes)| {
            let (at, rest) = name.strip_prefix(prefix)?.split_once('.')?;
            let at = at.parse::<usize>().unwrap() + offset;
            Some((format!("{at}.{rest}"), tensor.clone(), bytes.clone()))
        });
        of_tensors(&renamed.collect::<Vec<_>>())
    })
}

#[test]
fn taesd_is_known_by_its_first_names_too() {
    let (folder, tiny) = (tempfile::tempdir().unwrap(), golden("networks/tiny-base"));
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let [encoder, decoder] = first_names(&tiny);
    fs::write(path("taesd_encoder.safetensors"), encoder).unwrap();
    fs::write(path("taesd_decoder.safetensors"), &decoder).unwrap();
    fs::write(path("taesd_decoder.pth"), b"PK").unwrap();
    image::RgbImage::new(40, 24).save(path("init.png")).unwrap();
    let model = pipeline("shared-sd");
    let base = ["-m", model.to_str().unwrap(), "-p", "x", "-W", "40", "-H", "24", "--steps", "2"];
    let (init, out) = (path("init.png"), path("a.png"));
    let draw = |taesd: &str, more: &[&str]| {
        says(&[&["generate", "--taesd", taesd, "-o", &out], &base[..], more].concat());
        pixels(Path::new(&out))
    };
    for more in [&[][..], &["-i", &init]] {
        let expected = draw(tiny.to_str().unwrap(), more);
        let one_file = tiny.join("diffusion_pytorch_model.safetensors");
        let places = [&path(""), &path("taesd_decoder.safetensors"), one_file.to_str().unwrap()];
        for place in places {
            assert_eq!(draw(place, more), expected, "{place} {more:?}");
        }
    }
    let report = says(&["inspect", &path("")]);
    assert!(report.contains("4 latent channels") && report.contains("\nencoder:"), "{report}");

    let refuse = |taesd: &str, more: &[&str]| {
        fails(&[&["plan", "--taesd", taesd], &base[..], more].concat())
    };
    let pickle = refuse(&path("taesd_decoder.pth"), &[]);
    assert!(pickle.contains("torch.load") && pickle.contains("taesd_decoder.saf"), "{pickle}");
    assert!(refuse(&path("taesd_encoder.safetensors"), &[]).contains("is no decoder"));
    assert!(refuse(&path("none"), &[]).contains("there is no"));
    let unet = model.join("unet/diffusion_pytorch_model.safetensors");
    assert!(refuse(unet.to_str().unwrap(), &[]).contains("is no decoder"));
    let vae = model.join("vae/diffusion_pytorch_model.safetensors");
    assert!(refuse(vae.to_str().unwrap(), &[]).contains("is no decoder"));
    fs::remove_file(path("taesd_encoder.safetensors")).unwrap();
    assert!(refuse(&path(""), &["-i", &init]).contains("has no encoder"));
    draw(&path(""), &[]);
    fs::write(path("other_decoder.safetensors"), &decoder).unwrap();
    assert!(refuse(&path(""), &[]).contains("several decoders"));
    let mut odd = tensors(&decoder);
    let (_, tensor, bytes) = odd[0].clone();
    odd.push(("99.weight".into(), tensor, bytes));
    fs::write(path("other_decoder.safetensors"), of_tensors(&odd)).unwrap();
    assert!(refuse(&path("other_decoder.safetensors"), &[]).contains("`99.weight`"));
}

#[test]
fn the_trained_taef2_is_told_from_its_pickle_and_from_other_latents() {
    let Some(folder) = shared("data/taef2") else { return };
    let model = pipeline("shared-sd");
    let place = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let refuse =
        |taesd: &str| fails(&["plan", "-p", "x", "-m", model.to_str().unwrap(), "--taesd", taesd]);
    for name in ["", "taef2_decoder.safetensors"] {
        let error = refuse(&place(name));
        assert!(error.contains("has 32 latent channels, and the UNet takes 4"), "{error}");
    }
    let pickle = place("taef2_decoder.pth");
    for error in [refuse(&pickle), fails(&["inspect", &pickle])] {
        assert!(error.contains("is a pickle") && error.contains("torch.load("), "{error}");
    }
    assert!(says(&["inspect", &place("")]).contains("32 latent channels"));
}

#[test]
fn every_instruction_set_makes_the_picture_within_one_level() {
    let folder = tempfile::tempdir().unwrap();
    let model = pipeline("shared-sd");
    let run = |isa: &str, name: &str| {
        let mut command = program();
        command.args(["generate", "-p", "x", "-W", "40", "-H", "24", "--steps", "3", "-v", "-m"]);
        command.arg(&model).arg("-o").arg(folder.path().join(name)).env("MOTE_ISA", isa);
        command.output().unwrap()
    };
    let output = run("scalar", "scalar.png");
    assert!(text(&output.stderr).contains("instruction set scalar"), "{}", text(&output.stderr));
    let expected = pixels(&folder.path().join("scalar.png"));
    let names = Level::ALL.iter().map(|level| level.name());
    let here: Vec<&str> = isas().into_iter().map(Isa::name).collect();
    for isa in names.chain([""]) {
        let output = run(isa, "other.png");
        let error = text(&output.stderr);
        if !isa.is_empty() && !here.contains(&isa) {
            assert!(error.contains(&format!("MOTE_ISA is {isa}, and this CPU lacks")), "{error}");
            continue;
        }
        let used = if isa.is_empty() { here[here.len() - 1] } else { isa };
        assert!(error.contains(&format!("instruction set {used}")), "{error}");
        let found = pixels(&folder.path().join("other.png"));
        assert!(levels_apart(&found, &expected) <= 1, "{isa}: other pixels");
    }
    let error = sentence(&run("sse9", "a.png"));
    assert!(error.contains("\"sse9\""), "{error}");
    assert!(!folder.path().join("a.png").exists());
}

#[test]
fn the_configuration_of_every_golden_network_is_understood() {
    use mote_host::config::{autoencoder, clip_text, unet_2d, unet_2d_condition};
    let mut count = 0;
    for entry in fs::read_dir(golden("networks")).unwrap() {
        let path = entry.unwrap().path().join("config.json");
        let Ok(text) = fs::read_to_string(&path) else { continue };
        count += 1;
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let failure = match json["_class_name"].as_str() {
            Some("UNet2DModel") => unet_2d::read(&path).err(),
            Some("UNet2DConditionModel") => unet_2d_condition::read(&path).err(),
            Some(_) => autoencoder::read(&path).err(),
            None => clip_text::read(&path).err(),
        };
        assert_eq!(failure, None, "{}", path.display());
    }
    assert!(count > 30, "only {count} configurations were found");
}

/// What `bench --json` writes of a model.
fn bench(model: &Path, more: &[&str]) -> serde_json::Value {
    let path = model.display().to_string();
    reports(&[&["bench", "-m", &path, "--json", "--repeat", "3"], more].concat())
}

fn number(value: &serde_json::Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} is no number in {value}"))
}

fn about(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// The figures of one network are there and fit each other.
fn check_component(component: &serde_json::Value) {
    let [median, min, max] =
        ["median_seconds", "min_seconds", "max_seconds"].map(|key| number(component, key));
    assert!(0.0 < min && min <= median && median <= max, "{component}");
    let spread = number(component, "median_absolute_deviation_seconds");
    assert!((0.0..=max - min).contains(&spread), "{component}");
    let mut seconds: Vec<_> =
        component["seconds"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
    seconds.sort_by(f64::total_cmp);
    assert_eq!(seconds, [min, median, max]);
    let operations = 2.0 * number(component, "multiply_adds");
    let [gops, peak] = ["gops", "peak_gops"].map(|key| number(component, key));
    assert!(operations > 0.0 && about(gops, operations / median / 1e9), "{component}");
    assert!(peak > 0.0 && about(number(component, "share_of_peak"), gops / peak), "{component}");
    assert!(number(component, "arena_bytes") > 0.0 && number(component, "weight_bytes") > 0.0);
    let images = 60.0 * number(component, "batch") / median;
    let images = images / number(component, "evaluations_per_image");
    assert!(about(number(component, "images_per_minute"), images), "{component}");
    let anonymous = &component["peak_anonymous_bytes"];
    match cfg!(target_os = "linux") {
        true => assert!(anonymous.as_f64() >= component["arena_bytes"].as_f64(), "{component}"),
        false => assert!(anonymous.is_null() || anonymous.is_u64(), "{component}"),
    }
}

#[test]
fn bench_times_each_network_with_figures_that_fit_each_other() {
    let model = pipeline("shared-sd");
    let report = bench(&model, &["-t", "2", "--steps", "10"]);
    let components = report["components"].as_array().unwrap();
    let names: Vec<_> = components.iter().map(|c| c["component"].as_str().unwrap()).collect();
    assert_eq!(names, ["text", "unet", "vae"]);
    let mut seconds = 0.0;
    for component in components {
        check_component(component);
        assert_eq!((&component["threads"], &component["type"]), (&2.into(), &"f32".into()));
        assert_eq!(component["isa"], report["isa"]);
        assert!(component["layers"].is_null());
        seconds += 60.0 / number(component, "images_per_minute");
    }
    assert!(about(number(&report, "images_per_minute"), 60.0 / seconds));
    // With the prompt and without it; a picture is decoded once.
    let evaluations = components.iter().map(|c| number(c, "evaluations_per_image"));
    assert_eq!(evaluations.collect::<Vec<_>>(), [2.0, 20.0, 1.0]);
    let path = model.display().to_string();
    let plan = reports(&["plan", "-m", &path, "-p", "a cat", "--json", "-t", "2"]);
    for (phase, component) in plan["phases"].as_array().unwrap().iter().zip(components) {
        assert_eq!(phase["weight_bytes"], component["weight_bytes"], "{phase}");
        let each = number(phase, "multiply_adds") / number(phase, "evaluations");
        // The text encoder is given all the tokens there is room for, a prompt may have fewer.
        assert!(component["component"] == "text" || each == number(component, "multiply_adds"));
    }
}

#[test]
fn the_layers_of_a_network_add_up_to_its_plan() {
    let model = golden("conformance/ddpm-uncond/model");
    let report = bench(&model, &["--per-layer"]);
    assert_eq!(report["components"].as_array().unwrap().len(), 1);
    let unet = &report["components"][0];
    check_component(unet);
    let lists = ["layers", "kinds"].map(|key| unet[key].as_array().unwrap());
    let sum = |list: &[serde_json::Value], key| list.iter().map(|l| number(l, key)).sum::<f64>();
    for list in lists {
        assert_eq!(sum(list, "multiply_adds"), number(unet, "multiply_adds"));
        assert_eq!(sum(list, "weight_bytes"), number(unet, "weight_bytes"));
        assert!((sum(list, "share") - 1.0).abs() < 1e-9);
        // What no op has done is next to nothing; medians of parts are not parts of the median.
        assert!(sum(list, "seconds") < 2.0 * number(unet, "max_seconds"));
        for layer in list {
            let operations = 2.0 * number(layer, "multiply_adds");
            let gops = number(layer, "gops");
            assert!(about(gops * number(layer, "seconds") * 1e9, operations), "{layer}");
            assert!(about(number(layer, "share_of_peak"), gops / number(unet, "peak_gops")));
        }
    }
    assert_eq!(sum(lists[1], "count"), lists[0].len() as f64);
    let position = |name: &str| lists[0].iter().position(|layer| layer["layer"] == name);
    let (first, last) = (position("conv_in").unwrap(), position("conv_out").unwrap());
    assert!(first < last && last + 1 == lists[0].len());
    assert_eq!(lists[0][first]["op"], "conv2d");
    let path = model.display().to_string();
    let table = says(&["bench", "-m", &path, "--per-layer", "--repeat", "1"]);
    for word in ["conv_in", "group_norm", "of peak", "pictures a minute"] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
}

#[test]
fn bench_measures_the_peak_of_the_arithmetic_that_a_type_asks_for() {
    let model = golden("conformance/ddpm-uncond/model");
    for dtype in ["f32", "bf16", "int8"] {
        let report = bench(&model, &["--type", dtype, "-t", "1"]);
        let unet = &report["components"][0];
        check_component(unet);
        assert_eq!((&report["type"], &unet["type"]), (&dtype.into(), &dtype.into()));
    }
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("packed.safetensors");
    let [from, to] = [&model, &packed].map(|path| path.display().to_string());
    says(&["convert", "-m", &from, "--type", "int8", "-o", &to]);
    let [report, folder] =
        [bench(&packed, &["-t", "1"]), bench(&model, &["-t", "1", "--type", "int8"])];
    check_component(&report["components"][0]);
    assert_eq!(report["type"], "int8");
    for key in ["arena_bytes", "weight_bytes", "multiply_adds"] {
        assert_eq!(report["components"][0][key], folder["components"][0][key], "{key}");
    }
}

#[test]
fn a_batch_is_one_evaluation_of_several_pictures() {
    let model = golden("conformance/ddpm-uncond/model");
    let [one, three] = ["1", "3"].map(|batch| bench(&model, &["--batch", batch, "-t", "1"]));
    let [one, three] = [&one, &three].map(|report| &report["components"][0]);
    check_component(three);
    assert_eq!(three["batch"], 3);
    assert_eq!(number(three, "weight_bytes"), number(one, "weight_bytes"));
    assert!(number(three, "multiply_adds") > 2.9 * number(one, "multiply_adds"));
    assert!(number(three, "arena_bytes") > 2.0 * number(one, "arena_bytes"));
}

#[test]
fn bench_needs_only_the_network_it_times() {
    let (_folder, model) = copied(&pipeline("shared-sd"));
    for gone in ["tokenizer", "scheduler", "text_encoder"] {
        fs::remove_dir_all(model.join(gone)).unwrap();
    }
    fs::remove_file(model.join("model_index.json")).unwrap();
    let smaller = bench(&model, &["--component", "unet", "-W", "32", "-H", "16"]);
    assert_eq!((&smaller["width"], &smaller["height"]), (&32.into(), &16.into()));
    assert!(smaller["images_per_minute"].is_null());
    check_component(&smaller["components"][0]);
    let path = model.display().to_string();
    let error = fails(&["bench", "-m", &path, "--component", "text"]);
    assert!(error.contains("has no text encoder. Take --component unet or vae."), "{error}");
    for more in [["--steps", "4"], ["--batch", "2"]] {
        let error = fails(&[&["bench", "-m", &path, "--component", "vae"], &more[..]].concat());
        assert!(error.contains(&format!("{} has no meaning for the", more[0])), "{error}");
    }
    assert!(fails(&["bench", "-m", &path, "-W", "33"]).contains("multiples of 4"));
    let unconditional = golden("conformance/ddpm-uncond/model").display().to_string();
    for component in ["text", "vae"] {
        let error = fails(&["bench", "-m", &unconditional, "--component", component]);
        assert!(error.trim_end().ends_with("Take --component unet.") && error.lines().count() == 1);
    }
    assert!(fails(&["bench", "-m", "/no/such/thing"]).contains("there is no folder"));
    fs::remove_dir_all(model.join("vae")).unwrap();
    fs::remove_file(model.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let error = fails(&["bench", "-m", &path]);
    assert!(error.contains("no weights in"), "{error}");
}
