//! The parameters of the networks that learn: a packed f32 file in memory, as `mote convert --type
//! f32` would write it, so that the walk reads them in place and in panels. The optimiser changes
//! its data where they lie.
//!
//! Their first values are those that PyTorch gives the layers of diffusers and transformers (He et
//! al. 2015 with a = √5; CLIP's own for its tables and layers), from a seed.

use std::collections::BTreeMap;
use std::ops::Range;

use mote::diffusion::noise::{Noise, NoiseKind};
use mote::mem::{bytes_of, floats_of, floats_of_mut};
use mote::tensor::packed::{PANEL, Panel, unpack_panel};
use mote::tensor::{DType, Packing, Shape};
use mote::weights::{Assumed, InPlace, Index, Slot, Weight, Weights, header_bytes};

use super::draw::{Draw, Fingerprint, Purpose};
use mote_host::error::{Failure, Result};
use mote_host::explain::explain;
use mote_host::machine::Machine;
use mote_host::machine::memory::Block;
use mote_host::networks::Network;
use mote_host::pack::{Converted, Converter, Layout, Storage, Stored};
use mote_host::types::Type;

/// The spread of the values in CLIP's tables.
const TABLE_SPREAD: f64 = 0.02;

/// The parameters, and where each lies.
#[derive(Debug)]
pub struct Store {
    block: Block,
    /// Bytes before the data.
    begin: usize,
    header: Range<usize>,
    slots: Vec<Slot>,
    tensors: BTreeMap<String, Stored>,
}

impl Store {
    /// The parameters of the networks with their first values.
    ///
    /// # Errors
    /// Where the networks contradict themselves, or there is no memory.
    pub fn new(networks: &[Network], seed: u64, machine: &Machine) -> Result<Self> {
        let mut assumed = Assumed(DType::F32);
        let asked = walked(networks, machine, &mut assumed)?;
        let mut source = Source::new(&asked, seed);
        let tensors = walked(networks, machine, &mut source)?;
        let layout = Layout::of_tensors(Type::F32, &tensors)?;
        let mut bytes = Vec::new();
        let mut watch = |_, _| Ok(());
        Converter { weights: &mut source, machine, calibration: None, watch: &mut watch }.write(
            &layout,
            &mut |next| {
                bytes.extend_from_slice(next);
                Ok(())
            },
        )?;
        let mut block = Block::new(bytes.len())?;
        block.bytes().copy_from_slice(&bytes);
        let wrong = |error| explain(error, "the parameters");
        let header = header_bytes(&bytes, bytes.len() as u64).map_err(wrong)?;
        let count = Index::count(&bytes[header.clone()]).map_err(wrong)?;
        let mut slots = vec![Slot::EMPTY; count];
        Index::parse(&bytes[header.clone()], bytes.len() as u64, &mut slots).map_err(wrong)?;
        Ok(Self { block, begin: header.end, header, slots, tensors })
    }

    /// Bytes before the data.
    pub fn begin(&self) -> usize {
        self.begin
    }

    /// All parameters, with what fills up panels.
    pub fn values(&self) -> &[f32] {
        floats_of(&self.block.as_slice()[self.begin..])
    }

    /// All parameters, to be changed.
    pub fn values_mut(&mut self) -> &mut [f32] {
        floats_of_mut(&mut self.block.bytes()[self.begin..])
    }

    /// How many parameters there are, without what fills up panels.
    pub fn count(&self) -> usize {
        let elements = |stored: &Stored| stored.source.bytes / DType::F32.bytes();
        self.tensors.values().map(elements).sum()
    }

    /// The weights, for a walk.
    pub fn weights(&self) -> InPlace<'_> {
        let file = self.block.as_slice();
        InPlace::new(Index::parsed(&file[self.header.clone()], &self.slots), file)
    }

    /// A copy, with a memory of its own.
    ///
    /// # Errors
    /// Where there is no memory.
    pub fn copy(&self) -> Result<Self> {
        let file = self.block.as_slice();
        let mut block = Block::new(file.len())?;
        block.bytes().copy_from_slice(file);
        let Self { begin, header, slots, tensors, .. } = self;
        let (header, slots, tensors) = (header.clone(), slots.clone(), tensors.clone());
        Ok(Self { block, begin: *begin, header, slots, tensors })
    }

    /// Each tensor of a network as a checkpoint has it: its name without the network's, its shape
    /// and its values.
    ///
    /// # Errors
    /// None: the file is our own.
    pub fn unpacked(&self, network: &str) -> Result<Vec<(String, Shape, Vec<f32>)>> {
        let mut weights = self.weights();
        let mut all = Vec::new();
        for (name, stored) in &self.tensors {
            let Some(short) = name.strip_prefix(network).and_then(|rest| rest.strip_prefix('.'))
            else {
                continue;
            };
            let wrong = |error| explain(error, name);
            let found = weights.find(name, stored.source.shape).map_err(wrong)?;
            let found = found.ok_or_else(|| wrong(mote::Error::MissingWeight))?;
            let bytes = weights.read(&found, 0, found.bytes, &mut []).map_err(wrong)?;
            all.push((short.to_string(), stored.source.shape, natural(stored, floats_of(bytes))));
        }
        Ok(all)
    }
}

/// A tensor's values in a checkpoint's order.
fn natural(stored: &Stored, values: &[f32]) -> Vec<f32> {
    let Storage::Packed(packing) = stored.storage else { return values.to_vec() };
    debug_assert_eq!(packing, Packing::F32);
    let sizes = stored.sizes;
    let row = sizes.channels * sizes.taps;
    let mut out = vec![0.0; sizes.n * row];
    let panels = bytes_of(values).chunks_exact(sizes.panel_bytes(packing.form()));
    for ((data, out), panel) in panels.zip(out.chunks_mut(PANEL * row)).zip(0..) {
        let panel_of = Panel { data, scales: &[], groups: &[] };
        unpack_panel(packing, sizes, panel * PANEL, panel_of, out);
    }
    out
}

/// All tensors that the networks ask for.
fn walked(
    networks: &[Network],
    machine: &Machine,
    weights: &mut dyn Weights,
) -> Result<BTreeMap<String, Stored>> {
    let mut converted = Converted::to_be_trained(weights);
    for network in networks {
        network.plan(machine, &mut converted)?;
    }
    Ok(converted.tensors)
}

/// First values for all tensors, in a checkpoint's order.
struct Source {
    /// Where each begins, in elements, and its shape.
    places: BTreeMap<String, (usize, Shape)>,
    values: Vec<f32>,
}

impl Source {
    fn new(tensors: &BTreeMap<String, Stored>, seed: u64) -> Self {
        let mut source = Self { places: BTreeMap::new(), values: Vec::new() };
        let layers = |name: &str| {
            let (prefix, _) = name.split_once("encoder.layers.").unwrap_or((name, ""));
            let of = |i: usize| format!("{prefix}encoder.layers.{i}.layer_norm1.weight");
            (0..).take_while(|&i| tensors.contains_key(&of(i))).count()
        };
        for (name, stored) in tensors {
            let shape = stored.source.shape;
            let count = stored.source.bytes / DType::F32.bytes();
            let weight = name.strip_suffix("bias").map(|of| format!("{of}weight"));
            let fan = weight.and_then(|weight| tensors.get(&weight)).unwrap_or(stored);
            let fan_in: usize = fan.source.shape.as_slice().iter().skip(1).product();
            let kind = Kind::of(name, fan_in, layers(name));
            source.places.insert(name.clone(), (source.values.len(), shape));
            source.values.extend(kind.draw(count, seed, name));
        }
        source
    }
}

/// How a tensor's first values are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// All the same.
    Constant(f32),
    /// Evenly up to this on both sides of 0.
    Uniform(f64),
    /// Normally, with this deviation.
    Normal(f64),
}

impl Kind {
    /// `fan_in` is the layer's; `layers` is how many a text encoder has.
    fn of(name: &str, fan_in: usize, layers: usize) -> Self {
        let mut parts = name.rsplit('.');
        let (end, layer) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let fan = fan_in.max(1) as f64;
        if layer.contains("norm") {
            return Self::Constant(if end == "bias" { 0.0 } else { 1.0 });
        }
        if !name.starts_with("text_encoder.") {
            // kaiming_uniform_ with a = √5 is U(±1/√fan_in); biases have the same bound.
            return Self::Uniform(1.0 / fan.sqrt());
        }
        if end == "bias" {
            return Self::Constant(0.0);
        }
        let deep = 1.0 / (2.0 * layers.max(1) as f64).sqrt();
        match layer {
            "token_embedding" | "position_embedding" => Self::Normal(TABLE_SPREAD),
            "q_proj" | "k_proj" | "v_proj" => Self::Normal(deep / fan.sqrt()),
            "fc1" => Self::Normal(1.0 / (2.0 * fan).sqrt()),
            // The width of the states is that of fc2's output; its fan is that of its input.
            "fc2" => Self::Normal(deep / fan.sqrt()),
            _ => Self::Normal(1.0 / fan.sqrt()),
        }
    }

    fn draw(self, count: usize, seed: u64, name: &str) -> Vec<f32> {
        let mut draw = Draw::new(seed, Purpose::Initial, Fingerprint::of(name));
        match self {
            Self::Constant(value) => vec![value; count],
            Self::Uniform(bound) => {
                (0..count).map(|_| ((2.0 * draw.unit() - 1.0) * bound) as f32).collect()
            }
            Self::Normal(deviation) => {
                let mut values = vec![0.0; count];
                Noise::new(NoiseKind::Pcg, draw.bits()).fill(&mut values);
                values.iter().map(|value| value * deviation as f32).collect()
            }
        }
    }
}

impl Weights for Source {
    fn find(&mut self, name: &str, _expected: Shape) -> mote::Result<Option<Weight>> {
        let Some(&(begin, shape)) = self.places.get(name) else { return Ok(None) };
        let (size, dtype) = (DType::F32.bytes(), DType::F32);
        let (begin, bytes) = ((begin * size) as u64, shape.elements()? * size);
        Ok(Some(Weight { dtype, shape, part: 0, begin, bytes }))
    }

    fn contains(&mut self, name: &str) -> bool {
        self.places.contains_key(name)
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
    ) -> mote::Result<&'a [u8]> {
        let begin = weight.begin as usize + start;
        bytes_of(&self.values).get(begin..begin + len).ok_or(mote::Error::WeightRead)
    }
}

/// Refuses parameters that are no numbers.
///
/// # Errors
/// Where one is not.
pub fn check_finite(values: &[f32], step: u64) -> Result<()> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    Err(Failure::new(format!("after step {step} a parameter is no number any more"))
        .remedy("Lower `learning_rate`"))
}
