//! By which names programs call a model's layers.

use crate::checkpoint::first_layout::Blocks;

/// The names by which a file may call the layer `layer` of the network `network`.
pub fn of_layer(network: &str, layer: &str, blocks: &Blocks) -> Vec<String> {
    let flat = |prefix: &str, name: &str| format!("{prefix}{}", name.replace('.', "_"));
    let mut names = vec![format!("{network}.{layer}")];
    if network == "unet" {
        names.extend([
            layer.into(),
            format!("base_model.model.{layer}"),
            flat("lora_unet_", layer),
        ]);
        if let Some(first) = blocks.first(layer) {
            names.extend([flat("lora_unet_", &first), format!("diffusion_model.{first}")]);
        }
        return names;
    }
    let prefixes: &[&str] = match network {
        "text_encoder" => &["lora_te_", "lora_te1_"],
        "text_encoder_2" => &["lora_te2_"],
        _ => &[],
    };
    let inner = layer.strip_prefix("text_model.").unwrap_or(layer);
    let whole = format!("text_model.{inner}");
    names.push(format!("{network}.{whole}"));
    names.extend(prefixes.iter().flat_map(|prefix| [flat(prefix, layer), flat(prefix, &whole)]));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_encoders_have_a_letter_or_a_number() {
        let names =
            of_layer("text_encoder", "text_model.encoder.layers.0.mlp.fc1", &Blocks::default());
        assert!(names.contains(&"lora_te_text_model_encoder_layers_0_mlp_fc1".into()));
        assert!(names.contains(&"lora_te1_text_model_encoder_layers_0_mlp_fc1".into()));
        let names = of_layer("text_encoder_2", "encoder.layers.0.mlp.fc1", &Blocks::default());
        assert!(names.contains(&"lora_te2_text_model_encoder_layers_0_mlp_fc1".into()));
    }
}
