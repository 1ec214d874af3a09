//! Reads server-sent events: what of them our own streams use.

/// The longest message, in bytes: a sandbox's metadata fits in several times.
const MESSAGE_MAX: usize = 1024 * 1024;

/// One message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Where reading goes on behind it.
    pub(crate) id: Option<String>,
    pub(crate) event: String,
    pub(crate) data: String,
}

/// What has come of a stream and is no whole message yet.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    rest: Vec<u8>,
}

impl Reader {
    /// Takes the next piece; answers the messages that it completes.
    ///
    /// # Errors
    /// If a message is no text, or too long.
    pub(crate) fn push(&mut self, piece: &[u8]) -> anyhow::Result<Vec<Message>> {
        self.rest.extend_from_slice(piece);
        let mut messages = Vec::new();
        while let Some(end) = self.rest.windows(2).position(|pair| pair == b"\n\n") {
            let whole: Vec<u8> = self.rest.drain(..end + 2).collect();
            let message = parse(std::str::from_utf8(&whole)?);
            // Comments alone keep the connection alive.
            if !message.event.is_empty() {
                messages.push(message);
            }
        }
        anyhow::ensure!(
            self.rest.len() <= MESSAGE_MAX,
            "the server sends a message of more than {MESSAGE_MAX} bytes"
        );
        Ok(messages)
    }
}

fn parse(text: &str) -> Message {
    let mut message = Message::default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => message.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut message.event),
            "data" => message.data.push_str(value),
            _ => {}
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let text = ":\n\nid: 7\nevent: sandbox.running\ndata: {\"a\":\"b: c\"}\n\n:\n\n\
                    event: lagged\ndata: {}\n\n";
        for size in [1, 3, 1_000] {
            let mut reader = Reader::default();
            let messages: Vec<_> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|piece| reader.push(piece).unwrap())
                .collect();
            assert_eq!(messages.len(), 2, "{messages:?}");
            assert_eq!(messages[0].id.as_deref(), Some("7"));
            assert_eq!(messages[0].event, "sandbox.running");
            assert_eq!(messages[0].data, "{\"a\":\"b: c\"}");
            assert_eq!(
                (messages[1].id.as_ref(), &*messages[1].event),
                (None, "lagged")
            );
        }
    }

    #[test]
    fn a_message_has_a_limit() {
        let mut reader = Reader::default();
        let piece = vec![b'x'; MESSAGE_MAX + 1];
        assert!(reader.push(&piece).is_err());
    }
}
