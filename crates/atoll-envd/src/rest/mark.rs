//! Files that tell programs in the sandbox where they are: `/run/e2b/.E2B_SANDBOX` and its like.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::settings::Values;

const DIRECTORY: &str = "/run/e2b";

/// Variables that also have a file.
const MARKED: [&str; 2] = ["E2B_SANDBOX_ID", "E2B_TEMPLATE_ID"];

/// Writes the file that is there from the start. Best effort: the root file system may be
/// read-only.
pub(crate) fn write_own() {
    let _ = fs::create_dir_all(DIRECTORY);
    write("E2B_SANDBOX", "true");
}

/// Writes the files of what `/init` told.
pub(crate) fn write_told(values: &Values) {
    for name in MARKED {
        if let Some(value) = values.variables.get(name) {
            write(name, value);
        }
    }
}

fn write(name: &str, value: &str) {
    let path = Path::new(DIRECTORY).join(format!(".{name}"));
    // A new file in place of the old one: a program of the sandbox may have put a link there.
    let _ = fs::remove_file(&path);
    let created = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path);
    if let Ok(mut file) = created {
        let _ = std::io::Write::write_all(&mut file, value.as_bytes());
        let _ = file.set_permissions(fs::Permissions::from_mode(0o444));
    }
}
