//! Draws "red apple" on a Cortex-M4F and writes it as a PPM to the host, over semihosting.
#![no_std]
#![no_main]

use core::panic::PanicInfo;

use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, heprintln, hio};
use mote::arch::{Isa, Level};
use mote::diffusion::sampler::Row;
use mote::mem::Aligned;
use mote::models::clip_tokenizer::ClipTokenizer;
use mote::pipeline::{Fault, Model, Request, Session};
use mote::weights::Slot;

include!("../model.rs"); // what `mote plan --rust` wrote: PLAN
// Of 128 KiB, 40 are for the stack; else: "the memory is too small for the model by N bytes".
const _: () = PLAN.must_fit(256 << 10, (128 - 40) << 10);

static MODEL: Aligned<{ PLAN.model_bytes }> = Aligned(*include_bytes!("../model.safetensors"));
static TOKENIZER: &[u8] = include_bytes!("../tokenizer.bin");

/// Tokens of a prompt, as the text encoder's configuration says.
const TOKENS: usize = 8;

/// The picture's side.
const PIXELS: usize = 16;

/// What changes while a picture is drawn, all of it but the stack.
struct Memory {
    arena: &'static mut [u8],
    slots: &'static mut [Slot],
    rows: &'static mut [Row],
}

/// Draws what the words say, and gives each row of RGB to `send`.
fn draw(
    memory: &mut Memory,
    words: &str,
    seed: u64,
    mut send: impl FnMut(&[u8]),
) -> Result<(), Fault> {
    // SAFETY: the part is a Cortex-M4F or M7, with the DSP extension.
    let isa = unsafe { Isa::assume(Level::Dsp) };
    let tokenizer = ClipTokenizer::new(TOKENIZER)?;
    let (mut prompt, mut negative_prompt) = ([0; TOKENS], [0; TOKENS]);
    tokenizer.encode(words, &mut prompt, &mut [0; 128])?;
    tokenizer.encode("", &mut negative_prompt, &mut [])?;
    let request = Request {
        prompt: &prompt,
        negative_prompt: &negative_prompt,
        guidance_scale: 2.0,
        steps: 10,
        seed,
        ..Request::default()
    };
    let model = Model::open(&MODEL.0)?;
    let Memory { arena, slots, rows } = memory;
    let mut session = Session::begin(model, request, isa, rows, slots, arena)?;
    while session.step()? {} // a good place to feed a watchdog
    let mut row = [0; 3 * PIXELS];
    while session.row(&mut row)? {
        send(&row);
    }
    Ok(())
}

#[entry]
fn main() -> ! {
    // The macro makes `&'static mut` of them, which exist once.
    static mut ARENA: Aligned<{ PLAN.arena_bytes }> = Aligned([0; PLAN.arena_bytes]);
    static mut SLOTS: [Slot; PLAN.tensors] = [Slot::EMPTY; PLAN.tensors];
    static mut ROWS: [Row; PLAN.rows] = [Row::EMPTY; PLAN.rows];
    let mut memory = Memory { arena: &mut ARENA.0, slots: SLOTS, rows: ROWS };
    let Ok(mut host) = hio::hstdout() else { end(debug::EXIT_FAILURE) };
    let mut send =
        |bytes: &[u8]| host.write_all(bytes).unwrap_or_else(|()| end(debug::EXIT_FAILURE));
    send(b"P6\n16 16\n255\n");
    match draw(&mut memory, "red apple", 4, send) {
        Ok(()) => end(debug::EXIT_SUCCESS),
        Err(fault) => {
            heprintln!("error: {}", fault);
            end(debug::EXIT_FAILURE)
        }
    }
}

/// Ends the emulator; a part would sleep.
fn end(status: debug::ExitStatus) -> ! {
    debug::exit(status);
    loop {
        cortex_m::asm::wfi();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    heprintln!("{}", info);
    end(debug::EXIT_FAILURE)
}
