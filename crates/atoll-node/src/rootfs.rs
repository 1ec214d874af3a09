//! What a sandbox sees as its file system: the template's layers, and the few files a node adds.

use std::net::IpAddr;

use atoll_jail::spec::{GuestFile, Overlay};

use crate::image::{OverlayMount, RootFs};

/// The layers as a supervisor takes them.
pub(crate) fn overlays(root: &RootFs) -> Vec<Overlay> {
    let overlay = |mount: &OverlayMount| Overlay {
        mount_point: mount.mount_point.clone(),
        lower_dirs: mount.lower_dirs.clone(),
    };
    root.mounts.iter().map(overlay).collect()
}

/// The files that name the sandbox and its resolvers.
pub(crate) fn guest_files(hostname: &str, nameservers: &[IpAddr]) -> Vec<GuestFile> {
    let hosts = format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n"
    );
    let resolvers = nameservers
        .iter()
        .map(|address| format!("nameserver {address}\n"))
        .collect();
    [
        ("/etc/hosts", hosts),
        ("/etc/hostname", format!("{hostname}\n")),
        ("/etc/resolv.conf", resolvers),
    ]
    .into_iter()
    .map(|(path, content)| GuestFile {
        path: path.into(),
        content,
    })
    .collect()
}
