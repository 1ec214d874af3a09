//! What the processor is and can do.

use std::collections::BTreeSet;
use std::fs;

use atoll_core::descriptor::{CPU_FEATURE_LEN_MAX, CPU_FEATURES_MAX};

/// The architecture, in Rust's words.
pub(crate) const ARCHITECTURE: &str = std::env::consts::ARCH;

/// The features that the kernel tells; none where it does not tell.
pub(crate) fn features() -> BTreeSet<String> {
    from_cpuinfo(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// The features that every processor has. Intel's and AMD's are `flags`, Arm's are `Features`.
fn from_cpuinfo(cpuinfo: &str) -> BTreeSet<String> {
    let lists = cpuinfo.lines().filter_map(|line| {
        let (name, list) = line.split_once(':')?;
        matches!(name.trim_end(), "flags" | "Features").then_some(list)
    });
    let is_usual = |name: &&str| name.len() <= CPU_FEATURE_LEN_MAX;
    let sets = lists.map(|list| list.split_whitespace().filter(is_usual).collect());
    let common = sets.reduce(|a: BTreeSet<&str>, b| a.intersection(&b).copied().collect());
    let common = common
        .unwrap_or_default()
        .into_iter()
        .take(CPU_FEATURES_MAX);
    common.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_of_every_processor() {
        let cpuinfo = "processor\t: 0\nflags\t\t: fpu avx2 sse2\nbugs\t: spectre\n\n\
                       processor\t: 1\nflags\t\t: fpu sse2 avx512f\n";
        let features: Vec<_> = from_cpuinfo(cpuinfo).into_iter().collect();
        assert_eq!(features, ["fpu", "sse2"]);
        assert_eq!(from_cpuinfo("Features : fp asimd\n").len(), 2);
        assert!(from_cpuinfo("").is_empty());
    }
}
