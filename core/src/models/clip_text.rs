//! `CLIPTextModel`: turns token ids into `encoder_hidden_states`.

/// The activation of the feed-forward layers (`hidden_act`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
    /// `x · Φ(x)`, by the error function.
    Gelu,
}

/// The configuration of a `CLIPTextModel`; the default is transformers'.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// Entries of the token table.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// The activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// The epsilon of each layer normalisation.
    pub layer_norm_eps: f32,
}
