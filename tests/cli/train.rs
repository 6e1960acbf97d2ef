//! Training from the command line: it ends with the same bits however often it was killed, what
//! cannot be used is refused in a sentence, and what comes out is a model.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::command::{
    fails, misused, mote, program, program_on_a_full_disk, says, says_both, signal, text,
};

/// How often a training is killed.
const KILLS: usize = 10;

/// Steps of the training that is killed, and how often it writes its state.
const STEPS: u64 = 240;
const BETWEEN_STATES: u64 = 7;

fn recipe() -> Value {
    json!({
        "unet": {
            "sample_size": 8, "in_channels": 3, "out_channels": 3,
            "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4,
            "attention_head_dim": 2, "cross_attention_dim": 8,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]
        },
        "text_encoder": {
            "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 8
        },
        "tokenizer": { "vocab_size": 90, "model_max_length": 8 },
        "scheduler": {
            "_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": "v_prediction", "timestep_spacing": "trailing"
        },
        "training": {
            "steps": STEPS, "batch_size": 4, "micro_batch": 2, "learning_rate": 0.002,
            "warmup_steps": 5, "flip": true, "sample_every": 100,
            "checkpoint_every": BETWEEN_STATES, "seed": 3
        },
        "samples": { "prompts": ["red square", "blue square"], "steps": 3 }
    })
}

/// A folder with pictures of plain colours, their captions and a recipe.
struct Bench {
    kept: tempfile::TempDir,
}

impl Bench {
    fn new(recipe: &Value) -> Self {
        let bench = Self { kept: tempfile::tempdir().unwrap() };
        let colours = [("red", [230, 20, 20]), ("green", [20, 200, 40]), ("blue", [30, 60, 220])];
        let mut captions = "filename\tname\tkeywords\n".to_string();
        for (name, rgb) in colours {
            bench.picture(&format!("{name}.png"), [8, 8], rgb);
            captions.push_str(&format!("{name}.png\t{name} square\tcolour, {name}\n"));
        }
        fs::write(bench.path("captions.tsv"), captions).unwrap();
        fs::write(bench.path("recipe.json"), recipe.to_string()).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.kept.path().join(name)
    }

    /// A square on white.
    fn picture(&self, name: &str, [width, height]: [u32; 2], rgb: [u8; 3]) {
        let path = self.path("data").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let inside = |x: u32, y: u32| (2..6).contains(&x) && (2..6).contains(&y);
        let pixel = |x, y| image::Rgb(if inside(x, y) { rgb } else { [255; 3] });
        image::RgbImage::from_fn(width, height, pixel).save(path).unwrap();
    }

    fn arguments(&self, output: &str, more: &[&str]) -> Vec<String> {
        let of = |name: &str| self.path(name).display().to_string();
        let (data, captions, recipe, output) =
            (of("data"), of("captions.tsv"), of("recipe.json"), of(output));
        let known =
            ["train", "--data", &data, "--captions", &captions, "--config", &recipe, "-o", &output];
        known.iter().chain(more).map(|&argument| argument.to_string()).collect()
    }

    fn train(&self, output: &str, more: &[&str]) -> String {
        let [_, told] = says_both(&self.arguments(output, more));
        told
    }

    /// The one line of a run that fails.
    fn fails(&self, output: &str, more: &[&str]) -> String {
        fails(&self.arguments(output, more))
    }

    fn start(&self, output: &str, more: &[&str]) -> Child {
        let mut command = program();
        command.args(self.arguments(output, more)).stderr(Stdio::null());
        command.spawn().expect("the binary runs")
    }
}

fn state(folder: &Path) -> PathBuf {
    folder.join("training/state.safetensors")
}

/// All files of a folder but sheets and parts, with their bytes.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !name.starts_with('.') {
            let bytes = fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

#[test]
fn killed_ten_times_it_ends_with_the_bits_of_an_unbroken_run() {
    let bench = Bench::new(&recipe());
    let begun = Instant::now();
    bench.train("whole", &["--quiet"]);
    let whole = begun.elapsed();
    let output = bench.path("broken");
    let (mut killed, mut tried) = (0, 0);
    while killed < KILLS {
        tried += 1;
        assert!(tried < 40 * KILLS, "the training ends before it can be killed {KILLS} times");
        let resume: &[&str] = if state(&output).exists() { &["--resume"] } else { &[] };
        let mut child = bench.start("broken", &[&["--quiet"], resume].concat());
        // Moments all over the run, none of them chosen for what happens in it.
        let part =
            f64::from((tried as u32).wrapping_mul(2_654_435_769).wrapping_shr(16) & 0xFF) / 255.0;
        sleep(whole.mul_f64(0.02 + 0.2 * part).max(Duration::from_millis(20)));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            // It came to its end: another begins.
            fs::remove_dir_all(&output).unwrap();
            continue;
        }
        killed += 1;
        if let Ok(bytes) = fs::read(state(&output)) {
            assert!(SafeTensors::deserialize(&bytes).is_ok(), "a state is whole at any moment");
        }
    }
    let resume: &[&str] = if state(&output).exists() { &["--resume"] } else { &[] };
    bench.train("broken", &[&["--quiet"], resume].concat());
    let [whole, broken] = [bench.path("whole"), output].map(|folder| {
        let short = |(path, bytes): (PathBuf, _)| {
            (path.strip_prefix(&folder).unwrap().to_path_buf(), bytes)
        };
        files(&folder).into_iter().map(short).collect::<Vec<_>>()
    });
    let names = |files: &[(PathBuf, Vec<u8>)]| {
        files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&whole), names(&broken));
    for ((path, a), (_, b)) in whole.iter().zip(&broken) {
        assert!(a == b, "{} differs", path.display());
    }
    assert!(whole.len() > 10, "{:?}", names(&whole));
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let mut recipe = recipe();
    recipe["training"]["steps"] = 20.into();
    let bench = Bench::new(&recipe);
    bench.train("one", &["--quiet", "-t", "1"]);
    bench.train("three", &["--quiet", "-t", "3"]);
    let [one, three] = ["one", "three"].map(|name| fs::read(state(&bench.path(name))).unwrap());
    assert!(one == three);
}

/// The figure of a row of a plan's table, as it is shown.
fn figure(table: &str, row: &str) -> String {
    let line = table.lines().find(|line| line.starts_with(row)).expect("the row is there");
    line[row.len()..].trim().into()
}

#[test]
fn less_memory_changes_no_bit() {
    let mut recipe = recipe();
    recipe["training"]["steps"] = 9.into();
    let bench = Bench::new(&recipe);
    let plan = |more: &[&str]| text(&mote(&bench.arguments("none", more)).stdout);
    let plain = plan(&["--plan"]);
    let all = figure(&plain, "in all");
    let (number, unit) = all.split_once(' ').unwrap();
    let limit = format!("{:.1}{unit}", number.parse::<f64>().unwrap() - 0.2);
    let small = plan(&["--plan", "--memory-limit", &limit]);
    assert_ne!(figure(&plain, "arena"), figure(&small, "arena"), "blocks are walked again");
    bench.train("plain", &["--quiet"]);
    bench.train("small", &["--quiet", "--memory-limit", &limit]);
    let [plain, small] = ["plain", "small"].map(|name| fs::read(state(&bench.path(name))).unwrap());
    assert!(plain == small);
}

#[test]
fn a_training_may_be_told_to_go_on_for_longer() {
    let mut recipe = recipe();
    recipe["training"]["steps"] = 7.into();
    let bench = Bench::new(&recipe);
    bench.train("model", &["--quiet"]);
    bench.train("model", &["--quiet", "--resume", "--steps", "12"]);
    let curve = fs::read_to_string(bench.path("model/training/loss.tsv")).unwrap();
    assert_eq!(curve.lines().count(), 13, "{curve}");
}

#[test]
fn fewer_steps_than_are_done_train_nothing_and_it_is_said() {
    let mut recipe = recipe();
    recipe["training"]["steps"] = 7.into();
    let bench = Bench::new(&recipe);
    bench.train("model", &["--quiet"]);
    let before = fs::read(state(&bench.path("model"))).unwrap();
    for steps in ["7", "5"] {
        let told = bench.train("model", &["--resume", "--steps", steps]);
        assert!(told.contains("step 7 is done already, and nothing is trained"), "{told}");
        assert!(!told.contains("going on after"), "{told}");
    }
    assert!(fs::read(state(&bench.path("model"))).unwrap() == before);
}

#[test]
fn the_first_sheet_comes_early() {
    let mut recipe = recipe();
    recipe["training"]["sample_every"] = 2000.into();
    recipe["training"]["steps"] = 101.into();
    let bench = Bench::new(&recipe);
    bench.train("model", &["--quiet"]);
    let sheets = |folder: &str| -> Vec<_> {
        let names = files(&bench.path(folder)).into_iter().map(|(path, _)| path);
        let names = names.map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("sheet")).collect()
    };
    assert_eq!(sheets("model"), ["sheet-0000100.png", "sheet-0000101.png"]);
    recipe["training"]["sample_every"] = 0.into();
    fs::write(bench.path("recipe.json"), recipe.to_string()).unwrap();
    bench.train("none", &["--quiet"]);
    assert!(sheets("none").is_empty());
}

#[test]
fn a_sheet_that_was_not_made_is_made_when_the_training_goes_on() {
    let mut recipe = recipe();
    recipe["training"]["steps"] = 100.into();
    let bench = Bench::new(&recipe);
    bench.train("model", &["--quiet"]);
    let sheet = bench.path("model/training/sheet-0000100.png");
    let before = fs::read(&sheet).unwrap();
    fs::remove_file(&sheet).unwrap();
    bench.train("model", &["--quiet", "--resume", "--steps", "102"]);
    assert!(fs::read(&sheet).unwrap() == before, "the same samples of the same parameters");
}

#[cfg(unix)]
#[test]
fn ctrl_c_says_one_thing_what_was_left_and_how_to_go_on() {
    let bench = Bench::new(&recipe());
    let mut command = program();
    command.args(bench.arguments("model", &["--steps", "1000000"])).stderr(Stdio::piped());
    let child = command.spawn().expect("the binary runs");
    let curve = bench.path("model/training/loss.tsv");
    while fs::read_to_string(&curve).map_or(0, |text| text.lines().count()) < 3 {
        sleep(Duration::from_millis(2));
    }
    signal(&child, "-INT");
    let ended = child.wait_with_output().unwrap();
    let said = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("error: stopped after step "), "{said}");
    assert!(last.contains("model has its state and model. Go on from there with --resume."));
    assert_eq!(said.matches("stopped").count(), 1, "{said}");
    assert!(
        state(&bench.path("model")).is_file() && bench.path("model/model_index.json").is_file()
    );
    bench.train("model", &["--quiet", "--resume", "--steps", "1"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_is_heard_in_a_measurement() {
    use std::io::{BufRead, BufReader};
    let mut recipe = recipe();
    recipe["training"]["steps"] = 3.into();
    let bench = Bench::new(&recipe);
    bench.train("model", &["--quiet"]);
    let of = |name: &str| bench.path(name).display().to_string();
    let (model, data, captions) = (of("model"), of("data"), of("captions.tsv"));
    // The first line comes before the loss is measured, the second before samples are drawn.
    for (lines, times) in [(1, "1000"), (2, "1")] {
        let known = ["eval", "-m", &model, "--data", &data, "--captions", &captions];
        let mut command = program();
        command.args(known).args(["--steps", "1000", "--times", times]).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let begins = |line: &String| line.starts_with("loss and bound of");
        assert_eq!(stderr.by_ref().filter(begins).take(lines).count(), lines);
        signal(&child, "-INT");
        let rest: Vec<_> = stderr.collect();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
        let goes_on = |line: &String| line.contains("held out") || line.contains("nearest");
        assert!(!rest.iter().any(goes_on), "{rest:?}");
        assert!(rest.last().unwrap().starts_with("error: stopped;"), "{rest:?}");
    }
}

#[test]
fn a_recipe_of_the_program_is_printed_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.json");
    for name in ["emoji16", "emoji32"] {
        fs::write(&path, says(&["train", "--print-config", name])).unwrap();
        let plan = says(&["plan", "--train", path.to_str().unwrap()]);
        assert_eq!(plan, says(&["plan", "--train", name]));
    }
    let refused = misused(&["train", "--print-config", "emoji8"]);
    assert!(refused.contains("emoji16"), "{refused}");
    let refused = fails(&["plan", "--train", "emoji8"]);
    assert!(refused.contains("mote train --print-config emoji32"), "{refused}");
}

#[test]
fn the_recipe_in_the_readme_trains() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("```json\n").expect("there is a recipe");
    let (recipe, _) = rest.split_once("```").expect("it has an end");
    let mut recipe: Value = serde_json::from_str(recipe).unwrap();
    for key in ["steps", "batch_size", "warmup_steps"] {
        recipe["training"][key] = 2.into();
    }
    let bench = Bench::new(&recipe);
    let told = bench.train("model", &["--resize"]);
    assert!(told.contains("wrote "), "{told}");
}

#[test]
fn pictures_inside_are_pointed_to_and_hidden_ones_are_none() {
    let mut recipe = recipe();
    recipe["training"]["steps"] = 1.into();
    let bench = Bench::new(&recipe);
    for name in ["32", "64", ".ipynb_checkpoints"] {
        bench.picture(&format!("flat/{name}/red.png"), [8, 8], [9, 9, 9]);
    }
    let of = |name: &str| bench.path(name).display().to_string();
    let (flat, out, config) = (of("data/flat"), of("m"), of("recipe.json"));
    let train = |data: &str, more: &[&str]| {
        let all = ["train", "--data", data, "--config", &config, "-o", &out];
        mote(&[&all[..], more].concat())
    };
    let captions = of("captions.tsv");
    let refused = text(&train(&flat, &["--captions", &captions]).stderr);
    let expected =
        format!("Folders inside have some: give those to --data ({flat}/32, {flat}/64).");
    assert!(refused.contains(&expected), "{refused}");
    let refused = train("no folder", &["--hold-out", "no list"]);
    assert!(text(&refused.stderr).contains("cannot open no list"));
    // Taken as classes, the hidden folder is none.
    let ran = train(&flat, &["--resize"]);
    assert!(text(&ran.stderr).contains(", 2 pictures, "), "{}", text(&ran.stderr));
}

#[test]
fn pictures_are_learned_in_blocks_of_pixels() {
    let mut recipe = recipe();
    let unet = recipe["unet"].as_object_mut().unwrap();
    for (key, value) in [
        ("sample_size", json!(4)),
        ("in_channels", json!(12)),
        ("out_channels", json!(12)),
        ("class_embed_type", json!("simple_projection")),
        ("projection_class_embeddings_input_dim", json!(8)),
    ] {
        unet.insert(key.into(), value);
    }
    recipe["training"]["ema_decay"] = json!(0.99);
    let bench = Bench::new(&recipe);
    bench.train("model", &["--quiet", "--steps", "1200", "--learning-rate", "0.005"]);
    let of = |name: &str| bench.path(name).display().to_string();
    let packed = of("m.safetensors");
    says(&["convert", "-m", &of("model"), "--type", "int8", "-o", &packed, "--quiet"]);
    for model in [&of("model"), &packed] {
        let request = ["-p", "green square", "--steps", "10", "--cfg-scale", "1", "--quiet"];
        let picture = of("a.png");
        says(&[&["generate", "-m", model, "-o", &picture], &request[..]].concat());
        let drawn = image::open(&picture).unwrap().to_rgb8();
        assert_eq!(drawn.dimensions(), (8, 8));
        let mean = |inside: bool| -> [f64; 3] {
            let is = |x: u32, y: u32| (2..6).contains(&x) && (2..6).contains(&y);
            let pixels: Vec<_> =
                drawn.enumerate_pixels().filter(|(x, y, _)| is(*x, *y) == inside).collect();
            let sum = |c: usize| pixels.iter().map(|(_, _, p)| f64::from(p[c])).sum::<f64>();
            std::array::from_fn(|c| sum(c) / pixels.len() as f64)
        };
        let [red, green, _] = mean(true);
        assert!(green > red + 40.0, "{model}: {:?}", mean(true));
        assert!(mean(false).iter().all(|&value| value > 180.0), "{model}: {:?}", mean(false));
    }
    says(&["plan", "-m", &packed, "-p", "green square"]);
    says(&["bench", "-m", &packed, "--repeat", "1"]);
}

#[test]
fn it_learns_and_the_model_is_read_by_the_other_commands() {
    let bench = Bench::new(&recipe());
    let told = bench.train("model", &["--hold-out", "1", "--steps", "300"]);
    assert!(told.contains("3 pictures, 1 held out") || told.contains("2 pictures, 1 held out"));
    assert!(told.contains("images/s"), "{told}");
    let curve = fs::read_to_string(bench.path("model/training/loss.tsv")).unwrap();
    let losses: Vec<f64> = curve
        .lines()
        .skip(1)
        .map(|line| line.split('\t').nth(1).unwrap().parse().unwrap())
        .collect();
    assert_eq!(losses.len(), 300);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..20]), mean(&losses[280..]));
    assert!(last < 0.8 * first, "the loss went from {first} to {last}");
    assert!(bench.path("model/training/sheet-0000300.png").is_file());
    let model = bench.path("model").display().to_string();
    let (packed, picture) = (bench.path("m.safetensors"), bench.path("a.png"));
    let [packed, picture] = [packed, picture].map(|path| path.display().to_string());
    says(&["generate", "-m", &model, "-p", "red square", "--steps", "3", "-o", &picture]);
    says(&["convert", "-m", &model, "--type", "int8", "-o", &packed, "--quiet"]);
    says(&["generate", "-m", &packed, "-p", "red square", "--steps", "3", "-o", &picture]);
    says(&["bench", "-m", &packed, "--repeat", "1"]);
    says(&["inspect", &model]);
    says(&["inspect", &state(&bench.path("model")).display().to_string()]);
}

#[test]
fn a_model_is_measured_on_its_data() {
    let mut recipe = recipe();
    recipe["training"]["steps"] = 300.into();
    let bench = Bench::new(&recipe);
    bench.train("model", &["--quiet", "--hold-out", "1"]);
    let of = |name: &str| bench.path(name).display().to_string();
    let (model, data, captions) = (of("model"), of("data"), of("captions.tsv"));
    let known = [
        "eval",
        "-m",
        &model,
        "--data",
        &data,
        "--captions",
        &captions,
        "--hold-out",
        "1",
        "--hold-out-seed",
        "3",
        "--times",
        "8",
        "--steps",
        "4",
        "--cfg-scale",
        "1.5",
        "--json",
        "--quiet",
    ];
    let measured = says(&known);
    for (given, what) in [
        (["--hold-out-seed", "3"], "--hold-out gives no number"),
        (["--hold-out", "names.txt"], "cannot open names.txt"),
    ] {
        let refused = fails(&[&known[..7], &given].concat());
        assert!(refused.contains(what), "{refused}");
    }
    let report: Value = serde_json::from_str(&measured).unwrap();
    for (at, (title, count)) in [("training", 2), ("held out", 1)].into_iter().enumerate() {
        let found = &report["likelihood"][at];
        // Of the training's pictures there are as many as of those held out.
        assert_eq!((&found["pictures"], &found["count"]), (&json!(title), &json!(1)));
        let of = |key: &str| found[key].as_f64().unwrap();
        assert!((0.0..1.5).contains(&of("loss")), "{found}");
        assert!(of("bits_per_dimension") > 0.0, "{found}");
        let found = &report["samples"][at];
        assert_eq!((&found["names"], &found["count"]), (&json!(title), &json!(count)));
        let share = found["nearest_is_named"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share), "{found}");
        assert_eq!(found["named_among_nearest_5"], json!(1.0), "there are three pictures");
    }
    assert!(measured == says(&known), "measured again it is the same");
}

#[test]
fn captions_that_the_text_encoder_cuts_are_told() {
    let mut recipe = recipe();
    recipe["training"]["steps"] = 1.into();
    recipe["training"]["keywords"] = 0.into();
    let bench = Bench::new(&recipe);
    let captions = fs::read_to_string(bench.path("captions.tsv")).unwrap();
    let long = captions.replace("red square", "a red square that is larger than words can say");
    fs::write(bench.path("captions.tsv"), long).unwrap();
    let expected = "note: 1 of 3 captions are longer than the 8 tokens that the text encoder \
                    takes, and the rest of them is left out; the first is “a red square that is";
    let told = bench.train("model", &[]);
    assert!(told.contains(expected), "{told}");
    let of = |name: &str| bench.path(name).display().to_string();
    let (model, data, captions) = (of("model"), of("data"), of("captions.tsv"));
    let known = ["eval", "-m", &model, "--data", &data, "--captions", &captions, "--times", "1"];
    let ran = mote(&known);
    assert!(text(&ran.stderr).contains(expected), "{}", text(&ran.stderr));
}

#[test]
fn what_cannot_be_used_is_refused_in_one_sentence() {
    let mut recipe = recipe();
    recipe["training"]["steps"] = 3.into();
    let bench = Bench::new(&recipe);
    assert!(bench.fails("a", &["--resume"]).contains("holds no training to go on with"));
    bench.train("a", &["--quiet"]);
    assert!(bench.fails("a", &[]).contains("Go on with it with --resume"));
    assert!(bench.fails("a", &["--resume", "--seed", "9"]).contains("by another recipe"));
    bench.picture("red.png", [8, 8], [9, 9, 9]);
    assert!(bench.fails("a", &["--resume"]).contains("on other pictures or captions"));
    bench.picture("odd.png", [9, 8], [1, 2, 3]);
    assert!(bench.fails("b", &[]).contains("has no caption for odd.png"));
    let told = bench.train("b", &["--skip-bad"]);
    assert!(told.contains("passed over: ") && told.contains("odd.png"), "{told}");
    bench.picture("red.png", [10, 8], [9, 9, 9]);
    assert!(
        bench
            .fails("c", &["--skip-bad", "--quiet", "--memory-limit", "1kB"])
            .contains("the limit is")
    );
    fs::remove_file(bench.path("data/odd.png")).unwrap();
    assert!(bench.fails("c", &[]).contains("red.png is 10x8, and the model draws 8x8"));
    bench.train("c", &["--resize", "--quiet"]);
    fs::write(bench.path("data/blue.png"), &fs::read(bench.path("data/blue.png")).unwrap()[..40])
        .unwrap();
    let undecodable = bench.fails("d", &["--resize"]);
    assert!(undecodable.contains("blue.png cannot be decoded"), "{undecodable}");
    assert!(undecodable.contains("--skip-bad"), "{undecodable}");
    fs::write(state(&bench.path("c")), "half").unwrap();
    assert!(
        bench
            .fails("c", &["--resize", "--skip-bad", "--quiet", "--resume"])
            .contains("cannot be used")
    );
    fs::remove_dir_all(bench.path("data")).unwrap();
    fs::create_dir(bench.path("data")).unwrap();
    assert!(bench.fails("d", &[]).contains("there are no pictures in"));
    assert!(!bench.path("d").exists(), "nothing is made for what is refused");
}

#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_leaves_the_last_state_whole() {
    let bench = Bench::new(&recipe());
    let mut child = bench.start("a", &["--quiet"]);
    let path = state(&bench.path("a"));
    while !path.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended without a state");
        sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = fs::read(&path).unwrap();
    // A state has more blocks.
    let mut command = program_on_a_full_disk(100);
    let ran = command.args(bench.arguments("a", &["--resume"])).output().unwrap();
    let said = text(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write") && said.contains("state.safetensors"), "{said}");
    assert!(fs::read(&path).unwrap() == before, "the last state is as it was");
    bench.train("a", &["--resume", "--quiet"]);
}

#[test]
fn a_plan_tells_the_memory_and_makes_nothing() {
    let bench = Bench::new(&recipe());
    let ran = mote(&bench.arguments("model", &["--plan"]));
    let told = text(&ran.stdout);
    assert!(ran.status.success() && told.contains("in all") && told.contains("arena"), "{told}");
    assert!(!bench.path("model").exists());
    // `plan --train` knows the recipe alone: a vocabulary as large as may be, no pictures.
    let recipe = bench.path("recipe.json").display().to_string();
    let ran = mote(&["plan", "--train", &recipe]);
    let alone = text(&ran.stdout);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    assert_eq!(figure(&alone, "arena"), figure(&told, "arena"));
    assert_eq!(figure(&alone, "pictures"), "0 B");
}
