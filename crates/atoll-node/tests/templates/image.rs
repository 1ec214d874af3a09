//! A small image made by hand: two layers on top of which nothing has to be downloaded.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Blobs by digest, and the digest of the index.
pub(crate) struct Image {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) index: String,
}

impl Image {
    /// Two layers: files and their removal. The configuration sets PATH and a working directory.
    pub(crate) fn new() -> Self {
        let mut image = Self {
            blobs: BTreeMap::new(),
            index: String::new(),
        };
        let lower = [
            (
                "etc/passwd",
                "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n",
            ),
            ("etc/group", "root:x:0:\nnode:x:1000:\n"),
            ("srv/old", "old"),
            ("srv/kept", "kept"),
        ];
        let upper = [("srv/.wh.old", ""), ("srv/new", "new")];
        let mut layers = Vec::new();
        for (files, is_gzip) in [(&lower[..], true), (&upper[..], false)] {
            let mut bytes = archive(files);
            if is_gzip {
                let mut gzip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(&bytes).unwrap();
                bytes = gzip.finish().unwrap();
            }
            let size = bytes.len();
            let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
            let digest = image.add(bytes);
            layers.push(format!(
                "{{\"mediaType\":\"{kind}\",\"digest\":\"{digest}\",\"size\":{size}}}"
            ));
        }
        let config = "{\"config\":{\"Env\":[\"PATH=/usr/bin:/bin\",\"A=b=c\"],\
                      \"WorkingDir\":\"/srv\",\"User\":\"node\"}}";
        let size = config.len();
        let config = image.add(config.as_bytes().to_vec());
        let manifest = format!(
            "{{\"schemaVersion\":2,\"config\":{{\"digest\":\"{config}\",\"size\":{size}}},\
             \"layers\":[{}]}}",
            layers.join(",")
        );
        let manifest = image.add(manifest.into_bytes());
        let own = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let index = format!(
            "{{\"schemaVersion\":2,\"manifests\":[\
             {{\"digest\":\"sha256:{0}\",\
              \"platform\":{{\"architecture\":\"z80\",\"os\":\"linux\"}}}},\
             {{\"digest\":\"{manifest}\",\
              \"platform\":{{\"architecture\":\"{own}\",\"os\":\"linux\"}}}}]}}",
            "0".repeat(64)
        );
        image.index = image.add(index.into_bytes());
        image
    }

    pub(crate) fn add(&mut self, bytes: Vec<u8>) -> String {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        self.blobs.insert(digest.clone(), bytes);
        digest
    }

    /// Writes it as an image layout directory.
    pub(crate) fn write_layout(&self, dir: &Path) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for (digest, bytes) in &self.blobs {
            std::fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), bytes).unwrap();
        }
        std::fs::write(dir.join("index.json"), &self.blobs[&self.index]).unwrap();
    }
}

/// A tar archive of files.
pub(crate) fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        builder
            .append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}
