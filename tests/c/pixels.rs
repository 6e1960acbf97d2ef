//! Compares a PNG with a PPM: `pixels PNG PPM LEVELS`. Ends with an error where a value differs by
//! more levels than that.

use std::env;
use std::fs::{self, File};
use std::io::BufReader;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [png, ppm, levels] = &arguments[..] else {
        eprintln!("usage: pixels PNG PPM LEVELS");
        return ExitCode::FAILURE;
    };
    let file = BufReader::new(File::open(png).expect("the PNG can be opened"));
    let mut reader = png::Decoder::new(file).read_info().expect("a PNG");
    let mut expected = vec![0; reader.output_buffer_size().expect("a picture of some size")];
    let info = reader.next_frame(&mut expected).expect("a whole PNG");
    let found = fs::read(ppm).expect("the PPM can be read");
    let header = format!("P6\n{} {}\n255\n", info.width, info.height);
    let Some(found) = found.strip_prefix(header.as_bytes()) else {
        eprintln!("{ppm} does not begin with {header:?}");
        return ExitCode::FAILURE;
    };
    if found.len() != expected.len() {
        eprintln!("{ppm} holds {} bytes of pixels, not {}", found.len(), expected.len());
        return ExitCode::FAILURE;
    }
    let apart = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
    if u32::from(apart) > levels.parse().expect("a number of levels") {
        eprintln!("{ppm} is {apart} levels from {png}");
        return ExitCode::FAILURE;
    }
    println!("{apart} levels apart");
    ExitCode::SUCCESS
}
