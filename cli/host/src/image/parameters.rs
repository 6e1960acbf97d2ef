//! How a picture was made, in the form that the web UIs write and read: the text chunk
//! `parameters`.
//!
//! ```text
//! a lighthouse at dusk
//! Negative prompt: blurry
//! Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x512, Version: mote 0.1.0
//! ```

use std::fmt;

/// The keyword of the text chunk.
pub const KEYWORD: &str = "parameters";

/// What the negative prompt's line begins with.
const NEGATIVE: &str = "Negative prompt: ";

/// What the line of settings begins with.
const STEPS: &str = "Steps: ";

/// How a picture was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// What the picture was to show.
    pub prompt: String,
    /// What it was not to show.
    pub negative_prompt: String,
    /// The settings by the web UIs' names, in their order: `Steps` first.
    pub settings: Vec<(String, String)>,
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.prompt.is_empty() {
            writeln!(f, "{}", self.prompt)?;
        }
        if !self.negative_prompt.is_empty() {
            writeln!(f, "{NEGATIVE}{}", self.negative_prompt)?;
        }
        for (i, (name, value)) in self.settings.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            if value.contains([',', ':', '"', '\n']) {
                write!(f, "{comma}{name}: {}", serde_json::Value::from(value.as_str()))?;
            } else {
                write!(f, "{comma}{name}: {value}")?;
            }
        }
        Ok(())
    }
}

impl Parameters {
    /// Reads what [`fmt::Display`] or a web UI has written. Text in another form becomes the
    /// prompt.
    pub fn parse(text: &str) -> Self {
        let mut lines: Vec<&str> = text.trim().lines().collect();
        let mut settings = Vec::new();
        if let Some(last) = lines.last().filter(|line| line.starts_with(STEPS)) {
            settings = parse_settings(last);
            lines.pop();
        }
        let negative = lines.iter().position(|line| line.starts_with(NEGATIVE.trim_end()));
        let negative_lines = lines.split_off(negative.unwrap_or(lines.len()));
        let negative_prompt = negative_lines.join("\n");
        let negative_prompt = negative_prompt.strip_prefix(NEGATIVE.trim_end()).unwrap_or_default();
        Self { prompt: lines.join("\n"), negative_prompt: negative_prompt.trim().into(), settings }
    }
}

/// `Steps: 20, Model: "a, b", Hashes: {"vae": "1"}, Seed: 1`: a value with commas in it is a text
/// in quotes, or an object or a list as extensions of the web UIs write them.
fn parse_settings(line: &str) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    let mut rest = line;
    while let Some((name, after)) = rest.split_once(':') {
        let after = after.trim_start();
        let mut quoted = serde_json::Deserializer::from_str(after).into_iter::<serde_json::Value>();
        let value = match quoted.next() {
            Some(Ok(serde_json::Value::String(value))) if after.starts_with('"') => {
                rest = after[quoted.byte_offset()..].trim_start_matches([',', ' ']);
                value
            }
            Some(Ok(_)) if after.starts_with(['{', '[']) => {
                let (value, others) = after.split_at(quoted.byte_offset());
                rest = others.trim_start_matches([',', ' ']);
                value.into()
            }
            _ => {
                let (value, others) = after.split_once(',').unwrap_or((after, ""));
                rest = others.trim_start();
                value.trim().into()
            }
        };
        settings.push((name.trim().into(), value));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (prompt, negative) in [
            ("a lighthouse at dusk", "blurry, ugly"),
            ("", ""),
            ("two\nlines: of, text", ""),
            ("", "only this"),
            ("ein Häuschen 🏠", "zwei\nZeilen"),
        ] {
            let written = Parameters {
                prompt: prompt.into(),
                negative_prompt: negative.into(),
                settings: settings(&[
                    ("Steps", "20"),
                    ("Sampler", "DPM++ 2M"),
                    ("Model", "a, \"b\": c\n"),
                    ("Size", "512x768"),
                ]),
            };
            assert_eq!(Parameters::parse(&written.to_string()), written);
        }
    }

    #[test]
    fn the_form_is_the_web_uis() {
        let parameters = Parameters {
            prompt: "a cat".into(),
            negative_prompt: "a dog".into(),
            settings: settings(&[("Steps", "20"), ("Sampler", "Euler a"), ("Seed", "42")]),
        };
        let text = "a cat\nNegative prompt: a dog\nSteps: 20, Sampler: Euler a, Seed: 42";
        assert_eq!(parameters.to_string(), text);
    }

    #[test]
    fn objects_and_lists_among_the_settings_are_values_of_their_own() {
        let line = r#"Steps: 20, Hashes: {"vae": "a,b", "model": {"x": [1, 2]}}, Lora hashes: "a: 1, b: 2", Civitai resources: [{"type":"checkpoint","weight":0.8}], Broken: {"a": 1, Version: v1.6.0"#;
        let parsed = Parameters::parse(line);
        let expected = settings(&[
            ("Steps", "20"),
            ("Hashes", r#"{"vae": "a,b", "model": {"x": [1, 2]}}"#),
            ("Lora hashes", "a: 1, b: 2"),
            ("Civitai resources", r#"[{"type":"checkpoint","weight":0.8}]"#),
            ("Broken", r#"{"a": 1"#),
            ("Version", "v1.6.0"),
        ]);
        assert_eq!(parsed.settings, expected);
    }

    #[test]
    fn text_in_another_form_is_a_prompt() {
        for text in ["", "hello", "Steps are steep", "{\"json\": true}"] {
            let parsed = Parameters::parse(text);
            assert_eq!((parsed.prompt.as_str(), parsed.settings.len()), (text, 0));
        }
        let odd = Parameters::parse("Steps: , : ,,\"\": \"unclosed, x");
        assert!(odd.prompt.is_empty());
    }
}
