//! `scheduler/scheduler_config.json`: the noise the model was trained with, and how to take it
//! away.
//!
//! diffusers hands one scheduler's file to another (`DDIMScheduler.from_config(pndm.config)`): keys
//! the other does not know are passed over, keys that are absent take the other's defaults. So the
//! file is read for the sampler that will run, which need not be the one it was written for; and a
//! key that no scheduler knows (old ones had some) changes no picture there, and none here.

use std::path::Path;

use mote::diffusion::prediction::{Clipping, Prediction};
use mote::diffusion::sampler::{Named, SAMPLERS, Sampler, Stepping, UniPc};
use mote::diffusion::schedule::{
    BetaSchedule, MAX_TRAIN_TIMESTEPS, ScheduleConfig, SigmaKind, Spacing,
};
use mote::fields::{Fields, Only};
use serde_json::Value;

use super::keys::Keys;
use super::model_index;
use crate::checkpoint::place::Place;
use crate::error::{Failure, Result};

/// The most steps that UniPC may be told not to correct.
const MAX_UNCORRECTED: usize = 1000;

/// What a network may predict, by the words of `prediction_type`.
pub const PREDICTIONS: [(&str, Prediction); 3] = [
    ("epsilon", Prediction::Epsilon),
    ("v_prediction", Prediction::VPrediction),
    ("sample", Prediction::Sample),
];

/// How steps may be spaced, by the words of `timestep_spacing`.
pub const SPACINGS: [(&str, Spacing); 3] = [
    ("leading", Spacing::Leading),
    ("linspace", Spacing::Linspace),
    ("trailing", Spacing::Trailing),
];

const BETA_SCHEDULES: [(&str, BetaSchedule<'static>); 4] = [
    ("linear", BetaSchedule::Linear),
    ("scaled_linear", BetaSchedule::ScaledLinear),
    ("squaredcos_cap_v2", BetaSchedule::SquaredcosCapV2),
    ("sigmoid", BetaSchedule::Sigmoid),
];

/// Settings of samplers that are not the file's to say: the sampler is chosen, and the share of
/// fresh noise is an argument.
const TOLD: [&str; 2] = ["algorithm_type", "eta"];

/// Settings of samplers where null stands for the default.
const NULLABLE: [&str; 2] = ["timestep_type", "variance_type"];

/// The word that stands for a value in a scheduler's file.
pub fn word_of<T: PartialEq>(value: T, known: &[(&'static str, T)]) -> &'static str {
    known.iter().find(|(_, one)| *one == value).map_or("", |(word, _)| word)
}

/// A scheduler's configuration, for the sampler that will run.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// The sampler by name.
    pub named: &'static Named,
    /// What the network predicts.
    pub prediction: Prediction,
    /// What happens to each denoised picture.
    pub clipping: Clipping,
    /// How the noise levels are spaced.
    pub sigmas: SigmaKind,
    /// The share of fresh noise, where it was given.
    pub eta: f64,
    schedule: ScheduleConfig<'static>,
    trained_betas: Option<Vec<f32>>,
    sampler: Sampler<'static>,
    disable_corrector: Vec<usize>,
}

impl SchedulerConfig {
    /// The schedule.
    pub fn schedule(&self) -> ScheduleConfig<'_> {
        let beta_schedule = match &self.trained_betas {
            Some(betas) => BetaSchedule::Given(betas),
            None => self.schedule.beta_schedule,
        };
        ScheduleConfig { beta_schedule, sigmas: self.sigmas, ..self.schedule }
    }

    /// The sampler.
    pub fn sampler(&self) -> Sampler<'_> {
        match self.sampler {
            Sampler::UniPc(unipc) => {
                Sampler::UniPc(UniPc { disable_corrector: &self.disable_corrector, ..unipc })
            }
            other => other,
        }
    }

    /// The sampler without what is told one by one: the steps that UniPC does not correct.
    pub fn own(&self) -> Sampler<'static> {
        self.sampler
    }

    /// Takes a share of fresh noise; `false`: the sampler has none.
    pub fn set_eta(&mut self, eta: f64) -> bool {
        let takes = self.sampler.set_eta(eta);
        if takes {
            self.eta = eta;
        }
        takes
    }
}

/// The file's name.
const FILE: &str = "scheduler_config.json";

/// Reads the file of the model at `model` for a sampler, or for that of the model. Which that is,
/// diffusers takes from `model_index.json`, and the numbers from the scheduler's own file.
///
/// # Errors
/// As [`read`].
pub fn read_of(model: &Place, named: Option<&'static Named>) -> Result<SchedulerConfig> {
    let mut keys = Keys::read(model.part("scheduler").join(FILE))?;
    let index = model_index::read(model).ok();
    let latent = index.as_ref().is_some_and(|index| index.is_latent_text_to_image());
    let own = index.and_then(|index| index.scheduler);
    // What the model was trained for is said by either file, whatever sampler is asked for.
    not_flow_matching(&keys)?;
    if let Some(class) = own.as_deref().filter(|class| class.contains(FLOW_MATCHING)) {
        let index = model.join("model_index.json");
        return Err(flow_matching(index.path(), &format!("`scheduler` is \"{class}\"")));
    }
    if let Some(class) = own.filter(|_| named.is_none()) {
        if !SAMPLERS.iter().any(|known| known.class == class) {
            let mut known: Vec<_> = SAMPLERS.iter().map(|known| known.class).collect();
            known.dedup();
            return Err(Failure::new(format!(
                "the sampler of {} is {class}; mote knows {}",
                model.path().display(),
                known.join(", ")
            ))
            .remedy("Give another sampler with --sampling-method"));
        }
        keys.set("_class_name", class);
    }
    if latent {
        bring_up_to_date(&mut keys, named);
    }
    from_keys(keys, named)
}

/// The settings that Stable Diffusion's pipelines of diffusers overrule in files of its first days:
/// `steps_offset` is 1, and samples, which are latents, are not clipped. A key that is missing is
/// overruled for the scheduler of the file alone, as another is made from the keys that are there.
fn bring_up_to_date(keys: &mut Keys, named: Option<&'static Named>) {
    let own = keys.get("_class_name").and_then(Value::as_str);
    let is_own = named.is_none_or(|named| own == Some(named.class));
    for (key, value) in [("steps_offset", Value::from(1)), ("clip_sample", Value::from(false))] {
        if is_own || keys.get(key).is_some() {
            keys.set(key, value);
        }
    }
}

/// Reads a file for a sampler, or for the one it names.
///
/// # Errors
/// Where a key that the sampler looks at holds what is not supported, or nonsense.
pub fn read(file: impl Into<Place>, named: Option<&'static Named>) -> Result<SchedulerConfig> {
    from_keys(Keys::read(file)?, named)
}

/// The configuration for the sampler `named`, or the one it names itself, of these keys.
///
/// # Errors
/// As [`read_of`].
pub fn from_keys(mut keys: Keys, named: Option<&'static Named>) -> Result<SchedulerConfig> {
    not_flow_matching(&keys)?;
    let named = match named {
        Some(named) => named,
        None => own_sampler(&mut keys)?,
    };
    let mut sampler = (named.make)();
    sampler.fields(&mut Settings(&mut keys))?;
    let mut schedule = schedule(&mut keys, &sampler)?;
    if sampler.knows().sigma_kind {
        schedule.sigmas = sigmas(&mut keys)?;
    }
    let config = SchedulerConfig {
        named,
        prediction: keys.word("prediction_type", Prediction::Epsilon, &PREDICTIONS)?,
        clipping: clipping(&mut keys, &sampler)?,
        sigmas: schedule.sigmas,
        eta: 0.0,
        trained_betas: trained_betas(&mut keys, schedule.num_train_timesteps)?,
        schedule,
        sampler,
        disable_corrector: match sampler {
            Sampler::UniPc(_) => disable_corrector(&mut keys)?,
            _ => Vec::new(),
        },
    };
    Ok(config)
}

/// What the names of diffusers' schedulers of flow matching have in common.
const FLOW_MATCHING: &str = "FlowMatch";

/// Refuses a model of flow matching (Lipman et al. 2023): its noise levels and its predictions are
/// others, and no sampler of mote's would draw but a wrong picture.
fn not_flow_matching(keys: &Keys) -> Result<()> {
    let class = keys.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    let prediction = keys.get("prediction_type").and_then(Value::as_str).unwrap_or_default();
    let is_on = |key: &str| keys.get(key) == Some(&Value::Bool(true));
    let what = match () {
        () if class.contains(FLOW_MATCHING) => format!("`_class_name` is \"{class}\""),
        () if prediction.starts_with("flow") => format!("`prediction_type` is \"{prediction}\""),
        // The others of diffusers' schedulers do not look at it.
        () if is_on("use_flow_sigmas") && class.contains("Multistep") => {
            "`use_flow_sigmas` is true".into()
        }
        () => return Ok(()),
    };
    Err(flow_matching(keys.path(), &what))
}

/// The failure of a model of flow matching, which `what` in the file at `path` tells of.
fn flow_matching(path: &Path, what: &str) -> Failure {
    let path = path.display();
    Failure::new(format!(
        "{path}: {what}: a model of flow matching, which no sampler of mote's draws from"
    ))
    .remedy("mote runs models of diffusion: Stable Diffusion 1.x, 2.x and XL, DDPM and their kind")
}

/// The sampler that the file names.
fn own_sampler(keys: &mut Keys) -> Result<&'static Named> {
    let Some(class) = keys.take_some("_class_name") else {
        return Err(Failure::new(format!("{} names no sampler", keys.path().display()))
            .remedy("Give one with --sampling-method"));
    };
    let classes: Vec<_> = SAMPLERS.iter().map(|named| (named.class, named)).collect();
    let first = keys
        .as_word("_class_name", &class, &classes)
        .map_err(|failure| failure.remedy("Give another sampler with --sampling-method"))?;
    let rows = SAMPLERS.iter().filter(|named| named.class == first.class);
    let types = rows.flat_map(|named| named.algorithm_types.iter().map(move |word| (*word, named)));
    match types.collect::<Vec<_>>() {
        types if types.is_empty() => Ok(first),
        types => keys.word("algorithm_type", first, &types),
    }
}

/// Reads a sampler's own settings.
struct Settings<'a>(&'a mut Keys);

impl Settings<'_> {
    fn pass_over_null(&mut self, key: &str) {
        if NULLABLE.contains(&key) {
            self.0.take_null(key);
        }
    }
}

impl Fields for Settings<'_> {
    type Error = Failure;

    fn size(&mut self, key: &'static str, value: &mut usize) -> Result<()> {
        *value = self.0.size(key, *value)?;
        Ok(())
    }

    fn flag(&mut self, key: &'static str, value: &mut bool) -> Result<()> {
        *value = self.0.flag(key, *value)?;
        Ok(())
    }

    fn number(&mut self, key: &'static str, value: &mut f64) -> Result<()> {
        if !TOLD.contains(&key) {
            *value = self.0.number(key, *value)?;
        }
        Ok(())
    }

    fn word<T: Copy + PartialEq>(
        &mut self,
        key: &'static str,
        value: &mut T,
        known: &[(&'static str, T)],
    ) -> Result<()> {
        if !TOLD.contains(&key) {
            self.pass_over_null(key);
            *value = self.0.word(key, *value, known)?;
        }
        Ok(())
    }

    fn only(&mut self, key: &'static str, supported: Only) -> Result<()> {
        self.pass_over_null(key);
        self.0.only(
            key,
            match supported {
                Only::Null => Value::Null,
                Only::Flag(flag) => flag.into(),
                Only::Word(word) => word.into(),
            },
        )
    }
}

/// The schedule, all but how the noise levels are spaced and the betas that are given one by one.
fn schedule(keys: &mut Keys, sampler: &Sampler<'_>) -> Result<ScheduleConfig<'static>> {
    let default = sampler.default_schedule();
    let num_train_timesteps = keys.size("num_train_timesteps", default.num_train_timesteps)?;
    if num_train_timesteps > MAX_TRAIN_TIMESTEPS {
        let value = Value::from(num_train_timesteps);
        let what = format!("mote supports at most {MAX_TRAIN_TIMESTEPS}");
        return Err(keys.fail("num_train_timesteps", &value, what));
    }
    let (beta_schedule, [beta_start, beta_end]) = betas(keys, default)?;
    if matches!(sampler, Sampler::Lcm(_)) {
        // It picks its times among those of its distillation.
        keys.take("timestep_spacing");
    }
    let timestep_spacing = keys.word("timestep_spacing", default.timestep_spacing, &SPACINGS)?;
    if timestep_spacing != Spacing::Leading {
        keys.take_null("steps_offset");
    }
    let mut config = ScheduleConfig {
        num_train_timesteps,
        beta_start,
        beta_end,
        beta_schedule,
        timestep_spacing,
        steps_offset: keys.count("steps_offset", default.steps_offset)?,
        set_alpha_to_one: keys.flag("set_alpha_to_one", default.set_alpha_to_one)?,
        ..default
    };
    let knows = sampler.knows();
    if knows.rescale_betas {
        config.rescale_betas_zero_snr = keys.flag("rescale_betas_zero_snr", false)?;
    }
    if knows.sigma_ends {
        config.sigma_min = keys.number_or_null("sigma_min")?;
        config.sigma_max = keys.number_or_null("sigma_max")?;
    }
    if knows.lambda_min {
        config.lambda_min_clipped = match keys.take_some("lambda_min_clipped") {
            None => f64::NEG_INFINITY,
            Some(value) if value == "-Infinity" => f64::NEG_INFINITY,
            Some(value) => keys.as_number("lambda_min_clipped", &value)?,
        };
    }
    Ok(config)
}

/// The kind of schedule, and its first and last beta. Where betas are given one by one, or come
/// from a formula without them, nobody looks at these.
fn betas(
    keys: &mut Keys,
    default: ScheduleConfig<'static>,
) -> Result<(BetaSchedule<'static>, [f64; 2])> {
    let (mut kind, mut ends) = (default.beta_schedule, [default.beta_start, default.beta_end]);
    if keys.has("trained_betas") {
        return Ok((kind, ends));
    }
    kind = keys.word("beta_schedule", kind, &BETA_SCHEDULES)?;
    if kind != BetaSchedule::SquaredcosCapV2 {
        ends = [beta(keys, "beta_start", ends[0])?, beta(keys, "beta_end", ends[1])?];
    }
    Ok((kind, ends))
}

fn beta(keys: &mut Keys, key: &str, default: f64) -> Result<f64> {
    match keys.number(key, default)? {
        beta if (0.0..=1.0).contains(&beta) => Ok(beta),
        beta => Err(keys.fail(key, &Value::from(beta), "it should lie between 0 and 1")),
    }
}

fn trained_betas(keys: &mut Keys, steps: usize) -> Result<Option<Vec<f32>>> {
    const KEY: &str = "trained_betas";
    let Some(value) = keys.take_some(KEY) else { return Ok(None) };
    let Some(list) = value.as_array().filter(|list| list.len() == steps) else {
        return Err(keys.fail(KEY, &value, format!("it should be a list of {steps} numbers")));
    };
    list.iter().map(|beta| keys.as_f32(KEY, beta)).collect::<Result<_>>().map(Some)
}

/// How noise levels are spaced, for the samplers that let the file choose.
fn sigmas(keys: &mut Keys) -> Result<SigmaKind> {
    keys.only("use_beta_sigmas", false)?;
    let karras = keys.flag("use_karras_sigmas", false)?;
    let exponential = keys.flag("use_exponential_sigmas", false)?;
    match (karras, exponential) {
        (false, false) => Ok(SigmaKind::Discrete),
        (true, false) => Ok(SigmaKind::Karras),
        (false, true) => Ok(SigmaKind::Exponential),
        (true, true) => {
            let what = "`use_karras_sigmas` is true already, and there can be only one";
            Err(keys.fail("use_exponential_sigmas", &Value::Bool(true), what))
        }
    }
}

/// What happens to the denoised picture. Thresholding comes before clipping, as in diffusers.
fn clipping(keys: &mut Keys, sampler: &Sampler<'_>) -> Result<Clipping> {
    let knows = sampler.knows();
    if knows.threshold && keys.flag("thresholding", false)? {
        let ratio = keys.f32("dynamic_thresholding_ratio", 0.995)?;
        // Without a limit, null, torch's `clamp` has none.
        let max = if keys.take_null("sample_max_value") { f32::MAX } else { 1.0 };
        let max = keys.f32("sample_max_value", max)?;
        return checked(keys, Clipping::DynamicThreshold { ratio, max });
    }
    let default = sampler.default_clipping();
    if knows.clip && keys.flag("clip_sample", default != Clipping::None)? {
        let range = keys.f32("clip_sample_range", 1.0)?;
        return checked(keys, Clipping::Clip { range });
    }
    Ok(Clipping::None)
}

fn checked(keys: &Keys, clipping: Clipping) -> Result<Clipping> {
    match clipping.check() {
        Ok(()) => Ok(clipping),
        Err(mote::Error::Config { key, what }) => {
            Err(Failure::new(format!("{}: `{key}` {what}", keys.path().display())))
        }
        Err(other) => Err(Failure::new(other.to_string()).within(keys.path().display())),
    }
}

fn disable_corrector(keys: &mut Keys) -> Result<Vec<usize>> {
    const KEY: &str = "disable_corrector";
    match keys.take_some(KEY) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= MAX_UNCORRECTED => {
            list.iter().map(|step| keys.as_count(KEY, step)).collect()
        }
        Some(value) => Err(keys.fail(KEY, &value, "it should be a short list of steps")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mote::diffusion::sampler::{Algorithm, DpmSolver, Pndm};
    use serde_json::json;

    use super::*;

    fn read(value: Value, sampler: Option<&str>) -> Result<SchedulerConfig> {
        let named = sampler.map(|name| Named::by_name(name).unwrap());
        from_keys(Keys::new(Path::new("scheduler_config.json"), value)?, named)
    }

    #[test]
    fn absent_keys_are_the_samplers_own_defaults() {
        let own = |class: &str| read(json!({ "_class_name": class }), None).unwrap();
        let ddpm = own("DDPMScheduler");
        assert_eq!(ddpm.clipping, Clipping::Clip { range: 1.0 });
        assert_eq!(ddpm.schedule(), ScheduleConfig::default());
        let heun = own("HeunDiscreteScheduler");
        assert_eq!(heun.clipping, Clipping::None);
        assert_eq!(heun.schedule().timestep_spacing, Spacing::Linspace);
        assert_eq!(heun.schedule().beta_end, 0.012);
        assert_eq!(own("LCMScheduler").schedule().beta_schedule, BetaSchedule::ScaledLinear);
        assert!(!own("PNDMScheduler").schedule().set_alpha_to_one);
        for named in SAMPLERS {
            assert_eq!(own(named.class).named.class, named.class);
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
        assert_eq!(own.sampler(), Sampler::Pndm(Pndm { skip_prk_steps: true }));
        assert_eq!(own.schedule().timestep_spacing, Spacing::Leading);
        let ddim = read(file.clone(), Some("ddim")).unwrap();
        assert_eq!(ddim.clipping, Clipping::None);
        assert_eq!((ddim.schedule().set_alpha_to_one, ddim.schedule().steps_offset), (false, 1));
        let euler = read(file, Some("euler")).unwrap();
        let euler = euler.schedule();
        assert_eq!(euler.timestep_spacing, Spacing::Linspace);
        assert_eq!((euler.beta_start, euler.beta_schedule), (0.00085, BetaSchedule::ScaledLinear));
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
        assert_eq!((config.named.name, config.sigmas), ("dpm++2m_sde", SigmaKind::Karras));
        let sde = DpmSolver { algorithm: Algorithm::Sde, ..DpmSolver::default() };
        assert_eq!(config.sampler(), Sampler::DpmSolver(sde));
        assert_eq!(read(file, Some("dpm++2m")).unwrap().named.name, "dpm++2m");
    }

    #[test]
    fn lists_and_settings_reach_the_core() {
        let file = json!({"trained_betas": [0.1, 0.25], "num_train_timesteps": 2,
            "disable_corrector": [0, 3], "thresholding": true, "sample_max_value": 2.0});
        let config = read(file, Some("unipc")).unwrap();
        assert_eq!(config.schedule().beta_schedule, BetaSchedule::Given(&[0.1, 0.25]));
        assert_eq!(config.clipping, Clipping::DynamicThreshold { ratio: 0.995, max: 2.0 });
        let Sampler::UniPc(unipc) = config.sampler() else { panic!("not UniPC") };
        assert_eq!(unipc.disable_corrector, [0, 3]);
    }

    #[test]
    fn keys_that_the_sampler_does_not_look_at_may_hold_anything() {
        let file = json!({"_class_name": "DDIMScheduler", "variance_type": "learned",
            "use_flow_sigmas": true, "solver_order": 9, "tensor_format": "pt", "eta": 0.5});
        let own = read(json!({"_class_name": "DDIMScheduler"}), None);
        assert_eq!(read(file, None), own);
        let given = json!({"trained_betas": [0.1, 0.2], "num_train_timesteps": 2,
            "beta_schedule": null, "beta_start": null, "beta_end": "none"});
        assert!(read(given, Some("ddim")).is_ok());
        assert!(read(json!({"timestep_spacing": null}), Some("lcm")).is_ok());
        assert!(read(json!({"steps_offset": null}), Some("euler")).is_ok());
    }

    #[test]
    fn null_is_false_or_no_limit_where_python_takes_it_so() {
        let all = [
            "clip_sample",
            "thresholding",
            "set_alpha_to_one",
            "rescale_betas_zero_snr",
            "skip_prk_steps",
            "lower_order_final",
            "euler_at_final",
            "use_lu_lambdas",
            "use_flow_sigmas",
            "use_dynamic_shifting",
            "use_karras_sigmas",
            "use_beta_sigmas",
            "use_exponential_sigmas",
            "timestep_type",
            "variance_type",
            "trained_betas",
            "sigma_min",
            "lambda_min_clipped",
            "disable_corrector",
            "solver_p",
        ];
        for named in SAMPLERS {
            for key in all {
                let null = read(json!({ key: null }), Some(named.name)).unwrap();
                let off = [
                    "timestep_type",
                    "variance_type",
                    "trained_betas",
                    "sigma_min",
                    "lambda_min_clipped",
                    "disable_corrector",
                    "solver_p",
                ];
                let same = if off.contains(&key) { json!({}) } else { json!({ key: false }) };
                assert_eq!(null, read(same, Some(named.name)).unwrap(), "{named:?} {key}");
            }
            for key in ["num_train_timesteps", "prediction_type", "beta_schedule", "beta_start"] {
                let said = read(json!({ key: null }), Some(named.name)).unwrap_err().to_string();
                assert!(said.contains(&format!("`{key}` is null")), "{said}");
            }
        }
        let threshold = json!({"thresholding": true, "sample_max_value": null});
        let config = read(threshold, Some("ddim")).unwrap();
        assert_eq!(config.clipping, Clipping::DynamicThreshold { ratio: 0.995, max: f32::MAX });
        let offset = json!({"timestep_spacing": "leading", "steps_offset": null});
        let said = read(offset, Some("euler")).unwrap_err().to_string();
        assert!(said.contains("`steps_offset` is null"), "{said}");
    }

    #[test]
    fn a_file_of_stable_diffusions_first_days_is_brought_up_to_date() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, value: Value| {
            std::fs::create_dir_all(folder.path().join("scheduler")).unwrap();
            std::fs::write(folder.path().join(file), value.to_string()).unwrap();
        };
        let vae = json!(["diffusers", "AutoencoderKL"]);
        let class = "StableDiffusionPipeline";
        let read = |vae: &Value, named: Option<&str>, settings: &Value| {
            write("model_index.json", json!({"_class_name": class, "vae": vae}));
            write("scheduler/scheduler_config.json", settings.clone());
            let named = named.map(|name| Named::by_name(name).unwrap());
            let config = read_of(&Place::from(folder.path()), named).unwrap();
            (config.schedule().steps_offset, config.clipping)
        };
        let ddim = |offset: Value, clip: Value| -> Value {
            let class = "DDIMScheduler";
            json!({"_class_name": class, "steps_offset": offset, "clip_sample": clip})
        };
        let clipped = Clipping::Clip { range: 1.0 };
        let bare = json!({"_class_name": "DDIMScheduler"});
        let other = json!({"_class_name": "EulerDiscreteScheduler"});
        for (vae, named, settings, expected) in [
            (&vae, None, &ddim(json!(0), json!(true)), (1, Clipping::None)),
            (&vae, None, &ddim(Value::Null, Value::Null), (1, Clipping::None)),
            (&vae, None, &bare, (1, Clipping::None)),
            (&vae, Some("ddim"), &bare, (1, Clipping::None)),
            // What was never said is the other sampler's to choose.
            (&vae, Some("ddim"), &other, (0, clipped)),
            (&vae, Some("ddpm"), &ddim(json!(0), json!(true)), (1, Clipping::None)),
            // Without an autoencoder it is pixels that are sampled.
            (&Value::Null, None, &ddim(json!(0), json!(true)), (0, clipped)),
        ] {
            assert_eq!(read(vae, named, settings), expected, "{named:?} {settings}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let (ddpm, euler) = (Some("ddpm"), Some("euler"));
        let (dpm, unipc) = (Some("dpm++2m"), Some("unipc"));
        for (method, name, value) in [
            (None, "_class_name", json!("FlowMatchEulerDiscreteScheduler")),
            (ddpm, "variance_type", json!("learned")),
            (ddpm, "beta_schedule", json!("laplace")),
            (ddpm, "beta_start", json!(-1)),
            (ddpm, "beta_end", json!(1.5)),
            (ddpm, "trained_betas", json!([0.1])),
            (ddpm, "num_train_timesteps", json!(1_000_000)),
            (ddpm, "num_train_timesteps", json!(0)),
            (ddpm, "prediction_type", json!("flow_prediction")),
            (ddpm, "clip_sample_range", json!(-1)),
            (euler, "interpolation_type", json!("log_linear")),
            (euler, "use_beta_sigmas", json!(true)),
            (euler, "steps_offset", json!(-1)),
            (dpm, "lambda_min_clipped", json!("Infinity")),
            (dpm, "variance_type", json!("learned_range")),
            (unipc, "predict_x0", json!(false)),
            (unipc, "disable_corrector", json!([-1])),
        ] {
            let said = read(json!({ name: value }), method).unwrap_err().to_string();
            assert!(said.contains(&format!("`{name}`")), "{said}");
        }
        assert!(read(json!({}), None).unwrap_err().to_string().contains("--sampling-method"));
        let both = json!({"use_karras_sigmas": true, "use_exponential_sigmas": true});
        assert!(read(both, dpm).is_err());
    }
}
