//! A whole picture on WebAssembly from a packed model: the one that an x86-64 drew with plain code.

use std::fs::{self, File};
use std::io::BufReader;

use mote::diffusion::sampler::{Named, Row};
use mote::mem::Aligned;
use mote::pipeline::{Model, Request, Session};
use mote::weights::Slot;
use mote_tests::isas;

/// More than the picture needs.
const ARENA_BYTES: usize = 4 << 20;

#[test]
fn a_picture_is_the_hosts() {
    // `run` packs it there, and lets the program see these two folders.
    let file = fs::read("target/ddpm-uncond.safetensors").expect("run packs the model");
    let png = BufReader::new(File::open("../golden/boards/ddpm-uncond.png").expect("the golden"));
    let mut reader = png::Decoder::new(png).read_info().expect("a PNG");
    let mut expected = vec![0; reader.output_buffer_size().expect("a picture of some size")];
    reader.next_frame(&mut expected).expect("a whole PNG");
    let sampler = Named::by_name("ddim").map(|named| named.number);
    let request = Request { steps: 2, seed: 7, sampler, ..Request::default() };
    for isa in isas() {
        let model = Model::open(&file).expect("a packed model");
        let (mut rows, mut slots) = ([Row::EMPTY; 2], [Slot::EMPTY; 400]);
        let mut arena: Box<Aligned<ARENA_BYTES>> = Box::new(Aligned([0xFF; ARENA_BYTES]));
        let begun = Session::begin(model, request, isa, &mut rows, &mut slots, &mut arena.0);
        let mut session = begun.expect("it fits");
        let (mut found, mut row) = (Vec::new(), [0; 3 * 32]);
        while session.step().expect("a step") {}
        while session.row(&mut row).expect("a row") {
            found.extend(row);
        }
        assert_eq!(found.len(), expected.len());
        let apart = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
        assert_eq!(apart, 0, "{}: levels apart", isa.name());
    }
}
