//! Where the checkout is, and which files belong to it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::command::Tool;

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    // The manifest of this crate is one level below the root, wherever the checkout stands.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the manifest directory is below the root")
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || root().join("target"),
        |chosen| root().join(chosen), // An absolute path replaces the root.
    )
}

/// Every file git tracks or would add, relative to the root, in order; what is ignored is not
/// ours to judge.
pub(crate) fn files() -> Result<Vec<String>> {
    let listing = Tool::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .output()?;
    let mut files: Vec<String> = listing
        .split('\0')
        .filter(|path| !path.is_empty() && root().join(path).is_file())
        .map(ToOwned::to_owned)
        .collect();
    files.sort_unstable();
    files.dedup();
    Ok(files)
}
