//! Which encoding of a file a client accepts (RFC 9110, 12.5.3).

/// How a file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
}

/// None of our encodings is accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no acceptable encoding found, supported: [gzip]")]
pub(crate) struct NotAcceptable;

struct Wish {
    name: String,
    quality: f32,
}

/// What an `Accept-Encoding` header allows.
pub(crate) struct Accepted {
    wishes: Vec<Wish>,
}

impl Accepted {
    pub(crate) fn parse(header: Option<&str>) -> Self {
        let mut wishes: Vec<Wish> = header
            .into_iter()
            .flat_map(|header| header.split(','))
            .map(wish)
            .collect();
        wishes.sort_by(|a, b| b.quality.total_cmp(&a.quality));
        Self { wishes }
    }

    /// Whether the file may be sent as it is.
    pub(crate) fn allows_identity(&self) -> bool {
        let quality = |name: &str| {
            self.wishes
                .iter()
                .find(|wish| wish.name == name)
                .map(|wish| wish.quality)
        };
        match (quality("identity"), quality("*")) {
            (Some(identity), _) => identity > 0.0,
            (None, Some(any)) => any > 0.0,
            (None, None) => true,
        }
    }

    /// The encoding that the client likes best.
    pub(crate) fn best(&self) -> Result<Encoding, NotAcceptable> {
        for wish in self.wishes.iter().filter(|wish| wish.quality > 0.0) {
            match wish.name.as_str() {
                "identity" => return Ok(Encoding::Identity),
                "gzip" => return Ok(Encoding::Gzip),
                "*" if self.allows_identity() => return Ok(Encoding::Identity),
                "*" => return Ok(Encoding::Gzip),
                _ => {}
            }
        }
        if self.allows_identity() {
            Ok(Encoding::Identity)
        } else {
            Err(NotAcceptable)
        }
    }
}

fn wish(text: &str) -> Wish {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    let quality = parts.find_map(|part| {
        part.strip_prefix("q=")
            .or_else(|| part.strip_prefix("Q="))?
            .parse()
            .ok()
    });
    Wish {
        name,
        quality: quality.unwrap_or(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_as_the_client_likes() {
        for (header, wanted) in [
            (None, Ok(Encoding::Identity)),
            (Some("gzip, deflate, br"), Ok(Encoding::Gzip)),
            (Some("GZIP;q=0.5, identity"), Ok(Encoding::Identity)),
            (Some("br"), Ok(Encoding::Identity)),
            (Some("*"), Ok(Encoding::Identity)),
            (Some("*, identity;q=0"), Ok(Encoding::Gzip)),
            (Some("br, identity;q=0"), Err(NotAcceptable)),
            (Some("gzip;q=0, *;q=0"), Err(NotAcceptable)),
        ] {
            assert_eq!(Accepted::parse(header).best(), wanted, "{header:?}");
        }
    }
}
