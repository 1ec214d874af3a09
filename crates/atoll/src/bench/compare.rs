//! What other tools take for the same thing: a fresh container on the host's own `/usr`, one
//! command in it, gone. Tools that are not installed are left out.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::{fs, io};

use serde_json::json;
use tokio::process::Command;
use tokio::time::Instant;

/// Runs of each tool after one warm-up.
const RUNS: usize = 20;
/// Links a merged-/usr root file system has.
const LINKS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// One tool's times in milliseconds, or why there are none.
pub(super) struct Comparison {
    pub(super) tool: &'static str,
    pub(super) result: Result<Vec<f64>, String>,
}

/// Measures each tool in turn.
pub(super) async fn all(folder: &Path) -> Vec<Comparison> {
    if let Err(error) = prepare(folder) {
        let result = Err(format!("no root file system: {error}"));
        return vec![Comparison {
            tool: "bwrap",
            result,
        }];
    }
    let bundle = folder.display().to_string();
    let bwrap: Vec<&str> = "--unshare-all --ro-bind /usr /usr --symlink usr/bin /bin \
        --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev /bin/true"
        .split_whitespace()
        .collect();
    let runc = ["run", "--bundle", &bundle, "atoll-bench"];
    vec![
        Comparison {
            tool: "bwrap",
            result: time("bwrap", &bwrap).await,
        },
        Comparison {
            tool: "runc",
            result: time("runc", &runc).await,
        },
    ]
}

async fn time(program: &str, arguments: &[&str]) -> Result<Vec<f64>, String> {
    let mut times = Vec::with_capacity(RUNS);
    for run in 0..=RUNS {
        let begun = Instant::now();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let output = match command.output().await {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err("not installed".to_owned());
            }
            Err(error) => return Err(error.to_string()),
        };
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            return Err(reason.lines().last().unwrap_or("failed").to_owned());
        }
        if run > 0 {
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(times)
}

/// Makes an OCI bundle whose root file system is the host's `/usr`, as the template `base` has it.
fn prepare(folder: &Path) -> io::Result<()> {
    let root = folder.join("rootfs");
    for name in ["usr", "proc", "dev", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    for name in LINKS
        .into_iter()
        .filter(|name| Path::new("/usr").join(name).exists())
    {
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
    let config = json!({
        "ociVersion": "1.0.2",
        "process": { "cwd": "/", "args": ["/bin/true"], "env": ["PATH=/usr/bin"],
                     "user": { "uid": 0, "gid": 0 } },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            { "destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"] },
        ],
        "linux": { "namespaces": namespaces.map(|kind| json!({ "type": kind })) },
    });
    fs::write(folder.join("config.json"), config.to_string())
}
