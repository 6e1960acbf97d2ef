//! Whole networks: against diffusers and transformers, forwards and backwards, in the planned
//! memory, and what their configurations and the tokenizer take and refuse.

mod gradients;
mod network_configs;
mod network_memory;
mod networks;
mod taef2;
mod tokenizer;
