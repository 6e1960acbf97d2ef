//! From words to a PNG file:
//! `cargo run --release -p mote-host --example words -- "red apple" apple.png`

use mote_host::checkpoint::built_in;
use mote_host::image::PngFile;
use mote_host::{Machine, Model, Options, Parts, Request, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let prompt = arguments.next().unwrap_or_else(|| "red apple".into());
    let file = arguments.next().unwrap_or_else(|| "words.png".into());
    // A folder in diffusers' layout or a packed file; without one, the model in the program.
    let path = arguments.next().unwrap_or_else(|| built_in::NAME.into());

    let machine = Machine::new(&Options::default())?;
    let model = Model::open(path, &Parts::default())?;
    let request = Request { prompt: Some(prompt), ..Request::default() };
    let plan = model.plan(&request, &machine)?;
    println!("{} bytes of memory for {}", plan.bytes(), plan.parameters(0));
    plan.draw(&mut PngFile::new(&file))?;
    println!("wrote {file}");
    Ok(())
}
