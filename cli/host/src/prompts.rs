//! What the text encoders are handed, and what else the noise predictor is told: from a request and
//! the configurations of one encoder, or of Stable Diffusion XL's two.

use std::path::PathBuf;

use mote::models::clip_text::ClipTextConfig;
use mote::models::clip_text_projection::ClipTextProjectionConfig;

use crate::checkpoint::place::{Place, Places};
use crate::config::model_index::ModelIndex;
use crate::config::{clip_text, clip_text_projection};
use crate::embedding::{self, Word};
use crate::error::{Failure, Result};
use crate::request::Request;
use crate::tokenizer::Tokenizer;
use crate::types::{Corner, PromptSyntax, Size};
use crate::webui::{self, Chunks};
use crate::{notes, tokenizer};

/// How beautiful a picture is to be, where nothing is said, and what it is not to be like: the
/// refiner's, as in diffusers.
const AESTHETIC_SCORE: f32 = 6.0;
const UGLY_SCORE: f32 = 2.5;

/// What turns the texts into vectors.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one in a run")]
pub enum Encoders {
    /// Stable Diffusion 1.x and 2.x.
    One(ClipTextConfig),
    /// Stable Diffusion XL.
    Xl(Xl),
}

/// What Stable Diffusion XL has beside the first text encoder's tokens.
#[derive(Clone, Debug)]
pub struct Xl {
    /// The first text encoder; the refiner has none.
    pub first: Option<ClipTextConfig>,
    /// The second.
    pub second: ClipTextProjectionConfig,
    /// The prompt's token ids for the second.
    pub prompt: Vec<u32>,
    /// The negative prompt's, unless zeros stand for what the encoders would say of it.
    pub negative_prompt: Option<Vec<u32>>,
    /// The sizes that the noise predictor is told with the prompt, and with the negative one.
    pub numbers: [Vec<f32>; 2],
}

impl Encoders {
    /// How wide the vectors of each one's tokens are.
    pub fn widths(&self) -> Vec<(&'static str, usize)> {
        match self {
            Self::One(encoder) => vec![("text_encoder", encoder.hidden_size)],
            Self::Xl(xl) => {
                let first = xl.first.as_ref().map(|first| ("text_encoder", first.hidden_size));
                first.into_iter().chain([("text_encoder_2", xl.second.text.hidden_size)]).collect()
            }
        }
    }
}

/// What is asked of the text encoders.
pub struct Asked<'a> {
    /// The model.
    pub folder: &'a Place,
    /// What is wanted.
    pub request: &'a Request,
    /// The model's pipeline.
    pub index: &'a ModelIndex,
    /// The prompt and the negative prompt.
    pub texts: [&'a str; 2],
    /// Whether the negative prompt is looked at.
    pub is_guided: bool,
    /// Height and width of the picture.
    pub size: [usize; 2],
    /// Words with vectors of their own.
    pub words: &'a [Word],
}

/// The text encoders, and what they are handed.
pub struct Encoded {
    /// The text encoder, or the two.
    pub encoders: Encoders,
    /// The prompt's token ids for the first.
    pub prompt: Vec<u32>,
    /// The negative prompt's.
    pub negative_prompt: Vec<u32>,
    /// By how much each token's states are multiplied, of both.
    pub token_weights: Option<[Vec<f32>; 2]>,
    /// How many of the last layers are left out.
    pub clip_skip: usize,
    /// Which words of the texts do not fit, as sentences.
    pub cut: Vec<String>,
}

impl Asked<'_> {
    /// One text encoder; where its weights lie is put first.
    ///
    /// # Errors
    /// Where it cannot be used, or is asked for what it cannot do.
    pub fn one(&self, places: &mut Places) -> Result<Encoded> {
        if let Some(flag) = told(self.request) {
            return Err(Failure::new(format!(
                "{flag} has no meaning here: this model is told none"
            ))
            .remedy("Leave it out: it is for Stable Diffusion XL"));
        }
        let at = self.folder.part("text_encoder");
        let mut encoder = clip_text::read(at.join("config.json"))?;
        let tokens = self.tokens("tokenizer", "text_encoder", &mut encoder)?;
        let clip_skip = clip_skip(encoder.num_hidden_layers, self.request.clip_skip)?;
        places.insert(0, ("text_encoder", at));
        if self.request.prompt_syntax == PromptSyntax::WebUi {
            let [prompt, negative] = self.texts.map(|text| tokens.chunks(text, &encoder));
            let ((prompt, first), (negative_prompt, second)) = (prompt?, negative?);
            let (token_weights, cut) = (Some([first, second]), Vec::new());
            let encoders = Encoders::One(encoder);
            return Ok(Encoded {
                prompt,
                negative_prompt,
                token_weights,
                clip_skip,
                cut,
                encoders,
            });
        }
        Ok(Encoded {
            prompt: tokens.encode(self.texts[0])?,
            negative_prompt: tokens.encode(self.texts[1])?,
            token_weights: None,
            clip_skip,
            cut: self.cut(&tokens)?,
            encoders: Encoders::One(encoder),
        })
    }

    /// Stable Diffusion XL's two text encoders, or the second alone.
    ///
    /// # Errors
    /// As [`Asked::one`].
    pub fn xl(&self, places: &mut Places) -> Result<Encoded> {
        if self.request.prompt_syntax == PromptSyntax::WebUi {
            return Err(Failure::new("--prompt-syntax webui is not for Stable Diffusion XL yet")
                .remedy("Leave it out, and the signs of web UIs out of the prompt"));
        }
        let at = self.folder.part("text_encoder_2");
        let mut second = clip_text_projection::read(at.join("config.json"))?;
        places.insert(0, ("text_encoder_2", at));
        let tokens = self.tokens("tokenizer_2", "text_encoder_2", &mut second.text)?;
        let at = self.folder.part("text_encoder");
        let (mut layers, mut first, mut ids) =
            (second.text.num_hidden_layers, None, [vec![], vec![]]);
        if at.is_folder() {
            let mut encoder = clip_text::read(at.join("config.json"))?;
            let tokens = self.tokens("tokenizer", "text_encoder", &mut encoder)?;
            ids = [tokens.encode(self.texts[0])?, tokens.encode(self.texts[1])?];
            layers = layers.min(encoder.num_hidden_layers);
            first = Some(encoder);
            places.insert(0, ("text_encoder", at));
        }
        let is_zero = self.index.zeros_for_empty_prompt && self.texts[1].is_empty();
        let negative_prompt = (!is_zero).then(|| tokens.encode(self.texts[1])).transpose()?;
        // Its states are those before the last layer, where nothing else is said.
        let clip_skip = clip_skip(layers.saturating_sub(1), self.request.clip_skip)?;
        let xl = Xl {
            first,
            prompt: tokens.encode(self.texts[0])?,
            negative_prompt,
            numbers: self.numbers()?,
            second,
        };
        let ([prompt, negative_prompt], cut) = (ids, self.cut(&tokens)?);
        let (encoders, token_weights) = (Encoders::Xl(xl), None);
        Ok(Encoded { encoders, prompt, negative_prompt, token_weights, clip_skip, cut })
    }

    /// The tokenizer of a text encoder, whose table has the words' vectors behind its own.
    fn tokens(
        &self,
        folder: &str,
        network: &str,
        encoder: &mut ClipTextConfig,
    ) -> Result<Tokens<'_>> {
        let mut tokens = Tokens::open(&self.folder.part(folder), encoder)?;
        tokens.words = self.words;
        for word in self.words {
            let values = word.values(network, encoder.hidden_size).unwrap_or_default();
            let count = values.len() / encoder.hidden_size;
            let first = encoder.vocab_size;
            tokens.ids.push((first..first + count).map(|id| id as u32).collect());
            encoder.vocab_size += count;
        }
        tokens.vectors = encoder.vocab_size;
        Ok(tokens)
    }

    /// Which words do not fit.
    fn cut(&self, tokens: &Tokens<'_>) -> Result<Vec<String>> {
        let mut cut = Vec::from_iter(tokens.cut("prompt", self.texts[0])?);
        if self.is_guided {
            cut.extend(tokens.cut("negative prompt", self.texts[1])?);
        }
        Ok(cut)
    }

    /// What the noise predictor is told with the prompt, and with the negative one.
    fn numbers(&self) -> Result<[Vec<f32>; 2]> {
        let request = self.request;
        let refuse = |flag: &str, why: &str| {
            Err(Failure::new(format!("{flag} has no meaning here: {why}")).remedy("Leave it out"))
        };
        let scores = [request.aesthetic_score, request.negative_aesthetic_score];
        let originals = [request.original_size, request.negative_original_size];
        let corners = [request.crops_coords_top_left, request.negative_crops_coords_top_left];
        let targets = [request.target_size, request.negative_target_size];
        if self.index.is_told_aesthetics {
            if targets.iter().any(Option::is_some) {
                return refuse("--target-size", "the refiner is told a score in its place");
            }
            let [score, negative] = scores;
            let scores = [score.unwrap_or(AESTHETIC_SCORE), negative.unwrap_or(UGLY_SCORE)];
            let originals = [originals[0], originals[1].or(originals[0])];
            return Ok([0, 1].map(|i| self.tell(originals[i], corners[i], &[scores[i]])));
        }
        if scores.iter().any(Option::is_some) {
            return refuse("--aesthetic-score", "only the refiner is told one");
        }
        let [height, width] = self.size.map(|side| side as u32);
        let target = |i: usize| {
            let Size { width, height } = targets[i].unwrap_or(Size { width, height });
            [height as f32, width as f32]
        };
        let prompt = self.tell(originals[0], corners[0], &target(0));
        match (originals[1], targets[1], corners[1]) {
            (Some(_), Some(_), _) => Ok([prompt, self.tell(originals[1], corners[1], &target(1))]),
            (None, None, None) => Ok([prompt.clone(), prompt]),
            _ => Err(Failure::new("the sizes that the negative prompt goes with are not complete")
                .remedy("Give both --negative-original-size and --negative-target-size")),
        }
    }

    /// The numbers of one side.
    fn tell(&self, original: Option<Size>, corner: Option<Corner>, last: &[f32]) -> Vec<f32> {
        let [height, width] = self.size.map(|side| side as u32);
        let Size { width, height } = original.unwrap_or(Size { width, height });
        let Corner { top, left } = corner.unwrap_or(Corner { top: 0, left: 0 });
        let numbers = [height, width, top, left].into_iter().map(|number| number as f32);
        numbers.chain(last.iter().copied()).collect()
    }
}

/// The first flag that says what Stable Diffusion XL alone is told.
pub fn told(request: &Request) -> Option<&'static str> {
    [
        (request.original_size.is_some(), "--original-size"),
        (request.crops_coords_top_left.is_some(), "--crops-coords-top-left"),
        (request.target_size.is_some(), "--target-size"),
        (request.negative_original_size.is_some(), "--negative-original-size"),
        (request.negative_crops_coords_top_left.is_some(), "--negative-crops-coords-top-left"),
        (request.negative_target_size.is_some(), "--negative-target-size"),
        (request.aesthetic_score.is_some(), "--aesthetic-score"),
        (request.negative_aesthetic_score.is_some(), "--negative-aesthetic-score"),
    ]
    .into_iter()
    .find_map(|(given, flag)| given.then_some(flag))
}

/// The tokenizer, and how many tokens the text encoder takes.
struct Tokens<'a> {
    tokenizer: Tokenizer,
    length: usize,
    /// How many of them the text encoder has vectors for. Tokens that were added to the vocabulary
    /// alone lie beyond, and do no harm where they are not used.
    vectors: usize,
    folder: PathBuf,
    /// Words with vectors of their own, and the ids of these.
    words: &'a [Word],
    ids: Vec<Vec<u32>>,
}

impl Tokens<'_> {
    fn open(folder: &Place, encoder: &ClipTextConfig) -> Result<Self> {
        let tokenizer = Tokenizer::from_folder(folder)?;
        let most = encoder.max_position_embeddings;
        let length = tokenizer.model_max_length().map_or(most, |length| length.min(most));
        let (vectors, folder) = (encoder.vocab_size, folder.path().into());
        Ok(Self { tokenizer, length, vectors, folder, words: &[], ids: Vec::new() })
    }

    /// The ids of a text in a web UI's syntax, in chunks of as many as the encoder takes, and each
    /// one's weight.
    fn chunks(&self, text: &str, encoder: &ClipTextConfig) -> Result<(Vec<u32>, Vec<f32>)> {
        let tokenizer = self.tokenizer.core()?;
        let plain = |text: &str| -> Result<Vec<u32>> {
            let mut ids = tokenizer::encode(&tokenizer, text, text.len() + 2)?;
            ids.truncate(tokenizer::used(&tokenizer, text, text.len() + 2)?.saturating_sub(1));
            Ok(ids.split_off(1.min(ids.len())))
        };
        let comma = plain(",")?.first().copied();
        let ends = [tokenizer.bos(), tokenizer.eos(), tokenizer.pad()];
        let mut chunks = Chunks::new(encoder.max_position_embeddings, comma, ends);
        for part in webui::parse(text) {
            let webui::Part::Text(text, weight) = part else {
                chunks.close();
                continue;
            };
            for (piece, word) in embedding::pieces(&text, self.words) {
                match word.map(|word| &self.ids[word]).filter(|ids| !ids.is_empty()) {
                    Some(ids) => chunks.push_word(ids, weight as f32),
                    None => plain(piece)?.into_iter().for_each(|id| chunks.push(id, weight as f32)),
                }
            }
        }
        let (ids, weights) = chunks.end();
        self.check(&ids)?;
        Ok((ids, weights))
    }

    /// Refuses tokens that the text encoder has no vectors for.
    fn check(&self, ids: &[u32]) -> Result<()> {
        let Some(id) = ids.iter().find(|&&id| id as usize >= self.vectors) else { return Ok(()) };
        Err(Failure::new(format!(
            "the prompt holds a word that {} has as token {id}, and the text encoder \
             knows {} tokens",
            self.folder.display(),
            self.vectors
        ))
        .remedy("Leave out the word that was added, or take the files of one and the same model"))
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut pieces: Vec<(&str, &[u32])> = Vec::new();
        for (piece, word) in embedding::pieces(text, self.words) {
            let ids: &[u32] = word.map_or(&[], |word| &self.ids[word]);
            // A word without vectors for this encoder is read as what it is.
            let is_word = word.is_some() && !ids.is_empty();
            pieces.push((if is_word { "" } else { piece }, ids));
        }
        let ids = tokenizer::encode_pieces(&self.tokenizer.core()?, &pieces, self.length)?;
        self.check(&ids)?;
        Ok(ids)
    }

    fn cut(&self, what: &str, text: &str) -> Result<Option<String>> {
        notes::cut(&self.tokenizer.core()?, what, text, self.length)
    }
}

/// How many layers are left out: `--clip-skip` counts from 1, as the web UIs do.
fn clip_skip(layers: usize, layer: Option<u32>) -> Result<usize> {
    let skipped = layer.map_or(0, |layer| layer as usize - 1);
    if skipped >= layers.max(1) {
        return Err(Failure::new(format!(
            "the text encoder has {layers} layers, and --clip-skip {} would leave none",
            skipped + 1
        ))
        .remedy("Most models want 1 or 2"));
    }
    Ok(skipped)
}
