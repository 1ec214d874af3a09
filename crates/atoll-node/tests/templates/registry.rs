//! Pulling from a registry on loopback, with a password, by way of mirrors.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_core::template::TemplateSource;
use atoll_node::image::registry::Registry;
use atoll_node::image::{Error, ImportConfig, RootFs, TemplateStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::image::Image;
use crate::world::{can_mount, ids, store};

/// `name:secret`, as a client sends it.
const CREDENTIALS: &str = "Basic bmFtZTpzZWNyZXQ=";

/// Serves the image as `demo/app:1` and returns `127.0.0.1:PORT`. The tasks end with the runtime.
async fn serve(image: Arc<Image>, needs_password: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    TaskTracker::new().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let image = Arc::clone(&image);
            TaskTracker::new().spawn(async move {
                let _ = answer(stream, &image, needs_password).await;
            });
        }
    });
    address
}

/// One request a connection.
async fn answer(mut stream: TcpStream, image: &Image, needs_password: bool) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8(request).unwrap();
    let target = request.split(' ').nth(1).unwrap_or_default();
    // Mirrors are told in the query whom they stand in for.
    let path = target.split('?').next().unwrap_or_default();
    let is_allowed = !needs_password || request.contains(CREDENTIALS);
    let last = path.rsplit('/').next().unwrap_or_default();
    let digest = if last == "1" {
        image.index.as_str()
    } else {
        last
    };
    let blob = image.blobs.get(digest);
    let (status, kind, body) = match blob {
        _ if !is_allowed => ("401 Unauthorized", "application/json", &b"{}"[..]),
        _ if path == "/v2/" => ("200 OK", "application/json", &b"{}"[..]),
        Some(blob) if path.starts_with("/v2/demo/app/") => {
            let kind = if digest == image.index {
                "application/vnd.oci.image.index.v1+json"
            } else {
                "application/vnd.oci.image.manifest.v1+json"
            };
            ("200 OK", kind, &blob[..])
        }
        _ => ("404 Not Found", "application/json", &b"{}"[..]),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         WWW-Authenticate: Basic realm=\"demo\"\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.shutdown().await
}

async fn pull(
    store: &TemplateStore,
    image: &str,
    registries: BTreeMap<String, Registry>,
) -> Result<RootFs, Error> {
    let store = store.clone().with_import(ImportConfig {
        registries,
        ..ImportConfig::default()
    });
    let (template, build) = ids();
    let source = TemplateSource::Image(image.to_owned());
    let log = Arc::new(|line: &str| println!("{line}"));
    store.build(&template, &build, &source, log).await?;
    Ok(store.resolve(&template, &build).unwrap())
}

fn plain() -> Registry {
    Registry {
        is_plain_http: true,
        ..Registry::default()
    }
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn an_image_is_pulled_with_a_password() {
    if !can_mount() {
        return;
    }
    block_on(async {
        let (dir, store) = store();
        let host = serve(Arc::new(Image::new()), true).await;
        let name = format!("{host}/demo/app:1");
        let anonymous = BTreeMap::from([(host.clone(), plain())]);
        let refused = pull(&store, &name, anonymous).await.unwrap_err();
        assert!(matches!(refused, Error::Pull { .. }), "{refused}");

        let known = Registry {
            login: Some(("name".to_owned(), "secret".to_owned().into())),
            ..plain()
        };
        let rootfs = pull(&store, &name, BTreeMap::from([(host, known)]))
            .await
            .unwrap();
        let root = &rootfs.mounts[0].lower_dirs[0];
        assert_eq!(
            std::fs::read_to_string(root.join("srv/new")).unwrap(),
            "new"
        );
        assert_eq!(rootfs.user.as_deref(), Some("node"));
        // The download itself is not kept.
        let kept = root.parent().unwrap();
        assert_eq!(crate::world::names(kept), ["root", "template.json"]);
        assert!(crate::world::names(&dir.path().join("templates/.partial")).is_empty());
    });
}

#[test]
fn mirrors_are_asked_first_and_may_fail() {
    if !can_mount() {
        return;
    }
    block_on(async {
        let (_dir, store) = store();
        let mirror = serve(Arc::new(Image::new()), false).await;
        // Nobody listens on the discard port of loopback, and the origin does not exist at all.
        let origin = Registry {
            mirrors: vec!["127.0.0.1:9".to_owned(), mirror.clone()],
            ..Registry::default()
        };
        let registries = BTreeMap::from([
            ("registry.invalid".to_owned(), origin),
            ("127.0.0.1:9".to_owned(), plain()),
            (mirror, plain()),
        ]);
        let rootfs = pull(&store, "registry.invalid/demo/app:1", registries)
            .await
            .unwrap();
        assert!(rootfs.mounts[0].lower_dirs[0].join("srv/kept").exists());
    });
}

#[test]
fn a_registry_that_sends_something_else_is_refused() {
    if !can_mount() {
        return;
    }
    block_on(async {
        let (_dir, store) = store();
        let mut image = Image::new();
        for bytes in image.blobs.values_mut() {
            if bytes.starts_with(b"srv/") {
                bytes.push(0);
            }
        }
        let host = serve(Arc::new(image), false).await;
        let registries = BTreeMap::from([(host.clone(), plain())]);
        let error = pull(&store, &format!("{host}/demo/app:1"), registries)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Pull { .. }), "{error}");
        let (template, build) = ids();
        assert_eq!(store.resolve(&template, &build), None);
        let error = pull(&store, "not a reference!", BTreeMap::new())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Pull { .. }), "{error}");
    });
}
