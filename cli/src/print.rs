//! Standard output: text and tables, and a reader that goes away is no error.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use mote_host::error::{Failure, Result};

/// Writes bytes to standard output. Where nobody reads them any more (`mote inspect … | head`),
/// that is well, too.
///
/// # Errors
/// Where they cannot be written.
pub fn bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::file("write to", Path::new("standard output"), &error))
        }
        _ => Ok(()),
    }
}

/// Lines of columns: each as wide as its longest cell, the first flush left, the others right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            if column == 0 {
                line.push_str(&format!("{cell:<width$}"));
            } else {
                line.push_str(&format!("  {cell:>width$}"));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A time with the unit that suits it: `1.234 s`, `12.35 ms`, `45.6 µs`.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.3} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} µs", s * 1e6),
    }
}

/// A part of a whole: `61.3 %`.
pub fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_suits_them() {
        assert_eq!(seconds(12.3456), "12.346 s");
        assert_eq!(seconds(0.012345), "12.35 ms");
        assert_eq!(seconds(0.0000456), "45.6 µs");
        assert_eq!((seconds(0.0), percent(0.5)), ("0.0 µs".into(), "50.0 %".into()));
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["ä".to_string(), "1".into()], vec!["bcd".into(), "22".into()], vec![]];
        assert_eq!(table(&rows), "ä     1\nbcd  22\n\n");
    }
}
