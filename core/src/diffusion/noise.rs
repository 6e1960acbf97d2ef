//! Standard normal noise from a seed: the same values on every machine, whatever its libm.
//!
//! Besides mote's own generator there are the two that pictures on the net were made with:
//! PyTorch's on the CPU and, as the web interfaces imitate it, PyTorch's on CUDA.

use core::f64::consts::PI;

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64;

/// Which stream of random numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoiseKind {
    /// PCG XSL RR 128/64 (O'Neill 2014) with the Box-Muller transform in f64.
    #[default]
    Pcg,
    /// PyTorch's CPU generator: `torch.randn` after `torch.manual_seed`.
    TorchCpu,
    /// PyTorch's CUDA generator, as the web interfaces imitate it.
    TorchCuda,
}

/// A generator of standard normal noise.
///
/// ```
/// use mote::diffusion::noise::{Noise, NoiseKind};
///
/// let mut values = [0.0; 16];
/// Noise::new(NoiseKind::TorchCpu, 0).fill(&mut values);
/// assert_eq!(values[0], -1.1258398);
/// ```
#[derive(Clone, Debug)]
pub struct Noise(Generator);

#[allow(clippy::large_enum_variant, reason = "without an allocator all of them lie inline")]
#[derive(Clone, Debug)]
enum Generator {
    Pcg(Pcg64),
    TorchCpu(TorchCpu),
    TorchCuda(TorchCuda),
}

impl Noise {
    /// A generator at the start of its stream.
    pub fn new(kind: NoiseKind, seed: u64) -> Self {
        Noise(match kind {
            NoiseKind::Pcg => Generator::Pcg(Pcg64::seed_from_u64(seed)),
            NoiseKind::TorchCpu => Generator::TorchCpu(TorchCpu::new(seed)),
            NoiseKind::TorchCuda => Generator::TorchCuda(TorchCuda { seed, offset: 0 }),
        })
    }

    /// Fills `out` with standard normal values. One call is one `torch.randn`: for the two
    /// generators of PyTorch, two calls differ from one call of both lengths.
    pub fn fill(&mut self, out: &mut [f32]) {
        match &mut self.0 {
            Generator::Pcg(pcg) => fill_pcg(pcg, out),
            Generator::TorchCpu(torch) => torch.fill(out),
            Generator::TorchCuda(torch) => torch.fill(out),
        }
    }
}

/// Pairs of values by Box & Muller (1958): radius from the first uniform, angle from the second. A
/// value left over at an odd end is dropped.
fn fill_pcg(pcg: &mut Pcg64, out: &mut [f32]) {
    for pair in out.chunks_mut(2) {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - unit_f64(pcg.next_u64())));
        let angle = 2.0 * PI * unit_f64(pcg.next_u64());
        let values = [radius * libm::cos(angle), radius * libm::sin(angle)];
        for (out, value) in pair.iter_mut().zip(values) {
            *out = value as f32;
        }
    }
}

/// The low 53 bits as a number in 0..1.
fn unit_f64(bits: u64) -> f64 {
    (bits & ((1 << 53) - 1)) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Values that PyTorch transforms together.
const BLOCK: usize = 16;

/// PyTorch's CPU generator: MT19937 (Matsumoto & Nishimura 1998) with two ways to a normal value,
/// by how many are asked for.
#[derive(Clone, Debug)]
struct TorchCpu {
    twister: Mt19937,
    /// The sine half of the last pair that a short call drew, kept for the next short call.
    spare: Option<f64>,
}

impl TorchCpu {
    fn new(seed: u64) -> Self {
        // PyTorch drops the seed's high half.
        TorchCpu { twister: Mt19937::new(seed as u32), spare: None }
    }

    fn fill(&mut self, out: &mut [f32]) {
        if out.len() < BLOCK {
            out.iter_mut().for_each(|out| *out = self.next_short());
            return;
        }
        for value in out.iter_mut() {
            *value = self.twister.next_unit_f32();
        }
        for block in out.chunks_exact_mut(BLOCK) {
            transform(block);
        }
        if !out.len().is_multiple_of(BLOCK) {
            let start = out.len() - BLOCK;
            let tail = &mut out[start..];
            for value in tail.iter_mut() {
                *value = self.twister.next_unit_f32();
            }
            transform(tail);
        }
    }

    fn next_short(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare as f32;
        }
        let angle = 2.0 * PI * unit_f64(self.twister.next_u64());
        let radius = libm::sqrt(-2.0 * libm::log1p(-unit_f64(self.twister.next_u64())));
        self.spare = Some(radius * libm::sin(angle));
        (radius * libm::cos(angle)) as f32
    }
}

/// Sixteen uniforms in 0..1 become sixteen normals: the first eight are radii, the others angles.
fn transform(block: &mut [f32]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (first, second) in radii.iter_mut().zip(angles) {
        let radius = libm::sqrtf(-2.0 * libm::logf(1.0 - *first));
        let angle = 2.0 * core::f32::consts::PI * *second;
        *first = radius * libm::cosf(angle);
        *second = radius * libm::sinf(angle);
    }
}

const MT_WORDS: usize = 624;
const MT_SHIFT: usize = 397;

/// The Mersenne Twister MT19937.
#[derive(Clone, Debug)]
struct Mt19937 {
    state: [u32; MT_WORDS],
    /// The next word to hand out; past the end, the state is renewed first.
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = [seed; MT_WORDS];
        for i in 1..MT_WORDS {
            let before = state[i - 1];
            state[i] =
                1_812_433_253_u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        Mt19937 { state, next: MT_WORDS }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == MT_WORDS {
            self.renew();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Two words, the first one high.
    fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        high << 32 | u64::from(self.next_u32())
    }

    /// The low 24 bits as a number in 0..1.
    fn next_unit_f32(&mut self) -> f32 {
        (self.next_u32() & 0xff_ffff) as f32 * (1.0 / 16_777_216.0)
    }

    fn renew(&mut self) {
        for i in 0..MT_WORDS {
            let next = self.state[(i + 1) % MT_WORDS];
            let mixed = (self.state[i] & 0x8000_0000) | (next & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + MT_SHIFT) % MT_WORDS] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }
}

/// PyTorch's CUDA generator: Philox4x32-10 (Salmon et al. 2011), one counter for each value.
#[derive(Clone, Debug)]
struct TorchCuda {
    seed: u64,
    /// Calls so far.
    offset: u32,
}

impl TorchCuda {
    fn fill(&mut self, out: &mut [f32]) {
        // 2^-32 of a turn. The web interfaces hold this constant in f32.
        const TURN: f64 = (core::f64::consts::TAU / 4_294_967_296.0) as f32 as f64;
        const UNIT: f64 = 1.0 / 4_294_967_296.0;
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        for (i, out) in out.iter_mut().enumerate() {
            let [x, y, ..] = philox([self.offset, 0, i as u32, 0], key);
            let u = f64::from(x) * UNIT + UNIT / 2.0;
            let v = f64::from(y) * TURN + TURN / 2.0;
            *out = (libm::sqrt(-2.0 * libm::log(u)) * libm::sin(v)) as f32;
        }
        self.offset = self.offset.wrapping_add(1);
    }
}

/// Ten rounds of Philox4x32.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key[0] = key[0].wrapping_add(0x9e37_79b9);
            key[1] = key[1].wrapping_add(0xbb67_ae85);
        }
        let a = u64::from(counter[0]) * 0xd251_1f53;
        let b = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
    }
    counter
}
