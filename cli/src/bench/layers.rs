//! Where the time goes: the ops of a network in the order of its walk, each with its times.

use std::time::Duration;

use mote::ops::{Event, Op};
use serde_json::{Value, json};

use super::{gops, median};
use crate::print;
use mote_host::size;

/// An op at its place in a walk.
#[derive(Clone, Debug)]
pub struct Layer {
    op: Op,
    /// The path of the weight asked for last, without its network and its last segment.
    name: String,
    shape: Vec<usize>,
    multiply_adds: u64,
    weight_bytes: u64,
    seconds: Vec<f64>,
}

/// The ops of a walk.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    layers: Vec<Layer>,
    /// Which op of the walk ends next.
    next: usize,
}

/// Ops taken together: one, or all of a kind.
struct Sum {
    count: usize,
    multiply_adds: u64,
    weight_bytes: u64,
    seconds: f64,
}

impl Layers {
    /// A walk begins anew.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// An op has ended in the first walk, which is not timed.
    pub fn meet(&mut self, event: &Event<'_>) {
        self.layers.push(Layer {
            op: event.op,
            name: layer_of(event.weight).into(),
            shape: event.shape.as_slice().to_vec(),
            multiply_adds: event.cost.multiply_adds,
            weight_bytes: event.cost.weight_bytes,
            seconds: Vec::new(),
        });
    }

    /// An op has ended in a later walk.
    ///
    /// # Panics
    /// Where it is another than in the first walk: a walk depends on nothing but its sizes.
    pub fn time(&mut self, event: &Event<'_>, took: Duration) {
        let layer = self.layers.get_mut(self.next).filter(|layer| layer.op == event.op);
        let Some(layer) = layer else { unreachable!("every walk has the same ops") };
        layer.seconds.push(took.as_secs_f64());
        self.next += 1;
    }

    /// The sum of all medians: what shares are parts of.
    fn seconds(&self) -> f64 {
        self.layers.iter().map(|layer| median(&layer.seconds)).sum()
    }

    /// The ops of each kind together, the kind that takes longest first.
    fn kinds(&self) -> Vec<(Op, Sum)> {
        let mut kinds: Vec<(Op, Sum)> = Vec::new();
        for layer in &self.layers {
            let one = layer.sum();
            match kinds.iter_mut().find(|(op, _)| *op == layer.op) {
                None => kinds.push((layer.op, one)),
                Some((_, sum)) => {
                    sum.count += 1;
                    sum.multiply_adds += one.multiply_adds;
                    sum.weight_bytes += one.weight_bytes;
                    sum.seconds += one.seconds;
                }
            }
        }
        kinds.sort_by(|(_, a), (_, b)| b.seconds.total_cmp(&a.seconds));
        kinds
    }

    /// Two lists: `layers` in the order of the walk, and `kinds`.
    pub fn to_json(&self, peak: f64) -> [(&'static str, Value); 2] {
        let all = self.seconds();
        let layers = self.layers.iter().map(|layer| {
            let mut value = layer.sum().to_json(all, peak);
            value["op"] = layer.op.name().into();
            value["layer"] = layer.name.as_str().into();
            value["shape"] = layer.shape.as_slice().into();
            value
        });
        let kinds = self.kinds().into_iter().map(|(op, sum)| {
            let mut value = sum.to_json(all, peak);
            value["op"] = op.name().into();
            value["count"] = sum.count.into();
            value
        });
        [("layers", layers.collect()), ("kinds", kinds.collect())]
    }

    /// Two tables for people: the layers, and the kinds of ops.
    pub fn to_table(&self, peak: f64) -> String {
        let all = self.seconds();
        let row = |first: &[&str]| first.iter().map(|cell| cell.to_string()).collect::<Vec<_>>();
        let numbers = ["weights", "multiply-adds", "time", "share", "GOP/s", "of peak"];
        let mut rows = vec![row(&["layer", "op", "output"])];
        rows[0].extend(row(&numbers));
        for layer in &self.layers {
            let shape: Vec<_> = layer.shape.iter().map(usize::to_string).collect();
            let name = if layer.name.is_empty() { "-" } else { &layer.name };
            let mut cells = row(&[name, layer.op.name(), &shape.join("x")]);
            cells.extend(layer.sum().cells(all, peak));
            rows.push(cells);
        }
        let mut kinds = vec![row(&["op", "count"])];
        kinds[0].extend(row(&numbers));
        for (op, sum) in self.kinds() {
            let mut cells = row(&[op.name(), &sum.count.to_string()]);
            cells.extend(sum.cells(all, peak));
            kinds.push(cells);
        }
        format!("{}\n{}", print::table(&rows), print::table(&kinds))
    }
}

impl Layer {
    fn sum(&self) -> Sum {
        Sum {
            count: 1,
            multiply_adds: self.multiply_adds,
            weight_bytes: self.weight_bytes,
            seconds: median(&self.seconds),
        }
    }
}

impl Sum {
    fn gops(&self) -> f64 {
        gops(self.multiply_adds as f64, self.seconds)
    }

    /// The part of `all` seconds. Nothing is no part of nothing.
    fn share(&self, all: f64) -> f64 {
        if all > 0.0 { self.seconds / all } else { 0.0 }
    }

    fn to_json(&self, all: f64, peak: f64) -> Value {
        json!({
            "multiply_adds": self.multiply_adds,
            "weight_bytes": self.weight_bytes,
            "seconds": self.seconds,
            "share": self.share(all),
            "gops": self.gops(),
            "share_of_peak": self.gops() / peak,
        })
    }

    fn cells(&self, all: f64, peak: f64) -> [String; 6] {
        let is_product = self.multiply_adds > 0;
        let product = |text: String| if is_product { text } else { String::new() };
        [
            if self.weight_bytes > 0 { size::show(self.weight_bytes) } else { String::new() },
            product(size::show_count(self.multiply_adds)),
            print::seconds(self.seconds),
            print::percent(self.share(all)),
            product(format!("{:.1}", self.gops())),
            product(print::percent(self.gops() / peak)),
        ]
    }
}

/// `unet.conv_in.bias` is of the layer `conv_in`.
fn layer_of(weight: &str) -> &str {
    let path = weight.rsplit_once('.').map_or("", |(path, _)| path);
    path.split_once('.').map_or("", |(_, layer)| layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_names_its_layer() {
        for (weight, layer) in [
            ("unet.conv_in.bias", "conv_in"),
            ("vae.decoder.mid_block.resnets.0.conv1.weight", "decoder.mid_block.resnets.0.conv1"),
            ("unet.weight", ""),
            ("", ""),
        ] {
            assert_eq!(layer_of(weight), layer);
        }
    }

    #[test]
    fn kinds_are_sums_of_layers_and_shares_are_parts_of_one() {
        let layer = |op, multiply_adds, seconds: [f64; 3]| Layer {
            op,
            name: "a".into(),
            shape: vec![1, 2],
            multiply_adds,
            weight_bytes: 4,
            seconds: seconds.into(),
        };
        let layers = vec![
            layer(Op::Linear, 3_000_000_000, [9.0, 2.0, 1.0]),
            layer(Op::Copy, 0, [5.0, 5.0, 5.0]),
            layer(Op::Linear, 1_000_000_000, [1.0, 1.0, 0.0]),
        ];
        let layers = Layers { layers, next: 0 };
        let [(_, list), (_, kinds)] = layers.to_json(4.0);
        assert_eq!(list[0]["seconds"], 2.0);
        assert_eq!((&list[0]["share"], &list[0]["share_of_peak"]), (&json!(0.25), &json!(0.75)));
        assert_eq!((&kinds[0]["op"], &kinds[0]["count"]), (&json!("copy"), &json!(1)));
        assert_eq!((&kinds[1]["op"], &kinds[1]["count"]), (&json!("linear"), &json!(2)));
        assert_eq!(kinds[1]["multiply_adds"], 4_000_000_000_u64);
        assert_eq!(kinds[1]["gops"], 2.0 * 4.0 / 3.0);
        assert!(layers.to_table(4.0).contains("25.0 %"));
    }
}
