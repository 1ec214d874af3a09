//! Rules about files as such: how they are called and how big they may be.

use super::Finding;

/// Names that say nothing about what is inside, or split a module over two conventions.
const NAMELESS: [&str; 3] = ["mod.rs", "utils.rs", "common.rs"];

/// The largest file the repository takes. Every clone carries every version of it for ever; the
/// lock file, the largest honest text here, is well below.
const SIZE_MAX_BYTES: usize = 400 * 1024;

/// Files that must not be called what they are called.
pub(super) fn names(files: &[String]) -> Vec<Finding> {
    files
        .iter()
        .filter(|path| {
            let name = path.rsplit('/').next().unwrap_or(path);
            NAMELESS.contains(&name)
        })
        .map(|path| Finding::new("file-name", path, "name the file after what it holds"))
        .collect()
}

/// Whether a file is too large to be source.
pub(super) fn size(path: &str, bytes: usize) -> Option<Finding> {
    (bytes > SIZE_MAX_BYTES).then(|| {
        let message = format!("{bytes} bytes: more than {SIZE_MAX_BYTES} do not belong in git");
        Finding::new("blob", path, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameless_files_are_found_by_their_whole_name() {
        let files = [
            "crates/a/src/net/mod.rs",
            "src/utils.rs",
            "src/kutils.rs",
            "a/common.rs",
        ]
        .map(ToOwned::to_owned);
        let found: Vec<_> = names(&files)
            .into_iter()
            .map(|finding| finding.place)
            .collect();
        assert_eq!(
            found,
            ["crates/a/src/net/mod.rs", "src/utils.rs", "a/common.rs"]
        );
    }

    #[test]
    fn only_what_is_over_the_limit_is_a_blob() {
        assert_eq!(size("a", SIZE_MAX_BYTES), None);
        assert!(size("a", SIZE_MAX_BYTES + 1).is_some());
    }
}
