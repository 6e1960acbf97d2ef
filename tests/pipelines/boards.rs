//! The same picture everywhere: models packed and drawn on this machine, whatever it is, against
//! pictures that an x86-64 drew with plain code; and step by step, as C and firmware draw them.
//!
//! The pictures in `../golden/boards` were written by `mote convert --type int8` and
//! `MOTE_ISA=scalar mote generate --sampling-method ddim --seed 7` with the arguments below; the
//! trained models are the packed files that they are. Every instruction set must give the same
//! bits.
#![allow(clippy::result_large_err, reason = "a fault names a weight, and has no allocator")]

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use mote::Error;
use mote::arch::Isa;
use mote::diffusion::sampler::{Named, Row, SAMPLERS};
use mote::models::unet_2d::ClassEmbedding;
use mote::pipeline::recipe::{self, Networks, Recipe};
use mote::pipeline::{Fault, Model, Request, Session};
use mote::weights::{Index, Slot, header_bytes};
use mote_cli::args::{Cli, Command};
use mote_cli::{convert, generate};
use mote_host::resolve::{self, Words};
use mote_host::{Place, Stop};
use mote_tests::files::{levels_apart, pixels, str};
use mote_tests::{Choices, Memory, golden, isas};

const SEED: u64 = 7;

/// A model, the steps that it is drawn in, and the arguments that it needs.
type Case = (&'static str, usize, &'static [&'static str]);

/// Models of random weights.
const CASES: [Case; 2] =
    [("ddpm-uncond", 2, &[]), ("sd1-ddim", 1, &["-p", "house", "--cfg-scale", "4"])];

/// The firmware's model, and that in the program.
const TRAINED: [Case; 2] = [
    ("emoji16", 10, &["-p", "frog", "--cfg-scale", "2"]),
    ("emoji32", 10, &["-p", "grinning face"]),
];

/// More than any of the tests needs.
const ROWS: usize = 64;
const SLOTS: usize = 512;
const ARENA_BYTES: usize = 8 << 20;

fn mote(arguments: &[&str]) {
    let arguments = Cli::try_parse_from([&["mote"], arguments].concat()).expect("good arguments");
    let done = match &arguments.command {
        Command::Convert(args) => convert::interruptible(args, &Stop::default()),
        Command::Generate(args) => generate::interruptible(args, &Stop::default()),
        _ => panic!("the tests pack and draw"),
    };
    done.expect("the command succeeds");
}

/// A packed model and the folder that keeps it.
fn packed(model: &Path, dtype: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    mote(&["convert", "--quiet", "-m", str(model), "--type", dtype, "-o", str(&file)]);
    (folder, file)
}

fn conformance(name: &str) -> PathBuf {
    golden("conformance").join(name).join("model")
}

fn trained(name: &str) -> PathBuf {
    let folder = if name == "emoji32" { "../../cli/host/model" } else { "../firmware/model" };
    golden(folder).join(format!("{name}.safetensors"))
}

/// What the command line makes of a prompt.
fn words(model: &Path, arguments: &[&str]) -> Option<Words> {
    let start = ["mote", "generate", "-m", str(model)];
    let Command::Generate(args) = Cli::parse_from([&start, arguments].concat()).command else {
        panic!("these are arguments of generate");
    };
    let (place, request) = (Place::model(&args.model.model), args.request.read());
    let (place, request) = (place.expect("a place"), request.expect("a request"));
    let resolved = resolve::resolve(&place, &args.model.parts(), &request);
    match resolved.expect("a good model").networks {
        resolve::Networks::TextToImage(words) => Some(words),
        resolve::Networks::Unconditional { .. } => None,
    }
}

fn request<'a>(words: &'a Option<Words>, steps: usize) -> Request<'a> {
    let sampler = Named::by_name("ddim").map(|named| named.number);
    let request = Request { steps, seed: SEED, sampler, ..Request::default() };
    match words {
        None => request,
        Some(words) => Request {
            prompt: &words.prompt,
            negative_prompt: &words.negative_prompt,
            guidance_scale: words.cfg_scale,
            ..request
        },
    }
}

/// Draws step by step, in exactly the memory of the plan.
fn drawn(file: &[u8], request: Request<'_>, isa: Isa) -> Result<Vec<u8>, Fault> {
    let model = Model::open(file)?;
    let (mut rows, mut scratch) = (vec![Row::EMPTY; ROWS], vec![0.0; 1000]);
    let (needs, plan, size) = model.plan(&request, isa, &mut rows, &mut scratch)?;
    assert!(plan.multiply_adds() > 0 && needs.model_bytes == file.len());
    let (mut rows, mut slots) = (vec![Row::EMPTY; needs.rows], vec![Slot::EMPTY; needs.tensors]);
    let mut memory = Memory::dirty(needs.arena_bytes, 0xFF);
    let mut session = Session::begin(model, request, isa, &mut rows, &mut slots, memory.bytes())?;
    assert_eq!(session.needs(), needs);
    let [height, width] = session.size();
    assert_eq!(session.size(), size);
    assert_eq!(model.table(&request).unwrap()[0], needs.rows);
    let mut calls = 0;
    loop {
        assert_eq!(session.done(), calls);
        assert_eq!(session.row(&mut [0; 3]), Err(Error::Cancelled));
        calls += 1;
        if !session.step()? {
            break;
        }
    }
    assert_eq!((calls, session.done()), (session.steps(), session.steps()));
    let (mut picture, mut row) = (Vec::new(), vec![0; 3 * width]);
    assert!(matches!(session.row(&mut row[1..]), Err(Error::Capacity { .. })));
    while session.row(&mut row)? {
        picture.extend_from_slice(&row);
    }
    assert_eq!(picture.len(), 3 * width * height);
    Ok(picture)
}

#[test]
fn pictures_are_the_same_on_every_machine() {
    let kept = CASES.map(|case| (case, packed(&conformance(case.0), "int8")));
    let packed = kept.iter().map(|(case, (_, file))| (*case, file.clone()));
    let trained = TRAINED.map(|case| (case, trained(case.0)));
    for ((name, steps, arguments), file) in packed.chain(trained) {
        let expected = pixels(&golden("boards").join(format!("{name}.png")));
        let words = words(&file, arguments);
        let bytes = fs::read(&file).unwrap();
        for isa in isas() {
            let found = drawn(&bytes, request(&words, steps), isa).unwrap();
            let apart = levels_apart(&found, &expected);
            assert_eq!(apart, 0, "{name}, {}: levels apart", isa.name());
        }
    }
}

#[test]
fn step_by_step_a_picture_is_that_of_the_command_line_to_the_bit() {
    for (name, steps, arguments) in CASES {
        for dtype in ["f16", "int8"] {
            let (kept, file) = packed(&conformance(name), dtype);
            let picture = kept.path().join("picture.png");
            let (steps_text, seed) = (steps.to_string(), SEED.to_string());
            let mut all = vec!["generate", "--quiet", "-m", str(&file), "-o", str(&picture)];
            all.extend(["-s", &seed, "--steps", &steps_text, "--sampling-method", "ddim"]);
            all.extend(arguments);
            mote(&all);
            let (words, bytes) = (words(&file, arguments), fs::read(&file).unwrap());
            // The command line takes the best instruction set, or that of MOTE_ISA.
            let isa = mote_host::machine::isa::choose().unwrap();
            let found = drawn(&bytes, request(&words, steps), isa).unwrap();
            assert_eq!(levels_apart(&found, &pixels(&picture)), 0, "{name} in {dtype}");
        }
    }
}

#[test]
fn every_sampler_of_a_recipe_draws() {
    let (_kept, file) = packed(&conformance("ddpm-uncond"), "f32");
    let bytes = fs::read(&file).unwrap();
    let model = Model::open(&bytes).unwrap();
    let own = model.recipe(None).unwrap().own_sampler;
    assert_eq!(Named::numbered(own), Named::by_name("ddpm"));
    let has = |sampler| model.recipe(Some(sampler)).unwrap().scheduler.is_some();
    let mut refused = Vec::new();
    for sampler in (0..=SAMPLERS.len()).map(Some).chain([None]) {
        let request = Request { sampler, steps: 4, size: Some([8, 8]), ..Request::default() };
        match drawn(&bytes, request, Isa::SCALAR) {
            Ok(_) => assert!(sampler.is_none_or(has), "{sampler:?}"),
            Err(fault) => {
                assert!(matches!(fault.error, Error::Config { key: "the sampler", .. }), "{fault}");
                refused.push(sampler);
            }
        }
    }
    // DPM-Solver++ does not take this model's `variance_type`, and there is no sampler of the last
    // number.
    let numbers = ["dpm++2m", "dpm++2m_sde"].map(|name| Named::by_name(name).map(|n| n.number));
    assert_eq!(refused, [numbers[0], numbers[1], Some(SAMPLERS.len())]);
}

#[test]
fn a_recipe_that_is_written_is_read_again() {
    for name in ["ddpm-uncond", "sd1-ddim"] {
        let (_kept, file) = packed(&conformance(name), "f16");
        let bytes = fs::read(&file).unwrap();
        let model = Model::open(&bytes).unwrap();
        let Recipe { networks, own_sampler, .. } = model.recipe(None).unwrap();
        assert_eq!(matches!(networks, Networks::TextToImage { .. }), name == "sd1-ddim");
        let settings = |named: &Named| {
            let recipe = model.recipe(Some(named.number)).unwrap();
            recipe.scheduler.map(|scheduler| (named.number, scheduler))
        };
        let all: Vec<_> = SAMPLERS.iter().filter_map(settings).collect();
        let write = |out: Option<&mut [u8]>| recipe::write(&networks, own_sampler, &all, out);
        let length = write(None).unwrap();
        let mut written = vec![0; length];
        assert_eq!(write(Some(&mut written)).unwrap(), length);
        // The checksum's four bytes come last.
        assert_eq!(bytes[bytes.len() - 4 - length..][..length], written[..]);
        assert_eq!(Recipe::read(&written, None).unwrap(), model.recipe(None).unwrap());
        assert!(write(Some(&mut vec![0; length - 1])).is_err());
        for len in 0..length {
            let read = Recipe::read(&written[..len], None);
            assert!(matches!(read, Err(Error::Format { .. })), "{len}");
        }
    }
}

/// The recipe's bytes in a packed file.
fn recipe_of(file: &[u8]) -> Vec<u8> {
    let length = file.len() as u64;
    let header = header_bytes(file, length).unwrap();
    let found = Index::search(&file[header], length, recipe::TENSOR).unwrap().unwrap();
    file[found.begin as usize..][..found.bytes].to_vec()
}

#[test]
fn no_recipe_panics() {
    let (_kept, file) = packed(&conformance("ddpm-uncond"), "f16");
    let bytes = fs::read(&file).unwrap();
    let good = recipe_of(&bytes);
    let mut choices = Choices::new(11);
    let mut read = 0;
    for _ in 0..3000 {
        let mut bad = good.clone();
        let words = bad.len() / 4;
        let at = 4 * choices.below(words);
        let word: u32 = [0, 1, 2, 3, 64, 1 << 16, u32::MAX, 0x7F80_0000][choices.below(8)];
        bad[at..at + 4].copy_from_slice(&word.to_le_bytes());
        let Ok(recipe) = Recipe::read(&bad, None) else { continue };
        read += 1;
        if let Networks::Unconditional(unet) = &recipe.networks {
            let _ = unet.validate();
        }
    }
    assert!(read > 100, "{read}");
}

#[test]
fn no_damage_to_a_file_goes_unnoticed() {
    let (_kept, file) = packed(&conformance("ddpm-uncond"), "int8");
    let good = fs::read(&file).unwrap();
    for at in (0..good.len()).step_by(good.len() / 40).chain([good.len() - 1]) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let refused = Model::open(&bad);
        let is_refused = matches!(refused, Err(Error::Format { .. } | Error::Checksum { .. }));
        assert!(is_refused, "byte {at}: {refused:?}");
    }
    for len in [0, 7, 8, 100, good.len() / 2, good.len() - 1] {
        assert!(matches!(Model::open(&good[..len]), Err(Error::Format { .. })), "{len} bytes");
    }
    // A checkpoint that was never packed.
    let plain = conformance("ddpm-uncond").join("unet/diffusion_pytorch_model.safetensors");
    assert!(matches!(Model::open(&fs::read(plain).unwrap()), Err(Error::Format { .. })));
}

#[test]
fn one_byte_one_row_or_one_slot_less_is_an_error() {
    let (_kept, file) = packed(&conformance("ddpm-uncond"), "int8");
    let bytes = fs::read(&file).unwrap();
    let model = Model::open(&bytes).unwrap();
    let request = Request { steps: 3, ..Request::default() };
    let (mut rows, mut scratch) = (vec![Row::EMPTY; ROWS], vec![0.0; 1000]);
    let (needs, ..) = model.plan(&request, Isa::SCALAR, &mut rows, &mut scratch).unwrap();
    assert!(needs.rows < ROWS && needs.tensors < SLOTS && needs.arena_bytes < ARENA_BYTES);
    let begin = |rows: usize, slots: usize, len: usize| {
        let (mut rows, mut slots) = (vec![Row::EMPTY; rows], vec![Slot::EMPTY; slots]);
        let mut memory = Memory::dirty(len, 0xFF);
        let begun =
            Session::begin(model, request, Isa::SCALAR, &mut rows, &mut slots, memory.bytes());
        begun.map(|session| session.size()).map_err(|fault| fault.error)
    };
    let (rows, slots, len) = (needs.rows, needs.tensors, needs.arena_bytes);
    assert_eq!(begin(rows, slots, len), Ok([32, 32]));
    assert!(matches!(begin(rows - 1, slots, len), Err(Error::Capacity { .. })));
    assert!(matches!(begin(rows, slots - 1, len), Err(Error::Capacity { .. })));
    assert_eq!(
        begin(rows, slots, len - 1),
        Err(Error::OutOfMemory { needed: len, limit: len - 1 })
    );
    for len in [0, 1, 63, 3999, 4000] {
        assert!(begin(rows, slots, len).is_err());
    }
}

#[test]
fn a_class_is_drawn_where_the_model_knows_classes() {
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path();
    for name in ["unet", "scheduler"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    let network = golden("networks/unet2d-class-table");
    for file in ["config.json", "diffusion_pytorch_model.safetensors"] {
        fs::copy(network.join(file), folder.join("unet").join(file)).unwrap();
    }
    let scheduler = "scheduler/scheduler_config.json";
    fs::copy(conformance("ddpm-uncond").join(scheduler), folder.join(scheduler)).unwrap();
    fs::write(folder.join("model_index.json"), r#"{"_class_name": "DDPMPipeline"}"#).unwrap();
    let (_packed, file) = packed(folder, "f32");
    let bytes = fs::read(&file).unwrap();
    let recipe = Model::open(&bytes).unwrap().recipe(None).unwrap();
    let Networks::Unconditional(unet) = recipe.networks else { panic!("a UNet2DModel") };
    let ClassEmbedding::Table(classes) = unet.class_embedding else { panic!("with classes") };
    let draw = |class_label| {
        let size = Some([8, 12]);
        drawn(&bytes, Request { class_label, steps: 2, size, ..Request::default() }, Isa::SCALAR)
    };
    let [first, second] = [0, 1].map(|label| draw(Some(label)).unwrap());
    assert_ne!(first, second);
    let limit = classes;
    let beyond = Error::Index { what: "class", index: limit, limit };
    assert_eq!(draw(Some(classes as u32)).unwrap_err().error, beyond);
    assert!(draw(None).is_err());
}

#[test]
fn a_missing_weight_is_named() {
    let (_kept, file) = packed(&conformance("ddpm-uncond"), "f32");
    let mut bytes = fs::read(&file).unwrap();
    let name = b"unet.conv_in.bias";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
    bytes[at + name.len() - 1] = b'z';
    let end = bytes.len() - 4;
    let checksum = mote::weights::crc32(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    let fault = drawn(&bytes, Request::default(), Isa::SCALAR).unwrap_err();
    assert_eq!(fault.to_string(), "unet.conv_in.bias: weight missing");
}
