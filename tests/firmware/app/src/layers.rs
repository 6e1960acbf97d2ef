//! The five layers whose instructions are counted, as the ops of a network compute them: int8
//! weights in panels, int8 rows with a scale and a zero point each as a norm leaves them, f32 out
//! with a bias added.

use core::fmt;

use mote::arch::Isa;
use mote::exec::Sequential;
use mote::mem::{Aligned, Arena};
use mote::ops::{self, Context, Conv2d, Epilogue};
use mote::tensor::packed::{PanelMut, Sizes, pack_panel};
use mote::tensor::{DType, Form, PANEL, Packing, Shape};
use mote::weights::{Path, Weight, Weights};
use mote::{Error, Result};

use crate::drawn::Drawn;

/// Height, width, and what the weight looks like.
#[derive(Clone, Copy)]
pub struct Layer {
    side: usize,
    channels: usize,
    n: usize,
    taps: usize,
}

/// The layers, in the order of the table.
pub const LAYERS: [Layer; 5] = [
    Layer { side: 32, channels: 32, n: 32, taps: 9 },
    Layer { side: 16, channels: 64, n: 64, taps: 9 },
    Layer { side: 8, channels: 128, n: 128, taps: 9 },
    Layer { side: 16, channels: 64, n: 64, taps: 1 },
    Layer { side: 1, channels: 512, n: 512, taps: 1 },
];

const WEIGHTS: usize = 512 * 512;
const SCALES: usize = 10 * 128;
const ARENA: usize = 512 << 10;

/// All that a layer needs.
#[repr(C, align(64))]
pub struct Memory {
    arena: Aligned<ARENA>,
    weights: [u8; WEIGHTS],
    scales: [f32; SCALES],
    scale_bytes: [u8; 4 * SCALES],
    panel: [f32; 128 * 9 * PANEL],
    ones: [u8; 4 * 512],
}

impl Memory {
    /// Nothing in it yet.
    pub const NEW: Self = Self {
        arena: Aligned([0; ARENA]),
        weights: [0; WEIGHTS],
        scales: [0.0; SCALES],
        scale_bytes: [0; 4 * SCALES],
        panel: [0.0; 128 * 9 * PANEL],
        ones: [0; 4 * 512],
    };
}

/// The weights of one layer, in memory.
struct Held<'a> {
    sizes: Sizes,
    data: &'a [u8],
    scales: &'a [u8],
    ones: &'a [u8],
}

const DATA: u16 = 0;
const SCALE: u16 = 1;
const ONES: u16 = 2;

impl Weights for Held<'_> {
    fn find(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        let (part, dtype, shape) = match name {
            "weight" => (DATA, DType::I8, self.sizes.shape(Packing::Q8).unwrap_or(expected)),
            "weight.scale" => (SCALE, DType::F32, self.sizes.scale_shape()),
            _ => (ONES, DType::F32, expected),
        };
        let bytes = shape.elements()? * dtype.bytes();
        Ok(Some(Weight { dtype, shape, part, begin: 0, bytes }))
    }

    fn contains(&mut self, _name: &str) -> bool {
        true
    }

    fn is_staged(&self) -> bool {
        false
    }

    fn read<'a>(
        &'a mut self,
        weight: &Weight,
        start: usize,
        len: usize,
        _staging: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        let bytes = [self.data, self.scales, self.ones].get(usize::from(weight.part)).copied();
        bytes.and_then(|bytes| bytes.get(start..start + len)).ok_or(Error::WeightRead)
    }
}

/// Draws a layer's weight and packs it.
fn draw<'a>(layer: Layer, memory: &'a mut Memory) -> (Held<'a>, &'a mut [u8]) {
    let Layer { channels, n, taps, .. } = layer;
    let sizes = Sizes { n, channels, taps };
    let (bytes, scales, row) = (sizes.panel_bytes(Form::Q8), sizes.scales(), channels * taps);
    let mut drawn = Drawn(1);
    for panel in 0..sizes.panels() {
        let values = &mut memory.panel[..PANEL * row];
        values.iter_mut().for_each(|value| *value = drawn.value());
        let mut packed = PanelMut {
            data: &mut memory.weights[panel * bytes..][..bytes],
            scales: &mut memory.scales[panel * scales..][..scales],
            groups: &mut [],
        };
        pack_panel(Packing::Q8, Sizes { n: PANEL, ..sizes }, values, 0, &mut packed);
    }
    let to = memory.scale_bytes.as_chunks_mut::<4>().0;
    to.iter_mut().zip(&memory.scales).for_each(|(to, scale)| *to = scale.to_le_bytes());
    memory.ones.as_chunks_mut::<4>().0.fill(1.0f32.to_le_bytes());
    let data = &memory.weights[..sizes.panels() * bytes];
    let scales = &memory.scale_bytes[..4 * sizes.panels() * scales];
    (Held { sizes, data, scales, ones: &memory.ones }, &mut memory.arena.0)
}

/// Computes layer `number`, `repeat` times over, and says what came out.
///
/// # Errors
/// Those of memory.
pub fn layer(
    out: &mut dyn fmt::Write,
    isa: Isa,
    memory: &mut Memory,
    number: usize,
    repeat: usize,
    quantise: bool,
) -> Result<()> {
    let layer = LAYERS[number];
    let Layer { side, channels, n, taps } = layer;
    let (mut held, arena) = draw(layer, memory);
    let mut cx = Context::new(Arena::new(arena), isa, &Sequential, &mut held);
    let root = Path::root();
    let drawn = cx.tensor(Shape::new([1, side, side, channels]))?;
    let mut values = Drawn(2);
    cx.arena_mut().write(drawn).iter_mut().for_each(|value| *value = values.value());
    let form = if quantise { Form::F32 } else { Form::Q8 };
    let [weight, bias] =
        [cx.weight(&root.at("norm"), [channels])?, cx.weight(&root.at("bias"), [n])?];
    let x = ops::layer_norm(&mut cx, drawn, weight, weight, 1e-5, form)?;
    let mut sum = 0.0;
    let matrix = match taps {
        9 => cx.matrix(&root.at("weight"), [n, channels, 3, 3])?,
        _ => cx.matrix(&root.at("weight"), [n, channels])?,
    };
    for _ in 0..repeat {
        cx.scratch(|cx| {
            let y = match taps {
                9 => {
                    let conv = Conv2d::padded(3, 1);
                    ops::conv2d(cx, x, matrix, Some(bias), conv, Epilogue::NONE)?
                }
                _ => ops::linear(cx, x, matrix, Some(bias), Epilogue::NONE)?,
            };
            sum = cx.arena().read(y)[y.len() - 1];
            Ok(())
        })?;
    }
    let multiply_adds = side * side * channels * n * taps;
    let _ = writeln!(out, "layer {number} multiply_adds {multiply_adds} last {sum}");
    Ok(())
}
