//! Numbers as the kernels read them: panels of weights, rows of activations.
//!
//! A product's weight is `[n, channels, taps]`: 1 tap for a linear layer, 9 for a 3×3 convolution.
//! Packed, it lies in panels of [`PANEL`] output channels, and a panel in the order in which a
//! kernel goes through it: tap by tap, and within a tap the channels in steps of four bytes:
//!
//! | packing | type | shape | companions |
//! |---|---|---|---|
//! | f32 | `F32` | `[n/16, taps·c, 16, 1]` | |
//! | bf16 | `BF16` | `[n/16, taps·c/2, 16, 2]` | |
//! | int8 | `I8` | `[n/16, taps·c/4, 16, 4]` | `.scale` |
//! | int4 | `U8` | `[n/16, taps·c/4, 16, 2]` | `.scale`, `.groups` |
//!
//! All divisions round up; what is not there is zero. `.scale` is F32 `[n/16, 1 + taps, 16]`: each
//! column's scale, then the sum of its integers at each tap, which takes the zero point of the
//! activations off again. int4 has two integers in a byte, and `.groups` is U8 `[n/16,
//! taps·(c/32), 16]`: what a group of 32 channels is multiplied with to become int8.

use super::{DType, Shape};

/// Output channels of a panel.
pub const PANEL: usize = 16;

/// Channels that share a multiplier in int4.
pub const GROUP: usize = 32;

/// The largest magnitude of a quantised weight.
pub const Q8_MAX: f32 = 127.0;

/// The largest multiplier of a group in int4, whose integers lie in -8..=7: -8·15 fits an `i8`.
const GROUP_MAX: i32 = 15;

/// Bytes after the channels of a row of quantised activations: its scale (f32) and its zero point
/// (i32).
pub const ROW_TAIL: usize = 8;

/// How the weight of a product is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As checkpoints have it, `[n, channels, taps…]`, in f32, f16 or bf16.
    Plain,
    /// Panels of f32.
    F32,
    /// Panels of bf16.
    Bf16,
    /// Panels of 8-bit integers with a scale for each output channel.
    Q8,
    /// Panels of 4-bit integers, which are expanded to [`Packing::Q8`].
    Q4,
}

impl Packing {
    /// The packed ones.
    pub const PACKED: [Self; 4] = [Self::F32, Self::Bf16, Self::Q8, Self::Q4];

    /// The type that packed elements have in a checkpoint.
    pub const fn dtype(self) -> DType {
        match self {
            Self::Plain | Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::Q8 => DType::I8,
            Self::Q4 => DType::U8,
        }
    }

    /// What the left side of such a product looks like.
    pub const fn form(self) -> Form {
        match self {
            Self::Plain | Self::F32 => Form::F32,
            Self::Bf16 => Form::Bf16,
            Self::Q8 | Self::Q4 => Form::Q8,
        }
    }
}

/// How rows of activations are stored, which is how a product's left side is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// f32.
    F32,
    /// bf16, the channels rounded up to an even number.
    Bf16,
    /// Unsigned 8-bit integers, the channels rounded up to four, then the row's scale (f32) and
    /// zero point (i32): `x = scale · (q − zero)`.
    Q8,
}

impl Form {
    /// Channels that one step of a product takes: four bytes.
    pub const fn per_step(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
            Self::Q8 => 4,
        }
    }

    /// Steps that a product needs for this many channels.
    pub const fn steps(self, channels: usize) -> usize {
        channels.div_ceil(self.per_step())
    }

    /// Bytes of a row of this many channels.
    pub const fn row_bytes(self, channels: usize) -> usize {
        4 * self.steps(channels) + if matches!(self, Self::Q8) { ROW_TAIL } else { 0 }
    }

    /// The element type of a tensor of such rows.
    pub const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::Q8 => DType::U8,
        }
    }

    /// The last dimension of a tensor of such rows.
    pub const fn row_elements(self, channels: usize) -> usize {
        self.row_bytes(channels) / self.dtype().bytes()
    }
}

/// The sizes of a product's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Output channels.
    pub n: usize,
    /// Input channels.
    pub channels: usize,
    /// Taps: kernel height times width.
    pub taps: usize,
}

impl Sizes {
    /// Panels.
    pub const fn panels(self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Steps of four bytes that a panel takes for each of its columns.
    pub const fn steps(self, form: Form) -> usize {
        self.taps * form.steps(self.channels)
    }

    /// Bytes of a panel that a kernel reads.
    pub const fn panel_bytes(self, form: Form) -> usize {
        4 * PANEL * self.steps(form)
    }

    /// Elements of a panel's scales and sums.
    pub const fn scales(self) -> usize {
        (1 + self.taps) * PANEL
    }

    /// Groups of channels, over all taps.
    pub const fn groups(self) -> usize {
        self.taps * self.channels.div_ceil(GROUP)
    }

    /// The shape in a checkpoint; `None` for [`Packing::Plain`], which has several.
    pub const fn shape(self, packing: Packing) -> Option<Shape> {
        let last = match packing {
            Packing::Plain => return None,
            Packing::F32 => 1,
            Packing::Bf16 | Packing::Q4 => 2,
            Packing::Q8 => 4,
        };
        Some(Shape::new([self.panels(), self.steps(packing.form()), PANEL, last]))
    }

    /// The shape of the companion `.scale`.
    pub const fn scale_shape(self) -> Shape {
        Shape::new([self.panels(), 1 + self.taps, PANEL])
    }

    /// The shape of the companion `.groups`.
    pub const fn groups_shape(self) -> Shape {
        Shape::new([self.panels(), self.groups(), PANEL])
    }
}

/// Where the parts of a packed panel go.
#[derive(Debug)]
pub struct PanelMut<'a> {
    /// The panel: [`Sizes::panel_bytes`], half of that for int4.
    pub data: &'a mut [u8],
    /// [`Sizes::scales`] for int8 and int4; not looked at otherwise.
    pub scales: &'a mut [f32],
    /// `[groups, 16]` for int4; not looked at otherwise.
    pub groups: &'a mut [u8],
}

/// Packs the panel that begins at output channel `first` of `weight` `[n, channels, taps]`.
///
/// int8: `q = round(w / scale)` with the channel's `scale = max|w| / 127`. int4: a group's own
/// scale is its largest magnitude over 7, rounded to a whole multiple, at most 15, of the channel's.
///
/// # Panics
/// Where a slice is not of its size.
pub fn pack_panel(
    packing: Packing,
    sizes: Sizes,
    weight: &[f32],
    first: usize,
    panel: &mut PanelMut<'_>,
) {
    let Sizes { n, channels, taps } = sizes;
    assert!(weight.len() == n * channels * taps && first < n, "a weight of another size");
    let form = packing.form();
    let (step, steps) = (form.per_step(), form.steps(channels));
    panel.data.fill(0);
    for j in 0..PANEL.min(n - first) {
        let row = &weight[(first + j) * channels * taps..][..channels * taps];
        let mut column = Column::new(packing, sizes, row, j, panel);
        for tap in 0..taps {
            for channel in 0..channels {
                let at = ((tap * steps + channel / step) * PANEL + j) * step + channel % step;
                let w = row[channel * taps + tap];
                match packing {
                    Packing::Plain | Packing::F32 => {
                        panel.data[4 * at..][..4].copy_from_slice(&w.to_le_bytes());
                    }
                    Packing::Bf16 => {
                        panel.data[2 * at..][..2].copy_from_slice(&to_bf16(w).to_le_bytes());
                    }
                    Packing::Q8 => panel.data[at] = column.integer(panel, tap, channel, w) as u8,
                    Packing::Q4 => {
                        let nibble = (column.integer(panel, tap, channel, w) + 8) as u8;
                        let (byte, high) = q4_place(at);
                        panel.data[byte] |= nibble << (4 * u8::from(high));
                    }
                }
            }
        }
    }
    if packing == Packing::Q4 {
        fill_absent_q4(sizes, first, panel.data);
    }
}

/// The byte that holds element `at` of a panel in int4, and whether in its high half. 64 elements
/// (a step) take 32 bytes: the first half of them in the low halves.
const fn q4_place(at: usize) -> (usize, bool) {
    (at / 64 * 32 + at % 32, at % 64 >= 32)
}

/// Columns and channels that are not there hold 8, which stands for 0.
fn fill_absent_q4(sizes: Sizes, first: usize, data: &mut [u8]) {
    let steps = Form::Q8.steps(sizes.channels);
    for at in 0..sizes.taps * steps * 4 * PANEL {
        let (column, channel) = (at / 4 % PANEL, at / (4 * PANEL) % steps * 4 + at % 4);
        if first + column >= sizes.n || channel >= sizes.channels {
            let (byte, high) = q4_place(at);
            data[byte] |= 8 << (4 * u8::from(high));
        }
    }
}

/// Quantises one output channel.
struct Column {
    packing: Packing,
    taps: usize,
    /// Groups a tap.
    groups: usize,
    j: usize,
    inverse: f32,
}

impl Column {
    fn new(
        packing: Packing,
        sizes: Sizes,
        row: &[f32],
        j: usize,
        panel: &mut PanelMut<'_>,
    ) -> Self {
        let groups = sizes.channels.div_ceil(GROUP);
        let mut column = Self { packing, taps: sizes.taps, groups, j, inverse: 0.0 };
        if !matches!(packing, Packing::Q8 | Packing::Q4) {
            return column;
        }
        let largest = row.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
        let scale = match packing {
            Packing::Q8 => largest / Q8_MAX,
            _ => largest / (7 * GROUP_MAX) as f32,
        };
        column.inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        panel.scales[j] = scale;
        (0..sizes.taps).for_each(|tap| panel.scales[(1 + tap) * PANEL + j] = 0.0);
        if packing == Packing::Q4 {
            for group in 0..sizes.groups() {
                panel.groups[group * PANEL + j] = column.multiplier(row, group) as u8;
            }
        }
        column
    }

    /// The multiplier of a group, with the least squared error among the likely ones.
    fn multiplier(&self, row: &[f32], group: usize) -> i32 {
        let (tap, first) = (group / self.groups, group % self.groups * GROUP);
        let members = || row.iter().skip(first * self.taps + tap).step_by(self.taps).take(GROUP);
        let largest = members().fold(0.0f32, |largest, w| largest.max(w.abs())) * self.inverse;
        let likely = libm::ceilf(largest / 7.0) as i32;
        let error = |m: i32| {
            members().fold(0.0f32, |sum, w| {
                let x = w * self.inverse / m as f32;
                let q = libm::rintf(x).clamp(-8.0, 7.0);
                sum + (x - q) * (x - q) * (m * m) as f32
            })
        };
        let candidates = (likely - 2..=likely + 1).filter(|m| (1..=GROUP_MAX).contains(m));
        candidates.min_by(|&a, &b| error(a).total_cmp(&error(b))).unwrap_or(1)
    }

    /// The integer that stands for `w`; the effective one is counted in the sum of its tap.
    fn integer(&self, panel: &mut PanelMut<'_>, tap: usize, channel: usize, w: f32) -> i32 {
        let x = w * self.inverse;
        let (stored, effective) = match self.packing {
            Packing::Q4 => {
                let group = (tap * self.groups + channel / GROUP) * PANEL + self.j;
                let m = i32::from(panel.groups[group]);
                let q = libm::rintf(x / m as f32).clamp(-8.0, 7.0) as i32;
                (q, q * m)
            }
            _ => {
                let q = libm::rintf(x).clamp(-Q8_MAX, Q8_MAX) as i32;
                (q, q)
            }
        };
        panel.scales[(1 + tap) * PANEL + self.j] += effective as f32;
        stored
    }
}

/// Expands a panel of int4 to int8.
///
/// # Panics
/// Where a slice is not of its size.
pub fn expand_q4(sizes: Sizes, data: &[u8], groups: &[u8], out: &mut [u8]) {
    let steps = Form::Q8.steps(sizes.channels);
    let groups_a_tap = sizes.channels.div_ceil(GROUP);
    assert!(out.len() == 2 * data.len() && out.len() == sizes.panel_bytes(Form::Q8));
    let (data, out) = (data.as_chunks::<32>().0, out.as_chunks_mut::<64>().0);
    for (step, (data, out)) in data.iter().zip(out).enumerate() {
        let group = step / steps * groups_a_tap + step % steps * 4 / GROUP;
        let groups: &[u8; PANEL] = groups[group * PANEL..].first_chunk().expect("checked above");
        let (low, high) = out.split_at_mut(32);
        for (i, (low, high)) in low.iter_mut().zip(high).enumerate() {
            let byte = data[i] as i8;
            let nibble = |half: i8| (half & 15) - 8;
            *low = nibble(byte).wrapping_mul(groups[i / 4] as i8) as u8;
            *high = nibble(byte >> 4).wrapping_mul(groups[8 + i / 4] as i8) as u8;
        }
    }
}

/// The nearest bf16; ties to even. What is not a number stays none.
pub const fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}
