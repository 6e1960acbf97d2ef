//! From a picture to another, into memory, with a look at each step and a wish to stop:
//! `cargo run --release -p mote-host --example from_picture -- FOLDER photo.png "in oil"`

use mote::progress::Progress;
use mote_host::image::Picture;
use mote_host::machine::memory::Block;
use mote_host::{Failure, Machine, Model, Options, Parts, Request, Result, Stop};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, photo, prompt] = arguments.as_slice() else {
        return Err(Failure::new("three arguments are needed: a model, a picture and a text"));
    };
    let machine = Machine::new(&Options::default())?;
    let model = Model::open(folder, &Parts::default())?;
    let (prompt, init_img) = (Some(prompt.clone()), Some(photo.into()));
    let request = Request { prompt, init_img, strength: Some(0.6), ..Request::default() };
    let plan = model.plan(&request, &machine)?;

    // Whoever holds a clone of it may ask for an end: a button, another thread, a signal.
    let stop = Stop::default();
    let mut watch = |progress: &Progress<'_>| {
        println!("{}: {} of {}", progress.stage.name(), progress.done, progress.total);
        stop.flow()
    };
    let (mut memory, mut picture) = (Block::new(plan.bytes())?, Picture::default());
    plan.draw_in(memory.bytes(), 0, &mut picture, &mut watch)?;
    println!("{}x{}, {} bytes of RGB", picture.width, picture.height, picture.rgb.len());
    Ok(())
}
