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
//!
//! A 3×3 convolution of a picture that is doubled by its nearest pixels may be packed *doubled*: as
//! [`DOUBLED`] products of one tap, one after the other, each of `n` rounded up to whole panels:
//! see [`doubled_row`].

use super::{DType, Shape};

/// Output channels of a panel.
pub const PANEL: usize = 16;

/// Channels that share a multiplier in int4.
pub const GROUP: usize = 32;

/// Products of a doubled convolution: for each pixel of the picture as it was, nine instead of the
/// 36 of its four outputs.
pub const DOUBLED: usize = 9;

/// The largest magnitude of a quantised weight.
pub const Q8_MAX: f32 = 127.0;

/// The least and the largest integer in int4.
pub const Q4_RANGE: [f32; 2] = [-8.0, 7.0];

/// The largest multiplier of a group in int4: -8·15 fits an `i8`.
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

    /// The packed one whose elements have this type.
    pub fn of(dtype: DType) -> Option<Self> {
        Self::PACKED.into_iter().find(|packing| packing.dtype() == dtype)
    }

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
            Self::Q8 => DType::Q8,
        }
    }

    /// The form of rows of this type.
    pub const fn of(dtype: DType) -> Self {
        match dtype {
            DType::BF16 => Self::Bf16,
            DType::Q8 => Self::Q8,
            _ => Self::F32,
        }
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

    /// Where the multiplier of a channel's group lies among those of a panel.
    pub const fn group_at(self, tap: usize, channel: usize, column: usize) -> usize {
        (tap * self.channels.div_ceil(GROUP) + channel / GROUP) * PANEL + column
    }

    /// The sizes of a 3×3 convolution's weight as it is packed doubled.
    pub const fn doubled(self) -> Self {
        let n = self.panels().saturating_mul(DOUBLED * PANEL);
        Self { n, channels: self.channels, taps: 1 }
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

/// One output channel `[channels, 3, 3]` of a convolution, as product number `product` of the
/// doubled one has it: `[channels]`.
///
/// Two neighbouring outputs of a doubled line see `a a` of one pixel and `b` of another: F(2, 3) of
/// Winograd (1980; Lavin and Gray 2016) with one of its four products zero. With a pixel `x`, those
/// before and after it, and taps `g`, they are `x·(g₀+g₁+g₂) + (before − x)·g₀` and
/// `x·(g₀+g₁+g₂) + (after − x)·g₂`: products 0, 1, 2 are with `g₀`, the sum and `g₂`. In two
/// dimensions there are three times three of them, `3·down + across`.
///
/// # Panics
/// Where the slices do not fit.
pub fn doubled_row(row: &[f32], product: usize, out: &mut [f32]) {
    assert!(product < DOUBLED && row.len() == DOUBLED * out.len(), "a 3x3 kernel a channel");
    let taps = |at: usize| match at {
        0 => 0..1,
        1 => 0..3,
        _ => 2..3,
    };
    for (taps3x3, out) in row.chunks_exact(DOUBLED).zip(out) {
        *out = 0.0;
        for line in
            taps3x3.chunks_exact(3).take(taps(product / 3).end).skip(taps(product / 3).start)
        {
            *out += line[taps(product % 3)].iter().sum::<f32>();
        }
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
/// int8: `q = round(w / scale)` with the channel's `scale = max|w| / 127`. int4: a group's scale is
/// about its largest magnitude over 7: the whole multiple, at most 15, of the channel's that loses
/// least.
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
    pack_panel_scaled_by(packing, sizes, [weight; 2], first, panel);
}

/// [`pack_panel`] of the first weight with the scales that the second would have: the first was
/// moved so that errors of rounding make up for each other.
///
/// # Panics
/// As [`pack_panel`].
pub fn pack_panel_scaled_by(
    packing: Packing,
    sizes: Sizes,
    [weight, by]: [&[f32]; 2],
    first: usize,
    panel: &mut PanelMut<'_>,
) {
    let Sizes { n, channels, taps } = sizes;
    let fits = |weight: &[f32]| weight.len() == n * channels * taps && first < n;
    assert!(fits(weight) && fits(by), "a weight of another size");
    let form = packing.form();
    let (step, steps) = (form.per_step(), form.steps(channels));
    panel.data.fill(0);
    if matches!(packing, Packing::Q8 | Packing::Q4) {
        panel.scales.fill(0.0);
    }
    if packing == Packing::Q4 {
        panel.groups.fill(0);
    }
    for j in 0..PANEL.min(n - first) {
        let [row, by] =
            [weight, by].map(|weight| &weight[(first + j) * channels * taps..][..channels * taps]);
        let column = Column::new(packing, sizes, by, j, panel);
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
    sizes: Sizes,
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
        let mut column = Self { packing, sizes, j, inverse: 0.0 };
        if !matches!(packing, Packing::Q8 | Packing::Q4) {
            return column;
        }
        let largest = row.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
        let scale = match packing {
            Packing::Q8 => largest / Q8_MAX,
            _ => largest / (7 * GROUP_MAX) as f32,
        };
        // The inverse of a subnormal scale is infinite: such a channel is as good as zero.
        if scale > 0.0 && (1.0 / scale).is_finite() {
            (column.inverse, panel.scales[j]) = (1.0 / scale, scale);
        }
        if packing == Packing::Q4 {
            for group in 0..sizes.groups() {
                panel.groups[group * PANEL + j] = column.multiplier(row, group) as u8;
            }
        }
        column
    }

    /// The multiplier of a group, with the least squared error among the likely ones.
    fn multiplier(&self, row: &[f32], group: usize) -> i32 {
        let Sizes { channels, taps, .. } = self.sizes;
        let groups = channels.div_ceil(GROUP);
        let (tap, first) = (group / groups, group % groups * GROUP);
        let members = || row.iter().skip(first * taps + tap).step_by(taps).take(GROUP);
        let largest = members().fold(0.0f32, |largest, w| largest.max(w.abs())) * self.inverse;
        let likely = libm::ceilf(largest / 7.0) as i32;
        let error = |m: i32| {
            members().fold(0.0f32, |sum, w| {
                let x = w * self.inverse / m as f32;
                let q = libm::rintf(x).clamp(Q4_RANGE[0], Q4_RANGE[1]);
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
                let group = self.sizes.group_at(tap, channel, self.j);
                let m = i32::from(panel.groups[group]);
                let q = libm::rintf(x / m as f32).clamp(Q4_RANGE[0], Q4_RANGE[1]) as i32;
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

/// A packed panel.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    /// As [`PanelMut::data`].
    pub data: &'a [u8],
    /// As [`PanelMut::scales`].
    pub scales: &'a [f32],
    /// As [`PanelMut::groups`].
    pub groups: &'a [u8],
}

/// What the panel that begins at output channel `first` stands for: `out` is
/// `[min(16, n - first), channels, taps]`.
///
/// # Panics
/// Where a slice is not of its size.
pub fn unpack_panel(
    packing: Packing,
    sizes: Sizes,
    first: usize,
    panel: Panel<'_>,
    out: &mut [f32],
) {
    let Sizes { n, channels, taps } = sizes;
    let columns = PANEL.min(n - first);
    assert!(out.len() == columns * channels * taps, "a panel of another size");
    let form = packing.form();
    let (step, steps) = (form.per_step(), form.steps(channels));
    for (index, out) in out.iter_mut().enumerate() {
        let (j, channel, tap) = (index / (channels * taps), index / taps % channels, index % taps);
        let at = ((tap * steps + channel / step) * PANEL + j) * step + channel % step;
        *out = match packing {
            Packing::Plain | Packing::F32 => {
                let bytes = panel.data[4 * at..].first_chunk();
                bytes.map_or(0.0, |&bytes| f32::from_le_bytes(bytes))
            }
            Packing::Bf16 => {
                let bytes = panel.data[2 * at..].first_chunk();
                let half = bytes.map_or(0, |&bytes| u16::from_le_bytes(bytes));
                f32::from_bits(u32::from(half) << 16)
            }
            Packing::Q8 => f32::from(panel.data[at] as i8) * panel.scales[j],
            Packing::Q4 => {
                let (byte, high) = q4_place(at);
                let q = (panel.data[byte] >> (4 * u8::from(high)) & 15) as i8 - 8;
                let group = sizes.group_at(tap, channel, j);
                f32::from(q * panel.groups[group] as i8) * panel.scales[j]
            }
        };
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
    assert!(groups.len() == PANEL * sizes.groups(), "groups of another size");
    let (data, out) = (data.as_chunks::<32>().0, out.as_chunks_mut::<64>().0);
    for (step, (data, out)) in data.iter().zip(out).enumerate() {
        let group = step / steps * groups_a_tap + step % steps * 4 / GROUP;
        let groups: &[u8; PANEL] = groups[group * PANEL..].first_chunk().expect("asserted above");
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

#[cfg(test)]
mod tests {
    use std::vec::Vec;
    use std::{assert, assert_eq, vec};

    use super::*;

    /// Widths about the sizes of panels, steps and groups, and kernels of one, two and nine taps.
    fn all_sizes() -> impl Iterator<Item = Sizes> {
        [(1, 1, 1), (15, 3, 1), (16, 4, 9), (17, 31, 1), (33, 33, 2), (48, 65, 9), (2, 130, 1)]
            .into_iter()
            .map(|(n, channels, taps)| Sizes { n, channels, taps })
    }

    /// Weights of several magnitudes, each third channel of output among zeros now and then.
    fn weights(sizes: Sizes) -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let row = sizes.channels * sizes.taps;
        let magnitude = |i: usize| [1.0, 1e-3, 0.0, 300.0][i / row % 4];
        (0..sizes.n * row).map(|i| next() * magnitude(i)).collect()
    }

    /// A panel's parts, of exactly their sizes, filled with what must not remain.
    struct Parts {
        data: Vec<u8>,
        scales: Vec<f32>,
        groups: Vec<u8>,
    }

    impl Parts {
        fn pack(packing: Packing, sizes: Sizes, weight: &[f32], first: usize) -> Self {
            let bytes =
                sizes.panel_bytes(packing.form()) / if packing == Packing::Q4 { 2 } else { 1 };
            let (quantised, q4) =
                (matches!(packing, Packing::Q8 | Packing::Q4), packing == Packing::Q4);
            let mut parts = Self {
                data: vec![0xAA; bytes],
                scales: vec![f32::NAN; if quantised { sizes.scales() } else { 0 }],
                groups: vec![0xAA; if q4 { sizes.groups() * PANEL } else { 0 }],
            };
            let Self { data, scales, groups } = &mut parts;
            pack_panel(packing, sizes, weight, first, &mut PanelMut { data, scales, groups });
            parts
        }

        fn panel(&self) -> Panel<'_> {
            Panel { data: &self.data, scales: &self.scales, groups: &self.groups }
        }
    }

    /// Packs and unpacks all panels.
    fn round_trip(packing: Packing, sizes: Sizes, weight: &[f32]) -> Vec<f32> {
        let mut all = Vec::new();
        for first in (0..sizes.n).step_by(PANEL) {
            let parts = Parts::pack(packing, sizes, weight, first);
            let mut out = vec![0.0; PANEL.min(sizes.n - first) * sizes.channels * sizes.taps];
            unpack_panel(packing, sizes, first, parts.panel(), &mut out);
            all.extend(out);
        }
        all
    }

    #[test]
    fn a_shape_has_the_bytes_of_its_panels() {
        for sizes in all_sizes() {
            for packing in Packing::PACKED {
                let elements = sizes.shape(packing).unwrap().elements().unwrap();
                let weight = weights(sizes);
                let panel = Parts::pack(packing, sizes, &weight, 0);
                let bytes = sizes.panels() * panel.data.len();
                assert_eq!(elements * packing.dtype().bytes(), bytes, "{packing:?} {sizes:?}");
                assert!(panel.scales.iter().all(|scale| scale.is_finite()), "{sizes:?}");
            }
            assert_eq!(sizes.shape(Packing::Plain), None);
            let scales = sizes.scale_shape().elements().unwrap();
            assert_eq!(scales, sizes.panels() * sizes.scales());
            let groups = sizes.groups_shape().elements().unwrap();
            assert_eq!(groups, sizes.panels() * sizes.groups() * PANEL);
        }
    }

    #[test]
    fn f32_comes_back_as_it_was_and_bf16_to_its_last_bit() {
        for sizes in all_sizes() {
            let weight = weights(sizes);
            assert_eq!(round_trip(Packing::F32, sizes, &weight), weight);
            let near = round_trip(Packing::Bf16, sizes, &weight);
            for (w, near) in weight.iter().zip(near) {
                assert!((w - near).abs() <= w.abs() / 256.0, "{w} became {near}");
            }
        }
    }

    #[test]
    fn int8_is_off_by_half_a_step_of_its_channel() {
        for sizes in all_sizes() {
            let weight = weights(sizes);
            let near = round_trip(Packing::Q8, sizes, &weight);
            let row = sizes.channels * sizes.taps;
            for (weight, near) in weight.chunks(row).zip(near.chunks(row)) {
                let largest = weight.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
                let bound = largest / Q8_MAX * 0.5001;
                for (w, near) in weight.iter().zip(near) {
                    assert!((w - near).abs() <= bound, "{w} became {near} of {largest}");
                }
            }
        }
    }

    #[test]
    fn int4_is_no_worse_than_one_scale_a_group_rounded_up() {
        for sizes in all_sizes() {
            let weight = weights(sizes);
            let near = round_trip(Packing::Q4, sizes, &weight);
            let at = |n: usize, channel: usize, tap: usize| {
                (n * sizes.channels + channel) * sizes.taps + tap
            };
            let row = sizes.channels * sizes.taps;
            for (n, tap) in (0..sizes.n).flat_map(|n| (0..sizes.taps).map(move |tap| (n, tap))) {
                let largest = weight[n * row..][..row].iter().fold(0.0f32, |l, w| l.max(w.abs()));
                for group in (0..sizes.channels).step_by(GROUP) {
                    let members = group..sizes.channels.min(group + GROUP);
                    let (mut own, mut error) = (0.0f32, 0.0);
                    for at in members.clone().map(|channel| at(n, channel, tap)) {
                        own = own.max(weight[at].abs());
                        error += (weight[at] - near[at]) * (weight[at] - near[at]);
                    }
                    // The group's step, rounded up to a whole number of the channel's.
                    let step = own / 7.0 + largest / 105.0;
                    let bound = members.len() as f32 * (step / 2.0) * (step / 2.0) * 1.001;
                    assert!(error <= bound, "{sizes:?} {n} {tap} {group}: {error} > {bound}");
                }
            }
        }
    }

    #[test]
    fn sums_are_those_of_the_integers_and_expanded_int4_is_int8() {
        for sizes in all_sizes() {
            let weight = weights(sizes);
            for first in (0..sizes.n).step_by(PANEL) {
                for packing in [Packing::Q8, Packing::Q4] {
                    let parts = Parts::pack(packing, sizes, &weight, first);
                    let mut int8 = parts.data.clone();
                    if packing == Packing::Q4 {
                        int8 = vec![0xAA; 2 * parts.data.len()];
                        expand_q4(sizes, &parts.data, &parts.groups, &mut int8);
                    }
                    let steps = Form::Q8.steps(sizes.channels);
                    for tap in 0..sizes.taps {
                        for j in 0..PANEL {
                            let places = (0..4 * steps).map(|channel| {
                                ((tap * steps + channel / 4) * PANEL + j) * 4 + channel % 4
                            });
                            let sum: i32 = places.map(|at| i32::from(int8[at] as i8)).sum();
                            assert_eq!(parts.scales[(1 + tap) * PANEL + j], sum as f32);
                        }
                    }
                    // Unpacked, both say the same.
                    let mut own = vec![0.0; PANEL.min(sizes.n - first) * weight.len() / sizes.n];
                    let mut expanded = own.clone();
                    unpack_panel(packing, sizes, first, parts.panel(), &mut own);
                    let panel = Panel { data: &int8, ..parts.panel() };
                    unpack_panel(Packing::Q8, sizes, first, panel, &mut expanded);
                    assert_eq!(own, expanded, "{packing:?} {sizes:?}");
                }
            }
        }
    }

    #[test]
    fn rows_packed_by_themselves_are_a_panel_of_the_whole() {
        for sizes in all_sizes() {
            let weight = weights(sizes);
            let row = sizes.channels * sizes.taps;
            for first in (0..sizes.n).step_by(PANEL) {
                let rows = PANEL.min(sizes.n - first);
                let part = &weight[first * row..][..rows * row];
                for packing in Packing::PACKED {
                    let whole = Parts::pack(packing, sizes, &weight, first);
                    let alone = Parts::pack(packing, Sizes { n: rows, ..sizes }, part, 0);
                    assert_eq!(whole.data, alone.data, "{packing:?} {sizes:?}");
                    assert_eq!(whole.scales, alone.scales);
                    assert_eq!(whole.groups, alone.groups);
                }
            }
        }
    }

    #[test]
    fn zeros_and_what_is_next_to_nothing_become_zeros_not_nans() {
        let sizes = Sizes { n: 3, channels: 40, taps: 1 };
        for tiny in [0.0, -0.0, 1e-44, 1e-39, -3e-38] {
            let weight = vec![tiny; 120];
            for packing in [Packing::Q8, Packing::Q4] {
                let near = round_trip(packing, sizes, &weight);
                let worst = near.iter().fold(0.0f32, |worst, near| worst.max((near - tiny).abs()));
                assert!(worst <= tiny.abs(), "{packing:?} {tiny}: {worst}");
            }
        }
    }

    #[test]
    fn bf16_is_rounded_to_even() {
        for (x, bits) in [
            (1.0, 0x3F80),
            (f32::from_bits(0x3F80_8000), 0x3F80),
            (f32::from_bits(0x3F81_8000), 0x3F82),
            (f32::from_bits(0x3F80_8001), 0x3F81),
            (f32::MAX, 0x7F80),
            (f32::NEG_INFINITY, 0xFF80),
            (-0.0, 0x8000),
        ] {
            assert_eq!(to_bf16(x), bits, "{x}");
        }
        let nan = to_bf16(f32::from_bits(0x7F80_0001));
        assert!(f32::from_bits(u32::from(nan) << 16).is_nan());
    }
}
