//! Compares a PNG with a PPM: `pixels PNG PPM LEVELS`. Ends with an error where a value differs by
//! more levels than that.

use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use mote_tests::files;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [png, ppm, levels] = &arguments[..] else {
        eprintln!("usage: pixels PNG PPM LEVELS");
        return ExitCode::FAILURE;
    };
    let ([height, width], expected) = files::png(Path::new(png));
    let found = fs::read(ppm).expect("the PPM can be read");
    let header = format!("P6\n{width} {height}\n255\n");
    let Some(found) = found.strip_prefix(header.as_bytes()) else {
        eprintln!("{ppm} does not begin with {header:?}");
        return ExitCode::FAILURE;
    };
    if found.len() != expected.len() {
        eprintln!("{ppm} holds {} bytes of pixels, not {}", found.len(), expected.len());
        return ExitCode::FAILURE;
    }
    let apart = files::levels_apart(found, &expected);
    if u32::from(apart) > levels.parse().expect("a number of levels") {
        eprintln!("{ppm} is {apart} levels from {png}");
        return ExitCode::FAILURE;
    }
    println!("{apart} levels apart");
    ExitCode::SUCCESS
}
