//! An untrusted configuration in JSON, read key by key.
//!
//! A [`Keys`] gives out each key once and remembers what is left. At the end every key that was not
//! asked for must be one that is known not to matter, or hold a value that switches nothing on: so
//! a key that matters is never passed over in silence, and the harmless keys of newer versions
//! load.

use std::path::{Path, PathBuf};

use mote::models::{MAX_LEVELS, PerLevel};
use serde_json::{Map, Value};

use crate::checkpoint::place::Place;
use crate::error::{Failure, Result};

/// The largest count or width that is believed, far above any published network's.
const MAX_COUNT: u64 = 1 << 24;

/// The longest piece of a value that an error repeats, in characters.
const MAX_SHOWN: usize = 60;

/// The keys of a JSON object, each to be taken once.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Keys {
    /// The keys of a file.
    ///
    /// # Errors
    /// Where there is no such file, or it holds no JSON object.
    pub fn read(file: impl Into<Place>) -> Result<Self> {
        let file = file.into();
        let read = file.json().map_err(|failure| match file.exists() {
            true => failure,
            false => failure.remedy("A part of the model is missing: fetch it, or all of it again"),
        });
        Self::new(file.path(), read?)
    }

    /// The keys of `value`, which came from the file at `path`.
    ///
    /// # Errors
    /// Where the value is no object.
    pub fn new(path: &Path, value: Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { path: path.into(), map }),
            other => Err(Failure::new(format!(
                "{} should hold an object with keys, and holds {}",
                path.display(),
                shown(&other)
            ))),
        }
    }

    /// The file the keys came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A failure about a key: ``unet/config.json: `key` is 3; what``.
    pub fn fail(&self, key: &str, value: &Value, what: impl std::fmt::Display) -> Failure {
        Failure::new(format!("{}: `{key}` is {}; {what}", self.path.display(), shown(value)))
    }

    /// The value of `key`, if it is there, which is left there.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    /// The value of `key`, if it is there.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key)
    }

    /// The value of `key`, if it is there and not null.
    pub fn take_some(&mut self, key: &str) -> Option<Value> {
        self.take(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is there and not null.
    pub fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Gives `key` another value.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.map.insert(key.into(), value.into());
    }

    /// Takes `key` if it is null; tells whether it was.
    pub fn take_null(&mut self, key: &str) -> bool {
        let is_null = self.map.get(key).is_some_and(Value::is_null);
        if is_null {
            self.map.remove(key);
        }
        is_null
    }

    /// Passes over the keys whose value is of a kind.
    pub fn drop_where(&mut self, kind: impl Fn(&Value) -> bool) {
        self.map.retain(|_, value| !kind(value));
    }

    /// A whole number of at least 0, or `default`.
    ///
    /// # Errors
    /// Where it is something else, or too large to be meant.
    pub fn count(&mut self, key: &str, default: usize) -> Result<usize> {
        self.take(key).map_or(Ok(default), |value| self.as_count(key, &value))
    }

    /// A whole number of at least 1, or `default`.
    ///
    /// # Errors
    /// Where it is something else, or too large to be meant.
    pub fn size(&mut self, key: &str, default: usize) -> Result<usize> {
        self.take(key).map_or(Ok(default), |value| self.as_size(key, &value))
    }

    /// A whole number of at least 1, or nothing where the key is null.
    ///
    /// # Errors
    /// Where it is something else, or too large to be meant.
    pub fn size_or_null(&mut self, key: &str, default: Option<usize>) -> Result<Option<usize>> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(value) => self.as_size(key, &value).map(Some),
        }
    }

    /// A finite number, or `default`.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn number(&mut self, key: &str, default: f64) -> Result<f64> {
        self.take(key).map_or(Ok(default), |value| self.as_number(key, &value))
    }

    /// A finite number as an f32, or `default`.
    ///
    /// # Errors
    /// Where it is something else, or too large for an f32.
    pub fn f32(&mut self, key: &str, default: f32) -> Result<f32> {
        self.take(key).map_or(Ok(default), |value| self.as_f32(key, &value))
    }

    /// A finite number, or nothing where the key is null or absent.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn number_or_null(&mut self, key: &str) -> Result<Option<f64>> {
        self.take_some(key).map(|value| self.as_number(key, &value)).transpose()
    }

    /// True or false, or `default`. Null is false, as it is to Python; so a part of published
    /// models is written.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn flag(&mut self, key: &str, default: bool) -> Result<bool> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            Some(value) => self.as_flag(key, &value),
        }
    }

    /// One of the words in `known`, or `default`.
    ///
    /// # Errors
    /// Where it is another.
    pub fn word<T: Copy>(&mut self, key: &str, default: T, known: &[(&str, T)]) -> Result<T> {
        self.take(key).map_or(Ok(default), |value| self.as_word(key, &value, known))
    }

    /// One of the words in `known`, or `default`, which stands in for null, too.
    ///
    /// # Errors
    /// Where it is another.
    pub fn word_or_null<T: Copy>(
        &mut self,
        key: &str,
        default: T,
        known: &[(&str, T)],
    ) -> Result<T> {
        self.take_null(key);
        self.word(key, default, known)
    }

    /// A list of texts that is not empty, or nothing where the key is absent.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let list = value.as_array().filter(|list| !list.is_empty());
        let texts = list.map(|list| list.iter().map(|text| Some(text.as_str()?.to_string())));
        let texts = texts.and_then(Iterator::collect);
        texts.map(Some).ok_or_else(|| self.fail(key, &value, "it should be a list of texts"))
    }

    /// Refuses any value but `supported`, which is also the default; null is false.
    ///
    /// # Errors
    /// Where it is another; the sentence says what is supported.
    pub fn only(&mut self, key: &str, supported: impl Into<Value>) -> Result<()> {
        let supported = supported.into();
        match self.take(key) {
            Some(Value::Null) if supported == Value::Bool(false) => Ok(()),
            Some(value) if !same(&value, &supported) => {
                let what = format!("mote supports only {} here", shown(&supported));
                Err(self.fail(key, &value, what))
            }
            _ => Ok(()),
        }
    }

    /// [`Keys::only`] where null stands for the default, too.
    ///
    /// # Errors
    /// As there.
    pub fn only_or_null(&mut self, key: &str, supported: impl Into<Value>) -> Result<()> {
        self.take_null(key);
        self.only(key, supported)
    }

    /// A list with one value per level, or `default`.
    ///
    /// # Errors
    /// Where it is no list, empty, too long, or one of its values is refused by `read`.
    pub fn list<T: Clone>(
        &mut self,
        key: &str,
        default: &[T],
        read: impl Fn(&Self, &str, &Value) -> Result<T>,
    ) -> Result<PerLevel<T>> {
        match self.take(key) {
            None => Ok(default.iter().cloned().collect()),
            Some(value) => self.as_list(key, &value, read),
        }
    }

    /// A value for all of `levels`, or a list with one value each.
    ///
    /// # Errors
    /// Where it is a list of another length, or a value is refused by `read`.
    pub fn per_level<T: Clone>(
        &mut self,
        key: &str,
        levels: usize,
        default: T,
        read: impl Fn(&Self, &str, &Value) -> Result<T>,
    ) -> Result<PerLevel<T>> {
        let one = match self.take(key) {
            None => default,
            Some(value @ Value::Array(_)) => {
                let list = self.as_list(key, &value, read)?;
                if list.len() != levels {
                    let what = format!("there are {levels} levels, and each needs one value");
                    return Err(self.fail(key, &value, what));
                }
                return Ok(list);
            }
            Some(value) => read(self, key, &value)?,
        };
        Ok(std::iter::repeat_n(one, levels.min(MAX_LEVELS)).collect())
    }

    /// Ends the reading: what is left must be bookkeeping (a name with an underscore before it), in
    /// `harmless`, or hold a value that switches nothing on.
    ///
    /// # Errors
    /// Where another key is left.
    pub fn finish(self, harmless: &[&str]) -> Result<()> {
        for (key, value) in &self.map {
            let off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                Value::String(text) => text.is_empty(),
                _ => false,
            };
            if !off && !key.starts_with('_') && !harmless.contains(&key.as_str()) {
                return Err(self.fail(key, value, "mote does not know this key").remedy(
                    "If the model works without it, take it out of the file or set it to null",
                ));
            }
        }
        Ok(())
    }

    /// `value` as a whole number of at least 0.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn as_count(&self, key: &str, value: &Value) -> Result<usize> {
        // Python does not mind 32.0 where 32 is meant.
        let whole = value.as_u64().or_else(|| {
            value.as_f64().filter(|v| v.fract() == 0.0 && *v >= 0.0 && *v < 9e15).map(|v| v as u64)
        });
        match whole {
            Some(whole) if whole <= MAX_COUNT => Ok(whole as usize),
            Some(_) => Err(self.fail(key, value, format!("at most {MAX_COUNT} is believed"))),
            None => Err(self.fail(key, value, "it should be a whole number that is not negative")),
        }
    }

    /// `value` as a whole number of at least 1.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn as_size(&self, key: &str, value: &Value) -> Result<usize> {
        match self.as_count(key, value)? {
            0 => Err(self.fail(key, value, "it should be at least 1")),
            count => Ok(count),
        }
    }

    /// `value` as a finite number.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn as_number(&self, key: &str, value: &Value) -> Result<f64> {
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(number),
            _ => Err(self.fail(key, value, "it should be a finite number")),
        }
    }

    /// `value` as a finite number that fits an f32.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn as_f32(&self, key: &str, value: &Value) -> Result<f32> {
        match self.as_number(key, value)? as f32 {
            number if number.is_finite() => Ok(number),
            _ => Err(self.fail(key, value, "this is too large for a 32-bit float")),
        }
    }

    /// `value` as true or false.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn as_flag(&self, key: &str, value: &Value) -> Result<bool> {
        value.as_bool().ok_or_else(|| self.fail(key, value, "it should be true or false"))
    }

    /// `value` as one of the words in `known`.
    ///
    /// # Errors
    /// Where it is another.
    pub fn as_word<T: Copy>(&self, key: &str, value: &Value, known: &[(&str, T)]) -> Result<T> {
        let found = known.iter().find(|(word, _)| value == *word);
        found.map(|&(_, meaning)| meaning).ok_or_else(|| {
            let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
            self.fail(key, value, format!("mote knows {}", words.join(", ")))
        })
    }

    fn as_list<T>(
        &self,
        key: &str,
        value: &Value,
        read: impl Fn(&Self, &str, &Value) -> Result<T>,
    ) -> Result<PerLevel<T>> {
        let Value::Array(values) = value else {
            return Err(self.fail(key, value, "it should be a list"));
        };
        if values.is_empty() || values.len() > MAX_LEVELS {
            let what = format!("it should be a list of 1 to {MAX_LEVELS} values");
            return Err(self.fail(key, value, what));
        }
        values.iter().map(|value| read(self, key, value)).collect()
    }
}

/// Whether two values are the same, numbers by their value: `1` is `1.0`.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// A value as an error repeats it: cut off where it is long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(value: Value) -> Keys {
        Keys::new(Path::new("config.json"), value).unwrap()
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for (value, says) in [
            (json!(-1), "not negative"),
            (json!(1.5), "whole number"),
            (json!("4"), "whole number"),
            (json!(null), "whole number"),
            (json!([4]), "whole number"),
            (json!(true), "whole number"),
            (json!(1e300), "whole number"),
            (json!(u64::MAX), "believed"),
            (json!(0), "at least 1"),
        ] {
            let said = keys(json!({ "width": value })).size("width", 1).unwrap_err().to_string();
            assert!(said.contains("`width`") && said.contains(says), "{said}");
        }
        assert_eq!(keys(json!({"w": 32.0})).size("w", 1), Ok(32));
        assert!(keys(json!({"x": 1e39})).f32("x", 0.0).is_err());
        assert!(keys(json!({"x": "NaN"})).number("x", 0.0).is_err());
        assert!(keys(json!({"x": 1})).flag("x", false).is_err());
        assert_eq!(keys(json!({"x": null})).flag("x", true), Ok(false));
        assert_eq!(keys(json!({"x": null})).only("x", false), Ok(()));
        assert!(keys(json!({"x": null})).only("x", true).is_err());
        assert_eq!(keys(json!({"x": null})).word_or_null("x", 7, &[("a", 0)]), Ok(7));
        assert!(keys(json!({"x": null})).word("x", 7, &[("a", 0)]).is_err());
        assert!(keys(json!({"x": "b"})).word("x", 0, &[("a", 0)]).is_err());
    }

    #[test]
    fn a_value_may_stand_for_all_levels() {
        let read = |value: Value| keys(json!({ "k": value })).per_level("k", 3, 0, Keys::as_size);
        assert_eq!(read(json!(4)).unwrap(), [4, 4, 4]);
        assert_eq!(read(json!([4, 5, 6])).unwrap(), [4, 5, 6]);
        assert!(read(json!([4, 5])).is_err() && read(json!([])).is_err());
        assert!(read(json!(vec![1; 9])).is_err() && read(json!([[1], [2], [3]])).is_err());
    }

    #[test]
    fn what_is_left_over_must_switch_nothing_on() {
        let off =
            json!({"a": null, "b": false, "c": [], "d": {}, "e": "", "_x": 1, "dropout": 0.1});
        assert_eq!(keys(off).finish(&["dropout"]), Ok(()));
        for on in [json!({"a": 0}), json!({"a": true}), json!({"a": "x"}), json!({"a": [0]})] {
            let said = keys(on).finish(&[]).unwrap_err().to_string();
            assert!(said.contains("`a`") && said.contains("config.json"), "{said}");
        }
    }

    #[test]
    fn long_values_are_cut_where_they_are_repeated() {
        let said = keys(json!({"a": "ä".repeat(500)})).finish(&[]).unwrap_err().to_string();
        assert!(said.chars().count() < 250, "{said}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for value in [json!([]), json!(1), json!(null)] {
            assert!(Keys::new(Path::new("x"), value).is_err());
        }
    }
}
