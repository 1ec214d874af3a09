//! Builds that are snapshots: the layers of another build, and the writable layer of one sandbox
//! that ran from it. A sandbox made from it starts with a copy of that.
//!
//! The layers are not copied, so the build they are of must stay as long as its snapshots do.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};

use atoll_core::id::{BuildId, TemplateId};
use serde::{Deserialize, Serialize};

use super::{
    Error, Layer, Metadata, Mount, TemplateStore, blocking, read_metadata, remove_dir,
    write_metadata,
};

/// The writable layer, inside the build's directory.
pub(super) const DISK_FILE: &str = "disk.img";

/// What a snapshot was taken of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    template: String,
    build: String,
}

/// A build, by its template and itself.
type BuildName<'a> = (&'a TemplateId, &'a BuildId);

impl TemplateStore {
    /// Makes a build of the layers of `of` and of the writable layer that `copy` writes to the file
    /// it is given. A build that is here already is left as it is.
    ///
    /// # Errors
    /// `None` if `of` is not here; else what `copy` or the machine refused. Nothing is left then.
    pub async fn snapshot<F, E>(
        &self,
        of: BuildName<'_>,
        (template, build): BuildName<'_>,
        copy: impl FnOnce(PathBuf) -> F,
    ) -> Result<(), SnapshotError<E>>
    where
        F: Future<Output = Result<(), E>>,
        E: std::error::Error + 'static,
    {
        if self.resolve(template, build).is_some() {
            return Ok(());
        }
        let dir = self.build_dir(of.0, of.1);
        let metadata = read_metadata(&dir).ok_or(SnapshotError::UnknownTemplate)?;
        let partial = self.partial("snapshot");
        let made = async {
            fs::create_dir(&partial).map_err(Error::io("make the directory", &partial))?;
            copy(partial.join(DISK_FILE))
                .await
                .map_err(SnapshotError::Copy)?;
            let metadata = derive(&dir, of, metadata);
            let described = partial.clone();
            blocking(move || write_metadata(&described, &metadata)).await?;
            self.place(&partial, template, build)?;
            Ok(())
        };
        let made = made.await;
        if made.is_err() {
            // The first error is the one to report; the next sweep finds what stays now.
            let _ = blocking(move || remove_dir(&partial)).await;
        }
        made
    }

    /// The snapshots that need the layers of this build.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn snapshots_of(
        &self,
        template: &TemplateId,
        build: &BuildId,
    ) -> Result<Vec<(TemplateId, BuildId)>, Error> {
        let mut found = self.list()?;
        found.retain(|(other, its_build)| {
            let metadata = read_metadata(&self.build_dir(other, its_build));
            metadata
                .and_then(|metadata| metadata.snapshot)
                .is_some_and(|of| of.template == template.as_str() && of.build == build.as_str())
        });
        Ok(found)
    }
}

/// Why no snapshot was made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError<E: std::error::Error + 'static> {
    /// The build it is to be of is not here.
    #[error("the template build is not on this machine")]
    UnknownTemplate,
    /// The writable layer was not copied.
    #[error("copy the disk")]
    Copy(#[source] E),
    /// The build was not made.
    #[error("make the build")]
    Build(#[from] Error),
}

/// The same mounts, with the layers where they lie. A snapshot of a snapshot is one of what that
/// was taken of: the whole writable layer was copied.
fn derive(dir: &Path, of: BuildName<'_>, metadata: Metadata) -> Metadata {
    let locate = |layer| match layer {
        Layer::Own(name) => Layer::Host(dir.join(name)),
        host @ Layer::Host(_) => host,
    };
    let mounts = metadata.mounts.into_iter().map(|mount| Mount {
        layers: mount.layers.into_iter().map(locate).collect(),
        ..mount
    });
    Metadata {
        mounts: mounts.collect(),
        snapshot: Some(metadata.snapshot.unwrap_or_else(|| Snapshot {
            template: of.0.to_string(),
            build: of.1.to_string(),
        })),
        ..metadata
    }
}
