//! Compares what boards drew with the host's pictures, writes them as PNG, and prints what it took.
//!
//! `host FOLDER` reads `FOLDER/runs`, a line `board program elf` for each program that was run;
//! `FOLDER/board-program.txt` holds what it said, `.count` how many instructions it took. The
//! pictures to compare with are `FOLDER/host-program-0.png` and so on, which the command line drew
//! of the same file.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::process::ExitCode;

use mote::arch::Isa;

/// The board, and its clocks, that seconds are estimated for.
const TIMED: &str = "m7";
const MEGAHERTZ: [u64; 2] = [216, 480];

/// What a program may take: bytes of flash for its model, and of memory in all.
const BUDGETS: [(&str, [u64; 2]); 2] =
    [("picture", [256 << 10, 128 << 10]), ("large", [3 << 20, 1 << 20])];

/// Layers, and the instructions that CMSIS-NN's kernels (2026-07 sources, gcc 12.2 -O3) take for a
/// multiply-add of each, on Cortex-M7, M4 and M55, counted in the same emulator.
const LAYERS: [(&str, [f64; 3]); 5] = [
    ("3x3, 32x32x32 to 32", [1.93, 1.93, 0.253]),
    ("3x3, 16x16x64 to 64", [1.76, 1.76, 0.206]),
    ("3x3, 8x8x128 to 128", [1.69, 1.69, 0.187]),
    ("1x1, 16x16x64 to 64", [2.03, 2.07, 0.393]),
    ("linear 512 to 512", [1.97, 1.97, 0.498]),
];
const CORES: [&str; 3] = ["m7", "m4", "m55"];

/// The columns of the table, see [`program`].
const HEADER: &str = "\
bytes               flash:            RAM:                 pics:    instruc- seconds at MHz:
board     program    model    code  static  stack  in all levels       tions     216     480";

type Result<T> = std::result::Result<T, String>;

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|error| format!("{}: {error}", path.display()))
}

/// A picture as a program says it: width, height, rows of RGB.
#[derive(PartialEq)]
struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

/// All pictures in what a program said.
fn pictures(said: &str) -> Result<Vec<Picture>> {
    let (mut lines, mut all) = (said.lines(), Vec::new());
    while let Some(line) = lines.next() {
        let Some(size) = line.strip_prefix("picture ") else { continue };
        let numbers: Vec<u32> = size.split(' ').filter_map(|n| n.parse().ok()).collect();
        let &[width, height] = &numbers[..] else { return Err(format!("no size: {line}")) };
        let mut rgb = Vec::new();
        for row in lines.by_ref().take(height as usize) {
            let bytes = row.as_bytes().chunks(2);
            let byte = |b: &[u8]| u8::from_str_radix(std::str::from_utf8(b).ok()?, 16).ok();
            rgb.extend(
                bytes
                    .map(|b| byte(b).ok_or(format!("no row of pixels: {row}")))
                    .collect::<Result<Vec<_>>>()?,
            );
        }
        if rgb.len() != (3 * width * height) as usize {
            return Err(format!("a picture of {} bytes", rgb.len()));
        }
        all.push(Picture { width, height, rgb });
    }
    Ok(all)
}

fn read_png(path: &Path) -> Result<Picture> {
    let explain = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(|error| explain(&error))?;
    let mut reader =
        png::Decoder::new(BufReader::new(file)).read_info().map_err(|e| explain(&e))?;
    let mut rgb = vec![0; reader.output_buffer_size().ok_or("a picture too large")?];
    let info = reader.next_frame(&mut rgb).map_err(|error| explain(&error))?;
    if info.color_type != png::ColorType::Rgb {
        return Err(explain(&"it is not RGB"));
    }
    Ok(Picture { width: info.width, height: info.height, rgb })
}

fn write_png(path: &Path, picture: &Picture) -> Result<()> {
    let explain = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = File::create(path).map_err(|error| explain(&error))?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().map_err(|error| explain(&error))?;
    writer.write_image_data(&picture.rgb).map_err(|error| explain(&error))
}

/// The largest difference of two pictures.
fn difference(a: &Picture, b: &Picture) -> Result<u8> {
    if (a.width, a.height) != (b.width, b.height) {
        return Err(format!("{}x{} is not {}x{}", a.width, a.height, b.width, b.height));
    }
    Ok(a.rgb.iter().zip(&b.rgb).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0))
}

/// Bytes of flash (all that the file holds to be loaded) and of static RAM (what lies in segments
/// that are larger in memory than in the file or are written to), from the program headers.
fn sizes(elf: &Path) -> Result<[u64; 2]> {
    let file = read(elf)?;
    let number = |at: usize, bytes: usize| {
        let bytes = file.get(at..at + bytes).unwrap_or(&[]);
        bytes.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b))
    };
    let is_wide = number(4, 1) == 2;
    let (table, size, count) = match is_wide {
        true => (number(32, 8), number(54, 2), number(56, 2)),
        false => (number(28, 4), number(42, 2), number(44, 2)),
    };
    let (mut flash, mut ram) = (0, 0);
    for index in 0..count {
        let at = (table + index * size) as usize;
        let [flags, in_file, in_memory] = match is_wide {
            true => [number(at + 4, 4), number(at + 32, 8), number(at + 40, 8)],
            false => [number(at + 24, 4), number(at + 16, 4), number(at + 20, 4)],
        };
        const LOAD: u64 = 1;
        const WRITE: u64 = 2;
        if number(at, 4) == LOAD {
            flash += in_file;
            ram += if flags & WRITE != 0 { in_memory } else { 0 };
        }
    }
    Ok([flash, ram])
}

/// The number after `key` in what a program said.
fn told(said: &str, key: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.split(' ').next()?.parse().ok()
}

/// The instructions in what the counter wrote.
fn counted(path: &Path) -> Result<u64> {
    told(&text(path)?, "instructions").ok_or_else(|| format!("{}: no count", path.display()))
}

/// The pictures that a program should draw.
fn expected(folder: &Path, program: &str) -> Result<Vec<Picture>> {
    if program == "toy" {
        let (mut said, mut memory) = (String::new(), Box::new(app::toy::Memory::NEW));
        app::toy::draw(&mut said, Isa::SCALAR, &mut memory).map_err(|e| e.to_string())?;
        return pictures(&said);
    }
    let path = |index| folder.join(format!("host-{program}-{index}.png"));
    (0..).map(path).take_while(|path| path.exists()).map(|path| read_png(&path)).collect()
}

/// Refuses what takes more than its budget.
fn within_budget(program: &str, model: u64, ram: u64) -> Result<()> {
    let Some((_, [flash_limit, ram_limit])) = BUDGETS.iter().find(|(name, _)| *name == program)
    else {
        return Ok(());
    };
    if model == 0 || model > *flash_limit {
        return Err(format!("the model takes {model} bytes of flash, and may take {flash_limit}"));
    }
    match ram > *ram_limit {
        true => Err(format!("it takes {ram} bytes of memory, and may take {ram_limit}")),
        false => Ok(()),
    }
}

/// A picture in the file format PPM.
fn read_ppm(path: &Path) -> Result<Picture> {
    let explain = || format!("{}: it is no PPM with 8 bits", path.display());
    let file = read(path)?;
    let mut parts = file.splitn(4, |&byte| byte == b'\n');
    let mut line = || parts.next().ok_or_else(explain);
    let (kind, size, most, rgb) = (line()?, line()?, line()?, line()?.to_vec());
    let size = String::from_utf8_lossy(size);
    let numbers: Vec<u32> = size.split(' ').filter_map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [width, height]
            if (kind, most) == (b"P6", b"255") && rgb.len() == (3 * width * height) as usize =>
        {
            Ok(Picture { width, height, rgb })
        }
        _ => Err(explain()),
    }
}

/// Compares what the project of `core/FIRMWARE.md` drew with the command line's picture, both in
/// `FOLDER/hello`; yields a line of the table.
fn hello(folder: &Path, board: &str, elf: &Path) -> Result<String> {
    let folder = folder.join("hello");
    let (found, expected) =
        (read_ppm(&folder.join("apple.ppm"))?, read_png(&folder.join("apple.png"))?);
    let worst = difference(&found, &expected)?;
    if worst > 0 {
        return Err(format!("a pixel is {worst} levels from the host's"));
    }
    let [flash, ram] = sizes(elf)?;
    let model = ["model.safetensors", "tokenizer.bin"].map(|name| read(&folder.join(name)));
    let [file, tokenizer] = model;
    let model = (file?.len() + tokenizer?.len()) as u64;
    let (code, drawn) = (flash - model, format!("1: {worst}"));
    Ok(format!(
        "{board:9} {:8} {model:7} {code:7} {ram:7} {:>6} {:>7} {drawn:>6}",
        "hello", "-", "-"
    ))
}

/// Compares one program's pictures with the host's; yields a line of the table.
fn program(folder: &Path, board: &str, program: &str, elf: &Path) -> Result<String> {
    let path = |end: &str| folder.join(format!("{board}-{program}.{end}"));
    let said = text(&path("txt"))?;
    let (found, expected) = (pictures(&said)?, expected(folder, program)?);
    if found.len() != expected.len() {
        return Err(format!("{} pictures instead of {}", found.len(), expected.len()));
    }
    let bytes = ["arena", "planned", "peak"].map(|key| told(&said, key));
    if bytes != [bytes[0]; 3] || program == "toy" && bytes[0].is_none() {
        return Err(format!("arena, plan and peak are not the same bytes: {bytes:?}"));
    }
    let mut worst = 0;
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        write_png(&path(&format!("{index}.png")), found)?;
        worst = worst.max(difference(found, expected)?);
    }
    if worst > 0 {
        return Err(format!("a pixel is {worst} levels from the host's"));
    }
    let ([flash, ram], stack) = (sizes(elf)?, told(&said, "stack").ok_or("no stack told")?);
    let model = told(&said, "model").unwrap_or(0);
    within_budget(program, model, ram + stack)?;
    let each = counted(&path("count"))? / expected.len().max(1) as u64;
    let drawn =
        if expected.is_empty() { "-".into() } else { format!("{}: {worst}", expected.len()) };
    let seconds = match model > 0 && board == TIMED {
        true => {
            MEGAHERTZ.map(|mhz| format!("{:7.2}", each as f64 / (mhz * 1_000_000) as f64)).join(" ")
        }
        false => String::new(),
    };
    let (code, all) = (flash - model, ram + stack);
    Ok(format!(
        "{board:9} {program:8} {model:7} {code:7} {ram:7} {stack:6} {all:7} {drawn:>6} {each:11} \
         {seconds}"
    ))
}

/// The table of instructions for each multiply-add; whether none is above CMSIS-NN's.
fn layers(folder: &Path) -> Result<bool> {
    let mut holds = true;
    println!("\nInstructions for each multiply-add of int8 layers (CMSIS-NN's; with quantising):");
    println!("{:22} {:>24} {:>24} {:>24}", "", CORES[0], CORES[1], CORES[2]);
    for (index, (name, theirs)) in LAYERS.iter().enumerate() {
        print!("{name:22}");
        for (core, theirs) in CORES.iter().zip(theirs) {
            let path = |repeat: usize, quantise: usize, end: &str| {
                folder.join(format!("{core}-layer-{index}-{repeat}-{quantise}.{end}"))
            };
            let said = text(&path(1, 0, "txt"))?;
            let adds = said
                .split_once("multiply_adds ")
                .and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
            let adds = adds.ok_or("no multiply-adds told")?;
            let each = |quantise| -> Result<f64> {
                let [none, one] = [0, 1].map(|repeat| counted(&path(repeat, quantise, "count")));
                Ok((one? - none?) as f64 / adds)
            };
            let (own, quantising) = (each(0)?, each(1)?);
            // CMSIS-NN's figures have so many digits.
            let digits = if *core == "m55" { 1e3 } else { 1e2 };
            let mark = match (own * digits).round() <= theirs * digits {
                true => "",
                false => "!",
            };
            holds &= mark.is_empty();
            print!(" {own:8.3}{mark} ({theirs:5.3}; {quantising:5.3})");
        }
        println!();
    }
    Ok(holds)
}

fn run(folder: &Path) -> Result<bool> {
    let mut holds = true;
    println!("{HEADER}");
    for line in text(&folder.join("runs"))?.lines() {
        let parts: Vec<&str> = line.splitn(3, ' ').collect();
        let &[board, name, elf] = &parts[..] else { return Err(format!("no run: {line}")) };
        let elf = Path::new(elf);
        let compared = match name {
            "hello" => hello(folder, board, elf),
            _ => program(folder, board, name, elf),
        };
        match compared {
            Ok(line) => println!("{}", line.trim_end()),
            Err(error) => {
                println!("{board:8} {name:8} DIFFERS: {error}");
                holds = false;
            }
        }
    }
    println!(
        "Model: the packed file and the tokenizer's table, read in place; code: all else in flash. \
         Static: arena,\ntables, every other static; stack: by painting. Pics: how many, and the \
         largest difference from the host's\npixels, in levels of 256. Instructions and seconds \
         are a picture's, with its share of the start: one\ninstruction each cycle, with code, \
         weights and arena in memory or caches that do not make the core wait."
    );
    Ok(layers(folder)? && holds)
}

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: host FOLDER");
        return ExitCode::FAILURE;
    };
    match run(Path::new(&folder)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
