//! Every sampler's table, walked on plain slices: against the figures of diffusers' own tests,
//! against diffusers step by step, and for what must hold or be refused whatever the numbers.
//! Beside them what a table builds on: schedules, clipping, guidance.

use mote::Error;
use mote::diffusion::guidance::{classifier_free_guidance, rescaled_guidance};
use mote::diffusion::noise::{Noise, NoiseKind};
use mote::diffusion::prediction::{Clipping, Prediction};
use mote::diffusion::sampler::{
    Algorithm, Ddim, Ddpm, Dpm2, DpmSolver, Euler, EulerAncestral, HISTORY, Heun, Lcm, Lms, Pndm,
    Row, Sampler, Slot, SolverType, Stepping, UniPc, UniPcSolver, Variance, history_count,
    start_step,
};
use mote::diffusion::schedule::{
    BetaSchedule, FinalSigma, MAX_TRAIN_TIMESTEPS, Schedule, ScheduleConfig, SigmaKind, Spacing,
};

use mote_host::config::scheduler::{self, SchedulerConfig};
use mote_tests::{json, shared};
use safetensors::SafeTensors;

/// Pictures in the figures' batch.
const BATCH: usize = 4;
/// Values of the figures' batch, (4, 3, 8, 8).
const LEN: usize = 768;

/// The figures' first sample: counted along the batch first.
fn dummy_sample() -> Vec<f32> {
    (0..LEN).map(|i| ((i % 192) * BATCH + i / 192) as f32 / LEN as f32).collect()
}

/// The figures' noise: the same, counted down.
fn dummy_noise() -> Vec<f32> {
    let at = |i: usize| (LEN - 1 - ((i % 192) * BATCH + i / 192)) as f32 / LEN as f32;
    (0..LEN).map(at).collect()
}

/// The figures' network.
fn dummy_model(x: &[f32], t: f32) -> Vec<f32> {
    x.iter().map(|x| x * t / (t + 1.0)).collect()
}

/// Noise from a generator.
fn drawn(kind: NoiseKind, seed: u64) -> impl FnMut(&mut [f32]) {
    let mut noise = Noise::new(kind, seed);
    move |out| noise.fill(out)
}

/// Carries out the rows on x, which is `batch` pictures.
struct Walk<'a> {
    batch: usize,
    clipping: Clipping,
    /// Draws noise for the rows that want some.
    noise: &'a mut dyn FnMut(&mut [f32]),
    /// Whether x itself is scaled on its way into the network, as diffusers' own tests do.
    scales_x: bool,
    model: &'a dyn Fn(&[f32], f32) -> Vec<f32>,
    /// Called after each row.
    after: &'a mut dyn FnMut(&Row, &[f32]),
}

impl Walk<'_> {
    fn run(mut self, rows: &[Row], x: &mut Vec<f32>) {
        let mut history = vec![vec![0.0_f32; x.len()]; history_count(rows)];
        for row in rows {
            let scaled: Vec<f32> = x.iter().map(|x| x * row.input_scale).collect();
            let output = (self.model)(&scaled, row.timestep);
            if self.scales_x {
                x.clone_from(&scaled);
            }
            let (output, learned) = output.split_at(x.len());
            let denoised = self.denoised(row, x, output);
            let noise = self.noise(row, x.len(), learned);
            for update in row.updates() {
                let at = |i: usize| {
                    let kept = history.iter().zip(update.history).map(|(h, c)| c * h[i]);
                    update.x * x[i]
                        + update.output * output[i]
                        + update.denoised * denoised[i]
                        + update.noise * noise[i]
                        + kept.sum::<f32>()
                };
                let result = (0..x.len()).map(at).collect();
                match update.into {
                    Slot::X => *x = result,
                    Slot::History(slot) => history[usize::from(slot)] = result,
                }
            }
            (self.after)(row, x);
        }
    }

    fn denoised(&self, row: &Row, x: &[f32], output: &[f32]) -> Vec<f32> {
        let both = x.iter().zip(output);
        let mut denoised: Vec<f32> =
            both.map(|(x, o)| row.denoised_x * x + row.denoised_output * o).collect();
        let mut scratch = vec![0.0; x.len() / self.batch];
        for picture in denoised.chunks_mut(x.len() / self.batch) {
            self.clipping.apply(picture, &mut scratch).unwrap();
        }
        denoised
    }

    fn noise(&mut self, row: &Row, len: usize, learned: &[f32]) -> Vec<f32> {
        let mut noise = vec![0.0; len];
        if row.draws_noise {
            (self.noise)(&mut noise);
        }
        if let Some([min, max]) = row.learned_log_variance {
            for (noise, u) in noise.iter_mut().zip(learned) {
                let v = (u + 1.0) / 2.0;
                *noise *= ((v * max + (1.0 - v) * min) / 2.0).exp();
            }
        }
        noise
    }
}

/// A figure's set-up: the defaults of diffusers' tests, to be changed field by field.
#[derive(Clone, Copy)]
struct Figure<'a> {
    sampler: Sampler<'a>,
    schedule: ScheduleConfig<'a>,
    prediction: Prediction,
    clipping: Clipping,
    steps: usize,
    /// Begin with noise added at this step.
    noised_at: Option<usize>,
}

impl<'a> Figure<'a> {
    fn new(sampler: Sampler<'a>) -> Self {
        let schedule =
            ScheduleConfig { beta_start: 1e-4, beta_end: 0.02, ..sampler.default_schedule() };
        let clipping = sampler.default_clipping();
        let (prediction, noised_at) = (Prediction::Epsilon, None);
        Figure { sampler, schedule, prediction, clipping, steps: 10, noised_at }
    }

    /// Times of the samplers in sigma: 1100.
    fn trained_on_1100(mut self) -> Self {
        self.schedule.num_train_timesteps = 1100;
        self
    }

    fn v(mut self) -> Self {
        self.prediction = Prediction::VPrediction;
        self
    }

    fn karras(mut self) -> Self {
        self.schedule.sigmas = SigmaKind::Karras;
        self
    }

    fn noised_at(mut self, step: usize) -> Self {
        self.noised_at = Some(step);
        self
    }

    fn is_in_sigma(&self) -> bool {
        self.schedule.num_train_timesteps == 1100
    }

    fn run(self) -> (f64, f64) {
        let mut memory = vec![0.0; self.schedule.num_train_timesteps];
        let schedule = Schedule::new(self.schedule, &mut memory).unwrap();
        let start = self.noised_at.unwrap_or(0);
        let mut rows = vec![Row::EMPTY; self.sampler.row_count(self.steps, start)];
        let count =
            self.sampler.rows(&schedule, self.prediction, self.steps, start, &mut rows).unwrap();
        assert_eq!(count, rows.len());
        let init = self.sampler.init_noise_sigma(&schedule, self.steps).unwrap();
        let mut x: Vec<f32> = dummy_sample().iter().map(|x| x * init).collect();
        if self.noised_at.is_some() {
            let [a, b] = self.sampler.start_scales(&schedule, self.steps, start).unwrap();
            x = x.iter().zip(dummy_noise()).map(|(x, n)| a * x + b * n).collect();
        }
        let walk = Walk {
            batch: BATCH,
            clipping: self.sampler.clipping(self.clipping),
            noise: &mut drawn(NoiseKind::TorchCpu, 0),
            scales_x: self.is_in_sigma(),
            model: &dummy_model,
            after: &mut |_, _| {},
        };
        walk.run(&rows, &mut x);
        let sum = x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
        (sum, sum / LEN as f64)
    }

    #[track_caller]
    fn gives(self, expected_sum: f64, expected_mean: f64) {
        let (sum, mean) = self.run();
        // The largest sums are of numbers that f32 tells apart by more than the figures' 1e-2.
        let tolerance = (expected_sum * 3e-7).max(1e-2);
        assert!((sum - expected_sum).abs() < tolerance, "sum {sum}, expected {expected_sum}");
        assert!((mean - expected_mean).abs() < 1e-3, "mean {mean}, expected {expected_mean}");
    }

    #[track_caller]
    fn gives_mean(self, expected: f64) {
        let (_, mean) = self.run();
        assert!((mean - expected).abs() < 1e-3, "mean {mean}, expected {expected}");
    }
}

#[test]
fn ddpm_gives_the_figures_of_diffusers() {
    let ddpm = Figure { steps: 1000, ..Figure::new(Sampler::Ddpm(Ddpm::default())) };
    ddpm.gives(258.9606, 0.3372);
    ddpm.v().gives(202.0296, 0.2631);
    ddpm.noised_at(998).gives(387.9466, 0.5051);
}

#[test]
fn ddim_gives_the_figures_of_diffusers() {
    let ddim = Figure::new(Sampler::Ddim(Ddim::default()));
    ddim.gives(172.0067, 0.223967);
    ddim.v().gives(52.5302, 0.0684);
    ddim.noised_at(8).gives(354.5418, 0.4616);
    let mut steep = ddim;
    steep.schedule.beta_start = 0.01;
    steep.gives(149.8295, 0.1951);
    steep.schedule.set_alpha_to_one = false;
    steep.gives(149.0784, 0.1941);
}

#[test]
fn pndm_gives_the_figures_of_diffusers() {
    let pndm = Figure::new(Sampler::Pndm(Pndm { skip_prk_steps: false }));
    pndm.gives(198.1318, 0.2580);
    pndm.v().gives(67.3986, 0.0878);
    let mut steep = pndm;
    steep.schedule.beta_start = 0.01;
    steep.gives(186.9482, 0.2434);
    steep.schedule.set_alpha_to_one = true;
    steep.gives(230.0399, 0.2995);
}

#[test]
fn euler_gives_the_figures_of_diffusers() {
    let euler = Figure::new(Sampler::Euler(Euler::default())).trained_on_1100();
    euler.gives(10.0807, 0.0131);
    euler.karras().gives(124.522995, 0.162139);
    euler.noised_at(8).gives(57062.9297, 74.3007);
}

#[test]
fn euler_ancestral_gives_the_figures_of_diffusers() {
    let euler = Figure::new(Sampler::EulerAncestral(EulerAncestral)).trained_on_1100();
    euler.gives(152.3192, 0.1983);
    euler.v().gives(108.4439, 0.1412);
    euler.noised_at(8).gives(56163.0508, 73.1290);
}

#[test]
fn heun_gives_the_figures_of_diffusers() {
    let heun = Figure::new(Sampler::Heun(Heun)).trained_on_1100();
    heun.gives(0.1233, 0.0002);
    heun.noised_at(8).gives(75074.8906, 97.7538);
}

#[test]
fn lms_gives_the_figures_of_diffusers() {
    let lms = Figure::new(Sampler::Lms(Lms)).trained_on_1100();
    lms.gives(1006.388, 1.31);
    lms.karras().gives(3812.9927, 4.9648);
    lms.noised_at(8).gives(27663.6895, 36.0204);
}

#[test]
fn dpm_solver_gives_the_figures_of_diffusers() {
    let solver = DpmSolver {
        lower_order_final: false,
        final_sigma: FinalSigma::SigmaMin,
        ..DpmSolver::default()
    };
    let solver = Figure::new(Sampler::DpmSolver(solver));
    solver.gives_mean(0.3301);
    solver.v().gives_mean(0.2251);
    solver.v().karras().gives_mean(0.2096);
    let clipping = Clipping::DynamicThreshold { ratio: 0.87, max: 0.5 };
    Figure { clipping, ..solver }.gives_mean(1.1364);
    solver.noised_at(5).gives(318.4111, 0.4146);
}

#[test]
fn unipc_gives_the_figures_of_diffusers() {
    let unipc = UniPc { final_sigma: FinalSigma::SigmaMin, ..UniPc::default() };
    let unipc = Figure::new(Sampler::UniPc(unipc));
    unipc.gives_mean(0.2464);
    unipc.karras().gives_mean(0.2925);
    unipc.v().gives_mean(0.1014);
    unipc.v().karras().gives_mean(0.1966);
    unipc.noised_at(8).gives(315.5757, 0.4109);
}

#[test]
fn lcm_gives_the_figures_of_diffusers() {
    let sampler = Sampler::Lcm(Lcm::default());
    let lcm = Figure { schedule: sampler.default_schedule(), ..Figure::new(sampler) };
    Figure { steps: 1, ..lcm }.gives(18.7097, 0.0244);
    lcm.gives(197.7616, 0.2575);
}

/// One line of ../golden/samplers/cases.txt.
struct Case<'a> {
    line: &'a str,
    settings: Vec<(&'a str, &'a str)>,
}

impl<'a> Case<'a> {
    fn new(line: &'a str) -> Self {
        let pair = |word: &'a str| word.split_once('=').expect("key=value");
        Case { line, settings: line.split(' ').map(pair).collect() }
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.settings.iter().find(|(k, _)| *k == key).map(|(_, value)| *value)
    }

    fn number(&self, key: &str, or: f64) -> f64 {
        self.text(key).map_or(or, |v| v.parse().unwrap())
    }

    fn flag(&self, key: &str, or: bool) -> bool {
        self.text(key).map_or(or, |v| v == "True")
    }

    fn final_sigma(&self) -> FinalSigma {
        match self.text("final_sigmas_type") {
            Some("sigma_min") => FinalSigma::SigmaMin,
            _ => FinalSigma::Zero,
        }
    }

    fn sampler<'s>(&self, disabled: &'s [usize]) -> Sampler<'s> {
        let (order, last) = (self.number("solver_order", 2.0) as usize, self.final_sigma());
        let lower_order_final = self.flag("lower_order_final", true);
        match self.text("sampler").unwrap() {
            "ddpm" => Sampler::Ddpm(Ddpm {
                variance: match self.text("variance_type") {
                    Some("fixed_large") => Variance::FixedLarge,
                    Some("learned_range") => Variance::LearnedRange,
                    _ => Variance::FixedSmall,
                },
            }),
            "ddim" => Sampler::Ddim(Ddim { eta: self.number("eta", 0.0) }),
            "pndm" => Sampler::Pndm(Pndm { skip_prk_steps: self.flag("skip_prk_steps", false) }),
            "euler" => Sampler::Euler(Euler { final_sigma: last }),
            "euler_a" => Sampler::EulerAncestral(EulerAncestral),
            "heun" => Sampler::Heun(Heun),
            "dpm2" => Sampler::Dpm2(Dpm2),
            "lms" => Sampler::Lms(Lms),
            "dpm_solver" => Sampler::DpmSolver(DpmSolver {
                solver_order: order,
                algorithm: match self.text("algorithm_type") {
                    Some("sde-dpmsolver++") => Algorithm::Sde,
                    _ => Algorithm::Ode,
                },
                solver_type: match self.text("solver_type") {
                    Some("heun") => SolverType::Heun,
                    _ => SolverType::Midpoint,
                },
                lower_order_final,
                euler_at_final: self.flag("euler_at_final", false),
                final_sigma: last,
            }),
            "unipc" => Sampler::UniPc(UniPc {
                solver_order: order,
                solver: match self.text("solver_type") {
                    Some("bh1") => UniPcSolver::Bh1,
                    _ => UniPcSolver::Bh2,
                },
                lower_order_final,
                disable_corrector: disabled,
                final_sigma: last,
            }),
            "lcm" => Sampler::Lcm(Lcm {
                original_inference_steps: self.number("original_inference_steps", 50.0) as usize,
                timestep_scaling: self.number("timestep_scaling", 10.0),
            }),
            other => panic!("no sampler is called {other}"),
        }
    }

    fn schedule(&self, default: ScheduleConfig<'static>) -> ScheduleConfig<'static> {
        ScheduleConfig {
            beta_start: self.number("beta_start", default.beta_start),
            beta_end: self.number("beta_end", default.beta_end),
            beta_schedule: match self.text("beta_schedule") {
                Some("scaled_linear") => BetaSchedule::ScaledLinear,
                Some("squaredcos_cap_v2") => BetaSchedule::SquaredcosCapV2,
                Some("sigmoid") => BetaSchedule::Sigmoid,
                _ => default.beta_schedule,
            },
            rescale_betas_zero_snr: self.flag("rescale_betas_zero_snr", false),
            timestep_spacing: match self.text("timestep_spacing") {
                Some("leading") => Spacing::Leading,
                Some("linspace") => Spacing::Linspace,
                Some("trailing") => Spacing::Trailing,
                _ => default.timestep_spacing,
            },
            steps_offset: self.number("steps_offset", 0.0) as usize,
            set_alpha_to_one: self.flag("set_alpha_to_one", default.set_alpha_to_one),
            sigmas: match self.flag("use_karras_sigmas", false) {
                true => SigmaKind::Karras,
                false if self.flag("use_exponential_sigmas", false) => SigmaKind::Exponential,
                false => SigmaKind::Discrete,
            },
            sigma_min: self.text("sigma_min").map(|v| v.parse().unwrap()),
            sigma_max: self.text("sigma_max").map(|v| v.parse().unwrap()),
            lambda_min_clipped: self.number("lambda_min_clipped", f64::NEG_INFINITY),
            ..default
        }
    }

    fn clipping(&self, default: Clipping) -> Clipping {
        if self.flag("thresholding", false) {
            let ratio = self.number("dynamic_thresholding_ratio", 0.995) as f32;
            return Clipping::DynamicThreshold {
                ratio,
                max: self.number("sample_max_value", 1.0) as f32,
            };
        }
        let range = self.number("clip_sample_range", 1.0) as f32;
        match self.flag("clip_sample", default != Clipping::None) {
            true => Clipping::Clip { range },
            false => Clipping::None,
        }
    }

    fn prediction(&self) -> Prediction {
        match self.text("prediction_type") {
            Some("v_prediction") => Prediction::VPrediction,
            Some("sample") => Prediction::Sample,
            _ => Prediction::Epsilon,
        }
    }

    /// Walks the sampling beside diffusers' and returns the largest difference, relative to the
    /// largest value so far: diffusers rounds to f32 where it takes large numbers from each other.
    fn largest_difference(&self, expected: &[[f32; 16]]) -> f64 {
        let disabled = self.text("disable_corrector").map_or(vec![], |list| {
            list.split(',').map(|v| v.parse().unwrap()).collect::<Vec<usize>>()
        });
        let sampler = self.sampler(&disabled);
        let config = self.schedule(sampler.default_schedule());
        let mut memory = vec![0.0; config.num_train_timesteps];
        let schedule = Schedule::new(config, &mut memory).unwrap();
        let (steps, start) =
            (self.number("steps", 0.0) as usize, self.number("start", 0.0) as usize);
        let mut rows = vec![Row::EMPTY; sampler.row_count(steps, start)];
        let count = sampler.rows(&schedule, self.prediction(), steps, start, &mut rows);
        let count = count.unwrap_or_else(|error| panic!("{}: {error}", self.line));
        assert_eq!(count, expected.len(), "{}", self.line);

        let noise = (0..16).map(|i| i as f32 / 8.0 - 1.0);
        let mut x: Vec<f32> = if start == 0 {
            let init = sampler.init_noise_sigma(&schedule, steps).unwrap();
            noise.map(|n| n * init).collect()
        } else {
            let [a, b] = sampler.start_scales(&schedule, steps, start).unwrap();
            let picture = (0..16).map(|i| (i * 7 % 16) as f32 / 16.0 - 0.5);
            picture.zip(noise).map(|(x, n)| a * x + b * n).collect()
        };
        let doubled = self.text("variance_type") == Some("learned_range");
        let (mut largest, mut steps) = (0.0_f64, expected.iter());
        let mut size = x.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let walk = Walk {
            batch: 2,
            clipping: sampler.clipping(self.clipping(sampler.default_clipping())),
            noise: &mut drawn(NoiseKind::TorchCpu, 5),
            scales_x: false,
            model: &|x, t| bounded_model(x, t, doubled),
            after: &mut |_, x| {
                let expected = steps.next().unwrap();
                size = expected.iter().fold(size, |m, v| m.max(v.abs()));
                let worst = x.iter().zip(expected).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(worst.is_finite(), "{}", self.line);
                largest = largest.max(f64::from(worst) / f64::from(size));
            },
        };
        walk.run(&rows[..count], &mut x);
        largest
    }
}

/// The network of the golden samplings.
fn bounded_model(x: &[f32], t: f32, doubled: bool) -> Vec<f32> {
    let soft: Vec<f32> = x.iter().map(|x| x / (1.0 + x.abs())).collect();
    let mut output: Vec<f32> = soft.iter().map(|s| s * ((t + 1.0) / (t + 500.0)) + 0.1).collect();
    if doubled {
        output.extend(soft);
    }
    output
}

/// Some units in the last place of f32. In two steps across all noise levels, slopes are
/// differences of near numbers over a small sigma, and both sides lose digits.
fn tolerance(steps: usize) -> f64 {
    if steps <= 2 { 2e-5 } else { 2e-6 }
}

#[test]
fn every_sampling_follows_diffusers_step_by_step() {
    let cases = include_str!("../golden/samplers/cases.txt");
    let values = include_bytes!("../golden/samplers/steps.f32").as_chunks::<64>().0;
    let mut values = values.iter().map(|row| {
        let floats = row.as_chunks::<4>().0;
        std::array::from_fn::<f32, 16, _>(|i| f32::from_le_bytes(floats[i]))
    });
    let mut wrong = 0;
    for line in cases.lines() {
        let case = Case::new(line);
        let count = case.number("rows", 0.0) as usize;
        let expected: Vec<_> = values.by_ref().take(count).collect();
        let difference = case.largest_difference(&expected);
        if difference > tolerance(case.number("steps", 0.0) as usize) {
            wrong += 1;
            println!("{difference:.1e} {line}");
        }
    }
    assert!(values.next().is_none(), "values are left over");
    assert_eq!(wrong, 0, "samplings differ");
}

/// A schedule of the given configuration, handed to `use_it`.
fn with_schedule<T>(config: ScheduleConfig, use_it: impl FnOnce(&Schedule) -> T) -> T {
    let mut memory = vec![0.0; config.num_train_timesteps];
    use_it(&Schedule::new(config, &mut memory).unwrap())
}

fn table(sampler: Sampler, schedule: &Schedule, p: Prediction, steps: usize) -> Vec<Row> {
    let mut rows = vec![Row::EMPTY; sampler.row_count(steps, 0)];
    let count = sampler.rows(schedule, p, steps, 0, &mut rows).unwrap();
    rows.truncate(count);
    rows
}

const CURVES: [BetaSchedule; 4] = [
    BetaSchedule::Linear,
    BetaSchedule::ScaledLinear,
    BetaSchedule::SquaredcosCapV2,
    BetaSchedule::Sigmoid,
];

#[test]
fn noise_only_grows_and_never_quite_hides_the_picture() {
    for beta_schedule in CURVES {
        with_schedule(ScheduleConfig { beta_schedule, ..Default::default() }, |schedule| {
            let alphas = schedule.alphas_cumprod();
            assert!(alphas.is_sorted_by(|a, b| a > b), "{beta_schedule:?}");
            assert!(alphas[0] < 1.0 && alphas[999] > 0.0);
        });
    }
}

#[test]
fn with_zero_snr_the_last_time_is_pure_noise_and_the_first_stays() {
    for beta_schedule in CURVES {
        let config = ScheduleConfig { beta_schedule, ..Default::default() };
        let first = with_schedule(config, |schedule| schedule.alphas_cumprod()[0]);
        let config = ScheduleConfig { rescale_betas_zero_snr: true, ..config };
        with_schedule(config, |schedule| {
            assert_eq!(schedule.forward(999).unwrap(), [0.0, 1.0]);
            assert_eq!(schedule.snr(999).unwrap(), 0.0);
            assert!((schedule.alphas_cumprod()[0] - first).abs() < 1e-6);
        });
    }
}

#[test]
fn the_forward_process_keeps_variance_one() {
    with_schedule(ScheduleConfig::default(), |schedule| {
        for t in 0..1000 {
            let [a, b] = schedule.forward(t).unwrap();
            assert!((a * a + b * b - 1.0).abs() < 1e-6);
        }
        let mut out = [0.0; 2];
        schedule.add_noise(500, &[1.0, 0.0], &[0.0, 1.0], &mut out).unwrap();
        assert_eq!(out, schedule.forward(500).unwrap());
        let short = schedule.add_noise(500, &[1.0], &[0.0, 1.0], &mut out);
        assert!(matches!(short, Err(Error::Shape { .. })));
        assert!(matches!(schedule.forward(1000), Err(Error::Index { .. })));
    });
}

#[test]
fn the_posterior_variance_is_the_figure_of_diffusers() {
    with_schedule(ScheduleConfig::default(), |schedule| {
        for (t, expected) in [(0, 0.0), (487, 0.00979), (999, 0.02)] {
            let posterior = schedule.posterior(t, t.checked_sub(1)).unwrap();
            assert!((posterior.variance - expected).abs() < 1e-5);
        }
    });
}

#[test]
fn the_posterior_of_a_step_undoes_it_on_average() {
    // E[x_s | x_0] from E[x_t | x_0] by the posterior's mean is what the forward process says.
    with_schedule(ScheduleConfig::default(), |schedule| {
        for (t, s) in [(60, 30), (500, 480), (999, 900)] {
            let posterior = schedule.posterior(t, Some(s)).unwrap();
            let [a_t, b_t] = schedule.forward(t).unwrap();
            let [a_s, b_s] = schedule.forward(s).unwrap();
            assert!((posterior.x0 + posterior.xt * a_t - a_s).abs() < 1e-5);
            let variance = posterior.variance + (posterior.xt * b_t).powi(2);
            assert!((variance - b_s * b_s).abs() < 1e-5);
        }
    });
}

#[test]
fn ddim_with_all_noise_is_ddpm() {
    // x0, the noise and x are dependent: compare what the steps make of x and of the output.
    with_schedule(ScheduleConfig::default(), |schedule| {
        for prediction in [Prediction::Epsilon, Prediction::VPrediction, Prediction::Sample] {
            let ddim = table(Sampler::Ddim(Ddim { eta: 1.0 }), schedule, prediction, 50);
            let ddpm = table(Sampler::Ddpm(Ddpm::default()), schedule, prediction, 50);
            for (a, b) in ddim.iter().zip(&ddpm).take(49) {
                let ends = |row: &Row| {
                    let update = row.updates()[0];
                    let x = update.x + update.denoised * row.denoised_x;
                    [x, update.output + update.denoised * row.denoised_output, update.noise]
                };
                for (a, b) in ends(a).iter().zip(ends(b)) {
                    assert!((a - b).abs() < 2e-4 * b.abs().max(1.0), "{a} {b}");
                }
            }
        }
    });
}

#[test]
fn euler_ancestral_is_ddpm_in_other_units() {
    // x in sigma is x of variance 1 times sqrt(sigma² + 1), and 1/input_scale is that root.
    let config = ScheduleConfig { timestep_spacing: Spacing::Leading, ..Default::default() };
    with_schedule(config, |schedule| {
        let ddpm = table(Sampler::Ddpm(Ddpm::default()), schedule, Prediction::Sample, 20);
        let euler = Sampler::EulerAncestral(EulerAncestral);
        let euler = table(euler, schedule, Prediction::Sample, 20);
        let next = euler[1..].iter().map(|row| row.input_scale).chain([1.0]);
        for ((a, b), next) in ddpm.iter().zip(&euler).zip(next) {
            let (a, update) = (a.updates()[0], b.updates()[0]);
            let x = update.x / b.input_scale * next;
            assert!((x - a.x).abs() < 1e-4 && (update.denoised * next - a.denoised).abs() < 1e-4);
            assert!((update.noise * next - a.noise).abs() < 1e-4);
        }
    });
}

#[test]
fn the_largest_schedule_is_walked_step_by_step() {
    let num_train_timesteps = MAX_TRAIN_TIMESTEPS;
    let (beta_start, beta_end) = (1e-6, 4e-4);
    for sampler in all_samplers() {
        let sigmas = SigmaKind::Karras;
        let default = sampler.default_schedule();
        let config =
            ScheduleConfig { num_train_timesteps, beta_start, beta_end, sigmas, ..default };
        with_schedule(config, |schedule| {
            let steps = num_train_timesteps;
            let mut rows = vec![Row::EMPTY; sampler.row_count(steps, 0)];
            if let Ok(count) = sampler.rows(schedule, Prediction::Epsilon, steps, 0, &mut rows) {
                assert_eq!(usize::from(rows[count - 1].step), steps - 1, "{sampler:?}");
            }
        });
    }
}

#[test]
fn a_perfect_network_is_followed_to_the_picture() {
    // A network that always sees the clean picture 0.25: every sampler must end there.
    let samplers = [
        Sampler::Ddpm(Ddpm::default()),
        Sampler::Ddim(Ddim { eta: 0.5 }),
        Sampler::Euler(Euler::default()),
        Sampler::EulerAncestral(EulerAncestral),
        Sampler::Heun(Heun),
        Sampler::Dpm2(Dpm2),
        Sampler::DpmSolver(DpmSolver { solver_order: 3, ..DpmSolver::default() }),
        Sampler::DpmSolver(DpmSolver { algorithm: Algorithm::Sde, ..DpmSolver::default() }),
        Sampler::UniPc(UniPc { solver_order: 3, ..UniPc::default() }),
    ];
    for sampler in samplers {
        with_schedule(sampler.default_schedule(), |schedule| {
            let rows = table(sampler, schedule, Prediction::Sample, 20);
            let init = sampler.init_noise_sigma(schedule, 20).unwrap();
            let mut x = vec![init; 16];
            let walk = Walk {
                batch: 1,
                clipping: Clipping::None,
                noise: &mut drawn(NoiseKind::Pcg, 0),
                scales_x: false,
                model: &|x, _| vec![0.25; x.len()],
                after: &mut |_, _| {},
            };
            walk.run(&rows, &mut x);
            assert!(x.iter().all(|x| (x - 0.25).abs() < 1e-4), "{sampler:?}: {x:?}");
        });
    }
}

#[test]
fn strength_leaves_its_share_of_the_steps() {
    assert_eq!(start_step(10, 0.6), Ok(4));
    assert_eq!(start_step(10, 1.0), Ok(0));
    assert_eq!(start_step(10, 0.15), Ok(9));
    for strength in [0.0, 0.09, -0.1, 1.1, f64::NAN] {
        assert!(matches!(start_step(10, strength), Err(Error::Config { key: "strength", .. })));
    }
    assert!(start_step(0, 1.0).is_err());
}

#[test]
fn the_history_is_as_small_as_the_sampler_allows() {
    let counts = [
        (Sampler::Ddim(Ddim::default()), 0),
        (Sampler::Heun(Heun), 1),
        (Sampler::Dpm2(Dpm2), 1),
        (Sampler::DpmSolver(DpmSolver::default()), 1),
        (Sampler::UniPc(UniPc::default()), 3),
        (Sampler::Lms(Lms), 4),
        (Sampler::Pndm(Pndm { skip_prk_steps: true }), 4),
        (Sampler::Pndm(Pndm { skip_prk_steps: false }), 5),
    ];
    for (sampler, expected) in counts {
        with_schedule(sampler.default_schedule(), |schedule| {
            let rows = table(sampler, schedule, Prediction::Epsilon, 20);
            assert_eq!(history_count(&rows), expected, "{sampler:?}");
        });
    }
}

#[test]
fn a_slot_is_never_read_before_it_is_written() {
    for sampler in all_samplers() {
        with_schedule(sampler.default_schedule(), |schedule| {
            for (steps, start) in [(4, 0), (5, 0), (20, 0), (20, 1), (20, 7), (20, 19)] {
                let mut written = [false; HISTORY];
                let mut rows = [Row::EMPTY; 40];
                let count = sampler.rows(schedule, Prediction::Epsilon, steps, start, &mut rows);
                for row in &rows[..count.unwrap_or(0)] {
                    for update in row.updates() {
                        let reads = update.history.iter().zip(written);
                        assert!(reads.into_iter().all(|(c, written)| written || *c == 0.0));
                        if let Slot::History(slot) = update.into {
                            written[usize::from(slot)] = true;
                        }
                    }
                }
            }
        });
    }
}

/// Each sampler, in each way it can be set.
fn all_samplers() -> Vec<Sampler<'static>> {
    let mut all = vec![
        Sampler::Ddpm(Ddpm { variance: Variance::FixedSmall }),
        Sampler::Ddpm(Ddpm { variance: Variance::FixedLarge }),
        Sampler::Ddpm(Ddpm { variance: Variance::LearnedRange }),
        Sampler::Ddim(Ddim { eta: 0.0 }),
        Sampler::Ddim(Ddim { eta: 1.0 }),
        Sampler::Pndm(Pndm { skip_prk_steps: true }),
        Sampler::Pndm(Pndm { skip_prk_steps: false }),
        Sampler::EulerAncestral(EulerAncestral),
        Sampler::Heun(Heun),
        Sampler::Dpm2(Dpm2),
        Sampler::Lms(Lms),
        Sampler::Lcm(Lcm::default()),
    ];
    for final_sigma in [FinalSigma::Zero, FinalSigma::SigmaMin] {
        all.push(Sampler::Euler(Euler { final_sigma }));
        for solver_order in 0..=4 {
            for algorithm in [Algorithm::Ode, Algorithm::Sde] {
                all.push(Sampler::DpmSolver(DpmSolver {
                    solver_order: solver_order.clamp(1, 3),
                    algorithm,
                    solver_type: if solver_order == 0 {
                        SolverType::Heun
                    } else {
                        SolverType::Midpoint
                    },
                    lower_order_final: solver_order < 4,
                    final_sigma,
                    ..DpmSolver::default()
                }));
            }
            all.push(Sampler::UniPc(UniPc {
                solver_order: solver_order.clamp(1, 3),
                solver: if solver_order == 0 { UniPcSolver::Bh1 } else { UniPcSolver::Bh2 },
                disable_corrector: if solver_order == 4 { &[1, 3] } else { &[] },
                final_sigma,
                ..UniPc::default()
            }));
        }
    }
    all
}

/// Tables are either refused or finite: `rows` itself sees to that, so it only must not panic.
fn must_not_panic(sampler: Sampler, schedule: &Schedule, steps: usize, start: usize) {
    let room = sampler.row_count(steps, start).min(300);
    let mut rows = vec![Row::EMPTY; room];
    for prediction in [Prediction::Epsilon, Prediction::VPrediction, Prediction::Sample] {
        if let Ok(count) = sampler.rows(schedule, prediction, steps, start, &mut rows) {
            assert!(count > 0 && count <= room);
            let sizes = rows[..count].iter().map(|row| row.updates().len());
            assert!(sizes.into_iter().all(|size| size > 0));
        }
    }
    let _ = sampler.init_noise_sigma(schedule, steps);
    let _ = sampler.start_scales(schedule, steps, start);
}

#[test]
fn odd_settings_are_refused_or_sampled_but_never_panic() {
    let mut schedules = vec![];
    for num_train_timesteps in [1, 2, 3, 7, 100] {
        for timestep_spacing in [Spacing::Leading, Spacing::Linspace, Spacing::Trailing] {
            for sigmas in [SigmaKind::Discrete, SigmaKind::Karras, SigmaKind::Exponential] {
                for [beta_start, beta_end] in [[1e-4, 0.02], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0]] {
                    schedules.push(ScheduleConfig {
                        num_train_timesteps,
                        timestep_spacing,
                        sigmas,
                        beta_start,
                        beta_end,
                        steps_offset: num_train_timesteps % 3,
                        rescale_betas_zero_snr: num_train_timesteps % 2 == 1,
                        lambda_min_clipped: if num_train_timesteps == 7 { -0.5 } else { -1e9 },
                        sigma_min: (num_train_timesteps == 3).then_some(1e-300),
                        sigma_max: (num_train_timesteps == 3).then_some(1e300),
                        ..ScheduleConfig::default()
                    });
                }
            }
        }
    }
    for config in schedules {
        let mut memory = vec![0.0; config.num_train_timesteps];
        let Ok(schedule) = Schedule::new(config, &mut memory) else { continue };
        for sampler in all_samplers() {
            for steps in [0, 1, 2, 3, 4, 7, 99, 100, 101, usize::MAX] {
                for start in [0, 1, 2, steps.saturating_sub(1), steps, usize::MAX] {
                    must_not_panic(sampler, &schedule, steps, start);
                }
            }
        }
    }
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let refused = |config: ScheduleConfig| {
        let mut memory = vec![0.0; 1000];
        match Schedule::new(config, &mut memory) {
            Err(Error::Config { key, .. }) => key,
            other => panic!("{other:?}"),
        }
    };
    let base = ScheduleConfig::default();
    for num_train_timesteps in [0, MAX_TRAIN_TIMESTEPS + 1, usize::MAX] {
        assert_eq!(refused(ScheduleConfig { num_train_timesteps, ..base }), "num_train_timesteps");
    }
    for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert_eq!(refused(ScheduleConfig { beta_start: bad, ..base }), "beta_start");
        assert_eq!(refused(ScheduleConfig { beta_end: bad, ..base }), "beta_end");
    }
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(refused(ScheduleConfig { sigma_min: Some(bad), ..base }), "sigma_min");
        assert_eq!(refused(ScheduleConfig { sigma_max: Some(bad), ..base }), "sigma_max");
    }
    assert_eq!(
        refused(ScheduleConfig { lambda_min_clipped: f64::NAN, ..base }),
        "lambda_min_clipped"
    );
    assert_eq!(refused(ScheduleConfig { steps_offset: usize::MAX, ..base }), "steps_offset");
    let given = |betas| ScheduleConfig { beta_schedule: BetaSchedule::Given(betas), ..base };
    assert_eq!(refused(given(&[0.5; 3])), "trained_betas");
    assert_eq!(refused(ScheduleConfig { num_train_timesteps: 2, ..given(&[0.5, 1.5]) }), "betas");
    assert_eq!(
        refused(ScheduleConfig { num_train_timesteps: 2, ..given(&[f32::NAN, 0.5]) }),
        "betas"
    );
    let mut short = [0.0; 999];
    assert!(matches!(Schedule::new(base, &mut short), Err(Error::Capacity { needed: 1000, .. })));
}

#[test]
fn samplings_that_cannot_be_are_refused_by_name() {
    let refused = |sampler: Sampler, prediction, steps, start| {
        with_schedule(sampler.default_schedule(), |schedule| {
            let mut rows = vec![Row::EMPTY; 3000];
            match sampler.rows(schedule, prediction, steps, start, &mut rows) {
                Err(Error::Config { key, .. }) => key,
                other => panic!("{other:?}"),
            }
        })
    };
    let epsilon = Prediction::Epsilon;
    for sampler in all_samplers() {
        assert_eq!(refused(sampler, epsilon, 0, 0), "num_inference_steps");
        assert_eq!(refused(sampler, epsilon, 1001, 0), "num_inference_steps");
        assert_eq!(refused(sampler, epsilon, 20, 20), "strength");
    }
    for eta in [-0.1, f64::NAN, f64::INFINITY, 10.0] {
        assert_eq!(refused(Sampler::Ddim(Ddim { eta }), epsilon, 20, 0), "eta");
    }
    let prk = Sampler::Pndm(Pndm { skip_prk_steps: false });
    assert_eq!(refused(prk, epsilon, 3, 0), "num_inference_steps");
    assert_eq!(refused(prk, epsilon, 20, 1), "skip_prk_steps");
    assert_eq!(refused(prk, Prediction::Sample, 20, 0), "prediction_type");
    let lcm = Sampler::Lcm(Lcm::default());
    assert_eq!(refused(lcm, epsilon, 51, 0), "num_inference_steps");
    for original_inference_steps in [0, 1001] {
        let lcm = Sampler::Lcm(Lcm { original_inference_steps, ..Lcm::default() });
        assert_eq!(refused(lcm, epsilon, 1, 0), "original_inference_steps");
    }
    let lcm = Sampler::Lcm(Lcm { timestep_scaling: f64::NAN, ..Lcm::default() });
    assert_eq!(refused(lcm, epsilon, 1, 0), "timestep_scaling");
    for solver_order in [0, 4] {
        let solver = Sampler::DpmSolver(DpmSolver { solver_order, ..DpmSolver::default() });
        assert_eq!(refused(solver, epsilon, 20, 0), "solver_order");
        let unipc = Sampler::UniPc(UniPc { solver_order, ..UniPc::default() });
        assert_eq!(refused(unipc, epsilon, 20, 0), "solver_order");
    }
}

#[test]
fn without_signal_epsilon_is_refused_and_v_is_not() {
    let config = ScheduleConfig {
        rescale_betas_zero_snr: true,
        timestep_spacing: Spacing::Trailing,
        ..ScheduleConfig::default()
    };
    with_schedule(config, |schedule| {
        let ddim = Sampler::Ddim(Ddim::default());
        let mut rows = [Row::EMPTY; 10];
        let mut sample = |prediction| ddim.rows(schedule, prediction, 10, 0, &mut rows);
        assert!(matches!(sample(Prediction::Epsilon), Err(Error::Config { .. })));
        assert_eq!(sample(Prediction::VPrediction), Ok(10));
    });
}

#[test]
fn too_few_rows_are_refused_with_the_number_needed() {
    with_schedule(ScheduleConfig::default(), |schedule| {
        let mut rows = [Row::EMPTY; 38];
        let result = Sampler::Heun(Heun).rows(schedule, Prediction::Epsilon, 20, 0, &mut rows);
        assert_eq!(result, Err(Error::Capacity { what: "rows", needed: 39, limit: 38 }));
    });
}

#[test]
fn a_threshold_is_the_quantile_between_one_and_its_maximum() {
    let mut scratch = [0.0; 5];
    let threshold = |ratio, max| Clipping::DynamicThreshold { ratio, max };
    let mut values = [-4.0, 1.0, 2.0, -3.0, 0.0];
    // The magnitudes 0 1 2 3 4: the quantile 0.8 lies at 3.2.
    threshold(0.8, 100.0).apply(&mut values, &mut scratch).unwrap();
    for (value, expected) in values.iter().zip([-1.0, 1.0 / 3.2, 2.0 / 3.2, -3.0 / 3.2, 0.0]) {
        assert!((value - expected).abs() < 1e-6);
    }
    let mut values = [-4.0, 1.0];
    threshold(1.0, 2.0).apply(&mut values, &mut scratch).unwrap();
    assert_eq!(values, [-1.0, 0.5]);
    let mut small = [0.5, -0.25];
    threshold(1.0, 2.0).apply(&mut small, &mut scratch).unwrap();
    assert_eq!(small, [0.5, -0.25]);
    threshold(0.5, 2.0).apply(&mut [], &mut []).unwrap();
    let short = threshold(0.5, 2.0).apply(&mut [1.0; 6], &mut scratch);
    assert!(matches!(short, Err(Error::Capacity { needed: 6, limit: 5, .. })));
}

#[test]
fn clipping_out_of_range_is_refused_and_not_a_number_passes_through() {
    let bad = [
        Clipping::Clip { range: -1.0 },
        Clipping::Clip { range: f32::NAN },
        Clipping::DynamicThreshold { ratio: 1.5, max: 1.0 },
        Clipping::DynamicThreshold { ratio: f32::NAN, max: 1.0 },
        Clipping::DynamicThreshold { ratio: 0.5, max: 0.0 },
        Clipping::DynamicThreshold { ratio: 0.5, max: f32::NAN },
    ];
    for clipping in bad {
        let result = clipping.apply(&mut [1.0], &mut [0.0]);
        assert!(matches!(result, Err(Error::Config { .. })));
    }
    for clipping in
        [Clipping::Clip { range: 1.0 }, Clipping::DynamicThreshold { ratio: 0.5, max: 2.0 }]
    {
        let mut values = [f32::NAN, 5.0, f32::NEG_INFINITY];
        clipping.apply(&mut values, &mut [0.0; 3]).unwrap();
        assert!(values[0].is_nan());
    }
}

#[test]
fn guidance_moves_away_from_the_unconditional_output() {
    let uncond = [0.0, 1.0, 2.0];
    let mut cond = [1.0, 1.0, 4.0];
    classifier_free_guidance(&uncond, &mut cond, 7.5).unwrap();
    assert_eq!(cond, [7.5, 1.0, 17.0]);
    assert!(matches!(
        classifier_free_guidance(&uncond, &mut cond[..2], 1.0),
        Err(Error::Shape { .. })
    ));
}

#[test]
fn fully_rescaled_guidance_has_the_spread_of_the_conditional_output() {
    let spread = |values: &[f32]| {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>()
    };
    let uncond = [0.0, 1.0, 2.0, -1.0];
    let cond = [1.0, 1.0, 4.0, 0.5];
    let mut full = cond;
    rescaled_guidance(&uncond, &mut full, 7.5, 1.0).unwrap();
    assert!((spread(&full) - spread(&cond)).abs() < 1e-4);
    let (mut none, mut plain) = (cond, cond);
    rescaled_guidance(&uncond, &mut none, 7.5, 0.0).unwrap();
    classifier_free_guidance(&uncond, &mut plain, 7.5).unwrap();
    assert_eq!(none, plain);
    let mut flat = [1.0; 4];
    rescaled_guidance(&[1.0; 4], &mut flat, 7.5, 0.7).unwrap();
    assert_eq!(flat, [1.0; 4]);
}

/// Samplings of `goldens/samplers` that mote does not follow: schedulers, spacings and predictions
/// that it has not got.
const NOT_FOLLOWED: [&str; 38] = [
    "dpmpp-2s",
    "dpmpp-3s-karras",
    "dpmpp-sde",
    "dpmpp-sde-karras",
    "dpm-2m",
    "dpmpp-2m-heun-lu",
    "dpmpp-2m-beta",
    "dpmpp-2m-flow",
    "unipc-flow",
    "unipc-eps",
    "unipc-beta",
    "dpm2-a",
    "dpm2-a-karras",
    "ipndm-diffusers",
    "tcd",
    "tcd-eta-0",
    "tcd-v-8",
    "sasolver",
    "sasolver-3",
    "edm-euler",
    "edm-euler-exponential",
    "edm-dpmpp-2m",
    "edm-dpmpp-3m",
    "edm-dpmpp-2m-sde",
    "euler-beta",
    "euler-continuous-v",
    "heun-beta",
    "lms-beta",
    "flow-euler",
    "flow-euler-shift-3",
    "flow-euler-dynamic",
    "flow-euler-dynamic-linear",
    "flow-euler-karras",
    "flow-euler-beta",
    "flow-euler-exponential",
    "flow-euler-stochastic",
    "flow-euler-given-sigmas",
    "flow-heun-shift-3",
];

#[test]
fn diffusers_samplings_are_followed_from_its_own_configurations() {
    let Some(folder) = shared("goldens/samplers") else { return };
    let cases = json(&folder.join("golden.json"));
    let file = std::fs::read(folder.join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut refused = Vec::new();
    for case in cases["samplers"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
        std::fs::write(file.path(), case["scheduler"].to_string()).unwrap();
        match scheduler::read(file.path(), None) {
            Ok(config) => follow(name, &config, case["steps"].as_u64().unwrap() as usize, &tensors),
            Err(_) => refused.push(name.to_string()),
        }
    }
    assert_eq!(refused, NOT_FOLLOWED);
}

/// Samples as diffusers did, and compares x after every step.
fn follow(name: &str, config: &SchedulerConfig, steps: usize, golden: &SafeTensors<'_>) {
    let mut memory = vec![0.0; config.schedule().num_train_timesteps];
    let schedule = Schedule::new(config.schedule(), &mut memory).unwrap();
    let sampler = config.sampler();
    let mut rows = vec![Row::EMPTY; sampler.row_count(steps, 0)];
    sampler.rows(&schedule, config.prediction, steps, 0, &mut rows).unwrap();
    let values = |what: &str| -> Option<Vec<f32>> {
        let tensor = golden.tensor(&format!("{name}/{what}")).ok()?;
        let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
        Some(tensor.data().chunks(4).map(number).collect())
    };
    let expected = values("x").unwrap();
    let largest = expected.iter().fold(1.0_f32, |most, x| most.max(x.abs()));
    let len = 64;
    let mut expected = expected.chunks(len);
    let mut x = expected.next().unwrap().to_vec();
    let draws = values("noise");
    let mut at = 0;
    let mut noise = |out: &mut [f32]| {
        out.copy_from_slice(&draws.as_ref().expect("diffusers drew noise")[at..at + out.len()]);
        at += out.len();
    };
    // Some classes count evaluations where the others count steps.
    let counts_rows = expected.len() == rows.len();
    let ends = |index: usize| rows.get(index + 1).is_none_or(|next| next.step != rows[index].step);
    let mut index = 0;
    let walk = Walk {
        batch: 1,
        clipping: config.clipping,
        noise: &mut noise,
        scales_x: false,
        model: &|x, t| x.iter().map(|x| 0.6 * (1.3 * x + t / 300.0).sin() + 0.3 * x).collect(),
        after: &mut |row, x| {
            if counts_rows || ends(index) {
                for (found, expected) in x.iter().zip(expected.next().unwrap()) {
                    let off = (found - expected).abs();
                    assert!(off <= 2e-5 * largest, "{name}, step {}: off by {off}", row.step);
                }
            }
            index += 1;
        },
    };
    walk.run(&rows, &mut x);
    assert!(expected.next().is_none(), "{name}: diffusers took more steps");
}
