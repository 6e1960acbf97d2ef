//! `scheduler/scheduler_config.json`: the noise the model was trained with, and how to take it away.
//!
//! diffusers hands one scheduler's file to another (`DDIMScheduler.from_config(pndm.config)`): keys the
//! other does not know are passed over, keys that are absent take the other's defaults. So the file is
//! read for the sampler that will run, which need not be the one it was written for.

use std::path::Path;

use serde_json::Value;

use super::json::Keys;
use crate::args::{Method, Prediction, Sigmas};
use crate::error::{Failure, Result};

/// The most training steps that are believed; every published model has at most 4000.
const MAX_TRAIN_TIMESTEPS: usize = 100_000;

/// Keys of diffusers' schedulers. Those that the sampler in use does not look at change no picture.
const KNOWN: [&str; 42] = [
    "algorithm_type",
    "beta_end",
    "beta_schedule",
    "beta_start",
    "clip_sample",
    "clip_sample_range",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "lambda_min_clipped",
    "lower_order_final",
    "num_train_timesteps",
    "original_inference_steps",
    "predict_x0",
    "prediction_type",
    "rescale_betas_zero_snr",
    "sample_max_value",
    "set_alpha_to_one",
    "shift_terminal",
    "sigma_max",
    "sigma_min",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "steps_offset",
    "thresholding",
    "time_shift_type",
    "timestep_scaling",
    "timestep_spacing",
    "timestep_type",
    "trained_betas",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
    "variance_type",
];

const CLASSES: [(&str, Method); 11] = [
    ("DDPMScheduler", Method::Ddpm),
    ("DDIMScheduler", Method::Ddim),
    ("PNDMScheduler", Method::Pndm),
    ("EulerDiscreteScheduler", Method::Euler),
    ("EulerAncestralDiscreteScheduler", Method::EulerA),
    ("HeunDiscreteScheduler", Method::Heun),
    ("KDPM2DiscreteScheduler", Method::Dpm2),
    ("LMSDiscreteScheduler", Method::Lms),
    ("DPMSolverMultistepScheduler", Method::DpmPp2m),
    ("UniPCMultistepScheduler", Method::UniPc),
    ("LCMScheduler", Method::Lcm),
];

/// The variance added in each training step.
#[derive(Clone, Debug, PartialEq)]
pub enum Betas {
    /// Evenly from the first to the last.
    Linear([f64; 2]),
    /// Evenly in the square root.
    ScaledLinear([f64; 2]),
    /// From a squared cosine, at most 0.999 (Nichol and Dhariwal 2021).
    SquaredCos,
    /// Along a sigmoid.
    Sigmoid([f64; 2]),
    /// One by one.
    Given(Vec<f32>),
}

/// Which training steps are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// From the first, at equal distances.
    Leading,
    /// From the first to the last.
    Linspace,
    /// Back from the last, at equal distances.
    Trailing,
}

/// DDPM's variance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variance {
    /// The posterior's.
    FixedSmall,
    /// The same by way of its logarithm.
    FixedSmallLog,
    /// Beta.
    FixedLarge,
    /// Between the two, as the network says.
    LearnedRange,
}

/// Which estimate DPM-Solver's second order takes, or which B(h) UniPC has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SolverType {
    /// DPM-Solver: at the middle.
    Midpoint,
    /// DPM-Solver: at the end.
    Heun,
    /// UniPC: B(h) = h.
    Bh1,
    /// UniPC: B(h) = exp(h) - 1.
    Bh2,
}

/// A scheduler's configuration. What a sampler does not look at has its default here.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// The sampler.
    pub method: Method,
    /// Training steps.
    pub num_train_timesteps: usize,
    /// The variance of each.
    pub betas: Betas,
    /// Whether the last step is made pure noise.
    pub rescale_betas_zero_snr: bool,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Which training steps are visited.
    pub spacing: Spacing,
    /// Added to each visited step where the spacing is leading.
    pub steps_offset: usize,
    /// How the noise levels are spaced.
    pub sigmas: Sigmas,
    /// Whether the last noise level is 0, or the smallest of training.
    pub final_sigma_is_zero: bool,
    /// Whether before the first training step there is no noise at all (DDIM, PNDM, LCM).
    pub set_alpha_to_one: bool,
    /// The denoised picture is clipped to this, either way.
    pub clip: Option<f32>,
    /// The denoised picture is thresholded dynamically: the quantile, and the most it may be.
    pub thresholding: Option<[f32; 2]>,
    /// DDPM's variance.
    pub variance: Variance,
    /// Whether PNDM goes without its Runge-Kutta start.
    pub skip_prk_steps: bool,
    /// The order of DPM-Solver++ and UniPC.
    pub solver_order: usize,
    /// The kind of DPM-Solver++ or UniPC.
    pub solver_type: SolverType,
    /// Whether the last steps of DPM-Solver++ and UniPC are of lower order.
    pub lower_order_final: bool,
    /// Whether DPM-Solver++ ends with a step of Euler's.
    pub euler_at_final: bool,
    /// In how many steps LCM's model was distilled.
    pub original_inference_steps: usize,
    /// LCM's factor of the time in its boundary conditions.
    pub timestep_scaling: f32,
}

/// Reads the file at `path` for `method`, or for the sampler it names.
///
/// # Errors
/// Where a key that the sampler looks at holds what is not supported, or nonsense.
pub fn read(path: &Path, method: Option<Method>) -> Result<SchedulerConfig> {
    from_keys(Keys::read(path)?, method)
}

fn from_keys(mut keys: Keys, method: Option<Method>) -> Result<SchedulerConfig> {
    let method = match method {
        Some(method) => method,
        None => own_method(&mut keys)?,
    };
    let mut config = noise(&mut keys, method)?;
    match method {
        Method::Ddpm | Method::Ddim | Method::Lcm => {
            denoised(&mut keys, &mut config, method != Method::Lcm)?;
            config.rescale_betas_zero_snr = keys.flag("rescale_betas_zero_snr", false)?;
            config.set_alpha_to_one = keys.flag("set_alpha_to_one", true)?;
        }
        Method::Pndm => {
            config.set_alpha_to_one = keys.flag("set_alpha_to_one", false)?;
            config.skip_prk_steps = keys.flag("skip_prk_steps", false)?;
        }
        Method::Euler => {
            sigmas(&mut keys, &mut config)?;
            config.rescale_betas_zero_snr = keys.flag("rescale_betas_zero_snr", false)?;
            keys.only("interpolation_type", "linear")?;
            keys.only("timestep_type", "discrete")?;
        }
        Method::EulerA => {
            config.rescale_betas_zero_snr = keys.flag("rescale_betas_zero_snr", false)?;
        }
        Method::Heun => {
            sigmas(&mut keys, &mut config)?;
            clip(&mut keys, &mut config, false)?;
        }
        Method::Dpm2 | Method::Lms => sigmas(&mut keys, &mut config)?,
        Method::DpmPp2m | Method::DpmPp2mSde | Method::UniPc => {
            sigmas(&mut keys, &mut config)?;
            multistep(&mut keys, &mut config)?;
        }
    }
    if method == Method::Ddpm {
        config.variance = variance(&mut keys)?;
    }
    if method == Method::Lcm {
        config.original_inference_steps = keys.size("original_inference_steps", 50)?;
        config.timestep_scaling = keys.f32("timestep_scaling", 10.0)?;
    }
    keys.finish(&KNOWN)?;
    Ok(config)
}

/// The sampler that the file names.
fn own_method(keys: &mut Keys) -> Result<Method> {
    let Some(class) = keys.take("_class_name") else {
        return Err(Failure::new(format!("{} names no sampler", keys.path().display()))
            .remedy("Give one with --sampling-method"));
    };
    let method = keys
        .as_word("_class_name", &class, &CLASSES)
        .map_err(|failure| failure.remedy("Another sampler can be given with --sampling-method"))?;
    if method != Method::DpmPp2m {
        return Ok(method);
    }
    // diffusers takes DEIS to be DPM-Solver++, too.
    let known = [
        ("dpmsolver++", Method::DpmPp2m),
        ("deis", Method::DpmPp2m),
        ("sde-dpmsolver++", Method::DpmPp2mSde),
    ];
    keys.word("algorithm_type", method, &known)
}

/// What all samplers look at; the rest at its defaults.
fn noise(keys: &mut Keys, method: Method) -> Result<SchedulerConfig> {
    let predictions = [
        ("epsilon", Prediction::Eps),
        ("v_prediction", Prediction::V),
        ("sample", Prediction::Sample),
    ];
    let spacings = [
        ("leading", Spacing::Leading),
        ("linspace", Spacing::Linspace),
        ("trailing", Spacing::Trailing),
    ];
    let spacing = match method {
        Method::Ddpm | Method::Ddim | Method::Pndm | Method::Lcm => Spacing::Leading,
        _ => Spacing::Linspace,
    };
    let num_train_timesteps = keys.size("num_train_timesteps", 1000)?;
    if num_train_timesteps > MAX_TRAIN_TIMESTEPS {
        let value = Value::from(num_train_timesteps);
        let what = format!("at most {MAX_TRAIN_TIMESTEPS} are believed");
        return Err(keys.fail("num_train_timesteps", &value, what));
    }
    Ok(SchedulerConfig {
        method,
        num_train_timesteps,
        betas: betas(keys, method, num_train_timesteps)?,
        rescale_betas_zero_snr: false,
        prediction: keys.word("prediction_type", Prediction::Eps, &predictions)?,
        spacing: keys.word("timestep_spacing", spacing, &spacings)?,
        steps_offset: keys.count("steps_offset", 0)?,
        sigmas: Sigmas::Discrete,
        final_sigma_is_zero: true,
        set_alpha_to_one: true,
        clip: None,
        thresholding: None,
        variance: Variance::FixedSmall,
        skip_prk_steps: false,
        solver_order: 2,
        solver_type: SolverType::Midpoint,
        lower_order_final: true,
        euler_at_final: false,
        original_inference_steps: 50,
        timestep_scaling: 10.0,
    })
}

fn betas(keys: &mut Keys, method: Method, steps: usize) -> Result<Betas> {
    if let Some(value) = keys.take_some("trained_betas") {
        let list = value.as_array().filter(|list| list.len() == steps).ok_or_else(|| {
            keys.fail("trained_betas", &value, format!("it should be a list of {steps} numbers"))
        })?;
        let betas: Vec<_> =
            list.iter().map(|beta| keys.as_f32("trained_betas", beta)).collect::<Result<_>>()?;
        if betas.iter().any(|beta| !(0.0..=1.0).contains(beta)) {
            return Err(keys.fail("trained_betas", &value, "each should lie between 0 and 1"));
        }
        return Ok(Betas::Given(betas));
    }
    let [start, end] = match method {
        Method::Heun | Method::Dpm2 | Method::Lcm => [0.00085, 0.012],
        _ => [0.0001, 0.02],
    };
    let default = if method == Method::Lcm { "scaled_linear" } else { "linear" };
    let range = [keys.number("beta_start", start)?, keys.number("beta_end", end)?];
    for (key, beta) in [("beta_start", range[0]), ("beta_end", range[1])] {
        if !(beta > 0.0 && beta < 1.0) {
            return Err(keys.fail(key, &Value::from(beta), "it should lie between 0 and 1"));
        }
    }
    let kind = keys.take("beta_schedule").unwrap_or_else(|| default.into());
    let kinds = [("linear", 0), ("scaled_linear", 1), ("squaredcos_cap_v2", 2), ("sigmoid", 3)];
    Ok(match keys.as_word("beta_schedule", &kind, &kinds)? {
        0 => Betas::Linear(range),
        1 => Betas::ScaledLinear(range),
        2 => Betas::SquaredCos,
        _ => Betas::Sigmoid(range),
    })
}

/// `clip_sample` and its range.
fn clip(keys: &mut Keys, config: &mut SchedulerConfig, default: bool) -> Result<()> {
    let range = keys.f32("clip_sample_range", 1.0)?;
    if keys.flag("clip_sample", default)? {
        if range <= 0.0 {
            let what = "it should be above 0";
            return Err(keys.fail("clip_sample_range", &Value::from(range), what));
        }
        config.clip = Some(range);
    }
    Ok(())
}

/// What is done to the denoised picture.
fn denoised(keys: &mut Keys, config: &mut SchedulerConfig, clips: bool) -> Result<()> {
    clip(keys, config, clips)?;
    thresholding(keys, config)
}

fn thresholding(keys: &mut Keys, config: &mut SchedulerConfig) -> Result<()> {
    let ratio = keys.f32("dynamic_thresholding_ratio", 0.995)?;
    let most = keys.f32("sample_max_value", 1.0)?;
    if keys.flag("thresholding", false)? {
        if !(0.0..=1.0).contains(&ratio) {
            let what = "it should lie between 0 and 1";
            return Err(keys.fail("dynamic_thresholding_ratio", &Value::from(ratio), what));
        }
        if most < 1.0 {
            let what = "it should be at least 1";
            return Err(keys.fail("sample_max_value", &Value::from(most), what));
        }
        config.thresholding = Some([ratio, most]);
    }
    Ok(())
}

/// How noise levels are spaced, for the samplers that let it be chosen.
fn sigmas(keys: &mut Keys, config: &mut SchedulerConfig) -> Result<()> {
    keys.only("use_beta_sigmas", false)?;
    keys.only("sigma_min", Value::Null)?;
    keys.only("sigma_max", Value::Null)?;
    let karras = keys.flag("use_karras_sigmas", false)?;
    let exponential = keys.flag("use_exponential_sigmas", false)?;
    config.sigmas = match (karras, exponential) {
        (false, false) => Sigmas::Discrete,
        (true, false) => Sigmas::Karras,
        (false, true) => Sigmas::Exponential,
        (true, true) => {
            let what = "`use_karras_sigmas` is true already, and there can be only one";
            return Err(keys.fail("use_exponential_sigmas", &Value::Bool(true), what));
        }
    };
    if matches!(config.method, Method::Heun | Method::Dpm2 | Method::Lms) {
        return Ok(());
    }
    let known = [("zero", true), ("sigma_min", false)];
    config.final_sigma_is_zero = keys.word("final_sigmas_type", true, &known)?;
    Ok(())
}

/// What DPM-Solver++ and UniPC look at.
fn multistep(keys: &mut Keys, config: &mut SchedulerConfig) -> Result<()> {
    thresholding(keys, config)?;
    config.rescale_betas_zero_snr = keys.flag("rescale_betas_zero_snr", false)?;
    config.lower_order_final = keys.flag("lower_order_final", true)?;
    keys.only("use_flow_sigmas", false)?;
    keys.only("use_dynamic_shifting", false)?;
    // The kinds of one solver stand for the default of the other, as in diffusers.
    if config.method == Method::UniPc {
        let (bh1, bh2) = (SolverType::Bh1, SolverType::Bh2);
        let known = [("bh1", bh1), ("bh2", bh2), ("midpoint", bh2), ("heun", bh2), ("logrho", bh2)];
        config.solver_type = keys.word("solver_type", bh2, &known)?;
        config.solver_order = keys.size("solver_order", 2)?;
        keys.only("predict_x0", true)?;
        keys.only("disable_corrector", Value::Array(Vec::new()))?;
        keys.only("solver_p", Value::Null)?;
        return keys.only("shift_terminal", Value::Null);
    }
    let (midpoint, heun) = (SolverType::Midpoint, SolverType::Heun);
    let known = [
        ("midpoint", midpoint),
        ("heun", heun),
        ("logrho", midpoint),
        ("bh1", midpoint),
        ("bh2", midpoint),
    ];
    config.solver_type = keys.word("solver_type", midpoint, &known)?;
    config.euler_at_final = keys.flag("euler_at_final", false)?;
    keys.only("solver_order", 2)?;
    keys.only("use_lu_lambdas", false)?;
    keys.only("variance_type", Value::Null)?;
    match keys.take_some("lambda_min_clipped") {
        Some(value) if value != "-Infinity" => {
            Err(keys.fail("lambda_min_clipped", &value, "mote supports only -Infinity here"))
        }
        _ => Ok(()),
    }
}

fn variance(keys: &mut Keys) -> Result<Variance> {
    let known = [
        ("fixed_small", Variance::FixedSmall),
        ("fixed_small_log", Variance::FixedSmallLog),
        ("fixed_large", Variance::FixedLarge),
        ("learned_range", Variance::LearnedRange),
    ];
    match keys.take_some("variance_type") {
        None => Ok(Variance::FixedSmall),
        Some(value) => keys.as_word("variance_type", &value, &known),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value, method: Option<Method>) -> Result<SchedulerConfig> {
        from_keys(Keys::new(Path::new("scheduler_config.json"), value)?, method)
    }

    #[test]
    fn absent_keys_are_the_samplers_own_defaults() {
        let own = |class: &str| read(json!({ "_class_name": class }), None).unwrap();
        let ddpm = own("DDPMScheduler");
        assert_eq!((ddpm.clip, ddpm.spacing), (Some(1.0), Spacing::Leading));
        assert_eq!(ddpm.betas, Betas::Linear([0.0001, 0.02]));
        let heun = own("HeunDiscreteScheduler");
        assert_eq!((heun.clip, heun.spacing), (None, Spacing::Linspace));
        assert_eq!(heun.betas, Betas::Linear([0.00085, 0.012]));
        let lcm = own("LCMScheduler");
        assert_eq!(lcm.betas, Betas::ScaledLinear([0.00085, 0.012]));
        assert!(lcm.set_alpha_to_one && !own("PNDMScheduler").set_alpha_to_one);
        assert_eq!(own("UniPCMultistepScheduler").solver_type, SolverType::Bh2);
        for (class, method) in CLASSES {
            assert_eq!(own(class).method, method);
        }
    }

    #[test]
    fn another_sampler_reads_the_same_file_with_its_own_defaults() {
        // As Stable Diffusion 1.5 has it.
        let file = json!({
            "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
            "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
            "trained_betas": null, "clip_sample": false
        });
        let own = read(file.clone(), None).unwrap();
        assert!(own.skip_prk_steps && own.spacing == Spacing::Leading);
        let ddim = read(file.clone(), Some(Method::Ddim)).unwrap();
        assert_eq!((ddim.clip, ddim.set_alpha_to_one, ddim.steps_offset), (None, false, 1));
        let euler = read(file, Some(Method::Euler)).unwrap();
        assert_eq!(euler.spacing, Spacing::Linspace);
        assert_eq!(euler.betas, Betas::ScaledLinear([0.00085, 0.012]));
    }

    #[test]
    fn a_file_as_diffusers_writes_it_with_an_infinity_loads() {
        let file = json!({
            "_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++",
            "euler_at_final": false, "final_sigmas_type": "zero", "flow_shift": 1.0,
            "lambda_min_clipped": "-Infinity", "lower_order_final": true, "solver_order": 2,
            "solver_type": "midpoint", "time_shift_type": "exponential",
            "timestep_spacing": "linspace", "use_karras_sigmas": true, "variance_type": null
        });
        let config = read(file.clone(), None).unwrap();
        assert_eq!((config.method, config.sigmas), (Method::DpmPp2mSde, Sigmas::Karras));
        assert_eq!(read(file, Some(Method::DpmPp2m)).unwrap().method, Method::DpmPp2m);
    }

    #[test]
    fn keys_that_the_sampler_does_not_look_at_may_hold_anything() {
        let file = json!({"_class_name": "DDIMScheduler", "variance_type": "learned",
            "use_flow_sigmas": true, "solver_order": 9});
        assert!(read(file, None).is_ok());
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let dpm = Some(Method::DpmPp2m);
        for (method, name, value) in [
            (None, "_class_name", json!("FlowMatchEulerDiscreteScheduler")),
            (Some(Method::Ddpm), "variance_type", json!("learned")),
            (Some(Method::Ddpm), "beta_schedule", json!("laplace")),
            (Some(Method::Ddpm), "beta_start", json!(0)),
            (Some(Method::Ddpm), "beta_end", json!(1.5)),
            (Some(Method::Ddpm), "trained_betas", json!([0.1])),
            (Some(Method::Ddpm), "num_train_timesteps", json!(1_000_000)),
            (Some(Method::Ddpm), "num_train_timesteps", json!(0)),
            (Some(Method::Ddpm), "prediction_type", json!("flow_prediction")),
            (Some(Method::Ddpm), "clip_sample_range", json!(-1)),
            (Some(Method::Euler), "interpolation_type", json!("log_linear")),
            (Some(Method::Euler), "use_beta_sigmas", json!(true)),
            (Some(Method::Euler), "steps_offset", json!(-1)),
            (dpm, "lambda_min_clipped", json!(-5.1)),
            (dpm, "solver_order", json!(3)),
            (Some(Method::UniPc), "predict_x0", json!(false)),
            (Some(Method::UniPc), "disable_corrector", json!([0])),
            (dpm, "a_key_of_the_future", json!(1)),
        ] {
            let said = read(json!({ name: value }), method).unwrap_err().to_string();
            assert!(said.contains(&format!("`{name}`")), "{said}");
        }
        assert!(read(json!({}), None).unwrap_err().to_string().contains("--sampling-method"));
        let both = json!({"use_karras_sigmas": true, "use_exponential_sigmas": true});
        assert!(read(both, dpm).is_err());
    }
}
