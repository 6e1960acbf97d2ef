//! A picture for each of a list of prompts, with one model and one block of memory:
//! `cargo run --release -p mote-host --example batch -- "red apple" "blue heart"`

use std::ops::ControlFlow;

use mote::progress::Progress;
use mote_host::checkpoint::built_in;
use mote_host::image::PngFile;
use mote_host::machine::memory::Block;
use mote_host::{Machine, Model, Options, Parts, Request, Result};

fn main() -> Result<()> {
    let machine = Machine::new(&Options::default())?;
    let model = Model::open(built_in::NAME, &Parts::default())?;
    let mut memory = Block::new(0)?;
    for (prompt, number) in std::env::args().skip(1).zip(1..) {
        let request = Request { prompt: Some(prompt.clone()), ..Request::default() };
        let plan = model.plan(&request, &machine)?;
        // As all are of one size, the first block serves every one of them.
        if memory.bytes().len() < plan.bytes() {
            memory = Block::new(plan.bytes())?;
        }
        let file = format!("batch-{number}.png");
        let mut watch = |_: &Progress<'_>| ControlFlow::Continue(());
        plan.draw_in(memory.bytes(), 0, &mut PngFile::new(&file), &mut watch)?;
        println!("{file}: {prompt}");
    }
    Ok(())
}
