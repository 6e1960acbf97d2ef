//! Writes a packed file, tensor after tensor, with no more than a few panels in memory.
//!
//! All sizes are known before the first byte, so the header goes first. Tensors whose size is a
//! multiple of [`ALIGNMENT`] come first, in the order of their names, and so all begin at one; the
//! others follow, those of wide elements first, so that each begins at a multiple of its element.
//! The recipe follows, and last comes the checksum of all before it.
//! The same weights give the same bytes, whatever the number of threads.

use std::collections::{BTreeMap, HashMap};

use half::f16;
use mote::arch::Isa;
use mote::exec::{Executor, for_each_chunk};
use mote::pipeline::recipe::TENSOR;
use mote::tensor::packed::{
    DOUBLED, PANEL, Panel, PanelMut, Sizes, doubled_row, pack_panel, pack_panel_scaled_by,
    unpack_panel,
};
use mote::tensor::{DType, Packing};
use mote::weights::{CHECKSUM, CHECKSUM_BYTES, Weight, Weights};
use serde_json::json;

use super::policy::Storage;
use super::rounding::{Calibration, Rounding};
use super::walk::Stored;
use crate::checkpoint::packed::{ALIGNMENT, FILE, FORMAT, SCALE, VERSION};
use crate::error::{Failure, Result};
use crate::explain::explain;
use crate::machine::Machine;
use crate::types::{Choice, Type};

/// Panels that each thread packs before they are written.
const PANELS_PER_WORKER: usize = 4;

/// Elements of a tensor that is not packed that are converted at a time.
const RUN: usize = 1 << 16;

/// Bytes before the header: its length.
const PREFIX: usize = 8;

/// How far the weights of a layer are from what they stand for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Difference {
    /// The sum of the squares of what is lost.
    lost: f64,
    /// The sum of the squares of what there was.
    whole: f64,
}

impl Difference {
    /// What `near` lacks of `exact`.
    pub fn between(exact: &[f32], near: &[f32]) -> Self {
        let mut difference = Self::default();
        for (&exact, &near) in exact.iter().zip(near) {
            let (exact, near) = (f64::from(exact), f64::from(near));
            difference.lost += (exact - near) * (exact - near);
            difference.whole += exact * exact;
        }
        difference
    }

    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.whole += other.whole;
    }

    /// The relative error: 0 where there was nothing.
    pub fn relative(&self) -> f64 {
        if self.whole > 0.0 { (self.lost / self.whole).sqrt() } else { 0.0 }
    }
}

/// What a tensor's bytes are made of.
#[derive(Clone, Copy, Debug)]
enum Content<'a> {
    /// A file of the model.
    File(&'a [u8]),
    /// The recipe.
    Recipe(&'a [u8]),
    /// A weight, or a packed weight's panels.
    Weight(&'a Stored),
    /// What belongs to the packed weight of this name.
    Companion(&'a str),
    /// The checksum of all that was written before.
    Checksum,
}

/// A tensor and where it goes.
#[derive(Clone, Debug)]
struct Item<'a> {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    bytes: u64,
    content: Content<'a>,
}

/// A tensor of this name, type and shape.
fn item<'a>(
    name: String,
    (dtype, shape): (DType, mote::tensor::Shape),
    content: Content<'a>,
) -> Result<Item<'a>> {
    let elements = shape.elements().map_err(|error| explain(error, &name))?;
    let bytes = elements as u64 * dtype.bytes() as u64;
    Ok(Item { name, dtype, shape: shape.as_slice().to_vec(), bytes, content })
}

/// What a packed file is to hold, in its order.
#[derive(Clone, Debug)]
pub struct Layout<'a> {
    to: Type,
    tensors: &'a BTreeMap<String, Stored>,
    items: Vec<Item<'a>>,
}

impl<'a> Layout<'a> {
    /// The order of these tensors and files. The recipe comes behind them; an empty one is none.
    /// Last comes the checksum.
    ///
    /// # Errors
    /// Where a tensor is too large to count.
    pub fn new(
        to: Type,
        tensors: &'a BTreeMap<String, Stored>,
        files: &'a BTreeMap<String, Vec<u8>>,
        recipe: &'a [u8],
    ) -> Result<Self> {
        let mut layout = Self::of_tensors(to, tensors)?;
        for (name, bytes) in files {
            let shape = mote::tensor::Shape::new([bytes.len()]);
            let name = format!("{FILE}{name}");
            layout.items.push(item(name, (DType::U8, shape), Content::File(bytes))?);
        }
        layout.sort();
        let shape = |bytes| (DType::U8, mote::tensor::Shape::new([bytes]));
        if !recipe.is_empty() {
            let content = Content::Recipe(recipe);
            layout.items.push(item(TENSOR.into(), shape(recipe.len()), content)?);
        }
        layout.items.push(item(CHECKSUM.into(), shape(CHECKSUM_BYTES), Content::Checksum)?);
        Ok(layout)
    }

    /// The order of these tensors alone, for a file that stays in memory and is changed there.
    ///
    /// # Errors
    /// Where a tensor is too large to count.
    pub fn of_tensors(to: Type, tensors: &'a BTreeMap<String, Stored>) -> Result<Self> {
        let mut items = Vec::new();
        for (name, stored) in tensors {
            items.push(item(name.clone(), stored.shape(), Content::Weight(stored))?);
            for end in stored.companions() {
                let (name, of) = (format!("{name}{end}"), Content::Companion(name));
                items.push(item(name, stored.companion(end), of)?);
            }
        }
        let mut layout = Self { to, tensors, items };
        layout.sort();
        Ok(layout)
    }

    fn sort(&mut self) {
        self.items.sort_by(|a, b| {
            let last = |item: &Item<'_>| !item.bytes.is_multiple_of(ALIGNMENT);
            let width = |item: &Item<'_>| if last(item) { item.dtype.bytes() } else { 0 };
            let order = last(a).cmp(&last(b)).then(width(b).cmp(&width(a)));
            order.then_with(|| a.name.cmp(&b.name))
        });
    }

    /// Bytes of the tensors whose names begin with `prefix`.
    pub fn bytes(&self, prefix: &str) -> u64 {
        let of = self.items.iter().filter(|item| item.name.starts_with(prefix));
        of.map(|item| item.bytes).sum()
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.header().len() as u64 + self.bytes("")
    }

    /// How many tensors it holds.
    pub fn tensors(&self) -> usize {
        self.items.len()
    }

    /// The length and the JSON, filled up with blanks.
    fn header(&self) -> Vec<u8> {
        let metadata = json!({ "format": FORMAT, "type": self.to.name(), "version": VERSION });
        let mut text = format!("{{\"__metadata__\":{metadata}");
        let mut begin = 0;
        for item in &self.items {
            let end = begin + item.bytes;
            let (name, dtype) = (json!(item.name), item.dtype.name());
            let tensor =
                json!({ "dtype": dtype, "shape": item.shape, "data_offsets": [begin, end] });
            text.push_str(&format!(",{name}:{tensor}"));
            begin = end;
        }
        text.push('}');
        while !(PREFIX + text.len()).is_multiple_of(ALIGNMENT as usize) {
            text.push(' ');
        }
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.extend(text.into_bytes());
        header
    }
}

/// Where the weights come from and who works.
pub struct Converter<'a> {
    /// The weights as they are.
    pub weights: &'a mut dyn Weights,
    /// Who reads half precision, and packs.
    pub machine: &'a Machine,
    /// What the products were fed with, where that is known.
    pub calibration: Option<&'a Calibration>,
    /// Told before each tensor how many bytes are written, of how many; may end the work.
    pub watch: &'a mut dyn FnMut(u64, u64) -> Result<()>,
}

/// Takes the next bytes of a file.
pub type Output<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

impl Converter<'_> {
    /// Writes the whole file to `out`. Yields how far each product's weight is from what it was.
    ///
    /// # Errors
    /// Where a weight cannot be read or holds what the type cannot, and those of `out`.
    pub fn write(
        &mut self,
        layout: &Layout<'_>,
        out: &mut Output<'_>,
    ) -> Result<BTreeMap<String, Difference>> {
        let mut crc = crc32fast::Hasher::new();
        let differences = self.items(layout, &mut |bytes| {
            crc.update(bytes);
            out(bytes)
        })?;
        if layout.items.last().is_some_and(|item| matches!(item.content, Content::Checksum)) {
            out(&crc.finalize().to_le_bytes())?;
        }
        let all = layout.bytes("");
        (self.watch)(all, all)?;
        Ok(differences)
    }

    /// All of the file but its checksum.
    fn items(
        &mut self,
        layout: &Layout<'_>,
        out: &mut Output<'_>,
    ) -> Result<BTreeMap<String, Difference>> {
        out(&layout.header())?;
        let (mut done, all) = (0, layout.bytes(""));
        let (mut differences, mut held) = (BTreeMap::new(), Held::default());
        for item in &layout.items {
            (self.watch)(done, all)?;
            match item.content {
                Content::File(bytes) | Content::Recipe(bytes) => out(bytes)?,
                Content::Weight(stored) => {
                    let difference = self.weight(&item.name, stored, &mut held, out)?;
                    differences.insert(item.name.clone(), difference);
                }
                Content::Companion(of) => {
                    if !held.0.contains_key(&item.name) {
                        // The weight itself comes later: its size is no multiple of the alignment.
                        let stored = &layout.tensors[of];
                        self.weight(of, stored, &mut held, &mut |_| Ok(()))?;
                    }
                    out(&held.0.remove(&item.name).unwrap_or_default())?;
                }
                Content::Checksum => {}
            }
            done += item.bytes;
        }
        Ok(differences)
    }

    fn weight(
        &mut self,
        name: &str,
        stored: &Stored,
        held: &mut Held,
        out: &mut Output<'_>,
    ) -> Result<Difference> {
        match stored.storage {
            Storage::Plain(dtype) => self.plain(name, &stored.source, dtype, out),
            Storage::Packed(packing) | Storage::Doubled(packing) => {
                self.packed(name, stored, packing, held, out)
            }
        }
    }

    /// The elements from `start` on, as f32.
    fn elements(&mut self, name: &str, from: &Weight, start: usize, out: &mut [f32]) -> Result<()> {
        let size = from.dtype.bytes();
        let bytes = self.weights.read(from, start * size, out.len() * size, &mut []);
        let bytes = bytes.map_err(|error| explain(error, name))?;
        to_f32(self.machine.isa(), from.dtype, bytes, out);
        check_finite(name, out)
    }

    fn plain(
        &mut self,
        name: &str,
        from: &Weight,
        to: DType,
        out: &mut Output<'_>,
    ) -> Result<Difference> {
        let count = from.bytes / from.dtype.bytes();
        let mut difference = Difference::default();
        for start in (0..count).step_by(RUN) {
            let mut exact = vec![0.0; RUN.min(count - start)];
            self.elements(name, from, start, &mut exact)?;
            let (near, bytes) = from_f32(to, &exact);
            if near.iter().any(|near| !near.is_finite()) {
                return Err(Failure::new(format!("`{name}` holds values too large for f16"))
                    .remedy("Take --type bf16 or f32"));
            }
            difference.add(Difference::between(&exact, &near));
            out(&bytes)?;
        }
        Ok(difference)
    }

    /// Rows of a doubled convolution from number `start` on: those of a product end with rows of
    /// zeros, up to whole panels.
    fn doubled_rows(
        &mut self,
        name: &str,
        stored: &Stored,
        start: usize,
        rows: &mut [f32],
    ) -> Result<()> {
        let (channels, each) = (stored.sizes.channels, stored.sizes.n / DOUBLED);
        let n = stored.source.shape.as_slice().first().copied().unwrap_or(0);
        let mut kernels = vec![0.0; channels * DOUBLED];
        for (i, row) in rows.chunks_exact_mut(channels.max(1)).enumerate() {
            let (product, channel) = ((start + i) / each, (start + i) % each);
            if channel < n {
                self.elements(name, &stored.source, channel * kernels.len(), &mut kernels)?;
                doubled_row(&kernels, product, row);
            }
        }
        Ok(())
    }

    /// A weight's panels to `out`; its companions are held until their turn.
    fn packed(
        &mut self,
        name: &str,
        stored: &Stored,
        packing: Packing,
        held: &mut Held,
        out: &mut Output<'_>,
    ) -> Result<Difference> {
        let (sizes, row) = (stored.sizes, stored.sizes.channels * stored.sizes.taps);
        let rounding = self
            .calibration
            .and_then(|calibration| calibration.rounding(stored, self.machine.pool()));
        let mut difference = Difference::default();
        let (mut scales, mut groups) = (Vec::new(), Vec::new());
        let batch = PANEL * PANELS_PER_WORKER * self.machine.pool().workers();
        for start in (0..sizes.n).step_by(batch) {
            let rows = batch.min(sizes.n - start);
            let mut exact = vec![0.0; rows * row];
            match stored.storage {
                Storage::Doubled(_) => self.doubled_rows(name, stored, start, &mut exact)?,
                _ => self.elements(name, &stored.source, start * row, &mut exact)?,
            }
            let panels = (0..rows).step_by(PANEL);
            let mut jobs: Vec<_> = panels.map(|first| Job::new(packing, sizes, first)).collect();
            for_each_chunk::<_, ()>(self.machine.pool(), &mut jobs, 1, &mut [], |_, jobs, _| {
                jobs.iter_mut()
                    .for_each(|job| job.run(packing, &exact, row, start, rounding.as_ref()));
            });
            for job in &jobs {
                difference.add(job.difference);
                scales.extend(job.scales.iter().flat_map(|scale| scale.to_le_bytes()));
                groups.extend_from_slice(&job.groups);
                out(&job.data)?;
            }
        }
        for end in stored.companions() {
            let bytes = std::mem::take(if *end == SCALE { &mut scales } else { &mut groups });
            held.0.insert(format!("{name}{end}"), bytes);
        }
        Ok(difference)
    }
}

/// Companions that were packed with their weight and wait for their turn.
#[derive(Default)]
struct Held(HashMap<String, Vec<u8>>);

/// One panel to be packed.
struct Job {
    /// Its first row among those at hand.
    first: usize,
    sizes: Sizes,
    data: Vec<u8>,
    scales: Vec<f32>,
    groups: Vec<u8>,
    difference: Difference,
}

impl Job {
    fn new(packing: Packing, sizes: Sizes, first: usize) -> Self {
        let bytes = sizes.panel_bytes(packing.form());
        let is = |one| packing == one;
        let of = |wanted: bool, len: usize| if wanted { len } else { 0 };
        Self {
            first,
            sizes,
            data: vec![0; if is(Packing::Q4) { bytes / 2 } else { bytes }],
            scales: vec![0.0; of(is(Packing::Q8) || is(Packing::Q4), sizes.scales())],
            groups: vec![0; of(is(Packing::Q4), PANEL * sizes.groups())],
            difference: Difference::default(),
        }
    }

    /// Packs the panel out of rows of `row` elements, the first of which is number `start` of all,
    /// and measures what was lost.
    fn run(
        &mut self,
        packing: Packing,
        rows: &[f32],
        row: usize,
        start: usize,
        rounding: Option<&Rounding>,
    ) {
        let count = PANEL.min((rows.len() / row.max(1)).saturating_sub(self.first));
        if count == 0 {
            return;
        }
        let exact = &rows[self.first * row..][..count * row];
        // Rows by themselves pack like rows among others.
        let sizes = Sizes { n: count, ..self.sizes };
        let Self { data, scales, groups, .. } = self;
        let mut near = vec![0.0; exact.len()];
        let mut panel = PanelMut { data, scales, groups };
        pack_panel(packing, sizes, exact, 0, &mut panel);
        if let Some(rounding) = rounding {
            near.copy_from_slice(exact);
            rounding.round(packing, &panel, start + self.first, &mut near);
            pack_panel_scaled_by(packing, sizes, [&near, exact], 0, &mut panel);
        }
        unpack_panel(packing, sizes, 0, Panel { data, scales, groups }, &mut near);
        self.difference = Difference::between(exact, &near);
    }
}

pub(crate) fn to_f32(isa: Isa, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F16 => isa.f16_to_f32(bytes, out),
        DType::BF16 => isa.bf16_to_f32(bytes, out),
        _ => dtype.to_f32(bytes, out),
    }
}

/// Values as near to `exact` as the type has them, and their bytes.
fn from_f32(to: DType, exact: &[f32]) -> (Vec<f32>, Vec<u8>) {
    match to {
        DType::F16 => {
            let halves: Vec<_> = exact.iter().map(|&x| f16::from_f32(x)).collect();
            let bytes = halves.iter().flat_map(|x| x.to_le_bytes()).collect();
            (halves.iter().map(|x| x.to_f32()).collect(), bytes)
        }
        DType::BF16 => {
            let halves: Vec<_> = exact.iter().map(|&x| mote::tensor::packed::to_bf16(x)).collect();
            let bytes = halves.iter().flat_map(|x| x.to_le_bytes()).collect();
            (halves.iter().map(|&x| f32::from_bits(u32::from(x) << 16)).collect(), bytes)
        }
        _ => (exact.to_vec(), exact.iter().flat_map(|x| x.to_le_bytes()).collect()),
    }
}

fn check_finite(name: &str, values: &[f32]) -> Result<()> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    Err(Failure::new(format!("`{name}` holds a value that is not a number"))
        .remedy("The weights may be damaged: fetch them again"))
}
