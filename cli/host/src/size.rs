//! Sizes in bytes, counts and times, as people write and read them: `300MiB`, `1.5 GiB`.

/// The units that are understood, largest first.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

/// Reads a size: a number, perhaps with a fraction, and a unit. `KiB`, `MiB` and `GiB` count in
/// powers of 1024, `kB`, `MB` and `GB` in powers of 1000; a number alone is bytes.
///
/// # Errors
/// A sentence for the user.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim());
    let scale = match unit {
        "" => 1,
        _ => UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|&(_, scale)| scale)
            .ok_or_else(|| {
                format!("`{unit}` is no unit of size: write B, KiB, MiB, GiB, kB, MB or GB")
            })?,
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(scale),
        Err(_) => match number.parse::<f64>() {
            // A fraction of a byte is cut off.
            Ok(value) if value * (scale as f64) < u64::MAX as f64 => {
                Some((value * scale as f64) as u64)
            }
            Ok(_) => None,
            Err(_) => return Err("a size is a number and a unit, such as 300MiB".into()),
        },
    };
    match bytes {
        None => Err("this is more bytes than a computer can count".into()),
        Some(0) => Err("a size of nothing leaves no room for anything".into()),
        Some(bytes) => Ok(bytes),
    }
}

/// Writes a size with one digit after the point: `96.0 MiB`.
pub fn show(bytes: u64) -> String {
    match unit(bytes) {
        Some((name, scale)) => format!("{:.1} {name}", bytes as f64 / scale as f64),
        None => format!("{bytes} B"),
    }
}

/// Writes what is needed, rounded up: as a limit, read again, it is enough.
pub fn show_needed(bytes: u64) -> String {
    tenths(bytes, |tenfold, scale| tenfold.div_ceil(scale))
}

/// Writes a limit, rounded down, so that it never looks like what is needed where it is less.
pub fn show_limit(bytes: u64) -> String {
    tenths(bytes, |tenfold, scale| tenfold / scale)
}

fn tenths(bytes: u64, round: impl Fn(u128, u128) -> u128) -> String {
    let Some((name, scale)) = unit(bytes) else { return format!("{bytes} B") };
    let tenths = round(u128::from(bytes) * 10, u128::from(scale));
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// The largest unit of powers of 1024 that a size is one of at least.
fn unit(bytes: u64) -> Option<(&'static str, u64)> {
    let mut binary = UNITS.iter().filter(|(name, _)| name.ends_with("iB"));
    binary.find(|(_, scale)| bytes >= *scale).copied()
}

/// Writes a large count with a decimal prefix: `859.5 M`.
pub fn show_count(count: u64) -> String {
    for (name, scale) in [("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)] {
        if count as f64 >= scale {
            return format!("{:.1} {name}", count as f64 / scale);
        }
    }
    count.to_string()
}

/// Writes a time: `21 s`, `3 min 5 s`, `2 h 14 min`.
pub fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_kinds_of_units() {
        assert_eq!(parse("300MiB"), Ok(300 << 20));
        assert_eq!(parse("1.5 GiB"), Ok(3 << 29));
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("2kB"), Ok(2000));
        assert_eq!(parse(" 7 mib "), Ok(7 << 20));
        assert_eq!(parse("18446744073709551615B"), Ok(u64::MAX));
    }

    #[test]
    fn what_is_no_size_is_refused_with_a_sentence() {
        for wrong in ["", "MiB", "3 parsecs", "1.2.3GiB", "-4MiB", "1e9", ".", "0", "0.1B", "NaN"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("18446744073709551616").unwrap_err().contains("more bytes"));
        assert!(parse("99999999999TiB").unwrap_err().contains("more bytes"));
        assert!(parse("3 parsecs").unwrap_err().contains("parsecs"));
    }

    #[test]
    fn what_is_needed_is_enough_when_it_is_read_again() {
        let mut bytes = 1u64;
        while bytes < 1 << 45 {
            for near in bytes.saturating_sub(60)..bytes + 60 {
                let near = near.max(1);
                assert!(parse(&show_needed(near)).unwrap() >= near, "{near}");
                assert!(parse(&show_limit(near)).unwrap() <= near, "{near}");
            }
            bytes += bytes / 3 + 1;
        }
        assert_eq!(show_needed(483_533), "472.3 KiB");
        assert_eq!(show_limit(483_533), "472.2 KiB");
        assert_eq!((show_needed(1024), show_limit(1024)), ("1.0 KiB".into(), "1.0 KiB".into()));
        assert_eq!(show_needed((1 << 20) - 1), "1024.0 KiB");
    }

    #[test]
    fn sizes_and_counts_are_written_with_one_digit() {
        assert_eq!(show(100_663_296), "96.0 MiB");
        assert_eq!(show(1023), "1023 B");
        assert_eq!(show(1 << 31), "2.0 GiB");
        assert_eq!(show_count(859_520_964), "859.5 M");
        assert_eq!(show_count(12), "12");
        assert_eq!((clock(21.4), clock(185.0)), ("21 s".into(), "3 min 5 s".into()));
        assert_eq!(clock(8040.0), "2 h 14 min");
    }
}
