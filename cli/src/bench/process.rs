//! What the system says of this process and its CPU, where it says anything.

use std::fs;

/// Bytes of anonymous memory that are resident now: not the weights, which are mapped from files.
/// `None` where the system does not tell.
pub fn anonymous_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes = line.trim().strip_suffix("kB")?.trim_end();
    kibibytes.parse::<u64>().ok()?.checked_mul(1024)
}

/// What the CPU calls itself.
pub fn cpu_name() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim_end().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_that_is_touched_is_anonymous() {
        const LEN: usize = 64 << 20;
        let before = anonymous_bytes().unwrap();
        let block = vec![1u8; LEN];
        let after = anonymous_bytes().unwrap();
        assert!(block.iter().all(|&byte| byte == 1));
        // Other tests may give back some of theirs meanwhile.
        assert!(after >= before + LEN as u64 / 2, "{before} and {after}");
    }
}
