//! A sampler is a table of numbers: a few [`Row`]s a step, computed from the schedule alone.
//!
//! The pipeline walks the rows. For each it scales x, calls the network, forms the denoised picture,
//! clips it as the prediction says, draws noise if the row wants some, and carries out the row's
//! updates in order. No sampler ever sees a tensor, and no tensor code ever sees a sigma.

/// Tensors of x's shape that a sampler may keep between evaluations.
pub const HISTORY: usize = 4;

/// The most updates in one row: UniPC corrects x, keeps it, and predicts.
pub const UPDATES: usize = 4;

/// What an update reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The sample itself.
    X,
    /// A kept tensor, below [`HISTORY`].
    History(u8),
}

/// `into <- x*X + output*OUT + denoised*D + noise*N + sum(history[k]*H[k])`, reading the values as they
/// are when the update begins (earlier updates of the same row have taken place).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Where the result goes.
    pub into: Slot,
    /// Coefficient of the sample.
    pub x: f32,
    /// Coefficient of the network's output as it came (guidance included).
    pub output: f32,
    /// Coefficient of the denoised picture, clipped where the prediction clips.
    pub denoised: f32,
    /// Coefficient of fresh standard normal noise; the same draw for every update of the row.
    pub noise: f32,
    /// Coefficients of the kept tensors. A slot that was never written has coefficient 0.
    pub history: [f32; HISTORY],
}

/// One evaluation of the network and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The time the network is told.
    pub timestep: f32,
    /// Which step this evaluation belongs to, from 0 (Heun takes two rows a step).
    pub step: u16,
    /// x is multiplied by this on its way into the network.
    pub input_scale: f32,
    /// `denoised = denoised_x*x + denoised_output*output`, before clipping.
    pub denoised_x: f32,
    /// See [`Row::denoised_x`].
    pub denoised_output: f32,
    /// Whether noise is drawn at this row (the draw happens even where its coefficient is 0, so that
    /// the stream of random numbers stays the one diffusers consumes).
    pub draws_noise: bool,
    /// Where the variance is learned (`learned_range`): the noise's coefficient becomes, at each
    /// element, `exp((v*max + (1 - v)*min)/2)` with `v = (u + 1)/2`, `u` the output's second half.
    pub learned_log_variance: Option<[f32; 2]>,
    /// The first `update_count` are carried out, in order.
    pub updates: [Update; UPDATES],
    /// How many updates there are.
    pub update_count: u8,
}
