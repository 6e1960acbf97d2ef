//! Helpers that the tests share: weights out of plain vectors, a context in memory of the planned
//! size, threads that scramble the order of work, and the way to data that is not in the
//! repository. `cases` are pipelines as diffusers ran them, `files` what is read and changed.

pub mod cases;
mod choices;
pub mod files;

use std::collections::BTreeMap;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};

pub use choices::{Choices, numbers};
use mote::arch::Isa;
use mote::exec::Executor;
use mote::mem::{ALIGNMENT, Arena};
use mote::ops::{Context, Limits};
use mote::tensor::packed::{Panel, PanelMut, Sizes, pack_panel, unpack_panel};
use mote::tensor::{DType, PANEL, Packing, Shape, Tensor};
use mote::weights::{Weight, Weights};
use mote::{Error, Result};
pub use mote_host::machine::isa::all as isas;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// A file or folder of the data that lies beside the repository, or `None` (and a line that says
/// so) where it is not there.
///
/// # Panics
/// Where it is missing and `MOTE_REQUIRE_SHARED` is set, as continuous integration does.
pub fn shared(path: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var_os("MOTE_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let found = root.join(path);
    if found.exists() {
        return Some(found);
    }
    assert!(std::env::var_os("MOTE_REQUIRE_SHARED").is_none(), "{} is missing", found.display());
    // Past the harness, which would keep what a passing test prints to itself.
    drop(writeln!(stderr(), "not run: {} is missing (see tests/README.md)", found.display()));
    None
}

/// The folder of committed goldens.
pub fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(path)
}

/// The best instruction set that this machine can run.
pub fn best_isa() -> Isa {
    isas().pop().unwrap_or(Isa::SCALAR)
}

/// Threads that take work in a scrambled order, so that nothing may depend on it.
pub struct Threads(pub usize);

// SAFETY: index i goes to worker i % workers alone; `scope` joins all threads before it returns.
unsafe impl Executor for Threads {
    fn workers(&self) -> usize {
        self.0
    }

    fn run(&self, count: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        std::thread::scope(|scope| {
            for worker in 0..self.0 {
                scope.spawn(move || {
                    let mine = (0..count).rev().filter(|index| index % self.0 == worker);
                    mine.for_each(|index| task(index, worker));
                });
            }
        });
    }
}

/// Weights out of plain vectors.
#[derive(Clone, Debug, Default)]
pub struct TestWeights {
    tensors: Vec<(DType, Vec<usize>, Vec<u8>)>,
    names: BTreeMap<String, u16>,
    /// Whether they pretend to be streamed.
    pub staged: bool,
}

impl TestWeights {
    /// Adds an f32 tensor.
    pub fn push(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.push_bytes(name, DType::F32, dims, bytes);
    }

    /// Adds a tensor of any type.
    ///
    /// # Panics
    /// Where there are more or fewer bytes than the dimensions say.
    pub fn push_bytes(&mut self, name: &str, dtype: DType, dims: &[usize], bytes: Vec<u8>) {
        assert_eq!(dims.iter().product::<usize>() * dtype.bytes(), bytes.len());
        self.names.insert(name.to_owned(), self.tensors.len() as u16);
        self.tensors.push((dtype, dims.to_vec(), bytes));
    }
}

impl TestWeights {
    /// Adds the weight of a product, `[n, channels, taps…]`, packed, with what belongs to it.
    ///
    /// # Panics
    /// Where the packing is plain.
    pub fn push_packed(&mut self, name: &str, packing: Packing, dims: &[usize], values: &[f32]) {
        let taps = dims[2..].iter().product();
        let sizes = Sizes { n: dims[0], channels: dims[1], taps };
        let shape = sizes.shape(packing).expect("a packing");
        let (mut data, mut scales, mut groups) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..sizes.n).step_by(PANEL) {
            let bytes = shape.elements().unwrap() * packing.dtype().bytes() / sizes.panels();
            let (mut panel, mut scale) = (vec![0xFF; bytes], vec![0.0; sizes.scales()]);
            let mut group = vec![0; sizes.groups() * PANEL];
            let (data_of, scales_of) = (&mut panel[..], &mut scale[..]);
            let mut out = PanelMut { data: data_of, scales: scales_of, groups: &mut group };
            pack_panel(packing, sizes, values, first, &mut out);
            data.extend(panel);
            scales.extend(scale);
            groups.extend(group);
        }
        self.push_bytes(name, packing.dtype(), shape.as_slice(), data);
        if matches!(packing, Packing::Q8 | Packing::Q4) {
            self.push(&format!("{name}.scale"), sizes.scale_shape().as_slice(), &scales);
        }
        if packing == Packing::Q4 {
            let shape = sizes.groups_shape();
            self.push_bytes(&format!("{name}.groups"), DType::U8, shape.as_slice(), groups);
        }
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The dimensions of a tensor.
    ///
    /// # Panics
    /// Where there is none of this name; so for the others.
    pub fn dims(&self, name: &str) -> Vec<usize> {
        self.tensors[self.number(name)].1.clone()
    }

    /// The bytes of a tensor.
    pub fn bytes(&self, name: &str) -> &[u8] {
        &self.tensors[self.number(name)].2
    }

    /// Forgets a tensor.
    pub fn remove(&mut self, name: &str) {
        self.names.remove(name);
    }

    /// All tensors as a safetensors file. The reference implementation writes it, not ours.
    pub fn file(&self) -> Vec<u8> {
        let views = self.names.iter().map(|(name, &number)| {
            let (dtype, dims, bytes) = &self.tensors[usize::from(number)];
            let dtype = match dtype {
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::BF16 => Dtype::BF16,
                DType::I8 => Dtype::I8,
                DType::U8 => Dtype::U8,
                _ => panic!("no weight is of type {dtype}"),
            };
            (name, TensorView::new(dtype, dims.clone(), bytes).expect("as many bytes"))
        });
        safetensors::serialize(views, None).expect("good tensors")
    }

    /// The values of an f32 tensor.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        let (dtype, _, bytes) = &self.tensors[self.number(name)];
        assert_eq!(*dtype, DType::F32, "{name}");
        bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    /// The values of an integer tensor.
    pub fn integers(&self, name: &str) -> Vec<i64> {
        let (dtype, _, bytes) = &self.tensors[self.number(name)];
        match dtype {
            DType::I32 => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|&bytes| i64::from(i32::from_le_bytes(bytes)))
                .collect(),
            DType::I64 => {
                bytes.as_chunks::<8>().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect()
            }
            _ => panic!("{name} holds no integers: {dtype}"),
        }
    }

    fn number(&self, name: &str) -> usize {
        usize::from(*self.names.get(name).unwrap_or_else(|| panic!("no tensor {name}")))
    }
}

/// The values of a weight of these dimensions, `[n, channels, taps…]`, out of its panels in f32.
pub fn unpacked(dims: &[usize], packed: &[f32]) -> Vec<f32> {
    let sizes = Sizes { n: dims[0], channels: dims[1], taps: dims[2..].iter().product() };
    let bytes: Vec<u8> = packed.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut out = vec![0.0; dims.iter().product()];
    let (row, panel) = (sizes.channels * sizes.taps, bytes.len() / sizes.panels());
    for (number, data) in bytes.chunks_exact(panel).enumerate() {
        let first = number * PANEL;
        let out = &mut out[first * row..dims[0].min(first + PANEL) * row];
        let panel = Panel { data, scales: &[], groups: &[] };
        unpack_panel(Packing::F32, sizes, first, panel, out);
    }
    out
}

impl Weights for TestWeights {
    fn find(&mut self, name: &str, _expected: Shape) -> Result<Option<Weight>> {
        Ok(self.names.get(name).map(|&number| {
            let (dtype, dims, bytes) = &self.tensors[usize::from(number)];
            let shape = Shape::from_slice(dims).expect("at most four dimensions");
            // Where it begins is its number: an outer source may set the part.
            let begin = u64::from(number);
            Weight { dtype: *dtype, shape, part: 0, begin, bytes: bytes.len() }
        }))
    }

    fn contains(&mut self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    fn is_staged(&self) -> bool {
        self.staged
    }

    fn read<'a>(
        &'a mut self,
        weight: &Weight,
        start: usize,
        len: usize,
        staging: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        let (_, _, bytes) = &self.tensors[weight.begin as usize];
        let bytes = bytes.get(start..start + len).ok_or(Error::WeightRead)?;
        if !self.staged {
            return Ok(bytes);
        }
        let staging = staging.get_mut(..len).ok_or(Error::WeightRead)?;
        staging.copy_from_slice(bytes);
        Ok(staging)
    }
}

/// A block of memory aligned as the arena wants it, full of what a careless op would trip over.
pub struct Memory {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Memory {
    /// `len` bytes, each `dirt`. 0xFF makes every f32 a NaN.
    pub fn dirty(len: usize, dirt: u8) -> Self {
        let bytes = vec![dirt; len + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Self { bytes, start, len }
    }

    /// The memory itself.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Plans a walk, runs it in exactly the planned memory, and returns its result's values. The walk
/// must reach the planned peak, and one byte less must be an error.
///
/// # Panics
/// Where any of that does not hold, or the walk fails.
pub fn run(
    isa: Isa,
    executor: &dyn Executor,
    weights: &mut dyn Weights,
    walk: impl Fn(&mut Context<'_>) -> Result<Tensor>,
) -> (Vec<usize>, Vec<f32>) {
    run_with(&Limits::DEFAULT, isa, executor, weights, walk)
}

/// [`run()`] with work that is cut at other limits.
///
/// # Panics
/// As [`run()`].
pub fn run_with(
    limits: &Limits,
    isa: Isa,
    executor: &dyn Executor,
    weights: &mut dyn Weights,
    walk: impl Fn(&mut Context<'_>) -> Result<Tensor>,
) -> (Vec<usize>, Vec<f32>) {
    let planned = {
        let cx = Context::new(Arena::measuring(), isa, executor, weights);
        let mut cx = cx.with_limits(limits);
        walk(&mut cx).expect("the plan succeeds");
        cx.arena().peak()
    };
    let mut memory = Memory::dirty(planned, 0xFF);
    let result = {
        let cx = Context::new(Arena::new(memory.bytes()), isa, executor, weights);
        let mut cx = cx.with_limits(limits);
        let out = walk(&mut cx).expect("the walk succeeds in the planned memory");
        assert_eq!(cx.arena().peak(), planned, "planned bytes are peak bytes");
        (out.shape().as_slice().to_vec(), cx.arena().read(out).to_vec())
    };
    if planned > 0 {
        let mut memory = Memory::dirty(planned - 1, 0x7F);
        let cx = Context::new(Arena::new(memory.bytes()), isa, executor, weights);
        let mut cx = cx.with_limits(limits);
        let error = walk(&mut cx).expect_err("one byte less is an error");
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error:?}");
    }
    result
}

/// Limits so small that small sizes meet every cut; some as they are by default. Those that change
/// how sums are rounded stay.
pub fn small_limits(choices: &mut Choices) -> Limits {
    let mut small = |default: usize, from: &[usize]| match choices.below(4) {
        0 => default,
        _ => choices.pick(from),
    };
    let all = Limits::DEFAULT;
    Limits {
        least_shift_bytes: small(all.least_shift_bytes, &[1, 64, 200]),
        moved_bytes: small(all.moved_bytes, &[1, 7, 64]),
        elements: small(all.elements, &[1, 3, 16, 50]),
        activated_elements: small(all.activated_elements, &[1, 5, 16, 50]),
        converted_bytes: small(all.converted_bytes, &[1, 64, 300]),
        column_bytes: small(all.column_bytes, &[1, 2 << 10, 5 << 10]),
        row_bytes: small(all.row_bytes, &[1, 500, 2 << 10]),
        packed_bytes: small(all.packed_bytes, &[1, 6 << 10, 20 << 10]),
        tasks_per_worker: small(all.tasks_per_worker, &[1, 2, 3]),
        least_steps: small(all.least_steps, &[1, 64]),
        band_pixels: small(all.band_pixels, &[1, 10, 33, 100]),
        doubled_pixels: small(all.doubled_pixels, &[1, 6, 16, 24]),
        doubled_panels: small(all.doubled_panels, &[1, 2, 3]),
        doubled_run: small(all.doubled_run, &[1, 2, 5]),
        spread_pixels: small(all.spread_pixels, &[1, 10, 33, 100]),
        pointwise_rows: small(all.pointwise_rows, &[1, 5, 16]),
        ready_rows: small(all.ready_rows, &[1, 2, 5, 16]),
        normalised_elements: small(all.normalised_elements, &[1, 30, 200]),
        near_elements: small(all.near_elements, &[1, 30, 100]),
        replaced_elements: small(all.replaced_elements, &[1, 30, 100]),
        joined_elements: small(all.joined_elements, &[1, 30, 100]),
        attended_bytes: small(all.attended_bytes, &[1, 20 << 10, 50 << 10]),
        few_key_bytes: small(all.few_key_bytes, &[1, 500, 3 << 10]),
        feed_forward_rows: small(all.feed_forward_rows, &[1, 5, 16]),
        feed_forward_parts: small(all.feed_forward_parts, &[1, 2, 3]),
        ..all
    }
}

/// The bytes of arena that a walk needs.
///
/// # Errors
/// The walk's.
pub fn plan(
    isa: Isa,
    executor: &dyn Executor,
    weights: &mut dyn Weights,
    walk: impl Fn(&mut Context<'_>) -> Result<Tensor>,
) -> Result<usize> {
    let mut cx = Context::new(Arena::measuring(), isa, executor, weights);
    walk(&mut cx)?;
    Ok(cx.arena().peak())
}

/// Panics unless every value is within `tolerance · max(1, |expected|)` of what is expected.
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    for (i, (&a, &b)) in found.iter().zip(expected).enumerate() {
        let limit = tolerance * b.abs().max(1.0);
        assert!((a - b).abs() <= limit, "{what}[{i}]: found {a}, expected {b} within {limit}");
    }
}

/// The tensors of a safetensors file, in memory.
///
/// # Panics
/// Where the file cannot be read: a test without its golden has failed.
pub fn safetensors(path: &Path) -> TestWeights {
    let mut weights = TestWeights::default();
    add_safetensors(&mut weights, "", path);
    weights
}

/// Adds the tensors of a safetensors file, with `prefix` before their names. The reference
/// implementation reads it, not ours.
///
/// # Panics
/// As [`safetensors()`].
pub fn add_safetensors(weights: &mut TestWeights, prefix: &str, path: &Path) {
    let file = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tensors = SafeTensors::deserialize(&file).expect("a good file");
    for (name, view) in tensors.iter() {
        let dtype = DType::from_name(view.dtype().to_string().as_bytes()).expect("a known type");
        weights.push_bytes(&format!("{prefix}{name}"), dtype, view.shape(), view.data().to_vec());
    }
}

/// A JSON file.
///
/// # Panics
/// Where it cannot be read.
pub fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
