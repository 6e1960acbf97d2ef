//! What the fuzz targets do: each takes bytes that a stranger wrote, and must return.
//!
//! The corpora under `corpus/` are replayed by the tests below, without a fuzzer: this file is one
//! of the workspace's tests, too.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use mote::arch::Isa;
use mote::diffusion::noise::NoiseKind;
use mote::diffusion::prediction::Clipping;
use mote::diffusion::sampler::{Named, Row, Stepping};
use mote::diffusion::schedule::Schedule;
use mote::exec::Sequential;
use mote::mem::Arena;
use mote::models::autoencoder_kl::AutoencoderKlConfig;
use mote::models::clip_text::ClipTextConfig;
use mote::models::clip_tokenizer::ClipTokenizer;
use mote::models::unet_2d::{self, ClassEmbedding, UNet2DConfig};
use mote::models::unet_2d_condition::{self, UNet2DConditionConfig};
use mote::ops::Context;
use mote::pipeline::{Autoencoder, Pipeline, Sampling, TextToImage, Unconditional};
use mote::tensor::{DType, Shape};
use mote::weights::{Assumed, InPlace, Index, Slot, Weights, header_bytes};
use mote_host::checkpoint::pickle::Pickled;
use mote_host::tokenizer::Tokenizer;
use mote_host::types::Type;
use mote_host::{Failure, Machine, Parts, Place, Request};

/// A safetensors file: its header is parsed, and every tensor it names is read.
pub fn safetensors(file: &[u8]) {
    let Ok(header) = header_bytes(file, file.len() as u64) else { return };
    let header = &file[header];
    let Ok(count) = Index::count(header) else { return };
    let mut slots = vec![Slot::EMPTY; count];
    let Ok(index) = Index::parse(header, file.len() as u64, &mut slots) else { return };
    let mut weights = InPlace::new(index, file);
    for (name, weight) in index.iter() {
        let name = mote_host::checkpoint::mapped::plain_name(name);
        let found = weights.find(&name, Shape::new([])).expect("a look-up does not fail");
        assert_eq!(found, Some(weight), "what is listed is found");
        assert_eq!(Index::search(header, file.len() as u64, &name), Ok(Some(weight)));
        let bytes = weights.read(&weight, 0, weight.bytes, &mut []).expect("it lies in the file");
        assert_eq!(bytes.len(), weight.bytes);
    }
}

/// Runs `test` on a file that holds `bytes`.
fn with_file(name: &str, bytes: &[u8], test: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a temporary file can be written");
    test(&path);
}

/// A checkpoint of PyTorch's, zip and pickle: it is described, and every tensor of it read.
pub fn pickle(file: &[u8]) {
    with_file("model.ckpt", file, |path| {
        let Ok(pickled) = Pickled::open(path) else { return };
        for name in pickled.names() {
            let weight = pickled.find(name).expect("what is listed is found");
            let bytes = pickled.read(&weight, 0, weight.bytes).expect("it lies in the file");
            assert_eq!(bytes.len(), weight.bytes);
        }
    });
}

/// A `config.json`: the first byte says of which class.
pub fn config(bytes: &[u8]) {
    let Some((class, text)) = bytes.split_first() else { return };
    with_file("config.json", text, |path| {
        use mote_host::config;
        match class % 5 {
            0 => drop(config::unet_2d::read(path).map(|unet| unet.validate())),
            1 => drop(config::unet_2d_condition::read(path).map(|unet| unet.validate())),
            2 => drop(config::clip_text::read(path).map(|text| text.validate())),
            3 => drop(config::autoencoder::read(path)),
            _ => drop(config::model_index::read(path.parent().expect("a folder"))),
        }
    });
}

/// Tokenizer files and a prompt: the first byte says how many bytes are the prompt's and which file
/// the rest is; and the same bytes as a packed table.
pub fn tokenizer(bytes: &[u8]) {
    let Some((&kind, rest)) = bytes.split_first() else { return };
    let (text, file) = rest.split_at(rest.len().min(usize::from(kind / 4)));
    let text = String::from_utf8_lossy(text);
    match kind % 4 {
        0 => {
            if let Ok(table) = ClipTokenizer::new(file) {
                let mut scratch = vec![0; table.scratch_len(&text)];
                let mut ids = [0; 77];
                let _ = table.encode(&text, &mut ids, &mut scratch);
            }
        }
        1 => with_file("tokenizer.json", file, |path| tokenize(path, &text)),
        2 => {
            // vocab.json and merges.txt, with a NUL between them.
            let cut = file.iter().position(|&byte| byte == 0).unwrap_or(file.len());
            with_file("vocab.json", &file[..cut], |path| {
                let merges = &file[(cut + 1).min(file.len())..];
                fs::write(path.with_file_name("merges.txt"), merges).expect("it can be written");
                tokenize(path, &text);
            });
        }
        _ => {
            // A good table and any text at all.
            static GOOD: LazyLock<Tokenizer> = LazyLock::new(|| {
                let folder = "../tests/golden/tokenizer/small";
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
                Tokenizer::from_folder(&folder).expect("the committed vocabulary is good")
            });
            let ids = GOOD.encode(&String::from_utf8_lossy(rest)).expect("any text has ids");
            let vocab_size = GOOD.core().expect("the table is good").vocab_size();
            assert!(ids.iter().all(|&id| (id as usize) < vocab_size));
        }
    }
}

fn tokenize(file: &Path, text: &str) {
    let folder = file.parent().expect("the file lies in a folder");
    if let Ok(tokenizer) = Tokenizer::from_folder(folder) {
        drop(tokenizer.encode(text));
    }
}

/// A `scheduler_config.json`, for the sampler, the steps and the first step that the first three
/// bytes say: the table is computed, and every number in it is finite.
pub fn scheduler(bytes: &[u8]) {
    let Some((&[number, steps, start], text)) = bytes.split_first_chunk::<3>() else { return };
    let named = Named::numbered(usize::from(number));
    with_file("scheduler_config.json", text, |path| {
        let Ok(config) = mote_host::config::scheduler::read(path, named) else { return };
        let mut memory = vec![0.0; config.schedule().num_train_timesteps];
        let Ok(schedule) = Schedule::new(config.schedule(), &mut memory) else { return };
        let (sampler, prediction) = (config.sampler(), config.prediction);
        let (steps, start) = (usize::from(steps), usize::from(start));
        let mut rows = vec![Row::EMPTY; sampler.row_count(steps, start)];
        let table = sampler.rows(&schedule, prediction, steps, start, &mut rows);
        for row in table.map_or(&[][..], |count| &rows[..count]) {
            let updates = row.updates().iter();
            let mut numbers = updates.flat_map(|u| [u.x, u.output, u.denoised, u.noise]);
            assert!(numbers.all(f32::is_finite) && row.timestep.is_finite(), "{row:?}");
        }
        let _ = sampler.init_noise_sigma(&schedule, steps);
        let _ = sampler.start_scales(&schedule, steps, start);
    });
}

/// The most pixels of a picture here: larger ones cost time and find nothing more.
const MAX_PIXELS: u64 = 1 << 16;

/// A picture, PNG, JPEG or WebP, with its notes: it is decoded and made smaller, or refused.
pub fn picture(bytes: &[u8]) {
    let Ok(picture) = mote_host::image::decode(bytes, Path::new("picture"), MAX_PIXELS) else {
        return;
    };
    assert_eq!(picture.rgb.len(), 3 * picture.width * picture.height, "three bytes a pixel");
    assert!((picture.width * picture.height) as u64 <= MAX_PIXELS, "no larger than it may be");
    assert_eq!(picture.resized([5, 7]).rgb.len(), 3 * 5 * 7);
}

/// The texts of a model's folder, in the order in which [`model`] takes them.
const TEXTS: [&str; 10] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/added_tokens.json",
];

/// All texts of a model's folder at once, with a NUL between them: they are understood together and
/// a picture is planned, or a sentence says why not. An empty one is no file, but for the
/// vocabulary, which is then the committed one. The first two bytes are what is asked for.
pub fn model(bytes: &[u8]) {
    let Some((&[asked, method], rest)) = bytes.split_first_chunk::<2>() else { return };
    let is_asked = |bit: u8| asked >> bit & 1 == 1;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut texts = rest.split(|&byte| byte == 0);
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tokenizer/small");
    for name in TEXTS {
        let text = texts.next().unwrap_or_default();
        let (part, file) = name.split_once('/').unwrap_or((".", name));
        // A noise predictor and its scheduler may lie in the root.
        let is_flat = is_asked(0) && matches!(part, "unet" | "scheduler");
        let path = folder.path().join(if is_flat { "." } else { part });
        fs::create_dir_all(&path).expect("a folder can be made");
        if !text.is_empty() {
            fs::write(path.join(file), text).expect("a file can be written");
        } else if part == "tokenizer" && good.join(file).is_file() {
            fs::copy(good.join(file), path.join(file)).expect("a file can be copied");
        }
    }
    if is_asked(0) {
        drop(fs::remove_dir(folder.path().join("vae")));
    }
    let side = is_asked(1).then_some(24 + u32::from(asked >> 6) * 40);
    let request = Request {
        prompt: is_asked(2).then(|| "a cat".to_string()),
        class_label: is_asked(3).then_some(1),
        vae_tiling: is_asked(4),
        width: side,
        height: side,
        steps: 1 + u32::from(method >> 4),
        sampling_method: Named::numbered(usize::from(method & 15)),
        ..Request::default()
    };
    let parts = Parts { dtype: is_asked(5).then_some(Type::Int8), ..Parts::default() };
    let is_told = |failure: Failure| {
        let said = failure.to_string();
        assert!(said.ends_with('.') && said.len() > 9, "{said}");
    };
    let place = match Place::model(folder.path()) {
        Err(failure) => return is_told(failure),
        Ok(place) => place,
    };
    match mote_host::resolve::resolve(&place, &parts, &request) {
        Err(failure) => is_told(failure),
        Ok(resolved) => {
            let machine = Machine::plain().expect("no thread is started");
            match mote_host::plan::plan(&resolved, &machine, &mut Assumed(DType::F16)) {
                Err(failure) => is_told(failure),
                Ok(plan) => assert!(plan.arena_bytes > 0, "a picture takes some memory"),
            }
        }
    }
}

/// Small numbers out of a stranger's bytes; zeros when they are used up.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next(&mut self) -> usize {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(first)
    }

    fn flag(&mut self) -> bool {
        self.next() % 2 == 1
    }

    /// Mostly small, sometimes enormous.
    fn size(&mut self) -> usize {
        match self.next() {
            small @ 0..=199 => small,
            shift => 1usize.checked_shl(shift as u32 - 195).map_or(usize::MAX, |size| size - 1),
        }
    }

    fn list<T, const N: usize>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> T,
    ) -> heapless::Vec<T, N> {
        let len = self.next() % (N + 1);
        (0..len).map(|_| item(self)).collect()
    }
}

fn unet_2d(n: &mut Numbers<'_>) -> UNet2DConfig {
    let block = |n: &mut Numbers<'_>| match n.next() % 3 {
        0 => unet_2d::BlockType::Plain,
        1 => unet_2d::BlockType::Attention,
        _ => unet_2d::BlockType::Resnet,
    };
    UNet2DConfig {
        in_channels: n.size(),
        out_channels: n.size(),
        time_embedding_dim: n.flag().then(|| n.size()),
        down_block_types: n.list(block),
        up_block_types: n.list(block),
        mid_block: n.flag(),
        add_attention: n.flag(),
        block_out_channels: n.list(Numbers::size),
        layers_per_block: n.size(),
        downsample_padding: n.next() % 3,
        attention_head_dim: n.flag().then(|| n.size()),
        norm_num_groups: n.size(),
        attn_norm_num_groups: n.flag().then(|| n.size()),
        class_embedding: match n.next() % 4 {
            0 => ClassEmbedding::None,
            1 => ClassEmbedding::Table(n.size()),
            2 => ClassEmbedding::Timestep,
            _ => ClassEmbedding::Identity,
        },
        ..UNet2DConfig::default()
    }
}

fn unet_2d_condition(n: &mut Numbers<'_>) -> UNet2DConditionConfig {
    let block = |n: &mut Numbers<'_>| match n.flag() {
        false => unet_2d_condition::BlockType::Plain,
        true => unet_2d_condition::BlockType::CrossAttention,
    };
    UNet2DConditionConfig {
        in_channels: n.size(),
        out_channels: n.size(),
        down_block_types: n.list(block),
        up_block_types: n.list(block),
        mid_block: n.flag(),
        only_cross_attention: n.list(Numbers::flag),
        block_out_channels: n.list(Numbers::size),
        layers_per_block: n.list(Numbers::size),
        transformer_layers_per_block: n.list(Numbers::size),
        norm_num_groups: n.size(),
        cross_attention_dim: n.size(),
        attention_heads: n.list(Numbers::size),
        use_linear_projection: n.flag(),
        ..UNet2DConditionConfig::default()
    }
}

/// Any configuration at all, planned: it yields bytes or an error.
pub fn plan(bytes: &[u8]) {
    let n = &mut Numbers(bytes);
    let rows = [Row::EMPTY; 2];
    let sampling = Sampling {
        rows: &rows[..n.next() % 3],
        init_noise_sigma: 1.0,
        clipping: Clipping::None,
        guidance_scale: 1.0,
        noise: NoiseKind::Pcg,
        seed: 0,
    };
    let mut weights = Assumed(DType::F16);
    let cx = &mut Context::new(Arena::measuring(), Isa::SCALAR, &Sequential, &mut weights);
    let size = [n.size(), n.size()];
    if n.flag() {
        let unet = unet_2d(n);
        let class_label = n.flag().then_some(0.0);
        drop(Unconditional { unet: &unet, sampling, size, class_label }.plan(cx));
        return;
    }
    let text_encoder = ClipTextConfig {
        vocab_size: n.size(),
        hidden_size: n.size(),
        intermediate_size: n.size(),
        num_hidden_layers: n.size(),
        num_attention_heads: n.size(),
        max_position_embeddings: n.size(),
        ..ClipTextConfig::default()
    };
    let unet = unet_2d_condition(n);
    let vae = AutoencoderKlConfig {
        latent_channels: n.size(),
        block_out_channels: n.list(Numbers::size),
        layers_per_block: n.size(),
        norm_num_groups: n.size(),
        ..AutoencoderKlConfig::default()
    };
    let ids = vec![0; n.next()];
    let vae = Autoencoder::Kl(vae);
    let vae_tile = [None, Some(n.size())][n.next() % 2];
    let sampling = Sampling { guidance_scale: n.next() as f32 / 16.0, ..sampling };
    let request = TextToImage {
        text_encoder: &text_encoder,
        unet: &unet,
        vae: Some(&vae),
        vae_tile,
        sampling,
        prompt: &ids,
        negative_prompt: &ids,
        token_weights: None,
        clip_skip: n.size(),
        embedded_guidance: unet.time_cond_proj_dim.map(|_| 1.0),
        size,
        init_image: None,
    };
    drop(request.plan(cx));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(target: &str, test: impl Fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let mut count = 0;
        for entry in fs::read_dir(&folder).expect("every target has a corpus") {
            let path = entry.expect("an entry can be read").path();
            test(&fs::read(&path).expect("a corpus can be read"));
            count += 1;
        }
        assert!(count > 10, "{target}: only {count} inputs");
    }

    #[test]
    fn the_corpus_of_safetensors_is_read_without_a_finding() {
        replay("safetensors", safetensors);
    }

    #[test]
    fn the_corpus_of_pickle_is_read_without_a_finding() {
        replay("pickle", pickle);
    }

    #[test]
    fn the_corpus_of_config_is_read_without_a_finding() {
        replay("config", config);
    }

    #[test]
    fn the_corpus_of_tokenizer_is_read_without_a_finding() {
        replay("tokenizer", tokenizer);
    }

    #[test]
    fn the_corpus_of_scheduler_is_read_without_a_finding() {
        replay("scheduler", scheduler);
    }

    #[test]
    fn the_corpus_of_picture_is_decoded_without_a_finding() {
        replay("picture", picture);
    }

    #[test]
    fn the_corpus_of_plan_is_planned_without_a_finding() {
        replay("plan", plan);
    }

    #[test]
    fn the_corpus_of_model_is_understood_without_a_finding() {
        replay("model", model);
    }
}
