//! HTTP/1.1 and Connect streams by hand: what the agent answers is looked at byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Nothing in these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Sends one request and reads the answer.
pub(crate) fn send(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut connection = open(address, method, target, headers, body);
    let (status, headers) = head(&mut connection);
    let is_chunked = headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let mut body = Vec::new();
    if is_chunked {
        while let Some(chunk) = chunk(&mut connection) {
            body.extend(chunk);
        }
    } else if status != 204 && status != 304 {
        connection.read_to_end(&mut body).unwrap();
    }
    Answer {
        status,
        headers,
        body,
    }
}

fn open(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> BufReader<TcpStream> {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    connection.write_all(head.as_bytes()).unwrap();
    // An agent that refuses does not wait for the whole body.
    let _ = connection.write_all(body);
    BufReader::new(connection)
}

fn head(connection: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let mut line = String::new();
    connection.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return (status, headers);
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn chunk(connection: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut line = String::new();
    connection.read_line(&mut line).unwrap();
    let length = usize::from_str_radix(line.trim(), 16).unwrap();
    let mut bytes = vec![0; length + 2];
    connection.read_exact(&mut bytes).unwrap();
    bytes.truncate(length);
    (length > 0).then_some(bytes)
}

/// Reads one answer with a stated length from a connection that stays open: status and text.
pub(crate) fn read(connection: &mut TcpStream) -> (u16, String) {
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(connection);
    let (status, headers) = head(&mut reader);
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.unwrap().1.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    (status, String::from_utf8(body).unwrap())
}

/// A Connect stream in JSON.
pub(crate) struct Stream {
    connection: BufReader<TcpStream>,
    buffer: Vec<u8>,
}

impl Stream {
    pub(crate) fn open(
        address: SocketAddr,
        target: &str,
        headers: &[(&str, &str)],
        messages: &[Value],
    ) -> Self {
        let mut body = Vec::new();
        for message in messages {
            let text = message.to_string();
            body.push(0);
            body.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            body.extend(text.as_bytes());
        }
        let mut all = vec![("Content-Type", "application/connect+json")];
        all.extend(headers);
        let mut connection = open(address, "POST", target, &all, &body);
        let (status, _) = head(&mut connection);
        assert_eq!(status, 200, "streams always begin with 200");
        Self {
            connection,
            buffer: Vec::new(),
        }
    }

    /// The next message; the error or `{}` of the last frame ends the stream.
    pub(crate) fn next(&mut self) -> Result<Value, Value> {
        loop {
            if let Some(header) = self.buffer.first_chunk::<5>() {
                let length = usize::try_from(u32::from_be_bytes([
                    header[1], header[2], header[3], header[4],
                ]))
                .unwrap();
                if self.buffer.len() >= 5 + length {
                    let flags = header[0];
                    let rest = self.buffer.split_off(5 + length);
                    let frame = std::mem::replace(&mut self.buffer, rest);
                    let value: Value = serde_json::from_slice(&frame[5..]).unwrap();
                    return if flags == 2 { Err(value) } else { Ok(value) };
                }
            }
            let chunk = chunk(&mut self.connection).expect("a frame more");
            self.buffer.extend(chunk);
        }
    }
}
